//! `csrcleaner`: certificate requests go some time after they were answered, or were not
//! (`pkg/controller/certificates/cleaner`). Looks when the time comes instead of every hour.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kybern_api::certificates::v1::CertificateSigningRequest;

use crate::certificates;
use crate::controller::{Context, Controller, Op, Plan};
use crate::pods;
use crate::snapshot::Snapshot;
use crate::watches::Watches;

/// After the answer: a certificate, a refusal, a failure.
const ANSWERED: Duration = Duration::from_secs(3600);
/// Without an answer, and for an approval without a certificate.
const UNANSWERED: Duration = Duration::from_secs(24 * 3600);

pub struct CsrCleanerController;

impl Controller for CsrCleanerController {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-cleaner-controller"
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
        match end(&csr) {
            Some(end) if context.now > end => Plan::of(vec![Op::delete(&*csr)]),
            Some(end) => {
                let mut plan = Plan::idle();
                plan.requeue_at(end + SignedDuration::from_secs(1), context.now);
                plan
            }
            None => Plan::idle(),
        }
    }
}

/// When a request is of no more use.
fn end(csr: &CertificateSigningRequest) -> Option<Timestamp> {
    let conditions = certificates::conditions(csr);
    if conditions.is_empty() {
        return Some(pods::created(&csr.metadata) + UNANSWERED);
    }
    let certificate = certificates::certificate(csr);
    let expiry = certificate.and_then(kybern_auth::pki::end_of_pem).filter(|_| certificates::has(csr, "Approved"));
    let answered = conditions.iter().filter_map(|condition| {
        let since = condition.last_update_time.as_ref()?.0;
        match condition.type_.as_str() {
            "Approved" if certificate.is_none() => Some(since + UNANSWERED),
            "Approved" | "Denied" | "Failed" => Some(since + ANSWERED),
            _ => None,
        }
    });
    answered.chain(expiry).min()
}

#[cfg(test)]
mod tests {
    use kybern_api::ByteString;
    use kybern_api::certificates::v1::{CertificateSigningRequestCondition, CertificateSigningRequestStatus};
    use kybern_api::meta::v1::{ObjectMeta, Time};
    use kybern_auth::pki::{CertificateAuthority, Profile};

    use super::*;
    use crate::testing::{NOW, World, at, deleted, meta};

    const HOUR: i64 = 3600;

    fn request(created: i64, answer: Option<(&str, i64)>, certificate: Option<&str>) -> CertificateSigningRequest {
        let conditions = answer.map(|(kind, since)| {
            vec![CertificateSigningRequestCondition {
                type_: kind.into(),
                last_update_time: Some(Time(at(since))),
                ..Default::default()
            }]
        });
        let certificate = certificate.map(|c| ByteString(c.as_bytes().to_vec()));
        CertificateSigningRequest {
            metadata: ObjectMeta { namespace: None, creation_timestamp: Some(Time(at(created))), ..meta("csr") },
            status: Some(CertificateSigningRequestStatus { conditions, certificate }),
            ..Default::default()
        }
    }

    #[test]
    fn requests_go_when_their_time_is_over() {
        let check = |csr: CertificateSigningRequest, goes: bool| {
            let world = World::new();
            world.writers.signing_requests.upsert(csr.clone());
            let plan = world.reconcile(&CsrCleanerController, "csr");
            assert_eq!(deleted(&plan).len(), usize::from(goes), "{csr:?}");
            assert_eq!(plan.requeue_after.is_some(), !goes, "it is looked at again: {csr:?}");
        };
        check(request(NOW - 23 * HOUR, None, None), false);
        check(request(NOW - 25 * HOUR, None, None), true);
        for kind in ["Denied", "Failed"] {
            check(request(0, Some((kind, NOW - HOUR + 60)), None), false);
            check(request(0, Some((kind, NOW - HOUR - 60)), None), true);
        }
        check(request(0, Some(("Approved", NOW - 2 * HOUR)), None), false);
        check(request(0, Some(("Approved", NOW - 25 * HOUR)), None), true);
        check(request(0, Some(("Approved", NOW - 2 * HOUR)), Some("rubbish")), true);
        let ca = CertificateAuthority::create("ca", at(NOW - 500 * 86_400)).unwrap();
        let expired = ca.issue(&Profile::client("a", None), at(NOW - 400 * 86_400)).unwrap();
        check(request(0, Some(("Approved", NOW)), Some(&expired.certificate_pem)), true);
    }
}
