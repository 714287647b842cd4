//! `NodeRestriction`: a kubelet writes its own node, its own lease and the pods on its node, and nothing else.

mod audience;
mod node;
mod pod;

use std::sync::Arc;

use kybern_apimachinery::{ApiError, Value, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::Authorizer;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};
use kybern_apiserver::connect::{Objects, ObjectsSlot};
use kybern_auth::authz::node::node_of;

use crate::tree::{drop_field, text};

pub(super) struct NodeRestriction {
    objects: ObjectsSlot,
    authorizer: Arc<dyn Authorizer>,
}

/// Why not. What is not found is said as it is, since nothing is learnt from it.
enum Refusal {
    Forbidden(String),
    Other(ApiError),
}

type Verdict = Result<(), Refusal>;

fn forbid(cause: impl Into<String>) -> Verdict {
    Err(Refusal::Forbidden(cause.into()))
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        match error.code() {
            404 => Self::Other(error),
            _ => Self::Forbidden(error.message().to_owned()),
        }
    }
}

/// Upstream's name of an operation, in refusals.
fn operation(request: &AdmissionRequest<'_>) -> &'static str {
    match request.operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

impl NodeRestriction {
    pub(super) fn new(objects: ObjectsSlot, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { objects, authorizer }
    }

    async fn judge(&self, node: &str, request: &AdmissionRequest<'_>, object: Option<&Value>) -> Verdict {
        let objects = self.objects.get()?;
        let objects = &*objects;
        let gvr = &request.resource.gvr;
        match (gvr.group.as_str(), gvr.resource.as_str(), request.subresource) {
            ("", "pods", "") => pod::write(node, request, object, objects).await,
            ("", "pods", "status") => pod::status(node, request, object),
            ("", "pods", "eviction") => pod::eviction(node, request, objects).await,
            ("", "pods", other) => {
                forbid(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
            }
            ("", "nodes", _) => node::write(node, request, object),
            ("", "persistentvolumeclaims", "status") => claim_status(node, request, object),
            ("", "persistentvolumeclaims", _) => forbid("may only update PVC status"),
            ("", "serviceaccounts", "token") if request.operation == Operation::Create => {
                self.token(node, request, object, objects).await
            }
            ("coordination.k8s.io", "leases", _) => lease(node, request.namespace, request.name),
            ("storage.k8s.io", "csinodes", _) if request.name != node => {
                forbid("can only access CSINode with the same name as the requesting node")
            }
            ("resource.k8s.io", "resourceslices", _) => slice(node, request, object),
            ("certificates.k8s.io", "certificatesigningrequests", "") => signing_request(node, request, object),
            _ => Ok(()),
        }
    }

    /// A kubelet gets tokens for the pods that it runs, and for what these are to be used with.
    async fn token(
        &self,
        node: &str,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        objects: &dyn Objects,
    ) -> Verdict {
        let spec = object.map_or(&Value::Null, |o| &o["spec"]);
        let reference = &spec["boundObjectRef"];
        let (name, uid) = (text(reference, "name"), text(reference, "uid"));
        if text(reference, "apiVersion") != "v1" || text(reference, "kind") != "Pod" || name.is_empty() {
            return forbid("node requested token not bound to a pod");
        }
        if uid.is_empty() {
            return forbid("node requested token with a pod binding without a uid");
        }
        let pod = objects.get("", "pods", request.namespace, name).await?;
        if uid != object::uid(&pod) {
            return forbid(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            ));
        }
        if object::str_at(&pod, &["spec", "nodeName"]) != node {
            return forbid("node requested token bound to a pod scheduled on a different node");
        }
        audience::check(&*self.authorizer, request, spec, &pod, objects).await
    }
}

impl AdmissionPlugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, step: Step, _: Operation) -> bool {
        step == Step::Admit
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let Some(node) = node_of(request.user) else {
            return Box::pin(async { Ok(()) });
        };
        Box::pin(async move {
            self.judge(node, request, object.as_deref()).await.map_err(|refusal| match refusal {
                Refusal::Forbidden(cause) => {
                    ApiError::forbidden(&request.resource.gvr.group_resource(), request.name, &cause)
                }
                Refusal::Other(error) => error,
            })
        })
    }
}

/// What a kubelet reports of a claim that it resizes.
fn claim_status(node: &str, request: &AdmissionRequest<'_>, object: Option<&Value>) -> Verdict {
    let (Operation::Update, Some(new), Some(old)) = (request.operation, object, request.old) else {
        return forbid(format!("unexpected operation {:?}", operation(request)));
    };
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        for field in ["resourceVersion", "managedFields"] {
            drop_field(&mut claim["metadata"], field);
        }
        let mut status = claim["status"].take();
        for field in ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"] {
            drop_field(&mut status, field);
        }
        // A status in which nothing else is set is none.
        (claim, status.as_object().filter(|s| !s.is_empty()).cloned())
    };
    if rest(new) == rest(old) {
        return Ok(());
    }
    forbid(format!("node {node:?} is not allowed to update fields other than status.quantity and status.conditions"))
}

fn lease(node: &str, namespace: &str, name: &str) -> Verdict {
    if namespace != "kube-node-lease" {
        return forbid("can only access leases in the \"kube-node-lease\" system namespace");
    }
    if name != node {
        return forbid("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

/// Updates are the Node authorizer's business, which knows the slices by their names.
fn slice(node: &str, request: &AdmissionRequest<'_>, object: Option<&Value>) -> Verdict {
    let own = |slice: Option<&Value>| slice.is_some_and(|s| object::str_at(s, &["spec", "nodeName"]) == node);
    match request.operation {
        Operation::Create if !own(object) => {
            forbid("can only create ResourceSlice with the same NodeName as the requesting node")
        }
        Operation::Delete if !own(request.old) => {
            forbid("can only delete ResourceSlice with the same NodeName as the requesting node")
        }
        _ => Ok(()),
    }
}

/// A kubelet asks for certificates in its own name alone.
fn signing_request(node: &str, request: &AdmissionRequest<'_>, object: Option<&Value>) -> Verdict {
    const OF_KUBELETS: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
    let spec = object.map_or(&Value::Null, |o| &o["spec"]);
    if request.operation != Operation::Create || !OF_KUBELETS.contains(&text(spec, "signerName")) {
        return Ok(());
    }
    let name = kybern_auth::pki::SigningRequest::from_base64(text(spec, "request"))
        .map_err(|cause| Refusal::Forbidden(format!("unable to parse csr: {cause}")))?
        .common_name;
    if name != format!("system:node:{node}") {
        return forbid(format!("can only create a node CSR with CN=system:node:{node}"));
    }
    Ok(())
}
