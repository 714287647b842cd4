//! MutatingAdmissionPolicy: what policies make of objects, with upstream's texts, and those that are made to hurt.

use http::Method;
use kybern_apimachinery::{Value, json};

use crate::harness::{Cluster, user};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1beta1";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn apply(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn patch(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

/// A policy of some resource with this in its spec, and a binding with that.
async fn install(cluster: &Cluster, name: &str, resource: &str, spec: Value, binding: Value) {
    let group = if resource == "configmaps" { "" } else { "*" };
    let mut whole = json!({"reinvocationPolicy": "Never", "matchConstraints": {"resourceRules": [
        {"operations": ["CREATE", "UPDATE"], "apiGroups": [group], "apiVersions": ["*"], "resources": [resource]},
    ]}});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    let policy = json!({"metadata": {"name": name}, "spec": whole});
    cluster.create(&format!("{GROUP}/mutatingadmissionpolicies"), policy).await;
    let mut bound = json!({"policyName": name});
    for (field, value) in binding.as_object().unwrap() {
        bound[field] = value.clone();
    }
    let binding = json!({"metadata": {"name": format!("{name}-bound")}, "spec": bound});
    cluster.create(&format!("{GROUP}/mutatingadmissionpolicybindings"), binding).await;
}

async fn remove(cluster: &Cluster, name: &str) {
    let path = format!("{GROUP}/mutatingadmissionpolicybindings/{name}-bound");
    let (code, _) = cluster.ask(Method::DELETE, &path, None).await;
    assert_eq!(code, 200, "{name}");
}

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "1"}})
}

fn deployment() -> Value {
    json!({"metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "a:1"}, {"name": "side", "image": "b:1"}]},
        },
    }})
}

/// What one mutation makes of an object that is not kept.
async fn tried(cluster: &Cluster, mutation: Value, resource: &str) -> (u16, Value) {
    install(cluster, "tried", resource, json!({"mutations": [mutation]}), json!({})).await;
    let (path, object) = match resource {
        "configmaps" => (CONFIG_MAPS, config_map("tried")),
        _ => (DEPLOYMENTS, deployment()),
    };
    let answer = cluster.ask(Method::POST, &format!("{path}?dryRun=All"), Some(object)).await;
    remove(cluster, "tried").await;
    cluster.ask(Method::DELETE, &format!("{GROUP}/mutatingadmissionpolicies/tried"), None).await;
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn configurations_are_merged_by_the_schema() {
    let cluster = Cluster::start().await;
    let sidecar = apply(
        "Object{metadata: Object.metadata{labels: {'made': 'here'}}, spec: Object.spec{replicas: 3, template: \
         Object.spec.template{spec: Object.spec.template.spec{containers: [
           Object.spec.template.spec.containers{name: 'side', image: 'c:2'},
           Object.spec.template.spec.containers{name: 'new', image: 'd:1'}]}}}}",
    );
    let (code, made) = tried(&cluster, sidecar, "deployments").await;
    assert_eq!(code, 201, "{made}");
    assert_eq!((&made["metadata"]["labels"], &made["spec"]["replicas"]), (&json!({"made": "here"}), &json!(3)));
    let containers: Vec<_> = made["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| format!("{}={} {}", c["name"].as_str().unwrap(), c["image"].as_str().unwrap(), c["imagePullPolicy"]))
        .collect();
    assert_eq!(containers, ["main=a:1 \"IfNotPresent\"", "side=c:2 \"IfNotPresent\"", "new=d:1 \"IfNotPresent\""]);

    for (expression, said) in [
        (
            "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{containers: [
               Object.spec.template.spec.containers{name: 'main', args: ['x']}]}}}}",
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: \
             .spec.template.spec.containers[0].args",
        ),
        (
            "Object{spec: Object.spec{nonsense: 1}}",
            "error applying patch: failed to convert patch object to typed object: .spec.nonsense: field not declared in \
             schema",
        ),
        (
            "Object{spec: Object.wrong{replicas: 1}}",
            "type mismatch: unexpected type name \"Object.wrong\", expected \"Object.spec\", which matches field name path \
             from root Object type",
        ),
        (
            "Object{spec: Object.spec{replicas: object.spec.absent}}",
            "expression 'Object{spec: Object.spec{replicas: object.spec.absent}}' resulted in error: no such key: absent",
        ),
    ] {
        let (code, status) = tried(&cluster, apply(expression), "deployments").await;
        let message = format!("policy 'tried' with binding 'tried-bound' denied request: {said}");
        assert_eq!(
            (code, &status["reason"], &status["message"]),
            (403, &json!("Invalid"), &json!(message)),
            "{status}"
        );
        assert_eq!(status["details"]["causes"], json!([{"message": message}]));
        assert_eq!((&status["details"]["kind"], &status["details"]["name"]), (&json!("deployments"), &json!("web")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_are_lists_of_operations() {
    let cluster = Cluster::start().await;
    let several = patch(
        "[JSONPatch{op: 'test', path: '/data/a', value: '1'}, JSONPatch{op: 'add', path: '/metadata/labels', value: {}},
          JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('example.com/x_y'), value: 'v'},
          JSONPatch{op: 'copy', from: '/data/a', path: '/data/b'}, JSONPatch{op: 'remove', path: '/data/a'}]",
    );
    let (code, made) = tried(&cluster, several, "configmaps").await;
    assert_eq!((code, &made["data"]), (201, &json!({"b": "1"})), "{made}");
    assert_eq!(made["metadata"]["labels"], json!({"example.com/x_y": "v"}));

    // A test that fails leaves the object as it is.
    let tested = "[JSONPatch{op: 'test', path: '/data/a', value: '2'}, JSONPatch{op: 'remove', path: '/data/a'}]";
    let (code, made) = tried(&cluster, patch(tested), "configmaps").await;
    assert_eq!((code, &made["data"]), (201, &json!({"a": "1"})), "{made}");

    let typed = "[JSONPatch{op: 'add', path: '/spec/template/spec/nodeSelector', value: \
                 Object.spec.template.spec.nodeSelector{disk: 'ssd'}}, JSONPatch{op: 'replace', path: '/spec/replicas', \
                 value: 2.0}]";
    let (code, made) = tried(&cluster, patch(typed), "deployments").await;
    assert_eq!((code, &made["spec"]["replicas"]), (201, &json!(2)), "{made}");
    assert_eq!(made["spec"]["template"]["spec"]["nodeSelector"], json!({"disk": "ssd"}));

    let (code, status) = tried(&cluster, patch("[JSONPatch{op: 'remove', path: '/data/no'}]"), "configmaps").await;
    assert_eq!((code, &status["reason"]), (403, &json!("Invalid")), "{status}");
    let message = status["message"].as_str().unwrap();
    assert!(message.starts_with("policy 'tried' with binding 'tried-bound' denied request: JSON Patch: "), "{message}");

    let unknown = patch("[JSONPatch{op: 'add', path: '/nonsense', value: 1}]");
    let (code, status) = tried(&cluster, unknown, "configmaps").await;
    let message = "Internal error occurred: strict decoding error: unknown field \"nonsense\"";
    assert_eq!((code, &status["message"]), (500, &json!(message)));
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_conditions_and_parameters_decide() {
    let cluster = Cluster::start().await;
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [
            {"name": "not-parameters", "expression": "!object.metadata.name.startsWith('p-')"},
            {"name": "wanted", "expression": "params.data.skip != object.metadata.name"},
        ],
        "variables": [{"name": "team", "expression": "has(namespaceObject.metadata.labels.team) ? namespaceObject.metadata.labels.team : 'none'"}],
        "mutations": [apply("Object{data: {params.data.key: variables.team + '-' + request.userInfo.username}}")],
    });
    let reference =
        json!({"paramRef": {"selector": {"matchLabels": {"for": "policy"}}, "parameterNotFoundAction": "Deny"}});
    install(&cluster, "parameterized", "configmaps", spec, reference).await;
    // Parameters are needed even for what the conditions leave out.
    let message = cluster.refusal(Method::POST, CONFIG_MAPS, Some(config_map("p-one")), 403).await;
    assert_eq!(
        message,
        "policy 'parameterized' with binding 'parameterized-bound' denied request: failed to configure binding: no params \
         found for policy binding with `Deny` parameterNotFoundAction"
    );
    remove(&cluster, "parameterized").await;
    for (name, key, skip) in [("p-one", "x", "left"), ("p-two", "y", "other")] {
        let parameter =
            json!({"metadata": {"name": name, "labels": {"for": "policy"}}, "data": {"key": key, "skip": skip}});
        cluster.create(CONFIG_MAPS, parameter).await;
    }
    let binding = json!({"metadata": {"name": "again"}, "spec": {"policyName": "parameterized", "paramRef":
        {"selector": {"matchLabels": {"for": "policy"}}, "parameterNotFoundAction": "Deny"}}});
    cluster.create(&format!("{GROUP}/mutatingadmissionpolicybindings"), binding).await;
    let made = cluster.create(CONFIG_MAPS, config_map("plain")).await;
    assert_eq!(made["data"], json!({"a": "1", "x": "none-admin", "y": "none-admin"}));
    let made = cluster.create(CONFIG_MAPS, config_map("left")).await;
    assert_eq!(made["data"], json!({"a": "1", "y": "none-admin"}));
    cluster.patch("/api/v1/namespaces/default", json!({"metadata": {"labels": {"team": "red"}}})).await;
    let (code, made) = cluster.patch(&format!("{CONFIG_MAPS}/plain"), json!({"data": {"z": "1"}})).await;
    assert_eq!((code, &made["data"]["x"]), (200, &json!("red-admin")), "{made}");
    // Nobody owns what a policy sets.
    let managers = made["metadata"]["managedFields"].as_array().unwrap();
    assert!(managers.iter().all(|m| m["fieldsV1"]["f:data"]["f:x"].is_null()), "{managers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_asked_again_where_they_want_to_be() {
    let cluster = Cluster::start().await;
    // Counts how often it was asked.
    let counting =
        "[JSONPatch{op: 'add', path: '/data/count', value: has(object.data.count) ? object.data.count + 'i' : 'i'}]";
    let last = json!({"mutations": [apply("Object{data: {'last': 'set'}}")]});
    install(&cluster, "z-last", "configmaps", last, json!({})).await;
    for (name, policy, count) in [("once", "Never", "i"), ("twice", "IfNeeded", "ii")] {
        let spec = json!({"mutations": [patch(counting)], "reinvocationPolicy": policy});
        install(&cluster, name, "configmaps", spec, json!({})).await;
        let made = cluster.create(CONFIG_MAPS, config_map(name)).await;
        assert_eq!(made["data"], json!({"a": "1", "last": "set", "count": count}), "{name}");
        remove(&cluster, name).await;
    }
    // A policy sees what those before it have made.
    let seeing = json!({"mutations": [
        apply("Object{data: {'first': 'x'}}"), apply("Object{data: {'second': object.data.first + 'y'}}"),
    ]});
    install(&cluster, "seeing", "configmaps", seeing, json!({})).await;
    let made = cluster.create(CONFIG_MAPS, config_map("seen")).await;
    assert_eq!(made["data"]["second"], "xy");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_ignored_where_the_policy_says_so() {
    let cluster = Cluster::start().await;
    let failing = "Object{data: {'x': object.data.absent}}";
    for (name, failure) in [("lax", "Ignore"), ("strict", "Fail")] {
        let spec = json!({"failurePolicy": failure, "mutations": [apply(failing), apply("Object{data: {'y': '1'}}")]});
        install(&cluster, name, "configmaps", spec, json!({})).await;
        let (code, made) = cluster.ask(Method::POST, CONFIG_MAPS, Some(config_map(name))).await;
        match failure {
            "Ignore" => assert_eq!((code, &made["data"]), (201, &json!({"a": "1", "y": "1"})), "{made}"),
            _ => assert_eq!(code, 403, "{made}"),
        }
        remove(&cluster, name).await;
    }
    let unknown =
        json!({"paramKind": {"apiVersion": "example.com/v1", "kind": "Limit"}, "mutations": [apply("Object{}")]});
    install(&cluster, "unknown", "configmaps", unknown, json!({})).await;
    let message = cluster.refusal(Method::POST, CONFIG_MAPS, Some(config_map("tried")), 403).await;
    assert_eq!(
        message,
        "policy \"unknown\" denied request: failed to configure policy: failed to find resource referenced by paramKind: \
         'example.com/v1, Kind=Limit'"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_cannot_lock_the_cluster() {
    let cluster = Cluster::start().await;
    let everything = json!({
        "matchConstraints": {"resourceRules": [
            {"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]},
        ]},
        "mutations": [apply("Object{metadata: Object.metadata{name: object.absent}}")],
    });
    install(&cluster, "lock", "*", everything, json!({})).await;
    let (code, _) = cluster.ask(Method::POST, CONFIG_MAPS, Some(config_map("locked"))).await;
    assert_eq!(code, 403);
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    cluster.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review).await;
    // What is to go has nothing to be changed.
    let (code, _) = cluster.ask(Method::DELETE, "/api/v1/namespaces/default/serviceaccounts/default", None).await;
    assert_eq!(code, 200);
    remove(&cluster, "lock").await;
    cluster.create(CONFIG_MAPS, config_map("free")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_mutations_are_bounded_and_change_no_identity() {
    let cluster = Cluster::start().await;
    let long = "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]";
    let nested = ["a", "b", "c", "d", "e", "f"]
        .iter()
        .fold("true".to_owned(), |inner, name| format!("{long}.all({name}, {inner})"));
    let endless = apply(&format!("Object{{data: {{'x': ({nested}) ? 'a' : 'b'}}}}"));
    let (code, status) = tried(&cluster, endless, "configmaps").await;
    assert_eq!(code, 403, "{status}");
    assert!(status["message"].as_str().unwrap().contains("cost"), "{status}");
    // An object that doubles over and over.
    let doubling = "[JSONPatch{op: 'add', path: '/data/x', value: 'x'}, ".to_owned()
        + &(0..40)
            .map(|i| format!("JSONPatch{{op: 'copy', from: '', path: '/data/y{i}'}}"))
            .collect::<Vec<_>>()
            .join(", ")
        + "]";
    let (code, status) = tried(&cluster, patch(&doubling), "configmaps").await;
    assert_eq!(code, 403, "{status}");
    let name = patch("[JSONPatch{op: 'replace', path: '/metadata/name', value: 'other'}]");
    install(
        &cluster,
        "rename",
        "configmaps",
        json!({"mutations": [name], "matchConstraints": {"resourceRules": [
            {"operations": ["UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]},
        ]}}),
        json!({}),
    )
    .await;
    cluster.create(CONFIG_MAPS, config_map("kept")).await;
    let (code, status) = cluster.patch(&format!("{CONFIG_MAPS}/kept"), json!({"data": {"b": "2"}})).await;
    assert!(code == 400 || code == 422, "{code} {status}");
    cluster.get(&format!("{CONFIG_MAPS}/kept")).await;
    // Whoever may not write policies writes none.
    let policy = json!({"metadata": {"name": "mine"}, "spec": {}});
    let path = format!("{GROUP}/mutatingadmissionpolicies");
    let (code, _) = cluster.as_user(user("joe", &[]), Method::POST, &path, Some(policy)).await;
    assert_eq!(code, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_resources_are_merged_by_their_own_schema() {
    let cluster = Cluster::start().await;
    let item = json!({"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "size": {"type": "integer"}}});
    let definition = json!({"metadata": {"name": "widgets.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
            "properties": {"spec": {"type": "object", "properties": {
                "parts": {"type": "array", "items": item, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
                "whole": {"type": "array", "items": {"type": "string"}},
                "mode": {"type": "string", "default": "slow"},
            }}}}}}],
    }});
    cluster.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    let widgets = "/apis/example.com/v1/namespaces/default/widgets";
    let ready = async {
        while cluster.ask(Method::GET, widgets, None).await.0 != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), ready).await.expect("the resource is served");
    let merged = apply(
        "Object{spec: Object.spec{parts: [Object.spec.parts{name: 'b', size: 2}, Object.spec.parts{name: 'c', size: 3}]}}",
    );
    install(&cluster, "parts", "widgets", json!({"mutations": [merged]}), json!({})).await;
    let widget = |name: &str| {
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name},
            "spec": {"parts": [{"name": "a", "size": 1}, {"name": "b", "size": 9}]}})
    };
    let made = cluster.create(widgets, widget("w")).await;
    let parts = json!([{"name": "a", "size": 1}, {"name": "b", "size": 2}, {"name": "c", "size": 3}]);
    assert_eq!((&made["spec"]["parts"], &made["spec"]["mode"]), (&parts, &json!("slow")), "{made}");
    install(
        &cluster,
        "whole",
        "widgets",
        json!({"mutations": [apply("Object{spec: Object.spec{whole: ['x']}}")]}),
        json!({}),
    )
    .await;
    let message = cluster.refusal(Method::POST, widgets, Some(widget("v")), 403).await;
    assert!(message.ends_with("may not mutate atomic arrays, maps or structs: .spec.whole"), "{message}");
}
