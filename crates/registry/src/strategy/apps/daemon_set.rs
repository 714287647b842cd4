//! DaemonSet.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Value, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use super::{at_most_all, counts, drop_disabled, fixed, number, template};
use crate::strategy::pod::defaults;
use crate::tree::{has, text};
use crate::validation::{Errors, format, meta, warnings};

/// Where the count of a template's changes is kept since it is no field any more.
const GENERATION: &str = "deprecated.daemonset.template.generation";

#[derive(Clone, Copy, Debug, Default)]
pub(in crate::strategy) struct DaemonSet;

fn generation(set: &Value) -> i64 {
    object::annotation(set, GENERATION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn write_generation(set: &mut Value, generation: i64) {
    object::map_at_mut(set, &["metadata", "annotations"]).insert(GENERATION.to_owned(), generation.to_string().into());
}

fn strategy(out: &mut Errors, path: &FieldPath, strategy: &Value) {
    let (at, rolling) = (path.child("rollingUpdate"), &strategy["rollingUpdate"]);
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" if !has(strategy, "rollingUpdate") => out.push(FieldError::required(&at, "")),
        "RollingUpdate" => {
            let fields = ["maxUnavailable", "maxSurge"];
            for field in fields {
                format::count_or_percent(out, &at.child(field), &rolling[field]);
            }
            for field in fields {
                at_most_all(out, &at.child(field), &rolling[field]);
            }
            match fields.map(|field| number(&rolling[field]) != 0) {
                [true, true] => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    out.push(FieldError::invalid(&at.child("maxSurge"), rolling["maxSurge"].clone(), detail));
                }
                [false, false] => {
                    let detail = "cannot be 0 when maxSurge is 0";
                    out.push(FieldError::required(&at.child("maxUnavailable"), detail));
                }
                _ => {}
            }
        }
        _ => out.push(FieldError::not_supported(path, strategy.clone(), &["RollingUpdate", "OnDelete"])),
    }
}

impl Strategy for DaemonSet {
    fn default(&self, object: &mut Value) {
        defaults::template(object);
        // Upstream reads the annotation as a field and writes it back: it is there from the start, and its writer's.
        let generation = generation(object);
        write_generation(object, generation);
    }

    fn prepare_for_create(&self, ctx: &StrategyContext<'_>, object: &mut Value) {
        let zero = serde_json::json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0});
        object["status"] = zero;
        let generation = generation(object).max(1);
        write_generation(object, generation);
        drop_disabled(ctx, object, None);
    }

    fn prepare_for_update(&self, ctx: &StrategyContext<'_>, object: &mut Value, old: &Value) {
        drop_disabled(ctx, object, Some(old));
        let changed = object["spec"]["template"] != old["spec"]["template"];
        write_generation(object, generation(old) + i64::from(changed));
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &object["spec"], FieldPath::new("spec"));
        meta::selector(&mut out, &path.child("selector"), &spec["selector"]);
        meta::template_selected(&mut out, &path, spec);
        meta::not_empty(&mut out, &path.child("selector"), &spec["selector"], "daemonset");
        template(&mut out, spec, "DaemonSet");
        counts(&mut out, spec, &["minReadySeconds"]);
        strategy(&mut out, &path.child("updateStrategy"), &spec["updateStrategy"]);
        counts(&mut out, spec, &["revisionHistoryLimit"]);
        out
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = fixed(&["selector"], object, old);
        out.extend(self.validate_create(object));
        out
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        // Of an update, those of a template that changes.
        match old {
            Some(old) if old["spec"]["template"] == object["spec"]["template"] => Vec::new(),
            _ => warnings::template(object, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;
    use kybern_apiserver::strategy::Features;

    #[test]
    fn a_template_is_counted() {
        let user = Default::default();
        let ctx = StrategyContext {
            user: &user,
            now: jiff::Timestamp::UNIX_EPOCH,
            dry_run: false,
            features: &Features::default(),
        };
        let mut set = json!({"metadata": {}, "spec": {"template": {"spec": {}}}});
        DaemonSet.prepare_for_create(&ctx, &mut set);
        assert_eq!(object::annotation(&set, GENERATION), Some("1"));
        let mut changed =
            json!({"metadata": {"annotations": {GENERATION: "9"}}, "spec": {"template": {"spec": {"x": 1}}}});
        DaemonSet.prepare_for_update(&ctx, &mut changed, &set);
        assert_eq!(object::annotation(&changed, GENERATION), Some("2"));
    }
}
