//! `csrsigning`: approved requests are signed, each signer with its authority (`pkg/controller/certificates/signer`).

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use kybern_api::ByteString;
use kybern_api::certificates::v1::CertificateSigningRequestCondition;
use kybern_api::meta::v1::Time;
use kybern_auth::pki::{RequestSigner, SigningRequest};

use crate::certificates::{
    self, KUBE_APISERVER_CLIENT, KUBE_APISERVER_CLIENT_KUBELET, KUBELET_SERVING, LEGACY_UNKNOWN,
};
use crate::controller::{Context, Controller, Op, Plan};
use crate::snapshot::Snapshot;
use crate::watches::Watches;

/// The shortest life that is given, whatever is asked for.
const SHORTEST: Duration = Duration::from_secs(600);

/// Who signs for which signer's name; without one its requests are left to others.
#[derive(Clone, Debug)]
pub struct ClusterSigning {
    pub kubelet_serving: Option<Arc<RequestSigner>>,
    pub kubelet_client: Option<Arc<RequestSigner>>,
    pub kube_apiserver_client: Option<Arc<RequestSigner>>,
    pub legacy_unknown: Option<Arc<RequestSigner>>,
    /// `--cluster-signing-duration`: the longest life that is given.
    pub duration: Duration,
}

impl ClusterSigning {
    /// Upstream's default of `--cluster-signing-duration`.
    pub const DURATION: Duration = Duration::from_secs(365 * 86_400);

    /// One authority for all.
    pub fn by(signer: RequestSigner, duration: Duration) -> Self {
        let signer = Some(Arc::new(signer));
        Self {
            kubelet_serving: signer.clone(),
            kubelet_client: signer.clone(),
            kube_apiserver_client: signer.clone(),
            legacy_unknown: signer,
            duration,
        }
    }

    fn signer(&self, name: &str) -> Option<&RequestSigner> {
        let signer = match name {
            KUBELET_SERVING => &self.kubelet_serving,
            KUBE_APISERVER_CLIENT_KUBELET => &self.kubelet_client,
            KUBE_APISERVER_CLIENT => &self.kube_apiserver_client,
            LEGACY_UNKNOWN => &self.legacy_unknown,
            _ => &None,
        };
        signer.as_deref()
    }

    fn life(&self, asked: Option<i32>) -> Duration {
        match asked {
            None => self.duration,
            Some(seconds) => {
                let asked = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
                if asked > self.duration { self.duration } else { asked.max(SHORTEST) }
            }
        }
    }
}

pub struct CsrSigningController {
    pub signing: Arc<ArcSwap<ClusterSigning>>,
}

impl Controller for CsrSigningController {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-signing-controller"
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
        let approved = certificates::has(&csr, "Approved") && !certificates::has(&csr, "Denied");
        if !approved || certificates::has(&csr, "Failed") || certificates::certificate(&csr).is_some() {
            return Plan::idle();
        }
        let signing = self.signing.load();
        let Some(signer) = signing.signer(&csr.spec.signer_name) else { return Plan::idle() };
        let judged = certificates::parse(&csr).and_then(|request| {
            judge(&csr.spec.signer_name, &request, certificates::usages(&csr))?;
            Ok(request)
        });
        let mut new = (*csr).clone();
        let status = new.status.get_or_insert_default();
        match judged {
            Err(message) => status.conditions.get_or_insert_default().push(failed(message, context)),
            Ok(request) => {
                let life = signing.life(csr.spec.expiration_seconds);
                match signer.sign(&request, certificates::usages(&csr), life, context.now) {
                    Ok(certificate) => status.certificate = Some(ByteString(certificate.into_bytes())),
                    Err(cause) => return Plan::of(vec![Op::Fail(format!("error auto signing csr: {cause}"))]),
                }
            }
        }
        Plan::of(vec![Op::update_status(&new)])
    }
}

/// What each signer signs; legacy-unknown anything.
fn judge(signer: &str, request: &SigningRequest, usages: &[String]) -> Result<(), String> {
    match signer {
        KUBELET_SERVING => certificates::kubelet_serving(request, usages),
        KUBE_APISERVER_CLIENT_KUBELET => certificates::kubelet_client(request, usages),
        KUBE_APISERVER_CLIENT => certificates::client_usages(usages),
        _ => Ok(()),
    }
}

fn failed(message: String, context: &Context) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: "Failed".into(),
        status: "True".into(),
        reason: Some("SignerValidationFailure".into()),
        message: Some(message),
        last_update_time: Some(Time(context.now)),
        last_transition_time: Some(Time(context.now)),
    }
}

#[cfg(test)]
#[path = "csr_tests.rs"]
mod tests;
