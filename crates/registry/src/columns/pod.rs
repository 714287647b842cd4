//! Pods: what state they are in, as `kubectl get pods` tells it.

use super::cell::Printer;
use kybern_apimachinery::time::{human_duration, parse_rfc3339};
use kybern_apimachinery::{Value, object};

use super::cell::{age, condition, name, object_name, or_none, string, wide};
use crate::tree::{flag, has, int, list, text};

pub(super) const PODS: Printer = Printer {
    definitions: &[
        name(),
        string("Ready"),
        string("Status"),
        string("Restarts"),
        string("Age"),
        wide("IP"),
        wide("Node"),
        wide("Nominated Node"),
        wide("Readiness Gates"),
    ],
    cells,
};

fn cells(pod: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let summary = summarize(pod);
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts > 0 => {
            format!("{} ({} ago)", summary.restarts, human_duration(now.as_second() - last.as_second()))
        }
        _ => summary.restarts.to_string(),
    };
    let status = &pod["status"];
    let ip = list(status, "podIPs").first().map_or(text(status, "podIP"), |ip| text(ip, "ip"));
    vec![
        object_name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age(pod, now),
        or_none(ip),
        or_none(object::str_at(pod, &["spec", "nodeName"])),
        or_none(text(status, "nominatedNodeName")),
        readiness_gates(pod),
    ]
}

fn readiness_gates(pod: &Value) -> Value {
    let gates = list(&pod["spec"], "readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let open = gates
        .iter()
        .filter(|g| condition(&pod["status"], text(g, "conditionType")).is_some_and(|c| text(c, "status") == "True"));
    format!("{}/{}", open.count(), gates.len()).into()
}

#[derive(Debug, PartialEq)]
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<jiff::Timestamp>,
}

fn ended(state: &Value) -> String {
    match int(state, "signal").filter(|s| *s != 0) {
        Some(signal) => format!("Signal:{signal}"),
        None => format!("ExitCode:{}", int(state, "exitCode").unwrap_or(0)),
    }
}

/// When the container last ended before it was started again.
fn last_end(container: &Value) -> Option<jiff::Timestamp> {
    object::at(container, &["lastState", "terminated", "finishedAt"]).and_then(Value::as_str).and_then(parse_rfc3339)
}

fn summarize(pod: &Value) -> Summary {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let phase = text(status, "phase");
    let mut reason = match text(status, "reason") {
        "" => phase,
        other => other,
    }
    .to_owned();
    if condition(status, "PodScheduled").is_some_and(|c| text(c, "reason") == "SchedulingGated") {
        "SchedulingGated".clone_into(&mut reason);
    }
    let inits = list(spec, "initContainers");
    let sidecar = |name: &str| inits.iter().any(|c| text(c, "name") == name && text(c, "restartPolicy") == "Always");
    let total = list(spec, "containers").len() + inits.iter().filter(|c| text(c, "restartPolicy") == "Always").count();
    let (mut ready, mut restarts, mut last) = (0, 0, None);
    let (mut sidecar_restarts, mut sidecar_last) = (0, None);
    let mut initializing = false;
    for (i, container) in list(status, "initContainerStatuses").iter().enumerate() {
        let count = int(container, "restartCount").unwrap_or(0);
        restarts += count;
        last = last.max(last_end(container));
        let is_sidecar = sidecar(text(container, "name"));
        if is_sidecar {
            sidecar_restarts += count;
            sidecar_last = sidecar_last.max(last_end(container));
        }
        let state = &container["state"];
        let waiting = object::str_at(state, &["waiting", "reason"]);
        if has(state, "terminated") && int(&state["terminated"], "exitCode").unwrap_or(0) == 0 {
            continue;
        } else if is_sidecar && flag(container, "started") {
            ready += usize::from(flag(container, "ready"));
            continue;
        } else if has(state, "terminated") {
            let ended_as = text(&state["terminated"], "reason");
            reason =
                format!("Init:{}", if ended_as.is_empty() { ended(&state["terminated"]) } else { ended_as.to_owned() });
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            reason = format!("Init:{waiting}");
        } else {
            reason = format!("Init:{i}/{}", inits.len());
        }
        initializing = true;
        break;
    }
    let initialized = condition(status, "Initialized").is_some_and(|c| text(c, "status") == "True");
    if !initializing || initialized {
        (restarts, last) = (sidecar_restarts, sidecar_last);
        let mut running = false;
        for container in list(status, "containerStatuses").iter().rev() {
            restarts += int(container, "restartCount").unwrap_or(0);
            last = last.max(last_end(container));
            let state = &container["state"];
            let waiting = object::str_at(state, &["waiting", "reason"]);
            let ended_as = object::str_at(state, &["terminated", "reason"]);
            if !waiting.is_empty() {
                waiting.clone_into(&mut reason);
            } else if !ended_as.is_empty() {
                ended_as.clone_into(&mut reason);
            } else if has(state, "terminated") {
                reason = ended(&state["terminated"]);
            } else if flag(container, "ready") && has(state, "running") {
                running = true;
                ready += 1;
            }
        }
        // One container that still runs makes the pod a running one.
        if reason == "Completed" && running {
            let pod_ready = condition(status, "Ready").is_some_and(|c| text(c, "status") == "True");
            if pod_ready { "Running" } else { "NotReady" }.clone_into(&mut reason);
        }
    }
    if object::is_deleting(pod) {
        if text(status, "reason") == "NodeLost" {
            "Unknown".clone_into(&mut reason);
        } else if !matches!(phase, "Succeeded" | "Failed") {
            "Terminating".clone_into(&mut reason);
        }
    }
    Summary { ready, total, reason, restarts, last_restart: last }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn row(pod: &Value) -> String {
        let now = "2026-11-20T00:10:00Z".parse().unwrap();
        cells(pod, now)[1..5].iter().map(|c| c.as_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    fn pod(spec: Value, status: Value) -> Value {
        json!({"metadata": {"name": "p", "creationTimestamp": "2026-11-20T00:00:00Z"}, "spec": spec, "status": status})
    }

    #[test]
    fn states() {
        let one = || json!({"containers": [{"name": "a"}]});
        let check = |spec: Value, status: Value, expect: &str| assert_eq!(row(&pod(spec, status)), expect);
        check(one(), json!({"phase": "Pending"}), "0/1 Pending 0 10m");
        let running = json!({"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}});
        check(one(), json!({"phase": "Running", "containerStatuses": [running]}), "1/1 Running 0 10m");
        let crashed = json!({"name": "a", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2026-11-20T00:09:55Z"}}});
        check(
            one(),
            json!({"phase": "Running", "containerStatuses": [crashed]}),
            "0/1 CrashLoopBackOff 3 (5s ago) 10m",
        );
        let done =
            json!({"name": "a", "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        check(one(), json!({"phase": "Succeeded", "containerStatuses": [done]}), "0/1 Completed 0 10m");
        let two = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let both = json!({"phase": "Running", "containerStatuses": [done, running], "conditions": [{"type": "Ready", "status": "True"}]});
        check(two, both, "1/2 Running 0 10m");
        let init = json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]});
        let waiting = json!([{"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}]);
        check(init.clone(), json!({"phase": "Pending", "initContainerStatuses": waiting}), "0/1 Init:1/2 0 10m");
        let failed = json!([{"name": "i", "restartCount": 1, "state": {"terminated": {"exitCode": 2}}}]);
        check(init, json!({"phase": "Pending", "initContainerStatuses": failed}), "0/1 Init:ExitCode:2 1 10m");
        let mut deleting = pod(one(), json!({"phase": "Running", "containerStatuses": [running]}));
        deleting["metadata"]["deletionTimestamp"] = "2026-11-20T00:09:00Z".into();
        assert_eq!(row(&deleting), "1/1 Terminating 0 10m");
    }

    #[test]
    fn a_sidecar_counts_among_the_containers() {
        let spec = json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]});
        let running = |name: &str| json!({"name": name, "ready": true, "started": true, "restartCount": 0, "state": {"running": {}}});
        let status =
            json!({"phase": "Running", "initContainerStatuses": [running("s")], "containerStatuses": [running("a")]});
        assert_eq!(row(&pod(spec, status)), "2/2 Running 0 10m");
    }
}
