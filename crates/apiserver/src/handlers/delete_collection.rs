//! DELETE of a collection.

use http::Response;
use kybern_apimachinery::{ApiError, Reason};

use super::Exchange;
use crate::cache::Selection;
use crate::deletion::{Deleted, Deletion, Shown};
use crate::options::ListOptions;
use crate::{Body, respond};

/// Deletes everything selected, and answers with the list of it.
pub(super) async fn delete(exchange: &Exchange, body: Body) -> Result<Response<Body>, ApiError> {
    let presentation = exchange.presentation()?;
    let list = ListOptions::parse(&exchange.query)?;
    let options = super::delete::read_options(exchange, body).await?;
    super::delete::warn(exchange, &options);
    let server = &exchange.server;
    let kind = server.kind(&exchange.resource)?;
    let selection = Selection::new(&kind.kind, &exchange.info.namespace, list.labels, &list.fields)?;
    server.catch_up().await?;
    let listing = kind
        .list(&selection, None, list.limit, None, || server.cache.revision())
        .map_err(|_| ApiError::internal("the latest revision cannot be too old"))?;
    let mut deletion = Deletion::new(exchange, &options);
    deletion.shown = Shown::OfCollection(&exchange.warnings, &exchange.audit);
    let mut first = None;
    let mut deleted = Vec::with_capacity(listing.items.len());
    for entry in listing.items {
        match deletion.delete(entry.namespace(), entry.name()).await {
            Ok(Deleted::Gone(entry) | Deleted::Pending(entry)) => deleted.push(entry),
            Err(error) if error.reason() == Reason::NotFound => {}
            // One that cannot be deleted, or not even be read, keeps no other.
            Err(error) => first = first.or(Some(error)),
        }
    }
    if let Some(error) = first {
        return Err(error);
    }
    let metadata = respond::list_metadata(server.cache.revision(), "", None);
    respond::list(&exchange.resource, deleted, &metadata, presentation, false).await
}
