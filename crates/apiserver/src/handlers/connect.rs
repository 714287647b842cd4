//! Requests that another part answers: connect subresources and kinds that are never stored.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Request, Response};
use kybern_apimachinery::{ApiError, Gvk, Value, object};

use super::Exchange;
use crate::access::{AdmissionRequest, Operation};
use crate::connect::{ConnectRequest, Connector};
use crate::negotiate::{Encoding, Format, Shape, negotiate};
use crate::options::WriteOptions;
use crate::resource::Resource;
use crate::{Body, body, codec, forward, table};

pub(super) async fn connect(
    exchange: Exchange,
    connector: Arc<dyn Connector>,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let kind = exchange.subresource().map(|s| s.kind.clone());
    admit(&exchange).await?;
    serve(exchange, kind, connector, body).await
}

pub(super) async fn unstored(exchange: Exchange, body: Body) -> Result<Response<Body>, ApiError> {
    let Some(connector) = exchange.resource.unstored.clone() else { return Err(ApiError::no_such_path()) };
    if !exchange.resource.verbs.iter().any(|v| v == exchange.info.verb) {
        return Err(ApiError::method_not_supported(&exchange.group_resource(), exchange.info.verb));
    }
    let kind = exchange.resource.ty.gvk.clone();
    serve(exchange, Some(kind), connector, body).await
}

/// Asks admission about a connection.
async fn admit(exchange: &Exchange) -> Result<(), ApiError> {
    let request = AdmissionRequest {
        user: &exchange.user,
        resource: &exchange.resource,
        subresource: &exchange.info.subresource,
        namespace: &exchange.info.namespace,
        name: &exchange.info.name,
        operation: Operation::Connect,
        old: None,
        options: &Value::Null,
        dry_run: exchange.query.has("dryRun"),
    };
    for plugin in &exchange.server.admission {
        plugin.admit(&request, None).await?;
    }
    for plugin in &exchange.server.admission {
        plugin.validate(&request, None).await?;
    }
    Ok(())
}

/// Calls the connector, with the body of an object checked and turned into JSON, and its answer turned into what the client takes.
async fn serve(
    exchange: Exchange,
    kind: Option<Gvk>,
    connector: Arc<dyn Connector>,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let Exchange { server, info, user, mut parts, resource, now, query, warnings } = exchange;
    // Streams and proxied requests are nobody's business.
    let streams = matches!(info.subresource.as_str(), "proxy" | "log" | "exec" | "attach" | "portforward");
    let reads = !streams && matches!(info.verb, "get" | "list");
    let format = match negotiate(&parts.headers, false, true, reads) {
        _ if streams => None,
        Ok(format) if format.shape == Shape::Table => Some(format),
        _ => Some(negotiate(&parts.headers, false, true, false)?),
    };
    let kind = kind.filter(|_| !streams && info.verb == "create").and_then(|gvk| kybern_schema::builtin().kind(&gvk));
    let body = match kind {
        Some(kind) => {
            let validation = WriteOptions::parse(&query, "CreateOptions", "")?.field_validation;
            let bytes = body::read(body).await?;
            // A subresource reads older versions of what it is sent, too: evictions of policy/v1beta1.
            let kind = if info.subresource.is_empty() { kind } else { codec::in_claimed_version(kind, &bytes) };
            let (object, found) = codec::read_object(codec::content_type(&parts.headers), &bytes, &kind, validation)?;
            warnings.extend(found);
            parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            parts.headers.remove(CONTENT_LENGTH);
            body::full(object.to_string())
        }
        None => body,
    };
    forward::prepare(&mut parts.headers, &server.credential_headers);
    let request = ConnectRequest {
        user,
        namespace: info.namespace,
        name: info.name,
        tail: info.tail,
        request: Request::from_parts(parts, body),
    };
    let response = connector.connect(&*server, request).await?;
    match format {
        Some(format) if format.shape == Shape::Table => tabulate(response, format, &resource, now).await,
        Some(format) if format.encoding != Encoding::Json => reencode(response, format).await,
        _ => Ok(response),
    }
}

/// A connector's JSON object or list as a table.
async fn tabulate(
    response: Response<Body>,
    format: Format,
    resource: &Resource,
    now: jiff::Timestamp,
) -> Result<Response<Body>, ApiError> {
    let code = response.status();
    let object: Value = serde_json::from_slice(&body::read(response.into_body()).await?).map_err(ApiError::internal)?;
    let one = std::slice::from_ref(&object);
    let shown = |object: &Value| {
        let mut shown = object.clone();
        shown["apiVersion"] = resource.api_version().into();
        shown["kind"] = resource.kind.as_str().into();
        shown
    };
    let objects = object.get("items").and_then(Value::as_array).map_or(one, Vec::as_slice);
    let table = table::of_values(&resource.columns, objects, format.version, now, shown);
    let kind = kybern_schema::builtin().kind(&Gvk::new("meta.k8s.io", format.version, "Table"));
    let (media, bytes) = codec::write(format, kind.as_ref(), &table)?;
    Ok(body::response(code, media, bytes))
}

/// A connector's JSON object in the form the client asked for.
async fn reencode(response: Response<Body>, format: Format) -> Result<Response<Body>, ApiError> {
    if !response.headers().get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/json")) {
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    let bytes = body::read(body).await?;
    let object: Value = serde_json::from_slice(&bytes).map_err(ApiError::internal)?;
    let kind = object::gvk(&object).and_then(|gvk| kybern_schema::builtin().kind(&gvk));
    let (media, bytes) = codec::write(format, kind.as_ref(), &object)?;
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    parts.headers.insert(CONTENT_LENGTH, bytes.len().into());
    Ok(Response::from_parts(parts, body::full(bytes)))
}
