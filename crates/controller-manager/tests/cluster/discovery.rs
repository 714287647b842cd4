//! kubeadm's discovery: who holds a bootstrap token reads `cluster-info` as anybody and believes it by its signature.

use kybern_api::core::v1::{ConfigMap, Secret};
use kybern_apimachinery::json;
use kybern_auth::token::detached_signature;
use kybern_client::{DeleteOptions, ListOptions, Patch};

use crate::fixture::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anybody_reads_where_the_cluster_is_and_tokens_sign_it() {
    let cluster = Cluster::start().await;
    let anonymous = cluster.anonymous();
    let token = |id: &str, expiration: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
            "stringData": {
                "token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true",
                "expiration": expiration,
            },
        })
    };
    cluster.create(token("abcdef", "2999-01-01T00:00:00Z"), "secrets").await;
    cluster.create(token("expire", "2001-01-01T00:00:00Z"), "secrets").await;
    let signature = async |id: &str| {
        let info = anonymous.get::<ConfigMap>("kube-public", "cluster-info").await.expect("anyone may read it");
        let data = info.data.unwrap();
        (data["kubeconfig"].clone(), data.get(&format!("jws-kubeconfig-{id}")).cloned())
    };
    cluster.until("the signature", async |_| signature("abcdef").await.1.is_some()).await;
    let (info, signed) = signature("abcdef").await;
    assert!(info.contains("server: https://192.0.2.1:6443"), "{info}");
    assert_eq!(signed, Some(detached_signature(&info, "abcdef", "0123456789abcdef")));
    assert_ne!(signed, Some(detached_signature(&info, "abcdef", "0123456789abcdeX")));
    assert_eq!(signature("expire").await.1, None);
    let gone = async |c: &Cluster| c.get::<Secret>("kube-system", "bootstrap-token-expire").await.is_none();
    cluster.until("the end of the expired token", gone).await;

    // Who changes what is said is signed for, and who takes the token away takes its signature away.
    let forged = Patch::Merge(json!({"data": {"kubeconfig": "another", "jws-kubeconfig-forged": "x"}}));
    cluster.client.patch::<ConfigMap>("kube-public", "cluster-info", &forged, None).await.unwrap();
    let expected = Some(detached_signature("another", "abcdef", "0123456789abcdef"));
    cluster.until("a new signature", async |_| signature("abcdef").await.1 == expected).await;
    cluster.until("the end of the forged one", async |_| signature("forged").await.1.is_none()).await;
    let now = DeleteOptions::default();
    cluster.client.delete::<Secret>("kube-system", "bootstrap-token-abcdef", &now).await.unwrap();
    cluster.until("the end of the signature", async |_| signature("abcdef").await.1.is_none()).await;

    // Nothing else is anybody's.
    assert!(anonymous.list::<ConfigMap>("kube-public", &ListOptions::default()).await.is_err());
    assert!(anonymous.get::<ConfigMap>("kube-system", "extension-apiserver-authentication").await.is_err());
    let write = Patch::Merge(json!({"data": {"kubeconfig": "mine"}}));
    assert!(anonymous.patch::<ConfigMap>("kube-public", "cluster-info", &write, None).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_known_since_when_tokens_are_tracked() {
    let cluster = Cluster::start().await;
    let name = "kube-apiserver-legacy-service-account-token-tracking";
    let since =
        async |c: &Cluster| c.get::<ConfigMap>("kube-system", name).await.unwrap().data.unwrap()["since"].clone();
    assert_eq!(since(&cluster).await, "2026-11-28");
}
