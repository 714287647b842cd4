//! `vac-protection`: a class of volume attributes that a volume or claim names stays (`pkg/controller/volume/vacprotection`).

use kybern_api::Object;
use kybern_api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kybern_api::storage::v1::VolumeAttributesClass;

use crate::controller::{Context, Controller, Op, Plan};
use crate::protection::{self, Step};
use crate::snapshot::{ATTRIBUTES_CLASS, Snapshot};
use crate::watches::Watches;

pub const FINALIZER: &str = "kubernetes.io/vac-protection";

pub struct VacProtectionController;

impl Controller for VacProtectionController {
    fn name(&self) -> &'static str {
        "volumeattributesclass-protection-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.attributes_classes);
        watches.on(&snapshot.volumes, |change, _| {
            let old = change.old.iter().flat_map(|volume| of_volume(volume));
            old.chain(change.new.iter().flat_map(|volume| of_volume(volume))).collect()
        });
        watches.on(&snapshot.claims, |change, _| {
            let old = change.old.iter().flat_map(|claim| of_claim(claim));
            old.chain(change.new.iter().flat_map(|claim| of_claim(claim))).collect()
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, _: &Context) -> Plan {
        let Some(class) = snapshot.attributes_classes.get(key) else { return Plan::idle() };
        let mut new: VolumeAttributesClass = (*class).clone();
        match protection::step(&class.metadata, FINALIZER) {
            Step::Protect => protection::protect(&mut new.metadata, FINALIZER),
            Step::ReleaseIfUnused => {
                if let Some(user) = user(key, snapshot) {
                    return Plan { waiting: Some(format!("{user} uses class {key}")), ..Plan::idle() };
                }
                protection::release(&mut new.metadata, FINALIZER);
            }
            Step::Nothing => return Plan::idle(),
        }
        Plan::of(vec![Op::update(&new)])
    }
}

fn user(class: &str, snapshot: &Snapshot) -> Option<String> {
    let volumes = snapshot.volumes.by_index(ATTRIBUTES_CLASS, class);
    let claims = snapshot.claims.by_index(ATTRIBUTES_CLASS, class);
    let volume = volumes.first().map(|volume| format!("volume {}", volume.name()));
    volume.or_else(|| claims.first().map(|claim| format!("claim {}", claim.key())))
}

/// The class that a volume has.
pub(crate) fn of_volume(volume: &PersistentVolume) -> Vec<String> {
    volume.spec.iter().filter_map(|spec| spec.volume_attributes_class_name.clone()).collect()
}

/// The classes of a claim: the one it asks for, the one it has, and the one it is given.
pub(crate) fn of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let status = claim.status.as_ref();
    let mut classes: Vec<String> = [
        claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone()),
        status.and_then(|status| status.current_volume_attributes_class_name.clone()),
        status
            .and_then(|status| status.modify_volume_status.as_ref())
            .and_then(|modify| modify.target_volume_attributes_class_name.clone()),
    ]
    .into_iter()
    .flatten()
    .filter(|class| !class.is_empty())
    .collect();
    classes.sort();
    classes.dedup();
    classes
}

#[cfg(test)]
mod tests {
    use kybern_api::core::v1::{PersistentVolumeClaimSpec, PersistentVolumeSpec};
    use kybern_api::meta::v1::{ObjectMeta, Time};

    use super::*;
    use crate::testing::{World, meta, now, updated};

    fn class(finalizers: &[&str], deleting: bool) -> VolumeAttributesClass {
        let metadata = ObjectMeta {
            namespace: None,
            finalizers: Some(finalizers.iter().map(|f| (*f).to_owned()).collect()),
            deletion_timestamp: deleting.then(|| Time(now())),
            ..meta("gold")
        };
        VolumeAttributesClass { metadata, driver_name: "d.example.com".into(), parameters: None }
    }

    #[test]
    fn a_class_that_is_named_stays() {
        let released = |world: &World| {
            let written = updated::<VolumeAttributesClass>(&world.reconcile(&VacProtectionController, "gold"));
            written.first().is_some_and(|class| class.metadata.finalizers == Some(Vec::new()))
        };
        let world = World::new();
        world.writers.attributes_classes.upsert(class(&[], false));
        let written = updated::<VolumeAttributesClass>(&world.reconcile(&VacProtectionController, "gold"));
        assert_eq!(written[0].metadata.finalizers, Some(vec![FINALIZER.to_owned()]));

        world.writers.attributes_classes.upsert(class(&[FINALIZER], true));
        assert!(released(&world));
        let named = Some("gold".to_owned());
        let spec = PersistentVolumeClaimSpec { volume_attributes_class_name: named.clone(), ..Default::default() };
        let claim = PersistentVolumeClaim { metadata: meta("claim"), spec: Some(spec), status: None };
        world.writers.claims.upsert(claim.clone());
        assert!(!released(&world));
        world.writers.claims.remove(&claim.key(), "2");
        let spec = PersistentVolumeSpec { volume_attributes_class_name: named, ..Default::default() };
        let metadata = ObjectMeta { namespace: None, ..meta("disk") };
        world.writers.volumes.upsert(PersistentVolume { metadata, spec: Some(spec), status: None });
        assert!(!released(&world));
    }
}
