//! `apidiscovery.k8s.io` `APIGroupDiscoveryList`: every group in one document.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use kybern_apimachinery::{Gvk, Value, json};

use super::{Priorities, rank};
use crate::registrations::{Listed, Registrations};
use crate::resource::{Resource, version_priority};
use crate::resources::{Group, ResourceTable, Version};

/// `core`: the document of `/api`, else of `/apis`. `beta`: in `v2beta1`. What is said of a group is made once.
pub(super) fn document(
    table: &ResourceTable,
    registrations: &Registrations,
    priorities: Priorities,
    core: bool,
    beta: bool,
) -> String {
    let own = || table.groups().iter().filter(|g| g.name.is_empty() == core);
    let version = if beta { "v2beta1" } else { "v2" };
    let mut out = format!(
        "{{\"kind\":\"APIGroupDiscoveryList\",\"apiVersion\":\"apidiscovery.k8s.io/{version}\",\"metadata\":{{}},\"items\":["
    );
    let remotes = if core { Default::default() } else { registrations.remotes() };
    let mut add = |group: &str| {
        if !out.ends_with('[') {
            out.push(',');
        }
        out.push_str(group);
    };
    if remotes.is_empty() {
        // Those of built-in kinds are in order, and before all others.
        own()
            .for_each(|group| add(group.discovery.get_or_init(|| self::group(&group.name, ranked(group, priorities)))));
    } else {
        ordered(own(), remotes, priorities).iter().for_each(|group| add(group));
    }
    out.push_str("]}");
    out
}

/// All groups of this server and of others, the highest ranked first.
fn ordered<'a>(
    own: impl Iterator<Item = &'a Arc<Group>>,
    mut remotes: HashMap<String, Vec<Listed>>,
    priorities: Priorities,
) -> Vec<String> {
    let mut groups: Vec<(i64, String, String)> = Vec::new();
    for group in own {
        let name = &*group.name;
        let own_rank = group.versions.iter().map(|v| rank(priorities, name, &v.name).0).max().unwrap_or(0);
        let Some(listed) = remotes.remove(name) else {
            let text = group.discovery.get_or_init(|| self::group(name, ranked(group, priorities))).clone();
            groups.push((own_rank, name.to_owned(), text));
            continue;
        };
        let rank = listed.iter().map(|l| l.registration.group_priority).max().unwrap_or(0).max(own_rank);
        let mut versions = ranked(group, priorities);
        // Who registers another server for a version means that one.
        versions.retain(|(_, version, _)| listed.iter().all(|l| l.version != *version));
        versions.extend(listed.iter().map(remote));
        groups.push((rank, name.to_owned(), self::group(name, versions)));
    }
    for (name, listed) in remotes {
        let rank = listed.iter().map(|l| l.registration.group_priority).max().unwrap_or(0);
        let text = group(&name, listed.iter().map(remote).collect());
        groups.push((rank, name, text));
    }
    groups.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    groups.into_iter().map(|(_, _, text)| text).collect()
}

/// Versions with their ranks, names and what is said of each.
type Ranked = Vec<(i64, String, Value)>;

fn ranked(group: &Group, priorities: Priorities) -> Ranked {
    let rank = |version: &Version| rank(priorities, &group.name, &version.name).1;
    group.versions.iter().map(|v| (rank(v), v.name.clone(), self::version(v))).collect()
}

fn remote(listed: &Listed) -> (i64, String, Value) {
    let said = listed.registration.remote.as_ref().map_or(Value::Null, |remote| remote.discovery.clone());
    (listed.registration.version_priority, listed.version.clone(), said)
}

fn group(name: &str, mut versions: Ranked) -> String {
    let mut metadata = json!({"creationTimestamp": null});
    if !name.is_empty() {
        metadata["name"] = name.into();
    }
    versions.sort_by_key(|(rank, version, _)| Reverse((*rank, version_priority(version))));
    let versions: Vec<Value> = versions.into_iter().map(|(_, _, said)| said).collect();
    json!({"metadata": metadata, "versions": versions}).to_string()
}

fn version(version: &Version) -> Value {
    let resources: Vec<Value> = version.rows.iter().map(|r| resource(r)).collect();
    json!({"version": version.name, "freshness": "Current", "resources": resources})
}

/// Of a built-in kind, upstream names group and version where they are not those of the resource.
fn kind(row: &Resource, gvk: &Gvk) -> Value {
    let own = row.schema.is_none() && (&gvk.group, &gvk.version) == (&row.gvr.group, &row.gvr.version);
    let (group, version) = if own { ("", "") } else { (gvk.group.as_str(), gvk.version.as_str()) };
    json!({"group": group, "version": version, "kind": gvk.kind})
}

fn resource(row: &Resource) -> Value {
    let mut resource = json!({
        "resource": row.gvr.resource,
        "responseKind": kind(row, &Gvk::new(&row.gvr.group, &row.gvr.version, &row.kind)),
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
        let subresource = |s: &crate::resource::Subresource| json!({"subresource": s.name, "responseKind": kind(row, &s.kind), "verbs": s.verbs});
        resource["subresources"] = row.subresources.iter().map(subresource).collect();
    }
    resource
}
