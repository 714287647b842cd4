//! Where writes meet server-side apply: who owns which field after them.

use std::sync::Arc;

use kybern_apimachinery::{ApiError, Value, object, time};
use kybern_schema::apply::{Context, FieldSet, Versions, apply_patch, track_update};
use kybern_schema::types::KindType;

use crate::convert::{to_served, to_stored};
use crate::exchange::Exchange;
use crate::options::WriteOptions;
use crate::resource::{Resource, SubresourceHandler};
use crate::server::Server;

const PATH: [&str; 2] = ["metadata", "managedFields"];

/// What nobody gets to own by a request, because it is taken back from every writer: `status` when the object itself is
/// written, everything else when its status is.
fn reset(resource: &Resource, subresource: &str) -> FieldSet {
    let strategy = match resource.subresource(subresource).map(|s| &s.handler) {
        Some(SubresourceHandler::Part(strategy)) => strategy,
        Some(_) => return FieldSet::default(),
        None => &resource.strategy,
    };
    let mut paths: Vec<&[&str]> = strategy.reset_fields().to_vec();
    let fields: Vec<&str> = match subresource {
        "" => vec!["status"],
        "status" => {
            let own = |field: &&str| !["status", "metadata", "apiVersion", "kind"].contains(field);
            resource.ty.root().fields.iter().map(|f| &*f.name).filter(own).collect()
        }
        _ => Vec::new(),
    };
    if resource.subresource("status").is_some() {
        paths.extend(fields.iter().map(std::slice::from_ref));
    }
    FieldSet::of_fields(&paths)
}

/// An object of a resource in another of its kind's versions.
fn convert(
    versions: &[Arc<Resource>],
    from: &Resource,
    object: &Value,
    api_version: &str,
) -> Option<(KindType, Value)> {
    let to = versions.iter().find(|r| r.api_version() == api_version)?;
    Some((to.ty.clone(), to_served(to, to_stored(from, object.clone()))))
}

/// Who writes what.
#[derive(Clone, Copy)]
pub(crate) struct Author<'a> {
    pub(crate) server: &'a Server,
    pub(crate) resource: &'a Resource,
    pub(crate) subresource: &'a str,
    pub(crate) manager: &'a str,
    pub(crate) now: jiff::Timestamp,
}

/// Calls `act` with what is known of a write; fields that others set in versions of another shape are found by conversion.
fn in_context<T>(author: Author<'_>, act: impl FnOnce(&Context<'_>) -> T) -> T {
    let Author { server, resource, subresource, manager, now } = author;
    let reset = reset(resource, subresource);
    let now = time::to_rfc3339(now);
    let differing = server.served.load().table.differing_versions(resource);
    let convert = |object: &Value, api_version: &str| {
        convert(differing.as_deref().unwrap_or_default(), resource, object, api_version)
    };
    let versions = if differing.is_some() { Versions::Convert(&convert) } else { Versions::SameShape };
    act(&Context { kind: &resource.ty, versions, manager, subresource, reset: &reset, now: &now })
}

/// Sets the managed fields of `object` after it was written in place of `old`; both in the stored version.
pub(crate) fn track(author: Author<'_>, old: Option<&Value>, object: &mut Value) {
    let resource = author.resource;
    let track = |old: Option<&Value>, object: &mut Value| {
        in_context(author, |context| track_update(context, old, object));
    };
    if resource.conversion.is_none() {
        track(old, object);
        return;
    }
    let mut served = to_served(resource, object.clone());
    let old = old.map(|old| to_served(resource, old.clone()));
    track(old.as_ref(), &mut served);
    match object::remove(&mut served, &PATH) {
        Some(managed) => object::set(object, &PATH, managed),
        None => drop(object::remove(object, &PATH)),
    }
}

/// Applies a configuration to the live object, both in the served version.
pub(crate) fn apply(
    exchange: &Exchange,
    options: &WriteOptions,
    live: Option<&Value>,
    config: &Value,
) -> Result<Value, ApiError> {
    let Exchange { server, resource, info, now, .. } = exchange;
    let force = options.force.unwrap_or(false);
    let author =
        Author { server, resource, subresource: &info.subresource, manager: &options.field_manager, now: *now };
    Ok(in_context(author, |context| apply_patch(context, live, config, force))?)
}
