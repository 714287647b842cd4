//! Bootstrap tokens, `id.secret`, kept in Secrets of type `bootstrap.kubernetes.io/token` in `kube-system`: what a new
//! node joins with.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kybern_apimachinery::time::Clock;
use kybern_apimachinery::{Value, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::UserInfo;
use kybern_apiserver::connect::ObjectsSlot;

use super::{TokenAuthenticator, TokenUser, bearer};
use crate::AUTHENTICATED;

pub struct BootstrapTokens {
    objects: ObjectsSlot,
    clock: Arc<dyn Clock>,
}

impl BootstrapTokens {
    pub fn new(objects: ObjectsSlot, clock: Arc<dyn Clock>) -> Self {
        Self { objects, clock }
    }
}

/// Id and secret of what has a bootstrap token's form.
fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let word =
        |text: &str, length| text.len() == length && text.bytes().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase());
    (word(id, 6) && word(secret, 16)).then_some((id, secret))
}

/// What a token may be in: `system:bootstrappers:` and more.
fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let letter = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase();
    rest.len() <= 256
        && rest.bytes().all(|b| letter(b) || matches!(b, b':' | b'-'))
        && rest.bytes().last().is_some_and(letter)
}

/// The user of a token whose Secret is given; `None` when the Secret does not allow it.
fn judge(secret: &Value, id: &str, given: &str, now: jiff::Timestamp) -> Option<UserInfo> {
    let data = |key: &str| {
        let encoded = object::str_at(secret, &["data", key]);
        STANDARD.decode(encoded).ok().and_then(|b| String::from_utf8(b).ok()).unwrap_or_default()
    };
    let expired = match data("expiration").as_str() {
        "" => false,
        text => kybern_apimachinery::time::parse_rfc3339(text).is_none_or(|end| end <= now),
    };
    let good = object::str_at(secret, &["type"]) == "bootstrap.kubernetes.io/token"
        && !object::is_deleting(secret)
        && data("token-id") == id
        && bearer::same(&data("token-secret"), given)
        && !expired
        && data("usage-bootstrap-authentication") == "true";
    if !good {
        return None;
    }
    let extra = data("auth-extra-groups");
    let extra: Vec<&str> = extra.split(',').filter(|_| !extra.is_empty()).collect();
    if !extra.iter().all(|group| is_group(group)) {
        return None;
    }
    let mut groups: Vec<String> = extra.into_iter().chain(["system:bootstrappers"]).map(str::to_owned).collect();
    groups.sort_unstable();
    groups.dedup();
    groups.push(AUTHENTICATED.to_owned());
    Some(UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() })
}

impl TokenAuthenticator for BootstrapTokens {
    fn authenticate_token<'a>(
        &'a self,
        token: &'a str,
        _: &'a [String],
    ) -> BoxFuture<'a, Result<Option<TokenUser>, String>> {
        Box::pin(async move {
            let Some((id, given)) = split(token) else { return Ok(None) };
            let name = format!("bootstrap-token-{id}");
            let objects = self.objects.get().map_err(|e| e.to_string())?;
            let secret = objects.get("", "secrets", "kube-system", &name).await;
            let user = secret.ok().and_then(|s| judge(&s, id, given, self.clock.now()));
            Ok(user.map(|user| TokenUser { user, audiences: None, notes: Vec::new() }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn the_secret_decides() {
        let now = "2026-11-20T00:00:00Z".parse().unwrap();
        let secret = |changes: &[(&str, &str)]| {
            let mut data = serde_json::Map::new();
            let base = [
                ("token-id", "abcdef"),
                ("token-secret", "0123456789abcdef"),
                ("usage-bootstrap-authentication", "true"),
            ];
            for (key, value) in base.iter().chain(changes) {
                data.insert((*key).to_owned(), STANDARD.encode(value).into());
            }
            json!({"type": "bootstrap.kubernetes.io/token", "data": data})
        };
        let (id, given) = split("abcdef.0123456789abcdef").unwrap();
        let in_groups = |groups: &str| judge(&secret(&[("auth-extra-groups", groups)]), id, given, now);
        let user = in_groups("system:bootstrappers:x").unwrap();
        assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:x", "system:authenticated"]);
        for bad in ["system:masters", "system:bootstrappers:x,evil", "system:bootstrappers:X", "system:bootstrappers:"]
        {
            assert!(in_groups(bad).is_none(), "{bad}");
        }
        assert!(judge(&secret(&[("expiration", "2026-11-19T00:00:00Z")]), id, given, now).is_none());
        assert!(judge(&secret(&[("usage-bootstrap-authentication", "false")]), id, given, now).is_none());
        assert!(judge(&secret(&[]), id, "0123456789abcdeX", now).is_none());
        assert!(split("abc.def").is_none());
    }
}
