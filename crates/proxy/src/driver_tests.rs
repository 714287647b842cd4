use kybern_api::Object;
use serde_json::json;

use super::*;

fn config(text: &str) -> Config {
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    Config::parse(&format!("{head}{text}"), "node-1").unwrap()
}

#[test]
fn the_node_gives_addresses_and_cidrs() {
    let node = json!({"metadata": {"name": "node-1"}, "spec": {"podCIDRs": ["10.244.3.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.7.1"}, {"type": "Hostname", "address": "10.0.0.1"}]}});
    let node = Node::from_json(node.to_string().as_bytes()).unwrap();
    let found = settings(&config("detectLocalMode: NodeCIDR\n"), Some(&node));
    assert_eq!(found.node_port_addresses, NodePortAddresses::Only(vec!["192.168.7.1".parse().unwrap()]));
    assert_eq!(found.cluster_cidrs, ["10.244.3.0/24".parse().unwrap()]);
    assert_eq!(found.masquerade_mark, 0x4000);

    let found = settings(&config("clusterCIDR: 10.0.0.0/8\nnodePortAddresses: [\"0.0.0.0/0\"]\n"), None);
    assert_eq!(found.node_port_addresses, NodePortAddresses::All);
    assert_eq!(found.cluster_cidrs, ["10.0.0.0/8".parse().unwrap()]);

    let found = settings(&config("nodePortAddresses: [\"192.168.7.0/24\"]\n"), Some(&node));
    assert_eq!(found.node_port_addresses, NodePortAddresses::Only(vec!["192.168.7.1".parse().unwrap()]));
}

#[tokio::test(start_paused = true)]
async fn a_port_in_use_is_asked_for_again_unless_that_is_to_be_fatal() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let answer = |_: &str| Reply::text(StatusCode::OK, "ok");
    let error = keep_serving("healthz server", address, true, answer).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("failed to start healthz server on {address}: ")), "{error}");
    let serving = keep_serving("healthz server", address, false, answer).await.unwrap();
    drop(taken);
    while tokio::net::TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(BIND_RETRY).await;
    }
    serving.abort();
}
