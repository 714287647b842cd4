//! `serviceaccounts/token`: issues tokens bound to the life of a pod, secret or node.

use std::sync::Arc;

use http::Response;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::time::{Clock, to_rfc3339};
use kybern_apimachinery::{ApiError, GroupKind, GroupResource, Value, json, object};
use kybern_apiserver::connect::{ConnectRequest, Connector, Objects};
use kybern_apiserver::{Body, BoxFuture};
use kybern_auth::token::{BoundObject, Issuer, TokenSpec};

use super::exchange::{created, read_object};
use crate::tree::{int, list, text};

pub(super) struct TokenRequest {
    pub(super) issuer: Arc<Issuer>,
    pub(super) clock: Arc<dyn Clock>,
}

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
                    let text = format!("{field} in URL does not match {field} in TokenRequest object");
                    return Err(ApiError::bad_request(text));
                }
            }
            let account = server.get("", "serviceaccounts", namespace, name).await?;
            let seconds = seconds(&wanted)?;
            let (bound, node) = bound(server, namespace, name, &wanted["spec"]["boundObjectRef"]).await?;
            let given = list(&wanted["spec"], "audiences").iter().filter_map(Value::as_str).map(str::to_owned);
            let audiences: Vec<String> = given.collect();
            let audiences = if audiences.is_empty() { self.issuer.audiences().to_vec() } else { audiences };
            let spec = TokenSpec {
                namespace,
                service_account: name,
                service_account_uid: object::uid(&account),
                bound,
                node,
                audiences: audiences.clone(),
                seconds,
            };
            let now = self.clock.now();
            let token = self.issuer.issue(&spec, &uuid()?, now).map_err(ApiError::internal)?;
            wanted["metadata"] = json!({"name": name, "namespace": namespace, "creationTimestamp": to_rfc3339(now)});
            wanted["spec"]["audiences"] = json!(audiences);
            wanted["spec"]["expirationSeconds"] = seconds.into();
            let end = now + jiff::SignedDuration::from_secs(seconds);
            wanted["status"] = json!({"token": token, "expirationTimestamp": to_rfc3339(end)});
            Ok(created(&wanted))
        })
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
    Err(ApiError::invalid(&GroupKind::new("authentication.k8s.io", "TokenRequest"), "", &[error]))
}

type Bound = (Option<BoundObject>, Option<(String, String)>);

/// The object that bounds the token, which must live now and be the account's own.
async fn bound(server: &dyn Objects, namespace: &str, account: &str, reference: &Value) -> Result<Bound, ApiError> {
    if !reference.is_object() {
        return Ok((None, None));
    }
    let (kind, name) = (text(reference, "kind"), text(reference, "name"));
    let (resource, scope) = match kind {
        "Pod" => ("pods", namespace),
        "Secret" => ("secrets", namespace),
        "Node" => ("nodes", ""),
        other => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {account:?} to object of kind {other:?}: use Pod, Secret or Node"
            )));
        }
    };
    let found = server.get("", resource, scope, name).await?;
    let uid = text(reference, "uid");
    if !uid.is_empty() && uid != object::uid(&found) {
        let cause = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict(&GroupResource::new("", resource), name, &cause));
    }
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
            let uid = server.get("", "nodes", "", host).await.map(|n| object::uid(&n).to_owned()).unwrap_or_default();
            node = Some((host.to_owned(), uid));
        }
    }
    let bound = BoundObject { kind: kind.to_owned(), name: name.to_owned(), uid: object::uid(&found).to_owned() };
    Ok((Some(bound), node))
}

/// A random UUID (RFC 9562, version 4).
fn uuid() -> Result<String, ApiError> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(ApiError::internal)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
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
        assert_eq!(uuid().unwrap().len(), 36);
    }
}
