//! `/metrics` and `/metrics/resource` in Prometheus' text format, with upstream's names.

use std::fmt::Write;

use http::{Response, StatusCode, header};

use super::stats::node_cpu_ns;
use super::{Body, Context, text};
use crate::node::machine;
use crate::pod::labels;

fn page(body: String) -> Response<Body> {
    let mut response = text(StatusCode::OK, body);
    let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The kubelet's own state.
pub fn kubelet(context: &Context) -> Response<Body> {
    let views = context.pods.list();
    let running = views.iter().filter(|view| view.observed.ready_sandbox().is_some()).count();
    let containers: usize = views.iter().map(|view| view.observed.running().count()).sum();
    let (pending, errors, orphaned) = context.shared.leftovers.read();
    let mut body = String::new();
    let _ = write!(
        body,
        "# HELP kubelet_node_name The node's name. The count is always 1.\n# TYPE kubelet_node_name gauge\n\
         kubelet_node_name{{node=\"{}\"}} 1\n\
         # HELP kubelet_running_pods Number of pods that have a running pod sandbox\n# TYPE kubelet_running_pods gauge\n\
         kubelet_running_pods {running}\n\
         # HELP kubelet_running_containers Number of containers currently running\n# TYPE kubelet_running_containers gauge\n\
         kubelet_running_containers{{container_state=\"running\"}} {containers}\n\
         # HELP kubelet_orphaned_runtime_pods_total Number of pods that have been detected in the container runtime without \
         being already known to the pod worker\n# TYPE kubelet_orphaned_runtime_pods_total counter\n\
         kubelet_orphaned_runtime_pods_total {orphaned}\n\
         # HELP kybern_kubelet_leftover_pods Pods that are gone and of which something is still to be removed\n\
         # TYPE kybern_kubelet_leftover_pods gauge\nkybern_kubelet_leftover_pods {pending}\n\
         # HELP kybern_kubelet_leftover_errors_total Failed attempts to remove what is left of a pod\n\
         # TYPE kybern_kubelet_leftover_errors_total counter\nkybern_kubelet_leftover_errors_total {errors}\n",
        context.shared.config.node_name
    );
    body.push_str(&kybern_component_base::listener::text());
    page(body)
}

/// What containers, pods and the node use: what metrics-server reads.
pub async fn resource(context: &Context) -> Response<Body> {
    let stats = match context.shared.runtime.list_container_stats().await {
        Ok(stats) => stats,
        Err(error) => {
            return text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot read the containers' usage: {error}"));
        }
    };
    let mut cpu = String::new();
    let mut memory = String::new();
    for one in &stats {
        let label = |name: &str| one.labels.get(name).map(String::as_str).unwrap_or("");
        let names = format!(
            "container=\"{}\",namespace=\"{}\",pod=\"{}\"",
            label(labels::CONTAINER_NAME),
            label(labels::POD_NAMESPACE),
            label(labels::POD_NAME)
        );
        let at = one.timestamp / 1_000_000;
        let _ = writeln!(cpu, "container_cpu_usage_seconds_total{{{names}}} {} {at}", one.cpu_usage_ns as f64 / 1e9);
        let _ = writeln!(memory, "container_memory_working_set_bytes{{{names}}} {} {at}", one.memory_working_set_bytes);
    }
    let left = machine::pressure(&context.shared.config.root_dir);
    let body = format!(
        "# HELP container_cpu_usage_seconds_total Cumulative cpu time consumed by the container in core-seconds\n\
         # TYPE container_cpu_usage_seconds_total counter\n{cpu}\
         # HELP container_memory_working_set_bytes Current working set of the container in bytes\n\
         # TYPE container_memory_working_set_bytes gauge\n{memory}\
         # HELP node_cpu_usage_seconds_total Cumulative cpu time consumed by the node in core-seconds\n\
         # TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total {}\n\
         # HELP node_memory_working_set_bytes Current working set of the node in bytes\n\
         # TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes {}\n",
        node_cpu_ns() as f64 / 1e9,
        context.shared.machine.memory_bytes - left.memory_available_bytes,
    );
    page(body)
}
