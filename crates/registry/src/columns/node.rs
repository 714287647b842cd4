//! Nodes, namespaces, leases and other things of the cluster.

use super::cell::Printer;
use kybern_apimachinery::{Value, object};

use super::cell::{age, condition, name, object_name, or_none, string, wide};
use crate::tree::{flag, list, map, text};

pub(super) const NODES: Printer = Printer {
    definitions: &[
        name(),
        string("Status"),
        string("Roles"),
        string("Age"),
        string("Version"),
        wide("Internal-IP"),
        wide("External-IP"),
        wide("OS-Image"),
        wide("Kernel-Version"),
        wide("Container-Runtime"),
    ],
    cells: |n, now| {
        let info = &n["status"]["nodeInfo"];
        let address = |kind: &str| {
            list(&n["status"], "addresses").iter().find(|a| text(a, "type") == kind).map_or("", |a| text(a, "address"))
        };
        let known = |field: &str| match text(info, field) {
            "" => "<unknown>",
            text => text,
        };
        vec![
            object_name(n),
            status(n).into(),
            roles(n),
            age(n, now),
            text(info, "kubeletVersion").into(),
            or_none(address("InternalIP")),
            or_none(address("ExternalIP")),
            known("osImage").into(),
            known("kernelVersion").into(),
            known("containerRuntimeVersion").into(),
        ]
    },
};

fn status(node: &Value) -> String {
    let ready = match condition(&node["status"], "Ready").map(|c| text(c, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if flag(&node["spec"], "unschedulable") { format!("{ready},SchedulingDisabled") } else { ready.to_owned() }
}

/// The roles that labels give: `node-role.kubernetes.io/ROLE` and the older `kubernetes.io/role`.
fn roles(node: &Value) -> Value {
    let mut roles: Vec<&str> = map(&node["metadata"], "labels")
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => (!role.is_empty()).then_some(role),
            None => (key == "kubernetes.io/role").then(|| value.as_str()).flatten().filter(|r| !r.is_empty()),
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    or_none(roles.join(","))
}

pub(super) const NAMESPACES: Printer = Printer {
    definitions: &[name(), string("Status"), string("Age")],
    cells: |n, now| vec![object_name(n), object::str_at(n, &["status", "phase"]).into(), age(n, now)],
};

pub(super) const LEASES: Printer = Printer {
    definitions: &[name(), string("Holder"), string("Age")],
    cells: |l, now| vec![object_name(l), object::str_at(l, &["spec", "holderIdentity"]).into(), age(l, now)],
};

pub(super) const RUNTIME_CLASSES: Printer = Printer {
    definitions: &[name(), string("Handler"), string("Age")],
    cells: |c, now| vec![object_name(c), text(c, "handler").into(), age(c, now)],
};

pub(super) const COMPONENT_STATUSES: Printer = Printer {
    definitions: &[name(), string("Status"), string("Message"), string("Error")],
    cells: |c, _| {
        let healthy = list(c, "conditions").iter().find(|c| text(c, "type") == "Healthy").cloned().unwrap_or_default();
        let state = match text(&healthy, "status") {
            "True" => "Healthy",
            "False" => "Unhealthy",
            _ => "Unknown",
        };
        vec![object_name(c), state.into(), text(&healthy, "message").into(), text(&healthy, "error").into()]
    },
};

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn a_node_shows_its_state_and_roles() {
        let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}}, "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
                "nodeInfo": {"kubeletVersion": "v1.35.0", "osImage": "Debian"}}});
        let cells = (NODES.cells)(&node, jiff::Timestamp::UNIX_EPOCH);
        let expect = json!([
            "n",
            "Ready,SchedulingDisabled",
            "control-plane",
            "<unknown>",
            "v1.35.0",
            "192.0.2.1",
            "<none>",
            "Debian",
            "<unknown>",
            "<unknown>"
        ]);
        assert_eq!(Value::from(cells), expect);
    }
}
