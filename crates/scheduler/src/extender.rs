//! Servers outside the scheduler that have a say about pods: which nodes take them, which is best, whose place they may have,
//! and who binds them (`extenders` of the configuration). What is asked and answered is in [`wire`], when and about what in
//! [`asker`]; the core only knows who is interested in which pod.

pub mod asker;
pub mod config;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use kybern_webhook::{CallError, Client};
use serde::de::DeserializeOwned;

use crate::framework::{Candidate, Reason};
use crate::node::Node;
use crate::pod::PodInfo;

/// Bits of extenders, in their order.
pub type Bits = u32;

/// As a rejecting filter's bit: an extender rejected the pod.
pub const REJECTED: u32 = 1 << 31;

/// What an extender says is cut to so many bytes before it goes into a pod's status and events.
const REASON_MAX: usize = 1024;

pub struct Extender {
    /// `urlPrefix`, which names it.
    url: String,
    filter: Option<Verb>,
    prioritize: Option<Verb>,
    preempt: Option<Verb>,
    bind: Option<Verb>,
    weight: i64,
    /// Nodes and victims are named to it, not shown.
    knows_nodes: bool,
    /// The resources that pods of interest request; empty for all pods.
    managed: Vec<String>,
    /// Pods do without its word if it has none.
    is_ignorable: bool,
}

/// What an extender can be asked.
struct Verb {
    name: String,
    client: Client,
}

impl Verb {
    async fn post<T: DeserializeOwned>(&self, body: Bytes) -> Result<T, String> {
        let url = self.client.url();
        let answer = self.client.post(body, None).await.map_err(|error| match error {
            CallError::Status(status) => {
                cut(format!("failed {} with extender at URL {url}, code {}", self.name, status.code()))
            }
            other => cut(other.to_string()),
        })?;
        wire::read(&answer).map_err(|e| cut(format!("cannot read the answer of the extender at {url}: {e}")))
    }
}

impl std::fmt::Debug for Extender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Extender").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Extender {
    fn is_interested(&self, pod: &PodInfo) -> bool {
        self.managed.is_empty()
            || pod.requests.scalar.iter().any(|(name, _)| self.managed.iter().any(|managed| **managed == **name))
    }

    /// Whether it has a say in where a pod goes.
    pub fn places(&self) -> bool {
        self.filter.is_some() || self.prioritize.is_some()
    }

    pub fn preempts(&self) -> bool {
        self.preempt.is_some()
    }

    pub fn binds(&self) -> bool {
        self.bind.is_some()
    }

    pub fn is_ignorable(&self) -> bool {
        self.is_ignorable
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether it must be shown whole nodes.
    fn reads_nodes(&self) -> bool {
        !self.knows_nodes && self.places()
    }
}

/// The extenders, those that pods can do without last.
#[derive(Clone, Debug, Default)]
pub struct Extenders(Vec<Arc<Extender>>);

impl Extenders {
    /// Those that have a say about a pod.
    pub fn interested(&self, pod: &PodInfo) -> Bits {
        self.bits(|extender| extender.is_interested(pod))
    }

    pub fn bits(&self, holds: impl Fn(&Extender) -> bool) -> Bits {
        let holding = self.0.iter().enumerate().filter(|(_, extender)| holds(extender));
        holding.fold(0, |bits, (bit, _)| bits | 1 << bit)
    }

    /// With their bits' places.
    pub fn among(&self, bits: Bits) -> impl Iterator<Item = (usize, &Arc<Extender>)> {
        self.0.iter().enumerate().filter(move |(bit, _)| bits & 1 << bit != 0)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// What extenders are asked about a pod.
#[derive(Debug)]
pub enum Question {
    /// Which of these nodes take it, and how good each is.
    Places(Vec<Arc<Node>>),
    /// Asked of one: on which of these nodes others may go for it, and who.
    Victims { extender: usize, candidates: Vec<Candidate> },
}

#[derive(Debug)]
pub enum Answer {
    Places(Places),
    /// For each node the victims' uids, and how many of them their budgets protect.
    Victims(Vec<(String, Vec<String>, usize)>),
    /// Why there is no answer.
    Failed(String),
    /// The pod is no more, or no longer waits.
    Gone,
}

#[derive(Debug, Default)]
pub struct Places {
    /// With what extenders add to their scores.
    pub fit: Vec<(i64, Arc<Node>)>,
    /// Why not, and whether it would help if other pods went.
    pub rejected: Vec<(Arc<Node>, Option<Reason>, bool)>,
}

/// What others say, in bounds.
fn cut(mut text: String) -> String {
    if text.len() > REASON_MAX {
        text.truncate(text.floor_char_boundary(REASON_MAX));
        text.push_str(" ...");
    }
    text
}

#[cfg(test)]
#[path = "extender/tests.rs"]
mod tests;
