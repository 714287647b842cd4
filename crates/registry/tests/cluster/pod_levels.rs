//! Pod security levels and LimitRanges, as clients see them.

use http::{Method, Request};
use kybern_apimachinery::{Value, json};
use kybern_apiserver::body;

use crate::harness::{Cluster, admin, pod};

const PODS: &str = "/api/v1/namespaces/work/pods";

async fn namespace(labels: Value) -> Cluster {
    let cluster = Cluster::start().await;
    cluster.create("/api/v1/namespaces", json!({"metadata": {"name": "work", "labels": labels}})).await;
    cluster.create("/api/v1/namespaces/work/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    cluster
}

/// The code of the answer, and what the client is warned of.
async fn warned(cluster: &Cluster, method: Method, path: &str, object: Value) -> (u16, Vec<String>) {
    let media = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let content = body::full(object.to_string());
    let mut request = Request::builder().method(method).uri(path).header("content-type", media).body(content).unwrap();
    request.extensions_mut().insert(admin());
    let response = cluster.server.handle(request).await;
    let warnings = response.headers().get_all("warning").iter();
    let warnings = warnings.map(|w| w.to_str().unwrap().trim_start_matches("299 - ").replace('\\', "")).collect();
    (response.status().as_u16(), warnings)
}

fn on_host(name: &str) -> Value {
    let mut pod = pod(name);
    pod["spec"]["hostPID"] = true.into();
    pod
}

#[tokio::test]
async fn pods_keep_to_the_level_of_their_namespace() {
    let cluster = namespace(json!({"pod-security.kubernetes.io/enforce": "baseline"})).await;
    let text = cluster.refusal(Method::POST, PODS, Some(on_host("a")), 403).await;
    let violates = "PodSecurity \"baseline:latest\": host namespaces (hostPID=true)";
    assert_eq!(text, format!("pods \"a\" is forbidden: violates {violates}"));
    cluster.create(PODS, pod("a")).await;
    let (code, warnings) = warned(&cluster, Method::POST, "/apis/apps/v1/namespaces/work/deployments", json!({
        "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": {"metadata": {"labels": {"app": "d"}}, "spec": on_host("d")["spec"]}},
    }))
    .await;
    assert_eq!((code, warnings), (201, vec![format!("\"would violate {violates}\"")]));

    // A debug container is looked at as any other.
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "x", "securityContext": {"privileged": true}}]}});
    let media = "application/strategic-merge-patch+json";
    let path = format!("{PODS}/a/ephemeralcontainers");
    let (code, refusal) = cluster.send(admin(), Method::PATCH, &path, media, Some(debug)).await;
    assert_eq!(code, 403, "{refusal}");

    let path = "/api/v1/namespaces/work";
    let label = |value: &str| json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": value}}});
    let (code, warnings) = warned(&cluster, Method::PATCH, path, label("restricted")).await;
    assert_eq!(code, 200);
    assert_eq!(
        warnings,
        [
            "\"existing pods in namespace \"work\" violate the new PodSecurity enforce level \"restricted:latest\"\"",
            "\"a: allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile\"",
        ]
    );
    let (code, refusal) = cluster.patch(path, label("strict")).await;
    assert_eq!(code, 422, "{refusal}");
    let text = "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted";
    assert!(refusal["message"].as_str().unwrap().ends_with(text), "{refusal}");
    let bad = json!({"metadata": {"name": "bad", "labels": {"pod-security.kubernetes.io/warn-version": "1.2"}}});
    cluster.refusal(Method::POST, "/api/v1/namespaces", Some(bad), 422).await;
}

#[tokio::test]
async fn pods_get_what_they_do_not_ask_for_and_keep_within_limits() {
    let cluster = namespace(json!({})).await;
    let limits = json!([
        {"type": "Container", "default": {"cpu": "200m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}},
        {"type": "Pod", "max": {"cpu": "1500m"}},
        {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}},
    ]);
    let range = json!({"metadata": {"name": "limits"}, "spec": {"limits": limits}});
    cluster.create("/api/v1/namespaces/work/limitranges", range).await;
    let mut plain = pod("plain");
    plain["spec"]["containers"][0]["resources"] = json!({});
    let made = cluster.create(PODS, plain).await;
    let expected = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}});
    assert_eq!(made["spec"]["containers"][0]["resources"], expected);
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    assert_eq!(made["status"]["qosClass"], "Burstable");
    let mut large = pod("large");
    large["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "2".into();
    let text = cluster.refusal(Method::POST, PODS, Some(large.clone()), 403).await;
    let both =
        "[maximum cpu usage per Container is 1, but limit is 2, maximum cpu usage per Pod is 1500m, but limit is 2]";
    assert_eq!(text, format!("pods \"large\" is forbidden: {both}"));
    let resize = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1100m"}}}]}});
    let path = format!("{PODS}/plain/resize");
    let (code, refusal) =
        cluster.send(admin(), Method::PATCH, &path, "application/strategic-merge-patch+json", Some(resize)).await;
    assert_eq!(code, 403, "{refusal}");
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}});
    let text = cluster.refusal(Method::POST, "/api/v1/namespaces/work/persistentvolumeclaims", Some(claim), 403).await;
    assert!(text.ends_with("maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"), "{text}");
    cluster.refusal(Method::POST, &format!("{PODS}?dryRun=All"), Some(large), 403).await;
}
