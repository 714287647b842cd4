//! Requests that another part answers: connect subresources and kinds that are never stored.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Request, Response};
use kybern_apimachinery::{ApiError, Gvk, Value, json, object};
use kybern_schema::types::{KindType, Type};

use super::{Exchange, check_namespace};
use crate::admission::{AdmissionRequest, Operation};
use crate::connect::{ConnectRequest, Connector};
use crate::negotiate::{Encoding, Format, SHAPES, Shape, negotiate};
use crate::request_info::RequestInfo;
use crate::resource::Resource;
use crate::server::Server;
use crate::write::Chain;
use crate::{Body, authorization, body, codec, forward, table};

/// Whether a subresource is a stream of bytes that is nobody's business, and not an object in and an object out.
pub(super) fn streams(subresource: &str) -> bool {
    matches!(subresource, "proxy" | "log" | "exec" | "attach" | "portforward")
}

/// Hands a stream over, once admission has seen the options that its query is.
pub(super) async fn stream(
    exchange: Exchange,
    kind: Gvk,
    connector: Arc<dyn Connector>,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let acts = matches!(exchange.info.subresource.as_str(), "exec" | "attach" | "portforward");
    if acts && exchange.info.verb != "create" {
        // A WebSocket begins with a GET, but to read is not enough to act.
        let verb = RequestInfo { verb: "create", ..(*exchange.info).clone() };
        authorization::check(&exchange.server, &verb, exchange.user.clone(), None).await?;
    }
    // A log is read, not connected to.
    if exchange.info.subresource != "log" {
        let mut options = kybern_schema::builtin().kind(&kind).map_or(Value::Null, |k| stream_options(&k, &exchange));
        let operation = Operation::Connect;
        let connect =
            Admitted { operation, kind: &kind, name: &exchange.info.name, options: &Value::Null, dry_run: false };
        admit(&exchange, connect, &mut options).await?;
    }
    let (server, request) = request(exchange, body, false);
    connector.connect(&*server, request).await
}

/// `PodExecOptions` and the like, as a query says them.
fn stream_options(kind: &KindType, exchange: &Exchange) -> Value {
    let query = &exchange.query;
    let mut options = json!({"apiVersion": kind.gvk.api_version(), "kind": kind.gvk.kind});
    for field in &kind.root().fields {
        let name = &*field.name;
        let value = match &field.ty {
            Type::String if name == "path" && !exchange.info.tail.is_empty() => exchange.info.tail.as_str().into(),
            Type::String if query.has(name) => query.get(name).into(),
            Type::Bool if query.has(name) => query.flag(name).into(),
            Type::List(_) if query.has(name) => {
                // Ports are numbers; what is none, the connector refuses.
                query.all(name).map(|text| text.parse::<i64>().map_or_else(|_| text.into(), Value::from)).collect()
            }
            _ => continue,
        };
        if name != "apiVersion" && name != "kind" {
            options[name] = value;
        }
    }
    options
}

/// Serves the creation of an object that a subresource takes: a binding, an eviction, a token.
pub(super) async fn create(
    exchange: Exchange,
    kind: Gvk,
    connector: Arc<dyn Connector>,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    answer(exchange, Some(kind), connector, body).await
}

pub(super) async fn unstored(exchange: Exchange, body: Body) -> Result<Response<Body>, ApiError> {
    let Some(connector) = exchange.resource.unstored.clone() else { return Err(ApiError::no_such_path()) };
    if !exchange.resource.verbs.iter().any(|v| v == exchange.info.verb) {
        return Err(ApiError::method_not_allowed());
    }
    let kind = (exchange.info.verb == "create").then(|| exchange.resource.ty.gvk.clone());
    answer(exchange, kind, connector, body).await
}

/// What admission is told of an object that is to be created or connected to.
struct Admitted<'a> {
    operation: Operation,
    kind: &'a Gvk,
    name: &'a str,
    options: &'a Value,
    dry_run: bool,
}

async fn admit(exchange: &Exchange, admitted: Admitted<'_>, object: &mut Value) -> Result<(), ApiError> {
    let Admitted { operation, kind, name, options, dry_run } = admitted;
    let chain = Chain::default();
    let request = AdmissionRequest {
        user: &exchange.user,
        resource: &exchange.resource,
        subresource: &exchange.info.subresource,
        kind,
        namespace: &exchange.info.namespace,
        name,
        operation,
        old: None,
        options,
        dry_run,
        warnings: &exchange.warnings,
        audit: &exchange.audit,
        reinvocation: &chain.reinvocation,
        transaction: &chain.transaction,
        versions: &*exchange.server,
    };
    exchange.server.admission.admit(&request, Some(object)).await?;
    exchange.server.admission.validate(&request, Some(object)).await
}

fn request(exchange: Exchange, body: Body, dry_run: bool) -> (Arc<Server>, ConnectRequest) {
    let Exchange { server, info, user, mut parts, warnings, audit, held, .. } = exchange;
    forward::prepare(&mut parts.headers, &server.credential_headers);
    let request = Request::from_parts(parts, body);
    let RequestInfo { namespace, name, tail, .. } = Arc::unwrap_or_clone(info);
    (server, ConnectRequest { user, namespace, name, tail, dry_run, warnings, audit, held, request })
}

/// Calls the connector, with the object of a creation decoded, admitted and turned into JSON, and its answer turned into
/// what the client takes.
async fn answer(
    mut exchange: Exchange,
    created: Option<Gvk>,
    connector: Arc<dyn Connector>,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let reads = matches!(exchange.info.verb, "get" | "list");
    let pretty = exchange.query.given_flag("pretty");
    let format = match negotiate(&exchange.parts.headers, pretty, true, if reads { SHAPES } else { &[] }) {
        Ok(format) if format.shape == Shape::Table => format,
        _ => negotiate(&exchange.parts.headers, pretty, true, &[])?,
    };
    let kind = created.and_then(|gvk| kybern_schema::builtin().kind(&gvk));
    let mut dry_run = false;
    let body = match kind {
        Some(kind) => {
            let options = exchange.write_options("CreateOptions")?;
            dry_run = options.dry_run;
            let bytes = body::read(body).await?;
            let media = codec::content_type(&exchange.parts.headers);
            let kind = codec::in_claimed_version(kind, media, &bytes);
            let (mut object, found) = codec::read_object(media, &bytes, &kind, options.field_validation)?;
            exchange.warnings.extend(found);
            exchange.audit.request_object(&object);
            check_namespace(&exchange, &mut object)?;
            let name = match exchange.info.name.as_str() {
                "" => object::name(&object).to_owned(),
                name => name.to_owned(),
            };
            let operation = Operation::Create;
            let created = Admitted { operation, kind: &kind.gvk, name: &name, options: &options.object, dry_run };
            admit(&exchange, created, &mut object).await?;
            exchange.parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            exchange.parts.headers.remove(CONTENT_LENGTH);
            body::full(object.to_string())
        }
        None => body,
    };
    let (resource, now) = (exchange.resource.clone(), exchange.now);
    let (server, request) = request(exchange, body, dry_run);
    let response = connector.connect(&*server, request).await?;
    match format {
        format if format.shape == Shape::Table => tabulate(response, format, &resource, now).await,
        format if format.encoding != Encoding::Json => reencode(response, format).await,
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
