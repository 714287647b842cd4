//! The roles and bindings of a fresh cluster, read from `roles.txt`.

use kybern_apimachinery::{Value, json};

const TABLE: &str = include_str!("roles.txt");
const RBAC: &str = "rbac.authorization.k8s.io";
/// The user whose process holds every controller.
const CONTROLLER_MANAGER: &str = "user:system:kube-controller-manager";

/// One object, and the resource it is created in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) resource: &'static str,
    pub(super) object: Value,
}

/// Every role and binding of the table, in its order.
pub(super) fn entries() -> Vec<Entry> {
    parse(TABLE)
}

/// What is there for kinds that are not served unless somebody asks for them.
pub(super) fn of_migrations() -> Vec<Entry> {
    parse(
        "controller storage-version-migrator-controller
  list,patch * *
  get,list,watch storagemigration.k8s.io storageversionmigrations
  patch,update storagemigration.k8s.io storageversionmigrations/status
  create,patch,update -,events.k8s.io events",
    )
}

pub(super) fn of_trust_bundles() -> Vec<Entry> {
    parse(
        "controller kube-apiserver-serving-clustertrustbundle-publisher
  attest certificates.k8s.io signers kubernetes.io/kube-apiserver-serving
  create,update,delete,list,watch certificates.k8s.io clustertrustbundles
  create,patch,update -,events.k8s.io events",
    )
}

/// Adds to the scheduler's role.
pub(super) fn let_scheduler_read(entries: &mut [Entry], group: &str, resource: &str) {
    let scheduler = entries.iter_mut().find(|entry| entry.object["metadata"]["name"] == "system:kube-scheduler");
    let rules = scheduler.and_then(|scheduler| scheduler.object["rules"].as_array_mut());
    rules.expect("the scheduler has a role").push(rule(&["get,list,watch", group, resource]));
}

/// Who evicts from devices with taints, and what the scheduler reads of them.
pub(super) fn add_device_taints(entries: &mut Vec<Entry>) {
    let_scheduler_read(entries, "resource.k8s.io", "devicetaintrules");
    entries.extend(parse(
        "controller device-taint-eviction-controller
  delete,get,list,watch - pods
  patch,update - pods/status
  get,list,watch resource.k8s.io resourceclaims
  get,list,watch resource.k8s.io resourceslices
  get,list,watch resource.k8s.io deviceclasses
  get,list,watch resource.k8s.io devicetaintrules
  patch,update resource.k8s.io devicetaintrules/status
  create,patch,update -,events.k8s.io events",
    ));
}

/// The scheduler's role has this always, as upstream's.
pub(super) fn of_elections() -> Vec<Entry> {
    parse(
        "role system:kube-controller-manager:leasecandidates
  create,delete,deletecollection,get,list,patch,update,watch coordination.k8s.io leasecandidates
bind system:kube-controller-manager:leasecandidates system:kube-controller-manager:leasecandidates user:system:kube-controller-manager",
    )
}

/// The rights of machines that join. They are kubeadm's: nothing marks them as the server's own.
pub(super) fn joining() -> Vec<Entry> {
    let mut entries = parse(include_str!("joining.txt"));
    for entry in &mut entries {
        let metadata = entry.object["metadata"].as_object_mut().expect("metadata is a map");
        metadata.retain(|key, _| key == "name" || key == "namespace");
    }
    entries
}

/// Lets the API server use the kubelets' API. Where its certificate is somebody else's, so is this.
pub(super) fn kubelet_client(user: &str) -> Entry {
    binding("kube-apiserver-kubelet-api-admin", "system:kubelet-api-admin", &format!("user:{user}"))
}

fn parse(table: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut bindings = Vec::new();
    for line in table.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.starts_with(' ') {
            let role = entries.last_mut().expect("a rule follows a role");
            role.object["rules"].as_array_mut().expect("a role has rules").push(rule(&words));
            continue;
        }
        match words.as_slice() {
            ["role", name] => entries.push(role(name, None)),
            ["role", name, label] => entries.push(role(name, Some(label))),
            ["aggregate", name, label] => entries.push(aggregate(name, label, None)),
            ["aggregate", name, label, own] => entries.push(aggregate(name, label, Some(own))),
            ["controller", name] => {
                let role_name = format!("system:controller:{name}");
                entries.push(role(&role_name, None));
                let subjects = format!("sa:kube-system/{name},{CONTROLLER_MANAGER}");
                bindings.push(binding(&role_name, &role_name, &subjects));
            }
            ["bind", name, role] => bindings.push(binding(name, role, "")),
            ["bind", name, role, subjects] => bindings.push(binding(name, role, subjects)),
            _ => unreachable!("roles.txt has a line of no known form: {line:?}"),
        }
    }
    entries.append(&mut bindings);
    entries
}

fn list(text: &str) -> Vec<&str> {
    text.split(',').map(|item| if item == "-" { "" } else { item }).collect()
}

fn rule(words: &[&str]) -> Value {
    match words {
        [verbs, "/*"] => json!({"verbs": list(verbs), "nonResourceURLs": ["*"]}),
        [verbs, paths] => json!({"verbs": list(verbs), "nonResourceURLs": list(paths)}),
        [verbs, groups, resources] => {
            json!({"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources)})
        }
        [verbs, groups, resources, names] => json!({
            "verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources), "resourceNames": list(names),
        }),
        other => unreachable!("roles.txt has a rule of no known form: {other:?}"),
    }
}

/// `NAME` is of the cluster, `NAMESPACE/NAME` of a namespace.
fn metadata(name: &str) -> (Option<&str>, Value) {
    let (namespace, name) = name.split_once('/').map_or((None, name), |(namespace, name)| (Some(namespace), name));
    let mut metadata = json!({
        "name": name,
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    });
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    (namespace, metadata)
}

fn role(name: &str, label: Option<&str>) -> Entry {
    let (namespace, mut metadata) = metadata(name);
    if let Some((key, value)) = label.and_then(|l| l.split_once('=')) {
        metadata["labels"][key] = value.into();
    }
    let (kind, resource) = if namespace.is_some() { ("Role", "roles") } else { ("ClusterRole", "clusterroles") };
    Entry {
        resource,
        object: json!({"apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": metadata, "rules": []}),
    }
}

fn aggregate(name: &str, label: &str, own: Option<&str>) -> Entry {
    let mut entry = role(name, own);
    // The controller that aggregates says what they are.
    entry.object["rules"] = Value::Null;
    entry.object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
    entry
}

fn binding(name: &str, role: &str, subjects: &str) -> Entry {
    let (namespace, metadata) = metadata(name);
    let (kind, role_kind, resource) = match namespace {
        Some(_) => ("RoleBinding", "Role", "rolebindings"),
        None => ("ClusterRoleBinding", "ClusterRole", "clusterrolebindings"),
    };
    let mut object = json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": metadata,
        "roleRef": {"apiGroup": RBAC, "kind": role_kind, "name": role},
    });
    let subjects: Vec<Value> = subjects.split(',').filter(|s| !s.is_empty()).map(subject).collect();
    if !subjects.is_empty() {
        object["subjects"] = Value::Array(subjects);
    }
    Entry { resource, object }
}

fn subject(text: &str) -> Value {
    match text.split_once(':') {
        Some(("user", name)) => json!({"apiGroup": RBAC, "kind": "User", "name": name}),
        Some(("group", name)) => json!({"apiGroup": RBAC, "kind": "Group", "name": name}),
        Some(("sa", account)) => {
            let (namespace, name) = account.split_once('/').expect("a service account has a namespace");
            json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
        _ => unreachable!("roles.txt has a subject of no known form: {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_whole_and_every_binding_has_its_role() {
        let mut entries = entries();
        add_device_taints(&mut entries);
        let_scheduler_read(&mut entries, "scheduling.k8s.io", "workloads");
        let name = |e: &Entry| e.object["metadata"]["name"].as_str().unwrap().to_owned();
        for entry in entries.iter().filter(|e| e.resource.ends_with("bindings")) {
            let role = entry.object["roleRef"]["name"].as_str().unwrap();
            let namespace = &entry.object["metadata"]["namespace"];
            let found = entries.iter().any(|e| name(e) == role && e.object["metadata"]["namespace"] == *namespace);
            assert!(found, "{} names {role}", name(entry));
        }
        for entry in &entries {
            let same = entries
                .iter()
                .filter(|e| e.resource == entry.resource && e.object["metadata"] == entry.object["metadata"]);
            assert_eq!(same.count(), 1, "{} stands twice", name(entry));
        }
        let scheduler = entries.iter().find(|e| name(e) == "system:kube-scheduler").unwrap();
        let rules = scheduler.object["rules"].as_array().unwrap();
        let added = rules[rules.len() - 2..].iter().map(|rule| rule["resources"][0].as_str().unwrap());
        assert_eq!(added.collect::<Vec<_>>(), ["devicetaintrules", "workloads"]);
    }

    #[test]
    fn forms() {
        let entries =
            parse("role a/b x=y\n  get,list -,apps pods n\ncontroller c\n  * /*\nbind d e sa:n/s,group:g:h\n");
        assert_eq!(
            entries[0].object["rules"][0],
            json!({"verbs": ["get", "list"], "apiGroups": ["", "apps"], "resources": ["pods"], "resourceNames": ["n"]})
        );
        assert_eq!((entries[0].resource, &entries[0].object["metadata"]["labels"]["x"]), ("roles", &json!("y")));
        assert_eq!(entries[1].object["rules"][0], json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        assert_eq!(
            entries[2].object["subjects"][1],
            json!({"apiGroup": RBAC, "kind": "User", "name": "system:kube-controller-manager"})
        );
        assert_eq!(entries[3].object["subjects"][0], json!({"kind": "ServiceAccount", "name": "s", "namespace": "n"}));
        assert_eq!(entries[3].object["subjects"][1]["name"], "g:h");
    }
}
