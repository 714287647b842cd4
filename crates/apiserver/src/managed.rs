//! Where writes meet server-side apply: who owns which field after them.

use kybern_apimachinery::{ApiError, Value, object, time};
use kybern_schema::apply::{Context, FieldSet, Versions, apply_patch, track_update};

use crate::handlers::Exchange;
use crate::options::WriteOptions;
use crate::resource::Resource;
use crate::respond::to_served;
use crate::write::Writer;

const PATH: [&str; 2] = ["metadata", "managedFields"];

/// What nobody gets to own by a request, because it is taken back from every writer: `status` when the object itself is
/// written, everything else when its status is.
fn reset(resource: &Resource, subresource: &str) -> FieldSet {
    if resource.subresource("status").is_none() {
        return FieldSet::default();
    }
    match subresource {
        "" => FieldSet::of_fields(&[&["status"]]),
        "status" => {
            let own = |field: &&str| !["status", "metadata", "apiVersion", "kind"].contains(field);
            let fields: Vec<&str> = resource.ty.root().fields.iter().map(|f| &*f.name).filter(own).collect();
            let paths: Vec<&[&str]> = fields.iter().map(std::slice::from_ref).collect();
            FieldSet::of_fields(&paths)
        }
        _ => FieldSet::default(),
    }
}

/// Sets the managed fields of `object` after it was written in place of `old`; both in the stored version.
pub(crate) fn track(writer: &Writer<'_>, old: Option<&Value>, object: &mut Value) {
    let resource = writer.resource;
    let reset = reset(resource, writer.subresource);
    let now = time::to_rfc3339(writer.now);
    let context = Context {
        kind: &resource.ty,
        versions: Versions::SameShape,
        manager: &writer.options.field_manager,
        subresource: writer.subresource,
        reset: &reset,
        now: &now,
    };
    if resource.conversion.is_none() {
        track_update(&context, old, object);
        return;
    }
    let mut served = to_served(resource, object.clone());
    let old = old.map(|old| to_served(resource, old.clone()));
    track_update(&context, old.as_ref(), &mut served);
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
    let reset = reset(&exchange.resource, &exchange.info.subresource);
    let now = time::to_rfc3339(exchange.now);
    let context = Context {
        kind: &exchange.resource.ty,
        versions: Versions::SameShape,
        manager: &options.field_manager,
        subresource: &exchange.info.subresource,
        reset: &reset,
        now: &now,
    };
    Ok(apply_patch(&context, live, config, options.force.unwrap_or(false))?)
}
