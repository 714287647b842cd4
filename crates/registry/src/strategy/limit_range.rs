//! LimitRange.

use std::collections::BTreeSet;

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::quantity::Quantity;
use kybern_apimachinery::validation::label_key;
use kybern_apimachinery::{Value, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use crate::tree::{list, list_mut, map, text};
use crate::validation::resources::{container_name, name, overcommittable, quantity};
use crate::validation::{Errors, format};

const TYPES: [&str; 3] = ["Container", "PersistentVolumeClaim", "Pod"];

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LimitRange;

impl Strategy for LimitRange {
    fn default(&self, range: &mut Value) {
        let Some(spec) = range.get_mut("spec") else { return };
        for limit in list_mut(spec, "limits").iter_mut().filter(|limit| text(limit, "type") == "Container") {
            // A limit is at most the largest one, a request the limit, or else the least one.
            for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
                let amounts: Vec<(String, Value)> = map(limit, from).map(|(k, v)| (k.clone(), v.clone())).collect();
                for (name, amount) in amounts {
                    object::map_at_mut(limit, &[to]).entry(name).or_insert(amount);
                }
            }
        }
    }

    fn prepare_for_create(&self, _: &StrategyContext<'_>, range: &mut Value) {
        if object::name(range).is_empty() {
            let uid = object::uid(range).to_owned();
            object::set(range, &["metadata", "name"], uid);
        }
    }

    fn validate(&self, range: &Value) -> Vec<FieldError> {
        let (mut out, limits) = (Errors::new(), list(&range["spec"], "limits"));
        for (i, limit) in limits.iter().enumerate() {
            let (path, kind) = (FieldPath::new("spec.limits").index(i), text(limit, "type"));
            type_name(&mut out, &path.child("type"), kind);
            if limits[..i].iter().any(|other| text(other, "type") == kind) {
                out.push(FieldError::duplicate(&path.child("type"), kind));
            }
            names(&mut out, &path, limit, kind);
            let resources: BTreeSet<&String> =
                ALL.iter().flat_map(|part| map(limit, part)).map(|(name, _)| name).collect();
            for name in resources {
                Amounts::of(limit, kind, name).compare(&mut out, &path);
            }
        }
        out
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

const ALL: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

fn type_name(out: &mut Errors, path: &FieldPath, kind: &str) {
    let texts = label_key(kind);
    if texts.is_empty() && !kind.contains('/') && !TYPES.contains(&kind) {
        out.push(FieldError::invalid(path, kind, "must be a standard limit type or fully qualified"));
    }
    format::invalid(out, path, kind, texts);
}

/// The resources of each part, and which parts a type has.
fn names(out: &mut Errors, path: &FieldPath, limit: &Value, kind: &str) {
    let check = if matches!(kind, "Pod" | "Container") { container_name } else { name };
    for part in ALL {
        let given = map(limit, part).next().is_some();
        if kind == "Pod" && part.starts_with("default") {
            if given {
                out.push(FieldError::forbidden(&path.child(part), "may not be specified when `type` is 'Pod'"));
            }
            continue;
        }
        if part == "maxLimitRequestRatio" && kind == "PersistentVolumeClaim" {
            let bounded = ["min", "max"].iter().any(|part| limit[*part].get("storage").is_some());
            if !bounded {
                let detail = "either minimum or maximum storage value is required, but neither was provided";
                out.push(FieldError::required(&path.child("limits"), detail));
            }
        }
        for (name, _) in map(limit, part) {
            check(out, &path.child(part).key(name), name);
        }
    }
}

/// What a limit says of one resource.
struct Amounts<'a> {
    name: &'a str,
    max: Option<Quantity>,
    min: Option<Quantity>,
    default: Option<Quantity>,
    request: Option<Quantity>,
    ratio: Option<Quantity>,
}

impl<'a> Amounts<'a> {
    fn of(limit: &Value, kind: &str, name: &'a str) -> Self {
        let at = |part: &str| limit[part].get(name).and_then(quantity);
        // A pod's limit has no defaults, whatever is written there.
        let default = |part: &str| at(part).filter(|_| kind != "Pod");
        Self {
            name,
            max: at("max"),
            min: at("min"),
            default: default("default"),
            request: default("defaultRequest"),
            ratio: at("maxLimitRequestRatio"),
        }
    }

    fn compare(&self, out: &mut Errors, path: &FieldPath) {
        let mut ordered = |low: (Option<Quantity>, &str), high: (Option<Quantity>, &str), part: &str, shown: bool| {
            if let (Some(less), Some(more)) = (low.0, high.0)
                && less > more
            {
                let value = if shown { less } else { more };
                let detail = format!("{} value {less} is greater than {} value {more}", low.1, high.1);
                out.push(FieldError::invalid(&path.child(part).key(self.name), value.to_string(), detail));
            }
        };
        let (min, max) = ((self.min, "min"), (self.max, "max"));
        ordered(min, max, "min", true);
        ordered(min, (self.request, "default request"), "defaultRequest", false);
        ordered((self.request, "default request"), max, "defaultRequest", true);
        ordered((self.request, "default request"), (self.default, "default limit"), "defaultRequest", true);
        ordered(min, (self.default, "default"), "default", true);
        ordered((self.default, "default"), max, "default", false);
        self.ratio(out, &path.child("maxLimitRequestRatio").key(self.name));
        if let (Some(default), Some(request)) = (self.default, self.request)
            && !overcommittable(self.name)
            && (default > request || request > default)
        {
            let detail =
                format!("default value {default} must equal to defaultRequest value {request} in {}", self.name);
            out.push(FieldError::invalid(&path.child("defaultRequest").key(self.name), request.to_string(), detail));
        }
    }

    fn ratio(&self, out: &mut Errors, path: &FieldPath) {
        let Some(ratio) = self.ratio else { return };
        let mut wrong = |detail: String| out.push(FieldError::invalid(path, ratio.to_string(), detail));
        if ratio < Quantity::from_millis(1000) {
            wrong(format!("ratio {ratio} is less than 1"));
        }
        let (Some(min), Some(max)) = (self.min, self.max) else { return };
        const MAX_MILLIS: i64 = i64::MAX / 1000;
        let small = [min, max].iter().all(|amount| amount.value() < MAX_MILLIS);
        #[expect(clippy::cast_precision_loss, reason = "as upstream compares them")]
        let (given, most) = if small {
            (ratio.milli_value() as f64 / 1000.0, max.milli_value() as f64 / min.milli_value() as f64)
        } else {
            (ratio.value() as f64, max.value() as f64 / min.value() as f64)
        };
        if given > most {
            wrong(format!("ratio {ratio} is greater than max/min = {most:.6}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn texts(limit: Value) -> String {
        let range = json!({"spec": {"limits": [limit]}});
        LimitRange.validate(&range).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn defaults_of_containers() {
        let mut range =
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Gi"}}]}});
        LimitRange.default(&mut range);
        let limit = &range["spec"]["limits"][0];
        assert_eq!(
            (&limit["default"], &limit["defaultRequest"]),
            (&json!({"cpu": "2"}), &json!({"cpu": "2", "memory": "1Gi"}))
        );
        let mut plain = json!({"spec": {"limits": [{"type": "Pod", "max": {"cpu": "2"}}]}});
        LimitRange.default(&mut plain);
        assert!(plain["spec"]["limits"][0].get("default").is_none());
    }

    #[test]
    fn amounts_are_in_order() {
        assert_eq!(texts(json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}})), "");
        assert_eq!(
            texts(json!({"type": "Container", "min": {"cpu": "3"}, "max": {"cpu": "2"}})),
            "spec.limits[0].min[cpu]: Invalid value: \"3\": min value 3 is greater than max value 2"
        );
        assert_eq!(
            texts(json!({"type": "Container", "default": {"cpu": "3"}, "max": {"cpu": "2"}})),
            "spec.limits[0].default[cpu]: Invalid value: \"2\": default value 3 is greater than max value 2"
        );
        assert_eq!(
            texts(
                json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3"}})
            ),
            "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000"
        );
        assert_eq!(
            texts(json!({"type": "PersistentVolumeClaim"})),
            "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided"
        );
        assert_eq!(
            texts(json!({"type": "Pod", "default": {"cpu": "3"}})),
            "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"
        );
        assert!(texts(json!({"type": "Thing"})).ends_with("must be a standard limit type or fully qualified"));
    }
}
