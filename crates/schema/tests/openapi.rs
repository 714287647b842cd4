//! The served OpenAPI v2 document against the published one: same definitions, same paths, same operations.
//!
//! The published document is not part of this repository; `upstream_facts` tells where it is looked for.

use std::collections::BTreeSet;
use std::path::PathBuf;

use kybern_apimachinery::{GroupVersion, Value};
use kybern_schema::builtin;
use kybern_schema::openapi::{Served, v2, v3, v3_path};
use kybern_testbed::upstream_facts;

fn published() -> Option<Value> {
    let path = upstream_facts("openapi: as_published", "swagger-v1.35.json")?;
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

/// Drops what is deliberately different: descriptions, unions, the default list and map types, and an order.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let kept = object.iter().filter(|(key, value)| match key.as_str() {
                // A property may have these names, too.
                "description" | "x-kubernetes-unions" => value.is_object(),
                "x-kubernetes-list-type" => *value != "atomic",
                "x-kubernetes-map-type" => *value != "granular",
                _ => true,
            });
            let mut kept: serde_json::Map<_, _> = kept.map(|(key, value)| (key.clone(), plain(value))).collect();
            // The published order is that of the declarations.
            if let Some(Value::Array(required)) = kept.get_mut("required") {
                required.sort_by_key(ToString::to_string);
            }
            // v3 has a reference in a list of one where it says something of it, such as a description.
            match (kept.len(), kept.get("allOf").and_then(|all| all.get(0))) {
                (1, Some(only)) => only.clone(),
                _ => Value::Object(kept),
            }
        }
        Value::Array(items) => items.iter().map(plain).collect(),
        other => other.clone(),
    }
}

#[test]
fn as_published() {
    let Some(published) = published() else { return };
    let served: Vec<Served> = builtin().resources().iter().map(Served::builtin).collect();
    let document = v2(&served, "v1.35.0");
    let mut differences = Vec::new();
    let (ours, theirs) = (document["definitions"].as_object().unwrap(), published["definitions"].as_object().unwrap());
    let mut compared = 0;
    for (name, definition) in ours {
        let Some(theirs) = theirs.get(name) else {
            differences.push(format!("{name} is not published"));
            continue;
        };
        let (mut left, mut right) = (plain(definition), plain(theirs));
        // Options and statuses are listed in every group upstream.
        if name.contains("apis.meta.v1") || name.ends_with(".Eviction") {
            for side in [&mut left, &mut right] {
                side.as_object_mut().unwrap().remove("x-kubernetes-group-version-kind");
            }
        }
        compared += 1;
        // Its fields that hold any JSON have no definition of their own here.
        if left != right && !name.ends_with(".JSONSchemaProps") {
            differences.push(format!("{name}: {left} and {right}"));
        }
    }
    assert!(compared > 500, "only {compared} definitions");
    for (path, item) in published["paths"].as_object().unwrap() {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        // There are no logs of the node's here.
        if parts[0] == "logs" {
            continue;
        }
        for (method, operation) in item.as_object().unwrap().iter().filter(|(m, _)| *m != "parameters") {
            let ours = &document["paths"][path][method];
            for key in ["operationId", "x-kubernetes-action", "x-kubernetes-group-version-kind", "tags"] {
                if ours[key] != operation[key] {
                    differences.push(format!("{method} {path} {key}: {} and {}", ours[key], operation[key]));
                }
            }
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

/// The documents of `/openapi/v3` as a source tree of Kubernetes has them, `$KYBERN_KUBERNETES_SOURCE`: every schema with its
/// defaults, every path and method with its parameters.
#[test]
fn v3_as_published() {
    let Some(tree) = std::env::var_os("KYBERN_KUBERNETES_SOURCE").map(PathBuf::from) else {
        // Not noted as what a machine lacks: no package brings such a tree.
        return println!("not run: v3_as_published: KYBERN_KUBERNETES_SOURCE names no source tree of Kubernetes");
    };
    let served: Vec<Served> = builtin().resources().iter().map(Served::builtin).collect();
    let mut differences = Vec::new();
    // The tree may be of a day before the release.
    let newer = [
        "PodSpec workloadRef",
        "PodCertificateProjection userAnnotations",
        "CustomResourceDefinitionStatus observedGeneration",
        "CustomResourceDefinitionCondition observedGeneration",
        "CSIDriverSpec serviceAccountTokenInSecrets",
        "PodStatus resources",
        "PodStatus allocatedResources",
        "NodeStatus declaredFeatures",
    ];
    let (mut schemas, mut operations) = (0, 0);
    let groups: BTreeSet<GroupVersion> = served.iter().map(|s| s.gvk.group_version()).collect();
    for group_version in groups {
        let path = v3_path(&group_version).replace('/', "__");
        // What is newer than the tree.
        let Ok(text) = std::fs::read(tree.join(format!("api/openapi-spec/v3/{path}_openapi.json"))) else { continue };
        let published: Value = serde_json::from_slice(&text).unwrap();
        let document = v3(&group_version, &served, "v1.35.0").unwrap();
        for (name, theirs) in published["components"]["schemas"].as_object().unwrap() {
            let ours = &document["components"]["schemas"][name];
            // Listed in every group there; any JSON has no definition of its own here.
            let is_everywhere = name.contains("apis.meta.v1") || name.ends_with(".Eviction");
            let is_older = group_version.version.contains("alpha");
            if name.contains("apiextensions.v1.JSON") || (is_older && (ours.is_null() || name.contains("DeviceTaint")))
            {
                continue;
            }
            let (mut left, mut right) = (plain(ours), plain(theirs));
            for side in [&mut left, &mut right].into_iter().filter(|_| is_everywhere) {
                side.as_object_mut().map(|side| side.remove("x-kubernetes-group-version-kind"));
            }
            schemas += 1;
            for side in [&left, &right] {
                for (field, said) in side["properties"].as_object().into_iter().flatten() {
                    let is_newer = newer.iter().any(|newer| format!("{name} {field}").ends_with(newer));
                    if left["properties"][field] != right["properties"][field] && !is_newer {
                        let other = &right["properties"][field];
                        differences.push(format!("{name} {field}: {said} and {other}"));
                    }
                }
            }
            for side in [&mut left, &mut right] {
                side.as_object_mut().map(|side| side.remove("properties"));
            }
            if left != right {
                differences.push(format!("{name}: {left} and {right}"));
            }
        }
        for (path, item) in published["paths"].as_object().unwrap() {
            let own = &document["paths"][path];
            if own.is_null() && path.contains("v1alpha1") {
                continue;
            }
            let parameters = |item: &Value| -> BTreeSet<String> {
                let all = item["parameters"].as_array().into_iter().flatten();
                all.map(|p| format!("{} {} {}", p["name"], p["in"], p["schema"])).collect()
            };
            for (method, operation) in item.as_object().unwrap().iter().filter(|(m, _)| *m != "parameters") {
                operations += 1;
                let (left, right) = (&own[method], operation);
                let all = |item: &Value, operation: &Value| -> BTreeSet<String> {
                    parameters(item).union(&parameters(operation)).cloned().collect()
                };
                if left["operationId"] != right["operationId"] || all(own, left) != all(item, right) {
                    let (ours, theirs) = (all(own, left), all(item, right));
                    differences.push(format!("{method} {path} {}: {ours:?} and {theirs:?}", left["operationId"]));
                }
            }
        }
    }
    assert!(schemas > 500 && operations > 900, "{schemas} schemas, {operations} operations");
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}
