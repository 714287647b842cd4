//! Rules in CEL: refused with their definition, evaluated on every write.

use http::Method;
use kybern_apimachinery::{Value, json};
use kybern_apiserver::body;

use super::{DEFINITIONS, FOOS, condition, define, definition};
use crate::harness::{Cluster, admin};

/// A definition whose `spec` and `status` have these schemas.
fn ruled(spec: &Value, status: &Value) -> Value {
    let version = json!({"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": status}}}});
    definition("foos", "Foo", json!([version]))
}

fn rules(properties: Value, rules: Value) -> Value {
    json!({"type": "object", "properties": properties, "x-kubernetes-validations": rules})
}

fn foo(spec: Value) -> Value {
    json!({"apiVersion": "ex.io/v1", "kind": "Foo", "metadata": {"name": "a"}, "spec": spec})
}

/// The code, body and warnings of a merge patch.
async fn patched(cluster: &Cluster, path: &str, patch: Value) -> (u16, Value, Vec<String>) {
    let request = http::Request::builder().method(Method::PATCH).uri(path);
    let request = request.header("content-type", "application/merge-patch+json");
    let mut request = request.body(body::full(patch.to_string())).unwrap();
    request.extensions_mut().insert(admin());
    let response = cluster.server.handle(request).await;
    let warnings = response.headers().get_all("warning").iter().map(|w| w.to_str().unwrap().to_owned()).collect();
    let code = response.status().as_u16();
    let body = serde_json::from_slice(&body::read(response.into_body()).await.unwrap()).unwrap();
    (code, body, warnings)
}

#[tokio::test]
async fn writes_obey_rules() {
    let cluster = Cluster::start().await;
    let spec = rules(
        json!({"min": {"type": "integer"}, "max": {"type": "integer"}, "id": {"type": "string", "maxLength": 9}}),
        json!([
            {"rule": "self.min <= self.max", "messageExpression": "'min is over max of ' + self.id", "fieldPath": ".min"},
            {"rule": "!has(oldSelf.id) || self.id == oldSelf.id", "message": "id is for good", "reason": "FieldValueForbidden"},
        ]),
    );
    let status = rules(json!({"n": {"type": "integer"}}), json!([{"rule": "self.n < 5", "message": "n"}]));
    define(&cluster, ruled(&spec, &status)).await;
    let refused = cluster.ask(Method::POST, FOOS, Some(foo(json!({"min": 3, "max": 2, "id": "x"})))).await;
    assert_eq!(refused.0, 422);
    assert_eq!(refused.1["message"], "Foo.ex.io \"a\" is invalid: spec.min: Invalid value: min is over max of x");
    let causes =
        json!([{"reason": "FieldValueInvalid", "message": "Invalid value: min is over max of x", "field": "spec.min"}]);
    assert_eq!(refused.1["details"]["causes"], causes);
    let refused = cluster.refusal(Method::POST, FOOS, Some(foo(json!({"min": "x", "max": 2}))), 422).await;
    assert!(refused.ends_with("<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]"), "{refused}");
    cluster.create(FOOS, foo(json!({"min": 1, "max": 2, "id": "x"}))).await;
    let path = format!("{FOOS}/a");
    let (code, status, _) = patched(&cluster, &path, json!({"spec": {"id": "y"}})).await;
    assert_eq!(
        (code, &status["message"]),
        (422, &json!("Foo.ex.io \"a\" is invalid: spec: Forbidden: id is for good"))
    );
    let (code, status, _) = patched(&cluster, &format!("{path}/status"), json!({"status": {"n": 5}})).await;
    assert_eq!((code, &status["message"]), (422, &json!("Foo.ex.io \"a\" is invalid: status: Invalid value: n")));
    let (code, ..) = patched(&cluster, &format!("{path}/status"), json!({"status": {"n": 4}})).await;
    assert_eq!(code, 200);
}

#[tokio::test]
async fn a_rule_that_comes_later_lets_be_what_stays() {
    let cluster = Cluster::start().await;
    let field = |rules: Value| json!({"type": "string", "maxLength": 9, "x-kubernetes-validations": rules});
    let none = json!({"type": "object"});
    let spec = |rules: Value| json!({"type": "object", "properties": {"a": field(rules.clone()), "b": field(rules)}});
    define(&cluster, ruled(&spec(json!([])), &none)).await;
    cluster.create(FOOS, foo(json!({"a": "old", "b": "old"}))).await;
    let later = ruled(&spec(json!([{"rule": "self == 'new'", "message": "new, please"}])), &none);
    let (code, _) = cluster.patch(&format!("{DEFINITIONS}/foos.ex.io"), json!({"spec": later["spec"]})).await;
    assert_eq!(code, 200);
    let path = format!("{FOOS}/a");
    for n in 0.. {
        // Another each time: what was written before the rule is in force stays, too.
        let other = format!("other{n}");
        let (code, status, warnings) = patched(&cluster, &path, json!({"spec": {"b": other}})).await;
        if code == 422 {
            let refusal = format!("Foo.ex.io \"a\" is invalid: spec.b: Invalid value: {other:?}: new, please");
            assert_eq!(status["message"], refusal);
            assert_eq!(warnings, [r#"299 - "spec.a: Invalid value: \"old\": new, please""#]);
            break;
        }
        assert_eq!(code, 200);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let (code, _, warnings) = patched(&cluster, &path, json!({"spec": {"b": "new"}})).await;
    assert_eq!((code, warnings.len()), (200, 1));
}

#[tokio::test]
async fn definitions_are_refused_for_their_rules() {
    let cluster = Cluster::start().await;
    let none = json!({"type": "object"});
    let list = json!({"l": {"type": "array", "items": {"type": "string"}}});
    for (rule, part) in [
        ("self.gone == 1", "compilation failed: ERROR: <input>:1:5: undefined field 'gone'"),
        ("self.l", "cel expression must evaluate to a bool"),
        (
            "self.l.all(a, self.l.all(b, a == b))",
            "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x",
        ),
        (
            "int('x') == 1",
            "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value",
        ),
    ] {
        let bad = ruled(&rules(list.clone(), json!([{"rule": rule}])), &none);
        let refused = cluster.refusal(Method::POST, DEFINITIONS, Some(bad), 422).await;
        assert!(refused.contains(part), "{rule}: {refused}");
    }
    // What a rule costs is asked of what is new: a definition that has it may be changed elsewhere.
    define(&cluster, ruled(&rules(list, json!([{"rule": "self.l.size() < 3"}])), &none)).await;
    condition(&cluster, "foos.ex.io", "Established", "InitialNamesAccepted").await;
}
