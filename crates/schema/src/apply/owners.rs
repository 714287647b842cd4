//! What an operation does to the owners of fields: the algorithm of server-side apply
//! (`sigs.k8s.io/structured-merge-diff/merge`).

use std::collections::BTreeMap;
use std::sync::LazyLock;

use kybern_apimachinery::Value;

use super::compare::{Comparison, compare};
use super::fields::{field_set, with_named_fields, without};
use super::managed::{Identity, ManagedFields, Operation, Owned};
use super::merge::merge;
use super::path::PathElement;
use super::set::FieldSet;
use super::{Context, Versions};
use crate::types::KindType;

/// A field that an apply would change and another manager owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub manager: Identity,
    pub path: Vec<PathElement>,
}

/// The object as seen in every version in which someone owns fields.
struct Differences<'a> {
    ctx: &'a Context<'a>,
    old: &'a Value,
    new: &'a Value,
    /// Keyed by `apiVersion`; `None` for one that is no longer served.
    found: BTreeMap<String, Option<Comparison>>,
}

impl<'a> Differences<'a> {
    fn new(ctx: &'a Context<'a>, old: &'a Value, new: &'a Value) -> Self {
        let own = compare(ctx.kind, old, new).without(ctx.reset);
        Self { ctx, old, new, found: BTreeMap::from([(ctx.kind.gvk.api_version(), Some(own))]) }
    }

    fn own(&self) -> &Comparison {
        self.found[&self.ctx.kind.gvk.api_version()].as_ref().expect("the request's own version is served")
    }

    fn at(&mut self, api_version: &str) -> Option<&Comparison> {
        let Versions::Convert(convert) = self.ctx.versions else { return Some(self.own()) };
        if !self.found.contains_key(api_version) {
            let comparison = convert(self.old, api_version).zip(convert(self.new, api_version));
            let comparison =
                comparison.map(|((kind, old), (_, new))| compare(&kind, &old, &new).without(self.ctx.reset));
            self.found.insert(api_version.to_owned(), comparison);
        }
        self.found[api_version].as_ref()
    }
}

/// Takes from every manager but `writer` what the change took from it; answers what that conflicts with.
fn disown(all: &mut ManagedFields, differences: &mut Differences<'_>, writer: Option<&Identity>) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    all.0.retain(|manager, owned| {
        if Some(manager) == writer {
            return true;
        }
        let Some(comparison) = differences.at(&owned.api_version) else { return false };
        if comparison.is_empty() {
            return true;
        }
        let taken = owned.fields.intersection(&comparison.written());
        conflicts.extend(taken.paths().into_iter().map(|path| Conflict { manager: manager.clone(), path }));
        owned.fields = std::mem::take(&mut owned.fields).difference(&taken).difference(&comparison.removed);
        true
    });
    all.drop_empty();
    conflicts
}

/// An update: the writer owns what it wrote, and nobody else does.
pub(super) fn update(ctx: &Context<'_>, old: &Value, new: &Value, all: &mut ManagedFields, manager: &str) {
    let mut differences = Differences::new(ctx, old, new);
    if differences.own().is_empty() {
        return;
    }
    disown(all, &mut differences, None);
    let comparison = differences.own();
    let written = comparison.written().difference(&comparison.removed).difference(&NEVER_OWNED);
    if written.is_empty() {
        return;
    }
    let api_version = ctx.kind.gvk.api_version();
    let writer = Identity::new(manager, Operation::Update, ctx.subresource, &api_version);
    let owned = all.0.entry(writer).or_insert(Owned { api_version, time: None, fields: FieldSet::default() });
    owned.fields.extend(&written);
    owned.time = Some(ctx.now.to_owned());
    all.cap();
}

/// An apply: the configuration is merged into the live object, what the applier no longer sets and nobody else owns is
/// removed, and the applier owns what it set. Answers the new object, or the conflicts if it may not force.
pub(super) fn apply(
    ctx: &Context<'_>,
    live: &Value,
    config: &Value,
    all: &mut ManagedFields,
    force: bool,
) -> Result<Value, Vec<Conflict>> {
    let api_version = ctx.kind.gvk.api_version();
    let applier = Identity::new(ctx.manager, Operation::Apply, ctx.subresource, &api_version);
    let before = all.clone();
    let set = field_set(ctx.kind, config).recursive_difference(ctx.reset);
    let last = all.0.remove(&applier);
    let time = last.as_ref().and_then(|last| last.time.clone());
    all.0.insert(applier.clone(), Owned { api_version, time, fields: set });
    let merged = merge(ctx.kind, live, config);
    let merged = match last {
        // Merged again: what the configuration sets to empty is there, even if removing has left it empty.
        Some(last) if !last.fields.is_empty() => merge(ctx.kind, &remove_abandoned(ctx, merged, all, &last), config),
        _ => merged,
    };
    let mut differences = Differences::new(ctx, live, &merged);
    let conflicts = disown(all, &mut differences, Some(&applier));
    if !force && !conflicts.is_empty() {
        *all = before;
        return Err(conflicts);
    }
    if let Some(owned) = all.0.get_mut(&applier) {
        owned.fields = std::mem::take(&mut owned.fields).difference(&NEVER_OWNED);
    }
    all.drop_empty();
    // Upstream dates only what changes the object.
    if merged != *live
        && let Some(owned) = all.0.get_mut(&applier)
    {
        owned.time = Some(ctx.now.to_owned());
    }
    Ok(merged)
}

/// Removes what the applier set the last time, does not set now, and no one else owns.
fn remove_abandoned(ctx: &Context<'_>, merged: Value, all: &ManagedFields, last: &Owned) -> Value {
    let converted = match ctx.versions {
        Versions::Convert(convert) if last.api_version != ctx.kind.gvk.api_version() => {
            match convert(&merged, &last.api_version) {
                Some(converted) => Some(converted),
                // Nothing can be said of fields of a version that is no longer served.
                None => return merged,
            }
        }
        _ => None,
    };
    let (kind, object): (&KindType, &Value) = match &converted {
        Some((kind, object)) => (kind, object),
        None => (ctx.kind, &merged),
    };
    let everything = with_named_fields(kind, &field_set(kind, object));
    let last = with_named_fields(kind, &last.fields);
    let mut owned = FieldSet::default();
    for other in all.0.values() {
        if ctx.versions.is_same_shape() || other.api_version == kind.gvk.api_version() {
            owned.extend(&other.fields);
        }
    }
    let owned = with_named_fields(kind, &owned);
    // What would be gone if all of the last set went, minus what someone owns: and of that only the last set itself.
    let left = with_named_fields(kind, &field_set(kind, &without(kind, object, &last)));
    let gone = everything.clone().difference(&left.union(&owned));
    let left = with_named_fields(kind, &field_set(kind, &without(kind, object, &gone)));
    let gone = everything.difference(&left).intersection(&last);
    let pruned = without(kind, object, &gone);
    match (ctx.versions, &converted) {
        (Versions::Convert(convert), Some(_)) => {
            convert(&pruned, &ctx.kind.gvk.api_version()).map_or(merged, |(_, object)| object)
        }
        _ => pruned,
    }
}

/// What every object has and the server alone answers for.
pub(super) static NEVER_OWNED: LazyLock<FieldSet> = LazyLock::new(|| {
    FieldSet::of_fields(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
});
