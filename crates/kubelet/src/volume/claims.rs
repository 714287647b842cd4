//! Claimed volumes: what a pod's claims are bound to, read anew for each pod (`pkg/kubelet/volumemanager/populator`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use kybern_api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kybern_api::node_affinity;
use kybern_api::{Object, owner};
use kybern_client::Client;
use parking_lot::Mutex;

use super::{hostpath, local_path, ownership};
use crate::pod::spec;

/// What a claim is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The volume's name in the API.
    pub volume: String,
    pub path: PathBuf,
    /// The type of a host path; `None` for a local volume.
    pub host_path: Option<String>,
    pub read_only: bool,
    /// One pod at a time may use it.
    pub alone: bool,
}

/// By the volume's name in the pod.
pub type Claims = BTreeMap<String, Bound>;

/// The claim that a volume of a pod stands for.
pub fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    match &volume.persistent_volume_claim {
        Some(source) => Some(source.claim_name.clone()),
        None => volume.ephemeral.is_some().then(|| format!("{}-{}", spec::name(pod), volume.name)),
    }
}

/// Finds what the claims of a pod are bound to, beside those that are known.
pub async fn resolve(client: &Client, node: &str, pod: &Pod, known: &Claims) -> Result<Claims, String> {
    let mut claims = known.clone();
    for volume in spec::spec(pod).volumes.iter().flatten().filter(|volume| !known.contains_key(&volume.name)) {
        let Some(name) = claim_name(pod, volume).filter(|_| is_used(pod, &volume.name)) else { continue };
        let own = format!("{}/{name}", spec::namespace(pod));
        let unprocessed = |cause: String| {
            let volume = &volume.name;
            format!(
                "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], failed to process \
                 volumes=[{volume}]: error processing PVC {own}: {cause}"
            )
        };
        let claim = client.get::<PersistentVolumeClaim>(spec::namespace(pod), &name).await;
        let claim = claim.map_err(|e| unprocessed(format!("failed to fetch PVC from API server: {e}")))?;
        let bound_to = of_claim(pod, volume, &claim).map_err(unprocessed)?.to_owned();
        let found = client.get::<PersistentVolume>("", &bound_to).await;
        let found = found.map_err(|e| unprocessed(format!("failed to fetch PV {bound_to} from API server: {e}")))?;
        let bound = of_volume(pod, volume, &claim, &found).map_err(unprocessed)?;
        if found.spec.as_ref().is_some_and(|spec| spec.node_affinity.is_some()) {
            let own = client.get::<Node>("", node).await.map_err(|e| unprocessed(e.to_string()))?;
            if !is_reachable(&found, &own) {
                return Err(format!(
                    "MountVolume.NodeAffinity check failed for volume {bound_to:?} : no matching NodeSelectorTerms"
                ));
            }
        }
        claims.insert(volume.name.clone(), bound);
    }
    Ok(claims)
}

fn is_used(pod: &Pod, volume: &str) -> bool {
    spec::containers(pod).iter().any(|(_, container)| {
        container.volume_mounts.iter().flatten().any(|mount| mount.name == volume)
            || container.volume_devices.iter().flatten().any(|device| device.name == volume)
    })
}

/// The name of the volume that a claim is bound to, where it may be used.
fn of_claim<'a>(pod: &Pod, volume: &Volume, claim: &'a PersistentVolumeClaim) -> Result<&'a str, String> {
    let protected = claim.metadata.finalizers.iter().flatten().any(|f| f == "kubernetes.io/pvc-protection");
    if claim.is_deleting() && !protected {
        return Err("PVC is being deleted".to_owned());
    }
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
        return Err("PVC is not bound".to_owned());
    }
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty());
    let name = name.ok_or("PVC has empty pvc.Spec.VolumeName")?;
    if volume.persistent_volume_claim.is_none() && !owner::is_controlled_by(&claim.metadata, pod) {
        let pod = format!("{}/{}", spec::namespace(pod), spec::name(pod));
        return Err(format!("PVC {} was not created for pod {pod} (pod is not owner)", claim.key()));
    }
    Ok(name)
}

fn of_volume(
    pod: &Pod,
    volume: &Volume,
    claim: &PersistentVolumeClaim,
    found: &PersistentVolume,
) -> Result<Bound, String> {
    let (name, spec) = (found.name(), found.spec.clone().unwrap_or_default());
    let Some(reference) = &spec.claim_ref else {
        return Err(format!(
            "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        ));
    };
    let uid = reference.uid.as_deref().unwrap_or("");
    if uid != claim.uid() {
        return Err(format!(
            "found PV object {name} but its pv.Spec.ClaimRef.UID {uid} does not point to claim.UID {}",
            claim.uid()
        ));
    }
    let mode = spec.volume_mode.as_deref().unwrap_or("Filesystem");
    let containers = spec::containers(pod);
    let mounted = containers.iter().flat_map(|(_, c)| c.volume_mounts.iter().flatten()).any(|m| m.name == volume.name);
    if mounted && mode != "Filesystem" {
        return Err(format!("volume {} has volumeMode {mode}, but is specified in volumeMounts", volume.name));
    }
    if !mounted && mode != "Block" {
        return Err(format!("volume {} has volumeMode {mode}, but is specified in volumeDevices", volume.name));
    }
    let (path, host_path) = match (mode, spec.host_path, spec.local) {
        ("Filesystem", Some(source), _) => (source.path, Some(source.type_.unwrap_or_default())),
        ("Filesystem", None, Some(source)) => (source.path, None),
        _ => return Err("no volume plugin matched: this kind of volume is not supported by the node".to_owned()),
    };
    let asked = volume.persistent_volume_claim.as_ref().and_then(|source| source.read_only);
    let modes = spec.access_modes.unwrap_or_default();
    Ok(Bound {
        volume: name.to_owned(),
        path: path.into(),
        host_path,
        read_only: asked.unwrap_or_default(),
        alone: modes == ["ReadWriteOncePod"],
    })
}

/// Whether a volume can be used on a node.
fn is_reachable(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) else { return true };
    node_affinity::selects(required, node)
}

/// Makes what a claim is bound to ready for a pod whose group is `group`. Blocking. `own` is where the node's own volumes lie.
pub fn set_up(bound: &Bound, own: &Path, group: Option<u32>, policy: Option<&str>) -> Result<(), String> {
    let failed = |cause: String| format!("MountVolume.SetUp failed for volume {:?} : {cause}", bound.volume);
    if let Some(kind) = &bound.host_path {
        return hostpath::prepare(&bound.path, kind).map_err(failed);
    }
    if bound.path.parent() == Some(own) {
        local_path::make(&bound.path).map_err(failed)?;
    } else if !bound.path.exists() {
        return Err(failed(format!("path {:?} does not exist", bound.path.display().to_string())));
    }
    match group.filter(|_| !bound.read_only) {
        Some(group) => ownership::give(&bound.path, group, policy == Some("OnRootMismatch"))
            .map_err(|e| failed(format!("cannot give it to the group {group}: {e}"))),
        None => Ok(()),
    }
}

/// Which pods use which volumes on this node.
#[derive(Default)]
pub struct Holders(Mutex<HashMap<String, BTreeSet<String>>>);

impl Holders {
    /// Notes that a pod uses a volume, unless another does that may not be joined.
    pub fn hold(&self, bound: &Bound, pod: &str) -> Result<(), String> {
        let mut held = self.0.lock();
        let pods = held.entry(bound.volume.clone()).or_default();
        if bound.alone && pods.iter().any(|other| other != pod) {
            return Err(format!(
                "MountVolume.SetUp failed for volume {:?} : volume uses the ReadWriteOncePod access mode and is already in \
                 use by another pod",
                bound.volume
            ));
        }
        pods.insert(pod.to_owned());
        Ok(())
    }

    /// Notes that a pod uses nothing any more.
    pub fn release(&self, pod: &str) {
        self.0.lock().retain(|_, pods| {
            pods.remove(pod);
            !pods.is_empty()
        });
    }

    pub fn are_there(&self, volume: &str) -> bool {
        self.0.lock().contains_key(volume)
    }
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::{Value, json};

    use super::*;

    fn object<K: Object>(value: Value) -> K {
        K::from_json(value.to_string().as_bytes()).unwrap()
    }

    fn user() -> (Pod, Volume) {
        let pod: Pod = object(json!({
            "metadata": {"name": "p", "namespace": "default", "uid": "p-uid"},
            "spec": {
                "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data", "readOnly": true}}],
            },
        }));
        let volume = spec::spec(&pod).volumes.as_ref().unwrap()[0].clone();
        (pod, volume)
    }

    fn claim(finalizer: &str, deleted: Value, name: &str, phase: &str) -> PersistentVolumeClaim {
        let metadata = json!({
            "name": "data", "namespace": "default", "uid": "uid-data", "finalizers": [finalizer], "deletionTimestamp": deleted,
        });
        object(json!({"metadata": metadata, "spec": {"volumeName": name}, "status": {"phase": phase}}))
    }

    fn bound_claim() -> PersistentVolumeClaim {
        claim("x", Value::Null, "disk", "Bound")
    }

    /// A local volume of that claim, but for what `change` says.
    fn disk(change: Value) -> PersistentVolume {
        let mut spec = json!({"claimRef": {"uid": "uid-data"}, "local": {"path": "/mnt/disk"}});
        for (key, value) in change.as_object().unwrap() {
            spec[key] = value.clone();
        }
        object(json!({"metadata": {"name": "disk"}, "spec": spec}))
    }

    #[test]
    fn a_claim_that_may_not_be_used_says_why() {
        let (pod, mut volume) = user();
        let check = |claim: PersistentVolumeClaim, expect: Result<&str, &str>| {
            assert_eq!(of_claim(&pod, &volume, &claim), expect.map_err(str::to_owned));
        };
        let gone = || json!("2026-01-01T00:00:00Z");
        check(bound_claim(), Ok("disk"));
        check(claim("x", Value::Null, "disk", "Pending"), Err("PVC is not bound"));
        check(claim("x", Value::Null, "", "Bound"), Err("PVC has empty pvc.Spec.VolumeName"));
        check(claim("x", gone(), "disk", "Bound"), Err("PVC is being deleted"));
        check(claim("kubernetes.io/pvc-protection", gone(), "disk", "Bound"), Ok("disk"));
        volume.persistent_volume_claim = None;
        volume.ephemeral = Some(Default::default());
        assert_eq!(claim_name(&pod, &volume).as_deref(), Some("p-v"));
        let stranger = of_claim(&pod, &volume, &bound_claim()).unwrap_err();
        assert_eq!(stranger, "PVC default/data was not created for pod default/p (pod is not owner)");
    }

    #[test]
    fn a_volume_is_its_claims_or_is_not_mounted() {
        let check = |change: Value, expect: Result<(&str, Option<&str>, bool), &str>| {
            let (pod, volume) = user();
            match (of_volume(&pod, &volume, &bound_claim(), &disk(change)), expect) {
                (Ok(bound), Ok(expect)) => {
                    let got = (bound.path.to_str().unwrap(), bound.host_path.as_deref(), bound.alone);
                    assert_eq!((got, bound.read_only), (expect, true));
                }
                (Err(cause), Err(expect)) => assert!(cause.contains(expect), "{cause}"),
                (got, expect) => panic!("{got:?}, not {expect:?}"),
            }
        };
        check(json!({}), Ok(("/mnt/disk", None, false)));
        let host = json!({"hostPath": {"path": "/srv", "type": "Directory"}, "accessModes": ["ReadWriteOncePod"]});
        check(host, Ok(("/srv", Some("Directory"), true)));
        check(json!({"claimRef": null}), Err("nil pv.Spec.ClaimRef"));
        let stolen = "pv.Spec.ClaimRef.UID x does not point to claim.UID uid-data";
        check(json!({"claimRef": {"uid": "x"}}), Err(stolen));
        let block = "volume v has volumeMode Block, but is specified in volumeMounts";
        check(json!({"volumeMode": "Block"}), Err(block));
        check(json!({"local": null, "nfs": {"server": "s", "path": "/"}}), Err("no volume plugin matched"));
    }

    #[test]
    fn a_volume_of_another_node_is_not_this_ones() {
        let on = |value: &str| {
            let own = json!([{"key": "kubernetes.io/hostname", "operator": "In", "values": [value]}]);
            disk(json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": own}]}}}))
        };
        let node = object(json!({"metadata": {"name": "a", "labels": {"kubernetes.io/hostname": "a"}}}));
        assert!(is_reachable(&on("a"), &node) && is_reachable(&disk(json!({})), &node));
        assert!(!is_reachable(&on("b"), &node));
        let none = disk(json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{}]}}}));
        assert!(!is_reachable(&none, &node), "an empty term is nobody's");
    }

    fn bound(path: &Path, alone: bool) -> Bound {
        Bound { volume: "disk".into(), path: path.into(), host_path: None, read_only: false, alone }
    }

    #[test]
    fn one_pod_at_a_time() {
        let (holders, path) = (Holders::default(), Path::new("/x"));
        holders.hold(&bound(path, true), "a").unwrap();
        holders.hold(&bound(path, true), "a").unwrap();
        assert!(holders.hold(&bound(path, true), "b").unwrap_err().contains("already in use by another pod"));
        assert!(holders.are_there("disk"));
        holders.release("a");
        assert!(!holders.are_there("disk"));
        holders.hold(&bound(path, false), "b").unwrap();
        holders.hold(&bound(path, false), "c").unwrap();
    }

    #[test]
    fn folders_of_the_node_are_made_and_no_others() {
        let temp = tempfile::tempdir().unwrap();
        let own = temp.path().join("volumes");
        let prepare = |path: &Path| set_up(&bound(path, false), &own, None, None);
        prepare(&own.join("pvc-1")).unwrap();
        std::fs::write(own.join("pvc-1/data"), "x").unwrap();
        prepare(&own.join("pvc-1")).unwrap();
        assert!(own.join("pvc-1/data").exists(), "what is there stays");
        for path in [temp.path().join("elsewhere"), own.join("pvc-1/../pvc-2"), own.join("a/b")] {
            let error = prepare(&path).unwrap_err();
            assert!(error.contains("does not exist"), "{error}");
        }
        std::os::unix::fs::symlink("/etc", own.join("pvc-3")).unwrap();
        prepare(&own.join("pvc-3")).unwrap_err();
    }
}
