//! Containers of all three sorts.

use std::collections::BTreeSet;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::dns1123_label;

use super::format::{self, Errors};
use super::volume::VolumeNames;
use super::{env, probe, resources, security, volume};
use crate::tree::{has, int, list, text};

/// What the checks of one container need to know of its pod.
pub(crate) struct Pod<'a> {
    pub volumes: &'a VolumeNames,
    pub host_network: bool,
}

/// `containers`, `initContainers` and `ephemeralContainers` of a pod's spec.
pub(crate) fn all(out: &mut Errors, path: &FieldPath, spec: &Value, pod: &Pod<'_>) {
    let mut names = BTreeSet::new();
    let regular = list(spec, "containers");
    if regular.is_empty() {
        out.push(FieldError::required(&path.child("containers"), ""));
    }
    for (i, container) in regular.iter().enumerate() {
        let path = path.child("containers").index(i);
        one(out, &path, container, pod, &mut names);
        running(out, &path, container);
        if has(container, "restartPolicy") {
            format::one_of(
                out,
                &path.child("restartPolicy"),
                text(container, "restartPolicy"),
                &["Always", "Never", "OnFailure"],
            );
        }
    }
    for (i, container) in list(spec, "initContainers").iter().enumerate() {
        let path = path.child("initContainers").index(i);
        one(out, &path, container, pod, &mut names);
        if text(container, "restartPolicy") == "Always" {
            running(out, &path, container);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if has(container, field) {
                    out.push(FieldError::forbidden(
                        &path.child(field),
                        "may not be set for init containers without restartPolicy=Always",
                    ));
                }
            }
        }
    }
    for (i, container) in list(spec, "ephemeralContainers").iter().enumerate() {
        let path = path.child("ephemeralContainers").index(i);
        one(out, &path, container, pod, &mut names);
        for field in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            if has(container, field) {
                out.push(FieldError::forbidden(&path.child(field), "cannot be set for an Ephemeral Container"));
            }
        }
        let target = text(container, "targetContainerName");
        if !target.is_empty() && !regular.iter().chain(list(spec, "initContainers")).any(|c| text(c, "name") == target)
        {
            out.push(FieldError::not_found(&path.child("targetContainerName"), target));
        }
    }
}

/// Probes and hooks, which only containers that keep running have.
fn running(out: &mut Errors, path: &FieldPath, container: &Value) {
    for (field, once) in [("livenessProbe", true), ("readinessProbe", false), ("startupProbe", true)] {
        if has(container, field) {
            probe::probe(out, &path.child(field), &container[field], once);
        }
    }
    if has(container, "lifecycle") {
        probe::lifecycle(out, &path.child("lifecycle"), &container["lifecycle"]);
    }
}

fn one<'v>(out: &mut Errors, path: &FieldPath, container: &'v Value, pod: &Pod<'_>, names: &mut BTreeSet<&'v str>) {
    let (name, image) = (text(container, "name"), text(container, "image"));
    let before = out.len();
    format::required_name(out, &path.child("name"), name, dns1123_label);
    if out.len() == before && !names.insert(name) {
        out.push(FieldError::duplicate(&path.child("name"), name));
    }
    if image.is_empty() {
        out.push(FieldError::required(&path.child("image"), ""));
    } else if image != image.trim() {
        out.push(FieldError::invalid(&path.child("image"), image, "must not have leading or trailing whitespace"));
    }
    format::required_one_of(
        out,
        &path.child("imagePullPolicy"),
        text(container, "imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
    );
    let policies = ["FallbackToLogsOnError", "File"];
    format::required_one_of(
        out,
        &path.child("terminationMessagePolicy"),
        text(container, "terminationMessagePolicy"),
        &policies,
    );
    ports(out, path, container, pod.host_network);
    env::variables(out, path, container);
    volume::mounts(out, path, container, pod.volumes);
    resources::requirements(out, &path.child("resources"), &container["resources"]);
    if has(container, "securityContext") {
        security::container(out, &path.child("securityContext"), &container["securityContext"]);
    }
}

fn ports(out: &mut Errors, path: &FieldPath, container: &Value, host_network: bool) {
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
        let number = int(port, "containerPort").unwrap_or(0);
        if number == 0 {
            out.push(FieldError::required(&path.child("containerPort"), ""));
        } else {
            format::port_number(out, &path.child("containerPort"), number);
        }
        let host = int(port, "hostPort").unwrap_or(0);
        if host != 0 {
            format::port_number(out, &path.child("hostPort"), host);
        }
        if host_network && host != number {
            out.push(FieldError::invalid(
                &path.child("hostPort"),
                host,
                "must match `containerPort` when `hostNetwork` is true",
            ));
        }
        format::required_one_of(out, &path.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

/// Two containers of a pod cannot have the same port of the host.
pub(crate) fn host_port_conflicts(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let mut taken = BTreeSet::new();
    for (i, container) in list(spec, "containers").iter().enumerate() {
        for (j, port) in list(container, "ports").iter().enumerate() {
            let Some(number) = int(port, "hostPort").filter(|n| *n != 0) else { continue };
            let place = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
            if !taken.insert(place.clone()) {
                out.push(FieldError::duplicate(
                    &path.child("containers").index(i).child("ports").index(j).child("hostPort"),
                    place,
                ));
            }
        }
    }
}
