//! What controllers may say of workloads: counts that are no less than nothing, and no more than the whole.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};

use crate::tree::int;
use crate::validation::{Errors, format};

/// The counts of one kind's status, in upstream's order.
struct Counts {
    all: &'static [&'static str],
    /// Those that are of `replicas`.
    parts: &'static [&'static str],
    /// How upstream calls `readyReplicas`, of which `availableReplicas` are.
    ready: &'static str,
}

const DEPLOYMENT: Counts = Counts {
    all: &[
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ],
    parts: &["updatedReplicas", "readyReplicas", "availableReplicas"],
    ready: "readyReplicas",
};

const REPLICA_SET: Counts = Counts {
    all: &[
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
        "terminatingReplicas",
    ],
    parts: &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
    ready: "readyReplicas",
};

const STATEFUL_SET: Counts = Counts {
    all: &[
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ],
    parts: &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"],
    ready: "status.readyReplicas",
};

const DAEMON_SET: Counts = Counts {
    all: &[
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ],
    parts: &[],
    ready: "",
};

impl Counts {
    fn check(&self, object: &Value) -> Errors {
        let (mut out, path, status) = (Errors::new(), FieldPath::new("status"), &object["status"]);
        let count = |field: &str| int(status, field).unwrap_or(0);
        for field in self.all {
            format::not_negative(&mut out, &path.child(field), int(status, field));
        }
        for field in self.parts.iter().filter(|field| count(field) > count("replicas")) {
            let detail = "cannot be greater than status.replicas";
            out.push(FieldError::invalid(&path.child(field), count(field), detail));
        }
        let available = count("availableReplicas");
        if available > count("readyReplicas") {
            let detail = format!("cannot be greater than {}", self.ready);
            out.push(FieldError::invalid(&path.child("availableReplicas"), available, detail));
        }
        out
    }
}

/// Names are made of it: it only rises.
fn collisions(out: &mut Errors, object: &Value, old: &Value) {
    let count = |object: &Value| int(&object["status"], "collisionCount");
    if count(object) < count(old) {
        let path = FieldPath::new("status.collisionCount");
        out.push(FieldError::invalid(&path, count(object).unwrap_or(0), "cannot be decremented"));
    }
}

pub(in crate::strategy) fn deployment(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = DEPLOYMENT.check(object);
    collisions(&mut out, object, old);
    out
}

/// A ReplicationController's is the same.
pub(in crate::strategy) fn replica_set(object: &Value, _: &Value) -> Vec<FieldError> {
    REPLICA_SET.check(object)
}

pub(in crate::strategy) fn stateful_set(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = STATEFUL_SET.check(object);
    collisions(&mut out, object, old);
    out
}

pub(in crate::strategy) fn daemon_set(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = DAEMON_SET.check(object);
    collisions(&mut out, object, old);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn counts_are_of_the_whole() {
        let check = |status: Value, old: Value, expect: &str| {
            let errors = deployment(&json!({"status": status}), &json!({"status": old}));
            assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "), expect);
        };
        check(json!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 1}), json!({}), "");
        check(
            json!({"replicas": 1, "readyReplicas": 2}),
            json!({}),
            "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
        );
        check(
            json!({"replicas": 2, "readyReplicas": 1, "availableReplicas": 2}),
            json!({}),
            "status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas",
        );
        check(
            json!({"unavailableReplicas": -1}),
            json!({}),
            "status.unavailableReplicas: Invalid value: -1: must be greater than or equal to 0",
        );
        check(
            json!({}),
            json!({"collisionCount": 1}),
            "status.collisionCount: Invalid value: 0: cannot be decremented",
        );
        assert_eq!(daemon_set(&json!({"status": {"numberReady": -1}}), &json!({})).len(), 1);
        assert_eq!(stateful_set(&json!({"status": {"currentReplicas": 1}}), &json!({})).len(), 1);
        assert_eq!(replica_set(&json!({"status": {"fullyLabeledReplicas": 1}}), &json!({})).len(), 1);
    }
}
