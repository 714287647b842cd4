//! `PodSpec`, as pods and pod templates have it.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_label, dns1123_subdomain};

use super::container::{self, Pod};
use super::format::{self, Errors};
use super::{meta, scheduling, security, volume};
use crate::tree::{flag, has, int, list, text};

pub(crate) fn pod_spec(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let volumes = volume::volumes(out, path, spec);
    let host_network = flag(spec, "hostNetwork");
    container::all(out, path, spec, &Pod { volumes: &volumes, host_network });
    container::host_port_conflicts(out, path, spec);
    format::required_one_of(
        out,
        &path.child("restartPolicy"),
        text(spec, "restartPolicy"),
        &["Always", "OnFailure", "Never"],
    );
    dns(out, path, spec);
    scheduling::placement(out, path, spec);
    scheduling::tolerations(out, path, spec);
    security::pod(out, path, spec);
    for field in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        if !text(spec, field).is_empty() {
            format::invalid(out, &path.child(field), text(spec, field), dns1123_subdomain(text(spec, field)));
        }
    }
    for field in ["hostname", "subdomain"] {
        if !text(spec, field).is_empty() {
            format::invalid(out, &path.child(field), text(spec, field), dns1123_label(text(spec, field)));
        }
    }
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let path = path.child("hostAliases").index(i);
        format::ip(out, &path.child("ip"), text(alias, "ip"));
        for (j, name) in list(alias, "hostnames").iter().enumerate() {
            let name = name.as_str().unwrap_or("");
            format::invalid(out, &path.child("hostnames").index(j), name, dns1123_subdomain(name));
        }
    }
    format::not_negative(out, &path.child("terminationGracePeriodSeconds"), int(spec, "terminationGracePeriodSeconds"));
    if let Some(seconds) = int(spec, "activeDeadlineSeconds").filter(|s| !(1..=i64::from(i32::MAX)).contains(s)) {
        out.push(FieldError::invalid(
            &path.child("activeDeadlineSeconds"),
            seconds,
            "must be between 1 and 2147483647, inclusive",
        ));
    }
    let gates = list(spec, "schedulingGates");
    for (i, gate) in gates.iter().enumerate() {
        let (name, path) = (text(gate, "name"), path.child("schedulingGates").index(i));
        format::required_name(out, &path, name, kybern_apimachinery::validation::label_key);
        if gates[..i].iter().any(|other| text(other, "name") == name) {
            out.push(FieldError::duplicate(&path, name));
        }
    }
    if has(spec, "os") {
        let (os, path) = (text(&spec["os"], "name"), path.child("os").child("name"));
        format::required_one_of(out, &path, os, &["linux", "windows"]);
    }
    if !list(spec, "schedulingGates").is_empty() && !text(spec, "nodeName").is_empty() {
        out.push(FieldError::forbidden(
            &path.child("nodeName"),
            "cannot be set until all schedulingGates have been cleared",
        ));
    }
}

fn dns(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let policy = text(spec, "dnsPolicy");
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    format::required_one_of(out, &path.child("dnsPolicy"), policy, &policies);
    let config = &spec["dnsConfig"];
    let nameservers = list(config, "nameservers");
    if policy == "None" && nameservers.is_empty() {
        let path =
            if has(spec, "dnsConfig") { path.child("dnsConfig").child("nameservers") } else { path.child("dnsConfig") };
        out.push(FieldError::required(&path, "must provide at least one DNS nameserver when `dnsPolicy` is None"));
    }
    let path = path.child("dnsConfig");
    if nameservers.len() > 3 {
        out.push(FieldError::invalid(
            &path.child("nameservers"),
            config["nameservers"].clone(),
            "must not have more than 3 nameservers",
        ));
    }
    for (i, server) in nameservers.iter().enumerate() {
        format::ip(out, &path.child("nameservers").index(i), server.as_str().unwrap_or(""));
    }
    let searches = list(config, "searches");
    if searches.len() > 32 {
        out.push(FieldError::invalid(
            &path.child("searches"),
            config["searches"].clone(),
            "must not have more than 32 search paths",
        ));
    }
    for (i, search) in searches.iter().enumerate() {
        let search = search.as_str().unwrap_or("");
        if search != "." {
            let plain = search.strip_suffix('.').unwrap_or(search).replace('_', "-");
            format::invalid(out, &path.child("searches").index(i), search, dns1123_subdomain(plain.trim_matches('-')));
        }
    }
    for (i, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            out.push(FieldError::required(&path.child("options").index(i), "must not be empty"));
        }
    }
}

/// The template of a workload: its labels and its spec. `restart`: the restart policies that the workload allows.
pub(crate) fn template(out: &mut Errors, path: &FieldPath, template: &Value, restart: &[&str]) {
    meta::labels(out, &path.child("metadata"), &template["metadata"], "labels");
    let spec = &template["spec"];
    let path = path.child("spec");
    pod_spec(out, &path, spec);
    let policy = text(spec, "restartPolicy");
    if !policy.is_empty() && ["Always", "OnFailure", "Never"].contains(&policy) && !restart.contains(&policy) {
        out.push(FieldError::not_supported(&path.child("restartPolicy"), policy, restart));
    }
    if has(spec, "activeDeadlineSeconds") && restart == ["Always"] {
        // Upstream's text, whatever the workload.
        let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
        out.push(FieldError::forbidden(&path.child("activeDeadlineSeconds"), detail));
    }
    if !list(spec, "ephemeralContainers").is_empty() {
        out.push(FieldError::forbidden(
            &path.child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        ));
    }
}
