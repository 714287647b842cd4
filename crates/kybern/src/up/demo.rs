//! The demo: three replicas of the test application behind a ClusterIP and a NodePort Service, and what they answer.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use kybern_api::core::v1::Service;
use kybern_apimachinery::{Gvr, json};
use kybern_client::{Client, Patch};

use super::progress::Progress;
use super::wait;
use crate::{testapp, version};

const NAME: &str = "kybern-demo";
const NAMESPACE: &str = "default";

/// Where the demo is fetched.
pub(crate) struct Addresses {
    pub(crate) node_ip: IpAddr,
    pub(crate) dns_ip: IpAddr,
    pub(crate) cluster_domain: String,
}

/// Deploys, waits, fetches by cluster IP, node port and name; answers what to try next.
pub(crate) async fn run(client: &Client, addresses: &Addresses, progress: &mut Progress) -> Result<String> {
    progress.begin("deploying the demo");
    apply(client).await?;
    wait::deployment_available(client, NAMESPACE, NAME, progress).await?;
    progress.done("demo running (Deployment kybern-demo, 3 replicas)");

    let service: Service = client.get(NAMESPACE, NAME).await?;
    let spec = service.spec.context("the demo's Service has no spec")?;
    let cluster_ip = spec.cluster_ip.context("the demo's Service has no cluster IP")?;
    let node_service: Service = client.get(NAMESPACE, &format!("{NAME}-nodeport")).await?;
    let node_port = node_service.spec.and_then(|s| s.ports?.first()?.node_port);
    let node_port = node_port.context("the demo's Service has no node port")?;

    progress.begin("fetching the demo");
    let name = format!("{NAME}.{NAMESPACE}.svc.{}", addresses.cluster_domain);
    let mut answers = Vec::new();
    answers.push(fetch("cluster IP", &format!("http://{cluster_ip}/")).await?);
    answers.push(fetch("node port", &format!("http://{}:{node_port}/", addresses.node_ip)).await?);
    let resolved = wait::resolve(addresses.dns_ip, &format!("{name}.")).await?;
    let by_name = fetch("DNS name", &format!("http://{resolved}/")).await?;
    answers.push(by_name.replace(&format!("http://{resolved}/"), &format!("http://{name}/")));
    progress.done("demo answers by cluster IP, node port and DNS name");
    for answer in answers {
        progress.line(&answer);
    }
    Ok(format!("kubectl get all            # the demo\n  curl http://{}:{node_port}/", addresses.node_ip))
}

/// Fetches a page as soon as kube-proxy has written its rules.
async fn fetch(by: &str, url: &str) -> Result<String> {
    let get = async || {
        let (status, body) = testapp::http_get(url, Duration::from_secs(2)).await?;
        let text = String::from_utf8_lossy(&body).trim().replace('\n', " ");
        anyhow::ensure!(status.is_success(), "{status}: {text}");
        Ok(text)
    };
    let text = wait::through_services(get).await.with_context(|| format!("the demo does not answer by {by}"))?;
    Ok(format!("      {by:<10} {url} → {text}"))
}

async fn apply(client: &Client) -> Result<()> {
    let labels = json!({"app": NAME});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{
                    "name": "testapp",
                    "image": version::image(),
                    "command": ["/kybern", "testapp", "serve"],
                    "ports": [{"containerPort": 8080, "name": "http"}],
                    "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 5},
                    "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}, "limits": {"memory": "64Mi"}},
                }]},
            },
        },
    });
    let service = |name: &str, kind: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "spec": {"type": kind, "selector": labels, "ports": [{"port": 80, "targetPort": "http"}]},
        })
    };
    let objects = [
        (Gvr::new("apps", "v1", "deployments"), deployment),
        (Gvr::new("", "v1", "services"), service(NAME, "ClusterIP")),
        (Gvr::new("", "v1", "services"), service(&format!("{NAME}-nodeport"), "NodePort")),
    ];
    for (gvr, object) in objects {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let patch = Patch::Apply { object, manager: "kybern-demo".to_owned(), force: true };
        client
            .raw(&gvr)
            .patch(NAMESPACE, &name, &patch, None)
            .await
            .with_context(|| format!("cannot apply the demo's {name}"))?;
    }
    Ok(())
}
