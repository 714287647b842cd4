//! What a kubelet does with pods: it makes mirrors of those that it has from files, reports, deletes and evicts.

use kybern_apimachinery::{Value, object};
use kybern_apiserver::admission::{AdmissionRequest, Operation};
use kybern_apiserver::connect::Objects;
use kybern_auth::authz::node::{Kind, MIRROR, references};

use super::{Refusal, Verdict, forbid, operation};
use crate::tree::{flag, has, list, text};

fn node_name(pod: &Value) -> &str {
    object::str_at(pod, &["spec", "nodeName"])
}

pub(super) async fn write(
    node: &str,
    request: &AdmissionRequest<'_>,
    object: Option<&Value>,
    objects: &dyn Objects,
) -> Verdict {
    match (request.operation, object, request.old) {
        (Operation::Create, Some(pod), _) => {
            mirror(node, pod)?;
            // The name is not enough: a node of that name may have been there before.
            let real = objects.get("", "nodes", "", node).await?;
            let owner = list(&pod["metadata"], "ownerReferences").first().map_or("", |o| text(o, "uid"));
            if owner != object::uid(&real) {
                let expected = object::uid(&real);
                return forbid(format!("node {node} UID mismatch: expected {owner} got {expected}"));
            }
            references_nothing(node, pod)
        }
        (Operation::Delete, _, Some(pod)) if node_name(pod) == node => Ok(()),
        (Operation::Delete, ..) => {
            forbid(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
        }
        _ => forbid(format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            operation(request)
        )),
    }
}

fn mirror(node: &str, pod: &Value) -> Verdict {
    if object::annotation(pod, MIRROR).is_none() {
        return forbid(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
    }
    if node_name(pod) != node {
        return forbid(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owner = match list(&pod["metadata"], "ownerReferences") {
        [owner] => owner,
        [] => {
            return forbid(format!("node {node:?} can only create pods with an owner reference set to itself"));
        }
        _ => {
            return forbid(format!("node {node:?} can only create pods with a single owner reference set to itself"));
        }
    };
    if text(owner, "apiVersion") != "v1" || text(owner, "kind") != "Node" || text(owner, "name") != node {
        return forbid(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if !flag(owner, "controller") {
        return forbid(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
    }
    if flag(owner, "blockOwnerDeletion") {
        return forbid(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    Ok(())
}

/// A pod that a node makes names no other object: it would give the node the right to read that.
fn references_nothing(node: &str, pod: &Value) -> Verdict {
    match referenced(pod)? {
        None => Ok(()),
        Some(resource) => forbid(format!("node {node:?} can not create pods that reference {resource}")),
    }
}

fn referenced(pod: &Value) -> Result<Option<&'static str>, Refusal> {
    let names = references(pod);
    let refers = |kind: Kind| names.iter().any(|(k, _)| *k == kind);
    let spec = &pod["spec"];
    if refers(Kind::ServiceAccount) {
        return Ok(Some("serviceaccounts"));
    }
    if refers(Kind::Secret) {
        return Ok(Some("secrets"));
    }
    if refers(Kind::ConfigMap) {
        return Ok(Some("configmaps"));
    }
    if !list(spec, "resourceClaims").is_empty() || refers(Kind::ResourceClaim) {
        return Ok(Some("resourceclaims"));
    }
    for volume in list(spec, "volumes") {
        let source = volume.as_object().into_iter().flatten().find(|(k, v)| *k != "name" && !v.is_null());
        let name = text(volume, "name");
        let found = match source.map(|(field, _)| field.as_str()) {
            Some(field) if PLAIN_VOLUMES.contains(&field) => continue,
            Some("configMap") => "configmaps (via configmap volumes)",
            Some("secret") => "secrets (via secret volumes)",
            Some("csi") => "csidrivers (via CSI volumes)",
            Some("glusterfs") => "endpoints (via glusterFS volumes)",
            Some("persistentVolumeClaim") => "persistentvolumeclaims",
            Some("ephemeral") => "persistentvolumeclaims (via ephemeral volumes)",
            Some("azureFile") => "secrets (via azureFile volumes)",
            Some("projected") => match projected(volume, name)? {
                Some(found) => found,
                None => continue,
            },
            _ => {
                let text = format!("unknown volume type for volume  {name:?}");
                return Err(Refusal::Forbidden(format!("error checking mirror pod for API references: {text}")));
            }
        };
        return Ok(Some(found));
    }
    Ok(None)
}

/// Volumes that need no object of the API.
const PLAIN_VOLUMES: [&str; 23] = [
    "awsElasticBlockStore",
    "azureDisk",
    "cephfs",
    "cinder",
    "downwardAPI",
    "emptyDir",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "storageOS",
    "vsphereVolume",
];

fn projected(volume: &Value, name: &str) -> Result<Option<&'static str>, Refusal> {
    for source in list(&volume["projected"], "sources") {
        return Ok(Some(match () {
            () if has(source, "configMap") => "configmaps (via projected volumes)",
            () if has(source, "secret") => "secrets (via projected volumes)",
            () if has(source, "serviceAccountToken") => "serviceaccounts (via projected volumes)",
            () if has(source, "clusterTrustBundle") => "clustertrustbundles",
            () if has(source, "podCertificate") => "podcertificates",
            () if has(source, "downwardAPI") => continue,
            () => {
                let text = format!("unknown source for projected volume {name:?}");
                return Err(Refusal::Forbidden(format!("error checking mirror pod for API references: {text}")));
            }
        }));
    }
    Ok(None)
}

pub(super) fn status(node: &str, request: &AdmissionRequest<'_>, object: Option<&Value>) -> Verdict {
    let (Operation::Update, Some(new), Some(old)) = (request.operation, object, request.old) else {
        return forbid(format!("unexpected operation {:?}", operation(request)));
    };
    if node_name(old) != node {
        return forbid(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    let labels = |pod: &Value| object::labels(pod).cloned().unwrap_or_default();
    if labels(new) != labels(old) {
        return forbid(format!("node {node:?} cannot update labels through pod status"));
    }
    // By these, the node is given the right to read claims.
    if list(&new["status"], "resourceClaimStatuses") != list(&old["status"], "resourceClaimStatuses") {
        return forbid(format!("node {node:?} cannot update resource claim statues"));
    }
    if new["status"]["extendedResourceClaimStatus"] != old["status"]["extendedResourceClaimStatus"] {
        return forbid(format!("node {node:?} cannot update extended resource claim status"));
    }
    Ok(())
}

pub(super) async fn eviction(node: &str, request: &AdmissionRequest<'_>, objects: &dyn Objects) -> Verdict {
    if request.operation != Operation::Create {
        return forbid(format!("unexpected operation {}", operation(request)));
    }
    if request.name.is_empty() {
        return forbid("could not determine pod from request data");
    }
    let pod = objects.get("", "pods", request.namespace, request.name).await?;
    if node_name(&pod) != node {
        return forbid(format!("node {node} can only evict pods with spec.nodeName set to itself"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn what_a_mirror_pod_may_not_name() {
        let check = |spec: Value, expect: Option<&str>| {
            let found = referenced(&json!({"metadata": {"name": "p"}, "spec": spec})).unwrap_or(Some("?"));
            assert_eq!(found, expect, "{spec}");
        };
        let volume = |source: Value| {
            let mut volume = source;
            volume["name"] = "v".into();
            json!({"volumes": [volume]})
        };
        check(json!({}), None);
        check(json!({"serviceAccountName": "x"}), Some("serviceaccounts"));
        check(json!({"imagePullSecrets": [{"name": "x"}]}), Some("secrets"));
        check(json!({"containers": [{"envFrom": [{"configMapRef": {"name": "x"}}]}]}), Some("configmaps"));
        check(json!({"resourceClaims": [{"name": "x"}]}), Some("resourceclaims"));
        check(volume(json!({"hostPath": {"path": "/"}})), None);
        check(volume(json!({"secret": {}})), Some("secrets (via secret volumes)"));
        check(volume(json!({"persistentVolumeClaim": {"claimName": "c"}})), Some("persistentvolumeclaims"));
        check(volume(json!({"ephemeral": {}})), Some("persistentvolumeclaims (via ephemeral volumes)"));
        check(volume(json!({"csi": {"driver": "d"}})), Some("csidrivers (via CSI volumes)"));
        check(volume(json!({"projected": {"sources": [{"downwardAPI": {}}]}})), None);
        let token = json!({"projected": {"sources": [{"downwardAPI": {}}, {"serviceAccountToken": {"path": "t"}}]}});
        check(volume(token), Some("serviceaccounts (via projected volumes)"));
        check(volume(json!({"projected": {"sources": [{"newer": {}}]}})), Some("?"));
        check(volume(json!({"newer": {}})), Some("?"));
    }
}
