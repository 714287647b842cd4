//! `/stats/summary` (`k8s.io/kubelet/pkg/apis/stats/v1alpha1`): what node and pods use.

use std::collections::BTreeMap;

use http::{Response, StatusCode};
use jiff::Timestamp;
use kybern_apimachinery::{Value, json, time};
use kybern_cri::ContainerStats;

use super::{Body, Context, text};
use crate::node::machine;
use crate::pod::{labels, observed, spec};

pub async fn summary(context: &Context) -> Response<Body> {
    let stats = match context.shared.runtime.list_container_stats().await {
        Ok(stats) => stats,
        Err(error) => {
            return text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot read the containers' usage: {error}"));
        }
    };
    let mut by_pod: BTreeMap<String, Vec<&ContainerStats>> = BTreeMap::new();
    for one in &stats {
        by_pod.entry(one.labels.get(labels::POD_UID).cloned().unwrap_or_default()).or_default().push(one);
    }
    let views = context.pods.list();
    let pods: Vec<Value> = views
        .iter()
        .map(|view| {
            let own = by_pod.get(spec::uid(&view.pod)).map(Vec::as_slice).unwrap_or_default();
            let sum = |of: fn(&ContainerStats) -> u64| own.iter().map(|s| of(s)).sum::<u64>();
            let start = spec::start_time(&view.pod).map(time::to_rfc3339);
            json!({
                "podRef": {"name": spec::name(&view.pod), "namespace": spec::namespace(&view.pod), "uid": spec::uid(&view.pod)},
                "startTime": start,
                "cpu": {"time": now(), "usageCoreNanoSeconds": sum(|s| s.cpu_usage_ns)},
                "memory": {"time": now(), "workingSetBytes": sum(|s| s.memory_working_set_bytes), "rssBytes": sum(|s| s.memory_rss_bytes)},
                "containers": own.iter().map(|s| container(s)).collect::<Vec<_>>(),
            })
        })
        .collect();
    let shared = &context.shared;
    let left = machine::pressure(&shared.config.root_dir);
    let node = json!({
        "nodeName": shared.config.node_name,
        "cpu": {"time": now(), "usageCoreNanoSeconds": node_cpu_ns()},
        "memory": {
            "time": now(), "availableBytes": left.memory_available_bytes,
            "workingSetBytes": shared.machine.memory_bytes - left.memory_available_bytes,
        },
        "fs": {
            "time": now(), "capacityBytes": shared.machine.storage_bytes,
            "availableBytes": shared.machine.storage_bytes / 100 * left.disk_available_percent,
        },
    });
    super::json(json!({"node": node, "pods": pods}).to_string())
}

fn now() -> String {
    time::to_rfc3339(Timestamp::now())
}

fn container(stats: &ContainerStats) -> Value {
    let at = observed::time_of(stats.timestamp).map(time::to_rfc3339);
    json!({
        "name": stats.labels.get(labels::CONTAINER_NAME).unwrap_or(&stats.name),
        "cpu": {"time": at, "usageCoreNanoSeconds": stats.cpu_usage_ns},
        "memory": {"time": at, "workingSetBytes": stats.memory_working_set_bytes, "rssBytes": stats.memory_rss_bytes},
    })
}

/// What `/proc/stat` counts in, on every Linux (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// The machine's CPU time in use since its start, from `/proc/stat`.
pub fn node_cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    busy_ticks(text.lines().next().unwrap_or("")) * (1_000_000_000 / TICKS_PER_SECOND)
}

/// The ticks of the first line of `/proc/stat` that were not idle.
fn busy_ticks(line: &str) -> u64 {
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
    ticks.iter().enumerate().filter(|(index, _)| !matches!(index, 3 | 4)).map(|(_, n)| n).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_not_use() {
        assert_eq!(busy_ticks("cpu  10 1 5 1000 50 2 3 0 0 0"), 21);
    }
}
