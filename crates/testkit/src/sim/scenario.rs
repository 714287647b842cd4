//! What users do in a simulation: a random step at a time.

use kybern_apimachinery::{Gvr, Value, json};
use kybern_client::{Client, ClientError, DeleteOptions, Patch};

use super::random::Random;

const NAMESPACES: [&str; 3] = ["default", "blue", "green"];
const WORKLOADS: [&str; 2] = ["web", "db"];
const MAX_REPLICAS: u64 = 8;

/// A user with a plan of no sense.
pub struct User {
    client: Client,
    random: Random,
    images: u32,
}

impl User {
    pub fn new(client: Client, random: Random) -> Self {
        Self { client, random, images: 0 }
    }

    /// Makes what the steps act on.
    pub async fn prepare(&mut self) {
        for name in NAMESPACES {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            // It may be there.
            let _ = self.create(Gvr::new("", "v1", "namespaces"), namespace).await;
        }
    }

    /// Does one thing, and answers what. Its failure is of no account: what is wanted is what the server has.
    pub async fn step(&mut self) -> String {
        let namespace = *self.random.pick(&NAMESPACES).expect("some");
        let name = *self.random.pick(&WORKLOADS).expect("some");
        let replicas = self.random.below(MAX_REPLICAS + 1);
        self.images += 1;
        let image = format!("registry.test/app:{}", self.images);
        let apps = |resource| Gvr::new("apps", "v1", resource);
        let core = |resource| Gvr::new("", "v1", resource);
        let (what, result) = match self.random.below(24) {
            0..=9 => (
                format!("create deployment {namespace}/{name} of {replicas}"),
                self.create(apps("deployments"), deployment(namespace, name, replicas, &image)).await,
            ),
            10..=12 => (
                format!("scale deployment {namespace}/{name} to {replicas}"),
                self.patch(apps("deployments"), namespace, name, json!({"spec": {"replicas": replicas}})).await,
            ),
            13..=15 => {
                let containers = json!([{"name": "c", "image": image}]);
                let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
                let result = self.patch(apps("deployments"), namespace, name, patch).await;
                (format!("update deployment {namespace}/{name} to {image}"), result)
            }
            16 => (
                format!("delete deployment {namespace}/{name}"),
                self.delete(apps("deployments"), namespace, name).await,
            ),
            17 => {
                let object = daemon_set(namespace, &image);
                (format!("create daemon set {namespace}/agent"), self.create(apps("daemonsets"), object).await)
            }
            18 => (
                format!("delete daemon set {namespace}/agent"),
                self.delete(apps("daemonsets"), namespace, "agent").await,
            ),
            19..=20 => {
                let kind = if self.random.chance(0.5) { "NodePort" } else { "ClusterIP" };
                let object = service(namespace, name, kind);
                (format!("create service {namespace}/{name}"), self.create(core("services"), object).await)
            }
            21 => (format!("delete service {namespace}/{name}"), self.delete(core("services"), namespace, name).await),
            22 => {
                let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
                (format!("create namespace {namespace}"), self.create(core("namespaces"), object).await)
            }
            _ => (format!("delete namespace {namespace}"), self.delete(core("namespaces"), "", namespace).await),
        };
        match result {
            Ok(()) => what,
            Err(error) => format!("{what}: {error}"),
        }
    }

    async fn create(&self, resource: Gvr, object: Value) -> Result<(), ClientError> {
        self.client.raw(&resource).create(&object).await.map(|_| ())
    }

    async fn patch(&self, resource: Gvr, namespace: &str, name: &str, patch: Value) -> Result<(), ClientError> {
        self.client.raw(&resource).patch(namespace, name, &Patch::Strategic(patch), None).await.map(|_| ())
    }

    async fn delete(&self, resource: Gvr, namespace: &str, name: &str) -> Result<(), ClientError> {
        self.client.raw(&resource).delete(namespace, name, &DeleteOptions::default()).await.map(|_| ())
    }
}

fn template(app: &str, image: &str, cpu: &str) -> Value {
    let container = json!({"name": "c", "image": image, "resources": {"requests": {"cpu": cpu}}});
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [container]}})
}

fn deployment(namespace: &str, name: &str, replicas: u64, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": template(name, image, "200m")}})
}

fn daemon_set(namespace: &str, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent", "namespace": namespace},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template("agent", image, "100m")}})
}

fn service(namespace: &str, name: &str, kind: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"type": kind, "selector": {"app": name}, "ports": [{"port": 80}]}})
}
