//! Patches of each type: an object and a patch, a line each.

use kybern_apimachinery::{Budget, Value};
use kybern_schema::apply::{Context, FieldSet, Versions, apply_patch, track_update};
use kybern_schema::decode::{json_to_value, yaml_to_value};
use kybern_schema::patch::{json, merge, strategic};

use crate::halves;
use crate::trees::KINDS;

fn both(data: &[u8]) -> Option<(Value, Value)> {
    let (object, patch) = halves(data)?;
    Some((json_to_value(object).ok()?, json_to_value(patch).ok()?))
}

pub(crate) fn json(data: &[u8]) {
    let Some((object, patch)) = both(data) else { return };
    if let Ok(patched) = json::apply(object, &patch) {
        Budget::STORED.check(&patched).expect("a patch keeps the budget");
    }
}

pub(crate) fn merge(data: &[u8]) {
    let Some((object, patch)) = both(data) else { return };
    let _ = merge::apply(object, patch);
}

pub(crate) fn strategic(data: &[u8]) {
    let Some((object, patch)) = both(data) else { return };
    let _ = kybern_apimachinery::go::value(&patch);
    let _ = strategic::apply(&KINDS[0], object, patch);
}

pub(crate) fn apply(data: &[u8]) {
    let Some((live, config)) = halves(data) else { return };
    let Ok(config) = yaml_to_value(config) else { return };
    let live = json_to_value(live).ok();
    let reset = FieldSet::default();
    let context = Context {
        kind: &KINDS[0],
        versions: Versions::SameShape,
        manager: "m",
        subresource: "",
        reset: &reset,
        now: "2026-01-01T00:00:00Z",
    };
    for force in [false, true] {
        if let Ok(mut applied) = apply_patch(&context, live.as_ref(), &config, force) {
            track_update(&context, live.as_ref(), &mut applied);
        }
    }
}
