//! Where writes meet server-side apply: who owns which field after them.

use std::cell::RefCell;
use std::sync::Arc;

use kybern_apimachinery::{ApiError, Value, object, time};
use kybern_schema::apply::{Context, FieldSet, Versions, apply_patch, track_update};
use kybern_schema::types::KindType;

use crate::convert::{convert, to_served};
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

/// Who writes what.
#[derive(Clone, Copy)]
pub(crate) struct Author<'a> {
    pub(crate) server: &'a Server,
    pub(crate) resource: &'a Resource,
    pub(crate) subresource: &'a str,
    pub(crate) manager: &'a str,
    pub(crate) now: jiff::Timestamp,
}

/// The shape of a version, and an object in it; `None` where it is not served.
type Converted = Option<(KindType, Value)>;

/// Conversions to find fields in that others have set in versions of another shape. What decides about owners is pure: it
/// is run again when it asked for a conversion that was not known yet.
#[derive(Default)]
struct Conversions {
    known: Vec<(Value, String, Converted)>,
    asked: RefCell<Vec<(Value, String)>>,
}

impl Conversions {
    fn get(&self, object: &Value, api_version: &str) -> Converted {
        match self.known.iter().find(|(from, to, _)| to == api_version && from == object) {
            Some((.., converted)) => converted.clone(),
            None => {
                self.asked.borrow_mut().push((object.clone(), api_version.to_owned()));
                None
            }
        }
    }

    /// Finds what was asked for; answers whether that was anything.
    async fn find(&mut self, versions: &[Arc<Resource>], resource: &Resource) -> Result<bool, ApiError> {
        let asked = std::mem::take(self.asked.get_mut());
        for (object, api_version) in &asked {
            let converted = match versions.iter().find(|r| r.api_version() == *api_version) {
                Some(to) => Some((to.ty.clone(), convert(resource, object.clone(), api_version).await?)),
                None => None,
            };
            self.known.push((object.clone(), api_version.clone(), converted));
        }
        Ok(!asked.is_empty())
    }
}

/// Calls `act` with what is known of a write.
async fn in_context<T>(author: Author<'_>, act: impl Fn(&Context<'_>) -> T) -> Result<T, ApiError> {
    let Author { server, resource, subresource, manager, now } = author;
    let reset = reset(resource, subresource);
    let now = time::to_rfc3339(now);
    let act = |versions: Versions<'_>| {
        act(&Context { kind: &resource.ty, versions, manager, subresource, reset: &reset, now: &now })
    };
    if resource.conversion.is_none() {
        return Ok(act(Versions::SameShape));
    }
    let versions = server.served.load().table.versions(resource);
    let mut conversions = Conversions::default();
    loop {
        let done = act(Versions::Convert(&|object, api_version| conversions.get(object, api_version)));
        if !conversions.find(&versions, resource).await? {
            return Ok(done);
        }
    }
}

/// Sets the managed fields of `object` after it was written in place of `old`; both in the internal version.
pub(crate) async fn track(author: Author<'_>, old: Option<&Value>, object: &mut Value) -> Result<(), ApiError> {
    let resource = author.resource;
    if resource.conversion.is_none() {
        // Versions differ by name alone; the shape is the request's.
        let reset = reset(resource, author.subresource);
        let Author { subresource, manager, .. } = author;
        let now = time::to_rfc3339(author.now);
        let versions = Versions::SameShape;
        track_update(
            &Context { kind: &resource.ty, versions, manager, subresource, reset: &reset, now: &now },
            old,
            object,
        );
        return Ok(());
    }
    let served = to_served(resource, object.clone()).await?;
    let old = match old {
        Some(old) => Some(to_served(resource, old.clone()).await?),
        None => None,
    };
    let tracked = in_context(author, |context| {
        let mut served = served.clone();
        track_update(context, old.as_ref(), &mut served);
        object::remove(&mut served, &PATH)
    });
    match tracked.await? {
        Some(managed) => object::set(object, &PATH, managed),
        None => drop(object::remove(object, &PATH)),
    }
    Ok(())
}

/// Applies a configuration to the live object, both in the served version.
pub(crate) async fn apply(
    exchange: &Exchange,
    options: &WriteOptions,
    live: Option<&Value>,
    config: &Value,
) -> Result<Value, ApiError> {
    let Exchange { server, resource, info, now, .. } = exchange;
    let author =
        Author { server, resource, subresource: &info.subresource, manager: &options.field_manager, now: *now };
    apply_as(author, options.force.unwrap_or(false), live, config).await
}

pub(crate) async fn apply_as(
    author: Author<'_>,
    force: bool,
    live: Option<&Value>,
    config: &Value,
) -> Result<Value, ApiError> {
    Ok(in_context(author, |context| apply_patch(context, live, config, force)).await??)
}
