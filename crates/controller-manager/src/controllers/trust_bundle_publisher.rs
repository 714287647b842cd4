//! `kube-apiserver-serving-clustertrustbundle-publisher`: by what serving certificates of API servers are known, as a
//! ClusterTrustBundle (`pkg/controller/certificates/clustertrustbundlepublisher`). Works where the API server serves the kind,
//! which it does not unless it is told to.

use kybern_apimachinery::{Gvr, Value, json, object};
use kybern_client::DeleteOptions;
use ring::digest::{SHA256, digest};

use crate::ask::{Answer, Ask};
use crate::controller::{Context, Controller, Op, Plan};
use crate::inventory::Seen;
use crate::snapshot::Snapshot;
use crate::watches::Watches;

const SIGNER: &str = "kubernetes.io/kube-apiserver-serving";
const KEY: &str = "bundle";
const PATH: &str = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles";

pub struct TrustBundlePublisher {
    /// PEM.
    pub ca: String,
}

fn bundles() -> Gvr {
    Gvr::new("certificates.k8s.io", "v1beta1", "clustertrustbundles")
}

impl Controller for TrustBundlePublisher {
    fn name(&self) -> &'static str {
        "kube-apiserver-serving-clustertrustbundle-publisher-controller"
    }

    fn account(&self) -> &'static str {
        "kube-apiserver-serving-clustertrustbundle-publisher"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let queue = watches.queue();
        queue.add(KEY.to_owned());
        watches.snapshot.inventory.listen(move |resource, seen| {
            let is_ours = |name: &str| name.starts_with(&SIGNER.replace('/', ":"));
            let concerns = match seen {
                Seen::Change(change) => is_ours(&change.object().name),
                Seen::Missed => true,
            };
            if resource.gvr == bundles() && concerns {
                queue.add(KEY.to_owned());
            }
        });
    }

    fn reconcile(&self, _: &str, snapshot: &Snapshot, _: &Context) -> Plan {
        if !snapshot.inventory.knows_kinds() {
            return Plan::of(vec![Op::Fail("what the server serves is not known yet".to_owned())]);
        }
        if snapshot.inventory.resource(&bundles()).is_none() {
            return Plan::idle();
        }
        let ca = self.ca.clone();
        let of_signer = format!("{PATH}?fieldSelector=spec.signerName%3D{}", SIGNER.replace('/', "%2F"));
        Plan::of(vec![Op::ask(Ask::Get(of_signer), move |answer| decide(answer, &ca))])
    }
}

/// The name says what is in it, so that clients see a new one before the old one goes.
fn name(ca: &str) -> String {
    let hash: String = digest(&SHA256, ca.as_bytes()).as_ref()[..12].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}:{hash}", SIGNER.replace('/', ":"))
}

fn decide(answer: Answer, ca: &str) -> Vec<Op> {
    let list = match answer {
        Ok(list) => list,
        Err(refusal) => return vec![Op::Fail(refusal.message)],
    };
    let (wanted, there) = (name(ca), list["items"].as_array().cloned().unwrap_or_default());
    let whole = |metadata: Value| {
        let bundle = json!({
            "apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle", "metadata": metadata,
            "spec": {"signerName": SIGNER, "trustBundle": ca},
        });
        bundle.to_string().into_bytes()
    };
    let mut ops = Vec::new();
    match there.iter().find(|bundle| object::name(bundle) == wanted) {
        None => ops.push(Op::Create {
            gvr: bundles(),
            namespace: String::new(),
            body: whole(json!({"name": wanted})),
            announce: None,
        }),
        Some(bundle) if bundle["spec"]["trustBundle"] == ca => {}
        Some(bundle) => ops.push(Op::Put {
            gvr: bundles(),
            namespace: String::new(),
            name: wanted.clone(),
            subresource: None,
            body: whole(bundle["metadata"].clone()),
        }),
    }
    for other in there.iter().filter(|bundle| object::name(bundle) != wanted) {
        ops.push(Op::Delete {
            gvr: bundles(),
            namespace: String::new(),
            name: object::name(other).to_owned(),
            options: DeleteOptions::of_uid(object::uid(other)),
            announce: None,
        });
    }
    ops
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, resource};
    use kybern_client::ApiResource;

    #[test]
    fn one_bundle_of_the_signers_is_there() {
        let bundle =
            |name: &str, text: &str| json!({"metadata": {"name": name, "uid": name}, "spec": {"trustBundle": text}});
        let kinds = |items: Vec<Value>| -> Vec<&'static str> {
            let ops = decide(Ok(json!({"items": items})), "PEM");
            ops.iter()
                .map(|op| match op {
                    Op::Create { .. } => "create",
                    Op::Put { .. } => "put",
                    Op::Delete { .. } => "delete",
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        let wanted = name("PEM");
        assert!(wanted.starts_with("kubernetes.io:kube-apiserver-serving:") && wanted.len() == 37 + 24, "{wanted}");
        assert_eq!(kinds(vec![]), ["create"]);
        assert!(kinds(vec![bundle(&wanted, "PEM")]).is_empty());
        assert_eq!(kinds(vec![bundle(&wanted, "forged"), bundle("old", "PEM")]), ["put", "delete"]);
    }

    #[test]
    fn nothing_is_asked_where_the_kind_is_not_served() {
        let controller = TrustBundlePublisher { ca: "PEM".into() };
        assert!(World::new().reconcile(&controller, KEY).ops.is_empty());
        let served = ApiResource {
            gvr: bundles(),
            ..resource("certificates.k8s.io", "clustertrustbundles", "ClusterTrustBundle", false)
        };
        let world = World::with_resources([served]);
        assert!(matches!(world.reconcile(&controller, KEY).ops.as_slice(), [Op::Ask { .. }]));
    }
}
