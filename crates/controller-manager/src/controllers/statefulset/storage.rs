//! The claims of a set's pods: made before them, kept after them, or gone with them as `persistentVolumeClaimRetentionPolicy`
//! says.

use std::collections::BTreeMap;
use std::sync::Arc;

use kybern_api::apps::v1::{StatefulSet, StatefulSetSpec};
use kybern_api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume};
use kybern_api::meta::v1::OwnerReference;
use kybern_api::{Object, owner};
use kybern_apimachinery::GroupVersion;

use super::manage::Work;
use crate::controller::Op;

/// By name; of two of one name the later counts.
fn templates(spec: &StatefulSetSpec) -> BTreeMap<&str, &PersistentVolumeClaim> {
    spec.volume_claim_templates.iter().flatten().map(|template| (template.name(), template)).collect()
}

fn claim_name(template: &str, pod: &str) -> String {
    format!("{template}-{pod}")
}

/// The volumes of a pod: its claims, and those of the template that have other names.
pub(super) fn volumes(spec: &StatefulSetSpec, pod: &str, others: Option<Vec<Volume>>) -> Option<Vec<Volume>> {
    let templates = templates(spec);
    let of_claim = |name: &&str| {
        let source = PersistentVolumeClaimVolumeSource { claim_name: claim_name(name, pod), read_only: None };
        Volume { name: (*name).to_owned(), persistent_volume_claim: Some(source), ..Volume::default() }
    };
    let mut all: Vec<Volume> = templates.keys().map(of_claim).collect();
    all.extend(others.into_iter().flatten().filter(|volume| !templates.contains_key(volume.name.as_str())));
    Some(all).filter(|all| !all.is_empty())
}

/// Whether a pod has the volumes that its claims are.
pub(super) fn has_volumes(spec: &StatefulSetSpec, pod: &Pod) -> bool {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    templates(spec).keys().all(|name| {
        let is_it = |v: &Volume| {
            let source = v.persistent_volume_claim.as_ref();
            v.name == *name && source.is_some_and(|s| s.claim_name == claim_name(name, pod.name()))
        };
        volumes.iter().any(is_it)
    })
}

/// Whether claims go with a pod that is one too many, and whether they go with the set.
fn deletes(spec: &StatefulSetSpec) -> (bool, bool) {
    let policy = spec.persistent_volume_claim_retention_policy.as_ref();
    let says = |when: Option<&String>| when.is_some_and(|what| what == "Delete");
    (says(policy.and_then(|p| p.when_scaled.as_ref())), says(policy.and_then(|p| p.when_deleted.as_ref())))
}

fn owners(claim: &PersistentVolumeClaim) -> &[OwnerReference] {
    claim.metadata.owner_references.as_deref().unwrap_or_default()
}

/// Whether a reference means an object of this name, whatever its uid.
fn means<K: Object>(reference: &OwnerReference, name: &str) -> bool {
    let version = GroupVersion::new(K::GROUP, K::VERSION).to_string();
    reference.kind == K::KIND && reference.name == name && reference.api_version == version
}

/// What keeps a pod from being made.
pub(super) enum Obstacle {
    /// It ends by itself.
    Waits(String),
    Fails(String),
}

impl Work<'_> {
    fn claim(&self, template: &str, pod: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.snapshot.claims.get_in(self.set.namespace(), &claim_name(template, pod))
    }

    /// A claim that is to go: with the pod that had this name before, or because somebody deleted it.
    pub(super) fn obstacle(&self, pod: &str) -> Option<Obstacle> {
        templates(self.spec).keys().filter_map(|template| self.claim(template, pod)).find_map(|claim| {
            if deletes(self.spec).0 && owners(&claim).iter().any(|r| means::<Pod>(r, pod)) {
                return Some(Obstacle::Waits(format!("claim {} goes with the pod before", claim.key())));
            }
            claim.is_deleting().then(|| Obstacle::Fails(format!("pvc {} is being deleted", claim.name())))
        })
    }

    /// Makes the claims of a pod that are not there.
    pub(super) fn missing_claims(&self, pod: &str) -> Vec<Op> {
        let missing = templates(self.spec).into_iter().filter(|(template, _)| self.claim(template, pod).is_none());
        missing
            .map(|(template, source)| {
                let name = claim_name(template, pod);
                let mut metadata = source.metadata.clone();
                let labels = self.spec.selector.match_labels.clone().unwrap_or_default();
                metadata.labels.get_or_insert_default().extend(labels);
                if deletes(self.spec).1 {
                    metadata.owner_references.get_or_insert_default().push(owner::controller_ref(&**self.set));
                }
                (metadata.name, metadata.namespace) = (Some(name.clone()), self.set.metadata.namespace.clone());
                let claim = PersistentVolumeClaim { metadata, spec: source.spec.clone(), status: None };
                let set = self.set.name();
                Op::create(&claim).announced_as(
                    &self.about,
                    format!("Create Claim {name} Pod {pod} in StatefulSet {set} success"),
                    format!("Create Claim {name} for Pod {pod} in StatefulSet {set} failed error"),
                )
            })
            .collect()
    }

    /// Gives the claims of a pod the owners that the policy wants.
    pub(super) fn settle_owners(&self, pod: &Pod, condemned: bool) -> Vec<Op> {
        let mut ops = Vec::new();
        for claim in templates(self.spec).keys().filter_map(|template| self.claim(template, pod.name())) {
            let Some((owners, conflict)) = self.owners_to_be(&claim, pod, condemned) else {
                continue;
            };
            if conflict {
                let message = format!(
                    "PersistentVolumeClaim {} has a conflicting OwnerReference that acts as a manging controller, \
                     the retention policy is ignored for this claim",
                    claim.name()
                );
                ops.push(Op::warning(&**self.set, "ConflictingController", message));
            }
            let mut claim = (*claim).clone();
            claim.metadata.owner_references = Some(owners);
            ops.push(Op::update(&claim));
        }
        ops
    }

    /// The owners that a claim lacks or has too many of, and whether another controller is among them; `None`: all is well,
    /// or beyond what this controller knows.
    fn owners_to_be(
        &self,
        claim: &PersistentVolumeClaim,
        pod: &Pod,
        condemned: bool,
    ) -> Option<(Vec<OwnerReference>, bool)> {
        let set = &**self.set;
        let is_set = |r: &OwnerReference| means::<StatefulSet>(r, set.name());
        let is_pod = |r: &OwnerReference| means::<Pod>(r, pod.name());
        let is_stale = |r: &OwnerReference| (is_set(r) && r.uid != set.uid()) || (is_pod(r) && r.uid != pod.uid());
        if owners(claim).iter().any(is_stale) {
            // It is of an object that is gone, and going with it.
            return None;
        }
        let (scaled, deleted) = deletes(self.spec);
        let is_other = |r: &OwnerReference| r.controller == Some(true) && !is_set(r) && !is_pod(r);
        let conflict = (scaled || deleted) && owners(claim).iter().any(is_other);
        let keeper = match conflict {
            false if scaled && condemned => Some(owner::controller_ref(pod)),
            false if deleted => Some(owner::controller_ref(set)),
            _ => None,
        };
        let is_as_wanted = |uid: &str| {
            let wanted = keeper.as_ref().is_some_and(|keeper| keeper.uid == uid);
            owners(claim).iter().any(|r| r.uid == uid) == wanted
        };
        let is_weak = |r: &OwnerReference| (is_set(r) || is_pod(r)) && r.controller != Some(true);
        if is_as_wanted(set.uid()) && is_as_wanted(pod.uid()) && !owners(claim).iter().any(is_weak) {
            return None;
        }
        let mut refs: Vec<_> = owners(claim).iter().filter(|r| !is_set(r) && !is_pod(r)).cloned().collect();
        refs.extend(keeper);
        Some((refs, conflict))
    }
}
