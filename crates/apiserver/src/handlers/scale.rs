//! The `scale` subresource: a view of an object's replicas as `autoscaling/v1 Scale`.

use http::{Response, StatusCode};
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::selector::LabelSelector;
use kybern_apimachinery::{ApiError, GroupKind, Gvk, Value, json, object};
use kybern_schema::types::KindType;

use super::Exchange;
use super::patch::{Patch, check_options};
use crate::admission::Operation;
use crate::convert;
use crate::negotiate::Shape;
use crate::options::{WriteOptions, parse_revision};
use crate::resource::Scale;
use crate::write::{View, Writer};
use crate::{Body, body, codec, managed, respond, table};

fn kind() -> Result<KindType, ApiError> {
    let gvk = Gvk::new("autoscaling", "v1", "Scale");
    kybern_schema::builtin().kind(&gvk).ok_or_else(|| ApiError::internal("the table of kinds has no Scale"))
}

/// The scale of an object.
fn of(object: &Value, paths: &Scale) -> Value {
    let at = |path: &[String]| path.iter().try_fold(object, |value, key| value.get(key)).filter(|_| !path.is_empty());
    let number = |path: &[String]| at(path).and_then(Value::as_i64).unwrap_or(0);
    let selector = match at(&paths.selector) {
        Some(Value::String(text)) => text.clone(),
        Some(selector) if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() => {
            LabelSelector::from_object(selector).map(|s| s.to_string()).unwrap_or_default()
        }
        // A ReplicationController's is a plain map.
        Some(Value::Object(map)) => {
            let pairs = map.iter().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)));
            LabelSelector::from_pairs(pairs).to_string()
        }
        _ => String::new(),
    };
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object::at(object, &["metadata", field]) {
            metadata[field] = value.clone();
        }
    }
    let mut status = json!({"replicas": number(&paths.status_replicas)});
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    let replicas = number(&paths.spec_replicas);
    let spec = if replicas == 0 { json!({}) } else { json!({"replicas": replicas}) };
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

fn respond(exchange: &Exchange, object: &Value, paths: &Scale) -> Result<Response<Body>, ApiError> {
    let kind = kind()?;
    let protobuf = codec::has_protobuf(&kind);
    let format = crate::negotiate::negotiate(
        &exchange.parts.headers,
        exchange.query.given_flag("pretty"),
        protobuf,
        crate::negotiate::SHAPES,
    )?;
    let scale = of(object, paths);
    let version = format.version;
    let bare = |scale: &Value| json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": scale["metadata"]});
    let (name, value) = match format.shape {
        Shape::Object => return respond::value(format, Some(&kind), &scale, StatusCode::OK),
        Shape::Metadata => ("PartialObjectMetadata", bare(&scale)),
        Shape::Table => {
            let one = std::slice::from_ref(&scale);
            let mut table = table::of_values(&paths.columns, one, version, exchange.now, bare);
            table["metadata"]["resourceVersion"] = scale["metadata"]["resourceVersion"].clone();
            ("Table", table)
        }
    };
    let kind = kybern_schema::builtin().kind(&Gvk::new("meta.k8s.io", version, name));
    respond::value(format, kind.as_ref(), &value, StatusCode::OK)
}

pub(super) async fn get(exchange: &Exchange, paths: &Scale) -> Result<Response<Body>, ApiError> {
    exchange.server.catch_up().await?;
    let kind = exchange.server.kind(&exchange.resource)?;
    let entry = kind.get(&exchange.info.namespace, &exchange.info.name).ok_or_else(|| exchange.not_found())?;
    respond(exchange, &convert::served(&exchange.resource, &entry).await?, paths)
}

pub(super) async fn update(exchange: &Exchange, paths: &Scale, body: Body) -> Result<Response<Body>, ApiError> {
    let options = exchange.write_options("UpdateOptions")?;
    let bytes = body::read(body).await?;
    let media = codec::content_type(&exchange.parts.headers);
    let (scale, warnings) = codec::read_object(media, &bytes, &kind()?, options.field_validation)?;
    exchange.warnings.extend(warnings);
    change(exchange, paths, &options, &|_| Ok(scale.clone()), false).await
}

pub(super) async fn patch(exchange: &Exchange, paths: &Scale, body: Body) -> Result<Response<Body>, ApiError> {
    let options = exchange.write_options("PatchOptions")?;
    let patch = Patch::read(exchange, body, &options).await?;
    check_options(exchange, &patch, &options)?;
    let kind = kind()?;
    let patched = |old: Value| {
        let decoded = kybern_schema::decode_value(&kind, patch.apply(&kind, old)?, options.field_validation.into());
        decoded.map(|(scale, _)| scale).map_err(|e| e.into_api_error(&kind.gvk))
    };
    let applied = matches!(patch, Patch::Apply(_));
    change(exchange, paths, &options, &patched, applied).await
}

/// Sets the replicas that the new scale asks for.
async fn change(
    exchange: &Exchange,
    paths: &Scale,
    options: &WriteOptions,
    new_scale: &(dyn Fn(Value) -> Result<Value, ApiError> + Send + Sync),
    applied: bool,
) -> Result<Response<Body>, ApiError> {
    let kind = exchange.server.kind(&exchange.resource)?;
    let name = exchange.info.name.as_str();
    let scale_kind = self::kind()?.gvk;
    let show = |served: &Value| of(served, paths);
    let mut writer = Writer::new(exchange, options);
    writer.applies = applied;
    writer.view = Some(View { kind: &scale_kind, show: &show });
    let spec_replicas: Vec<&str> = paths.spec_replicas.iter().map(String::as_str).collect();
    let mut tries = exchange.server.turns.tries();
    loop {
        exchange.server.catch_up().await?;
        let old = kind.get(&exchange.info.namespace, name).ok_or_else(|| exchange.not_found())?;
        let mut object = convert::served(&exchange.resource, &old).await?;
        let before = of(&object, paths);
        let mut scale = new_scale(before.clone())?;
        writer.admit(Operation::Update, &mut scale, Some(&before)).await?;
        let expected = parse_revision(object::resource_version(&scale))?;
        if expected.is_some_and(|revision| revision != old.revision) {
            return Err(ApiError::stale(&exchange.group_resource(), name));
        }
        let replicas = object::at(&scale, &["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
        // A custom resource's own rules say what is wrong with it.
        if replicas < 0 && exchange.resource.schema.is_none() {
            let path = FieldPath::new("spec.replicas");
            let error = FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
            return Err(ApiError::invalid(&GroupKind::new("autoscaling", "Scale"), name, &[error]));
        }
        if applied {
            // Who applies a scale applies the replicas of the object, and meets whoever set them before.
            let resource = &exchange.resource;
            let mut config =
                json!({"apiVersion": resource.api_version(), "kind": resource.kind, "metadata": {"name": name}});
            object::set(&mut config, &spec_replicas, replicas);
            object = managed::apply(exchange, options, Some(&object), &config).await?;
        } else {
            object::set(&mut object, &spec_replicas, replicas);
        }
        match writer.update(&old, object).await {
            Ok(entry) => {
                return respond(exchange, &convert::served(&exchange.resource, &entry).await?, paths);
            }
            Err(failure) => {
                let again = failure.retry(&mut tries, &old.key).await;
                again.map_err(|f| f.into_api_error(&exchange.group_resource(), name))?;
            }
        }
    }
}
