//! What goes over the wire (`k8s.io/kube-scheduler/extender/v1`). The types there have no JSON names, and Go reads any case:
//! extenders in the field answer `NodeNames`, `nodeNames` or `nodenames`.

use std::collections::BTreeMap;

use bytes::Bytes;
use kybern_apimachinery::json;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::cut;
use crate::framework::Candidate;
use crate::node::Node;
use crate::pod::PodInfo;

/// Reads what begins an answer; what follows is nobody's concern, as it is none of Go's.
pub(super) fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, String> {
    T::deserialize(&mut serde_json::Deserializer::from_slice(answer)).map_err(|e| e.to_string())
}

/// The nodes of a question, by name or as they are.
pub(super) enum Nodes<'a> {
    Names(Vec<&'a str>),
    Whole(Vec<&'a [u8]>),
}

/// `ExtenderArgs`.
pub(super) fn args(pod: &[u8], nodes: &Nodes<'_>) -> Bytes {
    let mut body = Vec::with_capacity(pod.len() + 64);
    body.extend_from_slice(b"{\"Pod\":");
    body.extend_from_slice(pod);
    match nodes {
        Nodes::Names(names) => {
            body.extend_from_slice(b",\"Nodes\":null,\"NodeNames\":");
            body.extend_from_slice(json!(names).to_string().as_bytes());
        }
        Nodes::Whole(list) => {
            body.reserve(list.iter().map(|node| node.len() + 1).sum());
            body.extend_from_slice(b",\"Nodes\":{\"metadata\":{},\"items\":[");
            join(&mut body, list);
            body.extend_from_slice(b"]},\"NodeNames\":null");
        }
    }
    body.push(b'}');
    body.into()
}

fn join(body: &mut Vec<u8>, list: &[impl AsRef<[u8]>]) {
    for (n, item) in list.iter().enumerate() {
        if n > 0 {
            body.push(b',');
        }
        body.extend_from_slice(item.as_ref());
    }
}

/// `ExtenderPreemptionArgs`. `whole` has every victim as it is, by uid, for one that is not content with uids.
pub(super) fn preemption_args(
    pod: &[u8],
    candidates: &[Candidate],
    whole: Option<&BTreeMap<Box<str>, Vec<u8>>>,
) -> Bytes {
    let mut body = b"{\"Pod\":".to_vec();
    body.extend_from_slice(pod);
    body.extend_from_slice(match whole {
        Some(_) => b",\"NodeNameToMetaVictims\":null,\"NodeNameToVictims\":{",
        None => b",\"NodeNameToVictims\":null,\"NodeNameToMetaVictims\":{",
    });
    let entries: Vec<Vec<u8>> = candidates
        .iter()
        .map(|candidate| {
            let mut entry = format!("{}:{{\"Pods\":[", json!(candidate.node.name)).into_bytes();
            let uid = |pod: &PodInfo| json!({"UID": pod.uid}).to_string().into_bytes();
            let pods = candidate.victims.iter();
            let pods: Vec<Vec<u8>> = match whole {
                Some(whole) => pods.filter_map(|pod| whole.get(&pod.uid).cloned()).collect(),
                None => pods.map(|pod| uid(pod)).collect(),
            };
            join(&mut entry, &pods);
            entry.extend_from_slice(format!("],\"NumPDBViolations\":{}}}", candidate.violations).as_bytes());
            entry
        })
        .collect();
    join(&mut body, &entries);
    body.extend_from_slice(b"}}");
    body.into()
}

/// `ExtenderBindingArgs`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct BindingArgs<'a> {
    pod_name: &'a str,
    pod_namespace: &'a str,
    #[serde(rename = "PodUID")]
    pod_uid: &'a str,
    node: &'a str,
}

pub(super) fn binding_args(pod: &PodInfo, node: &str) -> Bytes {
    let args = BindingArgs { pod_name: &pod.name, pod_namespace: &pod.namespace, pod_uid: &pod.uid, node };
    serde_json::to_vec(&args).unwrap_or_default().into()
}

/// `ExtenderFilterResult`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct FilterResult {
    #[serde(alias = "nodes")]
    nodes: Option<NodeList>,
    #[serde(alias = "nodeNames", alias = "nodenames")]
    node_names: Option<Vec<String>>,
    #[serde(alias = "failedNodes", alias = "failednodes")]
    failed_nodes: Option<BTreeMap<String, String>>,
    #[serde(alias = "failedAndUnresolvableNodes", alias = "failedandunresolvablenodes")]
    failed_and_unresolvable_nodes: Option<BTreeMap<String, String>>,
    #[serde(alias = "error")]
    error: Option<String>,
}

/// Of nodes only the names are read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeList {
    #[serde(alias = "Items")]
    items: Option<Vec<NamedNode>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NamedNode {
    metadata: Named,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
}

/// What one extender says of the nodes it was asked about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Filtered {
    pub fit: Vec<String>,
    /// Why not, and whether it would help if other pods went.
    pub failed: BTreeMap<String, (String, bool)>,
}

impl FilterResult {
    pub(super) fn verdict(self, knows_nodes: bool) -> Result<Filtered, String> {
        if let Some(error) = self.error.filter(|error| !error.is_empty()) {
            return Err(cut(error));
        }
        let listed = self.nodes.and_then(|nodes| nodes.items);
        let fit = match self.node_names.filter(|_| knows_nodes) {
            Some(names) => names,
            None => listed.unwrap_or_default().into_iter().map(|node| node.metadata.name).collect(),
        };
        let with = |map: Option<BTreeMap<String, String>>, helps: bool| {
            map.unwrap_or_default().into_iter().map(move |(name, why)| (name, (cut(why), helps)))
        };
        // Those of the second replace those of the first.
        let failed = with(self.failed_nodes, true).chain(with(self.failed_and_unresolvable_nodes, false));
        Ok(Filtered { fit, failed: failed.collect() })
    }
}

/// `HostPriority`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct HostPriority {
    #[serde(alias = "host")]
    pub host: String,
    #[serde(alias = "score")]
    pub score: i64,
}

/// `ExtenderBindingResult`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct BindingResult {
    #[serde(rename = "Error", alias = "error")]
    error: Option<String>,
}

impl BindingResult {
    pub(super) fn verdict(self) -> Result<(), String> {
        self.error.filter(|error| !error.is_empty()).map_or(Ok(()), |error| Err(cut(error)))
    }
}

/// `ExtenderPreemptionResult`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PreemptionResult {
    #[serde(rename = "NodeNameToMetaVictims", alias = "nodeNameToMetaVictims", alias = "nodenametometavictims")]
    victims: Option<BTreeMap<String, Option<MetaVictims>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MetaVictims {
    #[serde(rename = "Pods", alias = "pods")]
    pods: Option<Vec<MetaPod>>,
    #[serde(rename = "NumPDBViolations", alias = "numPDBViolations", alias = "numpdbviolations")]
    violations: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MetaPod {
    #[serde(rename = "UID", alias = "uid")]
    uid: String,
}

impl PreemptionResult {
    pub(super) fn proposals(self) -> Vec<(String, Vec<String>, usize)> {
        let proposal = |(node, victims): (String, Option<MetaVictims>)| {
            let MetaVictims { pods, violations } = victims.unwrap_or_default();
            let uids = pods.unwrap_or_default().into_iter().map(|pod| pod.uid).collect();
            (node, uids, usize::try_from(violations).unwrap_or(0))
        };
        self.victims.unwrap_or_default().into_iter().map(proposal).collect()
    }
}

/// A node as the API has it, for extenders that keep none.
pub(super) fn without_managed_fields(mut object: kybern_apimachinery::Value) -> Vec<u8> {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    object.to_string().into_bytes()
}

/// The names of nodes.
pub(super) fn names(nodes: &[std::sync::Arc<Node>]) -> Nodes<'_> {
    Nodes::Names(nodes.iter().map(|node| &*node.name).collect())
}
