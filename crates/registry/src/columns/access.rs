//! Access control and extension of the API itself.

use super::cell::Printer;
use kybern_apimachinery::time::human_duration;
use kybern_apimachinery::{Value, object};

use super::cell::{age, condition, date, integer, name, object_name, or_none, selector, string, wide};
use crate::tree::{has, int, list, text};

pub(super) const ROLES: Printer = Printer {
    definitions: &[name(), date("Created At")],
    cells: |r, _| vec![object_name(r), object::str_at(r, &["metadata", "creationTimestamp"]).into()],
};

pub(super) const BINDINGS: Printer = Printer {
    definitions: &[name(), string("Role"), string("Age"), wide("Users"), wide("Groups"), wide("ServiceAccounts")],
    cells: |b, now| {
        let role = format!("{}/{}", object::str_at(b, &["roleRef", "kind"]), object::str_at(b, &["roleRef", "name"]));
        let subjects = |kind: &str, separator: &str| -> Value {
            let all = list(b, "subjects").iter().filter(|s| text(s, "kind") == kind);
            let show = |s: &Value| {
                if kind == "ServiceAccount" {
                    format!("{}/{}", text(s, "namespace"), text(s, "name"))
                } else {
                    text(s, "name").to_owned()
                }
            };
            all.map(show).collect::<Vec<_>>().join(separator).into()
        };
        vec![
            object_name(b),
            role.into(),
            age(b, now),
            subjects("User", ", "),
            subjects("Group", ", "),
            subjects("ServiceAccount", ", "),
        ]
    },
};

pub(super) const SIGNING_REQUESTS: Printer = Printer {
    definitions: &[
        name(),
        string("Age"),
        string("SignerName"),
        string("Requestor"),
        string("RequestedDuration"),
        string("Condition"),
    ],
    cells: |c, now| {
        let spec = &c["spec"];
        let duration = int(spec, "expirationSeconds").map_or_else(|| "<none>".to_owned(), human_duration);
        let signer = match text(spec, "signerName") {
            "" => "<none>",
            signer => signer,
        };
        vec![
            object_name(c),
            age(c, now),
            signer.into(),
            text(spec, "username").into(),
            duration.into(),
            request_state(&c["status"]).into(),
        ]
    },
};

fn request_state(status: &Value) -> String {
    let is = |kind: &str| condition(status, kind).is_some();
    let mut state = match () {
        () if is("Denied") => "Denied",
        () if is("Approved") => "Approved",
        () => "Pending",
    }
    .to_owned();
    if is("Failed") {
        state.push_str(",Failed");
    }
    if !text(status, "certificate").is_empty() {
        state.push_str(",Issued");
    }
    state
}

pub(super) const WEBHOOKS: Printer = Printer {
    definitions: &[name(), integer("Webhooks"), string("Age")],
    cells: |w, now| vec![object_name(w), list(w, "webhooks").len().into(), age(w, now)],
};

pub(super) const VALIDATING_POLICIES: Printer = Printer {
    definitions: &[name(), integer("Validations"), string("ParamKind"), string("Age")],
    cells: |p, now| policy(p, "validations", now),
};

pub(super) const MUTATING_POLICIES: Printer = Printer {
    definitions: &[name(), integer("Mutations"), string("ParamKind"), string("Age")],
    cells: |p, now| policy(p, "mutations", now),
};

fn policy(policy: &Value, counted: &str, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, kind) = (&policy["spec"], &policy["spec"]["paramKind"]);
    let kind = if has(spec, "paramKind") {
        format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind"))
    } else {
        "<unset>".to_owned()
    };
    vec![object_name(policy), list(spec, counted).len().into(), kind.into(), age(policy, now)]
}

pub(super) const POLICY_BINDINGS: Printer = Printer {
    definitions: &[name(), string("PolicyName"), string("ParamRef"), string("Age")],
    cells: |b, now| {
        let reference = &b["spec"]["paramRef"];
        let params = match (text(reference, "namespace"), text(reference, "name")) {
            ("", "") if has(reference, "selector") => selector(reference.get("selector")),
            ("", "") => "<unset>".into(),
            ("", name) => format!("*/{name}").into(),
            (namespace, name) => format!("{namespace}/{name}").into(),
        };
        vec![object_name(b), text(&b["spec"], "policyName").into(), params, age(b, now)]
    },
};

pub(super) const CUSTOM_RESOURCE_DEFINITIONS: Printer = Printer { definitions: ROLES.definitions, cells: ROLES.cells };

pub(super) const API_SERVICES: Printer = Printer {
    definitions: &[name(), string("Service"), string("Available"), string("Age")],
    cells: |a, now| {
        let service = &a["spec"]["service"];
        let service = if service.is_object() {
            format!("{}/{}", text(service, "namespace"), text(service, "name"))
        } else {
            "Local".to_owned()
        };
        let available = match condition(&a["status"], "Available") {
            None => "Unknown".to_owned(),
            Some(c) if text(c, "status") == "True" => "True".to_owned(),
            Some(c) => format!("{} ({})", text(c, "status"), text(c, "reason")),
        };
        vec![object_name(a), service.into(), available.into(), age(a, now)]
    },
};

/// Flow schemas are shown in the order in which they are asked.
pub(super) fn precedence(schema: &Value) -> i64 {
    int(&schema["spec"], "matchingPrecedence").unwrap_or(0)
}

pub(super) const FLOW_SCHEMAS: Printer = Printer {
    definitions: &[
        name(),
        string("PriorityLevel"),
        string("MatchingPrecedence"),
        string("DistinguisherMethod"),
        string("Age"),
        string("MissingPL"),
    ],
    cells: |f, now| {
        let spec = &f["spec"];
        let missing = condition(&f["status"], "Dangling").map_or("?", |c| text(c, "status"));
        vec![
            object_name(f),
            text(&spec["priorityLevelConfiguration"], "name").into(),
            int(spec, "matchingPrecedence").unwrap_or(0).into(),
            or_none(text(&spec["distinguisherMethod"], "type")),
            age(f, now),
            missing.into(),
        ]
    },
};

pub(super) const PRIORITY_LEVELS: Printer = Printer {
    definitions: &[
        name(),
        string("Type"),
        string("NominalConcurrencyShares"),
        string("Queues"),
        string("HandSize"),
        string("QueueLengthLimit"),
        string("Age"),
    ],
    cells: |p, now| {
        let spec = &p["spec"];
        let limited = &spec["limited"];
        let queuing = &limited["limitResponse"]["queuing"];
        let number = |object: &Value, field: &str| int(object, field).map_or_else(|| "<none>".into(), Value::from);
        vec![
            object_name(p),
            text(spec, "type").into(),
            number(limited, "nominalConcurrencyShares"),
            number(queuing, "queues"),
            number(queuing, "handSize"),
            number(queuing, "queueLengthLimit"),
            age(p, now),
        ]
    },
};
