//! DELETE of one object.

use http::{Response, StatusCode};
use kybern_apimachinery::{ApiError, Gvk, Map, Value, json, object};
use kybern_schema::{Strictness, proto};

use super::Exchange;
use crate::deletion::{Deleted, Deletion};
use crate::negotiate::{Format, Shape};
use crate::options::DeleteOptions;
use crate::{Body, body, codec, respond};

/// The options in a body or, when it is empty, in the query.
pub(super) async fn read_options(exchange: &Exchange, body: Body) -> Result<DeleteOptions, ApiError> {
    let bytes = body::read(body).await?;
    let object =
        if bytes.is_empty() { Value::Null } else { decode(codec::content_type(&exchange.parts.headers), &bytes)? };
    if !object.is_null() {
        exchange.audit.request_object(&object);
    }
    DeleteOptions::parse(&exchange.query, object)
}

/// Decodes options whose `apiVersion` may be anyone's: clients send that of the resource's group, and upstream reads the
/// kind whatever version it is said to have.
fn decode(media: &str, bytes: &[u8]) -> Result<Value, ApiError> {
    let kind = kybern_schema::builtin().kind(&Gvk::new("meta.k8s.io", "v1", "DeleteOptions"));
    let kind = kind.ok_or_else(|| ApiError::internal("DeleteOptions are no built-in kind"))?;
    let bad = |e: &dyn std::fmt::Display| {
        ApiError::bad_request(format!("the body of a delete request must be DeleteOptions: {e}"))
    };
    let mut options: Value = match media {
        "application/json" => serde_json::from_slice(bytes).map_err(|e| bad(&e))?,
        "application/yaml" | "application/x-yaml" | "text/yaml" => {
            kybern_schema::decode::yaml_to_value(bytes).map_err(|e| bad(&e))?
        }
        proto::MEDIA_TYPE => {
            let envelope = proto::Envelope::open(bytes).map_err(|e| bad(&e))?;
            check_kind(envelope.api_version, envelope.kind)?;
            let mut options = proto::decode(&kind, bytes).map_err(|e| bad(&e))?;
            object::remove(&mut options, &["apiVersion"]);
            return Ok(options);
        }
        _ => return Err(codec::unsupported(&["application/json", "application/yaml", proto::MEDIA_TYPE])),
    };
    check_kind(object::api_version(&options), object::kind(&options))?;
    object::remove(&mut options, &["apiVersion"]);
    let decoded = kybern_schema::decode_value(&kind, options, Strictness::Ignore);
    Ok(decoded.map_err(|e| e.into_api_error(&kind.gvk))?.0)
}

/// Refuses a body that says to be of another kind, which would otherwise be read as options that ask for nothing.
fn check_kind(api_version: &str, name: &str) -> Result<(), ApiError> {
    const SCHEME: &str = "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27";
    if matches!(name, "" | "DeleteOptions") {
        return Ok(());
    }
    let text = format!("no kind {name:?} is registered for version {api_version:?} in scheme {SCHEME:?}");
    Err(ApiError::bad_request(text))
}

pub(super) async fn delete(exchange: &Exchange, body: Body) -> Result<Response<Body>, ApiError> {
    let presentation = exchange.presentation()?;
    let options = read_options(exchange, body).await?;
    warn(exchange, &options);
    let deletion = Deletion::new(exchange, &options);
    match deletion.delete(&exchange.info.namespace, &exchange.info.name).await? {
        Deleted::Pending(entry) => {
            // Upstream's rule: only who asked in the legacy way for a cascade learns that it is not done.
            let accepted = options.orphan_dependents == Some(false);
            let code = if accepted { StatusCode::ACCEPTED } else { StatusCode::OK };
            respond::entry(&exchange.resource, &entry, presentation, code).await
        }
        Deleted::Gone(entry) if exchange.resource.returns_deleted => {
            respond::entry(&exchange.resource, &entry, presentation, StatusCode::OK).await
        }
        Deleted::Gone(entry) => {
            let kind = kybern_schema::builtin().kind(&Gvk::new("", "v1", "Status"));
            let format = Format { shape: Shape::Object, ..presentation.format };
            respond::value(format, kind.as_ref(), &status(exchange, &entry.value()?), StatusCode::OK)
        }
    }
}

/// Warns of what becomes of dependents when the request does not say.
pub(super) fn warn(exchange: &Exchange, options: &DeleteOptions) {
    if options.propagation.is_none() {
        exchange.warnings.extend(exchange.resource.strategy.deletion_warning().map(str::to_owned));
    }
}

fn status(exchange: &Exchange, deleted: &Value) -> Value {
    let mut details = Map::new();
    details.insert("name".into(), exchange.info.name.clone().into());
    if !exchange.resource.gvr.group.is_empty() {
        details.insert("group".into(), exchange.resource.gvr.group.clone().into());
    }
    details.insert("kind".into(), exchange.resource.gvr.resource.clone().into());
    details.insert("uid".into(), object::uid(deleted).into());
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
