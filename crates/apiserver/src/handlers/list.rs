//! GET of a collection.

use std::time::Duration;

use http::{Response, StatusCode};
use kybern_apimachinery::{ApiError, Reason, json};
use kybern_storage::Revision;

use super::{Exchange, converted};
use crate::cache::{Selection, TooOld};
use crate::options::{ListOptions, VersionMatch};
use crate::server::Server;
use crate::{Body, body, continue_token, gzip, respond};

/// How long a read waits for a revision that is not reached yet.
const FUTURE_REVISION_WAIT: Duration = Duration::from_secs(3);

/// Waits for a revision that a client has seen somewhere.
pub(super) async fn wait_for(server: &Server, revision: Revision) -> Result<(), ApiError> {
    let reached = tokio::time::timeout(FUTURE_REVISION_WAIT, server.cache.wait_for(revision)).await;
    reached.map_err(|_| {
        let text = format!("Timeout: Too large resource version: {revision}, current: {}", server.cache.revision());
        let causes = json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]);
        ApiError::new(Reason::Timeout, text).with_details(json!({"retryAfterSeconds": 1, "causes": causes}))
    })
}

pub(super) async fn list(exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let mut options = ListOptions::parse(&exchange.query)?;
    let presentation = exchange.presentation()?;
    let server = &exchange.server;
    let converted = converted::split(&exchange.resource, &mut options.fields);
    let kind = server.kind(&exchange.resource)?;
    let selection = Selection::new(&kind.kind, &exchange.info.namespace, options.labels.clone(), &options.fields)?;
    let (mut at, mut after) = (None, None);
    if options.continue_token.is_empty() {
        match options.version_match()? {
            VersionMatch::MostRecent => server.catch_up().await?,
            VersionMatch::NotOlderThan(revision) => wait_for(server, revision).await?,
            VersionMatch::Exact(revision) => {
                wait_for(server, revision).await?;
                at = Some(revision);
            }
        }
    } else {
        if options.revision()?.is_some_and(|revision| revision > 0) {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        let (revision, key) = continue_token::decode(&options.continue_token, &kind.prefix)?;
        (at, after) = (revision, Some(key));
    }
    kind.check_all_readable(&selection)?;
    // Where any state is good enough there is nothing that pages could be of.
    let limit = if options.resource_version == "0" { 0 } else { options.limit };
    let oldest = server.cache.oldest();
    let listed = match at {
        Some(requested) if requested < oldest => Err(TooOld { requested, oldest }),
        at => kind.list(&selection, after.as_deref(), limit, at, || server.cache.revision()),
    };
    let mut listing = match (listed, after) {
        (Ok(listing), _) => listing,
        (Err(_), Some(after)) => return Ok(expired_token(&kind.prefix, &after)),
        (Err(too_old), None) => {
            return Err(ApiError::expired(format!(
                "The resourceVersion for the provided list is too old: {} ({})",
                too_old.requested, too_old.oldest
            )));
        }
    };
    if let Some(converted) = converted {
        listing.items = converted.select(listing.items).await?;
        listing.remaining = None;
    }
    let token = listing
        .next
        .as_ref()
        .map_or_else(String::new, |last| continue_token::encode(listing.revision, &kind.prefix, last));
    let metadata = respond::list_metadata(listing.revision, &token, listing.remaining);
    let gzip = gzip::accepted(&exchange.parts.headers) && respond::is_larger(&listing.items, gzip::THRESHOLD);
    respond::list(&exchange.resource, listing.items, &metadata, presentation, gzip).await
}

/// The refusal of a token whose revision is forgotten; it carries a token to go on without consistency.
fn expired_token(prefix: &str, after: &str) -> Response<Body> {
    let (error, token) = continue_token::expired(prefix, after);
    let mut status = error.to_status();
    status["metadata"] = json!({"continue": token});
    body::json(StatusCode::GONE, &status)
}
