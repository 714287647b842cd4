//! One file per verb. All of them work on any resource.

mod connect;
mod converted;
mod create;
mod delete;
mod delete_collection;
mod get;
mod list;
mod patch;
mod scale;
mod update;
mod watch;

use http::Response;
use kybern_apimachinery::validation::path_segment;
use kybern_apimachinery::{ApiError, Reason, Value, object};

use crate::exchange::Exchange;
use crate::options::WriteOptions;
use crate::resource::SubresourceHandler;
use crate::write::OTHER_NAMESPACE;
use crate::{Body, body, codec};

/// Calls the verb's handler, and warns of a kind that is on its way out.
pub(crate) async fn serve(exchange: Exchange, body: Body) -> Result<Response<Body>, ApiError> {
    exchange.warnings.extend(exchange.resource.strategy.deprecation().map(str::to_owned));
    answer(exchange, body).await
}

/// Whatever is larger than a GET is in a box: it would make a GET's future large, too.
async fn answer(exchange: Exchange, body: Body) -> Result<Response<Body>, ApiError> {
    let verb = exchange.info.verb;
    let refuse = || Err(ApiError::method_not_allowed());
    if exchange.resource.unstored.is_some() {
        return Box::pin(connect::unstored(exchange, body)).await;
    }
    check_segment(&exchange.info.name)?;
    if exchange.info.subresource.is_empty() {
        // What is made is posted to its collection; what is changed is named by the path.
        let misplaced = match verb {
            "create" => !exchange.info.name.is_empty(),
            "update" | "patch" => exchange.info.name.is_empty(),
            _ => false,
        };
        if misplaced || !exchange.resource.verbs.iter().any(|v| v == verb) {
            return refuse();
        }
        return match verb {
            "get" => get::get(&exchange).await,
            "list" => Box::pin(list::list(&exchange)).await,
            "watch" => watch::watch(&exchange).await,
            "create" => mutate(async move { create::create(&exchange, body).await }).await,
            "update" => mutate(async move { update::update(&exchange, body).await }).await,
            "patch" => mutate(async move { patch::patch(&exchange, body).await }).await,
            "delete" => mutate(async move { delete::delete(&exchange, body).await }).await,
            "deletecollection" => mutate(async move { delete_collection::delete(&exchange, body).await }).await,
            _ => refuse(),
        };
    }
    let Some(subresource) = exchange.subresource().cloned() else { return Err(ApiError::no_such_path()) };
    // Before anything else: the right to read, which a GET is authorized by, is no right to act.
    // OPTIONS is no verb of the API's, but what is proxied may know it.
    let options = subresource.name == "proxy" && exchange.parts.method == http::Method::OPTIONS;
    if !options && !subresource.verbs.iter().any(|v| v == verb) {
        return refuse();
    }
    match (subresource.handler, verb) {
        (SubresourceHandler::Connect(connector), _) if connect::streams(&subresource.name) => {
            Box::pin(connect::stream(exchange, subresource.kind, connector, body)).await
        }
        (SubresourceHandler::Connect(connector), _) => {
            let kind = subresource.kind;
            mutate(async move { connect::create(exchange, kind, connector, body).await }).await
        }
        (SubresourceHandler::Part(_), "get") => get::get(&exchange).await,
        (SubresourceHandler::Part(_), "update") => mutate(async move { update::update(&exchange, body).await }).await,
        (SubresourceHandler::Part(_), "patch") => mutate(async move { patch::patch(&exchange, body).await }).await,
        (SubresourceHandler::Scale(paths), verb) => match verb {
            "get" => Box::pin(scale::get(&exchange, &paths)).await,
            "update" => mutate(async move { scale::update(&exchange, &paths, body).await }).await,
            "patch" => mutate(async move { scale::patch(&exchange, &paths, body).await }).await,
            _ => refuse(),
        },
        _ => refuse(),
    }
}

/// Refuses a name that no object can have. One that holds a `/`, however it is written, is more of a path.
fn check_segment(name: &str) -> Result<(), ApiError> {
    if name.contains('/') {
        return Err(ApiError::no_such_path());
    }
    let fault = path_segment(name).join(";");
    if fault.is_empty() {
        return Ok(());
    }
    Err(ApiError::bad_request(format!("Name parameter invalid: {name:?}: {fault}")))
}

/// Runs a write to its end even if the client goes away: what was reserved for it must be kept or freed with it.
async fn mutate(
    handler: impl Future<Output = Result<Response<Body>, ApiError>> + Send + 'static,
) -> Result<Response<Body>, ApiError> {
    // In a box of its own: tasks are aligned to two cache lines, which the allocator makes room for around a large one.
    match tokio::spawn(Box::pin(handler)).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ApiError::new(Reason::ServiceUnavailable, "the server is shutting down: try again")),
        },
    }
}

/// Reads and decodes a request's body as an object of the resource's kind, with its defaults.
async fn read_object(exchange: &Exchange, body: Body, options: &WriteOptions) -> Result<Value, ApiError> {
    let bytes = body::read(body).await?;
    let media = codec::content_type(&exchange.parts.headers);
    let (mut object, warnings) = codec::read_object(media, &bytes, &exchange.resource.ty, options.field_validation)?;
    exchange.warnings.extend(warnings);
    check_namespace(exchange, &mut object)?;
    kybern_schema::apply_defaults(&exchange.resource.ty, &mut object);
    exchange.audit.request_object(&object);
    Ok(object)
}

/// Gives an object the namespace of the request, and refuses one with another.
fn check_namespace(exchange: &Exchange, object: &mut Value) -> Result<(), ApiError> {
    if !exchange.resource.namespaced {
        return Ok(());
    }
    let namespace = object::namespace(object);
    if namespace.is_empty() {
        object::set(object, &["metadata", "namespace"], exchange.info.namespace.as_str());
    } else if namespace != exchange.info.namespace {
        return Err(ApiError::bad_request(OTHER_NAMESPACE));
    }
    Ok(())
}

/// Refuses an object that is not the one the path names.
fn check_name(exchange: &Exchange, object: &Value) -> Result<(), ApiError> {
    match (object::name(object), exchange.info.name.as_str()) {
        ("", wanted) => Err(ApiError::bad_request(format!(
            "the name of the object ({wanted} based on URL) was undeterminable: name must be provided"
        ))),
        (name, wanted) if name != wanted => Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({wanted})"
        ))),
        _ => Ok(()),
    }
}
