//! GET of one object.

use http::{Response, StatusCode};
use kybern_apimachinery::ApiError;

use super::Exchange;
use crate::options::parse_revision;
use crate::{Body, respond};

pub(super) async fn get(exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let presentation = exchange.presentation()?;
    let kind = exchange.server.kind(&exchange.resource)?;
    match parse_revision(exchange.query.get("resourceVersion"))? {
        Some(0) => {}
        Some(revision) => super::list::wait_for(&exchange.server, revision).await?,
        None => exchange.server.catch_up().await?,
    }
    kind.check_readable(&exchange.info.namespace, &exchange.info.name)?;
    let entry = kind.get(&exchange.info.namespace, &exchange.info.name).ok_or_else(|| exchange.not_found())?;
    respond::entry(&exchange.resource, &entry, presentation, StatusCode::OK).await
}
