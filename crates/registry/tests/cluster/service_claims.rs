//! Addresses and ports of Services, with two servers on one store, and of two families.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::Method;
use kybern_apimachinery::{Value, json, object};
use kybern_storage::memory::Memory;
use kybern_storage::sqlite::Sqlite;
use kybern_storage::{RangeRequest, Storage};

use crate::harness::Cluster;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    for (field, value) in spec.as_object().unwrap() {
        service["spec"][field] = value.clone();
    }
    service
}

fn strings(list: &Value) -> BTreeSet<String> {
    list.as_array().into_iter().flatten().map(|v| v.as_str().unwrap().to_owned()).collect()
}

/// The names of the stored IPAddresses.
async fn addresses(cluster: &Cluster) -> BTreeSet<String> {
    let list = cluster.get(ADDRESSES).await;
    list["items"].as_array().unwrap().iter().map(|a| object::name(a).to_owned()).collect()
}

/// What all Services have.
async fn held(cluster: &Cluster) -> BTreeSet<String> {
    let list = cluster.get("/api/v1/services").await;
    let mut all = BTreeSet::new();
    for ip in list["items"].as_array().unwrap().iter().flat_map(|s| strings(&s["spec"]["clusterIPs"])) {
        assert!(ip == "None" || all.insert(ip.clone()), "{ip} is there twice");
    }
    all
}

/// How many node ports are taken, as stored.
async fn ports(storage: &dyn Storage) -> u32 {
    use base64::Engine;
    let request = RangeRequest { prefix: "/registry/ranges/servicenodeports", after: "", limit: 1, at: None };
    let page = storage.range(request).await.unwrap();
    let Some(stored) = page.items.first() else { return 0 };
    let object: Value = serde_json::from_slice(&stored.value).unwrap();
    assert_eq!((&object["kind"], &object["range"]), (&json!("RangeAllocation"), &json!("30000-32767")));
    let data = base64::prelude::BASE64_STANDARD.decode(object["data"].as_str().unwrap()).unwrap();
    data.iter().map(|byte| byte.count_ones()).sum()
}

pub(crate) async fn two_servers_share_addresses(storage: Arc<dyn Storage>, other: Arc<dyn Storage>) {
    let range = "10.96.0.0/27";
    let servers = [Cluster::beside(storage.clone(), range).await, Cluster::beside(other, range).await];
    assert_eq!(addresses(&servers[0]).await, ["10.96.0.1".to_owned()].into());
    let create = |i: usize| {
        let (server, service) = (&servers[i % 2], service(&format!("s{i}"), json!({"type": "NodePort"})));
        async move { server.ask(Method::POST, SERVICES, Some(service)).await }
    };
    let (mut made, mut node_ports) = (Vec::new(), BTreeSet::new());
    for (code, answer) in futures_util::future::join_all((0..40).map(create)).await {
        if code != 201 {
            assert_eq!(answer["message"], "Internal error occurred: failed to allocate a serviceIP: range is full");
            continue;
        }
        let port = answer["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
        assert!(node_ports.insert(port), "{port} was given twice");
        made.push(object::name(&answer).to_owned());
    }
    // Thirty addresses, of which `kubernetes` has one.
    assert_eq!(made.len(), 29);
    assert_eq!(held(&servers[1]).await, addresses(&servers[0]).await);
    assert_eq!(ports(&*storage).await, 29);

    let address = servers[0].get(&format!("{ADDRESSES}/10.96.0.1")).await;
    assert_eq!(
        address["metadata"]["labels"],
        json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"})
    );
    let parent = json!({"resource": "services", "namespace": "default", "name": "kubernetes"});
    assert_eq!(address["spec"]["parentRef"], parent);

    // A name that exists takes nothing with it, nor does what is refused.
    let again = service(&made[0], json!({"type": "NodePort"}));
    servers[1].refusal(Method::DELETE, &format!("{SERVICES}/nobody"), None, 404).await;
    let (code, _) = servers[1].ask(Method::DELETE, &format!("{SERVICES}/{}", made[1]), None).await;
    assert_eq!(code, 200);
    // What one server freed is free to the other when it has read of it.
    assert_eq!(held(&servers[0]).await, addresses(&servers[0]).await);
    servers[0].refusal(Method::POST, SERVICES, Some(again), 409).await;
    let refused = service("bad", json!({"type": "NodePort", "sessionAffinity": "Odd"}));
    servers[0].refusal(Method::POST, SERVICES, Some(refused), 422).await;
    assert_eq!((addresses(&servers[0]).await.len(), ports(&*storage).await), (29, 28));

    // One address and one port that all want: one gets them.
    let wanted = (0..20).map(|i| {
        let spec = json!({"type": "NodePort", "clusterIP": "10.96.0.0", "ports": [{"port": 80, "nodePort": 30007}]});
        let (server, service) = (&servers[i % 2], service(&format!("w{i}"), spec));
        async move { server.ask(Method::POST, SERVICES, Some(service)).await }
    });
    let answers = futures_util::future::join_all(wanted).await;
    assert_eq!(answers.iter().filter(|(code, _)| *code == 201).count(), 0, "it is not free");
    let ip = (1..31).map(|i| format!("10.96.0.{i}")).collect::<BTreeSet<_>>();
    let ip = ip.difference(&addresses(&servers[0]).await).next().unwrap().clone();
    let wanted = (0..20).map(|i| {
        let spec = json!({"type": "NodePort", "clusterIP": ip, "ports": [{"port": 80, "nodePort": 30007}]});
        let (server, service) = (&servers[i % 2], service(&format!("w{i}"), spec));
        async move { server.ask(Method::POST, SERVICES, Some(service)).await }
    });
    let answers = futures_util::future::join_all(wanted).await;
    assert_eq!(answers.iter().filter(|(code, _)| *code == 201).count(), 1);
    let refusal = answers.iter().find(|(code, _)| *code != 201).unwrap();
    assert_eq!(refusal.0, 422, "{}", refusal.1);
    assert!(refusal.1["message"].as_str().unwrap().ends_with("provided IP is already allocated"), "{}", refusal.1);

    // A change of type gives the ports back; the end of a Service everything.
    let (code, plain) =
        servers[0].patch(&format!("{SERVICES}/{}", made[0]), json!({"spec": {"type": "ClusterIP"}})).await;
    assert_eq!(code, 200, "{plain}");
    assert_eq!(ports(&*storage).await, 28);
    let (code, _) = servers[1].ask(Method::DELETE, SERVICES, None).await;
    assert_eq!(code, 200);
    let left = held(&servers[0]).await;
    assert_eq!((addresses(&servers[1]).await, ports(&*storage).await), (left, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_never_give_an_address_twice_in_memory() {
    let storage = Arc::new(Memory::default());
    two_servers_share_addresses(storage.clone(), storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_never_give_an_address_twice_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Arc::new(Sqlite::open(directory.path(), Default::default()).unwrap());
    two_servers_share_addresses(storage.clone(), storage).await;
}

#[tokio::test]
async fn services_have_addresses_of_both_families() {
    let cluster = Cluster::start_with_services("10.96.0.0/16,fd00::/112").await;
    let families = |service: &Value| {
        let ips = service["spec"]["clusterIPs"].as_array().unwrap();
        ips.iter().map(|ip| if ip.as_str().unwrap().contains(':') { '6' } else { '4' }).collect::<String>()
    };
    let create = async |name: &str, spec: Value| cluster.create(SERVICES, service(name, spec)).await;
    let single = create("single", json!({})).await;
    assert_eq!((families(&single).as_str(), &single["spec"]["ipFamilyPolicy"]), ("4", &json!("SingleStack")));
    let six = create("six", json!({"ipFamilies": ["IPv6"]})).await;
    assert_eq!(families(&six), "6");
    let prefers = create("prefers", json!({"ipFamilyPolicy": "PreferDualStack"})).await;
    assert_eq!((families(&prefers).as_str(), &prefers["spec"]["ipFamilies"]), ("46", &json!(["IPv4", "IPv6"])));
    let turned = create("turned", json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]})).await;
    assert_eq!(families(&turned), "64");
    let chosen =
        json!({"ipFamilyPolicy": "RequireDualStack", "clusterIPs": ["fd00::99", "10.96.7.7"], "clusterIP": "fd00::99"});
    assert_eq!(create("chosen", chosen).await["spec"]["clusterIPs"], json!(["fd00::99", "10.96.7.7"]));
    assert_eq!(addresses(&cluster).await, held(&cluster).await);

    let path = format!("{SERVICES}/single");
    let (_, up) = cluster.patch(&path, json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}})).await;
    assert_eq!(families(&up), "46", "{up}");
    assert_eq!(up["spec"]["clusterIPs"][0], single["spec"]["clusterIP"], "the first stays");
    assert_eq!(addresses(&cluster).await, held(&cluster).await);
    let (code, text) = cluster.patch(&path, json!({"spec": {"clusterIPs": [single["spec"]["clusterIP"]]}})).await;
    assert_eq!(code, 422);
    let told = "must be 'SingleStack' to release the secondary cluster IP";
    assert!(text["message"].as_str().unwrap().contains(told), "{text}");
    let (_, down) = cluster.patch(&path, json!({"spec": {"ipFamilyPolicy": "SingleStack"}})).await;
    assert_eq!((families(&down).as_str(), &down["spec"]["ipFamilies"]), ("4", &json!(["IPv4"])), "{down}");
    assert_eq!(addresses(&cluster).await, held(&cluster).await, "the second is given back");
    let (_, external) = cluster
        .patch(&format!("{SERVICES}/turned"), json!({"spec": {"type": "ExternalName", "externalName": "a.example"}}))
        .await;
    assert!(external["spec"].get("clusterIPs").is_none(), "{external}");
    assert_eq!(addresses(&cluster).await, held(&cluster).await);

    let first = cluster.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await;
    assert_eq!(first["spec"]["cidrs"], json!(["10.96.0.0/16", "fd00::/112"]));
    assert_eq!(
        (&first["status"]["conditions"][0]["type"], &first["status"]["conditions"][0]["status"]),
        (&json!("Ready"), &json!("True"))
    );
}

#[tokio::test]
async fn further_ranges_are_used_when_the_first_is_full() {
    let storage: Arc<dyn Storage> = Arc::new(Memory::default());
    let cluster = Cluster::beside(storage.clone(), "10.96.0.0/30").await;
    cluster.create(SERVICES, service("a", json!({}))).await;
    let full = cluster.refusal(Method::POST, SERVICES, Some(service("b", json!({}))), 500).await;
    assert!(full.ends_with("range is full"), "{full}");
    let more = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.200.0.0/24"]}});
    cluster.create("/apis/networking.k8s.io/v1/servicecidrs", more).await;
    let b = cluster.create(SERVICES, service("b", json!({}))).await;
    assert!(b["spec"]["clusterIP"].as_str().unwrap().starts_with("10.200.0."), "{b}");
    cluster.create(SERVICES, service("c", json!({"clusterIP": "10.200.0.200"}))).await;

    // A store that lacks the IPAddresses gets them, and keeps none whose Service is gone.
    let stray = json!({"metadata": {"name": "10.200.0.77", "labels": {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "gone"}}});
    cluster.create(ADDRESSES, stray).await;
    let (code, _) = cluster.ask(Method::DELETE, &format!("{ADDRESSES}/10.200.0.200"), None).await;
    assert_eq!(code, 200);
    let again = Cluster::beside(storage, "10.96.0.0/30").await;
    assert_eq!(addresses(&again).await, held(&again).await);
    let taken =
        again.refusal(Method::POST, SERVICES, Some(service("d", json!({"clusterIP": "10.200.0.200"}))), 422).await;
    assert!(taken.ends_with("provided IP is already allocated"), "{taken}");
}
