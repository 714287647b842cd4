//! PUT of an object or of a part of it.

use std::sync::Arc;

use http::{Response, StatusCode};
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{ApiError, Value, object};

use super::{Exchange, check_name, read_object};
use crate::authorization;
use crate::cache::Entry;
use crate::options::parse_revision;
use crate::write::Writer;
use crate::{Body, respond};

pub(super) async fn update(exchange: &Exchange, body: Body) -> Result<Response<Body>, ApiError> {
    let presentation = exchange.presentation()?;
    let options = exchange.write_options("UpdateOptions")?;
    let object = read_object(exchange, body, &options).await?;
    check_name(exchange, &object)?;
    let mut writer = Writer::new(exchange, &options);
    let (entry, created) = put(exchange, &mut writer, object).await?;
    let code = if created { StatusCode::CREATED } else { StatusCode::OK };
    respond::entry(&exchange.resource, &entry, presentation, code).await
}

/// Replaces an object, which must be at the revision that the new one names, if it names one. Answers whether it was
/// created.
async fn put(exchange: &Exchange, writer: &mut Writer<'_>, object: Value) -> Result<(Arc<Entry>, bool), ApiError> {
    let strategy = &exchange.resource.strategy;
    let expected = parse_revision(object::resource_version(&object))?.filter(|revision| *revision > 0);
    let kind = exchange.server.kind(&exchange.resource)?;
    let mut tries = exchange.server.turns.tries();
    loop {
        exchange.server.catch_up().await?;
        kind.check_readable(&exchange.info.namespace, &exchange.info.name)?;
        let Some(old) = kind.get(&exchange.info.namespace, &exchange.info.name) else {
            if !exchange.info.subresource.is_empty() || !strategy.allow_create_on_update() || expected.is_some() {
                return Err(exchange.not_found());
            }
            authorization::check_creation(&exchange.server, &exchange.info, &exchange.user).await?;
            return writer.create(object).await.map(|entry| (entry, true));
        };
        if expected.is_none() && !strategy.allow_unconditional_update() {
            let error =
                FieldError::invalid(&FieldPath::new("metadata.resourceVersion"), 0, "must be specified for an update");
            return Err(ApiError::invalid(&exchange.resource.ty.gvk.group_kind(), &exchange.info.name, &[error]));
        }
        if expected.is_some_and(|revision| revision != old.revision) {
            return Err(ApiError::stale(&exchange.group_resource(), &exchange.info.name));
        }
        match writer.update(&old, object.clone()).await {
            Ok(entry) => return Ok((entry, false)),
            Err(failure) => {
                let again = if expected.is_none() { failure.retry(&mut tries, &old.key).await } else { Err(failure) };
                again.map_err(|f| f.into_api_error(&exchange.group_resource(), &exchange.info.name))?;
            }
        }
    }
}
