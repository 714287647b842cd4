//! What the kubelet remembers of a pod besides what API and runtime say: back-offs, probe results, reasons for waiting.
//! All of it can be lost at any time; then it is found anew.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kybern_api::core::v1::Container;

use super::backoff::Backoff;
use super::labels::container_hash;

pub const ERR_IMAGE_PULL: &str = "ErrImagePull";
pub const IMAGE_PULL_BACK_OFF: &str = "ImagePullBackOff";
pub const CRASH_LOOP_BACK_OFF: &str = "CrashLoopBackOff";

/// Why a container that should run does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub reason: String,
    pub message: String,
    pub since: Timestamp,
    /// When to try again.
    pub retry_at: Timestamp,
}

/// What the probes say of one start of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// The startup probe succeeded.
    pub started: bool,
    /// The readiness probe's last verdict.
    pub ready: bool,
    /// The kind of the probe (`liveness`, `startup`) whose failure ends this start.
    pub failed: Option<&'static str>,
}

/// Why the pod as a whole has failed by the kubelet's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    pub message: String,
    /// Never ran: rejected by the node's admission.
    pub rejected: bool,
}

/// A step under way; the plan starts nothing on a busy thing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StepKey {
    Volumes,
    Sandbox,
    Start(String),
    /// By container id.
    Kill(String),
    Remove(String),
    Teardown,
    /// What dropped steps do not leave half-done comes to its end.
    Settle,
    Status,
    Delete,
}

pub type CrashKey = (String, u32);

pub fn crash_key(container: &Container) -> CrashKey {
    (container.name.clone(), container_hash(container))
}

/// The memory of one pod.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub waiting: BTreeMap<String, Waiting>,
    /// By container and its hash: what is changed starts anew.
    pub crash: BTreeMap<CrashKey, Backoff>,
    pub pull: BTreeMap<String, Backoff>,
    pub probed: BTreeMap<String, Probed>,
    pub failure: Option<Failure>,
    pub volumes_ready: bool,
    /// When to try again what the whole pod waits for (volumes, sandbox).
    pub retry_at: Option<Timestamp>,
    /// The pod's volumes and sandbox are gone; nothing is left to stop.
    pub torn_down: bool,
    /// The pod is gone from the API.
    pub gone: bool,
    pub busy: BTreeSet<StepKey>,
}

impl Memory {
    pub fn is_starting(&self, container: &str) -> bool {
        self.busy.contains(&StepKey::Start(container.to_owned()))
    }

    pub fn is_any_starting(&self) -> bool {
        self.busy.iter().any(|step| matches!(step, StepKey::Start(_)))
    }

    /// Whether a probe's failure ends this start of a container.
    pub fn is_condemned(&self, id: &str) -> bool {
        self.probed.get(id).is_some_and(|probed| probed.failed.is_some())
    }

    pub fn is_killing(&self, id: &str) -> bool {
        self.busy.contains(&StepKey::Kill(id.to_owned()))
    }
}
