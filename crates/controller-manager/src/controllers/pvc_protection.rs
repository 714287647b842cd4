//! `pvc-protection`: a claim that a pod uses stays until no pod does (`pkg/controller/volume/pvcprotection`).

use kybern_api::core::v1::{PersistentVolumeClaim, Pod};
use kybern_api::{Object, owner};

use crate::controller::{Context, Controller, Op, Plan};
use crate::pods;
use crate::protection::{self, Step};
use crate::snapshot::{CLAIM, Snapshot};
use crate::watches::Watches;

pub const FINALIZER: &str = "kubernetes.io/pvc-protection";

pub struct PvcProtectionController;

impl Controller for PvcProtectionController {
    fn name(&self) -> &'static str {
        "persistentvolumeclaim-protection-controller"
    }

    fn account(&self) -> &'static str {
        "pvc-protection-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.claims);
        watches.on(&snapshot.pods, |change, _| {
            // Of a pod that runs there is nothing to learn. One that took another's name is no longer that one.
            let replaced = change.old.as_ref().filter(|old| change.new.as_ref().is_none_or(|n| n.uid() != old.uid()));
            let ended = change.new.as_ref().filter(|pod| pods::is_finished(pod) || pod.is_deleting());
            replaced.into_iter().chain(ended).flat_map(|pod| pods::claims(pod)).collect()
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, _: &Context) -> Plan {
        let Some(claim) = snapshot.claims.get(key) else { return Plan::idle() };
        let mut new = (*claim).clone();
        match protection::step(&claim.metadata, FINALIZER) {
            Step::Protect => {
                protection::protect(&mut new.metadata, FINALIZER);
                Plan::of(vec![Op::update(&new)])
            }
            Step::ReleaseIfUnused => {
                if let Some(pod) = snapshot.pods.by_index(CLAIM, key).iter().find(|pod| uses(pod, &claim)) {
                    let waiting = format!("pod {} uses claim {key}", pod.key());
                    return Plan { waiting: Some(waiting), ..Plan::idle() };
                }
                protection::release(&mut new.metadata, FINALIZER);
                // A pod that was bound a moment ago may not have been seen here.
                Plan::of(vec![Op::RequireUnused { claim: claim.clone() }, Op::update(&new)])
            }
            Step::Nothing => Plan::idle(),
        }
    }
}

/// Whether a pod keeps a claim: it has a node, for no kubelet starts a pod whose claim is going, and names the claim or
/// owns it as the one of an ephemeral volume.
pub(crate) fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    if pod.namespace() != claim.namespace() || pods::node_name(pod).is_empty() {
        return false;
    }
    // Nothing of it runs any more. Its finalizers may wait for this very claim.
    let shut_down = pod.is_deleting() && pod.metadata.deletion_grace_period_seconds == Some(0);
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.into_iter().any(|volume| {
        let named = volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == claim.name());
        let made = volume.ephemeral.is_some()
            && pods::ephemeral_claim(pod, &volume.name) == claim.name()
            && owner::is_controlled_by(&claim.metadata, pod);
        named || (made && !shut_down)
    })
}

#[cfg(test)]
mod tests {
    use kybern_api::core::v1::{EphemeralVolumeSource, PersistentVolumeClaimVolumeSource, Volume};
    use kybern_api::meta::v1::{ObjectMeta, Time};

    use super::*;
    use crate::testing::{PodBuilder, World, meta, now, pod, updated};

    fn claim(name: &str, deleting: bool) -> PersistentVolumeClaim {
        let metadata = ObjectMeta {
            finalizers: Some(vec![FINALIZER.into()]),
            deletion_timestamp: deleting.then(|| Time(now())),
            ..meta(name)
        };
        PersistentVolumeClaim { metadata, ..PersistentVolumeClaim::default() }
    }

    fn with_volume(pod: PodBuilder, volume: Volume) -> Pod {
        let mut pod = pod.build();
        pod.spec.get_or_insert_default().volumes = Some(vec![volume]);
        pod
    }

    fn of_claim(pod: PodBuilder, name: &str) -> Pod {
        let source = PersistentVolumeClaimVolumeSource { claim_name: name.into(), ..Default::default() };
        with_volume(pod, Volume { name: "v".into(), persistent_volume_claim: Some(source), ..Volume::default() })
    }

    fn ephemeral(pod: PodBuilder) -> Pod {
        let source = Some(EphemeralVolumeSource::default());
        with_volume(pod, Volume { name: "scratch".into(), ephemeral: source, ..Volume::default() })
    }

    /// The finalizers that are written, after a check at the server.
    fn released(claim: &PersistentVolumeClaim, pods: Vec<Pod>) -> bool {
        let world = World::new();
        world.writers.claims.upsert(claim.clone());
        pods.into_iter().for_each(|pod| world.writers.pods.upsert(pod));
        let plan = world.reconcile(&PvcProtectionController, &claim.key());
        let written = updated::<PersistentVolumeClaim>(&plan);
        match written.first() {
            None => {
                assert!(plan.ops.is_empty(), "{plan:?}");
                false
            }
            Some(new) => {
                assert!(matches!(&plan.ops[0], Op::RequireUnused { .. }), "{plan:?}");
                assert_eq!(new.metadata.finalizers.as_deref(), Some(&[][..]));
                true
            }
        }
    }

    #[test]
    fn a_claim_in_use_stays() {
        let data = claim("data", true);
        assert!(released(&data, vec![]));
        assert!(!released(&data, vec![of_claim(pod("a").node("n1"), "data")]));
        assert!(
            !released(&data, vec![of_claim(pod("a").node("n1").phase("Succeeded"), "data")]),
            "until it is removed"
        );
        assert!(!released(&data, vec![of_claim(pod("a").node("n1").deleting(), "data")]));
        assert!(released(&data, vec![of_claim(pod("a"), "data")]), "without a node it will not start");
        assert!(released(&data, vec![of_claim(pod("a").node("n1"), "other")]));
        assert!(!released(&claim("data", false), vec![]), "nobody deletes it");
    }

    #[test]
    fn an_ephemeral_volume_keeps_its_own_claim_while_its_pod_lives() {
        let user = || ephemeral(pod("a").node("n1"));
        let mut scratch = claim("a-scratch", true);
        assert!(released(&scratch, vec![user()]), "a claim of that name that is somebody else's");
        scratch.metadata.owner_references = Some(vec![owner::controller_ref(&user())]);
        assert!(!released(&scratch, vec![user()]));
        let mut shut_down = ephemeral(pod("a").node("n1").deleting());
        shut_down.metadata.deletion_grace_period_seconds = Some(0);
        assert!(released(&scratch, vec![shut_down]));
    }

    #[test]
    fn an_old_claim_is_protected() {
        let world = World::new();
        let mut old = claim("data", false);
        old.metadata.finalizers = None;
        world.writers.claims.upsert(old);
        let written = updated::<PersistentVolumeClaim>(&world.reconcile(&PvcProtectionController, "default/data"));
        assert_eq!(written[0].metadata.finalizers.as_deref(), Some(&[FINALIZER.to_owned()][..]));
    }
}
