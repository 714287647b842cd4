//! Events, one kind under two groups: `events.k8s.io` makes of its own fields what the core group leaves open.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_subdomain, label_key};
use kybern_apimachinery::{Value, object};
use kybern_apiserver::strategy::Strategy;

use crate::tree::{has, int, text};
use crate::validation::names::path_segment;
use crate::validation::update::immutable;
use crate::validation::{Errors, format};

const MAX_FIELD: usize = 128;
const MAX_NOTE: usize = 1024;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Event {
    /// Asked for as `events.k8s.io`.
    pub new_group: bool,
}

impl Strategy for Event {
    fn validate(&self, event: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        let (namespace, about) = (object::namespace(event), object::str_at(event, &["involvedObject", "namespace"]));
        let dated = has(event, "eventTime");
        // Events about cluster-scoped objects are in `default`.
        let fits = match (dated, about) {
            (false, "") => matches!(namespace, "" | "default"),
            (true, "") => matches!(namespace, "default" | "kube-system"),
            (false, about) => namespace == about,
            (true, _) => true,
        };
        if !fits {
            let path = FieldPath::new("involvedObject.namespace");
            out.push(FieldError::invalid(&path, about, "does not match event.namespace"));
        }
        if dated {
            self.dated(&mut out, event);
        }
        format::invalid(&mut out, &FieldPath::new("namespace"), namespace, dns1123_subdomain(namespace));
        out
    }

    fn validate_create(&self, event: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        if !self.new_group {
            return out;
        }
        series(&mut out, event);
        if !has(event, "eventTime") {
            out.push(FieldError::required(&FieldPath::new("eventTime"), ""));
        }
        let kind = text(event, "type");
        if !["Normal", "Warning"].contains(&kind) {
            out.push(FieldError::invalid(&FieldPath::new("type"), "", format!("has invalid value: {kind}")));
        }
        let source = &event["source"];
        for (field, set) in [
            ("firstTimestamp", has(event, "firstTimestamp")),
            ("lastTimestamp", has(event, "lastTimestamp")),
            ("count", int(event, "count").unwrap_or(0) != 0),
            ("source", !text(source, "component").is_empty() || !text(source, "host").is_empty()),
        ] {
            if set {
                out.push(FieldError::invalid(&FieldPath::new(field), "", "needs to be unset"));
            }
        }
        out
    }

    fn validate_update(&self, event: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        if !self.new_group {
            return out;
        }
        if event.get("series") != old.get("series") {
            series(&mut out, event);
        }
        for (field, named) in [
            ("involvedObject", "involvedObject"),
            ("reason", "reason"),
            ("message", "message"),
            ("source", "source"),
            ("firstTimestamp", "firstTimestamp"),
            ("lastTimestamp", "lastTimestamp"),
            ("count", "count"),
            ("reason", "reason"),
            ("type", "type"),
            ("eventTime", "eventTime"),
            ("action", "action"),
            ("related", "related"),
            ("reportingComponent", "reportingController"),
            ("reportingInstance", "reportingInstance"),
        ] {
            let of = |event: &Value| event.get(field).cloned();
            let text = of(event).or(of(old)).is_some_and(|value| value.is_string());
            let shown = |event: &Value| of(event).unwrap_or_else(|| if text { "".into() } else { Value::Null });
            immutable(&mut out, &FieldPath::new(named), Some(&shown(event)), Some(&shown(old)));
        }
        out
    }

    /// Upstream looks at a core event's name no closer than it has to.
    fn validate_name(&self, name: &str) -> Vec<String> {
        if self.new_group { dns1123_subdomain(name) } else { path_segment(name) }
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

impl Event {
    /// An event with a time of its own says who saw it do what.
    fn dated(&self, out: &mut Errors, event: &Value) {
        let path = FieldPath::new(if self.new_group { "reportingController" } else { "reportingComponent" });
        let controller = text(event, "reportingComponent");
        if controller.is_empty() {
            out.push(FieldError::required(&path, ""));
        }
        format::invalid(out, &path, controller, label_key(controller));
        for field in ["reportingInstance", "action", "reason"] {
            let (path, value) = (FieldPath::new(field), text(event, field));
            if value.is_empty() {
                out.push(FieldError::required(&path, ""));
            }
            at_most(out, &path, value, MAX_FIELD);
        }
        at_most(out, &FieldPath::new("message"), text(event, "message"), MAX_NOTE);
    }
}

fn at_most(out: &mut Errors, path: &FieldPath, value: &str, most: usize) {
    if value.len() > most {
        out.push(FieldError::invalid(path, "", format!("can have at most {most} characters")));
    }
}

fn series(out: &mut Errors, event: &Value) {
    if !has(event, "series") {
        return;
    }
    if int(&event["series"], "count").unwrap_or(0) < 2 {
        out.push(FieldError::invalid(&FieldPath::new("series.count"), "", "should be at least 2"));
    }
    if !has(&event["series"], "lastObservedTime") {
        out.push(FieldError::required(&FieldPath::new("series.lastObservedTime"), ""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn events_are_where_their_object_is() {
        let event = |namespace: &str, about: &str| {
            let event = json!({"metadata": {"namespace": namespace}, "involvedObject": {"namespace": about}});
            Event { new_group: false }.validate(&event).len()
        };
        assert_eq!((event("a", "a"), event("default", ""), event("a", ""), event("a", "b")), (0, 0, 1, 1));
    }

    #[test]
    fn a_new_event_is_dated() {
        let event = json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a"}, "type": "Normal"});
        let texts: Vec<String> =
            Event { new_group: true }.validate_create(&event).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["eventTime: Required value"]);
        assert!(Event { new_group: false }.validate_create(&event).is_empty());
    }
}
