//! `CertificateApproval`, `CertificateSigning`, `ClusterTrustBundleAttest` and `CertificateSubjectRestriction`: who may approve,
//! sign and attest for a signer, and that nobody is made a master by a signature.

use std::sync::Arc;

use kybern_apimachinery::{ApiError, Value, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::{Attributes, Authorizer};
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};
use kybern_auth::MASTERS;
use kybern_auth::pki::SigningRequest;

use super::rbac_escalation::is_for_garbage_collection;
use crate::tree::{list, text};

const GROUP: &str = "certificates.k8s.io";
const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";

#[derive(Clone, Copy)]
enum Rule {
    Approve,
    Sign,
    Attest,
    Subject,
}

pub(super) struct Certificates {
    authorizer: Arc<dyn Authorizer>,
    rule: Rule,
}

/// The four plugins, in upstream's order.
pub(super) fn plugins(authorizer: &Arc<dyn Authorizer>) -> impl Iterator<Item = Arc<dyn AdmissionPlugin>> {
    let rules = [Rule::Approve, Rule::Sign, Rule::Attest, Rule::Subject];
    let authorizer = authorizer.clone();
    rules.into_iter().map(move |rule| Arc::new(Certificates { authorizer: authorizer.clone(), rule }) as _)
}

impl Certificates {
    /// Whether the user may do this for the signer, or for all of the signer's domain.
    async fn may(&self, request: &AdmissionRequest<'_>, verb: &str, signer: &str) -> bool {
        let allowed = async |name: String| {
            let attributes = Attributes {
                user: request.user.clone(),
                verb: verb.to_owned(),
                resource_request: true,
                group: GROUP.to_owned(),
                version: "*".to_owned(),
                resource: "signers".to_owned(),
                name,
                ..Attributes::default()
            };
            self.authorizer.allows(&attributes).await
        };
        let domain = signer.split('/').next().unwrap_or("");
        allowed(signer.to_owned()).await || allowed(format!("{domain}/*")).await
    }

    async fn judge(&self, request: &AdmissionRequest<'_>, object: Option<&Value>) -> Result<(), String> {
        let old = request.old.unwrap_or(&Value::Null);
        // That of the stored request: a writer might name another.
        let signer = object::str_at(old, &["spec", "signerName"]);
        match (self.rule, request.subresource) {
            (Rule::Approve, "approval") => {
                if self.may(request, "approve", signer).await {
                    return Ok(());
                }
                Err(format!("user not permitted to approve requests with signerName {signer:?}"))
            }
            (Rule::Sign, "status") => {
                let status = |o: &Value| {
                    (text(&o["status"], "certificate").to_owned(), list(&o["status"], "conditions").to_vec())
                };
                if object.is_none_or(|new| status(new) == status(old)) || self.may(request, "sign", signer).await {
                    return Ok(());
                }
                Err(format!("user not permitted to sign requests with signerName {signer:?}"))
            }
            (Rule::Attest, "") => {
                let bundle = object.unwrap_or(&Value::Null);
                // The new one's: it cannot be changed.
                let signer = object::str_at(bundle, &["spec", "signerName"]);
                if signer.is_empty()
                    || request.old.is_some_and(|old| is_for_garbage_collection(old, bundle))
                    || self.may(request, "attest", signer).await
                {
                    return Ok(());
                }
                Err(format!("user not permitted to attest for signerName {signer:?}"))
            }
            (Rule::Subject, "") if request.operation == Operation::Create => {
                let spec = object.map_or(&Value::Null, |o| &o["spec"]);
                if text(spec, "signerName") != API_CLIENT {
                    return Ok(());
                }
                let parsed = SigningRequest::from_base64(text(spec, "request"))
                    .map_err(|cause| format!("failed to parse CSR: {cause}"))?;
                if parsed.organizations.iter().any(|group| group == MASTERS) {
                    return Err(format!("use of {API_CLIENT} signer with {MASTERS} group is not allowed"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl AdmissionPlugin for Certificates {
    fn name(&self) -> &'static str {
        match self.rule {
            Rule::Approve => "CertificateApproval",
            Rule::Sign => "CertificateSigning",
            Rule::Attest => "ClusterTrustBundleAttest",
            Rule::Subject => "CertificateSubjectRestriction",
        }
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Validate
            && match self.rule {
                Rule::Approve | Rule::Sign => operation == Operation::Update,
                Rule::Attest => matches!(operation, Operation::Create | Operation::Update),
                Rule::Subject => operation == Operation::Create,
            }
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let gvr = &request.resource.gvr;
        let about = match self.rule {
            Rule::Attest => "clustertrustbundles",
            _ => "certificatesigningrequests",
        };
        if gvr.group != GROUP || gvr.resource != about {
            return Box::pin(async { Ok(()) });
        }
        Box::pin(async move {
            let verdict = self.judge(request, object).await;
            verdict.map_err(|cause| ApiError::forbidden(&gvr.group_resource(), request.name, &cause))
        })
    }
}
