//! How many pods a budget is about: what the controllers of its pods are to have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kybern_api::core::v1::Pod;
use kybern_api::meta::v1::OwnerReference;
use kybern_api::policy::v1::PodDisruptionBudget;
use kybern_api::scaled::{Round, scaled_value};
use kybern_api::{IntOrString, Object, owner};
use kybern_apimachinery::object;
use kybern_apimachinery::percent::encode;

use crate::ask::{Answer, Ask};
use crate::snapshot::Snapshot;

/// What a budget expects and wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) pods: i32,
    pub(super) healthy: i32,
    pub(super) has_unmanaged: bool,
}

/// Why it is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) message: String,
    /// Asking again does not help.
    pub(super) is_lasting: bool,
}

/// What is known before the server is asked.
#[derive(Clone, Debug)]
pub(super) enum Expecting {
    Pods(Expected),
    /// The wished size of every controller by its uid, and of those that no store holds, how to learn it.
    Controllers {
        sizes: BTreeMap<String, i32>,
        asked: Vec<Asked>,
        has_unmanaged: bool,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// One that it controls.
    pod: String,
    uid: String,
    path: String,
    resource: String,
    /// The object is there, whether or not it has a scale.
    exists: bool,
}

/// Begins to count. The error is told in the budget's status.
pub(super) fn expect(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    snapshot: &Snapshot,
) -> Result<Expecting, String> {
    let spec = budget.spec.as_ref();
    match (spec.and_then(|s| s.max_unavailable.as_ref()), spec.and_then(|s| s.min_available.as_ref())) {
        (None, None) => return Ok(Expecting::Pods(Expected::default())),
        (None, Some(IntOrString::Int(healthy))) => {
            let pods = i32::try_from(pods.len()).unwrap_or(i32::MAX);
            return Ok(Expecting::Pods(Expected { pods, healthy: *healthy, has_unmanaged: false }));
        }
        _ => {}
    }
    let (mut sizes, mut asked, mut has_unmanaged, mut seen) = (BTreeMap::new(), Vec::new(), false, BTreeSet::new());
    for pod in pods {
        let Some(reference) = owner::controller_of(&pod.metadata) else {
            has_unmanaged = true;
            continue;
        };
        if !seen.insert(reference.uid.as_str()) {
            continue;
        }
        match size_in_stores(reference, pod.namespace(), snapshot) {
            Some((uid, size)) => {
                sizes.insert(uid, size);
            }
            None => asked.push(question(reference, pod, snapshot)?),
        }
    }
    Ok(Expecting::Controllers { sizes, asked, has_unmanaged })
}

fn question(reference: &OwnerReference, pod: &Pod, snapshot: &Snapshot) -> Result<Asked, String> {
    let OwnerReference { api_version, kind, name, uid, .. } = reference;
    let found = snapshot.inventory.resource_of_kind(api_version, kind);
    let found = found.ok_or_else(|| format!("no matches for kind {kind:?} in version {api_version:?}"))?;
    let gvr = &found.resource.gvr;
    let namespace = if found.resource.namespaced { pod.namespace() } else { "" };
    let there = found.store.get(&object::key_of(namespace, name));
    Ok(Asked {
        pod: pod.name().to_owned(),
        uid: uid.clone(),
        // The name may be anything: nobody has checked what a pod calls its owner.
        path: format!("{}/{}/scale", gvr.path(Some(namespace)), encode(name, b"")),
        resource: gvr.group_resource().to_string(),
        exists: there.is_some_and(|there| *there.uid == **uid),
    })
}

/// The uid and wished size of the controller, or of the Deployment above it.
fn size_in_stores(reference: &OwnerReference, namespace: &str, snapshot: &Snapshot) -> Option<(String, i32)> {
    let group = |reference: &OwnerReference| match reference.api_version.split_once('/') {
        Some((group @ ("apps" | "extensions"), _)) => Some(group.to_owned()),
        Some(_) => None,
        None => Some(String::new()),
    };
    let found =
        |uid: &str, wanted: &str, size: Option<i32>| (uid == wanted).then(|| (uid.to_owned(), size.unwrap_or(1)));
    let (name, uid) = (&reference.name, &reference.uid);
    match (group(reference)?.as_str(), reference.kind.as_str()) {
        ("", "ReplicationController") => {
            let controller = snapshot.replication_controllers.get_in(namespace, name)?;
            found(controller.uid(), uid, controller.spec.as_ref().and_then(|s| s.replicas))
        }
        ("apps" | "extensions", "ReplicaSet") => {
            let set = snapshot.replica_sets.get_in(namespace, name)?;
            match owner::controller_of(&set.metadata).filter(|above| above.kind == "Deployment") {
                Some(above) if set.uid() == uid => {
                    group(above).filter(|group| !group.is_empty())?;
                    let deployment = snapshot.deployments.get_in(namespace, &above.name)?;
                    found(deployment.uid(), &above.uid, deployment.spec.as_ref().and_then(|s| s.replicas))
                }
                _ => found(set.uid(), uid, set.spec.as_ref().and_then(|s| s.replicas)),
            }
        }
        ("apps", "StatefulSet") => {
            let set = snapshot.stateful_sets.get_in(namespace, name)?;
            found(set.uid(), uid, set.spec.as_ref().and_then(|s| s.replicas))
        }
        _ => None,
    }
}

impl Expecting {
    pub(super) fn asks(&self) -> Vec<Ask> {
        match self {
            Self::Pods(_) => Vec::new(),
            Self::Controllers { asked, .. } => asked.iter().map(|asked| Ask::Get(asked.path.clone())).collect(),
        }
    }

    /// The whole count, with the server's answers.
    pub(super) fn count(self, budget: &PodDisruptionBudget, answers: Vec<Answer>) -> Result<Expected, Unknown> {
        let (mut sizes, asked, has_unmanaged) = match self {
            Self::Pods(expected) => return Ok(expected),
            Self::Controllers { sizes, asked, has_unmanaged } => (sizes, asked, has_unmanaged),
        };
        let lasting = |message| Unknown { message, is_lasting: true };
        for (asked, answer) in asked.into_iter().zip(answers) {
            let Asked { pod, uid, resource, exists, .. } = asked;
            let none = || lasting(format!("found no controllers for pod {pod:?}"));
            let scale = answer.map_err(|refusal| match (refusal.not_found, exists) {
                (true, true) => lasting(format!("{resource} does not implement the scale subresource")),
                (true, false) => none(),
                (false, _) => Unknown { message: refusal.message, is_lasting: false },
            })?;
            if object::uid(&scale) != uid {
                return Err(none());
            }
            let size = scale["spec"]["replicas"].as_i64().unwrap_or(0);
            sizes.insert(uid, i32::try_from(size).unwrap_or(i32::MAX));
        }
        let pods = sizes.values().fold(0, |sum: i32, size| sum.saturating_add(*size));
        let of_all = |value: &IntOrString| scaled_value(value, pods, Round::Up).map_err(lasting);
        let spec = budget.spec.as_ref();
        let healthy = match spec.and_then(|s| s.max_unavailable.as_ref()) {
            Some(unavailable) => pods.saturating_sub(of_all(unavailable)?).max(0),
            None => spec.and_then(|s| s.min_available.as_ref()).map_or(Ok(0), of_all)?,
        };
        Ok(Expected { pods, healthy, has_unmanaged })
    }
}
