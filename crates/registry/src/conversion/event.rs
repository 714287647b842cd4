//! `events.k8s.io/v1 Event` and the stored `v1 Event`: one shape under two sets of names.

use kybern_apimachinery::Value;

use super::rename;

/// Names in `events.k8s.io` and in core.
const NAMES: [(&str, &str); 8] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingInstance", "reportingInstance"),
];

pub(super) fn to_core(mut event: Value) -> Value {
    for (theirs, core) in NAMES {
        rename(&mut event, theirs, core);
    }
    event["apiVersion"] = "v1".into();
    event
}

pub(super) fn from_core(mut event: Value) -> Value {
    for (theirs, core) in NAMES {
        rename(&mut event, core, theirs);
    }
    event["apiVersion"] = "events.k8s.io/v1".into();
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn there_and_back() {
        let event = json!({"apiVersion": "events.k8s.io/v1", "note": "n", "regarding": {"name": "a"}, "deprecatedCount": 2, "reason": "r"});
        let core = to_core(event.clone());
        assert_eq!(
            core,
            json!({"apiVersion": "v1", "message": "n", "involvedObject": {"name": "a"}, "count": 2, "reason": "r"})
        );
        assert_eq!(from_core(core), event);
    }
}
