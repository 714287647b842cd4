//! Asking a provisioner for a volume. There is none in this program that is not asked as all others are.

use kybern_api::core::v1::PersistentVolumeClaim;

use super::{BETA_PROVISIONER, PROVISIONER, annotate, annotation, class_of_claim};
use crate::controller::{Op, Plan};
use crate::snapshot::Snapshot;

/// Provisioners that upstream once had in itself, and the drivers that took their place.
const MIGRATED: [(&str, &str); 7] = [
    ("kubernetes.io/aws-ebs", "ebs.csi.aws.com"),
    ("kubernetes.io/azure-disk", "disk.csi.azure.com"),
    ("kubernetes.io/azure-file", "file.csi.azure.com"),
    ("kubernetes.io/cinder", "cinder.csi.openstack.org"),
    ("kubernetes.io/gce-pd", "pd.csi.storage.gke.io"),
    ("kubernetes.io/portworx-volume", "pxd.portworx.com"),
    ("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"),
];

pub(super) fn plan(claim: &PersistentVolumeClaim, snapshot: &Snapshot) -> Plan {
    let failed = |message: String| Plan::of(vec![Op::warning(claim, "ProvisioningFailed", message)]);
    let name = class_of_claim(claim);
    let Some(class) = snapshot.storage_classes.get(name) else {
        return failed(format!("storageclass.storage.k8s.io {name:?} not found"));
    };
    let provisioner = class.provisioner.as_str();
    let provisioner = match MIGRATED.iter().find(|(old, _)| *old == provisioner) {
        Some((_, driver)) => *driver,
        None if provisioner.starts_with("kubernetes.io/") => {
            return failed(format!("no volume plugin matched name: {provisioner}"));
        }
        None => provisioner,
    };
    if annotation(&claim.metadata, PROVISIONER) != Some(provisioner) {
        let mut new = claim.clone();
        annotate(&mut new.metadata, BETA_PROVISIONER, provisioner);
        annotate(&mut new.metadata, PROVISIONER, provisioner);
        return Plan::of(vec![Op::update(&new)]);
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
         administrator. If volume creation is delayed, please verify that the provisioner is running and correctly \
         registered."
    );
    Plan::of(vec![Op::normal(claim, "ExternalProvisioning", message)])
}
