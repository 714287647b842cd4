//! Bringing the pod's status to the API, and its deletion to an end. One write is under way at a time; what changes
//! meanwhile goes into the next one.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kybern_api::core::v1::{Pod, PodStatus};
use kybern_apimachinery::{Value, json};
use kybern_client::{ClientError, DeleteOptions, Patch};

use super::Worker;
use super::steps::Done;
use crate::pod::conditions::OWN_CONDITIONS;
use crate::pod::memory::{Memory, Probed, StepKey};
use crate::pod::{pod_status, spec};

const RETRY: SignedDuration = SignedDuration::from_secs(2);

/// How a write to the API ended.
pub enum Outcome {
    Taken(Box<PodStatus>),
    /// The pod is not there any more.
    Gone,
    Later(String),
}

/// Takes over what the API says of probes: a kubelet that restarts does not make its pods unready.
pub(super) fn remember_probes(pod: &Pod, memory: &mut Memory) {
    let status = pod.status.as_ref();
    let lists =
        [status.and_then(|s| s.container_statuses.as_ref()), status.and_then(|s| s.init_container_statuses.as_ref())];
    for status in lists.into_iter().flatten().flatten() {
        let id = status.container_id.as_deref().and_then(|id| id.split_once("://"));
        if let Some((_, id)) = id {
            let probed = Probed { started: status.started == Some(true), ready: status.ready, failed: None };
            memory.probed.insert(id.to_owned(), probed);
        }
    }
}

/// The conditions of other owners are theirs.
pub(super) fn own_part(mut status: PodStatus) -> PodStatus {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| OWN_CONDITIONS.contains(&c.type_.as_str()));
    }
    status
}

/// The strategic merge patch from one status to another.
fn patch(uid: &str, old: Option<&PodStatus>, new: &PodStatus) -> Value {
    let carrier = Pod { status: Some(new.clone()), ..Default::default() };
    let mut status = kybern_api::encode::value(&carrier)["status"].take();
    let pod_ips = |s: &PodStatus| s.pod_ips.as_ref().map(|l| l.iter().map(|i| i.ip.clone()).collect::<Vec<_>>());
    let host_ips = |s: &PodStatus| s.host_ips.as_ref().map(|l| l.iter().map(|i| i.ip.clone()).collect::<Vec<_>>());
    for (name, before, after) in
        [("podIPs", old.and_then(pod_ips), pod_ips(new)), ("hostIPs", old.and_then(host_ips), host_ips(new))]
    {
        // These lists merge by address: an address that went would stay.
        if before.is_some_and(|before| !before.is_empty() && Some(&before) != after.as_ref())
            && let Some(list) = status[name].as_array_mut()
        {
            list.insert(0, json!({"$patch": "replace"}));
        }
    }
    for (name, had, has) in [
        ("message", old.is_some_and(|o| o.message.is_some()), new.message.is_some()),
        ("reason", old.is_some_and(|o| o.reason.is_some()), new.reason.is_some()),
    ] {
        if had && !has {
            status[name] = Value::Null;
        }
    }
    json!({"metadata": {"uid": uid}, "status": status})
}

impl Worker {
    /// Publishes the status if it changed; answers when to try again.
    pub(super) fn publish(&mut self, now: Timestamp) -> Option<Timestamp> {
        if self.gone
            || self.deleted
            || self.memory.busy.contains(&StepKey::Status)
            || self.memory.busy.contains(&StepKey::Delete)
        {
            return None;
        }
        if let Some(at) = self.publish_at.filter(|at| *at > now) {
            return Some(at);
        }
        self.publish_at = None;
        let old = self.published.clone().unwrap_or_default();
        let status = pod_status(&self.pod, &old, &self.observed, &self.memory, &self.shared.view, now);
        self.show(&status);
        let (client, namespace, name) =
            (self.shared.client.clone(), spec::namespace(&self.pod).to_owned(), spec::name(&self.pod).to_owned());
        let uid = spec::uid(&self.pod).to_owned();
        if self.published.as_ref() != Some(&status) {
            let patch = Patch::Strategic(patch(&uid, self.published.as_ref(), &status));
            self.step(StepKey::Status, async move {
                let done = client.patch::<Pod>(&namespace, &name, &patch, Some("status")).await;
                Done::Published(outcome(done.map(drop), status))
            });
        } else if spec::is_deleting(&self.pod) && self.memory.torn_down {
            let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(uid) };
            self.step(StepKey::Delete, async move {
                let done = client.delete::<Pod>(&namespace, &name, &options).await;
                Done::Deleted(outcome(done, status))
            });
        }
        None
    }

    /// The kubelet's own API shows the status as it is, not as it was last read.
    fn show(&self, status: &PodStatus) {
        self.view.send_if_modified(|view| {
            let stale = view.pod.status.as_ref() != Some(status)
                || view.pod.metadata.resource_version != self.pod.metadata.resource_version;
            if stale {
                view.pod = Arc::new(Pod { status: Some(status.clone()), ..(*self.pod).clone() });
            }
            stale
        });
    }

    pub(super) fn took_status(&mut self, outcome: Outcome, now: Timestamp) {
        match outcome {
            Outcome::Taken(status) => self.published = Some(*status),
            Outcome::Gone => self.leave(),
            Outcome::Later(cause) => {
                tracing::warn!(pod = %spec::full_name(&self.pod), cause, "cannot write the pod's status; trying again");
                self.publish_at = Some(now + RETRY);
            }
        }
    }

    pub(super) fn took_deletion(&mut self, outcome: Outcome, now: Timestamp) {
        match outcome {
            // A finalizer may keep the object; its removal is then seen as a change of the API's.
            Outcome::Taken(_) | Outcome::Gone => self.deleted = true,
            Outcome::Later(cause) => {
                tracing::warn!(pod = %spec::full_name(&self.pod), cause, "cannot delete the pod; trying again");
                self.publish_at = Some(now + RETRY);
            }
        }
    }

    fn leave(&mut self) {
        self.gone = true;
        self.memory.gone = true;
    }
}

fn outcome(done: Result<(), ClientError>, status: PodStatus) -> Outcome {
    match done {
        Ok(()) => Outcome::Taken(Box::new(status)),
        Err(error) if error.is_not_found() || error.is_conflict() => Outcome::Gone,
        Err(error) => Outcome::Later(error.to_string()),
    }
}
