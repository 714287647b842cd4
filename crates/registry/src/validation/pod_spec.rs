//! `PodSpec`, as pods and pod templates have it, in upstream's order.

use std::collections::BTreeSet;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_label, dns1123_subdomain, label_key};

use super::container::{self, Pod};
use super::format::{self, Errors};
use super::{annotations, meta, resources, scheduling, security, spread, volume, windows};
use crate::tree::{flag, has, int, list, text};

/// The spec of a pod, with the metadata of that pod, or of a template, without.
pub(crate) fn pod_spec(out: &mut Errors, path: &FieldPath, spec: &Value, meta: Option<&Value>) {
    let (volumes, claims) = (volume::volumes(out, path, spec, meta), claims(out, path, spec));
    let host_users = spec.get("hostUsers").and_then(Value::as_bool) != Some(false);
    container::all(out, path, &Pod { spec, volumes: &volumes, claims: &claims, host_users });
    if has(spec, "resources") {
        pod_resources(out, &path.child("resources"), spec);
    }
    if flag(spec, "hostNetwork") {
        container::host_network_ports(out, path, spec, meta.is_some());
    }
    let restart = ["Always", "OnFailure", "Never"];
    format::required_one_of(out, &path.child("restartPolicy"), text(spec, "restartPolicy"), &restart);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    format::required_one_of(out, &path.child("dnsPolicy"), text(spec, "dnsPolicy"), &policies);
    meta::labels(out, path, spec, "nodeSelector");
    security::pod(out, path, spec);
    scheduling::affinity(out, &path.child("affinity"), &spec["affinity"]);
    dns(out, &path.child("dnsConfig"), spec);
    for (i, gate) in list(spec, "readinessGates").iter().enumerate() {
        let kind = text(gate, "conditionType");
        let path = path.child("readinessGates").index(i).child("conditionType");
        format::invalid(out, &path, kind, label_key(kind));
    }
    let mut gates = BTreeSet::new();
    for (i, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let (name, path) = (text(gate, "name"), path.child("schedulingGates").index(i));
        format::invalid(out, &path, name, label_key(name));
        if !gates.insert(name) {
            out.push(FieldError::duplicate(&path, name));
        }
    }
    spread::constraints(out, path, spec);
    windows::host_process(out, path, spec);
    security::host_users(out, path, spec);
    let named = |out: &mut Errors, field: &str, format: fn(&str) -> Vec<String>| {
        let value = text(spec, field);
        if !value.is_empty() {
            format::invalid(out, &path.child(field), value, format(value));
        }
    };
    named(out, "serviceAccountName", dns1123_subdomain);
    named(out, "nodeName", dns1123_subdomain);
    let deadline = int(spec, "activeDeadlineSeconds");
    format::range(out, &path.child("activeDeadlineSeconds"), deadline, 1, i64::from(i32::MAX));
    named(out, "hostname", dns1123_label);
    named(out, "subdomain", dns1123_label);
    scheduling::tolerations(out, path, spec);
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let path = path.child("hostAliases").index(i);
        format::ip(out, &path.child("ip"), text(alias, "ip"));
        for (j, name) in list(alias, "hostnames").iter().enumerate() {
            let name = name.as_str().unwrap_or("");
            format::invalid(out, &path.child("hostnames").index(j), name, dns1123_subdomain(name));
        }
    }
    named(out, "priorityClassName", dns1123_subdomain);
    if has(spec, "runtimeClassName") {
        let class = text(spec, "runtimeClassName");
        format::invalid(out, &path.child("runtimeClassName"), class, dns1123_subdomain(class));
    }
    if has(spec, "preemptionPolicy") {
        let policies = ["PreemptLowerPriority", "Never"];
        format::required_one_of(out, &path.child("preemptionPolicy"), text(spec, "preemptionPolicy"), &policies);
    }
    if has(spec, "overhead") {
        let limits = serde_json::json!({"limits": spec["overhead"]});
        resources::requirements(out, &path.child("overhead"), &limits, &BTreeSet::new());
    }
    windows::os(out, path, spec);
    if has(spec, "workloadRef") {
        workload(out, &path.child("workloadRef"), &spec["workloadRef"]);
    }
}

/// To which replica of which group of which workload a pod belongs.
fn workload(out: &mut Errors, path: &FieldPath, workload: &Value) {
    let [name, group, replica] = ["name", "podGroup", "podGroupReplicaKey"].map(|field| text(workload, field));
    format::invalid(out, &path.child("name"), name, dns1123_subdomain(name));
    format::invalid(out, &path.child("podGroup"), group, dns1123_label(group));
    if !replica.is_empty() {
        format::invalid(out, &path.child("podGroupReplicaKey"), replica, dns1123_label(replica));
    }
}

/// A pod's metadata and spec, on create and on update.
pub(crate) fn pod(out: &mut Errors, pod: &Value) {
    let (meta, spec, path) = (&pod["metadata"], &pod["spec"], FieldPath::new("spec"));
    annotations::pod(out, &FieldPath::new("metadata.annotations"), meta, spec);
    pod_spec(out, &path, spec, Some(meta));
    if text(spec, "serviceAccountName").is_empty() {
        for (i, volume) in list(spec, "volumes").iter().enumerate() {
            for (j, source) in list(&volume["projected"], "sources").iter().enumerate() {
                if has(source, "serviceAccountToken") {
                    let path = path.child("volumes").index(i).child("projected").child("sources").index(j);
                    let detail = "must not be specified when serviceAccountName is not set";
                    out.push(FieldError::forbidden(&path.child("serviceAccountToken"), detail));
                }
            }
        }
    }
    for sort in ["containers", "initContainers"] {
        for (i, container) in list(spec, sort).iter().enumerate() {
            container::image_padding(out, &path.child(sort).index(i), container);
        }
    }
}

/// `resourceClaims`; answers their names.
fn claims<'a>(out: &mut Errors, path: &FieldPath, spec: &'a Value) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for (i, claim) in list(spec, "resourceClaims").iter().enumerate() {
        let (path, name) = (path.child("resourceClaims").index(i), text(claim, "name"));
        if name.is_empty() {
            out.push(FieldError::required(&path.child("name"), ""));
        } else if names.contains(name) {
            out.push(FieldError::duplicate(&path.child("name"), name));
        } else {
            format::invalid(out, &path.child("name"), name, dns1123_label(name));
            names.insert(name);
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        let given: Vec<&str> = sources.into_iter().filter(|s| has(claim, s)).collect();
        match given.len() {
            0 => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                out.push(FieldError::invalid(&path, claim.clone(), detail));
            }
            1 => {}
            _ => {
                let detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                out.push(FieldError::invalid(&path, claim.clone(), detail));
            }
        }
        for source in given {
            let name = text(claim, source);
            format::invalid(out, &path.child(source), name, dns1123_subdomain(name));
        }
    }
    names
}

/// What a pod asks for as a whole, and whether its containers fit into it.
fn pod_resources(out: &mut Errors, path: &FieldPath, spec: &Value) {
    if text(&spec["os"], "name") == "windows" {
        out.push(FieldError::forbidden(path, "may not be set for a windows pod"));
        return;
    }
    let whole = &spec["resources"];
    resources::pod(out, path, whole);
    let amount =
        |owner: &Value, part: &str, name: &str| owner.get(part).and_then(|p| p.get(name)).and_then(resources::quantity);
    for part in ["requests", "limits"] {
        for (name, _) in
            crate::tree::map(whole, part).filter(|(n, _)| part == "requests" || n.starts_with("hugepages-"))
        {
            let given = list(spec, "containers").iter().filter_map(|c| amount(c.get("resources")?, part, name));
            let (Some(sum), Some(total)) = (given.reduce(|a, b| a.plus(b)), amount(whole, part, name)) else {
                continue;
            };
            if sum > total {
                let detail = format!("must be greater than or equal to aggregate container {part} of {sum}");
                out.push(FieldError::invalid(&path.child(part).key(name), total.to_string(), detail));
            }
        }
    }
    for (i, container) in list(spec, "containers").iter().enumerate() {
        for (name, _) in crate::tree::map(&container["resources"], "limits") {
            let (Some(own), Some(total)) =
                (amount(&container["resources"], "limits", name), amount(whole, "limits", name))
            else {
                continue;
            };
            if own > total {
                let path = path.child("containers").index(i).key(name).child("limits");
                out.push(FieldError::invalid(
                    &path,
                    own.to_string(),
                    format!("must be less than or equal to pod limits of {total}"),
                ));
            }
        }
    }
}

fn dns(out: &mut Errors, path: &FieldPath, spec: &Value) {
    const MAX_SERVERS: usize = 3;
    const MAX_SEARCHES: usize = 32;
    const MAX_SEARCH_CHARACTERS: usize = 2048;
    let config = &spec["dnsConfig"];
    let (servers, searches) = (list(config, "nameservers"), list(config, "searches"));
    if text(spec, "dnsPolicy") == "None" && servers.is_empty() {
        let (path, detail) = if has(spec, "dnsConfig") {
            (path.child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None")
        } else {
            (path.clone(), "must provide `dnsConfig` when `dnsPolicy` is None")
        };
        out.push(FieldError::required(&path, detail));
        return;
    }
    if servers.len() > MAX_SERVERS {
        let detail = format!("must not have more than {MAX_SERVERS} nameservers");
        out.push(FieldError::invalid(&path.child("nameservers"), servers.to_vec(), detail));
    }
    for (i, server) in servers.iter().enumerate() {
        format::ip(out, &path.child("nameservers").index(i), server.as_str().unwrap_or(""));
    }
    if searches.len() > MAX_SEARCHES {
        let detail = format!("must not have more than {MAX_SEARCHES} search paths");
        out.push(FieldError::invalid(&path.child("searches"), searches.to_vec(), detail));
    }
    let names: Vec<&str> = searches.iter().map(|s| s.as_str().unwrap_or("")).collect();
    if names.join(" ").len() > MAX_SEARCH_CHARACTERS {
        let detail =
            format!("must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list");
        out.push(FieldError::invalid(&path.child("searches"), searches.to_vec(), detail));
    }
    for (i, name) in names.iter().enumerate().filter(|(_, name)| **name != ".") {
        let name = name.strip_suffix('.').unwrap_or(name);
        format::invalid(out, &path.child("searches").index(i), name, format::dns_search(name));
    }
    for (i, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            out.push(FieldError::required(&path.child("options").index(i), "must not be empty"));
        }
    }
}

/// A pod template: its labels, annotations and spec (`ValidatePodTemplateSpec`).
pub(crate) fn template(out: &mut Errors, path: &FieldPath, template: &Value) {
    template_meta(out, path, template);
    let (spec, path) = (&template["spec"], path.child("spec"));
    pod_spec(out, &path, spec, None);
    if !list(spec, "ephemeralContainers").is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        out.push(FieldError::forbidden(&path.child("ephemeralContainers"), detail));
    }
}

/// The labels and annotations of a pod template, whose paths upstream leaves `metadata` out of.
pub(crate) fn template_meta(out: &mut Errors, path: &FieldPath, template: &Value) {
    let meta = &template["metadata"];
    meta::labels(out, path, meta, "labels");
    meta::annotations(out, path, meta);
    annotations::pod(out, &path.child("annotations"), meta, &template["spec"]);
}

/// What a workload of a kind that keeps its pods running demands of their template.
pub(crate) fn kept_running(out: &mut Errors, path: &FieldPath, template: &Value, kind: &str) {
    let (spec, path) = (&template["spec"], path.child("spec"));
    let policy = text(spec, "restartPolicy");
    if policy != "Always" {
        out.push(FieldError::not_supported(&path.child("restartPolicy"), policy, &["Always"]));
    }
    if has(spec, "activeDeadlineSeconds") {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        out.push(FieldError::forbidden(&path.child("activeDeadlineSeconds"), detail));
    }
}
