//! `serviceaccounts/token`: issues tokens bound to the life of a pod, secret or node.

use std::sync::Arc;

use http::Response;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::time::{Clock, to_rfc3339};
use kybern_apimachinery::{ApiError, GroupKind, GroupResource, Value, json, object};
use kybern_apiserver::connect::{ConnectRequest, Connector, Objects};
use kybern_apiserver::{Body, BoxFuture};
use kybern_auth::token::{BoundObject, Issuer, TokenSpec};
use kybern_component_base::uuid;

use super::exchange::{created, read_object};
use crate::tree::{int, list, text};

pub(super) struct TokenRequest {
    pub(super) issuer: Arc<Issuer>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: TokenLimits,
}

const GROUP: &str = "authentication.k8s.io";
/// What the token volume of every pod asks for.
const POD_TOKEN_SECONDS: i64 = 3607;
/// How long such a token really lives, as upstream's: a year.
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

impl Connector for TokenRequest {
    fn connect<'a>(
        &'a self,
        server: &'a dyn Objects,
        request: ConnectRequest,
    ) -> BoxFuture<'a, Result<Response<Body>, ApiError>> {
        Box::pin(async move {
            let mut wanted = read_object(request.request).await?;
            let (namespace, name) = (request.namespace.as_str(), request.name.as_str());
            for (field, own) in [("name", name), ("namespace", namespace)] {
                let given = object::str_at(&wanted, &["metadata", field]);
                if !given.is_empty() && given != own {
                    let detail = format!("must match the service account {field} if specified");
                    let error = FieldError::invalid(&FieldPath::new("metadata").child(field), given, detail);
                    return Err(ApiError::invalid(&GroupKind::new(GROUP, "TokenRequest"), name, &[error]));
                }
            }
            let account = server.get("", "serviceaccounts", namespace, name).await?;
            let uid = object::uid(&account).to_owned();
            let given = object::uid(&wanted);
            if !given.is_empty() && given != uid {
                let cause = format!(
                    "the UID in the token request ({given}) does not match the UID of the service account ({uid})"
                );
                return Err(ApiError::conflict(&GroupResource::new(GROUP, "TokenRequest"), name, &cause));
            }
            let seconds = seconds(&wanted)?;
            let (bound, node) = bound(server, namespace, name, &wanted["spec"]["boundObjectRef"]).await?;
            let (granted, lived) =
                self.limits.granted(seconds, bound.as_ref(), &wanted["spec"], self.issuer.audiences());
            let given = list(&wanted["spec"], "audiences").iter().filter_map(Value::as_str).map(str::to_owned);
            let audiences: Vec<String> = given.collect();
            let audiences = if audiences.is_empty() { self.issuer.audiences().to_vec() } else { audiences };
            let spec = TokenSpec {
                namespace,
                service_account: name,
                service_account_uid: &uid,
                bound,
                node,
                audiences: audiences.clone(),
                seconds: lived,
                warn_after: (lived != granted).then_some(granted),
            };
            let now = self.clock.now();
            let id = uuid::v4();
            let token = self.issuer.issue(&spec, &id, now).await;
            let token = token.map_err(|cause| ApiError::internal(format!("failed to generate token: {cause}")))?;
            request.audit.annotate("authentication.kubernetes.io/issued-credential-id", &format!("JTI={id}"));
            // Labels and annotations come back as they were sent.
            for (field, value) in
                [("name", name), ("namespace", namespace), ("uid", &uid), ("creationTimestamp", &to_rfc3339(now))]
            {
                object::set(&mut wanted, &["metadata", field], value);
            }
            wanted["spec"]["audiences"] = json!(audiences);
            wanted["spec"]["expirationSeconds"] = granted.into();
            let end = now + jiff::SignedDuration::from_secs(granted);
            wanted["status"] = json!({"token": token, "expirationTimestamp": to_rfc3339(end)});
            if granted != seconds {
                let text = format!("requested expiration of {seconds} seconds shortened to {granted} seconds");
                request.warnings.add(text);
            }
            Ok(created(&wanted))
        })
    }
}

/// `--service-account-max-token-expiration` and `--service-account-extend-token-expiration`.
#[derive(Clone, Copy, Debug)]
pub struct TokenLimits {
    /// The longest life that a client gets; `None`: whatever it asks for.
    pub max_seconds: Option<i64>,
    /// Whether the tokens that pods find in their volumes live on for a year, and old ones are told from fresh ones by a
    /// claim. Clients that never read the file again depend on it.
    pub extend: bool,
}

impl Default for TokenLimits {
    fn default() -> Self {
        Self { max_seconds: None, extend: true }
    }
}

impl TokenLimits {
    /// The life that is told to the client, and the one that the token has.
    fn granted(&self, asked: i64, bound: Option<&BoundObject>, spec: &Value, own: &[String]) -> (i64, i64) {
        let granted = self.max_seconds.map_or(asked, |max| asked.min(max));
        let own = |audience: &Value| own.iter().any(|a| audience == a.as_str());
        let extends = self.extend
            && granted == POD_TOKEN_SECONDS
            && bound.is_some_and(|b| b.kind == "Pod")
            && list(spec, "audiences").iter().all(own);
        // The limit of what a client may ask for is one of what it gets this way, too.
        let extended = self.max_seconds.map_or(EXTENDED_SECONDS, |max| max.min(EXTENDED_SECONDS));
        (granted, if extends { extended } else { granted })
    }
}

fn seconds(request: &Value) -> Result<i64, ApiError> {
    let seconds = int(&request["spec"], "expirationSeconds").unwrap_or(3600);
    let detail = match seconds {
        ..600 => "may not specify a duration less than 10 minutes",
        600..=4_294_967_296 => return Ok(seconds),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let error = FieldError::invalid(&FieldPath::new("spec.expirationSeconds"), seconds, detail);
    Err(ApiError::invalid(&GroupKind::new(GROUP, "TokenRequest"), "", &[error]))
}

type Bound = (Option<BoundObject>, Option<(String, String)>);

/// The object that bounds the token, which must live now and be the account's own.
async fn bound(server: &dyn Objects, namespace: &str, account: &str, reference: &Value) -> Result<Bound, ApiError> {
    if !reference.is_object() {
        return Ok((None, None));
    }
    let (kind, name) = (text(reference, "kind"), text(reference, "name"));
    let (group, version) = text(reference, "apiVersion").split_once('/').unwrap_or(("", text(reference, "apiVersion")));
    let (resource, scope) = match (group, kind) {
        ("", "Pod") => ("pods", namespace),
        ("", "Secret") => ("secrets", namespace),
        ("", "Node") => ("nodes", ""),
        _ => {
            let text = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(ApiError::bad_request(text));
        }
    };
    let found = server.get("", resource, scope, name).await?;
    let mut node = None;
    if kind == "Pod" {
        let own = object::str_at(&found, &["spec", "serviceAccountName"]);
        if own != account {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
            )));
        }
        let host = object::str_at(&found, &["spec", "nodeName"]);
        if !host.is_empty() {
            // Without its uid where the node is not there: the name alone still tells where the pod is.
            let uid = match server.get("", "nodes", "", host).await {
                Ok(node) => object::uid(&node).to_owned(),
                Err(error) if error.code() == 404 => String::new(),
                Err(error) => return Err(error),
            };
            node = Some((host.to_owned(), uid));
        }
    }
    let uid = text(reference, "uid");
    if !uid.is_empty() && uid != object::uid(&found) {
        let cause = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict(&GroupResource::new("", kind), name, &cause));
    }
    let bound = BoundObject { kind: kind.to_owned(), name: name.to_owned(), uid: object::uid(&found).to_owned() };
    Ok((Some(bound), node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_bounds() {
        let check = |spec: Value| seconds(&json!({"spec": spec})).map_err(|e| e.message().to_owned());
        assert_eq!(check(json!({})), Ok(3600));
        assert!(check(json!({"expirationSeconds": 10})).unwrap_err().contains("less than 10 minutes"));
        assert!(check(json!({"expirationSeconds": 4_294_967_297i64})).is_err());
    }

    #[test]
    fn no_token_outlives_its_limit() {
        let own = ["https://issuer".to_owned()];
        let pod = BoundObject { kind: "Pod".to_owned(), name: "p".to_owned(), uid: "u".to_owned() };
        let check = |max_seconds, extend, asked, bound, spec: Value| {
            TokenLimits { max_seconds, extend }.granted(asked, bound, &spec, &own)
        };
        assert_eq!(check(None, true, 7200, Some(&pod), json!({})), (7200, 7200));
        assert_eq!(check(None, true, 3607, Some(&pod), json!({})), (3607, EXTENDED_SECONDS));
        assert_eq!(check(None, true, 3607, None, json!({})), (3607, 3607), "bound to nothing");
        assert_eq!(check(None, true, 3607, Some(&pod), json!({"audiences": ["vault"]})), (3607, 3607), "for another");
        assert_eq!(check(None, false, 3607, Some(&pod), json!({})), (3607, 3607));
        assert_eq!(check(Some(3600), true, 1 << 32, Some(&pod), json!({})), (3600, 3600));
        assert_eq!(check(Some(7200), true, 3607, Some(&pod), json!({})), (3607, 7200));
    }
}
