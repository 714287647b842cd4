//! `apidiscovery.k8s.io` `APIGroupDiscoveryList`: every group in one document.

use kybern_apimachinery::{Gvk, Value, json};

use crate::resource::Resource;
use crate::resources::{Group, ResourceTable, Version};

/// `core`: the document of `/api`, else of `/apis`. `beta`: in `v2beta1`. What is said of a group is made once.
pub(super) fn document(table: &ResourceTable, core: bool, beta: bool) -> String {
    let groups = table.groups().iter().filter(|g| g.name.is_empty() == core);
    let version = if beta { "v2beta1" } else { "v2" };
    let mut out = format!(
        "{{\"kind\":\"APIGroupDiscoveryList\",\"apiVersion\":\"apidiscovery.k8s.io/{version}\",\"metadata\":{{}},\"items\":["
    );
    for (i, group) in groups.enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(group.discovery.get_or_init(|| self::group(group).to_string()));
    }
    out.push_str("]}");
    out
}

fn group(group: &Group) -> Value {
    let mut metadata = json!({"creationTimestamp": null});
    if !group.name.is_empty() {
        metadata["name"] = (*group.name).into();
    }
    let version = |version: &Version| json!({"version": version.name, "freshness": "Current", "resources": version.rows.iter().map(|r| resource(r)).collect::<Vec<_>>()});
    json!({"metadata": metadata, "versions": group.versions.iter().map(version).collect::<Vec<_>>()})
}

fn kind(gvk: &Gvk) -> Value {
    json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
}

fn resource(row: &Resource) -> Value {
    let mut resource = json!({
        "resource": row.gvr.resource,
        "responseKind": kind(&Gvk::new(&row.gvr.group, &row.gvr.version, &row.kind)),
        "scope": if row.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": row.singular,
        "verbs": row.verbs,
    });
    if !row.short_names.is_empty() {
        resource["shortNames"] = row.short_names.clone().into();
    }
    if !row.categories.is_empty() {
        resource["categories"] = row.categories.clone().into();
    }
    if !row.subresources.is_empty() {
        let subresource = |s: &crate::resource::Subresource| json!({"subresource": s.name, "responseKind": kind(&s.kind), "verbs": s.verbs});
        resource["subresources"] = row.subresources.iter().map(subresource).collect();
    }
    resource
}
