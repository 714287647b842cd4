use kybern_apimachinery::json;

use super::*;
use crate::proto::wire::{self, Item};

fn served() -> Vec<Served> {
    let mut served: Vec<Served> = builtin().resources().iter().map(Served::builtin).collect();
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "nullable": true, "properties": {
        "size": {"type": "integer", "default": 1}, "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
    }}}});
    served.push(Served::custom(Gvk::new("example.com", "v1", "Widget"), "widgets", true, &["status", "scale"], schema));
    served
}

/// All references of a document.
fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get("$ref").and_then(Value::as_str));
            object.values().for_each(|v| references(v, found));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

/// The one field of a number in a message.
fn only(message: &[u8], number: u32) -> &[u8] {
    let mut found = wire::fields(message).filter_map(|f| match f.unwrap() {
        (n, Item::Bytes(bytes)) if n == number => Some(bytes),
        _ => None,
    });
    let first = found.next().unwrap_or_else(|| panic!("no field {number}"));
    assert!(found.next().is_none(), "more than one field {number}");
    first
}

/// The entry of a name in a message of names and values.
fn named<'a>(map: &'a [u8], entry: u32, name: &str) -> &'a [u8] {
    let entries = wire::fields(map).filter_map(|f| match f.unwrap() {
        (n, Item::Bytes(bytes)) if n == entry => Some(bytes),
        _ => None,
    });
    only(entries.into_iter().find(|e| only(e, 1) == name.as_bytes()).unwrap_or_else(|| panic!("no {name}")), 2)
}

#[test]
fn v2_says_what_clients_look_for() {
    let document = v2(&served(), "v1.35.0");
    let deployment = &document["definitions"]["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        deployment["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
    );
    let containers = &document["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(
        *containers,
        json!({
            "description": "The containers, at least one. The list cannot change once the pod exists.",
            "type": "array", "items": {"$ref": "#/definitions/io.k8s.api.core.v1.Container"},
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name",
        })
    );
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    for name in ["dryRun", "fieldValidation"] {
        assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == name), "{name}");
    }
    let widget = &document["definitions"]["com.example.v1.Widget"];
    assert_eq!(widget["properties"]["spec"], json!({}), "what may be null has no type in v2");
    assert!(document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}/scale"]["get"].is_object());

    let mut found = Vec::new();
    references(&document, &mut found);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap().replace('~', "~0");
        assert!(document.pointer(&pointer).is_some(), "{reference} leads nowhere");
    }
}

#[test]
fn v3_is_split_by_group_and_version() {
    let served = served();
    let hash = fingerprint(&served);
    let index = v3_index([(GroupVersion::new("apps", "v1"), hash.as_str())]);
    assert!(
        index["paths"]["apis/apps/v1"]["serverRelativeURL"]
            .as_str()
            .unwrap()
            .starts_with("/openapi/v3/apis/apps/v1?hash=")
    );
    let document = v3(&GroupVersion::new("example.com", "v1"), &served, "v1.35.0").unwrap();
    let schemas = &document["components"]["schemas"];
    let spec = &schemas["com.example.v1.Widget"]["properties"]["spec"];
    assert_eq!((&spec["nullable"], &spec["properties"]["size"]["default"]), (&json!(true), &json!(1)));
    assert_eq!(schemas["io.k8s.api.core.v1.Pod"], Value::Null, "only what is referred to");
    let mut found = Vec::new();
    references(&document, &mut found);
    for reference in found {
        assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference} leads nowhere");
    }
    assert_eq!(v3(&GroupVersion::new("example.com", "v2"), &served, "v1.35.0"), None);
    let mut less = served.clone();
    less.pop();
    assert_ne!(fingerprint(&less), fingerprint(&served));
}

#[test]
fn protobuf_forms_hold_the_same() {
    let served = served();
    let v2 = proto::v2(&v2(&served, "v1.35.0"));
    let pod_spec = named(only(&v2, 9), 1, "io.k8s.api.core.v1.PodSpec");
    let containers = named(only(pod_spec, 25), 1, "containers");
    assert_eq!(only(only(containers, 22), 1), b"array");
    assert_eq!(only(only(only(containers, 23), 1), 1), b"#/definitions/io.k8s.api.core.v1.Container");
    assert_eq!(only(named(containers, 31, "x-kubernetes-list-map-keys"), 2), b"[\"name\"]\n");
    let path = named(only(&v2, 8), 2, "/api/v1/namespaces/{namespace}/configmaps/{name}");
    assert_eq!(only(only(path, 8), 5), b"patchCoreV1NamespacedConfigMap");

    let v3 = proto::v3(&v3(&GroupVersion::new("", "v1"), &served, "v1.35.0").unwrap());
    let pod_spec = named(only(only(&v3, 5), 1), 1, "io.k8s.api.core.v1.PodSpec");
    let containers = named(only(only(pod_spec, 1), 31), 1, "containers");
    assert_eq!(only(only(containers, 1), 25), b"array");
    let path = named(only(&v3, 4), 1, "/api/v1/namespaces/{namespace}/pods/{name}");
    assert_eq!(only(only(path, 10), 5), b"patchCoreV1NamespacedPod");
}

#[test]
fn what_is_referred_to_can_be_described_where_it_is() {
    let template = "io.k8s.api.apps.v1.DeploymentSpec";
    let text = "What the pods look like. A change starts a rollout.";
    let v2 = v2(&served(), "v1.35.0");
    assert_eq!(
        v2["definitions"][template]["properties"]["template"],
        json!({"$ref": "#/definitions/io.k8s.api.core.v1.PodTemplateSpec", "description": text})
    );
    let v3 = v3(&GroupVersion::new("apps", "v1"), &served(), "v1.35.0").unwrap();
    let schemas = &v3["components"]["schemas"];
    assert_eq!(
        schemas[template]["properties"]["template"],
        json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.PodTemplateSpec"}], "description": text, "default": {}})
    );
    // Defaults are those of upstream's generator: zeros of what is no pointer, of items, and what is declared.
    let port = &schemas["io.k8s.api.core.v1.ContainerPort"]["properties"];
    assert_eq!((&port["containerPort"]["default"], &port["protocol"]["default"]), (&json!(0), &json!("TCP")));
    assert_eq!(port["hostPort"].get("default"), None);
    let reference = &schemas["io.k8s.api.core.v1.LocalObjectReference"]["properties"];
    assert_eq!(reference["name"]["default"], json!(""));
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]["items"];
    assert_eq!(
        *containers,
        json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.Container"}], "default": {}})
    );
    assert_eq!(
        schemas["io.k8s.api.apps.v1.Deployment"]["description"].as_str().map(|d| d.starts_with("Keeps a number")),
        Some(true)
    );
}
