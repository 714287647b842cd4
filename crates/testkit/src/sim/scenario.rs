//! What users do in a simulation: a random step at a time.

use std::sync::Arc;
use std::time::Duration;

use kybern_apimachinery::{Gvr, Value, json, object};
use kybern_client::{Client, ClientError, DeleteOptions, ListOptions, Patch, Propagation};

use super::evictor::cordon;
use super::load::Load;
use super::manifests::{self as make, ELASTIC, GUARDED, URGENT};
use super::random::Random;

const NAMESPACES: [&str; 3] = ["default", "blue", "green"];
const WORKLOADS: [&str; 3] = ["web", "db", URGENT];
const MAX_REPLICAS: u64 = 5;
const RETRY: Duration = Duration::from_secs(1);

/// A user with a plan of no sense.
pub struct User {
    client: Client,
    random: Random,
    images: u32,
    /// Whether to ask for more than there is.
    overloads: bool,
    /// How many times as many pods of Deployments it asks for.
    pub(super) scale: u64,
    load: Arc<Load>,
}

/// What is done with an object.
enum Act {
    Create(Value),
    Patch(Value),
    Delete,
    /// One of those that there are.
    DeleteAny(&'static str),
    /// What the namespace is asked to do, in thousandths of a core.
    Load(i64),
}

/// What is done, to what.
struct Step {
    resource: Gvr,
    namespace: &'static str,
    name: &'static str,
    act: Act,
}

fn apps(resource: &str) -> Gvr {
    Gvr::new("apps", "v1", resource)
}

fn batch(resource: &str) -> Gvr {
    Gvr::new("batch", "v1", resource)
}

fn autoscaling(resource: &str) -> Gvr {
    Gvr::new("autoscaling", "v2", resource)
}

fn policy(resource: &str) -> Gvr {
    Gvr::new("policy", "v1", resource)
}

fn core(resource: &str) -> Gvr {
    Gvr::new("", "v1", resource)
}

impl User {
    pub(super) fn new(client: Client, random: Random, overloads: bool, load: Arc<Load>) -> Self {
        Self { client, random, images: 0, overloads, scale: 1, load }
    }

    /// Makes what the steps act on.
    pub async fn prepare(&mut self) {
        let namespace = |name: &&str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let classes = Gvr::new("scheduling.k8s.io", "v1", "priorityclasses");
        let mut objects: Vec<(Gvr, Value)> =
            NAMESPACES.iter().map(|name| (core("namespaces"), namespace(name))).collect();
        objects.push((classes, make::priority_class()));
        objects.push((Gvr::new("storage.k8s.io", "v1", "storageclasses"), make::storage_class()));
        for name in NAMESPACES {
            let image = "registry.test/app:0";
            objects.push((apps("deployments"), make::deployment(name, "web", 3, image)));
            objects.push((apps("deployments"), make::deployment(name, GUARDED, 4, image)));
            objects.push((apps("deployments"), make::deployment(name, ELASTIC, 2, image)));
            objects.push((autoscaling("horizontalpodautoscalers"), make::autoscaler(name)));
            objects.push((policy("poddisruptionbudgets"), make::budget(name, json!({"minAvailable": 3}))));
            objects.push((apps("statefulsets"), make::stateful_set(name, 2, image, "OrderedReady")));
            objects.push((apps("statefulsets"), make::vault(name, 1, image, "Delete")));
            objects.push((batch("jobs"), make::job(name, 4, 2, "NonIndexed", image)));
        }
        for (resource, object) in objects {
            // It may be there.
            while let Err(error) = self.client.raw(&resource).create(&object).await
                && !error.is_already_exists()
            {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Takes away what keeps the cluster from ever being as wanted, or from coming to rest.
    pub async fn end(&self, nodes: &[String]) {
        for node in nodes {
            cordon(&self.client, node, false).await;
        }
        for namespace in NAMESPACES {
            let _ = self.client.raw(&core("resourcequotas")).delete(namespace, "limit", &with_dependents()).await;
            let suspended = Patch::Merge(json!({"spec": {"suspend": true}}));
            let _ = self.client.raw(&batch("cronjobs")).patch(namespace, "tick", &suspended, None).await;
        }
    }

    /// Does one thing, and answers what; or only draws what it would have been. Its failure is of no account: what is wanted
    /// is what the server has.
    pub async fn step(&mut self, is_left_out: bool) -> Option<String> {
        let step = self.draw();
        if is_left_out {
            return None;
        }
        let Step { resource, namespace, name, act } = step;
        let objects = self.client.raw(&resource);
        let place = format!("{} {namespace}/{name}", resource.resource);
        let (what, result) = match act {
            Act::Create(object) => {
                let spec = brief(&object);
                (format!("create {place}{spec}"), objects.create(&object).await.map(drop))
            }
            Act::Patch(patch) => {
                let text = format!("patch {place} with {patch}");
                (text, objects.patch(namespace, name, &Patch::Strategic(patch), None).await.map(drop))
            }
            Act::Delete => {
                (format!("delete {place}"), objects.delete(namespace, name, &with_dependents()).await.map(drop))
            }
            Act::Load(milli_cpu) => {
                self.load.set(namespace, milli_cpu);
                (format!("the load of {namespace} becomes {milli_cpu}m"), Ok(()))
            }
            Act::DeleteAny(selector) => (
                format!("delete one of {} {selector} in {namespace}", resource.resource),
                self.delete_any(&resource, namespace, selector).await,
            ),
        };
        Some(match result {
            Ok(()) => what,
            Err(error) => format!("{what}: {error}"),
        })
    }

    fn draw(&mut self) -> Step {
        let namespace = *self.random.pick(&NAMESPACES).expect("some");
        let mut name = *self.random.pick(&WORKLOADS).expect("some");
        if name == URGENT && !self.overloads {
            name = "web";
        }
        let (replicas, other) = (self.random.below(MAX_REPLICAS + 1), self.random.below(3) + 1);
        let coin = self.random.chance(0.5);
        self.images += 1;
        let image = format!("registry.test/app:{}", self.images);
        let template = json!({"template": {"spec": {"containers": [{"name": "c", "image": image}]}}});
        let resized = Act::Patch(json!({"spec": {"replicas": replicas}}));
        let many = replicas * self.scale;
        let updated = Act::Patch(json!({"spec": template}));
        let step = |resource, name, act| Step { resource, namespace, name, act };
        let one = |a: &'static str, b: &'static str| if coin { a } else { b };
        match self.random.below(60) {
            0..=9 => step(apps("deployments"), name, Act::Create(make::deployment(namespace, name, many, &image))),
            10..=11 => step(apps("deployments"), name, Act::Patch(json!({"spec": {"replicas": many}}))),
            12..=14 => step(apps("deployments"), name, updated),
            15 => step(apps("deployments"), name, Act::Delete),
            16 => step(apps("daemonsets"), "agent", Act::Create(make::daemon_set(namespace, &image))),
            17 => step(apps("daemonsets"), "agent", Act::Delete),
            18..=19 => {
                let kind = one("NodePort", "ClusterIP");
                step(core("services"), name, Act::Create(make::service(namespace, name, kind)))
            }
            20 => step(core("services"), name, Act::Delete),
            21 => {
                let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
                Step { resource: core("namespaces"), namespace: "", name: namespace, act: Act::Create(object) }
            }
            22 => Step { resource: core("namespaces"), namespace: "", name: namespace, act: Act::Delete },
            23..=25 => {
                let policy = one("OrderedReady", "Parallel");
                let object = make::stateful_set(namespace, replicas, &image, policy);
                step(apps("statefulsets"), "store", Act::Create(object))
            }
            26..=27 => step(apps("statefulsets"), "store", resized),
            28..=29 => step(apps("statefulsets"), "store", updated),
            30 => step(apps("statefulsets"), "store", Act::Delete),
            31..=33 => {
                let mode = one("NonIndexed", "Indexed");
                step(batch("jobs"), "work", Act::Create(make::job(namespace, replicas + 1, other, mode, &image)))
            }
            34 => step(batch("jobs"), "work", Act::Patch(json!({"spec": {"suspend": coin}}))),
            35 => step(batch("jobs"), "work", Act::Patch(json!({"spec": {"parallelism": other}}))),
            36 => step(batch("jobs"), "work", Act::Delete),
            37 => step(core("pods"), "work", Act::DeleteAny("app=work")),
            38..=39 => {
                let policy = one("Forbid", "Allow");
                step(batch("cronjobs"), "tick", Act::Create(make::cron_job(namespace, policy, &image)))
            }
            40 => step(core("resourcequotas"), "limit", Act::Create(make::quota(namespace, replicas + 5))),
            41 => step(core("resourcequotas"), "limit", Act::Delete),
            42 => step(apps("deployments"), GUARDED, Act::Create(make::deployment(namespace, GUARDED, 4, &image))),
            43 => step(apps("deployments"), GUARDED, if coin { resized } else { updated }),
            44 => {
                let rule = if coin { json!({"maxUnavailable": 1}) } else { json!({"minAvailable": replicas}) };
                step(policy("poddisruptionbudgets"), "guard", Act::Create(make::budget(namespace, rule)))
            }
            45 => step(policy("poddisruptionbudgets"), "guard", Act::Delete),
            46..=47 => {
                let kept = one("Retain", "Delete");
                step(apps("statefulsets"), "vault", Act::Create(make::vault(namespace, other, &image, kept)))
            }
            48 => step(apps("statefulsets"), "vault", resized),
            49 => step(apps("statefulsets"), "vault", updated),
            50 => step(core("pods"), "vault", Act::DeleteAny("app=vault")),
            51 => step(apps("statefulsets"), "vault", Act::Delete),
            52..=55 => step(core("pods"), ELASTIC, Act::Load(35 * (replicas * other) as i64)),
            56..=57 => step(apps("deployments"), ELASTIC, Act::Create(make::deployment(namespace, ELASTIC, 3, &image))),
            58 => step(autoscaling("horizontalpodautoscalers"), ELASTIC, Act::Create(make::autoscaler(namespace))),
            _ if coin => step(autoscaling("horizontalpodautoscalers"), ELASTIC, Act::Delete),
            _ => step(apps("deployments"), ELASTIC, Act::Delete),
        }
    }

    async fn delete_any(&mut self, resource: &Gvr, namespace: &str, selector: &str) -> Result<(), ClientError> {
        let objects = self.client.raw(resource);
        let found = objects.list(namespace, &ListOptions::labels(selector)).await?;
        let Some(chosen) = self.random.pick(&found) else { return Ok(()) };
        objects.delete(namespace, object::name(chosen), &with_dependents()).await.map(drop)
    }
}

/// Jobs would leave their pods behind.
fn with_dependents() -> DeleteOptions {
    DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() }
}

/// What of an object's spec tells steps apart.
fn brief(object: &Value) -> String {
    let told = [
        "replicas",
        "podManagementPolicy",
        "completions",
        "parallelism",
        "completionMode",
        "concurrencyPolicy",
        "hard",
        "minAvailable",
        "maxUnavailable",
    ];
    let told = told.into_iter().filter(|field| !object["spec"][*field].is_null());
    told.map(|field| format!(" {field}={}", object["spec"][field])).collect()
}
