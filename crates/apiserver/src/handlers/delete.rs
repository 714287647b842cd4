//! DELETE of one object.

use http::{Response, StatusCode};
use kybern_apimachinery::{ApiError, Gvk, Map, Value, json, object};
use kybern_schema::Strictness;

use super::Exchange;
use crate::deletion::{Deleted, Deletion};
use crate::negotiate::{Format, Shape};
use crate::options::{DeleteOptions, FieldValidation};
use crate::{Body, body, codec, respond};

/// The options in a body or, when it is empty, in the query.
pub(super) async fn read_options(exchange: &Exchange, body: Body) -> Result<DeleteOptions, ApiError> {
    let bytes = body::read(body).await?;
    let object = if bytes.is_empty() {
        Value::Null
    } else {
        let media = codec::content_type(&exchange.parts.headers);
        let kind = kybern_schema::builtin().kind(&Gvk::new("meta.k8s.io", "v1", "DeleteOptions"));
        match (media, kind) {
            ("application/json", Some(kind)) => {
                let mut options: Value = serde_json::from_slice(&bytes).map_err(|e| {
                    ApiError::bad_request(format!("the body of a delete request must be DeleteOptions: {e}"))
                })?;
                // They go by the version of any group.
                object::remove(&mut options, &["apiVersion"]);
                let decoded = kybern_schema::decode_value(&kind, options, Strictness::Ignore);
                decoded.map_err(|e| e.into_api_error(&kind.gvk))?.0
            }
            (media, Some(kind)) => codec::read_object(media, &bytes, &kind, FieldValidation::Ignore)?.0,
            _ => return Err(codec::unsupported(&["application/json"])),
        }
    };
    DeleteOptions::parse(&exchange.query, object)
}

pub(super) async fn delete(exchange: &Exchange, body: Body) -> Result<Response<Body>, ApiError> {
    let presentation = exchange.presentation()?;
    let options = read_options(exchange, body).await?;
    let deletion = Deletion::new(exchange, &options);
    match deletion.delete(&exchange.info.namespace, &exchange.info.name).await? {
        Deleted::Pending(entry) => {
            // Upstream's rule: only who asked in the legacy way for a cascade learns that it is not done.
            let accepted = options.orphan_dependents == Some(false);
            let code = if accepted { StatusCode::ACCEPTED } else { StatusCode::OK };
            respond::entry(&exchange.resource, &entry, presentation, code)
        }
        Deleted::Gone(entry) if exchange.resource.returns_deleted => {
            respond::entry(&exchange.resource, &entry, presentation, StatusCode::OK)
        }
        Deleted::Gone(entry) => {
            let kind = kybern_schema::builtin().kind(&Gvk::new("", "v1", "Status"));
            let format = Format { shape: Shape::Object, ..presentation.format };
            respond::value(format, kind.as_ref(), &status(exchange, &entry.value()?), StatusCode::OK)
        }
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
