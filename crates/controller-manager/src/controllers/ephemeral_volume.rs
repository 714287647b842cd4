//! `ephemeral-volume`: claims for the ephemeral volumes of pods, which own them (`pkg/controller/volume/ephemeral`).

use kybern_api::core::v1::{PersistentVolumeClaim, Pod};
use kybern_api::meta::v1::ObjectMeta;
use kybern_api::{Object, owner};

use crate::controller::{Context, Controller, Op, Plan, Verb};
use crate::metrics::{EPHEMERAL_CLAIMS, EPHEMERAL_FAILURES};
use crate::pods;
use crate::snapshot::{CLAIM, Snapshot};
use crate::watches::Watches;

pub struct EphemeralVolumeController;

impl Controller for EphemeralVolumeController {
    fn name(&self) -> &'static str {
        "ephemeral-volume-controller"
    }

    fn component(&self) -> &'static str {
        "ephemeral_volume"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.when_missed(&snapshot.pods);
        watches.on(&snapshot.pods, |change, _| {
            let new = change.new.iter().filter(|pod| change.old.is_none() && has_ephemeral(pod));
            new.map(|pod| pod.key()).collect()
        });
        watches.on(&snapshot.claims, |change, snapshot| {
            // Somebody has deleted it, or one that had its name.
            let gone = change.old.iter().filter(|_| change.new.is_none());
            let pods = gone.flat_map(|claim| snapshot.pods.by_index(CLAIM, &claim.key()));
            pods.filter(|pod| has_ephemeral(pod)).map(|pod| pod.key()).collect()
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        snapshot.pods.get(key).map_or_else(Plan::idle, |pod| claim_all(&pod, snapshot, context))
    }
}

fn has_ephemeral(pod: &Pod) -> bool {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).any(|volume| volume.ephemeral.is_some())
}

fn claim_all(pod: &Pod, snapshot: &Snapshot, context: &Context) -> Plan {
    let mut plan = Plan::idle();
    if pod.is_deleting() {
        return plan;
    }
    // Volumes come one after the other: it was the first that lacks its claim.
    let mut failure = context.failure.as_ref().filter(|failure| failure.verb == Verb::Create);
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some(ephemeral) = &volume.ephemeral else { continue };
        let name = pods::ephemeral_claim(pod, &volume.name);
        let failed =
            |cause: String| Op::warning(pod, "FailedBinding", format!("ephemeral volume {}: {cause}", volume.name));
        if let Some(claim) = snapshot.claims.get_in(pod.namespace(), &name) {
            if owner::is_controlled_by(&claim.metadata, pod) {
                continue;
            }
            plan.push(failed(format!("PVC {} was not created for pod {} (pod is not owner)", claim.key(), pod.key())));
            break;
        }
        if let Some(failure) = failure.take() {
            plan.push(failed(format!("create PVC {name}: {}", failure.message)));
            plan.count(&EPHEMERAL_CLAIMS, []);
            plan.count(&EPHEMERAL_FAILURES, []);
        }
        plan.count(&EPHEMERAL_CLAIMS, []);
        let template = ephemeral.volume_claim_template.clone().unwrap_or_default();
        let given = template.metadata.unwrap_or_default();
        plan.push(Op::create(&PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(pod.namespace().to_owned()),
                annotations: given.annotations,
                labels: given.labels,
                owner_references: Some(vec![owner::controller_ref(pod)]),
                ..ObjectMeta::default()
            },
            spec: Some(template.spec),
            status: None,
        }));
    }
    plan
}

#[cfg(test)]
mod tests {
    use kybern_api::core::v1::Volume;
    use kybern_apimachinery::json;

    use super::*;
    use crate::controller::Failure;
    use crate::testing::{World, created, events, meta, pod};

    fn user() -> Pod {
        let mut pod = pod("p").build();
        let volume = |name: &str| -> Volume {
            let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
            let template = json!({"metadata": {"labels": {"of": name}}, "spec": spec});
            serde_json::from_value(json!({"name": name, "ephemeral": {"volumeClaimTemplate": template}})).unwrap()
        };
        let plain = Volume { name: "plain".into(), ..Volume::default() };
        pod.spec.get_or_insert_default().volumes = Some(vec![plain, volume("a"), volume("b")]);
        pod
    }

    #[test]
    fn each_gets_its_claim_and_no_stranger_is_taken_for_it() {
        let world = World::new();
        world.writers.pods.upsert(user());
        let plan = world.reconcile(&EphemeralVolumeController, "default/p");
        let claims = created::<PersistentVolumeClaim>(&plan);
        assert_eq!(claims.iter().map(|c| c.name()).collect::<Vec<_>>(), ["p-a", "p-b"]);
        let owner = &claims[0].metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!(
            (owner.kind.as_str(), owner.controller, owner.block_owner_deletion),
            ("Pod", Some(true), Some(true))
        );
        assert_eq!(claims[0].labels().unwrap()["of"], "a");
        assert!(events(&plan).is_empty());
        world.writers.claims.upsert(claims[0].clone());
        let failure = || Failure { verb: Verb::Create, stale: false, message: "exceeded quota".into() };
        let plan = world.reconcile_after(&EphemeralVolumeController, "default/p", failure());
        assert_eq!(events(&plan), ["FailedBinding: ephemeral volume b: create PVC p-b: exceeded quota"]);
        assert_eq!(created::<PersistentVolumeClaim>(&plan).len(), 1);
        world.writers.claims.upsert(PersistentVolumeClaim { metadata: meta("p-b"), ..Default::default() });
        let plan = world.reconcile(&EphemeralVolumeController, "default/p");
        let stranger =
            "FailedBinding: ephemeral volume b: PVC default/p-b was not created for pod default/p (pod is not owner)";
        assert_eq!(events(&plan), [stranger]);
        assert!(created::<PersistentVolumeClaim>(&plan).is_empty());
    }

    #[test]
    fn a_pod_that_ends_gets_nothing() {
        let world = World::new();
        let mut ending = user();
        ending.metadata.deletion_timestamp = Some(kybern_api::meta::v1::Time(crate::testing::now()));
        world.writers.pods.upsert(ending);
        assert!(world.reconcile(&EphemeralVolumeController, "default/p").ops.is_empty());
    }
}
