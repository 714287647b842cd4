//! What another server says of itself, in either of discovery's forms: taken are the fields that there are, of the one
//! version that it is registered for.

use kybern_apimachinery::{Value, json};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct GroupList {
    #[serde(default)]
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    resource: String,
    #[serde(default)]
    response_kind: Option<Kind>,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    singular_resource: String,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    short_names: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    categories: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    subresources: Vec<Subresource>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Subresource {
    subresource: String,
    #[serde(default)]
    response_kind: Option<Kind>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    accepted_types: Vec<Kind>,
    #[serde(default)]
    verbs: Vec<String>,
}

#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(default)]
struct Kind {
    group: String,
    version: String,
    kind: String,
}

/// An `APIVersionDiscovery`.
pub(super) fn entry(version: &str, resources: Value, current: bool) -> Value {
    let freshness = if current { "Current" } else { "Stale" };
    let mut entry = json!({"version": version, "freshness": freshness});
    if resources.as_array().is_some_and(|all| !all.is_empty()) {
        entry["resources"] = resources;
    }
    entry
}

/// The resources of a version in an `APIGroupDiscoveryList`; none where it does not know the version.
pub(super) fn of_aggregated(bytes: &[u8], group: &str, version: &str) -> Result<Value, String> {
    let list: GroupList = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let groups = list.items.into_iter().filter(|g| g.metadata.name == group);
    let found = groups.flat_map(|group| group.versions).find(|v| v.version == version);
    let mut resources = found.map(|v| v.resources).unwrap_or_default();
    for resource in &mut resources {
        // Some clients cannot do without.
        resource.response_kind.get_or_insert_default();
        for subresource in &mut resource.subresources {
            subresource.response_kind.get_or_insert_default();
        }
    }
    serde_json::to_value(resources).map_err(|e| e.to_string())
}

#[derive(Deserialize)]
struct ResourceList {
    #[serde(default)]
    resources: Vec<Legacy>,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct Legacy {
    name: String,
    singular_name: String,
    namespaced: bool,
    group: String,
    version: String,
    kind: String,
    verbs: Vec<String>,
    short_names: Vec<String>,
    categories: Vec<String>,
}

/// The same of an `APIResourceList`.
pub(super) fn of_legacy(bytes: &[u8]) -> Result<Value, String> {
    let list: ResourceList = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let mut resources: Vec<Resource> = Vec::new();
    for legacy in list.resources {
        let Legacy { group, version, kind, verbs, .. } = legacy;
        let kind = Some(Kind { group, version, kind });
        let scope = if legacy.namespaced { "Namespaced" } else { "Cluster" };
        let mut named = |name: &str| match resources.iter().position(|r| r.resource == name) {
            Some(at) => at,
            None => {
                resources.push(Resource {
                    resource: name.to_owned(),
                    response_kind: None,
                    scope: scope.to_owned(),
                    singular_resource: String::new(),
                    verbs: Vec::new(),
                    short_names: Vec::new(),
                    categories: Vec::new(),
                    subresources: Vec::new(),
                });
                resources.len() - 1
            }
        };
        if let Some((name, subresource)) = legacy.name.split_once('/') {
            let at = named(name);
            let subresource = subresource.to_owned();
            let added = Subresource { subresource, response_kind: kind, accepted_types: Vec::new(), verbs };
            resources[at].subresources.push(added);
            continue;
        }
        let at = named(&legacy.name);
        let resource = &mut resources[at];
        (resource.response_kind, resource.verbs, resource.singular_resource) = (kind, verbs, legacy.singular_name);
        (resource.short_names, resource.categories) = (legacy.short_names, legacy.categories);
    }
    for resource in &mut resources {
        resource.response_kind.get_or_insert_default();
    }
    serde_json::to_value(resources).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_version_is_taken() {
        let document = json!({"items": [
            {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [{"resource": "lies"}]}]},
            {"metadata": {"name": "a.b"}, "versions": [
                {"version": "v1", "resources": [{"resource": "xs", "rubbish": {}, "subresources": [{"subresource": "status"}]}]},
            ]},
        ]});
        let of = |version| of_aggregated(document.to_string().as_bytes(), "a.b", version).unwrap();
        let none = json!({"group": "", "version": "", "kind": ""});
        assert_eq!(of("v1")[0]["resource"], "xs");
        assert_eq!((&of("v1")[0]["responseKind"], &of("v1")[0]["subresources"][0]["responseKind"]), (&none, &none));
        assert!(of("v1")[0].get("rubbish").is_none());
        assert_eq!(entry("v2", of("v2"), true), json!({"version": "v2", "freshness": "Current"}));
        assert!(of_aggregated(b"[1", "a.b", "v1").is_err());
    }

    #[test]
    fn the_older_form_says_the_same() {
        let document = json!({"resources": [
            {"name": "xs/scale", "namespaced": true, "group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get"]},
            {"name": "xs", "singularName": "x", "namespaced": true, "kind": "X", "verbs": ["list"], "shortNames": ["s"]},
        ]});
        let resources = of_legacy(document.to_string().as_bytes()).unwrap();
        assert_eq!(
            resources,
            json!([{
                "resource": "xs", "responseKind": {"group": "", "version": "", "kind": "X"}, "scope": "Namespaced",
                "singularResource": "x", "verbs": ["list"], "shortNames": ["s"],
                "subresources": [{
                    "subresource": "scale", "verbs": ["get"],
                    "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"},
                }],
            }])
        );
    }
}
