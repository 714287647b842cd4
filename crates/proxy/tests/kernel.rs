//! The whole proxy against the kernel: a node, two pods and an outsider, each in a network namespace made here, and an API
//! server that is a script. Needs root; says so otherwise.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fake_api::FakeApi;
use kybern_client::Client;
use kybern_linux::netns::NetNs;
use kybern_linux::nft::{Family, Nftables};
use kybern_linux::rtnl::{LinkChange, Route, Rtnl};
use kybern_proxy::Config;
use kybern_testbed::TestNs;
use serde_json::{Value, json};
use tokio::sync::oneshot;

mod fake_api;

const TIMEOUT: Duration = Duration::from_secs(3);
const NODE: &str = "192.168.7.1";
const VIP: &str = "10.96.0.10";
const PODS: [&str; 2] = ["10.244.0.2", "10.244.0.3"];

fn io_error(error: impl std::error::Error) -> io::Error {
    io::Error::other(error.to_string())
}

/// Plugs `other` into a bridge of `node`.
fn plug(node: &TestNs, other: &TestNs, bridge: &str, name: &str, address: &str, gateway: &str) {
    let plug = || -> Result<(), kybern_linux::netlink::NetlinkError> {
        let mut rtnl = Rtnl::open()?;
        if rtnl.link(bridge)?.is_none() {
            rtnl.add_bridge(bridge, None)?;
            let link = rtnl.require_link(bridge)?;
            rtnl.add_address(link.index, gateway.parse().unwrap())?;
            rtnl.set_up(link.index)?;
        }
        let bridge = rtnl.require_link(bridge)?;
        rtnl.add_veth(name, "eth0", Some(other.ns.as_fd()), None)?;
        let port = rtnl.require_link(name)?;
        rtnl.change_link(port.index, LinkChange { master: Some(bridge.index), up: Some(true), ..Default::default() })?;
        rtnl.set_hairpin(port.index, true)
    };
    node.ns.run(|| plug().map_err(io_error)).unwrap();
    let configure = || -> Result<(), kybern_linux::netlink::NetlinkError> {
        let mut rtnl = Rtnl::open()?;
        let link = rtnl.require_link("eth0")?;
        rtnl.add_address(link.index, address.parse().unwrap())?;
        rtnl.set_up(link.index)?;
        let gateway: IpAddr = gateway.split('/').next().unwrap().parse().unwrap();
        rtnl.replace_route(&Route {
            destination: "0.0.0.0/0".parse().unwrap(),
            gateway: Some(gateway),
            link: Some(link.index),
            source: None,
        })
    };
    other.ns.run(|| configure().map_err(io_error)).unwrap();
}

/// A pod's servers: over TCP and UDP they answer every message with their own address.
fn serve(pod: &TestNs, address: &'static str) {
    let listener = pod.ns.run(|| TcpListener::bind("0.0.0.0:8080")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(address.as_bytes()).is_ok() {}
            });
        }
    });
    let udp = pod.ns.run(|| UdpSocket::bind("0.0.0.0:8080")).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 16];
        while let Ok((_, from)) = udp.recv_from(&mut bytes) {
            let _ = udp.send_to(address.as_bytes(), from);
        }
    });
}

struct Connection(TcpStream);

impl Connection {
    fn open(from: &TestNs, to: &str) -> io::Result<Self> {
        let to: SocketAddr = to.parse().unwrap();
        let stream = from.ns.run(|| TcpStream::connect_timeout(&to, TIMEOUT))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self(stream))
    }

    /// Who answers.
    fn ask(&mut self) -> io::Result<String> {
        self.0.write_all(b"?")?;
        let mut bytes = [0; 10];
        self.0.read_exact(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn ask(from: &TestNs, to: &str) -> io::Result<String> {
    Connection::open(from, to)?.ask()
}

/// A running proxy; stops when dropped.
struct Proxy {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Proxy {
    fn start(node: &TestNs, api: &Arc<FakeApi>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let netns = NetNs::open(&node.path).unwrap();
        let client = Client::new(api.clone());
        let thread = std::thread::spawn(move || {
            let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n\
                        clusterCIDR: 10.244.0.0/16\nnftables: {minSyncPeriod: 10ms}\n";
            let config = Config::parse(text, "node-1").unwrap();
            netns
                .run(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    let shutdown = async {
                        let _ = stopped.await;
                    };
                    runtime.block_on(kybern_proxy::run(config, client, shutdown)).map_err(io_error)
                })
                .unwrap();
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().unwrap().join();
    }
}

/// Asks again until the answer is as expected; the proxy works on its own time.
fn eventually<T: PartialEq + std::fmt::Debug>(what: &str, expect: T, ask: impl Fn() -> T) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = ask();
        if answer == expect {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {answer:?} instead of {expect:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn slice(ready: &[&str], terminating: &[&str]) -> Value {
    let endpoint = |ip: &&str, ready: bool| json!({"addresses": [ip], "nodeName": "node-1", "conditions": {"ready": ready, "serving": true, "terminating": !ready}});
    let endpoints: Vec<_> =
        ready.iter().map(|ip| endpoint(ip, true)).chain(terminating.iter().map(|ip| endpoint(ip, false))).collect();
    json!({"metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "tcp", "port": 8080, "protocol": "TCP"}, {"name": "udp", "port": 8080, "protocol": "UDP"}]})
}

#[test]
fn services_work_and_survive_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["node", "outside", "pod-a", "pod-b"];
    let machines: Vec<_> = names.iter().filter_map(|name| TestNs::new(dir.path(), name)).collect();
    let [node, outside, a, b] = machines.as_slice() else { return };
    plug(node, outside, "br-wire", "wire", "192.168.7.2/24", "192.168.7.1/24");
    plug(node, a, "br-pods", "veth-a", "10.244.0.2/24", "10.244.0.1/24");
    plug(node, b, "br-pods", "veth-b", "10.244.0.3/24", "10.244.0.1/24");
    node.ns
        .run(|| {
            kybern_linux::sysctl::set("net/ipv4/ip_forward", "1").map_err(io_error)?;
            // A cluster IP must be routable somewhere before it can be translated; a real node has a default route.
            let route = Route {
                destination: "0.0.0.0/0".parse().unwrap(),
                gateway: Some("192.168.7.2".parse().unwrap()),
                link: None,
                source: None,
            };
            Rtnl::open().and_then(|mut rtnl| rtnl.replace_route(&route)).map_err(io_error)?;
            // Pods of one bridge answer each other past the node unless bridged packets pass netfilter.
            kybern_linux::sysctl::set("net/bridge/bridge-nf-call-iptables", "1").map_err(io_error)
        })
        .unwrap();
    serve(a, PODS[0]);
    serve(b, PODS[1]);

    let api = Arc::new(FakeApi::default());
    api.put(
        "nodes",
        json!({"metadata": {"name": "node-1"}, "status": {"addresses": [{"type": "InternalIP", "address": NODE}]}}),
    );
    api.put(
        "services",
        json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"type": "NodePort", "clusterIP": VIP,
            "ports": [{"name": "tcp", "port": 80, "nodePort": 30080}, {"name": "udp", "port": 53, "protocol": "UDP"}]}}),
    );
    api.put("endpointslices", slice(&[], &[]));
    let proxy = Proxy::start(node, &api);
    let vip = format!("{VIP}:80");
    let node_port = format!("{NODE}:30080");
    let refused =
        |from: &TestNs, to: &str| ask(from, to).map_err(|error| error.kind()) == Err(io::ErrorKind::ConnectionRefused);
    eventually("a service without endpoints refuses", [true; 3], || {
        [refused(a, &vip), refused(node, &vip), refused(outside, &node_port)]
    });

    api.put("endpointslices", slice(&PODS[..1], &[]));
    let answer = |from: &TestNs, to: &str| ask(from, to).map_err(|error| error.to_string());
    eventually("a cluster IP leads to its pod", Ok(PODS[0].to_owned()), || answer(b, &vip));
    assert_eq!(answer(node, &vip), Ok(PODS[0].into()), "from the node");
    assert_eq!(answer(outside, &node_port), Ok(PODS[0].into()), "a node port from outside");
    assert_eq!(answer(node, &node_port), Ok(PODS[0].into()), "a node port from the node");
    assert_eq!(answer(a, &vip), Ok(PODS[0].into()), "a pod reaches itself");
    assert!(refused(a, &format!("{VIP}:81")), "a cluster IP's other ports");

    // A connection lives through a restart and through changes, and a restart finds nothing to do.
    let mut connection = Connection::open(b, &vip).unwrap();
    drop(proxy);
    let read = || node.ns.run(|| Nftables::open().and_then(|mut n| n.read(Family::Ip, "kube-proxy")).map_err(io_error));
    let before = read().unwrap();
    assert_eq!(answer(b, &vip), Ok(PODS[0].into()), "rules outlive the proxy");
    let proxy = Proxy::start(node, &api);
    api.put("endpointslices", slice(&PODS, &[]));
    let all = |from: &TestNs, to: &str| {
        let mut seen: Vec<_> = (0..24).map(|_| answer(from, to)).collect();
        seen.sort();
        seen.dedup();
        seen
    };
    let both: Vec<Result<String, String>> = PODS.iter().map(|ip| Ok((*ip).to_owned())).collect();
    eventually("both pods serve", both, || all(outside, &node_port));
    assert_eq!(connection.ask().unwrap(), PODS[0], "an old connection goes on");
    api.put("endpointslices", slice(&PODS[..1], &[]));
    eventually("the same endpoints give the same rules", true, || read().unwrap() == before);

    // Another program throws the rules away.
    node.ns.run(|| kybern_proxy::driver::cleanup().map_err(io_error)).unwrap();
    eventually("the rules come back", true, || read().unwrap() == before);

    // A UDP client keeps its socket while the endpoint behind the service changes.
    let udp = b.ns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    udp.connect(format!("{VIP}:53")).unwrap();
    udp.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let ask_udp = || {
        let mut bytes = [0; 16];
        udp.send(b"?").and_then(|_| udp.recv(&mut bytes)).map(|n| String::from_utf8_lossy(&bytes[..n]).into_owned())
    };
    assert_eq!(ask_udp().unwrap(), PODS[0]);
    api.put("endpointslices", slice(&PODS[1..], &[]));
    eventually("UDP follows the endpoint", Some(PODS[1].to_owned()), || ask_udp().ok());

    // A rolling update: one pod comes, the other terminates and goes; every request is answered.
    for turn in 0..20 {
        let (new, old) = (PODS[turn % 2], PODS[(turn + 1) % 2]);
        for step in [slice(&[new, old], &[]), slice(&[new], &[old]), slice(&[], &[new]), slice(&[new], &[])] {
            api.put("endpointslices", step);
            for _ in 0..4 {
                answer(outside, &node_port).unwrap_or_else(|error| panic!("turn {turn}: {error}"));
                answer(b, &vip).unwrap_or_else(|error| panic!("turn {turn}: {error}"));
            }
        }
    }
    assert_eq!(connection.ask().unwrap(), PODS[0], "the first connection still goes on");

    drop(proxy);
    node.ns.run(|| kybern_proxy::driver::cleanup().map_err(io_error)).unwrap();
    assert_eq!(read().unwrap(), None);
}
