//! `local-path-provisioner`: volumes that are folders of a node, made for claims of the provisioner `kybern.io/local-path`.
//!
//! To the binder it is a provisioner as any other. A node says in an annotation where its volumes lie; its kubelet makes the
//! folder when the first pod mounts it, and removes it when it is asked to, before the volume is let go.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use kybern_api::core::v1::{
    LocalVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume,
    PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use kybern_api::meta::v1::ObjectMeta;
use kybern_api::storage::v1::StorageClass;
use kybern_api::{Object, condition};

use super::persistent_volume_binder::{
    PROVISIONED_BY, PROVISIONER, SELECTED_NODE, annotation, claim_is_gone, claim_ref, claim_uid, class_of_claim, phase,
    policy, reference, volume_name,
};
use crate::controller::{Context, Controller, Op, Plan, Verb};
use crate::snapshot::{NODE, Snapshot};
use crate::watches::Watches;

const NAME: &str = "kybern.io/local-path";
/// On a node: the directory that its volumes lie in.
const DIRECTORY: &str = "local-path.kybern.io/directory";
/// On a volume: the name of its node.
const NODE_NAME: &str = "local-path.kybern.io/node";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Keeps a volume until its data is gone, as all provisioners outside the controller manager do.
const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

pub struct LocalPathProvisioner;

impl Controller for LocalPathProvisioner {
    fn name(&self) -> &'static str {
        "local-path-provisioner-controller"
    }

    fn component(&self) -> &'static str {
        NAME
    }

    fn account(&self) -> &'static str {
        "local-path-provisioner"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.claims);
        watches.primary(&snapshot.volumes);
        watches.on(&snapshot.nodes, |change, snapshot| {
            // Those that wait for their node to come back, or that it goes for good.
            let of = |node: &Option<_>| node.as_ref().map(|node: &std::sync::Arc<Node>| is_ready(node));
            if change.new.is_some() && of(&change.old) == of(&change.new) {
                return Vec::new();
            }
            snapshot.volumes.by_index(NODE, change.object().name()).iter().map(|v| v.name().to_owned()).collect()
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        if key.contains('/') {
            snapshot.claims.get(key).map_or_else(Plan::idle, |claim| provision(&claim, snapshot, context))
        } else {
            snapshot.volumes.get(key).map_or_else(Plan::idle, |volume| reclaim(&volume, snapshot, context))
        }
    }
}

fn provision(claim: &PersistentVolumeClaim, snapshot: &Snapshot, context: &Context) -> Plan {
    let asked = annotation(&claim.metadata, PROVISIONER) == Some(NAME);
    if !asked || claim.is_deleting() || !volume_name(claim).is_empty() {
        return Plan::idle();
    }
    let class = snapshot.storage_classes.get(class_of_claim(claim)).filter(|class| class.provisioner == NAME);
    let Some(class) = class.filter(|_| snapshot.volumes.get(&name_for(claim)).is_none()) else { return Plan::idle() };
    let failed = |cause: &str| {
        let message = format!("failed to provision volume with StorageClass {:?}: {cause}", class.name());
        Op::warning(claim, "ProvisioningFailed", message)
    };
    if let Some(cause) = unsuitable(claim, &class) {
        return Plan::of(vec![failed(&cause)]);
    }
    let Some(selected) = annotation(&claim.metadata, SELECTED_NODE) else {
        let cause = "no node was specified: the volumeBindingMode of the class has to be WaitForFirstConsumer";
        return Plan::of(vec![failed(cause)]);
    };
    let found = snapshot.nodes.get(selected).ok_or_else(|| format!("node {selected:?} not found"));
    match found.and_then(|node| volume(claim, &class, &node)) {
        Ok(volume) => {
            let message = format!("Successfully provisioned volume {}", volume.name());
            let failure = context.failure.as_ref().filter(|failure| failure.verb == Verb::Create);
            let told = failure.map(|failure| failed(&failure.message));
            let done = [Op::create(&volume), Op::normal(claim, "ProvisioningSucceeded", message)];
            Plan::of(told.into_iter().chain(done).collect())
        }
        Err(cause) => {
            // The scheduler is to look for another.
            let mut new = claim.clone();
            new.metadata.annotations.get_or_insert_default().remove(SELECTED_NODE);
            Plan::of(vec![failed(&cause), Op::update(&new)])
        }
    }
}

/// No two claims have one uid: what is made for one is never another's.
fn name_for(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.uid())
}

/// Why no folder can be what is claimed.
fn unsuitable(claim: &PersistentVolumeClaim, class: &StorageClass) -> Option<String> {
    let spec = claim.spec.clone().unwrap_or_default();
    let of_one_node = |mode: &String| matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod");
    if !spec.access_modes.iter().flatten().all(of_one_node) {
        return Some("only the access modes ReadWriteOnce and ReadWriteOncePod are supported".to_owned());
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Some("only the volumeMode Filesystem is supported".to_owned());
    }
    if spec.selector.is_some() {
        return Some("claim.Spec.Selector is not supported".to_owned());
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Some("a data source is not supported".to_owned());
    }
    let options = class.mount_options.as_deref().unwrap_or_default();
    (!options.is_empty()).then(|| {
        format!(
            "Mount options are not supported by the provisioner but StorageClass {:?} has mount options [{}]",
            class.name(),
            options.join(" ")
        )
    })
}

/// The volume of a claim on a node.
fn volume(claim: &PersistentVolumeClaim, class: &StorageClass, node: &Node) -> Result<PersistentVolume, String> {
    let name = name_for(claim);
    let Some(directory) = annotation(&node.metadata, DIRECTORY).filter(|path| path.starts_with('/')) else {
        return Err(format!("node {:?} has no directory for volumes (annotation {DIRECTORY})", node.name()));
    };
    let Some(hostname) = node.labels().and_then(|labels| labels.get(HOSTNAME)) else {
        return Err(format!("node {:?} has no label {HOSTNAME}", node.name()));
    };
    let spec = claim.spec.clone().unwrap_or_default();
    let policy = class.reclaim_policy.as_deref().unwrap_or("Delete");
    let storage = spec.resources.and_then(|resources| resources.requests?.remove("storage"));
    let own_node = NodeSelectorRequirement {
        key: HOSTNAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![hostname.clone()]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![own_node]), match_fields: None };
    let annotations = [(PROVISIONED_BY, NAME), (NODE_NAME, node.name())];
    Ok(PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            annotations: Some(annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            finalizers: (policy == "Delete").then(|| vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: storage.map(|storage| BTreeMap::from([("storage".to_owned(), storage)])),
            claim_ref: Some(reference(claim)),
            local: Some(LocalVolumeSource {
                path: format!("{}/{name}", directory.trim_end_matches('/')),
                fs_type: None,
            }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector { node_selector_terms: vec![term] }),
            }),
            persistent_volume_reclaim_policy: Some(policy.to_owned()),
            storage_class_name: Some(class.name().to_owned()),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    })
}

/// Removes the data of a volume that nobody claims any more, then the volume.
fn reclaim(volume: &PersistentVolume, snapshot: &Snapshot, context: &Context) -> Plan {
    if !is_own(volume) {
        return Plan::idle();
    }
    let held = volume.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
    let let_go = || {
        let mut new = volume.clone();
        new.metadata.finalizers.get_or_insert_default().retain(|finalizer| finalizer != FINALIZER);
        Op::update(&new)
    };
    if policy(volume) != "Delete" {
        // What is retained may be deleted as an object. Its data stays.
        return if held && volume.is_deleting() { Plan::of(vec![let_go()]) } else { Plan::idle() };
    }
    let released = matches!(phase(volume), "Released" | "Failed");
    let unused = volume.is_deleting() && phase(volume) != "Bound";
    if !released && !unused {
        return Plan::idle();
    }
    let mut ops = Vec::new();
    match claim_of(volume, snapshot) {
        Some(claim) if volume_name(&claim) == volume.name() => return Plan::idle(),
        // It has another volume, which it keeps.
        Some(claim) if !volume_name(&claim).is_empty() => {}
        _ if claim_ref(volume).is_none() => {}
        _ => ops.push(claim_is_gone(volume)),
    }
    if let Some(failure) = context.failure.as_ref().filter(|failure| failure.verb == Verb::Delete) {
        ops.push(Op::warning(volume, "VolumeFailedDelete", failure.message.clone()));
    }
    // With a node that was removed its disk went, too.
    let node = node_of(volume);
    if let Some(found) = snapshot.nodes.get(node) {
        // It would not answer, and others would wait meanwhile.
        if !is_ready(&found) {
            let message = format!("the data is on node {node:?}, which is not ready");
            return Plan::of(vec![Op::warning(volume, "VolumeFailedDelete", message)]);
        }
        ops.push(Op::DeleteAtNode { node: node.to_owned(), path: format!("volumes/{}", volume.name()) });
    }
    if held {
        ops.push(let_go());
    }
    if !volume.is_deleting() {
        ops.push(Op::delete(volume));
    }
    Plan::of(ops)
}

fn node_of(volume: &PersistentVolume) -> &str {
    annotation(&volume.metadata, NODE_NAME).unwrap_or("")
}

fn is_ready(node: &Node) -> bool {
    node.status.as_ref().is_some_and(|status| condition::is_true(&status.conditions, "Ready"))
}

/// Index [`NODE`] of volumes: the node that holds what was made here.
pub(crate) fn nodes_of(volume: &PersistentVolume) -> Vec<String> {
    Some(node_of(volume).to_owned()).filter(|node| !node.is_empty() && is_own(volume)).into_iter().collect()
}

/// Whether a volume was made here.
pub(super) fn is_own(volume: &PersistentVolume) -> bool {
    annotation(&volume.metadata, PROVISIONED_BY) == Some(NAME)
}

/// The very claim that the volume is for.
fn claim_of(volume: &PersistentVolume, snapshot: &Snapshot) -> Option<std::sync::Arc<PersistentVolumeClaim>> {
    let reference = claim_ref(volume)?;
    let claim = snapshot.claims.get_in(reference.namespace.as_deref()?, reference.name.as_deref()?)?;
    (claim.uid() == claim_uid(reference)).then_some(claim)
}
