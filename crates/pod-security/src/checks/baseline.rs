//! What the baseline level keeps out.

use std::collections::BTreeSet;

use kybern_apimachinery::Value;
use kybern_apimachinery::tree::{flag, has, int, list, text};

use super::texts::{Setters, containers, plural, quoted};
use super::{Pod, Violation};

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The capabilities that a container adds or drops.
pub(super) fn capabilities_of<'a>(container: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    list(&container["securityContext"]["capabilities"], field).iter().filter_map(Value::as_str)
}

/// The containers that add what they may not, and what that is.
pub(super) fn adding<'a>(pod: Pod<'a>, may: impl Fn(&str) -> bool) -> (Vec<&'a str>, BTreeSet<&'a str>) {
    let (mut bad, mut values) = (Vec::new(), BTreeSet::new());
    for container in pod.containers() {
        let before = bad.len();
        for capability in capabilities_of(container, "add").filter(|capability| !may(capability)) {
            values.insert(capability);
            bad.truncate(before);
            bad.push(text(container, "name"));
        }
    }
    (bad, values)
}

pub(super) fn capabilities(pod: Pod<'_>) -> Option<Violation> {
    let (bad, values) = adding(pod, |capability| CAPABILITIES.contains(&capability));
    if bad.is_empty() {
        return None;
    }
    let detail =
        format!("{} must not include {} in securityContext.capabilities.add", containers(&bad), quoted(values));
    Violation::new("non-default capabilities", detail)
}

pub(super) fn host_namespaces(pod: Pod<'_>) -> Option<Violation> {
    let fields = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| flag(pod.spec, field));
    let shown: Vec<String> = fields.map(|field| format!("{field}=true")).collect();
    if shown.is_empty() { None } else { Violation::new("host namespaces", shown.join(", ")) }
}

pub(super) fn host_path_volumes(pod: Pod<'_>) -> Option<Violation> {
    let volumes = list(pod.spec, "volumes").iter().filter(|volume| has(volume, "hostPath"));
    let names: Vec<&str> = volumes.map(|volume| text(volume, "name")).collect();
    if names.is_empty() {
        return None;
    }
    Violation::new("hostPath volumes", format!("{} {}", plural("volume", "volumes", names.len()), quoted(&names)))
}

pub(super) fn host_ports(pod: Pod<'_>) -> Option<Violation> {
    let (mut bad, mut ports) = (Vec::new(), BTreeSet::new());
    for container in pod.containers() {
        let own: Vec<i64> =
            list(container, "ports").iter().filter_map(|p| int(p, "hostPort")).filter(|p| *p != 0).collect();
        if !own.is_empty() {
            bad.push(text(container, "name"));
            ports.extend(own.iter().map(ToString::to_string));
        }
    }
    if bad.is_empty() {
        return None;
    }
    let (uses, noun) = (plural("uses", "use", bad.len()), plural("hostPort", "hostPorts", ports.len()));
    let ports = ports.into_iter().collect::<Vec<_>>().join(", ");
    Violation::new("hostPort", format!("{} {uses} {noun} {ports}", containers(&bad)))
}

/// The hosts that a probe or a handler asks instead of its pod.
fn hosts(handler: &Value) -> impl Iterator<Item = &str> {
    ["httpGet", "tcpSocket"].iter().map(|kind| text(&handler[*kind], "host")).filter(|host| !host.is_empty())
}

pub(super) fn probe_hosts(pod: Pod<'_>) -> Option<Violation> {
    let (mut bad, mut forbidden) = (BTreeSet::new(), BTreeSet::new());
    for container in pod.containers() {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| &container[probe]);
        let handlers = ["postStart", "preStop"].map(|handler| &container["lifecycle"][handler]);
        for host in probes.into_iter().chain(handlers).flat_map(hosts) {
            bad.insert(text(container, "name"));
            forbidden.insert(host);
        }
    }
    if bad.is_empty() {
        return None;
    }
    let bad: Vec<&str> = bad.into_iter().collect();
    let noun = plural("probe or lifecycle host", "probe or lifecycle hosts", forbidden.len());
    let uses = plural("uses", "use", bad.len());
    Violation::new("probe or lifecycle host", format!("{} {uses} {noun} {}", containers(&bad), quoted(forbidden)))
}

pub(super) fn privileged(pod: Pod<'_>) -> Option<Violation> {
    let containers_of = pod.containers().filter(|container| flag(&container["securityContext"], "privileged"));
    let bad: Vec<&str> = containers_of.map(|container| text(container, "name")).collect();
    if bad.is_empty() {
        return None;
    }
    Violation::new("privileged", format!("{} must not set securityContext.privileged=true", containers(&bad)))
}

pub(super) fn proc_mount(pod: Pod<'_>) -> Option<Violation> {
    let mut setters = Setters::default();
    for container in pod.containers() {
        let context = &container["securityContext"];
        if has(context, "procMount") && text(context, "procMount") != "Default" {
            setters.container(container);
            setters.values.insert(text(context, "procMount").to_owned());
        }
    }
    if setters.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set securityContext.procMount to {}",
        containers(&setters.containers),
        quoted(setters.values)
    );
    Violation::new("procMount", detail)
}

/// Allowed since a minor version.
const SYSCTLS: [(u32, &str); 12] = [
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
];

fn sysctls(pod: Pod<'_>, version: u32) -> Option<Violation> {
    let may = |name: &str| SYSCTLS.iter().any(|(since, allowed)| *since <= version && *allowed == name);
    let names = list(&pod.spec["securityContext"], "sysctls").iter().map(|sysctl| text(sysctl, "name"));
    let bad: Vec<&str> = names.filter(|name| !may(name)).collect();
    if bad.is_empty() { None } else { Violation::new("forbidden sysctls", bad.join(", ")) }
}

pub(super) fn sysctls_1_0(pod: Pod<'_>) -> Option<Violation> {
    sysctls(pod, 0)
}

pub(super) fn sysctls_1_27(pod: Pod<'_>) -> Option<Violation> {
    sysctls(pod, 27)
}

pub(super) fn sysctls_1_29(pod: Pod<'_>) -> Option<Violation> {
    sysctls(pod, 29)
}

pub(super) fn sysctls_1_32(pod: Pod<'_>) -> Option<Violation> {
    sysctls(pod, 32)
}

pub(super) fn windows_host_process(pod: Pod<'_>) -> Option<Violation> {
    let of = |object: &Value| flag(&object["securityContext"]["windowsOptions"], "hostProcess");
    let mut setters = Setters { pod: of(pod.spec), ..Setters::default() };
    pod.containers().filter(|container| of(container)).for_each(|container| setters.container(container));
    if setters.is_empty() {
        return None;
    }
    let detail = "must not set securityContext.windowsOptions.hostProcess=true";
    Violation::new("hostProcess", format!("{} {detail}", setters.shown().join(" and ")))
}
