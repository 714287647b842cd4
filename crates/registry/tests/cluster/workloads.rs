//! Workloads, namespaces and configuration.

use http::Method;
use kybern_apimachinery::{Value, json};

use crate::harness::Cluster;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}}})
}

#[tokio::test]
async fn a_deployment_is_defaulted_scaled_and_guarded() {
    let cluster = Cluster::start().await;
    let made = cluster.create(DEPLOYMENTS, deployment()).await;
    assert_eq!(made["spec"]["replicas"], 1);
    assert_eq!(
        made["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    assert_eq!(made["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"], "Always");
    let path = format!("{DEPLOYMENTS}/web");
    let (code, scale) = cluster.patch(&format!("{path}/scale"), json!({"spec": {"replicas": 3}})).await;
    assert_eq!((code, &scale["spec"]["replicas"]), (200, &json!(3)), "{scale}");
    assert_eq!(cluster.table(&format!("{path}/scale")).await[0][..3], [json!("web"), json!(3), json!(0)]);
    let (code, refused) = cluster.patch(&path, json!({"spec": {"selector": {"matchLabels": {"app": "x"}}}})).await;
    assert_eq!(code, 422);
    assert!(refused["message"].as_str().unwrap().contains("field is immutable"), "{refused}");
    let (code, after) = cluster
        .patch(
            &format!("{path}/status"),
            json!({"spec": {"replicas": 9}, "status": {"readyReplicas": 2, "replicas": 3}}),
        )
        .await;
    assert_eq!(
        (code, &after["spec"]["replicas"], &after["status"]["readyReplicas"]),
        (200, &json!(3), &json!(2)),
        "{after}"
    );
    assert_eq!(cluster.table(DEPLOYMENTS).await[0][1], "2/3");
}

#[tokio::test]
async fn a_namespace_ends_when_it_is_finalized() {
    let cluster = Cluster::start().await;
    let made = cluster.create("/api/v1/namespaces", json!({"metadata": {"name": "a"}})).await;
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "a");
    assert_eq!((&made["spec"]["finalizers"], &made["status"]["phase"]), (&json!(["kubernetes"]), &json!("Active")));
    let (code, going) = cluster.ask(Method::DELETE, "/api/v1/namespaces/a", None).await;
    assert_eq!((code, &going["status"]["phase"]), (200, &json!("Terminating")), "{going}");
    let config = json!({"metadata": {"name": "c"}});
    let text = cluster.refusal(Method::POST, "/api/v1/namespaces/a/configmaps", Some(config), 403).await;
    assert_eq!(
        text,
        "configmaps \"c\" is forbidden: unable to create new content in namespace a because it is being terminated"
    );
    let mut emptied = cluster.get("/api/v1/namespaces/a").await;
    emptied["spec"]["finalizers"] = json!([]);
    let (code, done) = cluster.ask(Method::PUT, "/api/v1/namespaces/a/finalize", Some(emptied)).await;
    assert_eq!(code, 200, "{done}");
    let (code, _) = cluster.ask(Method::GET, "/api/v1/namespaces/a", None).await;
    assert_eq!(code, 404, "an empty namespace that was deleted is gone");
    let text = cluster.refusal(Method::DELETE, "/api/v1/namespaces/default", None, 403).await;
    assert_eq!(text, "namespaces \"default\" is forbidden: this namespace may not be deleted");
}

#[tokio::test]
async fn versions_of_a_kind_are_one_object() {
    let cluster = Cluster::start().await;
    let event = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}, "note": "hello",
        "eventTime": "2026-11-20T00:00:00.000000Z", "reportingController": "c", "reportingInstance": "i", "action": "a", "reason": "r", "type": "Normal"});
    cluster.create("/apis/events.k8s.io/v1/namespaces/default/events", event).await;
    let core = cluster.get("/api/v1/namespaces/default/events/e").await;
    assert_eq!(
        (&core["message"], &core["involvedObject"]["name"], &core["apiVersion"]),
        (&json!("hello"), &json!("p"), &json!("v1"))
    );
    let by_field = cluster.get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp").await;
    assert_eq!(by_field["items"].as_array().unwrap().len(), 1);
    let scaler = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}});
    cluster.create("/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", scaler).await;
    let v2 = cluster.get("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h").await;
    assert_eq!(v2["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50, "{v2}");
}

#[tokio::test]
async fn owners_of_fields_are_found_in_every_version() {
    let cluster = Cluster::start().await;
    let path = |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers/h");
    let apply = async |version: &str, manager: &str, spec: Value| {
        let config = json!({"apiVersion": format!("autoscaling/{version}"), "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}, "spec": spec});
        let query = format!("{}?fieldManager={manager}", path(version));
        cluster.send(crate::harness::admin(), Method::PATCH, &query, "application/apply-patch+yaml", Some(config)).await
    };
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let v1 = json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 50, "scaleTargetRef": target});
    let (code, made) = apply("v1", "one", v1).await;
    assert_eq!(code, 201, "{made}");
    let metrics = |percent: u32| json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}]);
    let (code, refused) =
        apply("v2", "two", json!({"maxReplicas": 3, "scaleTargetRef": target, "metrics": metrics(60)})).await;
    assert_eq!(code, 409, "{refused}");
    assert_eq!(
        refused["message"],
        "Apply failed with 1 conflict: conflict with \"one\": .spec.targetCPUUtilizationPercentage"
    );
    // What one version's applier no longer sets goes, although another version's asked last.
    let (code, after) = apply("v2", "one", json!({"maxReplicas": 3, "scaleTargetRef": target})).await;
    assert_eq!((code, &after["spec"]["metrics"]), (200, &metrics(80)), "the default again: {after}");
    // An event's owner keeps what is called otherwise in the other group.
    let event = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}, "note": "hello",
        "eventTime": "2026-11-20T00:00:00.000000Z", "reportingController": "c", "reportingInstance": "i", "action": "a", "reason": "r", "type": "Normal"});
    cluster.create("/apis/events.k8s.io/v1/namespaces/default/events?fieldManager=maker", event).await;
    let owners = |event: &Value| {
        let entries = event["metadata"]["managedFields"].as_array().unwrap().clone();
        let owned = |field: &str| {
            let has = |e: &&Value| e["fieldsV1"].get(format!("f:{field}")).is_some();
            entries.iter().filter(has).map(|e| e["manager"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        (owned("note"), owned("message"))
    };
    let core = "/api/v1/namespaces/default/events/e?fieldManager=other";
    let (code, changed) = cluster.patch(core, json!({"count": 2})).await;
    assert_eq!((code, owners(&changed)), (200, (vec!["maker".to_owned()], vec![])), "{changed}");
    let (_, changed) = cluster.patch(core, json!({"message": "bye"})).await;
    assert_eq!(owners(&changed), (vec![], vec!["other".to_owned()]), "{changed}");
}

#[tokio::test]
async fn a_pod_waits_for_its_namespaces_account() {
    let cluster = Cluster::start().await;
    cluster.create("/api/v1/namespaces", json!({"metadata": {"name": "new"}})).await;
    let account = json!({"metadata": {"name": "default"}});
    let mut pod = crate::harness::pod("a");
    pod["metadata"]["namespace"] = "new".into();
    let (made, _) = tokio::join!(
        cluster.create("/api/v1/namespaces/new/pods", pod),
        cluster.create("/api/v1/namespaces/new/serviceaccounts", account),
    );
    assert_eq!(made["spec"]["serviceAccountName"], "default");
}

#[tokio::test]
async fn secrets_are_written_in_the_clear_and_kept_as_data() {
    let cluster = Cluster::start().await;
    let path = "/api/v1/namespaces/default/secrets";
    let made =
        cluster.create(path, json!({"metadata": {"name": "s"}, "stringData": {"a": "x"}, "immutable": true})).await;
    assert_eq!((&made["data"], &made["type"], made.get("stringData")), (&json!({"a": "eA=="}), &json!("Opaque"), None));
    let (code, _) = cluster.patch(&format!("{path}/s"), json!({"data": {"a": "eQ=="}})).await;
    assert_eq!(code, 422);
}

#[tokio::test]
async fn a_status_says_what_can_be() {
    let cluster = Cluster::start().await;
    let (services, jobs) = ("/api/v1/namespaces/default/services", "/apis/batch/v1/namespaces/default/jobs");
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    for kind in ["LoadBalancer", "ClusterIP"] {
        let spec = json!({"type": kind, "ports": [{"port": 80}]});
        cluster.create(services, json!({"metadata": {"name": kind.to_lowercase()}, "spec": spec})).await;
    }
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "nginx"}]}});
    cluster.create(jobs, json!({"metadata": {"name": "j"}, "spec": {"template": template}})).await;
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    cluster.create(claims, json!({"metadata": {"name": "c"}, "spec": spec})).await;
    let ingress = || json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    for (object, status, refusal) in [
        ("/api/v1/namespaces/default".to_owned(), json!({"phase": "Terminating"}), "may only be 'Active' if"),
        ("/api/v1/namespaces/default".to_owned(), json!({"phase": null}), ""),
        (format!("{services}/loadbalancer"), ingress(), ""),
        (format!("{services}/clusterip"), ingress(), "may only be used when `spec.type` is 'LoadBalancer'"),
        (format!("{jobs}/j"), json!({"active": 1, "startTime": "2024-01-01T00:00:00Z"}), ""),
        (format!("{jobs}/j"), json!({"active": 1, "ready": 2}), "cannot set more ready pods than active"),
        (format!("{jobs}/j"), json!({"startTime": null}), "startTime cannot be removed for unsuspended job"),
        (format!("{claims}/c"), json!({"capacity": {"storage": "-1"}}), "must be a valid resource quantity"),
        (format!("{claims}/c"), json!({"allocatedResourceStatuses": {"storage": "NodeResizePending"}}), ""),
    ] {
        let (code, answer) = cluster.patch(&format!("{object}/status"), json!({"status": status})).await;
        let text = answer["message"].as_str().unwrap_or("");
        assert_eq!(code, if refusal.is_empty() { 200 } else { 422 }, "{object} {status}: {answer}");
        assert!(text.contains(refusal), "{object} {status}: {answer}");
    }
    let shown = cluster.get(&format!("{services}/loadbalancer")).await;
    assert_eq!(shown["status"]["loadBalancer"]["ingress"][0]["ipMode"], "VIP");
    assert_eq!(cluster.get("/api/v1/namespaces/default").await["status"]["phase"], "Active");
}
