//! The built-in resources as rows: what discovery says of each, joined with where it is stored and by what rules.

use std::collections::HashMap;
use std::sync::Arc;

use kybern_apimachinery::{Gvk, Gvr};
use kybern_apiserver::resource::{Generation, Resource, Scale, StoredKind, Subresource, SubresourceHandler};
use kybern_schema::builtin::ResourceRow;

use crate::Deps;
use crate::columns::{columns, scale_columns};
use crate::connect;
use crate::conversion::conversion;
use crate::selectable::{refusal, selectable};
use crate::strategy::{part, strategy};

/// Where upstream keeps a kind below `/registry/`, where that is not its resource's name.
fn prefix(group: &str, resource: &str) -> String {
    match (group, resource) {
        ("", "nodes") => "minions".to_owned(),
        ("", "services") => "services/specs".to_owned(),
        ("", "endpoints") => "services/endpoints".to_owned(),
        ("", "replicationcontrollers") => "controllers".to_owned(),
        ("networking.k8s.io", "ingresses") => "ingress".to_owned(),
        ("apiextensions.k8s.io" | "apiregistration.k8s.io" | "internal.apiserver.k8s.io", _) => {
            format!("{group}/{resource}")
        }
        _ => resource.to_owned(),
    }
}

/// Both event APIs are one kind in the store.
fn stored_group(group: &'static str, resource: &str) -> &'static str {
    if resource == "events" { "" } else { group }
}

/// What a kind's generation counts.
fn generation(group: &str, resource: &str) -> Generation {
    match (group, resource) {
        ("apps", "deployments") => Generation::SpecAndAnnotations,
        ("apps", "controllerrevisions") => Generation::None,
        ("admissionregistration.k8s.io" | "apps" | "batch" | "policy", _) => Generation::Spec,
        ("apiextensions.k8s.io" | "flowcontrol.apiserver.k8s.io", _) => Generation::Spec,
        ("discovery.k8s.io", _) => Generation::SpecAndLabels,
        ("networking.k8s.io", "ingressclasses" | "ingresses" | "networkpolicies") => Generation::Spec,
        ("resource.k8s.io", "deviceclasses" | "devicetaintrules" | "resourceslices") => Generation::Spec,
        ("scheduling.k8s.io", "priorityclasses") => Generation::Spec,
        ("storage.k8s.io", "csidrivers") => Generation::Updates,
        ("", "pods" | "podtemplates" | "replicationcontrollers") => Generation::Spec,
        _ => Generation::None,
    }
}

/// Whether DELETE answers with the object that was there.
fn returns_deleted(resource: &str) -> bool {
    RETURNS_DELETED.contains(&resource)
}

const RETURNS_DELETED: [&str; 17] = [
    "pods",
    "podtemplates",
    "services",
    "serviceaccounts",
    "resourcequotas",
    "persistentvolumes",
    "persistentvolumeclaims",
    "storageclasses",
    "csidrivers",
    "csinodes",
    "volumeattachments",
    "volumeattributesclasses",
    "deviceclasses",
    "devicetaintrules",
    "resourceclaims",
    "resourceclaimtemplates",
    "resourceslices",
];

/// `replicas` in spec and status, and the selector, of what `scale` works on.
fn scale() -> SubresourceHandler {
    let path = |path: [&str; 2]| path.map(str::to_owned).to_vec();
    SubresourceHandler::Scale(Arc::new(Scale {
        spec_replicas: path(["spec", "replicas"]),
        status_replicas: path(["status", "replicas"]),
        selector: path(["spec", "selector"]),
        columns: scale_columns(),
    }))
}

fn subresources(row: &ResourceRow, deps: &Deps) -> Vec<Subresource> {
    row.subresources
        .iter()
        .filter_map(|sub| {
            let handler = match part(row.group, row.resource, sub.name) {
                Some(strategy) => SubresourceHandler::Part(strategy),
                None if sub.name == "scale" => scale(),
                None => SubresourceHandler::Connect(connect::connector(row.resource, sub.name, deps)?),
            };
            let verbs = sub.verbs.iter().map(|v| (*v).to_owned()).collect();
            Some(Subresource { name: sub.name.to_owned(), verbs, kind: sub.kind.clone(), handler })
        })
        .collect()
}

/// Every built-in resource.
pub fn resources(deps: &Deps) -> Vec<Resource> {
    let builtin = kybern_schema::builtin();
    let mut kinds: HashMap<(&str, &str), Arc<StoredKind>> = HashMap::new();
    let owned = |list: &[&'static str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    builtin
        .resources()
        .iter()
        .filter_map(|row| {
            let group = stored_group(row.group, row.resource);
            // The first version of a group that discovery lists is the preferred one, and the one that is stored.
            let stored = kinds.entry((group, row.resource)).or_insert_with(|| {
                Arc::new(StoredKind {
                    prefix: prefix(group, row.resource),
                    gvk: Gvk::new(group, row.version, row.kind),
                    resource: row.resource.to_owned(),
                    namespaced: row.namespaced,
                    selectable: selectable(group, row.resource),
                    refusal: refusal(group, row.resource),
                    reader: None,
                })
            });
            let has_status = row.subresources.iter().any(|s| s.name == "status");
            Some(Resource {
                gvr: Gvr::new(row.group, row.version, row.resource),
                kind: row.kind.to_owned(),
                singular: row.singular.to_owned(),
                namespaced: row.namespaced,
                short_names: owned(&row.short_names),
                categories: owned(&row.categories),
                verbs: owned(&row.verbs),
                subresources: subresources(row, deps),
                ty: builtin.kind(&row.gvk())?,
                schema: None,
                internal: stored.gvk.clone(),
                stored: stored.clone(),
                conversion: conversion(row.group, row.resource),
                strategy: strategy(row.group, row.resource, has_status, &deps.services),
                generation: generation(group, row.resource),
                returns_deleted: returns_deleted(row.resource),
                columns: Arc::new(columns(row.group, row.resource)),
                unstored: connect::unstored(row.group, row.resource, deps),
            })
        })
        .collect()
}
