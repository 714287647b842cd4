//! A kubelet joins with a bootstrap token and renews its certificate; others try the same for more than they may have.

use kybern_api::ByteString;
use kybern_api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kybern_api::meta::v1::ObjectMeta;
use kybern_apimachinery::json;
use kybern_client::Client;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use crate::fixture::Cluster;

const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const CLIENT: &[&str] = &["digital signature", "client auth"];

fn request(signer: &str, subject: (&str, &str), sans: &[&str], usages: &[&str]) -> CertificateSigningRequest {
    let mut params = CertificateParams::new(sans.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject.0);
    params.distinguished_name.push(DnType::OrganizationName, subject.1);
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("node-csr-".into()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: signer.into(),
            usages: Some(usages.iter().map(|u| (*u).to_owned()).collect()),
            expiration_seconds: Some(3600),
            ..Default::default()
        },
        status: None,
    }
}

async fn ask(client: &Client, csr: CertificateSigningRequest) -> Result<String, String> {
    client.create(&csr).await.map(|csr| csr.metadata.name.unwrap()).map_err(|e| e.to_string())
}

async fn answered(cluster: &Cluster, name: &str) -> Vec<u8> {
    let of = async |c: &Cluster| {
        let csr = c.get::<CertificateSigningRequest>("", name).await.expect("the request");
        csr.status.and_then(|s| s.certificate).map(|c| c.0)
    };
    cluster.until("a certificate", async |c| of(c).await.is_some()).await;
    of(cluster).await.unwrap()
}

async fn bind(cluster: &Cluster, role: &str, group: &str) {
    let name = format!("{role}-{group}").replace(':', "-");
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
    });
    cluster.create(binding, "clusterrolebindings").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubelets_get_their_certificates_and_nobody_anothers() {
    let cluster = Cluster::start().await;
    bind(&cluster, "system:node-bootstrapper", "system:bootstrappers").await;
    let newcomer = cluster.client_as("system:bootstrap:abcdef", &["system:bootstrappers"]);
    let early = ask(&newcomer, request(KUBELET_CLIENT, ("system:node:a", "system:nodes"), &[], CLIENT)).await.unwrap();
    // Asked after it, and answered: the early one has been looked at, too.
    bind(&cluster, "system:node-bootstrapper", "others").await;
    bind(&cluster, "system:certificates.k8s.io:certificatesigningrequests:nodeclient", "others").await;
    let other = cluster.client_as("other", &["others"]);
    let name = ask(&other, request(KUBELET_CLIENT, ("system:node:b", "system:nodes"), &[], CLIENT)).await.unwrap();
    answered(&cluster, &name).await;
    let status =
        async |name: &str| cluster.get::<CertificateSigningRequest>("", name).await.unwrap().status.unwrap_or_default();
    assert_eq!(status(&early).await.conditions, None, "nobody may approve it yet");

    // As kubeadm binds it. What waited is approved now.
    bind(&cluster, "system:certificates.k8s.io:certificatesigningrequests:nodeclient", "system:bootstrappers").await;
    let certificate = answered(&cluster, &early).await;
    let approval = status(&early).await.conditions.unwrap().remove(0);
    assert_eq!((approval.type_.as_str(), approval.reason.as_deref()), ("Approved", Some("AutoApproved")));
    let ends = kybern_auth::pki::end_of_pem(&certificate).unwrap().as_second() - jiff::Timestamp::now().as_second();
    assert!((3500..=3600).contains(&ends), "{ends}");
    let der = kybern_auth::pem::decode(std::str::from_utf8(&certificate).unwrap()).unwrap().remove(0).der;
    let ca = kybern_auth::pem::decode(&cluster.ca).unwrap().remove(0).der;
    assert!(kybern_auth::pki::signed_by(&ca, &der));

    // The node renews its own; of another's name the server hears nothing.
    bind(&cluster, "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:nodes").await;
    bind(&cluster, "system:node-bootstrapper", "system:nodes").await;
    let node = cluster.client_as("system:node:a", &["system:nodes"]);
    let own = ask(&node, request(KUBELET_CLIENT, ("system:node:a", "system:nodes"), &[], CLIENT)).await.unwrap();
    answered(&cluster, &own).await;
    let stolen = ask(&node, request(KUBELET_CLIENT, ("system:node:b", "system:nodes"), &[], CLIENT)).await;
    assert!(stolen.unwrap_err().contains("can only create a node CSR with CN=system:node:a"));
    let masters = request("kubernetes.io/kube-apiserver-client", ("admin", "system:masters"), &[], CLIENT);
    assert!(ask(&newcomer, masters).await.unwrap_err().contains("system:masters"));

    let serving = ["digital signature", "key encipherment", "server auth"];
    let mut left = Vec::new();
    for csr in [
        request("kubernetes.io/kubelet-serving", ("system:node:a", "system:nodes"), &["kubernetes.default"], &serving),
        request("kubernetes.io/kubelet-serving", ("system:node:a", "system:nodes"), &["a"], &serving),
        request(KUBELET_CLIENT, ("system:node:a", "system:masters"), &[], CLIENT),
        request(
            KUBELET_CLIENT,
            ("system:node:a", "system:nodes"),
            &[],
            &["digital signature", "client auth", "server auth"],
        ),
        request(KUBELET_CLIENT, ("system:node:a", "system:nodes"), &["kubernetes.default"], CLIENT),
        request("kubernetes.io/kube-apiserver-client", ("system:node:a", "system:nodes"), &[], CLIENT),
        request("example.com/signer", ("system:node:a", "system:nodes"), &[], CLIENT),
    ] {
        left.push(ask(&node, csr).await.unwrap());
    }
    let last = ask(&node, request(KUBELET_CLIENT, ("system:node:a", "system:nodes"), &[], CLIENT)).await.unwrap();
    answered(&cluster, &last).await;
    for name in left {
        let status = status(&name).await;
        assert_eq!((status.conditions, status.certificate), (None, None), "{name}");
    }
}
