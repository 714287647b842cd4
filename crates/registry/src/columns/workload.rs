//! Workloads.

use super::cell::Printer;
use kybern_apimachinery::time::{human_duration, parse_rfc3339};
use kybern_apimachinery::{Value, object};

use super::cell::{
    age, boolean, condition, containers, count, integer, labels, name, object_name, selector, since, string, wide,
};
use crate::tree::{flag, has, int, list, text};

pub(super) const DEPLOYMENTS: Printer = Printer {
    definitions: &[
        name(),
        string("Ready"),
        string("Up-to-date"),
        string("Available"),
        string("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |d, now| {
        let [containers, images] = containers(&d["spec"]["template"]["spec"]);
        vec![
            object_name(d),
            format!("{}/{}", count(d, &["status", "readyReplicas"]), count(d, &["spec", "replicas"])).into(),
            count(d, &["status", "updatedReplicas"]).into(),
            count(d, &["status", "availableReplicas"]).into(),
            age(d, now),
            containers,
            images,
            selector(d["spec"].get("selector")),
        ]
    },
};

pub(super) const REPLICA_SETS: Printer = Printer {
    definitions: &[
        name(),
        integer("Desired"),
        integer("Current"),
        integer("Ready"),
        string("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |r, now| replica_cells(r, now, selector(r["spec"].get("selector"))),
};

pub(super) const REPLICATION_CONTROLLERS: Printer = Printer {
    definitions: REPLICA_SETS.definitions,
    cells: |r, now| replica_cells(r, now, labels(&r["spec"], "selector")),
};

fn replica_cells(object: &Value, now: jiff::Timestamp, selector: Value) -> Vec<Value> {
    let [containers, images] = containers(&object["spec"]["template"]["spec"]);
    let number = |path: &[&str]| Value::from(count(object, path));
    vec![
        object_name(object),
        number(&["spec", "replicas"]),
        number(&["status", "replicas"]),
        number(&["status", "readyReplicas"]),
        age(object, now),
        containers,
        images,
        selector,
    ]
}

pub(super) const DAEMON_SETS: Printer = Printer {
    definitions: &[
        name(),
        integer("Desired"),
        integer("Current"),
        integer("Ready"),
        integer("Up-to-date"),
        integer("Available"),
        string("Node Selector"),
        string("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |d, now| {
        let [containers, images] = containers(&d["spec"]["template"]["spec"]);
        let number = |field: &str| Value::from(count(d, &["status", field]));
        vec![
            object_name(d),
            number("desiredNumberScheduled"),
            number("currentNumberScheduled"),
            number("numberReady"),
            number("updatedNumberScheduled"),
            number("numberAvailable"),
            labels(&d["spec"]["template"]["spec"], "nodeSelector"),
            age(d, now),
            containers,
            images,
            selector(d["spec"].get("selector")),
        ]
    },
};

pub(super) const STATEFUL_SETS: Printer = Printer {
    definitions: &[name(), string("Ready"), string("Age"), wide("Containers"), wide("Images")],
    cells: |s, now| {
        let [containers, images] = containers(&s["spec"]["template"]["spec"]);
        let ready = format!("{}/{}", count(s, &["status", "readyReplicas"]), count(s, &["spec", "replicas"]));
        vec![object_name(s), ready.into(), age(s, now), containers, images]
    },
};

pub(super) const CONTROLLER_REVISIONS: Printer = Printer {
    definitions: &[name(), string("Controller"), string("Revision"), string("Age")],
    cells: |r, now| {
        let owner = list(&r["metadata"], "ownerReferences").iter().find(|o| flag(o, "controller"));
        let owner = owner.map_or_else(
            || "<none>".to_owned(),
            |o| {
                let group = text(o, "apiVersion").split_once('/').map_or(String::new(), |(g, _)| format!(".{g}"));
                format!("{}{group}/{}", text(o, "kind").to_lowercase(), text(o, "name"))
            },
        );
        vec![object_name(r), owner.into(), int(r, "revision").unwrap_or(0).into(), age(r, now)]
    },
};

pub(super) const POD_TEMPLATES: Printer = Printer {
    definitions: &[name(), string("Containers"), string("Images"), string("Pod Labels")],
    cells: |t, _| {
        let [containers, images] = containers(&t["template"]["spec"]);
        vec![object_name(t), containers, images, labels(&t["template"]["metadata"], "labels")]
    },
};

pub(super) const JOBS: Printer = Printer {
    definitions: &[
        name(),
        string("Status"),
        string("Completions"),
        string("Duration"),
        string("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: job_cells,
};

fn job_cells(job: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (&job["spec"], &job["status"]);
    let done = count(status, &["succeeded"]);
    let completions = match (int(spec, "completions"), int(spec, "parallelism").unwrap_or(0)) {
        (Some(wanted), _) => format!("{done}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{done}/1 of {parallel}"),
        (None, _) => format!("{done}/1"),
    };
    let time = |field: &str| parse_rfc3339(text(status, field));
    let duration = match (time("startTime"), time("completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => human_duration(end.unwrap_or(now).as_second() - start.as_second()),
    };
    let is = |kind: &str| condition(status, kind).is_some_and(|c| text(c, "status") == "True");
    let state = match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if object::is_deleting(job) => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    };
    let [containers, images] = containers(&spec["template"]["spec"]);
    let selector = selector(spec.get("selector"));
    vec![
        object_name(job),
        state.into(),
        completions.into(),
        duration.into(),
        age(job, now),
        containers,
        images,
        selector,
    ]
}

pub(super) const CRON_JOBS: Printer = Printer {
    definitions: &[
        name(),
        string("Schedule"),
        string("Timezone"),
        boolean("Suspend"),
        integer("Active"),
        string("Last Schedule"),
        string("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |c, now| {
        let (spec, status) = (&c["spec"], &c["status"]);
        let template = &spec["jobTemplate"]["spec"];
        let [containers, images] = containers(&template["template"]["spec"]);
        let last = if has(status, "lastScheduleTime") {
            since(text(status, "lastScheduleTime"), now)
        } else {
            "<none>".to_owned()
        };
        let zone = if has(spec, "timeZone") { text(spec, "timeZone") } else { "<none>" };
        let suspended = if flag(spec, "suspend") { "True" } else { "False" };
        vec![
            object_name(c),
            text(spec, "schedule").into(),
            zone.into(),
            suspended.into(),
            list(status, "active").len().into(),
            last.into(),
            age(c, now),
            containers,
            images,
            selector(template.get("selector")),
        ]
    },
};

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn rows() {
        let now = "2026-11-20T00:01:00Z".parse().unwrap();
        let deployment = json!({"metadata": {"name": "web", "creationTimestamp": "2026-11-20T00:00:00Z"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {"spec": {"containers": [{"name": "c", "image": "i:1"}]}}},
            "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2}});
        assert_eq!(
            (DEPLOYMENTS.cells)(&deployment, now),
            json!(["web", "2/3", 3, 2, "60s", "c", "i:1", "app=web"]).as_array().unwrap().clone()
        );
        let job = json!({"metadata": {"name": "j"}, "spec": {"completions": 1},
            "status": {"succeeded": 1, "startTime": "2026-11-20T00:00:00Z", "completionTime": "2026-11-20T00:00:05Z",
                "conditions": [{"type": "Complete", "status": "True"}]}});
        assert_eq!(job_cells(&job, now)[1..4], json!(["Complete", "1/1", "5s"]).as_array().unwrap()[..]);
    }
}
