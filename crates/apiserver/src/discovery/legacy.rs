//! `APIVersions`, `APIGroupList`, `APIGroup` and `APIResourceList`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kybern_apimachinery::{Gvk, Value, json};

use super::{Known, rank};
use crate::registrations::Listed;
use crate::resource::{Resource, Subresource, version_priority};
use crate::resources::ResourceTable;

pub(super) fn api_versions(table: &ResourceTable) -> Value {
    let versions: Vec<&str> = table.group("").into_iter().flat_map(|g| &g.versions).map(|v| v.name.as_str()).collect();
    // Upstream names its own address here; clients use the one they came by.
    json!({"kind": "APIVersions", "versions": versions, "serverAddressByClientCIDRs": []})
}

pub(super) fn group_list(known: &Known<'_>) -> Value {
    let groups: Vec<Value> = listed(known, None).into_iter().map(|(name, versions)| bare(&name, &versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `None` where nobody has the group.
pub(super) fn group(known: &Known<'_>, name: &str) -> Option<Value> {
    let (_, versions) = listed(known, Some(name)).pop()?;
    let mut value = bare(name, &versions);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

/// A version with the ranks of its group and its own.
type Ranked = (i64, i64, String);

/// All groups but the core one, or one, with their versions, ranked as their APIServices say. What is served and not
/// registered yet is listed, too.
fn listed(known: &Known<'_>, only: Option<&str>) -> Vec<(String, Vec<String>)> {
    let mut all: BTreeMap<String, Vec<Ranked>> = BTreeMap::new();
    let mut add = |group: &str, version: String, (group_rank, version_rank): (i64, i64)| {
        all.entry(group.to_owned()).or_default().push((group_rank, version_rank, version));
    };
    let registered = match only {
        Some(group) => vec![(group.to_owned(), known.registrations.versions(group))],
        None => known.registrations.groups(),
    };
    let names: HashMap<&str, HashSet<&str>> = registered
        .iter()
        .map(|(group, versions)| (group.as_str(), versions.iter().map(|v| v.version.as_str()).collect()))
        .collect();
    for group in known.table.groups().iter().filter(|g| !g.name.is_empty() && only.is_none_or(|only| only == &*g.name))
    {
        let is_registered = |version: &str| names.get(&*group.name).is_some_and(|versions| versions.contains(version));
        for version in group.versions.iter().filter(|version| !is_registered(&version.name)) {
            add(&group.name, version.name.clone(), rank(known.priorities, &group.name, &version.name));
        }
    }
    for (group, versions) in &registered {
        for Listed { version, registration } in versions {
            add(group, version.clone(), (registration.group_priority, registration.version_priority));
        }
    }
    let mut groups: Vec<(String, Vec<Ranked>)> = all.into_iter().collect();
    // Stable: of equal rank by name.
    groups.sort_by_key(|(_, versions)| Reverse(versions.iter().map(|(rank, ..)| *rank).max()));
    let names = |mut versions: Vec<Ranked>| {
        versions.sort_by_key(|(_, rank, version)| Reverse((*rank, version_priority(version))));
        versions.into_iter().map(|(.., version)| version).collect()
    };
    groups.into_iter().map(|(name, versions)| (name, names(versions))).collect()
}

fn bare(name: &str, versions: &[String]) -> Value {
    let version = |v: &String| json!({"groupVersion": format!("{name}/{v}"), "version": v});
    let versions: Vec<Value> = versions.iter().map(version).collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
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
        if row.unstored.is_none() {
            resource["storageVersionHash"] = storage_version_hash(&row.stored.gvk).into();
        }
        resources.push(resource);
        resources.extend(row.subresources.iter().map(|sub| subresource(row, sub)));
    }
    let group_version = kybern_apimachinery::GroupVersion::new(group, version).to_string();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
}

/// Changes with the version that a kind's objects are stored in.
fn storage_version_hash(gvk: &Gvk) -> String {
    let stored = format!("{}/{}/{}", gvk.group, gvk.version, gvk.kind);
    let digest = ring::digest::digest(&ring::digest::SHA256, stored.as_bytes());
    STANDARD.encode(&digest.as_ref()[..8])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_versions_hash_is_upstreams() {
        assert_eq!(storage_version_hash(&Gvk::new("", "v1", "Pod")), "xPOwRZ+Yhw8=");
        assert_eq!(storage_version_hash(&Gvk::new("apps", "v1", "Deployment")), "8aSe+NMegvE=");
    }
}
