//! What the runtime holds of one pod.

use jiff::Timestamp;
use kybern_cri::{ContainerState, ContainerStatus, PodSandboxState, PodSandboxStatus};

use super::labels;

/// One pod's sandboxes and containers, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    sandboxes: Vec<PodSandboxStatus>,
    containers: Vec<ContainerStatus>,
}

impl Observed {
    pub fn new(mut sandboxes: Vec<PodSandboxStatus>, mut containers: Vec<ContainerStatus>) -> Self {
        sandboxes.sort_by_key(|s| std::cmp::Reverse((s.sandbox.created_at, s.sandbox.metadata.attempt)));
        containers.sort_by_key(|c| std::cmp::Reverse((restart_count(c), c.container.created_at)));
        Self { sandboxes, containers }
    }

    pub fn sandboxes(&self) -> &[PodSandboxStatus] {
        &self.sandboxes
    }

    pub fn containers(&self) -> &[ContainerStatus] {
        &self.containers
    }

    /// The newest sandbox, if it is ready.
    pub fn ready_sandbox(&self) -> Option<&PodSandboxStatus> {
        self.sandboxes.first().filter(|s| s.sandbox.state == PodSandboxState::Ready)
    }

    /// The attempt number of the next sandbox.
    pub fn next_attempt(&self) -> u32 {
        self.sandboxes.first().map_or(0, |s| s.sandbox.metadata.attempt + 1)
    }

    /// Every start of a container, newest first.
    pub fn starts<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ContainerStatus> {
        self.containers.iter().filter(move |c| c.container.metadata.name == name)
    }

    /// The newest start of a container.
    pub fn latest(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().find(|c| c.container.metadata.name == name)
    }

    pub fn by_id(&self, id: &str) -> Option<&ContainerStatus> {
        self.containers.iter().find(|c| c.container.id == id)
    }

    pub fn running(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.containers.iter().filter(|c| c.container.state == ContainerState::Running)
    }

    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }
}

/// How often the container had been started before this start.
pub fn restart_count(status: &ContainerStatus) -> u32 {
    let annotated = status.container.annotations.get(labels::RESTART_COUNT).and_then(|n| n.parse().ok());
    annotated.unwrap_or(status.container.metadata.attempt)
}

/// A runtime's nanoseconds as a time; `None` for zero.
pub fn time_of(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds != 0).then(|| Timestamp::from_nanosecond(nanoseconds.into()).ok()).flatten()
}

/// A time as the API keeps it: without fractions of a second.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
