use kybern_apimachinery::json;

use super::*;
use crate::builtin;

fn kind(name: &str) -> KindType {
    let gvk = builtin().kinds().find(|g| g.kind == name && g.version == "v1").unwrap().clone();
    builtin().kind(&gvk).unwrap()
}

fn check(kind_name: &str, body: &Value, expect: &Value) {
    let (value, warnings) = decode(&kind(kind_name), body.to_string().as_bytes(), Strictness::Warn).unwrap();
    assert_eq!((value, warnings), (expect.clone(), vec![]));
}

fn error(kind_name: &str, body: &str) -> String {
    decode(&kind(kind_name), body.as_bytes(), Strictness::Strict).unwrap_err().to_string()
}

#[test]
fn absent_and_empty_values_look_as_upstream_writes_them() {
    check(
        "Pod",
        &json!({
            "metadata": {"name": "a", "labels": {}, "creationTimestamp": null},
            "spec": {
                "containers": [{"name": "c", "args": [], "stdin": false, "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}],
                "volumes": [{"name": "v", "emptyDir": {}}],
                "nodeName": "", "nodeSelector": {}, "priority": 0,
            },
        }),
        &json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a"},
            "spec": {
                "containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}}],
                "volumes": [{"name": "v", "emptyDir": {}}],
                "priority": 0,
            },
            "status": {},
        }),
    );
    check(
        "Service",
        &json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}),
        &json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
            "spec": {"ports": [{"port": 80, "targetPort": 0}]}, "status": {"loadBalancer": {}},
        }),
    );
    check(
        "Secret",
        &json!({"metadata": {}, "data": {"a": "YQ==\n", "b": null}}),
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {"a": "YQ==", "b": ""}}),
    );
    check(
        "ClusterRole",
        &json!({}),
        &json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {}, "rules": null}),
    );
}

#[test]
fn unknown_and_duplicate_fields() {
    let body = r#"{"spec":{"foo":1,"replicas":1,"replicas":2,"template":{"spec":{"containers":[{"name":"a"},{"Name":"b"}]},
        "metadata":{"labels":{"a":"1","a":"2"}}}}}"#;
    let expect = [
        r#"unknown field "spec.foo""#,
        r#"duplicate field "spec.replicas""#,
        r#"unknown field "spec.template.spec.containers[1].Name""#,
        r#"duplicate field "spec.template.metadata.labels.a""#,
    ];
    let deployment = kind("Deployment");
    let (value, warnings) = decode(&deployment, body.as_bytes(), Strictness::Warn).unwrap();
    assert_eq!(warnings, expect);
    assert_eq!(value["spec"]["replicas"], 2);
    assert_eq!(value["spec"].get("foo"), None);
    assert_eq!(decode(&deployment, body.as_bytes(), Strictness::Ignore).unwrap().1, Vec::<String>::new());
    let refused = decode(&deployment, body.as_bytes(), Strictness::Strict).unwrap_err();
    assert_eq!(
        refused.into_api_error(&deployment.gvk).message(),
        format!(
            r#"Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: {}"#,
            expect.join(", ")
        )
    );
}

#[test]
fn type_errors_name_the_go_struct_and_type() {
    for (body, expect) in [
        (
            r#"{"spec":{"replicas":"a"}}"#,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"spec":{"replicas":1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"spec":{"replicas":3000000000}}"#,
            "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":{}}}}}"#,
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":[{"imagePullPolicy":1}]}}}}"#,
            "json: cannot unmarshal number into Go struct field Container.spec.template.spec.containers.imagePullPolicy of type v1.PullPolicy",
        ),
        (
            r#"{"metadata":{"labels":{"a":true}}}"#,
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"spec":{"strategy":{"rollingUpdate":{"maxSurge":1.5}}}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field RollingUpdateDeployment.spec.strategy.rollingUpdate.maxSurge of type int32",
        ),
        (
            r#"{"metadata":{"creationTimestamp":1}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
        ),
        (r#"[]"#, "json: cannot unmarshal array into Go value of type v1.Deployment"),
        (
            r#"{"spec":{"template":{"spec":{"containers":[{"resources":{"limits":{"cpu":"a"}}}]}}}}"#,
            kybern_apimachinery::quantity::MALFORMED,
        ),
    ] {
        assert_eq!(error("Deployment", body), expect);
    }
    assert_eq!(error("Secret", r#"{"data":{"a":"*"}}"#), "illegal base64 data at input byte 0");
}

#[test]
fn empty_lists_are_null_where_the_field_is_always_written() {
    let (role, _) = decode(&kind("Secret"), br#"{"data":{}}"#, Strictness::Strict).unwrap();
    assert_eq!(role.get("data"), None);
    let (pod, _) = decode(&kind("Pod"), br#"{"spec":{"containers":[]}}"#, Strictness::Strict).unwrap();
    assert_eq!(pod["spec"].get("containers"), Some(&Value::Null));
}

#[test]
fn yaml_has_1_1_booleans_and_octal_numbers() {
    let body = b"spec:\n  containers:\n  - name: a\n    stdin: yes\n  volumes:\n  - name: v\n    secret: {secretName: s, defaultMode: 0644}\n  - name: w\n    secret: {defaultMode: 017}\n  terminationGracePeriodSeconds: 10\n";
    let (pod, _) = decode_yaml(&kind("Pod"), body, Strictness::Strict).unwrap();
    assert_eq!(pod["spec"]["containers"][0]["stdin"], true);
    assert_eq!(pod["spec"]["volumes"][0]["secret"]["defaultMode"], 0o644);
    assert_eq!(pod["spec"]["volumes"][1]["secret"]["defaultMode"], 0o17);
    let refused =
        |yaml: &str| decode_yaml(&kind("ConfigMap"), yaml.as_bytes(), Strictness::Strict).unwrap_err().to_string();
    assert_eq!(
        refused("data: {a: yes}"),
        "json: cannot unmarshal bool into Go struct field ConfigMap.data of type string"
    );
    assert_eq!(refused("data: {a: x}\ndata: {b: z}"), r#"strict decoding error: duplicate field "data""#);
    assert!(refused("data: {a: .nan}").contains("yaml"), "{}", refused("data: {a: .nan}"));
    assert_eq!(yaml_documents("---\na: 1\n---\n# nothing\n---\nb: 2\n--- # c\nd: 4\n").len(), 3);
    assert_eq!(yaml_to_value(b"{1: a, true: b}").unwrap(), json!({"1": "a", "true": "b"}));
}

#[test]
fn custom_resource_schemas_need_either_types() {
    let (crd, _) = decode(
        &kind("CustomResourceDefinition"),
        json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": {
            "type": "object", "additionalProperties": false, "default": {"a": [1.0]},
            "properties": {"a": {"items": {"type": "string"}}, "b": {"additionalProperties": {"nullable": true}}},
        }}}]}})
        .to_string()
        .as_bytes(),
        Strictness::Strict,
    )
    .unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["properties"]["b"]["additionalProperties"]["nullable"], true);
    assert_eq!(schema["default"], json!({"a": [1.0]}));
}

#[test]
fn malformed_json_is_told_in_the_known_words() {
    for (body, expect) in [
        ("", "unexpected end of JSON input"),
        ("{\"a\": ", "unexpected end of JSON input"),
        ("x", "invalid character 'x' looking for beginning of value"),
        ("{\n  \"data\": {\n    a: 1}}", "invalid character 'a' looking for beginning of object key string"),
        ("{\"data\" 1}", "invalid character '1' after object key"),
        ("{\"data\": {} 1}", "invalid character '1' after object key:value pair"),
        ("{} {", "invalid character '{' after top-level value"),
    ] {
        assert_eq!(error("ConfigMap", body), expect, "{body}");
    }
    let refused =
        decode(&kind("ConfigMap"), b"x", Strictness::Ignore).unwrap_err().into_api_error(&kind("ConfigMap").gvk);
    assert_eq!(
        refused.message(),
        "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: \
         invalid character 'x' looking for beginning of value"
    );
}

#[test]
fn deep_nesting_is_refused_and_not_fatal() {
    let crd = kind("CustomResourceDefinition");
    let nested = |depth: usize| {
        let (open, close) = ("{\"not\":".repeat(depth), "}".repeat(depth));
        format!("{{\"spec\":{{\"versions\":[{{\"schema\":{{\"openAPIV3Schema\":{open}{{}}{close}}}}}]}}}}")
    };
    assert!(decode(&crd, nested(100).as_bytes(), Strictness::Strict).is_ok());
    let refused = decode(&crd, nested(10_000).as_bytes(), Strictness::Strict).unwrap_err();
    assert!(matches!(refused, DecodeError::OverBudget(_)), "{refused}");
}

#[test]
fn bodies_are_within_the_budget() {
    use kybern_apimachinery::{Budget, OverBudget};
    let pod = kind("Pod");
    let nested = |n: usize| format!("{{\"x\":{}{}}}", "[".repeat(n), "]".repeat(n));
    let depth = Budget::REQUEST.depth;
    assert!(decode(&pod, nested(depth - 1).as_bytes(), Strictness::Ignore).is_ok());
    for n in [depth, 200, 1_000_000] {
        let refused = decode(&pod, nested(n).as_bytes(), Strictness::Ignore).unwrap_err();
        assert_eq!(refused, DecodeError::OverBudget(OverBudget::Depth(depth)), "{n}");
        assert_eq!(refused.into_api_error(&pod.gvk).code(), 400);
    }
    // Three bytes make a container with all its required fields.
    let many = format!("{{\"spec\":{{\"containers\":[{}{{}}]}}}}", "{},".repeat(1_000_000));
    let refused = decode(&pod, many.as_bytes(), Strictness::Ignore).unwrap_err();
    assert_eq!(refused.into_api_error(&pod.gvk).code(), 413);
}

#[test]
fn faults_are_found_where_go_finds_them() {
    let secret = |data: &str| error("Secret", &format!(r#"{{"data":{{"a":"{data}"}}}}"#));
    for (data, at) in [("-Bad_", 0), ("aGVsbG8=x", 8), ("aGVsbG8", 4), ("aGVsb", 4), ("aa=b", 2), ("aa=", 3)] {
        assert_eq!(secret(data), format!("illegal base64 data at input byte {at}"), "{data}");
    }
    let volume = r#"{"spec":{"volumes":[{"emptyDir":"x"}]}}"#;
    let text = "json: cannot unmarshal string into Go struct field Volume.spec.volumes.VolumeSource.emptyDir of type v1.EmptyDirVolumeSource";
    assert_eq!(error("Pod", volume), text);
}
