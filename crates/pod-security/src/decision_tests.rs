use super::*;
use kybern_apimachinery::json;

fn namespace(labels: &[(&str, &str)]) -> Value {
    let labels: std::collections::BTreeMap<String, &str> =
        labels.iter().map(|(name, value)| (format!("{PREFIX}{name}"), *value)).collect();
    json!({"metadata": {"name": "ns", "labels": labels}})
}

fn host() -> Value {
    json!({"hostPID": true, "containers": [{"name": "a"}]})
}

fn subject(spec: &Value, is_pod: bool) -> Subject<'_> {
    Subject { user: "joe", namespace: "ns", metadata: &Value::Null, spec, is_pod }
}

fn annotation<'d>(decision: &'d Decision, name: &str) -> Option<&'d str> {
    decision.annotations.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
}

const TEXT: &str = "PodSecurity \"baseline:latest\": host namespaces (hostPID=true)";

#[test]
fn a_pod_is_refused_where_its_level_is_enforced() {
    let (spec, configuration) = (host(), Configuration::default());
    let decision =
        decide(&subject(&spec, true), &namespace(&[("enforce", "baseline"), ("audit", "baseline")]), &configuration);
    assert_eq!(decision.refusal, Some(format!("violates {TEXT}")));
    assert_eq!(annotation(&decision, "enforce-policy"), Some("baseline:latest"));
    assert_eq!(annotation(&decision, "audit-violations"), Some(format!("would violate {TEXT}").as_str()));
    assert!(decision.warnings.is_empty(), "who is refused needs no warning");
    assert_eq!(decision.evaluations.len(), 2);

    let decision = decide(&subject(&spec, false), &namespace(&[("enforce", "baseline")]), &configuration);
    assert_eq!((decision.refusal, decision.warnings), (None, vec![format!("would violate {TEXT}")]), "a template");
    let decision = decide(&subject(&spec, true), &namespace(&[("warn", "baseline")]), &configuration);
    assert_eq!((decision.refusal, decision.warnings.len()), (None, 1));
    assert_eq!(decision.annotations, [("enforce-policy", "privileged:latest".to_owned())]);
    let decision = decide(&subject(&spec, true), &namespace(&[]), &configuration);
    assert_eq!((decision.refusal, decision.warnings.len(), decision.evaluations.len()), (None, 0, 1));
    assert_eq!(
        decide(&subject(&spec, false), &namespace(&[("enforce", "privileged")]), &configuration),
        Decision::default()
    );
}

#[test]
fn labels_that_cannot_be_read_are_the_strictest() {
    let (spec, configuration) = (json!({"containers": []}), Configuration::default());
    let decision = decide(&subject(&spec, true), &namespace(&[("enforce", "much"), ("audit", "x")]), &configuration);
    assert!(decision.failed && decision.refusal.is_none(), "{decision:?}");
    assert_eq!(annotation(&decision, "enforce-policy"), Some("restricted:latest"));
    let error = annotation(&decision, "error").unwrap();
    assert!(error.starts_with("Failed to parse policy: [metadata.labels[") && error.ends_with(']'), "{error}");
}

#[test]
fn some_are_exempt() {
    let spec = {
        let mut spec = host();
        spec["runtimeClassName"] = "kata".into();
        spec
    };
    let (strict, one) = (namespace(&[("enforce", "restricted")]), |name: &str| vec![name.to_owned()]);
    for (configuration, why) in [
        (Configuration { usernames: one("joe"), ..Configuration::default() }, "user"),
        (Configuration { namespaces: one("ns"), ..Configuration::default() }, "namespace"),
        (Configuration { runtime_classes: one("kata"), ..Configuration::default() }, "runtimeClass"),
    ] {
        let decision = decide(&subject(&spec, true), &strict, &configuration);
        assert!(decision.exempt && decision.refusal.is_none(), "{why}");
        assert_eq!(decision.annotations, [("exempt", why.to_owned())]);
    }
    let configuration = Configuration { namespaces: one("ns"), ..Configuration::default() };
    let policy = Policy::of(&strict, &configuration.defaults).0;
    assert_eq!(
        exempt_namespace_warning(&strict, &policy, &configuration).unwrap(),
        "namespace \"ns\" is exempt from Pod Security, and the policy (enforce=restricted:latest) will be ignored"
    );
    assert_eq!(exempt_namespace_warning(&namespace(&[]), &Policy::default(), &configuration), None);
}

#[test]
fn updates_of_images_and_containers_count() {
    let pod = |image: &str, debug: &[&str]| {
        let debug: Vec<Value> = debug.iter().map(|name| json!({"name": name, "image": "d"})).collect();
        json!({"spec": {"containers": [{"name": "a", "image": image}], "ephemeralContainers": debug}})
    };
    assert!(!is_significant_update(&pod("a", &["x"]), &pod("a", &["x"])));
    assert!(is_significant_update(&pod("b", &[]), &pod("a", &[])));
    assert!(is_significant_update(&pod("a", &["x", "y"]), &pod("a", &["x"])));
    assert!(is_significant_update(&json!({"spec": {}}), &pod("a", &[])));
}

#[test]
fn pods_that_are_there_are_told_of() {
    let pod = |name: &str, owner: &str, spec: Value| {
        let owners = if owner.is_empty() { json!([]) } else { json!([{"uid": owner, "controller": true}]) };
        json!({"metadata": {"name": name, "ownerReferences": owners}, "spec": spec})
    };
    let ports = json!({"containers": [{"name": "a", "ports": [{"hostPort": 1}]}]});
    let pods = [
        pod("c", "r", host()),
        pod("b", "r", host()),
        pod("a", "r", host()),
        pod("p", "", ports.clone()),
        pod("q", "", ports),
        pod("fine", "", json!({})),
    ];
    let baseline = Policy::of(&namespace(&[("enforce", "baseline")]), &Policy::default()).0.enforce;
    let warnings = |late: bool| crate::warnings_about("ns", &pods, baseline, &Configuration::default(), || late);
    assert_eq!(
        warnings(false),
        [
            "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a (and 2 other pods): host namespaces",
            "p (and 1 other pod): hostPort",
        ]
    );
    assert_eq!(warnings(true)[0], "new PodSecurity enforce level only checked against the first 1 of 6 existing pods");
}
