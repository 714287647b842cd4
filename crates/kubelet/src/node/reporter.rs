//! Registers the node and keeps its status true.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kybern_api::core::v1::{Node, NodeStatus};
use kybern_apimachinery::{Value, json};
use kybern_client::{ClientError, Patch};

use super::machine;
use super::status::{self, RuntimeView};
use crate::shared::Shared;

/// How often the runtime and the machine are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The same while the node is not ready yet: it becomes so within moments of a start.
const LOOK_EVERY_UNREADY: Duration = Duration::from_millis(250);
/// How often an unchanged status is published again.
const HEARTBEAT: SignedDuration = SignedDuration::from_mins(5);
const RETRY: Duration = Duration::from_secs(1);

/// Registers, then reports, until dropped.
pub async fn run(shared: Arc<Shared>) {
    let mut reporter = Reporter { shared, published: None, at: Timestamp::UNIX_EPOCH, unready_looks: 0 };
    while let Err(error) = reporter.register().await {
        tracing::warn!(%error, "cannot register the node; trying again");
        tokio::time::sleep(RETRY).await;
    }
    loop {
        let wait = match reporter.report().await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::warn!(%error, "cannot publish the node's status; trying again");
                RETRY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

struct Reporter {
    shared: Arc<Shared>,
    published: Option<NodeStatus>,
    at: Timestamp,
    unready_looks: u32,
}

impl Reporter {
    async fn runtime(&self) -> RuntimeView {
        let runtime = &self.shared.runtime;
        let version = match runtime.version().await {
            Ok(version) => format!("{}://{}", version.runtime_name, version.runtime_version),
            Err(_) => format!("{}://unknown", self.shared.view.runtime),
        };
        let status = runtime.status().await.map_err(|e| e.to_string());
        let handlers = status.as_ref().map(|s| s.runtime_handlers.clone()).unwrap_or_default();
        let images = self.shared.images.list_images().await.unwrap_or_default();
        RuntimeView { version, conditions: status.map(|s| s.conditions), handlers, images }
    }

    fn status(&self, runtime: &RuntimeView, now: Timestamp) -> NodeStatus {
        let shared = &self.shared;
        let pressure = machine::pressure(&shared.config.root_dir);
        status::status(&shared.config, &shared.machine, runtime, &pressure, self.published.as_ref(), now)
    }

    async fn register(&mut self) -> Result<(), ClientError> {
        let now = Timestamp::now();
        let runtime = self.runtime().await;
        let status = self.status(&runtime, now);
        let (client, config) = (&self.shared.client, &self.shared.config);
        let node = status::registration(config, &self.shared.machine, status.clone());
        match client.create(&node).await {
            Ok(_) => {
                tracing::info!(node = config.node_name, "registered the node");
                self.shared.events.node(&config.node_name, "Starting", "Starting kubelet.");
            }
            Err(error) if error.is_already_exists() => {
                let old = client.get::<Node>("", &config.node_name).await?;
                let labels = status::labels(config, &self.shared.machine);
                let annotations = status::annotations(config);
                let lacks = |has: &Option<BTreeMap<String, String>>, wanted: &BTreeMap<String, String>| {
                    wanted.iter().any(|(key, value)| has.as_ref().and_then(|has| has.get(key)) != Some(value))
                };
                if lacks(&old.metadata.labels, &labels) || lacks(&old.metadata.annotations, &annotations) {
                    let metadata = json!({"labels": labels, "annotations": annotations});
                    let patch = Patch::Strategic(json!({"metadata": metadata}));
                    client.patch::<Node>("", &config.node_name, &patch, None).await?;
                }
                let has_cidr = old.spec.as_ref().is_some_and(|s| s.pod_cidr.is_some());
                if let Some(cidr) = config.pod_cidr.as_ref().filter(|_| !has_cidr) {
                    let patch = Patch::Strategic(json!({"spec": {"podCIDR": cidr, "podCIDRs": [cidr]}}));
                    client.patch::<Node>("", &config.node_name, &patch, None).await?;
                }
                self.published = old.status;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Tells by an event when the node becomes ready or stops being so.
    fn announce(&self, new: &NodeStatus) {
        let is_ready =
            |status: &NodeStatus| status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        let (was, is) = (self.published.as_ref().is_some_and(is_ready), is_ready(new));
        let name = &self.shared.config.node_name;
        let reason = if is { "NodeReady" } else { "NodeNotReady" };
        if was != is {
            self.shared.events.node(name, reason, format!("Node {name} status is now: {reason}"));
        }
    }

    /// Publishes if there is something to say; answers when to look again.
    async fn report(&mut self) -> Result<Duration, ClientError> {
        let now = Timestamp::now();
        let runtime = self.runtime().await;
        let new = self.status(&runtime, now);
        let due = now.duration_since(self.at) >= HEARTBEAT;
        if due || self.published.as_ref().is_none_or(|old| !status::same(old, &new)) {
            let patch = Patch::Strategic(patch(self.published.as_ref(), &new));
            let done =
                self.shared.client.patch::<Node>("", &self.shared.config.node_name, &patch, Some("status")).await;
            match done {
                Err(error) if error.is_not_found() => {
                    // Somebody deleted it: a node that lives comes back.
                    self.published = None;
                    self.register().await?;
                    return Ok(Duration::ZERO);
                }
                done => done.map(drop)?,
            }
            self.announce(&new);
            self.published = Some(new);
            self.at = now;
        }
        if status::not_ready(&runtime).is_empty() {
            self.unready_looks = 0;
            return Ok(LOOK_EVERY);
        }
        self.unready_looks = self.unready_looks.saturating_add(1);
        Ok(if self.unready_looks < 120 { LOOK_EVERY_UNREADY } else { LOOK_EVERY })
    }
}

/// The strategic merge patch of the whole status; lists that merge by key drop what went.
fn patch(old: Option<&NodeStatus>, new: &NodeStatus) -> Value {
    let carrier = Node { status: Some(new.clone()), ..Default::default() };
    let mut value = kybern_api::encode::value(&carrier)["status"].take();
    if old.is_some_and(|old| old.addresses != new.addresses)
        && let Some(list) = value["addresses"].as_array_mut()
    {
        list.insert(0, json!({"$patch": "replace"}));
    }
    json!({"status": value})
}
