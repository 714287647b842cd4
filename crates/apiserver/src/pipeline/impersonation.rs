//! As whom the request is made.

use http::{HeaderMap, StatusCode};
use kybern_apimachinery::{ApiError, GroupResource, percent};

use super::{Context, Next, Outcome};
use crate::access::{Attributes, UserInfo};
use crate::authorization::{self, Refusal};
use crate::server::Server;
use crate::{BoxFuture, body};

pub(super) fn stage(mut context: Box<Context>, next: Next) -> BoxFuture<'static, Outcome> {
    let names = headers(context.request.headers());
    if names.is_empty() {
        return next.run(context);
    }
    Box::pin(async move {
        match impersonate(&context.server, &context.user, context.request.headers_mut(), &names).await? {
            Some(target) => {
                context.audit.impersonated(&target);
                context.user = target;
                next.run(context).await
            }
            // Upstream's is no `Status` either.
            None => Ok(body::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!(
                    "Internal Server Error: {:?}: requested {names:?} without impersonating a user: set the header \
                     Impersonate-User as well\n",
                    context.request.uri().path()
                ),
            )),
        }
    })
}

fn headers(headers: &HeaderMap) -> Vec<String> {
    headers
        .keys()
        .map(|name| name.as_str())
        .filter(|name| name.starts_with("impersonate-"))
        .map(str::to_owned)
        .collect()
}

/// Go's rule: a key that is not properly escaped is taken as it is.
fn unescaped(key: &str) -> String {
    percent::decode_strict(key).unwrap_or_else(|| key.to_owned())
}

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The user that the `Impersonate-*` headers name, if the sender may speak for all of it; `None` if they name
/// none. Takes the headers away.
async fn impersonate(
    server: &Server,
    user: &UserInfo,
    headers: &mut HeaderMap,
    names: &[String],
) -> Result<Option<UserInfo>, ApiError> {
    let values = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
    };
    let name = values(USER).into_iter().next().unwrap_or_default();
    if name.is_empty() {
        return Ok(None);
    }
    let mut target = UserInfo { groups: values(GROUP), uid: values(UID).join(""), name, ..UserInfo::default() };
    for header in names.iter().filter(|n| n.starts_with(EXTRA)) {
        let key = unescaped(&header[EXTRA.len()..]);
        target.extra.insert(key, values(header));
    }
    let mut asked = vec![match target.name.strip_prefix("system:serviceaccount:").and_then(|n| n.split_once(':')) {
        Some((namespace, name)) => ("", "serviceaccounts", "", namespace, name),
        None => ("", "users", "", "", target.name.as_str()),
    }];
    asked.extend(target.groups.iter().map(|g| ("", "groups", "", "", g.as_str())));
    if !target.uid.is_empty() {
        asked.push(("authentication.k8s.io", "uids", "", "", &target.uid));
    }
    for (key, values) in &target.extra {
        asked.extend(values.iter().map(|v| ("authentication.k8s.io", "userextras", key.as_str(), "", v.as_str())));
    }
    for (group, resource, subresource, namespace, name) in asked {
        let attributes = Attributes {
            user: user.clone(),
            verb: "impersonate".to_owned(),
            resource_request: true,
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        // Upstream forbids where it cannot tell, too.
        if let Err(Refusal::Forbidden(reason) | Refusal::Failed(reason)) =
            authorization::authorize(server, &attributes).await
        {
            let text = attributes.refusal(&reason);
            return Err(ApiError::forbidden(&GroupResource::new(group, resource), name, &text));
        }
    }
    if let Some((namespace, _)) = target.name.strip_prefix("system:serviceaccount:").and_then(|n| n.split_once(':'))
        && target.groups.is_empty()
    {
        target.groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    }
    let group = if target.name == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" };
    if !target.in_group(group) {
        target.groups.push(group.to_owned());
    }
    for name in names {
        headers.remove(name);
    }
    Ok(Some(target))
}
