//! `attachdetach`: says in VolumeAttachments which volumes of CSI drivers belong on which nodes (`pkg/controller/volume/attachdetach`).
//! The drivers' external attachers do it; a node reads in its own status what it may mount.
//!
//! Keys are nodes. A volume that no pod of the node needs any more is first taken out of the node's status, then detached, once
//! the node has let it go.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kybern_api::core::v1::{AttachedVolume, CSIPersistentVolumeSource, Node, PersistentVolume, Pod};
use kybern_api::meta::v1::ObjectMeta;
use kybern_api::storage::v1::{VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use kybern_api::{Object, condition};
use kybern_apimachinery::json;
use kybern_client::Patch;

use super::persistent_volume_binder::{annotation, claim_ref, claim_uid, volume_name};
use crate::controller::{Context, Controller, Failure, Op, Plan, Verb};
use crate::pods;
use crate::snapshot::{CLAIM, NODE, Snapshot, VOLUME};
use crate::watches::Watches;

/// On a node: it leaves attaching to this controller.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// How the volumes of CSI drivers are named in a node's status: this, the driver, `^` and the driver's own name.
const PREFIX: &str = "kubernetes.io/csi/";
/// How long a node that does not answer may still be writing to a volume.
const UNMOUNT_MAX: Duration = Duration::from_secs(6 * 60);
/// How long an attacher may take before it is told.
const ATTACH_MAX: Duration = Duration::from_secs(2 * 60);

pub struct AttachDetachController;

impl Controller for AttachDetachController {
    fn name(&self) -> &'static str {
        "persistentvolume-attach-detach-controller"
    }

    fn component(&self) -> &'static str {
        "attachdetach-controller"
    }

    fn account(&self) -> &'static str {
        "attachdetach-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.nodes);
        watches.on(&snapshot.pods, |change, _| {
            let pods = [&change.old, &change.new].into_iter().flatten().filter(|pod| !pods::claims(pod).is_empty());
            pods.map(|pod| pods::node_name(pod).to_owned()).filter(|node| !node.is_empty()).collect()
        });
        watches.on(&snapshot.claims, |change, snapshot| {
            let volume = |claim: &Option<Arc<_>>| claim.as_ref().map(|claim| volume_name(claim).to_owned());
            let moved = volume(&change.old) != volume(&change.new);
            if moved { nodes_of_claim(&change.object().key(), snapshot) } else { Vec::new() }
        });
        watches.on(&snapshot.volumes, |change, snapshot| nodes_of_volume(change.object(), snapshot));
        watches.on(&snapshot.volume_attachments, |change, snapshot| {
            let mut nodes = vec![change.object().spec.node_name.clone()];
            // Others may wait for it to be detached.
            if change.new.is_none()
                && let Some(volume) = volume_of(change.object()).and_then(|name| snapshot.volumes.get(name))
            {
                nodes.extend(nodes_of_volume(&volume, snapshot));
            }
            nodes
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        let node = snapshot.nodes.get(key);
        let mut plan = Plan::idle();
        let wanted = node.as_ref().filter(|node| is_managed(node)).map(|_| wanted(key, snapshot)).unwrap_or_default();
        let state = Attachments::of(key, snapshot, &wanted, node.as_deref(), context.now, &mut plan);
        if let Some(node) = &node {
            plan.ops.extend(state.report(node, &wanted));
        }
        plan.ops.extend(state.given_up.iter().filter(|a| !a.is_deleting()).map(|attachment| Op::delete(&**attachment)));
        for (name, volume) in &wanted {
            match snapshot.volume_attachments.get(name) {
                None => plan.ops.extend(attach(key, name, volume, snapshot, context.failure.as_ref())),
                Some(attachment) => tell(&attachment, volume, node.as_deref(), context.now, &mut plan),
            }
        }
        plan
    }
}

/// A volume that pods of a node need there.
struct Wanted {
    volume: Arc<PersistentVolume>,
    source: CSIPersistentVolumeSource,
    pods: Vec<Arc<Pod>>,
}

impl Wanted {
    fn events(&self, kind: fn(&Pod, &str) -> Op, prefix: &str, suffix: &str) -> Vec<Op> {
        let message = format!("{prefix} for volume {:?} {suffix}", self.volume.name());
        self.pods.iter().map(|pod| kind(pod, &message)).collect()
    }

    fn failed(&self, prefix: &str, cause: &str) -> Vec<Op> {
        self.events(|pod, message| Op::warning(pod, "FailedAttachVolume", message), prefix, cause)
    }
}

/// What external attachers and kubelets know an attachment by.
fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, format!("{handle}{driver}{node}").as_bytes());
    digest.as_ref().iter().fold("csi-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

fn is_managed(node: &Node) -> bool {
    annotation(&node.metadata, MANAGED) == Some("true")
}

fn volume_of(attachment: &VolumeAttachment) -> Option<&str> {
    attachment.spec.source.persistent_volume_name.as_deref()
}

/// Index [`NODE`] of attachments.
pub(crate) fn node_of(attachment: &VolumeAttachment) -> Vec<String> {
    vec![attachment.spec.node_name.clone()]
}

/// Index [`VOLUME`] of attachments.
pub(crate) fn volumes_of(attachment: &VolumeAttachment) -> Vec<String> {
    volume_of(attachment).map(str::to_owned).into_iter().collect()
}

fn nodes_of_claim(claim: &str, snapshot: &Snapshot) -> Vec<String> {
    let pods = snapshot.pods.by_index(CLAIM, claim);
    pods.iter().map(|pod| pods::node_name(pod).to_owned()).filter(|node| !node.is_empty()).collect()
}

fn nodes_of_volume(volume: &PersistentVolume, snapshot: &Snapshot) -> Vec<String> {
    if csi(volume).is_none() {
        return Vec::new();
    }
    let reference = claim_ref(volume).cloned().unwrap_or_default();
    let (namespace, name) = (reference.namespace.unwrap_or_default(), reference.name.unwrap_or_default());
    nodes_of_claim(&format!("{namespace}/{name}"), snapshot)
}

fn csi(volume: &PersistentVolume) -> Option<&CSIPersistentVolumeSource> {
    volume.spec.as_ref()?.csi.as_ref()
}

/// Whether nothing of a pod runs, or will run again (`IsPodTerminated`).
fn is_over(pod: &Pod) -> bool {
    let statuses = || pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let runs = || statuses().filter_map(|status| status.state.as_ref()).any(|state| state.running.is_some());
    pods::is_finished(pod) || (pod.is_deleting() && !runs())
}

/// The volumes that a node's pods need, by the names of their attachments.
fn wanted(node: &str, snapshot: &Snapshot) -> BTreeMap<String, Wanted> {
    let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
    for pod in snapshot.pods.by_index(NODE, node) {
        if pods::node_name(&pod) != node || is_over(&pod) {
            continue;
        }
        for claim in pods::claims(&pod).iter().filter_map(|key| snapshot.claims.get(key)) {
            let Some(volume) = snapshot.volumes.get(volume_name(&claim)) else { continue };
            let is_its = claim_ref(&volume).is_some_and(|reference| claim_uid(reference) == claim.uid());
            let Some(source) = csi(&volume).filter(|_| is_its).cloned() else { continue };
            let driver = snapshot.csi_drivers.get(&source.driver);
            if driver.is_some_and(|driver| driver.spec.attach_required == Some(false)) {
                continue;
            }
            let name = attachment_name(&source.volume_handle, &source.driver, node);
            wanted.entry(name).or_insert_with(|| Wanted { volume, source, pods: Vec::new() }).pods.push(pod.clone());
        }
    }
    wanted
}

/// The attachments of a node.
struct Attachments {
    /// They have come about, and stay.
    attached: BTreeSet<String>,
    /// They are to go, or are going.
    given_up: Vec<Arc<VolumeAttachment>>,
}

impl Attachments {
    fn of(
        name: &str,
        snapshot: &Snapshot,
        wanted: &BTreeMap<String, Wanted>,
        node: Option<&Node>,
        now: Timestamp,
        plan: &mut Plan,
    ) -> Self {
        let status = node.and_then(|node| node.status.as_ref());
        let in_use = status.iter().flat_map(|status| status.volumes_in_use.iter().flatten());
        let in_use: BTreeSet<String> = in_use.filter_map(|unique| attachment_of(unique, name)).collect();
        let left = node.map_or(Duration::ZERO, |node| until_forced(node, now));
        let mut state = Self { attached: BTreeSet::new(), given_up: Vec::new() };
        for attachment in snapshot.volume_attachments.by_index(NODE, name) {
            let own = attachment.name();
            let needed = wanted.contains_key(own);
            // Those that others made are theirs to delete.
            let foreign = !is_own(&attachment, snapshot);
            let held = in_use.contains(own) && !left.is_zero();
            if attachment.is_deleting() || !(needed || foreign || held) {
                state.given_up.push(attachment);
                continue;
            }
            if !needed && !foreign && left != Duration::MAX {
                plan.requeue(left);
            }
            if attachment.status.as_ref().is_some_and(|status| status.attached) {
                state.attached.insert(own.to_owned());
            }
        }
        state
    }

    /// Writes into the node's status what is attached, where that is something else.
    fn report(&self, node: &Node, wanted: &BTreeMap<String, Wanted>) -> Option<Op> {
        let old = node.status.as_ref().and_then(|status| status.volumes_attached.clone()).unwrap_or_default();
        let own = |entry: &AttachedVolume| attachment_of(&entry.name, node.name());
        let mut new = old.clone();
        new.retain(|entry| own(entry).is_none_or(|name| self.attached.contains(&name)));
        for (name, volume) in wanted.iter().filter(|(name, _)| self.attached.contains(*name)) {
            if !new.iter().any(|entry| own(entry).as_ref() == Some(name)) {
                let name = format!("{PREFIX}{}^{}", volume.source.driver, volume.source.volume_handle);
                new.push(AttachedVolume { name, device_path: String::new() });
            }
        }
        let patch = || Patch::Merge(json!({"status": {"volumesAttached": new}}));
        (new != old).then(|| Op::patch_status(node, patch()))
    }
}

/// The name of the attachment that a volume of a node's status is attached by.
fn attachment_of(unique: &str, node: &str) -> Option<String> {
    let (driver, handle) = unique.strip_prefix(PREFIX)?.split_once('^')?;
    Some(attachment_name(handle, driver, node))
}

/// Whether an attachment was made here: it has the name that we give. Of a volume that is gone the name says too little.
fn is_own(attachment: &VolumeAttachment, snapshot: &Snapshot) -> bool {
    let spec = &attachment.spec;
    match volume_of(attachment).map(|name| snapshot.volumes.get(name)) {
        None => false,
        Some(Some(volume)) => csi(&volume).is_some_and(|source| {
            attachment_name(&source.volume_handle, &source.driver, &spec.node_name) == attachment.name()
        }),
        Some(None) => attachment.name().strip_prefix("csi-").is_some_and(|hash| hash.len() == 64),
    }
}

/// How long a volume that a node still has mounted is left to it: for ever while it is well.
fn until_forced(node: &Node, now: Timestamp) -> Duration {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    if taints.into_iter().any(|taint| taint.key == OUT_OF_SERVICE) {
        return Duration::ZERO;
    }
    let ready = node.status.as_ref().and_then(|status| condition::find(&status.conditions, "Ready"));
    let Some(ready) = ready.filter(|ready| ready.status != "True") else { return Duration::MAX };
    let since = ready.last_transition_time.as_ref().map_or(now, |time| time.0);
    UNMOUNT_MAX.saturating_sub(Duration::try_from(now.duration_since(since)).unwrap_or_default())
}

/// Asks for a volume to be attached, unless another node has it alone.
fn attach(node: &str, name: &str, wanted: &Wanted, snapshot: &Snapshot, failure: Option<&Failure>) -> Vec<Op> {
    let modes = wanted.volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    let shared = modes.is_empty() || modes.iter().any(|mode| matches!(mode.as_str(), "ReadWriteMany" | "ReadOnlyMany"));
    let elsewhere = snapshot.volume_attachments.by_index(VOLUME, wanted.volume.name());
    let elsewhere: BTreeSet<&str> =
        elsewhere.iter().map(|a| a.spec.node_name.as_str()).filter(|n| *n != node).collect();
    if !shared && !elsewhere.is_empty() {
        return held_elsewhere(wanted, &elsewhere, snapshot);
    }
    let failure = failure.filter(|failure| failure.verb == Verb::Create);
    let mut ops = failure.map(|f| wanted.failed("AttachVolume.Attach failed", &format!(": {}", f.message)));
    ops.get_or_insert_default().push(Op::create(&VolumeAttachment {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: VolumeAttachmentSpec {
            attacher: wanted.source.driver.clone(),
            node_name: node.to_owned(),
            source: VolumeAttachmentSource {
                persistent_volume_name: Some(wanted.volume.name().to_owned()),
                ..VolumeAttachmentSource::default()
            },
        },
        status: None,
    }));
    ops.unwrap_or_default()
}

/// Tells the pods who has their volume: of other namespaces only how many.
fn held_elsewhere(wanted: &Wanted, nodes: &BTreeSet<&str>, snapshot: &Snapshot) -> Vec<Op> {
    let reference = claim_ref(&wanted.volume).cloned().unwrap_or_default();
    let claim = format!("{}/{}", reference.namespace.unwrap_or_default(), reference.name.unwrap_or_default());
    // All pods that use a claim are in its namespace.
    let others = snapshot.pods.by_index(CLAIM, &claim);
    let others = others.iter().filter(|pod| nodes.contains(pods::node_name(pod)) && !is_over(pod));
    let mut names: Vec<&str> = others.map(|pod| pod.name()).collect();
    names.sort_unstable();
    let cause = match names.as_slice() {
        [] => "Volume is already exclusively attached to one node and can't be attached to another".to_owned(),
        names => format!("Volume is already used by pod(s) {}", names.join(", ")),
    };
    wanted.failed("Multi-Attach error", &cause)
}

/// What pods are told of an attachment that is there.
fn tell(attachment: &VolumeAttachment, wanted: &Wanted, node: Option<&Node>, now: Timestamp, plan: &mut Plan) {
    let status = attachment.status.as_ref();
    let failed = |cause: String| wanted.failed("AttachVolume.Attach failed", &format!(": {cause}"));
    if attachment.is_deleting() {
        // It is asked for anew once it is gone.
    } else if status.is_some_and(|status| status.attached) {
        let reported = node.and_then(|node| node.status.as_ref()?.volumes_attached.as_ref());
        let known = |entry: &AttachedVolume| {
            attachment_of(&entry.name, &attachment.spec.node_name).as_deref() == Some(attachment.name())
        };
        if !reported.is_some_and(|entries| entries.iter().any(known)) {
            let normal = |pod: &Pod, message: &str| Op::normal(pod, "SuccessfulAttachVolume", message);
            plan.ops.extend(wanted.events(normal, "AttachVolume.Attach succeeded", ""));
        }
    } else if let Some(error) = status.and_then(|status| status.attach_error.as_ref()) {
        plan.ops.extend(failed(error.message.clone().unwrap_or_default()));
    } else {
        let age = Duration::try_from(now.duration_since(pods::created(&attachment.metadata))).unwrap_or_default();
        if age >= ATTACH_MAX {
            let (driver, handle) = (&wanted.source.driver, &wanted.source.volume_handle);
            plan.ops.extend(failed(format!(
                "timed out waiting for external-attacher of {driver} CSI driver to attach volume {handle}"
            )));
        }
        plan.requeue(if age < ATTACH_MAX { ATTACH_MAX - age } else { ATTACH_MAX });
    }
}
