//! DELETE of a collection.

use futures_util::future::join_all;
use http::Response;
use kybern_apimachinery::{ApiError, Reason};

use super::{Exchange, converted};
use crate::cache::Selection;
use crate::deletion::{Deleted, Deletion, Shown};
use crate::options::ListOptions;
use crate::{Body, respond};

/// Deleted at once, so that they share commits. Each has a transaction and a revision of its own: a watch that breaks off
/// between two events of one revision could not be resumed there without missing the second.
const GROUP: usize = 128;

/// Deletes everything selected, and answers with the list of it.
pub(super) async fn delete(exchange: &Exchange, body: Body) -> Result<Response<Body>, ApiError> {
    let presentation = exchange.presentation()?;
    let mut list = ListOptions::parse(&exchange.query)?;
    let converted = converted::split(&exchange.resource, &mut list.fields);
    let options = super::delete::read_options(exchange, body).await?;
    super::delete::warn(exchange, &options);
    let server = &exchange.server;
    let kind = server.kind(&exchange.resource)?;
    let selection = Selection::new(&kind.kind, &exchange.info.namespace, list.labels, &list.fields)?;
    server.catch_up().await?;
    let mut listing = kind
        .list(&selection, None, list.limit, None, || server.cache.revision())
        .map_err(|_| ApiError::internal("the latest revision cannot be too old"))?;
    if let Some(converted) = converted {
        listing.items = converted.select(listing.items).await?;
    }
    let mut deletion = Deletion::new(exchange, &options);
    deletion.shown = Shown::OfCollection(&exchange.warnings, &exchange.audit);
    let mut first = None;
    let mut deleted = Vec::with_capacity(listing.items.len());
    for group in listing.items.chunks(GROUP) {
        let group = group.iter().map(|entry| deletion.delete(entry.namespace(), entry.name()));
        for outcome in join_all(group).await {
            match outcome {
                Ok(Deleted::Gone(entry) | Deleted::Pending(entry)) => deleted.push(entry),
                Err(error) if error.reason() == Reason::NotFound => {}
                // One that cannot be deleted, or not even be read, keeps no other.
                Err(error) => first = first.or(Some(error)),
            }
        }
    }
    if let Some(error) = first {
        return Err(error);
    }
    let metadata = respond::list_metadata(server.cache.revision(), "", None);
    respond::list(&exchange.resource, deleted, &metadata, presentation, false).await
}
