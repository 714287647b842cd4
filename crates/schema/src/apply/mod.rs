//! Server-side apply: who owns which field, and what an applied configuration makes of a live object. Upstream is
//! `sigs.k8s.io/structured-merge-diff` and `k8s.io/apimachinery/pkg/util/managedfields`.
//!
//! The API server calls [`track_update`] on every create, update and patch, after defaulting and mutating admission;
//! [`apply_patch`] on an apply patch, and decodes and defaults what it answers; and [`keep_times`] last, so that a write
//! that changes nothing is none. Everything here is pure.

mod compare;
mod configuration;
mod created;
mod fields;
mod last_applied;
mod managed;
mod merge;
mod owners;
mod path;
mod set;
mod shape;
#[cfg(test)]
mod tests;
mod validate;

use kybern_apimachinery::{ApiError, Reason, Value, json, object};

pub use configuration::merge_configuration;
pub use managed::{Identity, ManagedFields, Operation, Owned};
pub use owners::Conflict;
pub use path::PathElement;
pub use set::FieldSet;

use crate::decode;
use crate::types::{KindType, Type};

/// The manager that owns everything in an object that had no managed fields when it was first applied to.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Converts an object to another served version; `None` when that is not served.
pub type Convert<'a> = dyn Fn(&Value, &str) -> Option<(KindType, Value)> + 'a;

/// How fields that were set in other versions of the kind are found.
#[derive(Clone, Copy)]
pub enum Versions<'a> {
    /// All versions have the same fields.
    SameShape,
    Convert(&'a Convert<'a>),
}

impl Versions<'_> {
    fn is_same_shape(self) -> bool {
        matches!(self, Self::SameShape)
    }
}

/// What is known of a request.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The kind in the request's version, which all objects are in.
    pub kind: &'a KindType,
    pub versions: Versions<'a>,
    /// The query parameter `fieldManager`, else what [`manager_of_user_agent`] answers.
    pub manager: &'a str,
    /// Empty for the resource itself.
    pub subresource: &'a str,
    /// What the strategy takes back from every writer, such as `status`: nobody owns it by this request.
    pub reset: &'a FieldSet,
    /// RFC 3339 in UTC with whole seconds.
    pub now: &'a str,
}

/// Why a configuration was not applied. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ApplyError {
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    #[error("{0}")]
    Malformed(String),
    /// The configuration does not fit its kind.
    #[error("failed to create typed patch object {0}")]
    Untyped(String),
    /// The live object's own managed fields cannot be read.
    #[error("failed to decode managed fields: {0}")]
    ManagedFields(String),
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> Self {
        let text = error.to_string();
        match error {
            ApplyError::Malformed(_) => Self::bad_request(text),
            // Upstream has no reason for it either.
            ApplyError::Untyped(_) => Self::new(Reason::Unknown, text),
            ApplyError::ManagedFields(_) => Self::internal(text),
            ApplyError::Conflicts(conflicts) => {
                let cause = |conflict: &Conflict| {
                    json!({
                        "reason": "FieldManagerConflict",
                        "message": format!("conflict with {}", conflict.manager),
                        "field": path::display(&conflict.path),
                    })
                };
                let causes: Vec<Value> = conflicts.iter().map(cause).collect();
                Self::new(Reason::Conflict, text).with_details(json!({"causes": causes}))
            }
        }
    }
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, path::display(&one.path));
    }
    let mut lines = Vec::new();
    let mut manager = None;
    for conflict in conflicts {
        if manager != Some(&conflict.manager) {
            lines.push(format!("conflicts with {}:", conflict.manager));
            manager = Some(&conflict.manager);
        }
        lines.push(format!("- {}", path::display(&conflict.path)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// Sets `new`'s managed fields after a create (no `old`), an update, or a patch that is no apply patch.
///
/// A client may write managed fields itself (not through a subresource): what it sends is taken as the state before,
/// unless it is empty or malformed, and a list of one empty entry gives up all tracking.
pub fn track_update(ctx: &Context<'_>, old: Option<&Value>, new: &mut Value) {
    let sent = object::at(new, &["metadata", "managedFields"]);
    let reset = sent.and_then(Value::as_array).is_some_and(|l| matches!(l.as_slice(), [one] if is_blank(one)));
    let mut managed = if ctx.subresource.is_empty() && reset {
        ManagedFields::default()
    } else {
        let sent = if ctx.subresource.is_empty() { ManagedFields::of(new).ok() } else { None };
        let kept = || old.and_then(|old| ManagedFields::of(old).ok()).unwrap_or_default();
        sent.filter(|sent| !sent.0.is_empty()).unwrap_or_else(kept)
    };
    match old {
        // An object that nobody tracks stays so until it is applied.
        Some(_) if managed.0.is_empty() => {}
        Some(old) => owners::update(ctx, old, new, &mut managed, ctx.manager),
        None if managed.0.is_empty() => return created::track(ctx, new),
        None => owners::update(ctx, &zero(ctx.kind), new, &mut managed, ctx.manager),
    }
    managed.store(new);
}

/// What Go writes for an object with nothing set. A create is compared with it, so that the creator owns no struct that is
/// always there.
fn zero(kind: &KindType) -> Value {
    decode::zero(&kind.schema, &Type::Struct(kind.root))
}

fn is_blank(entry: &Value) -> bool {
    let blank = |value: &Value| value.is_null() || value == "";
    entry.as_object().is_some_and(|entry| entry.values().all(blank))
}

/// Applies a configuration; `live` is none when the object does not exist yet. Answers the new object with its managed
/// fields, still to be decoded and defaulted; equal to `live` when nothing changes.
pub fn apply_patch(ctx: &Context<'_>, live: Option<&Value>, config: &Value, force: bool) -> Result<Value, ApplyError> {
    let kind = ctx.kind;
    let api_version = kind.gvk.api_version();
    if object::api_version(config) != api_version {
        return Err(ApplyError::Malformed(format!(
            "Incorrect version specified in apply patch. Specified patch version: {}, expected: {api_version}",
            object::api_version(config)
        )));
    }
    if object::at(config, &["metadata", "managedFields"]).is_some_and(|m| !m.is_null()) {
        return Err(ApplyError::Malformed("metadata.managedFields must be nil".to_owned()));
    }
    validate::validate(kind, config).map_err(|text| {
        let (namespace, name) = (object::namespace(config), object::name(config));
        ApplyError::Untyped(format!("({namespace}/{name}; {}): {text}", kind.gvk))
    })?;
    let empty = json!({"apiVersion": api_version, "kind": kind.gvk.kind});
    let base = live.unwrap_or(&empty);
    let mut managed = ManagedFields::of(base).map_err(ApplyError::ManagedFields)?;
    if let (Some(live), true) = (live, managed.0.is_empty()) {
        owners::update(ctx, &zero(kind), live, &mut managed, BEFORE_FIRST_APPLY);
    }
    let mut new = match owners::apply(ctx, base, config, &mut managed, force) {
        Ok(new) => new,
        Err(conflicts) => {
            let allowed = match ctx.manager {
                last_applied::KUBECTL => last_applied::unchanged(kind, base),
                _ => FieldSet::default(),
            };
            let is_allowed = |conflict: &Conflict| {
                let mut path = FieldSet::default();
                path.insert(&conflict.path);
                !path.intersection(&allowed).is_empty()
            };
            let real: Vec<Conflict> = conflicts.into_iter().filter(|c| !is_allowed(c)).collect();
            if !real.is_empty() {
                return Err(ApplyError::Conflicts(real));
            }
            owners::apply(ctx, base, config, &mut managed, true).map_err(ApplyError::Conflicts)?
        }
    };
    if ctx.manager == last_applied::KUBECTL && ctx.subresource.is_empty() {
        last_applied::refresh(base, config, &mut new);
    }
    managed.store(&mut new);
    Ok(new)
}

/// Gives `new` the managed fields of `old` if nothing but their times differs, so that the write changes nothing.
pub fn keep_times(old: &Value, new: &mut Value) {
    const PATH: [&str; 2] = ["metadata", "managedFields"];
    let (Some(before), Some(after)) = (object::at(old, &PATH), object::at(new, &PATH)) else { return };
    if before == after || !same_but_times(before, after) {
        return;
    }
    let (before, after) = (before.clone(), after.clone());
    object::set(new, &PATH, before);
    if new != old {
        object::set(new, &PATH, after);
    }
}

fn same_but_times(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_array(), b.as_array()) else { return false };
    let plain = |entry: &Value| {
        let mut entry = entry.clone();
        object::remove(&mut entry, &["time"]);
        entry
    };
    // A new time can change the order.
    a.len() == b.len() && a.iter().all(|x| b.iter().any(|y| plain(x) == plain(y)))
}

/// The manager's name when a request names none: the user agent up to the first slash, at most 128 characters that can
/// be printed.
pub fn manager_of_user_agent(user_agent: &str) -> String {
    let name = user_agent.split('/').next().unwrap_or("");
    name.chars().filter(|c| !c.is_control()).take(128).collect()
}
