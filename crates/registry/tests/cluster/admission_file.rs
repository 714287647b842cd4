//! `--admission-control-config-file`: what is in it holds, and what is wrong with it is told.

use http::Method;
use kybern_apimachinery::json;
use kybern_registry::AdmissionConfiguration;

use crate::harness::{Cluster, pod, user};

fn read(files: &[(&str, &str)]) -> Result<AdmissionConfiguration, String> {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    AdmissionConfiguration::read(&directory.path().join(files[0].0))
}

const FILE: &str = "apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline}
    exemptions: {usernames: [joe]}
- name: ResourceQuota
  path: quota.yaml
";

const QUOTA: &str = "apiVersion: apiserver.config.k8s.io/v1
kind: ResourceQuotaConfiguration
limitedResources:
- resource: pods
  matchScopes: [{scopeName: PriorityClass, operator: In, values: [cluster-services]}]
- resource: persistentvolumeclaims
  matchContains: [requests.storage]
";

#[tokio::test]
async fn what_is_told_holds() {
    let cluster = Cluster::told(read(&[("file.yaml", FILE), ("quota.yaml", QUOTA)]).unwrap()).await;
    cluster.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let mut host = pod("a");
    host["spec"]["hostNetwork"] = true.into();
    let pods = "/api/v1/namespaces/default/pods";
    let text = cluster.refusal(Method::POST, pods, Some(host.clone()), 403).await;
    assert!(text.contains("violates PodSecurity \"baseline:latest\": host namespaces"), "{text}");
    let joe = user("joe", &["system:masters"]);
    let (code, answer) = cluster.as_user(joe, Method::POST, pods, Some(host)).await;
    assert_eq!(code, 201, "{answer}");

    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = json!({"metadata": {"name": "a"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let text = cluster.refusal(Method::POST, claims, Some(claim), 403).await;
    assert!(text.ends_with("insufficient quota to consume: requests.storage"), "{text}");
    let class = json!({"metadata": {"name": "cluster-services"}, "value": 5});
    cluster.create("/apis/scheduling.k8s.io/v1/priorityclasses", class).await;
    let mut important = pod("important");
    important["spec"]["priorityClassName"] = "cluster-services".into();
    let text = cluster.refusal(Method::POST, pods, Some(important), 500).await;
    assert_eq!(text, "insufficient quota to match these scopes: [{PriorityClass In [cluster-services]}]");
    cluster.create(pods, pod("plain")).await;
}

#[test]
fn what_is_wrong_is_told() {
    let wrong = |text: &str, expect: &str| {
        let error = read(&[("file.yaml", text), ("quota.yaml", QUOTA)]).unwrap_err();
        assert!(error.contains(expect), "{error}");
    };
    wrong("kind: Other", "no kind \"Other\" is registered for version \"\"");
    wrong(&FILE.replace("plugins:", "plugin:"), "unknown field \"plugin\"");
    wrong(
        &FILE.replace("baseline", "strict"),
        "couldn't init admission plugin \"PodSecurity\": defaults.enforce: Invalid value: \"strict\"",
    );
    wrong(&FILE.replace("quota.yaml", "away.yaml"), "unable to read admission control configuration");
    wrong(&FILE.replace("exemptions", "exemption"), "unknown field \"exemption\"");
    wrong("a: [", "file.yaml");
    let error = AdmissionConfiguration::read(std::path::Path::new("/nonexistent/file")).unwrap_err();
    assert!(error.starts_with("unable to read admission control configuration from \"/nonexistent/file\""), "{error}");
    let legacy = read(&[("old.yaml", "podNodeSelectorPluginConfig:\n  clusterDefaultNodeSelector: a=b\n")]).unwrap();
    assert_eq!(legacy.node_selectors["clusterDefaultNodeSelector"], "a=b");
}
