//! Containers of all three sorts.

use std::collections::BTreeSet;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::dns1123_label;

use super::format::{self, Errors};
use super::probe::{self, Pod as Grace};
use super::volume::{Volumes, mount};
use super::{env, resources, security};
use crate::tree::{has, int, list, text};

/// What the checks of one container need to know of its pod.
pub(crate) struct Pod<'a> {
    pub spec: &'a Value,
    pub volumes: &'a Volumes<'a>,
    /// The names in `resourceClaims`.
    pub claims: &'a BTreeSet<&'a str>,
    pub host_users: bool,
}

/// `containers`, `initContainers` and `ephemeralContainers` of a pod's spec.
pub(crate) fn all(out: &mut Errors, path: &FieldPath, pod: &Pod<'_>) {
    regular(out, &path.child("containers"), pod);
    init(out, &path.child("initContainers"), pod);
    ephemeral(out, &path.child("ephemeralContainers"), pod);
}

fn regular(out: &mut Errors, path: &FieldPath, pod: &Pod<'_>) {
    let containers = list(pod.spec, "containers");
    if containers.is_empty() {
        out.push(FieldError::required(path, ""));
        return;
    }
    let mut names = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        let path = path.index(i);
        common(out, &path, container, pod);
        unique(out, &path, container, &mut names);
        running(out, &path, container, pod);
        if has(container, "restartPolicy") {
            let detail = "may not be set for non-init containers";
            out.push(FieldError::forbidden(&path.child("restartPolicy"), detail));
        }
    }
    host_ports(out, path, containers);
}

fn init(out: &mut Errors, path: &FieldPath, pod: &Pod<'_>) {
    let mut names: BTreeSet<&str> = list(pod.spec, "containers").iter().map(|c| text(c, "name")).collect();
    for (i, container) in list(pod.spec, "initContainers").iter().enumerate() {
        let at = path.index(i);
        common(out, &at, container, pod);
        let policy = text(container, "restartPolicy");
        if has(container, "restartPolicy") {
            format::one_of(out, &at.child("restartPolicy"), policy, &["Always"]);
        }
        let name = text(container, "name");
        if names.contains(name) {
            out.push(FieldError::duplicate(&at.child("name"), name));
        } else if !name.is_empty() {
            names.insert(name);
        }
        host_ports(out, path, std::slice::from_ref(container));
        if policy == "Always" {
            running(out, &at, container, pod);
            continue;
        }
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if has(container, field) {
                let detail = "may not be set for init containers without restartPolicy=Always";
                out.push(FieldError::forbidden(&at.child(field), detail));
            }
        }
    }
}

/// What an ephemeral container, which upstream's type has the fields of a container for, may not have.
const NOT_EPHEMERAL: [&str; 9] = [
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

fn ephemeral(out: &mut Errors, path: &FieldPath, pod: &Pod<'_>) {
    let others = list(pod.spec, "containers").iter().chain(list(pod.spec, "initContainers"));
    let others: BTreeSet<&str> = others.map(|c| text(c, "name")).collect();
    let mut names = others.clone();
    for (i, container) in list(pod.spec, "ephemeralContainers").iter().enumerate() {
        let path = path.index(i);
        common(out, &path, container, pod);
        image_padding(out, &path, container);
        unique(out, &path, container, &mut names);
        let target = text(container, "targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            out.push(FieldError::not_found(&path.child("targetContainerName"), target));
        }
        const DETAIL: &str = "cannot be set for an Ephemeral Container";
        for field in NOT_EPHEMERAL {
            let nothing = field == "resources" && container[field].as_object().is_some_and(serde_json::Map::is_empty);
            if has(container, field) && !nothing {
                out.push(FieldError::forbidden(&path.child(field), DETAIL));
            }
        }
        for (j, mount) in list(container, "volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !text(mount, field).is_empty() {
                    let path = path.child("volumeMounts").index(j).child(field);
                    out.push(FieldError::forbidden(&path, DETAIL));
                }
            }
        }
    }
}

fn unique<'v>(out: &mut Errors, path: &FieldPath, container: &'v Value, names: &mut BTreeSet<&'v str>) {
    let name = text(container, "name");
    if !names.insert(name) {
        out.push(FieldError::duplicate(&path.child("name"), name));
    }
}

/// A pod's images, unlike a template's, are what the kubelet gets.
pub(crate) fn image_padding(out: &mut Errors, path: &FieldPath, container: &Value) {
    let image = text(container, "image");
    if image != image.trim() {
        out.push(FieldError::invalid(&path.child("image"), image, "must not have leading or trailing whitespace"));
    }
}

/// Probes and hooks, which only containers that keep running have.
fn running(out: &mut Errors, path: &FieldPath, container: &Value, pod: &Pod<'_>) {
    let grace = Grace { grace: int(pod.spec, "terminationGracePeriodSeconds") };
    if has(container, "lifecycle") {
        probe::lifecycle(out, &path.child("lifecycle"), &container["lifecycle"], &grace);
    }
    for (field, readiness) in [("livenessProbe", false), ("readinessProbe", true), ("startupProbe", false)] {
        if has(container, field) {
            probe::probe(out, &path.child(field), &container[field], readiness, &grace);
        }
    }
}

fn common(out: &mut Errors, path: &FieldPath, container: &Value, pod: &Pod<'_>) {
    format::required_name(out, &path.child("name"), text(container, "name"), dns1123_label);
    if text(container, "image").is_empty() {
        out.push(FieldError::required(&path.child("image"), ""));
    }
    let messages = ["File", "FallbackToLogsOnError"];
    let message = text(container, "terminationMessagePolicy");
    format::required_one_of(out, &path.child("terminationMessagePolicy"), message, &messages);
    ports(out, path, container);
    env::variables(out, path, container);
    mount::mounts_and_devices(out, path, container, pod.volumes);
    let policies = ["Always", "IfNotPresent", "Never"];
    format::required_one_of(out, &path.child("imagePullPolicy"), text(container, "imagePullPolicy"), &policies);
    resources::requirements(out, &path.child("resources"), &container["resources"], pod.claims);
    resize_policies(out, &path.child("resizePolicy"), container, text(pod.spec, "restartPolicy"));
    if has(container, "securityContext") {
        security::container(out, &path.child("securityContext"), &container["securityContext"], pod.host_users);
    }
}

fn resize_policies(out: &mut Errors, path: &FieldPath, container: &Value, restart: &str) {
    let mut seen = BTreeSet::new();
    for (i, policy) in list(container, "resizePolicy").iter().enumerate() {
        let (resource, action) = (text(policy, "resourceName"), text(policy, "restartPolicy"));
        if !seen.insert(resource) {
            out.push(FieldError::duplicate(&path.index(i), resource));
        }
        format::required_one_of(out, path, resource, &["cpu", "memory"]);
        format::required_one_of(out, path, action, &["NotRequired", "RestartContainer"]);
        if restart == "Never" && action != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            out.push(FieldError::invalid(path, action, detail));
        }
    }
}

fn ports(out: &mut Errors, path: &FieldPath, container: &Value) {
    let mut names = BTreeSet::new();
    for (i, port) in list(container, "ports").iter().enumerate() {
        let path = path.child("ports").index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            let texts = format::port_name(name);
            if texts.is_empty() && !names.insert(name) {
                out.push(FieldError::duplicate(&path.child("name"), name));
            }
            format::invalid(out, &path.child("name"), name, texts);
        }
        match int(port, "containerPort").unwrap_or(0) {
            0 => out.push(FieldError::required(&path.child("containerPort"), "")),
            number => format::port_number(out, &path.child("containerPort"), number),
        }
        let host = int(port, "hostPort").unwrap_or(0);
        if host != 0 {
            format::port_number(out, &path.child("hostPort"), host);
        }
        format::required_one_of(out, &path.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

/// Two containers of a pod cannot have the same port of the host.
fn host_ports(out: &mut Errors, path: &FieldPath, containers: &[Value]) {
    let mut taken = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in list(container, "ports").iter().enumerate() {
            let Some(number) = int(port, "hostPort").filter(|n| *n != 0) else { continue };
            let place = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
            if !taken.insert(place.clone()) {
                let path = path.index(i).child("ports").index(j).child("hostPort");
                out.push(FieldError::duplicate(&path, place));
            }
        }
    }
}

/// With the host's network, a port is the host's. A template may leave that to the pod's defaults.
pub(crate) fn host_network_ports(out: &mut Errors, path: &FieldPath, spec: &Value, is_pod: bool) {
    for (i, container) in list(spec, "containers").iter().enumerate() {
        for (j, port) in list(container, "ports").iter().enumerate() {
            let (host, own) = (int(port, "hostPort").unwrap_or(0), int(port, "containerPort").unwrap_or(0));
            if (is_pod || host != 0) && host != own {
                let path = path.child("containers").index(i).child("ports").index(j).child("hostPort");
                let detail = "must match `containerPort` when `hostNetwork` is true";
                out.push(FieldError::invalid(&path, host, detail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn init_containers_end_and_names_are_the_pods() {
        let container = |name: &str| json!({"name": name, "image": "x", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"});
        let mut helper = container("a");
        helper["livenessProbe"] = json!({"tcpSocket": {"port": 1}});
        helper["restartPolicy"] = "Never".into();
        let spec = json!({"containers": [container("a")], "initContainers": [helper]});
        let mut out = Vec::new();
        let pod = Pod { spec: &spec, volumes: &Volumes::new(), claims: &BTreeSet::new(), host_users: true };
        all(&mut out, &FieldPath::new("spec"), &pod);
        assert_eq!(
            out.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "spec.initContainers[0].restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                "spec.initContainers[0].name: Duplicate value: \"a\"",
                "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ]
        );
    }
}
