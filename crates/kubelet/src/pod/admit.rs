//! Whether a node takes a pod that was bound to it (`pkg/kubelet/lifecycle/predicate.go`): a second look at what the
//! scheduler decided, because other hands may bind pods too.

use std::sync::Arc;

use kybern_api::core::v1::{Node, Pod};
use kybern_apimachinery::quantity::Quantity;

use super::memory::Failure;
use super::resources::{Amounts, milli, pod_requests, value};
use super::spec;

/// Why the pod is refused, if it is. `others` are the pods that the node runs already.
pub fn admit(pod: &Pod, others: &[Arc<Pod>], node: &Node) -> Option<Failure> {
    let refuse = |reason: &str, message: String| Some(Failure { reason: reason.to_owned(), message, rejected: true });
    let active: Vec<&Arc<Pod>> =
        others.iter().filter(|p| !spec::has_ended(p) && spec::uid(p) != spec::uid(pod)).collect();
    let allocatable: Amounts = node
        .status
        .iter()
        .flat_map(|s| s.allocatable.iter().flatten())
        .filter_map(|(name, q)| Some((name.clone(), Quantity::parse(&q.0).ok()?)))
        .collect();
    if let Some(limit) = allocatable.get("pods").map(Quantity::value)
        && active.len() as i64 + 1 > limit
    {
        return refuse("OutOfpods", out_of("pods", 1, active.len() as i64, limit));
    }
    let wanted = pod_requests(spec::spec(pod));
    let in_use: Vec<Amounts> = active.iter().map(|p| pod_requests(spec::spec(p))).collect();
    for name in wanted.keys() {
        let amount: fn(&Amounts, &str) -> i64 = if name == "cpu" { milli } else { value };
        let (requested, used) = (amount(&wanted, name), in_use.iter().map(|a| amount(a, name)).sum::<i64>());
        let capacity = amount(&allocatable, name);
        if requested > 0 && requested + used > capacity {
            return refuse(&format!("OutOf{name}"), out_of(name, requested, used, capacity));
        }
    }
    if let Some(selector) = &spec::spec(pod).node_selector {
        let labels = node.metadata.labels.clone().unwrap_or_default();
        if !selector.iter().all(|(key, value)| labels.get(key) == Some(value)) {
            return refuse(
                "NodeAffinity",
                "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".to_owned(),
            );
        }
    }
    let ports = host_ports(pod);
    if !ports.is_empty()
        && active.iter().any(|other| host_ports(other).iter().any(|b| ports.iter().any(|a| clash(a, b))))
    {
        return refuse(
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".to_owned(),
        );
    }
    if let Some(reason) = forbidden_sysctl(pod) {
        return refuse("SysctlForbidden", format!("forbidden sysctl: {reason}"));
    }
    None
}

/// The sysctls that a pod may set: those of its own namespaces that cannot harm others
/// (`pkg/kubelet/sysctl/safe_sysctls.go`).
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

fn forbidden_sysctl(pod: &Pod) -> Option<String> {
    let spec = spec::spec(pod);
    let sysctls = spec.security_context.as_ref()?.sysctls.iter().flatten();
    sysctls.map(|s| s.name.replace('/', ".")).find_map(|name| {
        if !SAFE_SYSCTLS.contains(&name.as_str()) {
            return Some(format!("{name:?} not allowlisted"));
        }
        let of_host = if name.starts_with("net.") {
            spec::host_network(pod).then_some("net")
        } else {
            spec.host_ipc.unwrap_or_default().then_some("ipc")
        };
        of_host.map(|namespace| format!("{name:?} not allowed with host {namespace} enabled"))
    })
}

fn out_of(name: &str, requested: i64, used: i64, capacity: i64) -> String {
    format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}")
}

type HostPort = (i32, String, String);

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let host_network = spec::host_network(pod);
    let ports = spec::spec(pod).containers.iter().flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|n| *n > 0).or(host_network.then_some(p.container_port))?;
            let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            Some((port, protocol, p.host_ip.clone().unwrap_or_default()))
        })
        .collect()
}

fn clash(a: &HostPort, b: &HostPort) -> bool {
    let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
    a.0 == b.0 && a.1 == b.1 && (a.2 == b.2 || any(&a.2) || any(&b.2))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kybern_api::Quantity as ApiQuantity;
    use kybern_api::core::v1::{ContainerPort, NodeStatus, PodSecurityContext, Sysctl};

    use super::*;
    use crate::pod::testing::{container, pod, resources};

    fn node() -> Node {
        let amounts = [("cpu", "1"), ("memory", "1Gi"), ("pods", "2")];
        let allocatable = amounts.iter().map(|(k, v)| ((*k).to_owned(), ApiQuantity((*v).to_owned()))).collect();
        let mut node = Node {
            status: Some(NodeStatus { allocatable: Some(allocatable), ..Default::default() }),
            ..Default::default()
        };
        node.metadata.labels = Some(BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]));
        node
    }

    fn sized(name: &str, cpu: &str) -> Pod {
        let mut c = container("c");
        c.resources = Some(resources(&[("cpu", cpu)], &[]));
        pod(name, vec![c])
    }

    fn check(pod: Pod, others: Vec<Pod>, expect: Option<&str>) {
        let others: Vec<Arc<Pod>> = others.into_iter().map(Arc::new).collect();
        assert_eq!(admit(&pod, &others, &node()).map(|f| f.reason).as_deref(), expect);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        check(sized("a", "600m"), vec![sized("b", "400m")], None);
        check(sized("a", "700m"), vec![sized("b", "400m")], Some("OutOfcpu"));
        check(sized("a", "0"), vec![sized("b", "0"), sized("c", "0")], Some("OutOfpods"));
        let mut selects = pod("a", vec![]);
        selects.spec.as_mut().unwrap().node_selector = Some(BTreeMap::from([("disk".to_owned(), "hdd".to_owned())]));
        check(selects, vec![], Some("NodeAffinity"));
        let with_port = |name: &str, port: i32| {
            let mut c = container("c");
            c.ports = Some(vec![ContainerPort { container_port: 80, host_port: Some(port), ..Default::default() }]);
            pod(name, vec![c])
        };
        check(with_port("a", 80), vec![with_port("b", 80)], Some("NodePorts"));
        check(with_port("a", 80), vec![with_port("b", 81)], None);
    }

    #[test]
    fn only_safe_sysctls_of_own_namespaces() {
        let check = |name: &str, host_network: bool, expect: Option<&str>| {
            let mut p = pod("a", vec![]);
            let spec = p.spec.as_mut().unwrap();
            spec.host_network = Some(host_network);
            let sysctls = vec![Sysctl { name: name.to_owned(), value: "1".to_owned() }];
            spec.security_context = Some(PodSecurityContext { sysctls: Some(sysctls), ..Default::default() });
            assert_eq!(forbidden_sysctl(&p).as_deref(), expect, "{name}");
        };
        check("net.ipv4.tcp_syncookies", false, None);
        check("net/ipv4/tcp_syncookies", false, None);
        check("net.ipv4.tcp_syncookies", true, Some("\"net.ipv4.tcp_syncookies\" not allowed with host net enabled"));
        check("kernel.shm_rmid_forced", true, None);
        check("net.core.somaxconn", false, Some("\"net.core.somaxconn\" not allowlisted"));
    }
}
