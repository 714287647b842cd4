//! DeviceTaintRule: a taint of an administrator on devices that are selected by driver, pool and name.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::dns1123_label;
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use super::device_slices::{pool_name, taint};
use super::status::reset_status;
use crate::tree::{self, has, text};
use crate::validation::names::driver_name;
use crate::validation::{Errors, conditions, format};

/// `None` only tells in the status what would come of the others.
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DeviceTaintRule;

impl Strategy for DeviceTaintRule {
    fn prepare_for_create(&self, ctx: &StrategyContext<'_>, rule: &mut Value) {
        reset_status(rule);
        date(ctx, rule);
    }

    /// A taint that has another effect is there since then, unless somebody says otherwise: that is from when its toleration
    /// is counted.
    fn prepare_for_update(&self, ctx: &StrategyContext<'_>, rule: &mut Value, old: &Value) {
        let (new_taint, old_taint) = (&rule["spec"]["taint"], &old["spec"]["taint"]);
        let is_other = text(new_taint, "effect") != text(old_taint, "effect");
        if is_other && new_taint["timeAdded"] == old_taint["timeAdded"] && new_taint.is_object() {
            tree::drop_field(&mut rule["spec"]["taint"], "timeAdded");
        }
        date(ctx, rule);
    }

    fn validate(&self, rule: &Value) -> Vec<FieldError> {
        let (mut out, path) = (Vec::new(), FieldPath::new("spec"));
        let spec = &rule["spec"];
        selector(&mut out, &path.child("deviceSelector"), &spec["deviceSelector"]);
        taint(&mut out, &path.child("taint"), &spec["taint"], &EFFECTS);
        out
    }
}

fn date(ctx: &StrategyContext<'_>, rule: &mut Value) {
    if let Some(taint) = rule.pointer_mut("/spec/taint").filter(|taint| taint.is_object()) {
        tree::default(taint, "timeAdded", kybern_apimachinery::time::to_rfc3339(ctx.now));
    }
}

fn selector(out: &mut Errors, path: &FieldPath, selector: &Value) {
    if has(selector, "driver") {
        driver_name(out, &path.child("driver"), text(selector, "driver"));
    }
    if has(selector, "pool") {
        pool_name(out, &path.child("pool"), text(selector, "pool"));
    }
    if has(selector, "device") {
        let name = text(selector, "device");
        format::invalid(out, &path.child("device"), name, dns1123_label(name));
    }
}

pub(super) fn validate_status(rule: &Value, _: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    conditions::validate(&mut out, &FieldPath::new("status"), &rule["status"]);
    out
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;
    use kybern_apiserver::access::UserInfo;
    use kybern_apiserver::strategy::Features;

    use super::*;

    #[test]
    fn a_rule_selects_by_names_and_has_one_taint() {
        let texts = |selector: Value, taint: Value| -> Vec<String> {
            let rule = json!({"spec": {"deviceSelector": selector, "taint": taint}});
            DeviceTaintRule.validate(&rule).iter().map(ToString::to_string).collect()
        };
        let fine = json!({"key": "example.com/bad", "effect": "NoExecute"});
        assert!(texts(json!({"driver": "dra.io", "pool": "a/b", "device": "gpu-0"}), fine.clone()).is_empty());
        assert!(texts(Value::Null, json!({"key": "a", "value": "b", "effect": "None"})).is_empty());
        let wrong = texts(json!({"driver": "-", "pool": "", "device": "A"}), json!({"key": "", "effect": "Evict"}));
        let starts = ["driver", "pool", "device"].map(|field| format!("spec.deviceSelector.{field}: "));
        for start in starts.iter().map(String::as_str).chain(["spec.taint.key: ", "spec.taint.effect: "]) {
            assert!(wrong.iter().any(|text| text.starts_with(start)), "{start} {wrong:?}");
        }
        assert!(wrong.last().unwrap().ends_with(r#"supported values: "NoExecute", "NoSchedule", "None""#), "{wrong:?}");
    }

    #[test]
    fn a_taint_is_there_since_it_has_its_effect() {
        let user = UserInfo::default();
        let features = Features::default();
        let at = |second| StrategyContext {
            user: &user,
            now: jiff::Timestamp::from_second(second).unwrap(),
            dry_run: false,
            features: &features,
        };
        let mut rule = json!({"spec": {"taint": {"key": "a", "effect": "NoSchedule"}}, "status": {"conditions": [1]}});
        DeviceTaintRule.prepare_for_create(&at(0), &mut rule);
        let added = |rule: &Value| rule["spec"]["taint"]["timeAdded"].as_str().unwrap().to_owned();
        assert_eq!((added(&rule).as_str(), &rule["status"]), ("1970-01-01T00:00:00Z", &json!({})));
        let same = rule.clone();
        let mut other = rule.clone();
        DeviceTaintRule.prepare_for_update(&at(60), &mut other, &same);
        assert_eq!(added(&other), "1970-01-01T00:00:00Z");
        other["spec"]["taint"]["effect"] = "NoExecute".into();
        let mut told = other.clone();
        DeviceTaintRule.prepare_for_update(&at(60), &mut other, &same);
        assert_eq!(added(&other), "1970-01-01T00:01:00Z");
        told["spec"]["taint"]["timeAdded"] = "1970-01-01T00:00:07Z".into();
        DeviceTaintRule.prepare_for_update(&at(60), &mut told, &same);
        assert_eq!(added(&told), "1970-01-01T00:00:07Z");
    }
}
