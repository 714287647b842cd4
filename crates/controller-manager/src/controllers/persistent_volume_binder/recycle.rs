//! Volumes that are scrubbed for the next claim: by a pod that mounts them (`pkg/volume/util/recyclerclient`).

use std::time::Duration;

use kybern_api::Object;
use kybern_api::core::v1::{Container, PersistentVolume, Pod, PodSpec, Volume, VolumeMount};
use kybern_api::meta::v1::ObjectMeta;
use kybern_apimachinery::object;

use super::{bind, claim_key, matching, phase};
use crate::controller::{Context, Op, Plan};
use crate::pods;
use crate::snapshot::{CLAIM, Snapshot};

const NAMESPACE: &str = "default";
const PREFIX: &str = "recycler-for-";
const IMAGE: &str = "registry.k8s.io/build-image/debian-base:bookworm-v1.0.4";
const SCRUB: &str = "test -e /scrub && find /scrub -mindepth 1 -delete && test -z \"$(ls -A /scrub)\" || exit 1";
/// Seconds for a pod, at least, and for each GiB.
const TIMEOUT: [(i64, i64); 2] = [(60, 30), (300, 30)];
/// How long one that has failed is kept before another tries.
const RETRY: Duration = Duration::from_secs(120);

/// The volume that a pod scrubs, by its name.
pub(super) fn volume_of(pod: &Pod) -> Option<&str> {
    pod.name().strip_prefix(PREFIX).filter(|_| pod.namespace() == NAMESPACE)
}

/// The next step until a volume is clean.
pub(super) fn plan(volume: &PersistentVolume, snapshot: &Snapshot, context: &Context) -> Plan {
    let Some(scrubber) = scrubber(volume) else {
        return failed(volume, "No recycler plugin found for the volume!");
    };
    let claim = claim_key(volume).unwrap_or_default();
    if snapshot.claims.get(&claim).is_none() {
        let users = snapshot.pods.by_index(CLAIM, &claim);
        let users: Vec<String> = users.iter().filter(|pod| !pods::is_finished(pod)).map(|pod| pod.key()).collect();
        if !users.is_empty() {
            let message = format!("Volume is used by pods: {}", users.join(","));
            return Plan::of(vec![Op::normal(volume, "VolumeFailedRecycle", message)]);
        }
    }
    let Some(pod) = snapshot.pods.get(&object::key_of(NAMESPACE, scrubber.name())) else {
        return Plan::of(vec![Op::create(&scrubber)]);
    };
    if pod.is_deleting() {
        return Plan::idle();
    }
    if !is_it(&pod, &scrubber, volume) {
        return Plan::of(vec![Op::delete(&*pod)]);
    }
    match pods::phase(&pod) {
        "Succeeded" => Plan::of(vec![
            Op::delete(&*pod),
            Op::normal(volume, "VolumeRecycled", "Volume recycled"),
            Op::update(&bind::unbound(volume)),
        ]),
        "Failed" => {
            let cause = pod.status.as_ref().and_then(|status| status.message.as_deref()).filter(|m| !m.is_empty());
            let cause = cause.unwrap_or("pod failed, pod.Status.Message unknown.");
            let mut plan = failed(volume, &format!("Recycle failed: failed to recycle volume: {cause}"));
            let retry = pods::created(&pod.metadata) + RETRY;
            if retry <= context.now {
                plan.push(Op::delete(&*pod));
            } else {
                plan.requeue_at(retry, context.now);
            }
            plan
        }
        _ => Plan::idle(),
    }
}

fn failed(volume: &PersistentVolume, message: &str) -> Plan {
    match bind::set_phase(volume, "Failed", message) {
        Some(op) => Plan::of(vec![op, Op::warning(volume, "VolumeFailedRecycle", message)]),
        None => Plan::idle(),
    }
}

/// Whether a pod is one of ours, of this release: anybody may make one of that name, and it proves nothing.
fn is_it(pod: &Pod, scrubber: &Pod, volume: &PersistentVolume) -> bool {
    let does = |pod: &Pod| {
        let spec = pod.spec.clone().unwrap_or_default();
        let volumes = spec.volumes.unwrap_or_default();
        let sources = volumes.into_iter().filter(|v| v.name == "vol").map(|v| (v.host_path.map(|h| h.path), v.nfs));
        let commands = spec.containers.into_iter().map(|c| (c.image, c.command, c.args));
        let init = spec.init_containers.unwrap_or_default().len();
        (sources.collect::<Vec<_>>(), commands.collect::<Vec<_>>(), init)
    };
    let released = volume.status.as_ref().and_then(|status| status.last_phase_transition_time.as_ref());
    let is_new = released.is_none_or(|time| phase(volume) == "Failed" || pods::created(&pod.metadata) >= time.0);
    is_new && does(pod) == does(scrubber)
}

/// `None` for what nobody recycles.
fn scrubber(volume: &PersistentVolume) -> Option<Pod> {
    let spec = volume.spec.as_ref()?;
    let (source, (minimum, increment)) = match (&spec.host_path, &spec.nfs) {
        (Some(path), _) => {
            let path = kybern_api::core::v1::HostPathVolumeSource { path: path.path.clone(), type_: None };
            (Volume { host_path: Some(path), ..Volume::default() }, TIMEOUT[0])
        }
        (None, Some(nfs)) => (Volume { nfs: Some(nfs.clone()), ..Volume::default() }, TIMEOUT[1]),
        (None, None) => return None,
    };
    let gibibytes = matching::size(spec.capacity.as_ref()).value() >> 30;
    let mount = VolumeMount { name: "vol".into(), mount_path: "/scrub".into(), ..VolumeMount::default() };
    Some(Pod {
        metadata: ObjectMeta {
            name: Some(format!("{PREFIX}{}", volume.name())),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            active_deadline_seconds: Some((gibibytes * increment).max(minimum)),
            restart_policy: Some("Never".to_owned()),
            volumes: Some(vec![Volume { name: "vol".into(), ..source }]),
            containers: vec![Container {
                name: "pv-recycler".into(),
                image: Some(IMAGE.to_owned()),
                command: Some(vec!["/bin/sh".to_owned()]),
                args: Some(vec!["-c".to_owned(), SCRUB.to_owned()]),
                volume_mounts: Some(vec![mount]),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        status: None,
    })
}
