//! ValidatingAdmissionPolicy: what policies refuse, with upstream's texts, and those that are made to hurt.

use std::time::{Duration, Instant};

use http::Method;
use kybern_apimachinery::{Value, json};

use crate::harness::{Cluster, user};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn config_map(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name, "labels": {"name": name}}, "data": data})
}

/// A policy of config maps, with this in its spec, and a binding with that.
async fn install(cluster: &Cluster, name: &str, spec: Value, binding: Value) {
    let mut whole = json!({"matchConstraints": {"resourceRules": [
        {"operations": ["CREATE", "UPDATE", "DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]},
    ]}});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    cluster.create(POLICIES, json!({"metadata": {"name": name}, "spec": whole})).await;
    let mut bound = json!({"policyName": name, "validationActions": ["Deny"]});
    for (field, value) in binding.as_object().unwrap() {
        bound[field] = value.clone();
    }
    cluster.create(BINDINGS, json!({"metadata": {"name": format!("{name}-bound")}, "spec": bound})).await;
}

async fn refused(cluster: &Cluster, data: Value) -> Option<String> {
    let object = config_map("tried", data);
    let (code, answer) = cluster.ask(Method::POST, &format!("{CONFIG_MAPS}?dryRun=All"), Some(object)).await;
    match code {
        201 => None,
        422 => Some(answer["message"].as_str().unwrap().to_owned()),
        _ => panic!("{code}: {answer}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_refuses_once_it_is_bound() {
    let cluster = Cluster::start().await;
    let spec = json!({
        "variables": [
            {"name": "size", "expression": "object.data.size()"},
            {"name": "limit", "expression": "variables.size > 0 ? 2 : 1"},
        ],
        "matchConditions": [{"name": "named", "expression": "request.name != 'left-alone'"}],
        "validations": [
            {"expression": "request.operation == 'DELETE' || variables.size <= variables.limit",
                "messageExpression": "'has ' + string(variables.size) + ' of ' + string(variables.limit)"},
            {"expression": "request.operation == 'DELETE' || !has(object.data.bad)", "message": "bad", "reason": "Forbidden"},
            {"expression": "request.operation != 'DELETE' || oldObject.metadata.name != 'kept'"},
        ],
    });
    let mut policy = json!({"metadata": {"name": "sizes"}, "spec": spec});
    policy["spec"]["matchConstraints"] = json!({"resourceRules": [{
        "operations": ["CREATE", "DELETE"], "apiGroups": [""], "apiVersions": ["*"], "resources": ["configmaps"],
    }]});
    cluster.create(POLICIES, policy).await;
    let large = json!({"a": "1", "b": "2", "c": "3"});
    assert_eq!(refused(&cluster, large.clone()).await, None);
    cluster.create(CONFIG_MAPS, config_map("kept", json!({"a": "1"}))).await;

    let binding =
        json!({"metadata": {"name": "bound"}, "spec": {"policyName": "sizes", "validationActions": ["Deny"]}});
    cluster.create(BINDINGS, binding).await;
    let (code, status) = cluster.ask(Method::POST, CONFIG_MAPS, Some(config_map("tried", large.clone()))).await;
    let message = "ValidatingAdmissionPolicy 'sizes' with binding 'bound' denied request: has 3 of 2";
    assert_eq!(code, 422, "{status}");
    assert_eq!(status["message"], format!("configmaps \"tried\" is forbidden: {message}"));
    assert_eq!((&status["reason"], &status["details"]["name"]), (&json!("Invalid"), &json!("tried")));
    assert_eq!(status["details"]["causes"], json!([{"message": message}]));

    let bad = config_map("tried", json!({"bad": "1"}));
    let (code, status) = cluster.ask(Method::POST, CONFIG_MAPS, Some(bad)).await;
    assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")), "{status}");
    let kept = format!("{CONFIG_MAPS}/kept");
    let message = cluster.refusal(Method::DELETE, &kept, None, 422).await;
    assert!(
        message.ends_with("failed expression: request.operation != 'DELETE' || oldObject.metadata.name != 'kept'"),
        "{message}"
    );
    cluster.create(CONFIG_MAPS, config_map("left-alone", large.clone())).await;

    let (code, _) = cluster.ask(Method::DELETE, &format!("{BINDINGS}/bound"), None).await;
    assert_eq!(code, 200);
    assert_eq!(refused(&cluster, large).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_found_by_name_and_by_labels() {
    let cluster = Cluster::start().await;
    let parameterized = |expression: &str| {
        json!({
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "validations": [{"expression": expression}],
            "matchConstraints": {
                "resourceRules": [{
                    "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
                }],
                "objectSelector": {"matchLabels": {"name": "tried"}},
            },
        })
    };
    let reference = |field: &str, value: Value, absent: &str| json!({"paramRef": {field: value, "parameterNotFoundAction": absent}});
    let by_name = reference("name", json!("limits"), "Deny");
    install(&cluster, "named", parameterized("object.data.size() <= int(params.data.limit)"), by_name).await;
    let message = refused(&cluster, json!({"a": "1"})).await.unwrap();
    let missing = "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    assert!(message.ends_with(missing), "{message}");
    cluster.create(CONFIG_MAPS, config_map("limits", json!({"limit": "1"}))).await;
    assert_eq!(refused(&cluster, json!({"a": "1"})).await, None);
    assert!(refused(&cluster, json!({"a": "1", "b": "2"})).await.is_some());

    let selected = reference("selector", json!({"matchLabels": {"kind": "ban"}}), "Allow");
    install(&cluster, "banned", parameterized("!(params.data.key in object.data)"), selected).await;
    assert_eq!(refused(&cluster, json!({"x": "1"})).await, None);
    for key in ["x", "y"] {
        let ban = json!({"metadata": {"name": format!("ban-{key}"), "labels": {"kind": "ban"}}, "data": {"key": key}});
        cluster.create(CONFIG_MAPS, ban).await;
    }
    for (key, refused_now) in [("x", true), ("y", true), ("z", false)] {
        assert_eq!(refused(&cluster, json!({key: "1"})).await.is_some(), refused_now, "{key}");
    }

    let mut unknown = parameterized("true");
    unknown["paramKind"] = json!({"apiVersion": "example.com/v1", "kind": "Limit"});
    install(&cluster, "unknown", unknown, reference("name", json!("x"), "Allow")).await;
    let message = refused(&cluster, json!({"z": "1"})).await.unwrap();
    let said = "ValidatingAdmissionPolicy 'unknown' denied request: failed to configure policy: failed to find resource \
                referenced by paramKind: 'example.com/v1, Kind=Limit'";
    assert!(message.ends_with(said), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_evaluated_is_refused_unless_that_is_ignored() {
    let cluster = Cluster::start().await;
    for (name, failure) in [("strict", "Fail"), ("lax", "Ignore")] {
        let spec = json!({
            "failurePolicy": failure,
            "matchConstraints": {
                "resourceRules": [{
                    "operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["configmaps"],
                }],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
            },
            "validations": [{"expression": "object.data.absent == 'x'"}],
            "auditAnnotations": [{"key": "k", "valueExpression": "'v'"}],
        });
        install(&cluster, name, spec, json!({})).await;
    }
    let message = refused(&cluster, json!({"a": "1"})).await.unwrap();
    let said = "ValidatingAdmissionPolicy 'strict' with binding 'strict-bound' denied request: expression \
                'object.data.absent == 'x'' resulted in error: no such key: absent";
    assert!(message.ends_with(said), "{message}");
    // Elsewhere it is none of their business.
    cluster.create("/api/v1/namespaces", json!({"metadata": {"name": "other"}})).await;
    cluster.create("/api/v1/namespaces/other/configmaps", config_map("free", json!({}))).await;
    cluster.ask(Method::DELETE, &format!("{BINDINGS}/strict-bound"), None).await;
    assert_eq!(refused(&cluster, json!({"a": "1"})).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authorizer_is_asked_for_the_user_and_for_accounts() {
    let cluster = Cluster::start().await;
    let spec = json!({"validations": [
        {"expression": "authorizer.group('').resource('secrets').namespace('default').check('get').allowed()",
            "message": "needs secrets"},
        {"expression": "!authorizer.serviceAccount('default', 'default').path('/metrics').check('get').allowed()"},
        {"expression": "authorizer.requestResource.check('create').allowed()"},
        {"expression": "request.userInfo.username == 'admin' && 'system:masters' in request.userInfo.groups"},
    ]});
    install(&cluster, "asking", spec, json!({})).await;
    assert_eq!(refused(&cluster, json!({})).await, None);
    cluster
        .create(
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles",
            json!({"metadata": {"name": "maps"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]}),
        )
        .await;
    cluster
        .create(
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings",
            json!({"metadata": {"name": "maps"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "maps"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]}),
        )
        .await;
    let object = config_map("tried", json!({}));
    let (code, status) = cluster.as_user(user("jane", &[]), Method::POST, CONFIG_MAPS, Some(object)).await;
    assert_eq!(code, 422, "{status}");
    assert!(status["message"].as_str().unwrap().ends_with("denied request: needs secrets"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_never_ends_holds_up_nobody() {
    let cluster = Cluster::start().await;
    let long = "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]";
    let nested = ["a", "b", "c", "d", "e", "f"]
        .iter()
        .fold("true".to_owned(), |inner, name| format!("{long}.all({name}, {inner})"));
    // As many as the budget is for, and more.
    let validations: Vec<Value> = (0..15).map(|_| json!({"expression": nested.clone()})).collect();
    install(&cluster, "endless", json!({"validations": validations}), json!({})).await;
    // A chain of variables, each of which is the one before twice over.
    let mut variables = vec![json!({"name": "v0", "expression": "[object, object]"})];
    for i in 1..200 {
        variables.push(
            json!({"name": format!("v{i}"), "expression": format!("variables.v{} + variables.v{}", i - 1, i - 1)}),
        );
    }
    let doubling = json!({"variables": variables, "validations": [{"expression": "variables.v199.size() > 0"}]});
    install(&cluster, "doubling", doubling, json!({})).await;
    let started = Instant::now();
    let object = config_map("tried", json!({"a": "1"}));
    let slow = cluster.ask(Method::POST, CONFIG_MAPS, Some(object));
    let quick = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        cluster.get("/api/v1/namespaces/default").await;
        started.elapsed()
    };
    let ((code, status), _) = tokio::join!(slow, quick);
    assert_eq!(code, 422, "{status}");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("'doubling'") || message.contains("cost"), "{message}");
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    cluster.ask(Method::DELETE, &format!("{BINDINGS}/doubling-bound"), None).await;
    let message = refused(&cluster, json!({"a": "1"})).await.unwrap();
    let cost = "validation failed due to running out of cost budget, no further validation rules will be run";
    assert!(message.ends_with(cost) || message.ends_with("actual cost limit exceeded"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn expressions_are_compiled_when_a_policy_is_written() {
    let cluster = Cluster::start().await;
    let refusal = async |spec: Value| {
        let mut whole = json!({"matchConstraints": {"resourceRules": [{
            "operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"],
        }]}, "validations": [{"expression": "true"}]});
        for (field, value) in spec.as_object().unwrap() {
            whole[field] = value.clone();
        }
        let policy = json!({"metadata": {"name": "p"}, "spec": whole});
        cluster.refusal(Method::POST, POLICIES, Some(policy), 422).await
    };
    for (spec, said) in [
        (
            json!({"validations": [{"expression": "object.x in [1, 2, "}]}),
            "spec.validations[0].expression: Invalid value: \"object.x in [1, 2, \": compilation failed: ERROR: <input>:1:20: \
             Syntax error: missing ']' at '<EOF>'",
        ),
        (json!({"validations": [{"expression": "1 + 1"}]}), "must evaluate to bool but got int"),
        (json!({"validations": [{"expression": "object.x"}]}), "must evaluate to bool but got dyn"),
        (
            json!({"validations": [{"expression": "params.x == 1"}]}),
            "undeclared reference to 'params' (in container '')",
        ),
        (
            json!({"validations": [{"expression": "true", "messageExpression": "authorizer.path('/a').check('get').reason()"}]}),
            "spec.validations[0].messageExpression: Invalid value",
        ),
        (
            json!({"auditAnnotations": [{"key": "k", "valueExpression": "1"}]}),
            "must evaluate to one of [string null_type] but got int",
        ),
        (
            json!({"variables": [{"name": "a", "expression": "variables.b"}, {"name": "b", "expression": "1"}]}),
            "spec.variables[0].expression: Invalid value: \"variables.b\": compilation failed: ERROR: <input>:1:10: undefined \
             field 'b'",
        ),
        (
            json!({"matchConditions": [{"name": "c", "expression": "variables.a == 1"}]}),
            "undeclared reference to 'variables' (in container '')",
        ),
        (
            json!({"validations": [{"expression": "int('a') == 1"}]}),
            "program instantiation failed: type conversion error",
        ),
    ] {
        let message = refusal(spec.clone()).await;
        assert!(message.contains(said), "{spec}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_for_those_who_may_read_them() {
    let cluster = Cluster::start().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": "policies"}, "rules": [
        {"apiGroups": ["admissionregistration.k8s.io"], "resources": ["*"], "verbs": ["*"]},
    ]});
    cluster.create(&format!("{rbac}/clusterroles"), role).await;
    let bind = |role: &str| {
        json!({"metadata": {"name": role}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "joe"}]})
    };
    cluster.create(&format!("{rbac}/clusterrolebindings"), bind("policies")).await;
    let rules = json!({"resourceRules": [
        {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]},
    ]});
    let policy = json!({"metadata": {"name": "spy"}, "spec": {"paramKind": {"apiVersion": "v1", "kind": "Secret"},
        "matchConstraints": rules, "validations": [{"expression": "true", "messageExpression": "string(params.data)"}]}});
    let binding = |policy: &str, reference: Value| {
        let mut reference = reference;
        reference["parameterNotFoundAction"] = "Deny".into();
        json!({"metadata": {"name": "spying"}, "spec":
            {"policyName": policy, "validationActions": ["Deny"], "paramRef": reference}})
    };
    let refused = async |path: &str, object: Value, said: &str| {
        let (code, status) = cluster.as_user(user("joe", &[]), Method::POST, path, Some(object)).await;
        assert_eq!((code, &status["reason"]), (422, &json!("Invalid")), "{status}");
        let message = status["message"].as_str().unwrap();
        let said = format!("Forbidden: {}", said.replace("JOE", "user &{joe  [system:authenticated] map[]}"));
        assert!(message.ends_with(&said), "{message}\n{said}");
    };
    let kind =
        "JOE must have \"get\" permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)";
    refused(POLICIES, policy.clone(), kind).await;
    let mut mutating = policy.clone();
    mutating["spec"].as_object_mut().unwrap().remove("validations");
    mutating["spec"]["reinvocationPolicy"] = "Never".into();
    mutating["spec"]["mutations"] =
        json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{}"}}]);
    let path = "/apis/admissionregistration.k8s.io/v1beta1/mutatingadmissionpolicies";
    refused(path, mutating, kind).await;
    cluster.create(POLICIES, policy.clone()).await;
    let named = json!({"name": "x", "namespace": "default"});
    let object = "JOE does not have \"get\" permission on the object referenced by paramRef";
    refused(BINDINGS, binding("spy", named.clone()), object).await;
    let listed = "JOE does not have \"list\" permission on the object referenced by paramRef";
    refused(BINDINGS, binding("spy", json!({"selector": {"matchLabels": {"a": "b"}}})), listed).await;
    let unknown = "unable to get policy none to determine minimum required permissions and JOE does not have \"get\" \
                   permission for all groups, versions and resources";
    refused(BINDINGS, binding("none", named.clone()), unknown).await;
    // Who may read them may use them; and may change what is not about them without that right.
    let role = json!({"metadata": {"name": "secrets"}, "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]});
    cluster.create(&format!("{rbac}/clusterroles"), role).await;
    cluster.create(&format!("{rbac}/clusterrolebindings"), bind("secrets")).await;
    let (code, made) = cluster.as_user(user("joe", &[]), Method::POST, BINDINGS, Some(binding("spy", named))).await;
    assert_eq!(code, 201, "{made}");
    cluster.ask(Method::DELETE, &format!("{rbac}/clusterrolebindings/secrets"), None).await;
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let path = format!("{BINDINGS}/spying");
    let media = "application/merge-patch+json";
    let (code, made) = cluster.send(user("joe", &[]), Method::PATCH, &path, media, Some(labels)).await;
    assert_eq!(code, 200, "{made}");
}
