//! The contract between the scheduler and its plugins: upstream's extension points, as pure functions.
//!
//! A cycle for one pod runs PreFilter and Filter (which nodes can take it), on failure PostFilter (what could be done
//! about that), else PreScore, Score and NormalizeScore (which node is best), Reserve and Permit; then, apart from the
//! cycle, PreBind and Bind, which plan API calls that the driver makes. PreEnqueue and QueueSort order what waits.
//!
//! PreFilter answers the filter, and PreScore the score: what a plugin computes once per pod lives there, and a plugin that
//! has nothing to say of a pod answers `Skip` and costs nothing per node. A filter that counted other pods is told when one
//! is thought away or added, which is what preemption tries out.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kybern_apimachinery::{Gvr, Value};
use kybern_client::{DeleteOptions, Patch};

use crate::cache::Cluster;
use crate::filters::Filters;
use crate::node::{Node, NodeInfo};
use crate::pod::PodInfo;

/// Upstream's highest score of a node by one plugin.
pub const MAX_NODE_SCORE: i64 = 100;

/// A reason as it is counted in messages: `node(s) were unschedulable`.
pub type Reason = Cow<'static, str>;

/// Whether a node can take a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fits,
    /// It could if other pods went.
    Unschedulable(Vec<Reason>),
    /// Not even if all pods went.
    Unresolvable(Vec<Reason>),
}

impl Verdict {
    /// Upstream's name of it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Fits => "Success",
            Self::Unschedulable(_) => "Unschedulable",
            Self::Unresolvable(_) => "UnschedulableAndUnresolvable",
        }
    }

    pub fn unschedulable(reason: impl Into<Reason>) -> Self {
        Self::Unschedulable(vec![reason.into()])
    }

    pub fn unresolvable(reason: impl Into<Reason>) -> Self {
        Self::Unresolvable(vec![reason.into()])
    }
}

/// The filter of one pod, with what PreFilter computed of it.
pub trait NodeFilter {
    fn check(&self, node: &NodeInfo) -> Verdict;

    /// A pod is thought onto a node (`by` is 1) or off it (-1): upstream's AddPod and RemovePod. Each undoes the other.
    fn shift(&mut self, _pod: &PodInfo, _node: &Node, _by: i64) {}
}

impl<F: Fn(&NodeInfo) -> Verdict> NodeFilter for F {
    fn check(&self, node: &NodeInfo) -> Verdict {
        self(node)
    }
}

pub type NodeScore<'a> = Box<dyn Fn(&NodeInfo) -> i64 + 'a>;

pub enum PreFilter<'a> {
    /// Every node will do.
    Skip,
    Filter(Box<dyn NodeFilter + 'a>),
    /// Only these nodes need be looked at, by name; with the filter.
    Only(BTreeSet<String>, Box<dyn NodeFilter + 'a>),
    /// No node will do.
    Reject(Reason),
}

impl<'a> PreFilter<'a> {
    /// Upstream's name of it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Skip => "Skip",
            Self::Filter(_) | Self::Only(..) => "Success",
            Self::Reject(_) => "UnschedulableAndUnresolvable",
        }
    }

    /// A filter to which other pods are what their node's [`NodeInfo`] says.
    pub fn by(filter: impl Fn(&NodeInfo) -> Verdict + 'a) -> Self {
        Self::Filter(Box::new(filter))
    }
}

pub enum PreScore<'a> {
    /// All nodes are alike.
    Skip,
    Score(NodeScore<'a>),
}

impl PreScore<'_> {
    /// Upstream's name of it.
    pub fn code(&self) -> &'static str {
        if matches!(self, Self::Skip) { "Skip" } else { "Success" }
    }
}

pub trait Plugin: Send + Sync + 'static {
    /// Upstream's name.
    fn name(&self) -> &'static str;
}

/// Whether a pod may wait among those to be scheduled at all.
pub trait PreEnqueue: Plugin {
    fn is_ready(&self, pod: &PodInfo, cluster: &Cluster) -> bool;
}

/// In which order pods that wait go.
pub trait QueueSort: Plugin {
    /// The lower goes first. `added` is when the pod began to wait.
    fn key(&self, pod: &PodInfo, added: Duration) -> SortKey;
}

pub type SortKey = (i64, Duration);

pub trait Filter: Plugin {
    fn pre_filter<'a>(&'a self, pod: &'a PodInfo, cluster: &'a Cluster) -> PreFilter<'a>;

    /// Whether a pod that this plugin rejected may fit after another has left its node. For changes of a node the
    /// filter itself is asked.
    fn may_fit_without(&self, _pod: &PodInfo, _gone: &PodInfo) -> bool {
        false
    }

    /// Whether pods that this plugin rejects may fit once another has come to a node.
    fn heeds_arrivals(&self) -> bool {
        false
    }

    /// Whether a pod that this plugin rejected may fit after another has come to a node.
    fn may_fit_with(&self, _pod: &PodInfo, _new: &PodInfo, _cluster: &Cluster) -> bool {
        false
    }

    /// Whether a pod that this plugin rejected may fit on a node that has changed. Where PreFilter is dear, a cheaper guess
    /// that never says no wrongly.
    fn may_fit_on(&self, pod: &PodInfo, node: &NodeInfo, cluster: &Cluster) -> bool {
        match self.pre_filter(pod, cluster) {
            PreFilter::Skip => true,
            PreFilter::Filter(filter) => filter.check(node) == Verdict::Fits,
            PreFilter::Only(names, filter) => names.contains(&*node.node.name) && filter.check(node) == Verdict::Fits,
            PreFilter::Reject(_) => false,
        }
    }

    /// Whether a pod that this plugin rejected may fit, on whatever node, after one has come, changed or gone.
    fn may_fit_after(&self, _pod: &PodInfo, _old: Option<&Node>, _new: Option<&Node>) -> bool {
        false
    }

    /// Whether it reads claims, volumes and storage classes.
    fn reads_storage(&self) -> bool {
        false
    }
}

/// Why no node was found, for PostFilter and for the message.
#[derive(Debug, Default)]
pub struct Diagnosis {
    /// What rejected the pod before any node was looked at.
    pub rejected: Option<Reason>,
    /// Count of nodes by reason.
    pub reasons: BTreeMap<Reason, usize>,
    /// Nodes, by index, that could take the pod if others went.
    pub resolvable: Vec<usize>,
    pub nodes: usize,
    /// Nodes that a filter rejected.
    pub rejections: usize,
    /// Bits of the filters, in the order of the chain, that rejected.
    pub plugins: u32,
    /// What PostFilter makes of it.
    pub remedy: Box<Remedy>,
}

/// What is done so that a pod that no node takes may fit later.
#[derive(Debug, Default)]
pub struct Remedy {
    /// Ends the message; empty for nothing.
    pub message: String,
    pub nomination: Nomination,
    /// To be deleted.
    pub victims: Vec<Arc<PodInfo>>,
    /// To be made, whatever becomes of the rest.
    pub calls: Vec<ApiCall>,
    /// Lose their nomination to the same node.
    pub displaced: Vec<Arc<PodInfo>>,
    /// Among which extenders have a say before [`PostFilter::choose`].
    pub candidates: Vec<Candidate>,
}

/// A node that takes a pod once others are gone.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub node: Arc<Node>,
    /// The most important first.
    pub victims: Vec<Arc<PodInfo>>,
    /// Victims whose budgets do not allow it.
    pub violations: usize,
}

impl Remedy {
    /// Upstream's name of what came of it.
    pub fn code(&self) -> &'static str {
        if matches!(self.nomination, Nomination::Node(_)) { "Success" } else { "Unschedulable" }
    }
}

/// What becomes of a pod's `status.nominatedNodeName`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Nomination {
    #[default]
    Keep,
    Clear,
    Node(Box<str>),
}

pub trait PostFilter: Plugin {
    fn post_filter(&self, filters: &mut Filters<'_>, diagnosis: &Diagnosis) -> Remedy;

    /// What is done of the candidates that the plugin named, or of what extenders made of them.
    fn choose(&self, _pod: &PodInfo, _cluster: &Cluster, _candidates: Vec<Candidate>) -> Remedy {
        Remedy::default()
    }
}

pub trait Score: Plugin {
    /// `nodes` are the feasible ones.
    fn pre_score<'a>(&'a self, pod: &'a PodInfo, cluster: &'a Cluster, nodes: &[&'a NodeInfo]) -> PreScore<'a>;

    /// Brings all scores between 0 and [`MAX_NODE_SCORE`].
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// Claims what a pod will use on its node, beyond what the cache counts.
pub trait Reserve: Plugin {
    fn reserve(&self, pod: &PodInfo, node: &NodeInfo, cluster: &Cluster) -> Result<(), Reason>;
    /// Undoes [`Reserve::reserve`]; also called for what was not reserved.
    fn unreserve(&self, pod: &PodInfo, node: &str, cluster: &Cluster);
}

/// The last word before a pod is bound.
pub trait Permit: Plugin {
    fn permit(&self, pod: &PodInfo, node: &NodeInfo, cluster: &Cluster, now: Duration) -> Permission;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    Allow,
    /// The pod keeps its node until [`crate::core::Core::allow`], but at most so long.
    Wait(Duration),
    /// The pod waits, and it is the turn of these, by their uids.
    Gather(Duration, Vec<Box<str>>),
    /// The pod may go, and with it these that the plugin holds.
    AllowAll(Vec<Box<str>>),
    Reject(Reason),
}

/// One call to the API, made by the driver.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiCall {
    pub gvr: Gvr,
    pub namespace: String,
    pub name: String,
    pub verb: Verb,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Verb {
    Post { subresource: &'static str, body: Value },
    Patch { subresource: Option<&'static str>, patch: Patch },
    Delete(DeleteOptions),
}

/// What must be done before a pod is bound; may be done again after a failure.
pub trait PreBind: Plugin {
    fn pre_bind(&self, pod: &PodInfo, node: &str, cluster: &Cluster) -> Vec<ApiCall>;

    /// Whether others must act before the pod can be bound: it then keeps its node as a nomination, its calls are made, and
    /// it is tried again once what its filters read has changed.
    fn waits(&self, _pod: &PodInfo, _cluster: &Cluster) -> bool {
        false
    }
}

/// How a pod is bound; the first plugin that answers does it.
pub trait Bind: Plugin {
    fn bind(&self, pod: &PodInfo, node: &str) -> Option<ApiCall>;
}

/// Scales scores to [`MAX_NODE_SCORE`] by the highest; `reverse` where less is better.
pub fn normalize_by_max(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if max == 0 { 0 } else { *score * MAX_NODE_SCORE / max };
        *score = if reverse { MAX_NODE_SCORE - scaled } else { scaled };
    }
}
