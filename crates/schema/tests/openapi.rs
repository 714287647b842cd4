//! The served OpenAPI v2 document against the published one: same definitions, same paths, same operations.
//!
//! The published document is not part of this repository; `upstream_facts` tells where it is looked for.

use kybern_apimachinery::Value;
use kybern_schema::builtin;
use kybern_schema::openapi::{Served, v2};
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
            Value::Object(kept)
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
        // Watch paths are deprecated; deeper proxy paths have any shape; the rest is no resource.
        let resource = match parts[..] {
            ["api", _, ref rest @ ..] | ["apis", _, _, ref rest @ ..] => rest,
            _ => continue,
        };
        if resource.is_empty() || resource[0] == "watch" || path.ends_with("{path}") {
            continue;
        }
        for (method, operation) in item.as_object().unwrap().iter().filter(|(m, _)| *m != "parameters") {
            if matches!(method.as_str(), "head" | "options") {
                continue;
            }
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
