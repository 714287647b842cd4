//! `APIVersions`, `APIGroupList`, `APIGroup` and `APIResourceList`.

use std::sync::Arc;

use kybern_apimachinery::{Value, json};

use crate::resource::{Resource, Subresource};
use crate::resources::{Group, ResourceTable};

pub(super) fn api_versions(table: &ResourceTable) -> Value {
    let versions: Vec<&str> = table.group("").into_iter().flat_map(|g| &g.versions).map(|v| v.name.as_str()).collect();
    // Upstream names its own address here; clients use the one they came by.
    json!({"kind": "APIVersions", "versions": versions, "serverAddressByClientCIDRs": []})
}

pub(super) fn group_list(table: &ResourceTable) -> Value {
    let groups: Vec<Value> = table.groups().iter().filter(|g| !g.name.is_empty()).map(|g| bare_group(g)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

pub(super) fn group(group: &Group) -> Value {
    let mut value = bare_group(group);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    value
}

fn bare_group(group: &Group) -> Value {
    let version = |v: &str| json!({"groupVersion": format!("{}/{v}", group.name), "version": v});
    let versions: Vec<Value> = group.versions.iter().map(|v| version(&v.name)).collect();
    json!({"name": &*group.name, "versions": versions, "preferredVersion": versions.first()})
}

pub(super) fn resource_list(group: &str, version: &str, rows: &[Arc<Resource>]) -> Value {
    let mut resources = Vec::new();
    for row in rows {
        let mut resource = json!({
            "name": row.gvr.resource, "singularName": row.singular, "namespaced": row.namespaced,
            "kind": row.kind, "verbs": row.verbs,
        });
        if !row.short_names.is_empty() {
            resource["shortNames"] = row.short_names.clone().into();
        }
        if !row.categories.is_empty() {
            resource["categories"] = row.categories.clone().into();
        }
        resources.push(resource);
        resources.extend(row.subresources.iter().map(|sub| subresource(row, sub)));
    }
    let group_version = kybern_apimachinery::GroupVersion::new(group, version).to_string();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
}

fn subresource(row: &Resource, sub: &Subresource) -> Value {
    let mut resource = json!({
        "name": format!("{}/{}", row.gvr.resource, sub.name), "singularName": "",
        "namespaced": row.namespaced, "kind": sub.kind.kind, "verbs": sub.verbs,
    });
    if (&sub.kind.group, &sub.kind.version) != (&row.gvr.group, &row.gvr.version) {
        resource["group"] = sub.kind.group.clone().into();
        resource["version"] = sub.kind.version.clone().into();
    }
    resource
}
