//! What the restricted level keeps out besides.

use std::collections::BTreeSet;

use kybern_apimachinery::Value;
use kybern_apimachinery::tree::{has, int, list, text};

use super::baseline::{adding, capabilities_of};
use super::texts::{Setters, containers, plural, quoted};
use super::{Pod, Violation};

pub(super) fn privilege_escalation(pod: Pod<'_>) -> Option<Violation> {
    let denied = |container: &Value| container["securityContext"]["allowPrivilegeEscalation"] == false;
    let bad: Vec<&str> = pod.containers().filter(|c| !denied(c)).map(|container| text(container, "name")).collect();
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&bad));
    Violation::new("allowPrivilegeEscalation != false", detail)
}

pub(super) fn privilege_escalation_but_windows(pod: Pod<'_>) -> Option<Violation> {
    if pod.is_windows() { None } else { privilege_escalation(pod) }
}

pub(super) fn capabilities(pod: Pod<'_>) -> Option<Violation> {
    let drops_all = |container: &Value| capabilities_of(container, "drop").any(|capability| capability == "ALL");
    let missing: Vec<&str> =
        pod.containers().filter(|c| !drops_all(c)).map(|container| text(container, "name")).collect();
    let (bad, values) = adding(pod, |capability| capability == "NET_BIND_SERVICE");
    let mut details = Vec::new();
    if !missing.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&missing)));
    }
    if !bad.is_empty() {
        let values = quoted(values);
        details.push(format!("{} must not include {values} in securityContext.capabilities.add", containers(&bad)));
    }
    if details.is_empty() { None } else { Violation::new("unrestricted capabilities", details.join("; ")) }
}

pub(super) fn capabilities_but_windows(pod: Pod<'_>) -> Option<Violation> {
    if pod.is_windows() { None } else { capabilities(pod) }
}

const ALLOWED_VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// Of several, the first is named.
const OTHER_VOLUMES: [&str; 21] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

pub(super) fn volumes(pod: Pod<'_>) -> Option<Violation> {
    let (mut bad, mut types) = (Vec::new(), BTreeSet::new());
    for volume in list(pod.spec, "volumes") {
        if !ALLOWED_VOLUMES.iter().any(|kind| has(volume, kind)) {
            bad.push(text(volume, "name"));
            types.insert(*OTHER_VOLUMES.iter().find(|kind| has(volume, kind)).unwrap_or(&"unknown"));
        }
    }
    if bad.is_empty() {
        return None;
    }
    let (noun, uses) = (plural("volume", "volumes", bad.len()), plural("uses", "use", bad.len()));
    let kinds = plural("restricted volume type", "restricted volume types", types.len());
    Violation::new("restricted volume types", format!("{noun} {} {uses} {kinds} {}", quoted(&bad), quoted(types)))
}

pub(super) fn run_as_non_root(pod: Pod<'_>) -> Option<Violation> {
    let context = |object: &Value| object["securityContext"]["runAsNonRoot"].as_bool();
    let of_pod = context(pod.spec);
    let mut setters = Setters { pod: of_pod == Some(false), ..Setters::default() };
    let mut silent = Vec::new();
    for container in pod.containers() {
        match context(container) {
            Some(true) => {}
            Some(false) => setters.container(container),
            None if of_pod == Some(true) => {}
            None => silent.push(text(container, "name")),
        }
    }
    let reason = "runAsNonRoot != true";
    if !setters.is_empty() {
        let setters = setters.shown().join(" and ");
        return Violation::new(reason, format!("{setters} must not set securityContext.runAsNonRoot=false"));
    }
    if silent.is_empty() {
        return None;
    }
    Violation::new(reason, format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent)))
}

pub(super) fn run_as_user(pod: Pod<'_>) -> Option<Violation> {
    let is_root = |object: &Value| int(&object["securityContext"], "runAsUser") == Some(0);
    let mut setters = Setters { pod: is_root(pod.spec), ..Setters::default() };
    pod.containers().filter(|container| is_root(container)).for_each(|container| setters.container(container));
    if setters.is_empty() {
        return None;
    }
    Violation::new("runAsUser=0", format!("{} must not set runAsUser=0", setters.shown().join(" and ")))
}
