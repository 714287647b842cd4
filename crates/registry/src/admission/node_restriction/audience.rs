//! For whom a kubelet may get a pod's tokens (`ServiceAccountNodeAudienceRestriction`): for those that the pod's volumes
//! or its volumes' drivers name, and for those that the cluster's administrator allows.

use kybern_apimachinery::{Value, object};
use kybern_apiserver::access::{Attributes, Authorizer};
use kybern_apiserver::admission::AdmissionRequest;
use kybern_apiserver::connect::Objects;

use super::{Verdict, forbid};
use crate::tree::{has, list, text};

/// The drivers that took over from the volumes that were once built in.
const MIGRATED: [(&str, &str); 7] = [
    ("awsElasticBlockStore", "ebs.csi.aws.com"),
    ("azureDisk", "disk.csi.azure.com"),
    ("azureFile", "file.csi.azure.com"),
    ("cinder", "cinder.csi.openstack.org"),
    ("gcePersistentDisk", "pd.csi.storage.gke.io"),
    ("portworxVolume", "pxd.portworx.com"),
    ("vsphereVolume", "csi.vsphere.vmware.com"),
];

pub(super) async fn check(
    authorizer: &dyn Authorizer,
    request: &AdmissionRequest<'_>,
    spec: &Value,
    pod: &Value,
    objects: &dyn Objects,
) -> Verdict {
    let audience = match list(spec, "audiences") {
        [] => "",
        [one] => one.as_str().unwrap_or(""),
        _ => return forbid("node may only request 0 or 1 audiences"),
    };
    let mut problems = Vec::new();
    for volume in list(&pod["spec"], "volumes") {
        let sources = list(&volume["projected"], "sources").iter().map(|s| &s["serviceAccountToken"]);
        if sources.filter(|s| s.is_object()).any(|s| text(s, "audience") == audience) {
            return Ok(());
        }
        match driver_asks(volume, pod, audience, objects).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return forbid(format!("error validating audience {audience:?}: {}", problems.join(", ")));
    }
    let attributes = Attributes {
        user: request.user.clone(),
        verb: "request-serviceaccounts-token-audience".to_owned(),
        resource_request: true,
        version: "v1".to_owned(),
        resource: audience.to_owned(),
        namespace: request.namespace.to_owned(),
        name: request.name.to_owned(),
        ..Attributes::default()
    };
    if authorizer.allows(&attributes).await {
        return Ok(());
    }
    let user = &request.user.name;
    forbid(format!(
        "audience {audience:?} not found in pod spec volume, {user} is not authorized to request tokens for this audience"
    ))
}

/// Whether the driver of a volume wants tokens for an audience.
async fn driver_asks(volume: &Value, pod: &Value, audience: &str, objects: &dyn Objects) -> Result<bool, String> {
    let driver = if has(volume, "ephemeral") {
        let claim = format!("{}-{}", object::name(pod), text(volume, "name"));
        claim_driver(object::namespace(pod), &claim, objects).await?
    } else if has(volume, "persistentVolumeClaim") {
        let claim = text(&volume["persistentVolumeClaim"], "claimName");
        claim_driver(object::namespace(pod), claim, objects).await?
    } else {
        driver(volume)
    };
    if driver.is_empty() {
        return Ok(false);
    }
    let found = objects.get("storage.k8s.io", "csidrivers", "", &driver).await.map_err(|e| e.message().to_owned())?;
    Ok(list(&found["spec"], "tokenRequests").iter().any(|r| text(r, "audience") == audience))
}

fn driver(source: &Value) -> String {
    let own = text(&source["csi"], "driver");
    let migrated = MIGRATED.iter().find(|(field, _)| has(source, field)).map_or("", |(_, driver)| driver);
    if own.is_empty() { migrated } else { own }.to_owned()
}

async fn claim_driver(namespace: &str, claim: &str, objects: &dyn Objects) -> Result<String, String> {
    let text_of = |e: kybern_apimachinery::ApiError| e.message().to_owned();
    let claim = objects.get("", "persistentvolumeclaims", namespace, claim).await.map_err(text_of)?;
    let name = object::str_at(&claim, &["spec", "volumeName"]);
    let volume = objects.get("", "persistentvolumes", "", name).await.map_err(text_of)?;
    Ok(driver(&volume["spec"]))
}
