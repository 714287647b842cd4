//! `csrapproving`: client certificates that kubelets ask for are approved where a right says so
//! (`pkg/controller/certificates/approver`). Serving certificates never are: nobody here knows whose addresses they name.

use kybern_api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kybern_api::encode;
use kybern_api::meta::v1::Time;
use kybern_apimachinery::{Value, json};

use crate::certificates::{self, KUBE_APISERVER_CLIENT_KUBELET};
use crate::controller::{Context, Controller, Op, Plan};
use crate::snapshot::Snapshot;
use crate::watches::Watches;

pub struct CsrApprovingController;

impl Controller for CsrApprovingController {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-approving-controller"
    }

    fn account(&self) -> &'static str {
        "certificate-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.signing_requests);
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        let Some(csr) = snapshot.signing_requests.get(key) else { return Plan::idle() };
        let decided = certificates::has(&csr, "Approved") || certificates::has(&csr, "Denied");
        if decided || certificates::certificate(&csr).is_some() || csr.spec.signer_name != KUBE_APISERVER_CLIENT_KUBELET
        {
            return Plan::idle();
        }
        let request = match certificates::parse(&csr) {
            Ok(request) => request,
            // It never changes.
            Err(cause) => {
                return Plan { waiting: Some(format!("unable to parse csr {key:?}: {cause}")), ..Plan::idle() };
            }
        };
        if certificates::kubelet_client(&request, certificates::usages(&csr)).is_err() {
            return Plan::idle();
        }
        let own_name = csr.spec.username.as_deref() == Some(request.common_name.as_str());
        // From the last to the first: what is not allowed goes on to the next.
        let rights = [
            (own_name, "selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."),
            (true, "nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."),
        ];
        let tried: Vec<&str> = rights.iter().filter(|(tries, ..)| *tries).map(|(_, right, _)| *right).collect();
        // Rights may come later: the key is tried again, ever more seldom.
        let refusal = format!("recognized csr {key:?} as {tried:?} but subject access review was not approved");
        let mut next = Op::Fail(refusal);
        for (_, right, message) in rights.iter().rev().filter(|(tries, ..)| *tries) {
            let approved = approved(&csr, message, context);
            next = Op::IfAllowed {
                review: review(&csr, right),
                then: vec![Op::put(&approved, Some("approval"))],
                otherwise: vec![next],
            };
        }
        Plan::of(vec![next])
    }
}

/// Whether who asks may create `certificatesigningrequests/RIGHT`.
fn review(csr: &CertificateSigningRequest, right: &str) -> Value {
    let spec = encode::value(csr)["spec"].take();
    let mut review = json!({
        "user": spec["username"], "groups": spec["groups"],
        "resourceAttributes": {
            "group": "certificates.k8s.io", "resource": "certificatesigningrequests", "subresource": right,
            "verb": "create", "version": "*",
        },
    });
    for field in ["uid", "extra"] {
        if !spec[field].is_null() {
            review[field] = spec[field].clone();
        }
    }
    review
}

fn approved(csr: &CertificateSigningRequest, message: &str, context: &Context) -> CertificateSigningRequest {
    let mut csr = csr.clone();
    let condition = CertificateSigningRequestCondition {
        type_: "Approved".into(),
        status: "True".into(),
        reason: Some("AutoApproved".into()),
        message: Some(message.into()),
        last_update_time: Some(Time(context.now)),
        last_transition_time: Some(Time(context.now)),
    };
    csr.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
    csr
}
