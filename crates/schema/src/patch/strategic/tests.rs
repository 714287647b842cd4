use super::*;
use crate::fixture;
use kybern_apimachinery::json;

fn check(kind: &str, object: Value, patch: Value, expect: Value) {
    assert_eq!(apply(&fixture::kind(kind), object, patch.clone()), Ok(expect), "{patch}");
}

fn check_fails(kind: &str, object: Value, patch: Value, expect: &str) {
    assert_eq!(apply(&fixture::kind(kind), object, patch.clone()).unwrap_err().to_string(), expect, "{patch}");
}

fn containers(containers: Value) -> Value {
    json!({"spec": {"template": {"spec": {"containers": containers}}}})
}

/// `kubectl set image deployment/web web=nginx:1.15`
#[test]
fn set_image() {
    check(
        "Deployment",
        containers(json!([
            {"name": "side", "image": "a"},
            {"name": "web", "image": "nginx:1.14", "ports": [{"containerPort": 80, "protocol": "TCP"}]},
        ])),
        json!({"spec": {"template": {"spec": {
            "$setElementOrder/containers": [{"name": "side"}, {"name": "web"}],
            "containers": [{"name": "web", "image": "nginx:1.15"}],
        }}}}),
        containers(json!([
            {"name": "side", "image": "a"},
            {"name": "web", "image": "nginx:1.15", "ports": [{"containerPort": 80, "protocol": "TCP"}]},
        ])),
    );
}

/// `kubectl apply` after a container was removed from, one added to and one changed in the manifest, while the live
/// object has one more that an admission plugin put in.
#[test]
fn client_side_apply_of_containers() {
    check(
        "Deployment",
        containers(json!([
            {"name": "old", "image": "a"}, {"name": "injected", "image": "i"}, {"name": "web", "image": "b"},
        ])),
        json!({"spec": {"template": {"spec": {
            "$setElementOrder/containers": [{"name": "web"}, {"name": "new"}],
            "containers": [{"$patch": "delete", "name": "old"}, {"name": "web", "image": "c"}, {"name": "new", "image": "n"}],
        }}}}),
        containers(json!([
            {"name": "injected", "image": "i"}, {"name": "web", "image": "c"}, {"name": "new", "image": "n"},
        ])),
    );
}

/// A container that replaces another lands behind those that stay, as upstream has it; one that is only added, before.
#[test]
fn replaced_containers() {
    let patch = |containers: Value| json!({"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "new"}], "containers": containers}}}});
    let live = containers(json!([{"name": "kept"}, {"name": "old"}]));
    check(
        "Deployment",
        live.clone(),
        patch(json!([{"$patch": "delete", "name": "old"}, {"name": "new"}])),
        containers(json!([{"name": "kept"}, {"name": "new"}])),
    );
    check(
        "Deployment",
        live,
        patch(json!([{"name": "new"}])),
        containers(json!([{"name": "new"}, {"name": "kept"}, {"name": "old"}])),
    );
}

/// The order of `$setElementOrder` wins; elements that it does not name keep their place among the others.
#[test]
fn element_order() {
    let ports = |ports: &[i64]| {
        let list: Vec<Value> = ports.iter().map(|p| json!({"port": p})).collect();
        json!({"spec": {"ports": list}})
    };
    let order = |ports: &[i64]| {
        let list: Vec<Value> = ports.iter().map(|p| json!({"port": p})).collect();
        json!({"spec": {"$setElementOrder/ports": list}})
    };
    check("Service", ports(&[1, 2, 3]), order(&[3, 1]), ports(&[2, 3, 1]));
    check("Service", ports(&[1, 2, 3]), order(&[1, 2, 3]), ports(&[1, 2, 3]));
    check("Service", ports(&[1, 2, 3]), order(&[9]), ports(&[1, 2, 3]));
    // Without the directive, patched elements come in the patch's order, new ones after what lies before them.
    check("Service", ports(&[1, 2]), ports(&[3]), ports(&[3, 1, 2]));
    check("Service", ports(&[1, 2, 3]), ports(&[3, 2]), ports(&[1, 3, 2]));
}

/// `kubectl apply` that changes a Service's port and type.
#[test]
fn service_ports() {
    check(
        "Service",
        json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}]}}),
        json!({"spec": {
            "$setElementOrder/ports": [{"port": 81}], "type": "NodePort",
            "ports": [{"port": 81, "targetPort": "http"}, {"$patch": "delete", "port": 80}],
        }}),
        json!({"spec": {"type": "NodePort", "ports": [{"port": 81, "targetPort": "http"}]}}),
    );
}

/// `kubectl label` and `annotate`, setting and removing; `null` for what is not there is no error.
#[test]
fn labels() {
    check(
        "Pod",
        json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
        json!({"metadata": {"labels": {"a": null, "c": "3", "z": null}, "annotations": {"x": "y", "gone": null}}}),
        json!({"metadata": {"labels": {"b": "2", "c": "3"}, "annotations": {"x": "y"}}}),
    );
}

/// Finalizers are a merged list of scalars.
#[test]
fn primitive_lists() {
    let finalizers = |list: Value| json!({"metadata": {"finalizers": list}});
    check("Pod", finalizers(json!(["a", "b"])), finalizers(json!(["b", "c"])), finalizers(json!(["a", "b", "c"])));
    check(
        "Pod",
        finalizers(json!(["a", "b", "c"])),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a", "z"]}}),
        finalizers(json!(["b", "c"])),
    );
    check(
        "Pod",
        finalizers(json!(["a", "b"])),
        json!({"metadata": {"$setElementOrder/finalizers": ["c", "a"], "$deleteFromPrimitiveList/finalizers": ["b"], "finalizers": ["c"]}}),
        finalizers(json!(["c", "a"])),
    );
    check(
        "Pod",
        json!({"metadata": {}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
        json!({"metadata": {}}),
    );
}

/// `kubectl apply` that turns RollingUpdate into Recreate, and an emptyDir into a configMap.
#[test]
fn retain_keys_of_unions() {
    check(
        "Deployment",
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        json!({"spec": {"strategy": {"type": "Recreate"}}}),
    );
    check(
        "Pod",
        json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}]}}),
        json!({"spec": {
            "$setElementOrder/volumes": [{"name": "v"}],
            "volumes": [{"$retainKeys": ["configMap", "name"], "name": "v", "configMap": {"name": "c"}}],
        }}),
        json!({"spec": {"volumes": [{"name": "v", "configMap": {"name": "c"}}, {"name": "w", "emptyDir": {}}]}}),
    );
    check_fails(
        "Deployment",
        json!({"spec": {"strategy": {"type": "Recreate"}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["rollingUpdate"], "type": "Recreate"}}}),
        "invalid patch format of retainKeys",
    );
}

#[test]
fn directives() {
    check(
        "Pod",
        json!({"spec": {"nodeName": "a"}}),
        json!({"spec": {"$patch": "replace", "restartPolicy": "Never"}}),
        json!({"spec": {"restartPolicy": "Never"}}),
    );
    check("Pod", json!({"spec": {"nodeName": "a"}}), json!({"spec": {"$patch": "delete"}}), json!({"spec": {}}));
    check(
        "Pod",
        json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
        json!({"spec": {"containers": [{"name": "c"}, {"$patch": "replace"}]}}),
        json!({"spec": {"containers": [{"name": "c"}]}}),
    );
    // Directives for what is not there leave no trace.
    check(
        "Pod",
        json!({}),
        json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a", "image": null}, {"name": "b", "$patch": "delete"}]}}),
        json!({"spec": {"containers": [{"name": "a"}]}}),
    );
}

/// Lists that do not merge are replaced; so is what the schema does not know.
#[test]
fn atomic_and_unknown() {
    check(
        "Pod",
        json!({"spec": {"tolerations": [{"key": "a"}]}}),
        json!({"spec": {"tolerations": [{"key": "b"}]}}),
        json!({"spec": {"tolerations": [{"key": "b"}]}}),
    );
    check(
        "Pod",
        json!({"x": {"l": [1], "m": {"a": 1}}}),
        json!({"x": {"l": [2], "m": {"b": 2}}}),
        json!({"x": {"l": [2], "m": {"a": 1, "b": 2}}}),
    );
    check("Pod", json!({"spec": {"nodeName": "a"}}), json!({"spec": {"nodeName": null}}), json!({"spec": {}}));
}

#[test]
fn errors_are_upstreams() {
    let pod = || json!({"spec": {"containers": [{"name": "a"}]}});
    check_fails(
        "Pod",
        pod(),
        json!({"spec": {"containers": [{"image": "x"}]}}),
        "map: map[image:x] does not contain declared merge key: name",
    );
    check_fails("Pod", pod(), json!({"spec": {"$patch": "frob"}}), "unknown patch type: frob in map: map[$patch:frob]");
    check_fails(
        "Pod",
        pod(),
        json!({"spec": {"containers": [{"$patch": "delete"}]}}),
        "map: map[$patch:delete] does not contain declared merge key: name",
    );
    check_fails("Pod", pod(), json!([]), "invalid JSON document");
    check_fails(
        "Pod",
        pod(),
        json!({"spec": {"$setElementOrder/containers": 1}}),
        "invalid patch format of setElementOrder list",
    );
    check_fails(
        "Pod",
        pod(),
        json!({"spec": {"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "b"}, {"name": "a"}]}}),
        "The order in patch list:\n[map[name:b] map[name:a]]\n doesn't match $setElementOrder list:\n[map[name:a] map[name:b]]\n",
    );
    check_fails(
        "Pod",
        pod(),
        json!({"spec": {"containers": ["a"]}}),
        "list element types are not identical: [[map[name:a]] [a]]",
    );
}

/// Ten thousands of deletions from as many elements take no minutes.
#[test]
fn large_lists_take_no_square() {
    let of = |n: usize, more: Value| {
        let mut item = json!({"name": n.to_string()});
        item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        item
    };
    let many = |more: Value| Value::Array((0..50_000).map(|n| of(n, more.clone())).collect());
    let live = containers(many(json!({})));
    let order = json!([{"name": "none"}]);
    let patch = json!({"spec": {"template": {"spec": {"containers": many(json!({"$patch": "delete"})), "$setElementOrder/containers": order}}}});
    let merged = apply(&fixture::kind("Deployment"), live, patch).unwrap();
    assert_eq!(merged, containers(json!([])));
}
