//! A machine joins a control plane over TLS with a bootstrap token, as `kubeadm join` lets its kubelet do.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;

use kybern_api::core::v1::{Node, Secret};
use kybern_apimachinery::{Gvr, json};
use kybern_auth::token::detached_signature;
use kybern_client::ListOptions;

use super::*;
use crate::commands::load_balancers::LoadBalancers;
use crate::paths::Paths;
use crate::wiring::{Cluster, in_process, server};

fn cluster(folder: &Path) -> Cluster {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let within = |name: &str| folder.join(name);
    Cluster {
        paths: Paths {
            data: within("data"),
            run: within("run"),
            pod_logs: within("pods"),
            container_logs: within("containers"),
            cni_config: within("cni"),
            cni_bin: within("bin"),
            cgroup_root: "/".to_owned(),
        },
        node_name: "first".to_owned(),
        node_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        bind_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        secure_port: port,
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/12".parse().unwrap(),
        dns_ip: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
        cluster_domain: "cluster.local".to_owned(),
        storage: crate::wiring::storage::StorageOptions::own(&within("data/server/db")),
        tls_sans: Vec::new(),
        load_balancers: LoadBalancers::None,
        runtime_config: Default::default(),
        gates: Default::default(),
        add_ons: false,
    }
}

fn joining(folder: &Path, node: &str, kubeconfig: &str) -> Joining {
    Joining {
        bootstrap_kubeconfig: folder.join(kubeconfig),
        kubeconfig: folder.join(format!("{node}.conf")),
        cert_dir: folder.join(node),
        node: node.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubelet_joins_with_a_token_and_renews_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster(folder.path());
    cluster.paths.make_data().unwrap();
    let plane = server::start_control_plane(&cluster, |_| ()).await.unwrap();
    let admin = in_process::client(&plane.server, "admin", &["system:masters"]);
    let token = |id: &str, groups: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
            "stringData": {
                "token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true",
                "usage-bootstrap-authentication": "true", "auth-extra-groups": groups,
            },
        })
    };
    let secrets = admin.raw(&Gvr::new("", "v1", "secrets"));
    let group = "system:bootstrappers:kubeadm:default-node-token";
    secrets.create(&token("abcdef", group)).await.unwrap();
    secrets.create(&token("nobody", "system:bootstrappers:nobody")).await.unwrap();
    let address = format!("https://127.0.0.1:{}", cluster.secure_port);
    let ca = plane.pki.ca.certificate_pem();
    for id in ["abcdef", "nobody"] {
        let token = format!("{id}.0123456789abcdef");
        Kubeconfig {
            server: &address,
            ca_pem: ca,
            cluster: "kubernetes",
            user: "bootstrap",
            credentials: Credentials::Token(&token),
        }
        .write(&folder.path().join(id))
        .unwrap();
    }

    // What kubeadm reads first, with nothing but the token.
    let anyone = RestConfig::from_kubeconfig(&folder.path().join("abcdef")).unwrap().anonymous();
    let anyone = Client::from_config(&anyone).unwrap();
    let store = Informer::<kybern_api::core::v1::ConfigMap>::new(
        admin.clone(),
        ListOptions::fields("metadata.name=cluster-info"),
    )
    .spawn();
    let signed = |map: &kybern_api::core::v1::ConfigMap| map.data.as_ref()?.get("jws-kubeconfig-abcdef").cloned();
    store.wait_until(|store| store.list().iter().any(|map| signed(map).is_some())).await;
    let info: kybern_api::core::v1::ConfigMap = anyone.get("kube-public", "cluster-info").await.unwrap();
    let said = info.data.as_ref().unwrap()["kubeconfig"].clone();
    assert!(said.contains(&address), "{said}");
    assert_eq!(signed(&info), Some(detached_signature(&said, "abcdef", "0123456789abcdef")));

    let second = joining(folder.path(), "second", "abcdef");
    second.join().await.unwrap();
    let node = Client::from_kubeconfig(&second.kubeconfig).unwrap();
    let made = |name: &str| Node {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        ..Node::default()
    };
    node.create(&made("second")).await.unwrap();
    assert!(node.create(&made("third")).await.unwrap_err().to_string().contains("forbidden"));
    assert!(node.list::<Secret>("kube-system", &ListOptions::default()).await.is_err());
    let bootstrap = Client::from_kubeconfig(&second.bootstrap_kubeconfig).unwrap();
    assert!(bootstrap.list::<Secret>("kube-system", &ListOptions::default()).await.is_err());
    assert!(bootstrap.create(&made("third")).await.is_err());

    // Who is in joins no more; the certificate is renewed with itself, and shown by the client that runs.
    let certificate = NodeCertificate::of(&second.cert_dir, "second").unwrap();
    let requests = async || admin.list::<CertificateSigningRequest>("", &ListOptions::default()).await.unwrap().len();
    assert_eq!(requests().await, 1);
    second.join().await.unwrap();
    assert_eq!(requests().await, 1);
    let before = std::fs::read_to_string(certificate.current()).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    obtain(&node, &certificate).await.unwrap();
    assert_ne!(std::fs::read_to_string(certificate.current()).unwrap(), before);
    assert_eq!(requests().await, 2);
    Client::from_kubeconfig(&second.kubeconfig).unwrap().get::<Node>("", "second").await.unwrap();

    // A kubeconfig without a valid certificate is made anew.
    std::fs::write(&second.kubeconfig, "rubbish").unwrap();
    second.join().await.unwrap();
    assert_eq!(requests().await, 3);

    // A token that may ask for nothing gets nothing.
    let refused = joining(folder.path(), "fourth", "nobody").join().await.unwrap_err();
    assert!(format!("{refused:#}").contains("forbidden"), "{refused:#}");
}
