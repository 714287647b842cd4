//! ResourceSlice: the devices of a pool.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_label, dns1123_subdomain, label_key, label_value};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use super::device_claims::{TAINT_EFFECTS, at_most, unique};
use super::device_gates;
use crate::tree::{self, flag, has, int, list, list_mut, map, text};
use crate::validation::names::{attribute_name, driver_name};
use crate::validation::update::immutable;
use crate::validation::{Errors, format, scheduling};

const MAX_POOL_NAME: usize = 253;
const MAX_DEVICES: usize = 128;
const MAX_ATTRIBUTES: usize = 32;
const MAX_VALUE: usize = 64;
const MAX_TAINTS: usize = 4;
const MAX_COUNTERS: usize = 32;
const MAX_DEVICE_COUNTERS: usize = 1024;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ResourceSlice;

impl Strategy for ResourceSlice {
    fn prepare_for_create(&self, ctx: &StrategyContext<'_>, slice: &mut Value) {
        device_gates::drop_disabled(ctx, device_gates::OF_SLICES, slice, None);
        date_taints(ctx, slice);
    }

    fn prepare_for_update(&self, ctx: &StrategyContext<'_>, slice: &mut Value, old: &Value) {
        device_gates::drop_disabled(ctx, device_gates::OF_SLICES, slice, Some(old));
        date_taints(ctx, slice);
    }

    fn validate_create(&self, slice: &Value) -> Vec<FieldError> {
        spec(&slice["spec"], None)
    }

    fn validate_update(&self, slice: &Value, old: &Value) -> Vec<FieldError> {
        spec(&slice["spec"], Some(&old["spec"]))
    }
}

fn date_taints(ctx: &StrategyContext<'_>, slice: &mut Value) {
    let now = kybern_apimachinery::time::to_rfc3339(ctx.now);
    for device in slice.get_mut("spec").into_iter().flat_map(|spec| list_mut(spec, "devices")) {
        for taint in list_mut(device, "taints").iter_mut().filter(|taint| taint.is_object()) {
            tree::default(taint, "timeAdded", now.as_str());
        }
    }
}

/// The name of a pool: subdomains with slashes between them.
pub(super) fn pool_name(out: &mut Errors, path: &FieldPath, name: &str) {
    if name.is_empty() {
        out.push(FieldError::required(path, ""));
        return;
    }
    if name.len() > MAX_POOL_NAME {
        out.push(FieldError::too_long(path, MAX_POOL_NAME));
    }
    for part in name.split('/') {
        format::invalid(out, path, part, dns1123_subdomain(part));
    }
}

fn spec(spec: &Value, old: Option<&Value>) -> Errors {
    let (mut out, path) = (Vec::new(), FieldPath::new("spec"));
    driver_name(&mut out, &path.child("driver"), text(spec, "driver"));
    let (pool, pool_path) = (&spec["pool"], path.child("pool"));
    pool_name(&mut out, &pool_path.child("name"), text(pool, "name"));
    let count = int(pool, "resourceSliceCount").unwrap_or(0);
    if count <= 0 {
        let path = pool_path.child("resourceSliceCount");
        out.push(FieldError::invalid(&path, count, "must be greater than zero"));
    }
    if let Some(generation) = int(pool, "generation").filter(|g| *g < 0) {
        let detail = "must be greater than or equal to zero";
        out.push(FieldError::invalid(&pool_path.child("generation"), generation, detail));
    }
    if let Some(old) = old {
        let kept = |value: &Value, field: &str| Value::from(text(value, field));
        let (new_pool, old_pool) = (kept(pool, "name"), kept(&old["pool"], "name"));
        immutable(&mut out, &pool_path.child("name"), Some(&new_pool), Some(&old_pool));
        let (new_driver, old_driver) = (kept(spec, "driver"), kept(old, "driver"));
        immutable(&mut out, &path.child("driver"), Some(&new_driver), Some(&old_driver));
        immutable(&mut out, &path.child("nodeName"), spec.get("nodeName"), old.get("nodeName"));
    }
    let empty = "must be either unset or set to a non-empty string";
    let set = node_selection(&mut out, &path, spec, true, empty);
    one_selection(
        &mut out,
        &path,
        &set,
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
        ", but multiple fields are set",
    );
    let (devices, devices_path) = (list(spec, "devices"), path.child("devices"));
    let counters = list(spec, "sharedCounters");
    for (i, item) in devices.iter().enumerate() {
        device(&mut out, &devices_path.index(i), item, counters, flag(spec, "perDeviceNodeSelection"));
    }
    at_most(&mut out, &devices_path, devices, MAX_DEVICES);
    unique(&mut out, &devices_path, devices, "name", |device| text(device, "name").to_owned());
    let consumed: usize = devices.iter().map(consumed_counters).sum();
    if consumed > MAX_DEVICE_COUNTERS {
        let detail = format!("the total number of counters in devices must not exceed {MAX_DEVICE_COUNTERS}");
        out.push(FieldError::invalid(&devices_path, consumed, detail));
    }
    let counters_path = path.child("sharedCounters");
    let shared: usize = counters.iter().map(|set| map(set, "counters").count()).sum();
    if shared > MAX_COUNTERS {
        let detail = format!("the total number of shared counters must not exceed {MAX_COUNTERS}");
        out.push(FieldError::invalid(&counters_path, shared, detail));
    }
    for (i, set) in counters.iter().enumerate() {
        let path = counters_path.index(i);
        format::required_name(&mut out, &path.child("name"), text(set, "name"), dns1123_label);
        counter_names(&mut out, &path.child("counters"), set);
    }
    unique(&mut out, &counters_path, counters, "name", |set| text(set, "name").to_owned());
    out
}

fn consumed_counters(device: &Value) -> usize {
    list(device, "consumesCounters").iter().map(|set| map(set, "counters").count()).sum()
}

/// Which of the ways to say on what nodes something is are used.
fn node_selection(out: &mut Errors, path: &FieldPath, owner: &Value, whole: bool, empty: &str) -> Vec<&'static str> {
    let mut set = Vec::new();
    if has(owner, "nodeName") {
        let (name, path) = (text(owner, "nodeName"), path.child("nodeName"));
        if name.is_empty() {
            out.push(FieldError::invalid(&path, name, empty));
        } else {
            set.push("`nodeName`");
            format::invalid(out, &path, name, dns1123_subdomain(name));
        }
    }
    if has(owner, "nodeSelector") {
        set.push("`nodeSelector`");
        let (selector, path) = (&owner["nodeSelector"], path.child("nodeSelector"));
        scheduling::node_selector(out, &path, selector, true);
        let terms = list(selector, "nodeSelectorTerms");
        if whole && terms.len() != 1 {
            let detail = "must have exactly one node selector term";
            out.push(FieldError::invalid(&path.child("nodeSelectorTerms"), terms.to_vec(), detail));
        }
    }
    let flags: &[(&str, &'static str)] = if whole {
        &[("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")]
    } else {
        &[("allNodes", "`allNodes`")]
    };
    for (field, named) in flags {
        if flag(owner, field) {
            set.push(named);
        } else if has(owner, field) {
            out.push(FieldError::invalid(&path.child(field), false, "must be either unset or set to true"));
        }
    }
    set
}

fn one_selection(out: &mut Errors, path: &FieldPath, set: &[&str], detail: &str, several: &str) {
    match set.len() {
        0 => out.push(FieldError::required(path, detail)),
        1 => {}
        _ => out.push(FieldError::invalid(path, format!("{{{}}}", set.join(", ")), format!("{detail}{several}"))),
    }
}

fn device(out: &mut Errors, path: &FieldPath, device: &Value, shared: &[Value], selects_nodes: bool) {
    let name = text(device, "name");
    format::invalid(out, &path.child("name"), name, dns1123_label(name));
    let total = map(device, "attributes").count() + map(device, "capacity").count();
    if total > MAX_ATTRIBUTES {
        let detail = format!("the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES}");
        out.push(FieldError::invalid(path, total, detail));
    }
    for (name, value) in map(device, "attributes") {
        let path = path.child("attributes").key(name);
        attribute_name(out, &path, name);
        attribute(out, &path, value);
    }
    for (name, _) in map(device, "capacity") {
        attribute_name(out, &path.child("capacity").key(name), name);
    }
    let (taints, taints_path) = (list(device, "taints"), path.child("taints"));
    for (i, item) in taints.iter().enumerate() {
        taint(out, &taints_path.index(i), item, &TAINT_EFFECTS);
    }
    at_most(out, &taints_path, taints, MAX_TAINTS);
    counters(out, path, device, shared);
    if selects_nodes {
        let set = node_selection(out, path, device, false, "must not be empty");
        let detail = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        one_selection(out, path, &set, detail, "");
    } else if ["nodeName", "nodeSelector", "allNodes"].iter().any(|field| has(device, field)) {
        let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        out.push(FieldError::invalid(path, Value::Null, detail));
    }
}

pub(super) fn taint(out: &mut Errors, path: &FieldPath, taint: &Value, effects: &[&str]) {
    let (key, value) = (text(taint, "key"), text(taint, "value"));
    format::invalid(out, &path.child("key"), key, label_key(key));
    format::invalid(out, &path.child("value"), value, label_value(value));
    format::required_one_of(out, &path.child("effect"), text(taint, "effect"), effects);
}

/// What a device takes of counters that it shares with others.
fn counters(out: &mut Errors, path: &FieldPath, device: &Value, shared: &[Value]) {
    let (sets, sets_path) = (list(device, "consumesCounters"), path.child("consumesCounters"));
    for (i, set) in sets.iter().enumerate() {
        let path = sets_path.index(i);
        if text(set, "counterSet").is_empty() {
            out.push(FieldError::required(&path.child("counterSet"), ""));
        }
        counter_names(out, &path.child("counters"), set);
    }
    unique(out, &sets_path, sets, "counterSet", |set| text(set, "counterSet").to_owned());
    let total = consumed_counters(device);
    if total > MAX_COUNTERS {
        let detail = format!("the total number of counters must not exceed {MAX_COUNTERS}");
        out.push(FieldError::invalid(path, total, detail));
    }
    for (i, set) in sets.iter().enumerate() {
        let (path, name) = (sets_path.index(i), text(set, "counterSet"));
        let Some(known) = shared.iter().rfind(|known| text(known, "name") == name) else {
            let detail = "must reference a counterSet defined in the ResourceSlice sharedCounters";
            out.push(FieldError::invalid(&path.child("counterSet"), name, detail));
            continue;
        };
        for (counter, _) in map(set, "counters").filter(|(counter, _)| known["counters"].get(*counter).is_none()) {
            let detail = "must reference a counter defined in the ResourceSlice sharedCounters";
            out.push(FieldError::invalid(&path.child("counters"), counter.as_str(), detail));
        }
    }
}

fn counter_names(out: &mut Errors, path: &FieldPath, set: &Value) {
    if map(set, "counters").next().is_none() {
        out.push(FieldError::required(path, ""));
    }
    for (name, _) in map(set, "counters") {
        format::invalid(out, &path.key(name), name, dns1123_label(name));
    }
}

fn attribute(out: &mut Errors, path: &FieldPath, value: &Value) {
    let set = ["bool", "int", "string", "version"].iter().filter(|field| has(value, field)).count();
    if has(value, "string") && text(value, "string").len() > MAX_VALUE {
        out.push(FieldError::too_long(&path.child("string"), MAX_VALUE));
    }
    if has(value, "version") {
        let (version, path) = (text(value, "version"), path.child("version"));
        if !is_semantic_version(version) {
            let detail = "must be a string compatible with semver.org spec 2.0.0";
            out.push(FieldError::invalid(&path, version, detail));
        }
        if version.len() > MAX_VALUE {
            out.push(FieldError::too_long(&path, MAX_VALUE));
        }
    }
    match set {
        0 => out.push(FieldError::required(path, "exactly one value must be specified")),
        1 => {}
        _ => out.push(FieldError::invalid(path, value.clone(), "exactly one value must be specified")),
    }
}

fn is_semantic_version(text: &str) -> bool {
    let number = |part: &str| {
        !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let pre_part = |part: &str| word(part) && (number(part) || !part.bytes().all(|c| c.is_ascii_digit()));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(pre_part))
        && build.is_none_or(|build| build.split('.').all(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;
    use kybern_apiserver::strategy::Features;

    fn texts(devices: Value) -> Vec<String> {
        let slice = json!({"spec": {
            "driver": "d", "nodeName": "n", "pool": {"name": "p", "resourceSliceCount": 1}, "devices": devices,
        }});
        ResourceSlice.validate_create(&slice).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_attribute_has_one_value() {
        assert!(texts(json!([{"name": "a", "attributes": {"x": {"version": "1.2.3-rc.1+b"}}}])).is_empty());
        assert_eq!(
            texts(json!([{"name": "a", "attributes": {"x": {}}}])),
            ["spec.devices[0].attributes[x]: Required value: exactly one value must be specified"]
        );
    }

    #[test]
    fn versions() {
        for (version, good) in
            [("1.2.3", true), ("01.2.3", false), ("1.2", false), ("1.2.3-01", false), ("1.2.3-a.0+x", true)]
        {
            assert_eq!(is_semantic_version(version), good, "{version}");
        }
    }

    #[test]
    fn counters_are_shared() {
        assert_eq!(
            texts(json!([{"name": "a", "consumesCounters": [{"counterSet": "s", "counters": {"c": {"value": "1"}}}]}])),
            [
                "spec.devices[0].consumesCounters[0].counterSet: Invalid value: \"s\": must reference a counterSet defined in the ResourceSlice sharedCounters"
            ]
        );
    }

    #[test]
    fn taints_are_behind_their_gate() {
        let slice = |taints: Value| json!({"spec": {"devices": [{"name": "d", "taints": taints}]}});
        let tainted = || slice(json!([{"key": "k", "effect": "NoExecute"}]));
        let user = kybern_apiserver::access::UserInfo::default();
        for (open, old, kept) in [
            (false, None, false),
            (false, Some(slice(json!([]))), false),
            (false, Some(tainted()), true),
            (true, None, true),
            (true, Some(slice(json!([]))), true),
        ] {
            let features: Features = open.then_some("DRADeviceTaints").into_iter().collect();
            let ctx =
                StrategyContext { user: &user, now: jiff::Timestamp::UNIX_EPOCH, dry_run: false, features: &features };
            let mut new = tainted();
            match &old {
                None => ResourceSlice.prepare_for_create(&ctx, &mut new),
                Some(old) => ResourceSlice.prepare_for_update(&ctx, &mut new, old),
            }
            let added = &new["spec"]["devices"][0]["taints"][0]["timeAdded"];
            assert_eq!(*added == "1970-01-01T00:00:00Z", kept, "{open} {old:?}");
        }
    }
}
