//! Asks extenders what the core wants to know of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use kybern_api::core::v1::{Node as ApiNode, Pod};
use kybern_api::{DecodeError, Object};
use kybern_apimachinery::{Value, object};
use kybern_client::store::Cached;
use kybern_client::{Client, ClientError, Informer, ListOptions, Store};
use tokio::task::JoinSet;
use tracing::info;

use super::wire::{self, BindingResult, FilterResult, HostPriority, Nodes, PreemptionResult};
use super::{Answer, Bits, Extender, Extenders, Places, Question};
use crate::framework::{Candidate, MAX_NODE_SCORE};
use crate::node::Node;
use crate::pod::PodInfo;

/// The highest score that extenders are to give.
const MAX_EXTENDER_SCORE: i64 = 10;

/// Victims that are read at once, for an extender that wants to see them.
const READS_AT_ONCE: usize = 8;

pub struct Asker {
    client: Client,
    extenders: Extenders,
    /// Only where an extender wants to see them.
    nodes: Option<Store<Whole>>,
}

/// A node as the API has it.
pub struct Whole {
    name: Box<str>,
    resource_version: Box<str>,
    json: Box<[u8]>,
}

impl Cached for Whole {
    fn decode(json: &[u8]) -> Result<Self, DecodeError> {
        let node: Value =
            serde_json::from_slice(json).map_err(|e| DecodeError { kind: ApiNode::KIND, cause: e.to_string() })?;
        let (name, resource_version) = (object::name(&node).into(), object::resource_version(&node).into());
        Ok(Self { name, resource_version, json: wire::without_managed_fields(node).into() })
    }
    fn key(&self) -> String {
        self.name.to_string()
    }
    fn resource_version(&self) -> &str {
        &self.resource_version
    }
}

/// One extender's word on nodes, by name.
type Scores = HashMap<String, i64>;

impl Asker {
    /// Synced once the nodes that extenders want to see are listed.
    pub async fn new(client: Client, extenders: Extenders) -> Self {
        let nodes = (extenders.bits(Extender::reads_nodes) != 0)
            .then(|| Informer::<Whole>::of(client.clone(), &ApiNode::gvr(), ListOptions::default()).spawn());
        if let Some(nodes) = &nodes {
            nodes.synced().await;
        }
        Self { client, extenders, nodes }
    }

    pub async fn ask(&self, pod: &PodInfo, interested: Bits, question: Question) -> Answer {
        let shown = match self.whole_pod(pod).await {
            Ok(Some(shown)) => shown,
            Ok(None) => return Answer::Gone,
            Err(error) => return Answer::Failed(format!("cannot read the pod for extenders: {error}")),
        };
        let answer = match question {
            Question::Places(nodes) => self.places(interested, &shown, nodes).await.map(Answer::Places),
            Question::Victims { extender, candidates } => {
                self.victims(extender, &shown, &candidates).await.map(Answer::Victims)
            }
        };
        answer.unwrap_or_else(Answer::Failed)
    }

    /// Has the extender bind a pod; `None` where that failed and it need not be it that does it.
    pub async fn bind(&self, extender: usize, pod: &PodInfo, node: &str) -> Option<Result<(), String>> {
        let (_, extender) = self.extenders.among(1 << extender).next()?;
        let answer = extender.bind.as_ref()?.post::<BindingResult>(wire::binding_args(pod, node)).await;
        match answer.and_then(BindingResult::verdict) {
            Err(error) if extender.is_ignorable => {
                info!(extender = extender.url, pod = %pod.name, namespace = %pod.namespace, "the extender did not bind: {error}");
                None
            }
            result => Some(result),
        }
    }

    /// A pod as the API has it; `None` where it is no more, or is bound.
    async fn whole_pod(&self, pod: &PodInfo) -> Result<Option<Vec<u8>>, ClientError> {
        match self.client.raw(&Pod::gvr()).get(&pod.namespace, &pod.name).await {
            Ok(read) => {
                let waits = *object::uid(&read) == *pod.uid && object::str_at(&read, &["spec", "nodeName"]).is_empty();
                Ok(waits.then(|| wire::without_managed_fields(read)))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Which of the nodes take the pod, one extender after the other, and how good each is, of all extenders at once.
    async fn places(&self, interested: Bits, pod: &[u8], nodes: Vec<Arc<Node>>) -> Result<Places, String> {
        let mut places = Places::default();
        let mut left = nodes;
        for (_, extender) in self.extenders.among(interested) {
            let Some(verb) = extender.filter.as_ref().filter(|_| !left.is_empty()) else { continue };
            let answer = verb.post::<FilterResult>(self.args(extender, pod, &left)).await;
            let answer = answer.and_then(|answer| answer.verdict(extender.knows_nodes));
            let mut verdict = match answer {
                Ok(verdict) => verdict,
                Err(error) if extender.is_ignorable => {
                    info!(extender = extender.url, "the extender is ignored: {error}");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut asked: HashMap<Box<str>, Arc<Node>> =
                left.into_iter().map(|node| (node.name.clone(), node)).collect();
            left = Vec::with_capacity(verdict.fit.len().min(asked.len()));
            verdict.fit.sort_unstable();
            verdict.fit.dedup();
            for name in verdict.fit {
                let Some(node) = asked.remove(name.as_str()) else {
                    let url = &extender.url;
                    let text = format!(
                        "extender {url:?} claims a filtered node {name:?} which is not found in the input node list"
                    );
                    return Err(super::cut(text));
                };
                left.push(node);
            }
            places.rejected.extend(asked.into_values().map(|node| match verdict.failed.remove(&*node.name) {
                Some((why, helps)) => (node, Some(why.into()), helps),
                // Of which it says nothing, upstream takes preemption not to help either.
                None => (node, None, false),
            }));
        }
        let mut scores = Scores::new();
        if left.len() > 1 {
            scores = self.scores(interested, pod, &left).await;
        }
        let scored = |node: Arc<Node>| (scores.get(&*node.name).copied().unwrap_or(0), node);
        places.fit = left.into_iter().map(scored).collect();
        Ok(places)
    }

    /// What extenders add to the scores of nodes. One that fails adds nothing.
    async fn scores(&self, interested: Bits, pod: &[u8], nodes: &[Arc<Node>]) -> Scores {
        let mut asked = JoinSet::new();
        for (_, extender) in self.extenders.among(interested).filter(|(_, extender)| extender.prioritize.is_some()) {
            let (extender, body) = (extender.clone(), self.args(extender, pod, nodes));
            asked.spawn(async move {
                match extender.prioritize.as_ref()?.post::<Option<Vec<HostPriority>>>(body).await {
                    Ok(list) => Some((extender.weight, list.unwrap_or_default())),
                    Err(error) => {
                        info!(extender = extender.url, "the extender gives no scores: {error}");
                        None
                    }
                }
            });
        }
        let mut scores = Scores::new();
        while let Some(answer) = asked.join_next().await {
            let Ok(Some((weight, list))) = answer else { continue };
            for HostPriority { host, score } in list {
                let more = score.saturating_mul(weight).saturating_mul(MAX_NODE_SCORE / MAX_EXTENDER_SCORE);
                let sum = scores.entry(host).or_insert(0);
                *sum = sum.saturating_add(more);
            }
        }
        scores
    }

    fn args(&self, extender: &Extender, pod: &[u8], nodes: &[Arc<Node>]) -> Bytes {
        let Some(whole) = self.nodes.as_ref().filter(|_| !extender.knows_nodes) else {
            return wire::args(pod, &wire::names(nodes));
        };
        // One that this watch has not seen yet is not asked about.
        let kept: Vec<Arc<Whole>> = nodes.iter().filter_map(|node| whole.get(&node.name)).collect();
        wire::args(pod, &Nodes::Whole(kept.iter().map(|node| &*node.json).collect()))
    }

    async fn victims(
        &self,
        extender: usize,
        pod: &[u8],
        candidates: &[Candidate],
    ) -> Result<Vec<(String, Vec<String>, usize)>, String> {
        let Some((_, extender)) = self.extenders.among(1 << extender).next() else { return Ok(Vec::new()) };
        let Some(verb) = &extender.preempt else { return Ok(Vec::new()) };
        let body = match extender.knows_nodes {
            true => wire::preemption_args(pod, candidates, None),
            false => wire::preemption_args(pod, candidates, Some(&self.whole_victims(candidates).await?)),
        };
        verb.post::<PreemptionResult>(body).await.map(PreemptionResult::proposals)
    }

    /// The victims as the API has them, by uid; without those that are gone.
    async fn whole_victims(&self, candidates: &[Candidate]) -> Result<BTreeMap<Box<str>, Vec<u8>>, String> {
        let victims: Vec<&Arc<PodInfo>> = candidates.iter().flat_map(|candidate| &candidate.victims).collect();
        let mut found = BTreeMap::new();
        for some in victims.chunks(READS_AT_ONCE) {
            let mut reads = JoinSet::new();
            for victim in some.iter().map(|victim| (*victim).clone()) {
                let client = self.client.clone();
                reads
                    .spawn(async move { (client.raw(&Pod::gvr()).get(&victim.namespace, &victim.name).await, victim) });
            }
            for (read, victim) in reads.join_all().await {
                match read {
                    Ok(read) if object::uid(&read) == &*victim.uid => {
                        found.insert(victim.uid.clone(), wire::without_managed_fields(read));
                    }
                    Err(error) if !error.is_not_found() => {
                        return Err(format!("cannot read the pod {} for an extender: {error}", victim.key()));
                    }
                    _ => {}
                }
            }
        }
        Ok(found)
    }
}
