//! Volumes of pods. What is wrong with a volume's name comes after what is wrong with its source, and a volume with any
//! fault is not there for mounts to find, as upstream has it.

pub(crate) mod mount;
mod projected;
pub(crate) mod source;

use std::collections::{BTreeMap, BTreeSet};

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_label, dns1123_subdomain};

use super::claim;
use super::format::{self, Errors};
use crate::tree::{has, list, text};

/// A pod's sound volumes by name.
pub(crate) type Volumes<'a> = BTreeMap<&'a str, &'a Value>;

pub(crate) type Check = fn(&mut Errors, &FieldPath, &Value);

/// A type of volume: its field, what it is called where another was given before, what it is called in the path of its own
/// faults, and its check.
pub(crate) type Source = (&'static str, &'static str, &'static str, Check);

/// In the order in which upstream looks at them.
const SOURCES: [Source; 30] = [
    ("emptyDir", "emptyDir", "emptyDir", source::empty_dir),
    ("hostPath", "hostPath", "hostPath", source::host_path),
    ("gitRepo", "gitRepo", "gitRepo", source::git_repo),
    ("gcePersistentDisk", "gcePersistentDisk", "persistentDisk", source::gce_disk),
    ("awsElasticBlockStore", "awsElasticBlockStore", "awsElasticBlockStore", source::aws_disk),
    ("secret", "secret", "secret", source::secret),
    ("nfs", "nfs", "nfs", source::nfs),
    ("iscsi", "iscsi", "iscsi", source::iscsi),
    ("glusterfs", "glusterfs", "glusterfs", source::glusterfs),
    ("flocker", "flocker", "flocker", source::flocker),
    ("persistentVolumeClaim", "persistentVolumeClaim", "persistentVolumeClaim", source::claim_name),
    ("rbd", "rbd", "rbd", source::rbd),
    ("cinder", "cinder", "cinder", source::cinder),
    ("cephfs", "cephFS", "cephfs", source::cephfs),
    ("quobyte", "quobyte", "quobyte", source::quobyte),
    ("downwardAPI", "downwarAPI", "downwardAPI", projected::downward_api),
    ("fc", "fc", "fc", source::fibre_channel),
    ("flexVolume", "flexVolume", "flexVolume", source::flex),
    ("configMap", "configMap", "configMap", source::config_map),
    ("azureFile", "azureFile", "azureFile", source::azure_file),
    ("vsphereVolume", "vsphereVolume", "vsphereVolume", source::vsphere),
    ("photonPersistentDisk", "photonPersistentDisk", "photonPersistentDisk", source::photon),
    ("portworxVolume", "portworxVolume", "portworxVolume", source::portworx),
    ("azureDisk", "azureDisk", "azureDisk", source::azure_disk),
    ("storageos", "storageos", "storageos", source::storage_os),
    ("projected", "projected", "projected", projected::projected),
    ("scaleIO", "scaleIO", "scaleIO", source::scale_io),
    ("csi", "csi", "csi", source::csi),
    ("ephemeral", "ephemeral", "ephemeral", ephemeral),
    ("image", "image", "image", source::image),
];

/// The one source of a volume, of the types in `table`; answers whether there is any.
pub(crate) fn one_of(out: &mut Errors, path: &FieldPath, volume: &Value, table: &[Source]) -> bool {
    let mut found = false;
    for (field, other, own, check) in table.iter().filter(|(field, ..)| has(volume, field)) {
        if found {
            out.push(FieldError::forbidden(&path.child(other), "may not specify more than 1 volume type"));
        } else {
            check(out, &path.child(own), &volume[*field]);
        }
        found = true;
    }
    found
}

/// The volumes of a pod's spec; answers the sound ones. `meta`: the metadata of the pod, if it is one and no template.
pub(crate) fn volumes<'a>(out: &mut Errors, path: &FieldPath, spec: &'a Value, meta: Option<&Value>) -> Volumes<'a> {
    let pod = meta.map_or("", |meta| text(meta, "name"));
    let mut created = BTreeSet::new();
    if !pod.is_empty() {
        let ephemeral = list(spec, "volumes").iter().filter(|v| has(v, "ephemeral"));
        created.extend(ephemeral.map(|v| format!("{pod}-{}", text(v, "name"))));
    }
    let mut sound = Volumes::new();
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        let (path, name, mut faults) = (path.child("volumes").index(i), text(volume, "name"), Errors::new());
        source_of(&mut faults, &path, volume, meta);
        format::required_name(&mut faults, &path.child("name"), name, dns1123_label);
        if sound.contains_key(name) {
            faults.push(FieldError::duplicate(&path.child("name"), name));
        }
        if faults.is_empty() {
            sound.insert(name, volume);
        }
        out.append(&mut faults);
        let claim = text(&volume["persistentVolumeClaim"], "claimName");
        if created.contains(claim) {
            let path = path.child("persistentVolumeClaim").child("claimName");
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            out.push(FieldError::invalid(&path, claim, detail));
        }
    }
    sound
}

fn source_of(out: &mut Errors, path: &FieldPath, volume: &Value, meta: Option<&Value>) {
    let name = text(volume, "name");
    if !one_of(out, path, volume, &SOURCES) {
        out.push(FieldError::required(path, "must specify a volume type"));
    }
    let iscsi = &volume["iscsi"];
    if has(iscsi, "initiatorName") && name.len() + 1 + text(iscsi, "targetPortal").len() > 64 {
        out.push(FieldError::invalid(&path.child("name"), name, source::ISCSI_TOO_LONG));
    }
    let pod = meta.map_or("", |meta| text(meta, "name"));
    if has(volume, "ephemeral") && !pod.is_empty() && !name.is_empty() {
        let claim = format!("{pod}-{name}");
        let texts = dns1123_subdomain(&claim).into_iter().map(|text| format!("PVC name {claim:?}: {text}"));
        format::invalid(out, &path.child("name"), name, texts.collect());
    }
    // A template may leave the image to whoever fills it in.
    if meta.is_some() && has(volume, "image") && text(&volume["image"], "reference").is_empty() {
        out.push(FieldError::required(&path.child("image").child("reference"), ""));
    }
}

fn ephemeral(out: &mut Errors, path: &FieldPath, value: &Value) {
    let path = path.child("volumeClaimTemplate");
    match value.get("volumeClaimTemplate").filter(|t| !t.is_null()) {
        None => out.push(FieldError::required(&path, "")),
        Some(template) => {
            super::meta::template(out, &path.child("metadata"), &template["metadata"]);
            claim::spec(out, &path.child("spec"), &template["spec"]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn a_volume_has_one_source() {
        let check = |volume: Value, expect: &str| {
            let mut out = Vec::new();
            volumes(&mut out, &FieldPath::new("spec"), &json!({"volumes": [volume]}), None);
            assert_eq!(out.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "), expect);
        };
        check(json!({"name": "a", "emptyDir": {}}), "");
        check(json!({"name": "a"}), "spec.volumes[0]: Required value: must specify a volume type");
        check(
            json!({"name": "", "gcePersistentDisk": {}}),
            "spec.volumes[0].persistentDisk.pdName: Required value; spec.volumes[0].name: Required value",
        );
        check(
            json!({"name": "a", "emptyDir": {}, "hostPath": {"path": "/x"}}),
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        );
        check(
            json!({"name": "a", "configMap": {"name": "c", "items": [{"key": "k", "path": "..x"}]}}),
            "spec.volumes[0].configMap.items[0].path: Invalid value: \"..x\": must not start with '..'",
        );
        let token = json!({"serviceAccountToken": {"path": "t", "expirationSeconds": 1}});
        check(
            json!({"name": "a", "projected": {"sources": [token]}}),
            "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
        );
    }

    #[test]
    fn a_claim_of_the_pods_own_is_not_named() {
        let spec = json!({"volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "p-b"}}, {"name": "b", "ephemeral": {}}]});
        let mut out = Vec::new();
        volumes(&mut out, &FieldPath::new("spec"), &spec, Some(&json!({"name": "p"})));
        assert!(out[0].to_string().ends_with("must not reference a PVC that gets created for an ephemeral volume"));
    }
}
