//! `pv-protection`: a volume that a claim is bound to stays until it is let go (`pkg/controller/volume/pvprotection`).

use kybern_api::Object;
use kybern_api::core::v1::PersistentVolume;

use crate::controller::{Context, Controller, Op, Plan};
use crate::protection::{self, Step};
use crate::snapshot::Snapshot;
use crate::watches::Watches;

pub const FINALIZER: &str = "kubernetes.io/pv-protection";

pub struct PvProtectionController;

impl Controller for PvProtectionController {
    fn name(&self) -> &'static str {
        "persistentvolume-protection-controller"
    }

    fn account(&self) -> &'static str {
        "pv-protection-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.volumes);
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, _: &Context) -> Plan {
        let Some(volume) = snapshot.volumes.get(key) else { return Plan::idle() };
        let mut new = (*volume).clone();
        match protection::step(&volume.metadata, FINALIZER) {
            Step::Protect => protection::protect(&mut new.metadata, FINALIZER),
            Step::ReleaseIfUnused if is_bound(&volume) => {
                let waiting = format!("volume {} is bound to a claim", volume.name());
                return Plan { waiting: Some(waiting), ..Plan::idle() };
            }
            Step::ReleaseIfUnused => protection::release(&mut new.metadata, FINALIZER),
            Step::Nothing => return Plan::idle(),
        }
        Plan::of(vec![Op::update(&new)])
    }
}

/// The binder says so in the status.
fn is_bound(volume: &PersistentVolume) -> bool {
    volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound")
}

#[cfg(test)]
mod tests {
    use kybern_api::core::v1::PersistentVolumeStatus;
    use kybern_api::meta::v1::{ObjectMeta, Time};

    use super::*;
    use crate::testing::{World, meta, now, updated};

    fn volume(finalizers: &[&str], deleting: bool, phase: &str) -> PersistentVolume {
        let metadata = ObjectMeta {
            namespace: None,
            finalizers: Some(finalizers.iter().map(|f| (*f).to_owned()).collect()),
            deletion_timestamp: deleting.then(|| Time(now())),
            ..meta("disk")
        };
        let status = PersistentVolumeStatus { phase: Some(phase.into()), ..Default::default() };
        PersistentVolume { metadata, spec: None, status: Some(status) }
    }

    #[test]
    fn a_bound_volume_stays() {
        let check = |before: PersistentVolume, expect: Option<&[&str]>| {
            let world = World::new();
            world.writers.volumes.upsert(before.clone());
            let written = updated::<PersistentVolume>(&world.reconcile(&PvProtectionController, "disk"));
            let finalizers = written.first().map(|v| v.metadata.finalizers.clone().unwrap_or_default());
            assert_eq!(
                finalizers.as_deref(),
                expect.map(|l| l.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>()).as_deref(),
                "{before:?}"
            );
        };
        check(volume(&[], false, "Available"), Some(&[FINALIZER]));
        check(volume(&[FINALIZER], false, "Bound"), None);
        check(volume(&["a", FINALIZER], true, "Bound"), None);
        check(volume(&["a", FINALIZER], true, "Released"), Some(&["a"]));
        check(volume(&[FINALIZER], true, "Pending"), Some(&[]));
        check(volume(&["a"], true, "Released"), None);
    }
}
