//! Fields of devices and of claims to them that are behind feature gates: without its gate nobody begins to use one; where they
//! are used already they stay.

use kybern_apimachinery::Value;
use kybern_apiserver::strategy::StrategyContext;

use crate::tree::drop_field;

/// A gate, and the fields behind it; a step `*` is every item.
type Gate = (&'static str, &'static [&'static str]);

pub(super) const OF_SLICES: &[Gate] = &[
    ("DRADeviceTaints", &["spec.devices.*.taints"]),
    (
        "DRAPartitionableDevices",
        &[
            "spec.sharedCounters",
            "spec.perDeviceNodeSelection",
            "spec.devices.*.consumesCounters",
            "spec.devices.*.nodeName",
            "spec.devices.*.nodeSelector",
            "spec.devices.*.allNodes",
        ],
    ),
    (
        "DRADeviceBindingConditions",
        &["spec.devices.*.bindingConditions", "spec.devices.*.bindingFailureConditions", "spec.devices.*.bindsToNode"],
    ),
    ("DRAConsumableCapacity", &["spec.devices.*.allowMultipleAllocations", "spec.devices.*.capacity.*.requestPolicy"]),
];
pub(super) const OF_CLAIMS: &[Gate] = &[(
    "DRAConsumableCapacity",
    &["spec.devices.requests.*.exactly.capacity", "spec.devices.requests.*.firstAvailable.*.capacity"],
)];
pub(super) const OF_TEMPLATES: &[Gate] = &[(
    "DRAConsumableCapacity",
    &["spec.spec.devices.requests.*.exactly.capacity", "spec.spec.devices.requests.*.firstAvailable.*.capacity"],
)];
pub(super) const OF_CLASSES: &[Gate] = &[("DRAExtendedResource", &["spec.extendedResourceName"])];

pub(super) fn drop_disabled(ctx: &StrategyContext<'_>, gates: &[Gate], object: &mut Value, old: Option<&Value>) {
    for (_, paths) in gates.iter().filter(|(gate, _)| !ctx.features.has(gate)) {
        let in_use = |old: &Value| paths.iter().any(|path| is_set(old, path));
        if !old.is_some_and(in_use) {
            paths.iter().for_each(|path| drop(object, path));
        }
    }
}

fn is_set(value: &Value, path: &str) -> bool {
    match path.split_once('.') {
        None => value.get(path).is_some_and(|value| !value.is_null() && value.as_array().is_none_or(|a| !a.is_empty())),
        Some(("*", rest)) => match value {
            Value::Array(items) => items.iter().any(|item| is_set(item, rest)),
            Value::Object(items) => items.values().any(|item| is_set(item, rest)),
            _ => false,
        },
        Some((field, rest)) => value.get(field).is_some_and(|value| is_set(value, rest)),
    }
}

fn drop(value: &mut Value, path: &str) {
    match path.split_once('.') {
        None => drop_field(value, path),
        Some(("*", rest)) => match value {
            Value::Array(items) => items.iter_mut().for_each(|item| drop(item, rest)),
            Value::Object(items) => items.values_mut().for_each(|item| drop(item, rest)),
            _ => {}
        },
        Some((field, rest)) => {
            if let Some(value) = value.get_mut(field) {
                drop(value, rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;
    use kybern_apiserver::access::UserInfo;
    use kybern_apiserver::strategy::Features;

    use super::*;

    fn dropped(gates: &[Gate], open: Option<&'static str>, object: &Value, old: Option<&Value>) -> Value {
        let (user, features): (_, Features) = (UserInfo::default(), open.into_iter().collect());
        let now = jiff::Timestamp::UNIX_EPOCH;
        let ctx = StrategyContext { user: &user, now, dry_run: false, features: &features };
        let mut object = object.clone();
        drop_disabled(&ctx, gates, &mut object, old);
        object
    }

    #[test]
    fn each_gate_has_its_fields() {
        let device = json!({
            "name": "d", "taints": [{"key": "k"}], "consumesCounters": [{}], "nodeName": "n", "bindsToNode": true,
            "bindingConditions": ["a"], "allowMultipleAllocations": true,
            "capacity": {"memory": {"value": "1Gi", "requestPolicy": {}}},
        });
        let slice = json!({"spec": {"driver": "x", "sharedCounters": [{}], "devices": [device]}});
        let bare = json!({"name": "d", "capacity": {"memory": {"value": "1Gi"}}});
        assert_eq!(dropped(OF_SLICES, None, &slice, None), json!({"spec": {"driver": "x", "devices": [bare]}}));
        // What was in use of one gate keeps the fields of that gate.
        let old = json!({"spec": {"devices": [{"name": "other", "nodeName": "n"}]}});
        let kept = dropped(OF_SLICES, None, &slice, Some(&old));
        assert!(is_set(&kept, "spec.sharedCounters") && is_set(&kept, "spec.devices.*.consumesCounters"), "{kept}");
        assert!(!is_set(&kept, "spec.devices.*.taints") && !is_set(&kept, "spec.devices.*.bindsToNode"), "{kept}");
        for (gate, paths) in OF_SLICES {
            let kept = dropped(OF_SLICES, Some(gate), &slice, None);
            let set = paths.iter().filter(|path| is_set(&kept, path)).count();
            assert_eq!(set, paths.iter().filter(|path| is_set(&slice, path)).count(), "{gate}");
        }
        let requests = json!([{"exactly": {"capacity": {}}}, {"firstAvailable": [{"name": "a", "capacity": {}}]}]);
        let claim = json!({"spec": {"devices": {"requests": requests}}});
        let bare = json!([{"exactly": {}}, {"firstAvailable": [{"name": "a"}]}]);
        assert_eq!(dropped(OF_CLAIMS, None, &claim, None)["spec"]["devices"]["requests"], bare);
        let template = json!({"spec": claim});
        assert_eq!(dropped(OF_TEMPLATES, None, &template, None)["spec"]["spec"]["devices"]["requests"], bare);
        assert_eq!(dropped(OF_TEMPLATES, Some("DRAConsumableCapacity"), &template, None), template);
        let class = json!({"spec": {"extendedResourceName": "example.com/gpu"}});
        assert_eq!(dropped(OF_CLASSES, None, &class, None), json!({"spec": {}}));
        assert_eq!(dropped(OF_CLASSES, None, &class, Some(&class)), class);
    }
}
