//! A definition as rows: what makes the generic server serve its resources.

use std::sync::{Arc, Weak};

use kybern_apimachinery::{GroupResource, Gvk, Gvr, Value, json, object};
use kybern_apiserver::resource::{
    Generation, Reader, Resource, Scale, SelectableField, StoredKind, Subresource, SubresourceHandler, version_priority,
};
use kybern_schema::jsonpath::JsonPath;
use kybern_schema::structural::{Upkeep, Validator};
use kybern_webhook::ClientManager;

use super::conditions::is_true;
use super::conversion::{self, Upkeeps};
use super::strategy::{Custom, CustomStatus, Version};
use super::{Shared, columns};
use crate::columns::scale_columns;
use crate::tree::{flag, list, text};

/// As discovery lists them.
const VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

/// The rows of a definition's served versions. The answer says what is wrong with a schema that cannot be served.
pub(super) fn of(
    definition: &Value,
    known: &Weak<Shared>,
    webhooks: &Arc<ClientManager>,
) -> Result<Vec<Arc<Resource>>, String> {
    let spec = &definition["spec"];
    let versions = list(spec, "versions");
    let upkeeps = upkeeps(definition);
    let conversion = conversion::of(definition, &upkeeps, webhooks);
    let names = &definition["status"]["acceptedNames"];
    let (group, plural, kind) = (text(spec, "group"), text(&spec["names"], "plural"), text(names, "kind"));
    let stored = versions.iter().find(|version| flag(version, "storage")).ok_or("no version of it is stored")?;
    let namespaced = text(spec, "scope") == "Namespaced";
    let stored = Arc::new(StoredKind {
        prefix: format!("{group}/{plural}"),
        gvk: Gvk::new(group, text(stored, "name"), kind),
        resource: plural.to_owned(),
        namespaced,
        selectable: selectable(versions),
        refusal: Some(|path| format!("field label not supported: {path}")),
        reader: Some(reader(spec, upkeeps.clone())),
    });
    let owned = |field: &str| list(names, field).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let row = |version: &Value| {
        let gvk = Gvk::new(group, text(version, "name"), kind);
        let upkeep = upkeeps.get(&gvk.version).ok_or("a version of it has no schema")?.clone();
        let has_status = version["subresources"]["status"].is_object();
        let scale = Some(version["subresources"]["scale"].clone()).filter(Value::is_object);
        let checked = Arc::new(Version {
            resource: GroupResource::new(group, plural),
            validator: Validator::new(&upkeep.schema).map_err(|error| error.to_string())?,
            upkeep: upkeep.clone(),
            has_status,
            scale: scale.clone(),
            deprecation: deprecation(version, versions, &gvk),
            definition: object::name(definition).to_owned(),
            known: known.clone(),
        });
        Ok(Arc::new(Resource {
            gvr: Gvr::new(group, &gvk.version, plural),
            kind: kind.to_owned(),
            singular: text(names, "singular").to_owned(),
            namespaced,
            short_names: owned("shortNames"),
            categories: owned("categories"),
            verbs: VERBS.map(str::to_owned).into(),
            subresources: subresources(&gvk, &checked, scale.as_ref()),
            ty: upkeep.kind.clone(),
            schema: Some(upkeep.schema.clone()),
            internal: gvk,
            stored: stored.clone(),
            conversion: conversion.clone(),
            generation: if has_status { Generation::Spec } else { Generation::SpecAndStatus },
            strategy: Arc::new(Custom(checked)),
            returns_deleted: false,
            columns: Arc::new(columns::of(version)),
            unstored: None,
        }))
    };
    // What is being removed has to be reached, whether it is served or not.
    let hidden = is_true(definition, "Terminating") && !versions.iter().any(|version| flag(version, "served"));
    versions.iter().filter(|version| flag(version, "served") || (hidden && flag(version, "storage"))).map(row).collect()
}

/// What keeps the objects of each version as its schema has them.
fn upkeeps(definition: &Value) -> Arc<Upkeeps> {
    let (spec, names) = (&definition["spec"], &definition["status"]["acceptedNames"]);
    let (group, kind, preserve) = (text(spec, "group"), text(names, "kind"), flag(spec, "preserveUnknownFields"));
    let of = |version: &Value| {
        let gvk = Gvk::new(group, text(version, "name"), kind);
        let schema = Arc::new(version["schema"]["openAPIV3Schema"].clone());
        (gvk.version.clone(), Arc::new(Upkeep::new(gvk, schema, preserve)))
    };
    Arc::new(list(spec, "versions").iter().map(of).collect())
}

/// Reads stored objects by the schema of the version that they are stored in.
fn reader(spec: &Value, upkeeps: Arc<Upkeeps>) -> Reader {
    let schemas: Vec<(&str, &Value)> =
        list(spec, "versions").iter().map(|version| (text(version, "name"), &version["schema"])).collect();
    let made_of = (json!(schemas).to_string(), flag(spec, "preserveUnknownFields"));
    let refresh = move |object: &mut Value| {
        let version = object::api_version(object).rsplit('/').next().unwrap_or_default();
        if let Some(upkeep) = upkeeps.get(version).cloned() {
            upkeep.refresh(object);
        }
    };
    Reader::new(made_of, Box::new(refresh))
}

/// The fields that some version lets select by.
fn selectable(versions: &[Value]) -> Vec<SelectableField> {
    let mut fields: Vec<SelectableField> = Vec::new();
    for field in versions.iter().flat_map(|version| list(version, "selectableFields")) {
        let path = text(field, "jsonPath");
        let Some(json_path) = JsonPath::parse(path).ok().and_then(|path| path.fields()) else { continue };
        let path = path.trim_start_matches('.').to_owned();
        if !fields.iter().any(|known| known.path == path) {
            fields.push(SelectableField { path, json_path, ..SelectableField::default() });
        }
    }
    fields
}

fn subresources(gvk: &Gvk, version: &Arc<Version>, scale: Option<&Value>) -> Vec<Subresource> {
    let verbs = || ["get", "patch", "update"].map(str::to_owned).into();
    let mut all = Vec::new();
    if version.has_status {
        let handler = SubresourceHandler::Part(Arc::new(CustomStatus(version.clone())));
        all.push(Subresource { name: "status".to_owned(), verbs: verbs(), kind: gvk.clone(), handler });
    }
    if let Some(scale) = scale {
        let path = |field: &str| -> Vec<String> {
            let path = text(scale, field).trim_start_matches('.');
            path.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect()
        };
        let handler = SubresourceHandler::Scale(Arc::new(Scale {
            spec_replicas: path("specReplicasPath"),
            status_replicas: path("statusReplicasPath"),
            selector: path("labelSelectorPath"),
            columns: scale_columns(),
        }));
        let kind = Gvk::new("autoscaling", "v1", "Scale");
        all.push(Subresource { name: "scale".to_owned(), verbs: verbs(), kind, handler });
    }
    all
}

/// The warning of every answer about a deprecated version.
fn deprecation(version: &Value, versions: &[Value], gvk: &Gvk) -> Option<String> {
    if !flag(version, "deprecated") {
        return None;
    }
    if let Some(said) = version["deprecationWarning"].as_str() {
        return Some(said.to_owned());
    }
    let Gvk { group, version: name, kind } = gvk;
    let warning = format!("{group}/{name} {kind} is deprecated");
    // The best version that is not.
    let better = versions.iter().filter(|other| flag(other, "served") && !flag(other, "deprecated"));
    let better = better.map(|other| text(other, "name")).filter(|o| version_priority(o) > version_priority(name));
    let best = better.max_by_key(|other| version_priority(other));
    Some(match best {
        Some(best) => format!("{warning}; use {group}/{best} {kind}"),
        None => warning,
    })
}
