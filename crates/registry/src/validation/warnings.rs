//! What upstream accepts in a pod's spec, and warns of (`pkg/api/pod/warnings.go`). Clients get the warnings sorted by the
//! time that they are found; none depends on another.

use std::collections::BTreeSet;

use kybern_apimachinery::field::FieldPath;
use kybern_apimachinery::quantity::Quantity;
use kybern_apimachinery::validation::{dns1123_label, label_value};
use kybern_apimachinery::{Value, object};

use super::ip;
use super::node_labels::deprecation;
use super::scheduling::{PREFERRED, REQUIRED};
use crate::tree::{has, int, list, map, text};

/// A name that is used as a host's, or a part of one.
pub(crate) fn name(object: &Value, what: &str) -> Vec<String> {
    let texts = dns1123_label(object::name(object));
    if texts.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in {what}, which can result in surprising behavior; a DNS label is recommended: [{}]",
        texts.join(" ")
    )]
}

/// The warnings of a pod, or of a template at `path`.
pub(crate) fn pod(path: &FieldPath, meta: &Value, spec: &Value) -> Vec<String> {
    let (mut out, base) = (Vec::new(), path.child("spec"));
    placement(&mut out, &base, spec);
    annotations(&mut out, path, meta, spec);
    volumes(&mut out, &base, spec);
    let mut repeated = |field: &str, key: &str, what: &str| {
        let items = list(spec, field);
        for (i, item) in items.iter().enumerate() {
            let value = text(item, key);
            if items[..i].iter().any(|other| text(other, key) == value) {
                out.push(format!("{}: duplicate {what} {value:?}", base.child(field).index(i).child(key)));
            }
        }
    };
    repeated("hostAliases", "ip", "ip");
    repeated("imagePullSecrets", "name", "name");
    for (i, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            out.push(format!("{}: invalid empty name \"\"", base.child("imagePullSecrets").index(i).child("name")));
        }
    }
    fractional(&mut out, &base.child("overhead"), &spec["overhead"], &["memory", "ephemeral-storage"]);
    for (path, container) in containers(&base, spec) {
        for part in ["limits", "requests"] {
            let path = path.child("resources").child(part);
            fractional(&mut out, &path, &container["resources"][part], &["memory", "ephemeral-storage"]);
        }
        env(&mut out, &path.child("env"), list(container, "env"));
    }
    ports(&mut out, &base, spec);
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|s| s < 0) {
        let path = base.child("terminationGracePeriodSeconds");
        out.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    for (i, server) in list(&spec["dnsConfig"], "nameservers").iter().enumerate() {
        let path = base.child("dnsConfig").child("nameservers").index(i);
        out.extend(ip::warn(&path, server.as_str().unwrap_or("")));
    }
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        out.extend(ip::warn(&base.child("hostAliases").index(i).child("ip"), text(alias, "ip")));
    }
    out
}

/// Of a workload's template, when it is made or changed.
pub(crate) fn template(object: &Value, old: Option<&Value>) -> Vec<String> {
    template_at(&FieldPath::new("spec.template"), object, old, &["spec", "template"])
}

/// Of the template at `fields` of an object, when the object's spec is made or changed.
pub(crate) fn template_at(path: &FieldPath, object: &Value, old: Option<&Value>, fields: &[&str]) -> Vec<String> {
    match object::at(object, fields) {
        Some(template) if old.is_none_or(|old| old.get("spec") != object.get("spec")) => {
            pod(path, &template["metadata"], &template["spec"])
        }
        _ => Vec::new(),
    }
}

const SORTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

fn containers<'a>(path: &'a FieldPath, spec: &'a Value) -> impl Iterator<Item = (FieldPath, &'a Value)> {
    SORTS.into_iter().flat_map(move |sort| {
        list(spec, sort).iter().enumerate().map(move |(i, container)| (path.child(sort).index(i), container))
    })
}

/// Of a node selector's term. `weighted`: its values are not checked, but only warned of.
pub(crate) fn node_term(out: &mut Vec<String>, path: &FieldPath, term: &Value, weighted: bool) {
    for (i, expression) in list(term, "matchExpressions").iter().enumerate() {
        let (path, key) = (path.child("matchExpressions").index(i), text(expression, "key"));
        out.extend(deprecation(key).map(|message| format!("{}: {key} is {message}", path.child("key"))));
        for (j, value) in list(expression, "values").iter().enumerate().filter(|_| weighted) {
            let value = value.as_str().unwrap_or("");
            let path = path.child("values").index(j);
            out.extend(label_value(value).into_iter().map(|text| format!("{path}: {value} is invalid, {text}")));
        }
    }
}

fn placement(out: &mut Vec<String>, path: &FieldPath, spec: &Value) {
    for (key, _) in map(spec, "nodeSelector") {
        out.extend(deprecation(key).map(|message| format!("{}: {message}", path.child("nodeSelector").key(key))));
    }
    let (affinity, at) = (&spec["affinity"], path.child("affinity"));
    let node = at.child("nodeAffinity");
    for (i, term) in list(&affinity["nodeAffinity"][REQUIRED], "nodeSelectorTerms").iter().enumerate() {
        node_term(out, &node.child(REQUIRED).child("nodeSelectorTerms").index(i), term, false);
    }
    for (i, term) in list(&affinity["nodeAffinity"], PREFERRED).iter().enumerate() {
        node_term(out, &node.child(PREFERRED).index(i).child("preference"), &term["preference"], true);
    }
    const NULL: &str = "a null labelSelector results in matching no pod";
    for (i, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let (path, key) = (path.child("topologySpreadConstraints").index(i), text(constraint, "topologyKey"));
        out.extend(deprecation(key).map(|message| format!("{}: {key} is {message}", path.child("topologyKey"))));
        if !has(constraint, "labelSelector") {
            out.push(format!("{}: {NULL}", path.child("labelSelector")));
        }
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let mut term = |path: FieldPath, term: &Value| {
            if !has(term, "labelSelector") {
                out.push(format!("{}: {NULL}", path.child("labelSelector")));
            }
        };
        for (i, found) in list(&affinity[kind], REQUIRED).iter().enumerate() {
            term(at.child(kind).child(REQUIRED).index(i), found);
        }
        for (i, found) in list(&affinity[kind], PREFERRED).iter().enumerate() {
            let path = at.child(kind).child(PREFERRED).index(i).child("podAffinityTerm");
            term(path, &found["podAffinityTerm"]);
        }
    }
}

fn annotations(out: &mut Vec<String>, path: &FieldPath, meta: &Value, spec: &Value) {
    let path = path.child("metadata").child("annotations");
    let given = |key: &str| meta["annotations"].get(key).is_some();
    let mut warn = |key: &str, message: &str| out.push(format!("{}: {message}", path.key(key)));
    for (key, message) in [
        (
            "scheduler.alpha.kubernetes.io/critical-pod",
            "non-functional in v1.16+; use the \"priorityClassName\" field instead",
        ),
        ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
        ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ] {
        if given(key) {
            warn(key, message);
        }
    }
    const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
    let key = "seccomp.security.alpha.kubernetes.io/pod";
    if given(key) && !has(&spec["securityContext"], "seccompProfile") {
        warn(key, SECCOMP);
    }
    for (_, container) in containers(&FieldPath::root(), spec) {
        let name = text(container, "name");
        let context = &container["securityContext"];
        let key = format!("container.seccomp.security.alpha.kubernetes.io/{name}");
        if given(&key) && !has(context, "seccompProfile") {
            warn(&key, SECCOMP);
        }
        let key = format!("container.apparmor.security.beta.kubernetes.io/{name}");
        if given(&key) && !has(context, "appArmorProfile") {
            warn(&key, "deprecated since v1.30; use the \"appArmorProfile\" field instead");
        }
    }
}

/// Types of volumes that are no more, or soon will be.
const OLD_VOLUMES: [(&str, &str, &str); 9] = [
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Of a volume of such a type, but those of which nothing is said here.
pub(crate) fn old_volume(out: &mut Vec<String>, path: &FieldPath, volume: &Value, but: &[&str]) {
    for (_, name, message) in OLD_VOLUMES.iter().filter(|(field, ..)| has(volume, field) && !but.contains(field)) {
        out.push(format!("{}: {message}", path.child(name)));
    }
}

fn volumes(out: &mut Vec<String>, path: &FieldPath, spec: &Value) {
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        let path = path.child("volumes").index(i);
        old_volume(out, &path, volume, &[]);
        let template = &volume["ephemeral"]["volumeClaimTemplate"];
        claim(out, &path.child("ephemeral").child("volumeClaimTemplate").child("spec"), &template["spec"]);
    }
    super::overlap::volumes(out, spec);
}

/// Of a claim's spec.
pub(crate) fn claim(out: &mut Vec<String>, path: &FieldPath, spec: &Value) {
    for part in ["requests", "limits"] {
        fractional(out, &path.child("resources").child(part), &spec["resources"][part], &["storage"]);
    }
}

/// A common mistake: `100m` of memory is a tenth of a byte.
fn fractional(out: &mut Vec<String>, path: &FieldPath, amounts: &Value, resources: &[&str]) {
    for resource in resources {
        let Some(amount) = amounts.get(resource).and_then(super::resources::quantity) else { continue };
        let whole = |amount: Quantity| amount.milli_value() == i64::MAX || amount.milli_value() % 1000 == 0;
        if !whole(amount) {
            let (path, amount) = (path.key(resource), amount.to_string());
            out.push(format!("{path}: fractional byte value {amount:?} is invalid, must be an integer"));
        }
    }
}

fn env(out: &mut Vec<String>, path: &FieldPath, variables: &[Value]) {
    for (i, variable) in variables.iter().enumerate() {
        let (name, value) = (text(variable, "name"), text(variable, "value"));
        let hides = variables[..i].iter().any(|earlier| text(earlier, "name") == name);
        // One that is made of what it hides, like PATH, is meant.
        let reference = format!("$({name})");
        let made_of = !has(variable, "valueFrom") && value != reference && value.contains(&reference);
        if hides && !made_of {
            let path = path.index(i);
            out.push(format!("{path}: hides previous definition of {name:?}, which may be dropped when using apply"));
        }
    }
}

fn ports(out: &mut Vec<String>, path: &FieldPath, spec: &Value) {
    let all: Vec<(FieldPath, &Value)> = containers(path, spec)
        .flat_map(|(path, container)| {
            list(container, "ports").iter().enumerate().map(move |(i, port)| (path.child("ports").index(i), port))
        })
        .collect();
    let host = |port: &Value| int(port, "hostPort").unwrap_or(0);
    let number = |port: &Value| int(port, "containerPort").unwrap_or(0);
    for (i, (at, port)) in all.iter().enumerate() {
        let ip = text(port, "hostIP");
        if !ip.is_empty() && host(port) == 0 {
            // Upstream prints its own type.
            let (name, own, protocol) = (text(port, "name"), number(port), text(port, "protocol"));
            out.push(format!(
                "{at}: hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{own} Protocol:{protocol} HostIP:{ip}}}"
            ));
        }
        for (other_at, other) in &all[..i] {
            if number(other) != number(port) || text(other, "protocol") != text(port, "protocol") {
                continue;
            }
            let (same_ip, same_host) = (text(other, "hostIP") == ip, host(other) == host(port));
            let what = if same_ip && same_host {
                "duplicate"
            } else if host(port) == 0 || host(other) == 0 {
                "overlapping"
            } else if same_host && (ip.is_empty() != text(other, "hostIP").is_empty()) {
                "dangerously ambiguous"
            } else {
                continue;
            };
            out.push(format!("{at}: {what} port definition with {other_at}"));
        }
    }
    let mut seen = BTreeSet::new();
    for (i, (at, port)) in all.iter().enumerate() {
        let name = text(port, "name");
        if name.is_empty() || seen.insert(name) {
            continue;
        }
        let first = all[..i].iter().find(|(_, other)| text(other, "name") == name);
        out.extend(first.map(|(first, _)| {
            format!(
                "{at}: duplicate port name {name:?} with {first}, services and probes that select ports by name will use {first}"
            )
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn what_is_hardly_meant_is_told() {
        let check = |container: Value, expect: &[&str]| {
            let spec = json!({"containers": [container]});
            assert_eq!(pod(&FieldPath::root(), &json!({}), &spec), expect);
        };
        check(json!({"env": [{"name": "A", "value": "1"}, {"name": "B"}]}), &[]);
        check(
            json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}),
            &["spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply"],
        );
        check(json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A):2"}]}), &[]);
        check(
            json!({"ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "TCP", "name": "b"}]}),
            &["spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]"],
        );
        check(
            json!({"ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}]}),
            &[],
        );
        check(
            json!({"resources": {"limits": {"cpu": "100m", "memory": "100m"}}}),
            &[
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            ],
        );
        let pull = json!({"imagePullSecrets": [{}]});
        assert_eq!(
            pod(&FieldPath::root(), &json!({}), &pull),
            ["spec.imagePullSecrets[0].name: invalid empty name \"\""]
        );
    }

    #[test]
    fn a_template_is_told_of_when_it_changes() {
        let object = json!({"spec": {"template": {"spec": {"imagePullSecrets": [{}]}}}});
        assert_eq!(template(&object, None).len(), 1);
        assert!(template(&object, Some(&object)).is_empty());
    }
}
