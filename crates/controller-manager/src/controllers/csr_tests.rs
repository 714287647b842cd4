//! Requests of honest kubelets and of others, before the approver and the signers.

use kybern_api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kybern_api::meta::v1::ObjectMeta;
use kybern_auth::pki::CertificateAuthority;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use super::*;
use crate::controllers::csr_approving::CsrApprovingController;
use crate::testing::{World, meta, now, status_of};

const CLIENT: &[&str] = &["digital signature", "client auth"];
const SERVER: &[&str] = &["digital signature", "key encipherment", "server auth"];

/// A request by `user` for `name` in `group`.
struct Asked<'a> {
    user: &'a str,
    name: &'a str,
    group: &'a str,
    sans: &'a [&'a str],
    usages: &'a [&'a str],
    signer: &'a str,
}

const HONEST: Asked<'static> = Asked {
    user: "system:bootstrap:abcdef",
    name: "system:node:a",
    group: "system:nodes",
    sans: &[],
    usages: CLIENT,
    signer: KUBE_APISERVER_CLIENT_KUBELET,
};

impl Asked<'_> {
    fn csr(&self) -> CertificateSigningRequest {
        let sans: Vec<String> = self.sans.iter().map(|s| (*s).to_owned()).collect();
        let mut params = CertificateParams::new(sans).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.name);
        params.distinguished_name.push(DnType::OrganizationName, self.group);
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        CertificateSigningRequest {
            metadata: ObjectMeta { namespace: None, ..meta("csr") },
            spec: CertificateSigningRequestSpec {
                request: ByteString(pem.into_bytes()),
                signer_name: self.signer.into(),
                usages: Some(self.usages.iter().map(|u| (*u).to_owned()).collect()),
                username: Some(self.user.into()),
                groups: Some(vec!["system:bootstrappers".into()]),
                ..Default::default()
            },
            status: None,
        }
    }
}

/// The rights that are asked about, in order.
fn reviews(csr: &CertificateSigningRequest) -> Vec<String> {
    fn walk(ops: &[Op], out: &mut Vec<String>) {
        for op in ops {
            if let Op::IfAllowed { review, otherwise, then } = op {
                assert!(matches!(&then[0], Op::Put { subresource: Some("approval"), .. }));
                out.push(review["resourceAttributes"]["subresource"].as_str().unwrap().to_owned());
                walk(otherwise, out);
            } else {
                assert!(matches!(op, Op::Fail(_)), "{op:?}");
            }
        }
    }
    let world = World::new();
    world.writers.signing_requests.upsert(csr.clone());
    let mut out = Vec::new();
    walk(&world.reconcile(&CsrApprovingController, "csr").ops, &mut out);
    out
}

#[test]
fn only_what_a_kubelet_may_ask_for_is_considered() {
    assert_eq!(reviews(&HONEST.csr()), ["nodeclient"]);
    assert_eq!(reviews(&Asked { user: "system:node:a", ..HONEST }.csr()), ["selfnodeclient", "nodeclient"]);
    assert_eq!(reviews(&Asked { user: "system:node:b", ..HONEST }.csr()), ["nodeclient"], "another node's name");
    let nobodys: [Asked<'_>; 9] = [
        Asked { group: "system:masters", ..HONEST },
        Asked { name: "kubernetes-admin", ..HONEST },
        Asked { usages: &["digital signature", "client auth", "server auth"], ..HONEST },
        Asked { usages: &["client auth"], ..HONEST },
        Asked { usages: &["digital signature", "client auth", "cert sign"], ..HONEST },
        Asked { sans: &["kubernetes.default"], ..HONEST },
        Asked { sans: &["10.96.0.1"], ..HONEST },
        Asked { signer: KUBE_APISERVER_CLIENT, ..HONEST },
        Asked { signer: KUBELET_SERVING, usages: SERVER, sans: &["a"], ..HONEST },
    ];
    for asked in nobodys {
        assert_eq!(reviews(&asked.csr()), Vec::<String>::new(), "{:?}", asked.csr().spec);
    }
    let mut rubbish = HONEST.csr();
    rubbish.spec.request = ByteString(b"rubbish".to_vec());
    assert_eq!(reviews(&rubbish), Vec::<String>::new());
    let mut denied = HONEST.csr();
    denied.status.get_or_insert_default().conditions = Some(vec![condition("Denied")]);
    assert_eq!(reviews(&denied), Vec::<String>::new());
}

fn condition(kind: &str) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition { type_: kind.into(), status: "True".into(), ..Default::default() }
}

fn controller() -> CsrSigningController {
    let ca = CertificateAuthority::create("kubernetes", now()).unwrap();
    let signing = ClusterSigning::by(ca.request_signer(), ClusterSigning::DURATION);
    CsrSigningController { signing: Arc::new(ArcSwap::from_pointee(signing)) }
}

/// The certificate, or why there is none. `None`: the request is left alone.
fn signed(mut csr: CertificateSigningRequest, conditions: &[&str]) -> Option<Result<Vec<u8>, String>> {
    csr.status.get_or_insert_default().conditions = Some(conditions.iter().map(|kind| condition(kind)).collect());
    let world = World::new();
    world.writers.signing_requests.upsert(csr);
    let plan = world.reconcile(&controller(), "csr");
    let status = status_of::<CertificateSigningRequest>(&plan)?.status.unwrap_or_default();
    Some(match status.certificate {
        Some(certificate) => Ok(certificate.0),
        None => {
            let failed = status.conditions.unwrap_or_default().pop().unwrap();
            assert_eq!((failed.type_.as_str(), failed.reason.as_deref()), ("Failed", Some("SignerValidationFailure")));
            Err(failed.message.unwrap_or_default())
        }
    })
}

#[test]
fn what_is_approved_is_signed_once() {
    assert!(signed(HONEST.csr(), &["Approved"]).unwrap().unwrap().starts_with(b"-----BEGIN CERTIFICATE-----"));
    assert_eq!(signed(HONEST.csr(), &[]), None);
    assert_eq!(signed(HONEST.csr(), &["Approved", "Denied"]), None);
    assert_eq!(signed(HONEST.csr(), &["Approved", "Failed"]), None);
    let mut answered = HONEST.csr();
    answered.status.get_or_insert_default().certificate = Some(ByteString(b"x".to_vec()));
    assert_eq!(signed(answered, &["Approved"]), None);
    assert_eq!(signed(Asked { signer: "example.com/other", ..HONEST }.csr(), &["Approved"]), None);
    let serving = Asked { signer: KUBELET_SERVING, usages: SERVER, sans: &["a", "192.0.2.1"], ..HONEST };
    assert!(signed(serving.csr(), &["Approved"]).unwrap().is_ok());
}

#[test]
fn what_a_signer_does_not_sign_fails_whoever_approved_it() {
    let failure = |asked: Asked<'_>| signed(asked.csr(), &["Approved"]).unwrap().unwrap_err();
    assert_eq!(failure(Asked { group: "system:masters", ..HONEST }), "subject organization is not system:nodes");
    assert_eq!(failure(Asked { name: "admin", ..HONEST }), "subject common name does not begin with system:node:");
    assert_eq!(
        failure(Asked { usages: SERVER, ..HONEST }),
        "usages did not match [client auth digital signature key encipherment]"
    );
    assert_eq!(failure(Asked { sans: &["a"], ..HONEST }), "DNS subjectAltNames are not allowed");
    let serving = Asked { signer: KUBELET_SERVING, usages: SERVER, ..HONEST };
    assert_eq!(failure(serving), "DNS or IP subjectAltName is required");
    let client = Asked { signer: KUBE_APISERVER_CLIENT, usages: SERVER, ..HONEST };
    assert_eq!(failure(client), "invalid usage for client certificate: server auth");
}

#[test]
fn a_life_is_bounded() {
    let signing = controller().signing;
    let seconds = |asked| signing.load().life(asked).as_secs();
    assert_eq!(seconds(None), 365 * 86_400);
    assert_eq!(seconds(Some(3600)), 3600);
    assert_eq!(seconds(Some(1)), 600);
    assert_eq!(seconds(Some(-1)), 600);
    assert_eq!(seconds(Some(i32::MAX)), 365 * 86_400);
}
