//! Whole attachments: external plugins as scripts (no root), the built-in chain in network namespaces (root).

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use kybern_cni::{Cni, CniError, ContainerNet, DefaultNetwork, PortMapping, purge};
use kybern_linux::netns::NetNs;
use kybern_linux::nft::{Family, Nftables};
use kybern_linux::rtnl::{Route, Rtnl};
use kybern_testbed::{TestNs, not_run};

const TIMEOUT: Duration = Duration::from_secs(3);

fn container(id: &str, netns: &Path) -> ContainerNet {
    ContainerNet {
        container_id: id.into(),
        netns: netns.into(),
        if_name: "eth0".into(),
        args: vec![("IgnoreUnknown".into(), "1".into()), ("K8S_POD_NAME".into(), "web".into())],
        port_mappings: Vec::new(),
    }
}

fn io_error(error: impl std::error::Error) -> io::Error {
    io::Error::other(error.to_string())
}

#[test]
fn an_executable_plugin_is_called_by_the_book() {
    let dir = tempfile::tempdir().unwrap();
    let (conf, bin, cache) = (dir.path().join("conf"), dir.path().join("bin"), dir.path().join("cache"));
    for path in [&conf, &bin] {
        std::fs::create_dir(path).unwrap();
    }
    let script = format!(
        "#!/bin/sh\necho \"$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS $(cat)\" >> {}/log\n\
         case $CNI_COMMAND-$CNI_CONTAINERID in ADD-bad) echo '{{\"code\":11,\"msg\":\"try later\"}}'; exit 1;; esac\n\
         [ $CNI_COMMAND = ADD ] && echo '{{\"cniVersion\":\"1.0.0\",\"ips\":[{{\"address\":\"10.9.8.7/24\"}}]}}'\nexit 0\n",
        dir.path().display()
    );
    std::fs::write(bin.join("custom"), script).unwrap();
    std::fs::set_permissions(bin.join("custom"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let write_conf = |plugin: &str| {
        let text = format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{{"type":"{plugin}","key":"value"}}]}}"#);
        std::fs::write(conf.join("10.conflist"), text).unwrap();
        Cni::load(&conf, std::slice::from_ref(&bin), &cache).unwrap()
    };

    // Without root there is no namespace to bring a loopback up in; `lo` of the test's own is up already.
    let netns = Path::new("/proc/thread-self/ns/net");
    let error = write_conf("absent").add(&container("a", netns)).unwrap_err().to_string();
    if !error.contains("loopback") {
        assert!(error.starts_with("failed to find plugin \"absent\" in path"), "{error}");
    }
    assert!(matches!(write_conf("absent").status(), Err(CniError::PluginNotFound { .. })));

    let cni = write_conf("custom");
    cni.status().unwrap();
    let result = match cni.add(&container("a", netns)) {
        Err(error) if error.to_string().contains("loopback") => {
            let lacking = format!("entering a network namespace needs root: {error}");
            return not_run("an_executable_plugin_is_called_by_the_book", &lacking);
        }
        result => result.unwrap(),
    };
    assert_eq!(result.container_ips().collect::<Vec<_>>(), ["10.9.8.7".parse::<IpAddr>().unwrap()]);
    let error = cni.add(&container("bad", netns)).unwrap_err().to_string();
    assert_eq!(error, r#"plugin type="custom" failed (add): try later"#);

    // A deletion uses the configuration of the addition, and its result.
    std::fs::write(conf.join("10.conflist"), r#"{"name":"other","plugins":[{"type":"absent"}]}"#).unwrap();
    let cni = Cni::load(&conf, std::slice::from_ref(&bin), &cache).unwrap();
    cni.del(&container("a", netns)).unwrap();
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    let del = log.lines().find(|line| line.starts_with("DEL a eth0 IgnoreUnknown=1;K8S_POD_NAME=web ")).unwrap();
    assert!(del.contains("10.9.8.7/24") && del.contains(r#""key":"value""#), "{del}");
    assert_eq!(std::fs::read_dir(cache.join("results")).unwrap().count(), 0);
}

/// Answers one TCP connection with the address it came from.
fn serve_peer_address(listener: TcpListener) -> std::thread::JoinHandle<io::Result<()>> {
    std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept()?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.write_all(peer.ip().to_string().as_bytes())
    })
}

/// What a server at `to` says to a client in `from`.
fn ask(from: &NetNs, to: SocketAddr) -> io::Result<String> {
    from.run(|| {
        let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

#[test]
fn pods_reach_each_other_the_node_and_the_outside() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["host", "outside", "pod-a", "pod-b"];
    let made: Vec<_> = names.iter().filter_map(|name| TestNs::new(dir.path(), name)).collect();
    let [host, outside, a, b] = made.as_slice() else { return };
    // A network of two machines: the node 192.168.7.1 and another, 192.168.7.2, which knows no route to pods.
    host.ns
        .run(|| {
            use std::os::fd::AsFd;
            let mut rtnl = Rtnl::open().map_err(io_error)?;
            rtnl.add_veth("wire", "wire", Some(outside.ns.as_fd()), None).map_err(io_error)
        })
        .unwrap();
    for (ns, address) in [(&host.ns, "192.168.7.1/24"), (&outside.ns, "192.168.7.2/24")] {
        ns.run(|| {
            let mut rtnl = Rtnl::open().map_err(io_error)?;
            let wire = rtnl.require_link("wire").map_err(io_error)?;
            rtnl.add_address(wire.index, address.parse().unwrap()).map_err(io_error)?;
            rtnl.set_up(wire.index).map_err(io_error)
        })
        .unwrap();
    }
    let network = DefaultNetwork { data_dir: Some(dir.path().join("networks")), ..DefaultNetwork::default() };
    let conf = dir.path().join("net.d");
    assert!(network.write(&conf).unwrap());
    let cache = dir.path().join("cache");
    let cni = Cni::load(&conf, &[], &cache).unwrap();
    let in_host = |work: &(dyn Fn() -> Result<(), CniError> + Sync)| {
        host.ns.run(|| work().map_err(io_error)).unwrap();
    };

    let mut pod_a = container("a", &a.path);
    let mapping = |host_port, protocol: &str| PortMapping {
        host_port,
        container_port: 8080,
        protocol: protocol.into(),
        host_ip: None,
    };
    pod_a.port_mappings = vec![mapping(18080, "tcp"), mapping(18081, "UDP")];
    let pod_b = container("b", &b.path);
    let result = host.ns.run(|| cni.add(&pod_a).map_err(io_error)).unwrap();
    let address: IpAddr = "10.244.0.2".parse().unwrap();
    assert_eq!(result.container_ips().collect::<Vec<_>>(), [address]);
    // A repeated addition, as after a crash, gives the same address.
    let again = host.ns.run(|| cni.add(&pod_a).map_err(io_error)).unwrap();
    assert_eq!(again.ips, result.ips);
    in_host(&|| cni.add(&pod_b).map(drop));
    in_host(&|| cni.check(&pod_a));

    let listen = |ns: &NetNs, at: &str| ns.run(|| TcpListener::bind(at)).unwrap();
    let heard = |from: &NetNs, to: &str, server: &NetNs, at: &str| {
        let served = serve_peer_address(listen(server, at));
        let answer = ask(from, to.parse().unwrap());
        if answer.is_ok() {
            served.join().unwrap().unwrap();
        }
        answer.map_err(|error| format!("{to}: {error}"))
    };
    let at = "0.0.0.0:8080";
    assert_eq!(heard(&b.ns, "10.244.0.2:8080", &a.ns, at), Ok("10.244.0.3".into()), "pod to pod keeps its address");
    assert_eq!(heard(&host.ns, "10.244.0.2:8080", &a.ns, at), Ok("10.244.0.1".into()), "node to pod");
    assert_eq!(heard(&b.ns, "192.168.7.2:8080", &outside.ns, at), Ok("192.168.7.1".into()), "pod to outside");
    assert_eq!(heard(&outside.ns, "192.168.7.1:18080", &a.ns, at), Ok("192.168.7.2".into()), "host port");
    assert_eq!(heard(&host.ns, "127.0.0.1:18080", &a.ns, at), Ok("10.244.0.1".into()), "host port by loopback");
    assert_eq!(heard(&a.ns, "192.168.7.1:18080", &a.ns, at), Ok("10.244.0.1".into()), "a pod's own host port");

    // A reply within the bridge must be translated back, with the help of br_netfilter or without.
    if Path::new("/proc/sys/net/bridge").exists() {
        assert_eq!(heard(&b.ns, "192.168.7.1:18080", &a.ns, at), Ok("10.244.0.3".into()), "host port of a neighbour");
        let pass_netfilter = |value: &str| {
            host.ns
                .run(|| kybern_linux::sysctl::set("net/bridge/bridge-nf-call-iptables", value).map_err(io_error))
                .unwrap();
        };
        pass_netfilter("0");
        in_host(&|| cni.add(&pod_b).map(drop));
        assert_eq!(
            heard(&b.ns, "192.168.7.1:18080", &a.ns, at),
            Ok("10.244.0.1".into()),
            "the same without br_netfilter"
        );
        pass_netfilter("1");
        in_host(&|| cni.add(&pod_b).map(drop));
    } else {
        eprintln!("not tested: the module br_netfilter is not loaded");
    }

    let udp = a.ns.run(|| UdpSocket::bind("0.0.0.0:8080")).unwrap();
    udp.set_read_timeout(Some(TIMEOUT)).unwrap();
    outside.ns.run(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"hello", "192.168.7.1:18081")).unwrap();
    assert_eq!(udp.recv(&mut [0; 16]).unwrap(), 5, "host port over UDP");

    // Many at once do not undo each other's rules.
    let crowd: Vec<_> = (0..8).filter_map(|i| TestNs::new(dir.path(), &format!("crowd-{i}"))).collect();
    let crowd: Vec<_> = crowd
        .iter()
        .enumerate()
        .map(|(i, ns)| {
            let mut pod = container(&format!("crowd-{i}"), &ns.path);
            pod.port_mappings = vec![mapping(20000 + i as u16, "tcp")];
            pod
        })
        .collect();
    std::thread::scope(|scope| {
        for pod in &crowd {
            scope.spawn(|| in_host(&|| cni.add(pod).map(drop)));
        }
    });
    let hostports = || {
        let read = || Nftables::open().and_then(|mut nft| nft.read(Family::Ip, "kybern-cni-hostport"));
        host.ns.run(|| read().map_err(io_error)).unwrap().unwrap().chains["hostports"].rules.len()
    };
    assert_eq!(hostports(), 2 + crowd.len());
    std::thread::scope(|scope| {
        for pod in &crowd {
            scope.spawn(|| in_host(&|| cni.del(pod)));
        }
    });
    assert_eq!(hostports(), 2);

    // Deleting is done twice, and once with the namespace gone.
    in_host(&|| cni.del(&pod_a));
    in_host(&|| cni.del(&pod_a));
    assert!(heard(&outside.ns, "192.168.7.1:18080", &host.ns, at).is_err(), "the host port is closed");
    // A crash between a result's writing and its renaming: with all of it, or with some.
    let half = |name: &str| cache.join("results").join(format!("cbr0-{name}-eth0.tmp"));
    let whole = std::fs::read_dir(cache.join("results")).unwrap().next().unwrap().unwrap().path();
    std::fs::copy(whole, half("dead")).unwrap();
    for name in ["gone", "b"] {
        std::fs::write(half(name), "{").unwrap();
    }
    in_host(&|| cni.collect_garbage(|id| id == "b").map(drop));
    assert_eq!(["dead", "gone", "b"].map(|name| half(name).exists()), [false, false, true]);
    std::fs::remove_file(half("b")).unwrap();
    in_host(&|| cni.check(&pod_b));
    NetNs::remove(&b.path).unwrap();
    std::fs::write(half("b"), "{").unwrap();
    in_host(&|| cni.del(&pod_b));
    assert!(!half("b").exists(), "it goes with the container");
    host.ns
        .run(|| {
            let mut rtnl = Rtnl::open().map_err(io_error)?;
            let veths: Vec<_> =
                rtnl.links().map_err(io_error)?.into_iter().filter(|l| l.name.starts_with("veth")).collect();
            assert_eq!(veths, [], "deletions leave no links");
            purge(&network, true, &cache).map_err(io_error)?;
            purge(&network, true, &cache).map_err(io_error)?;
            assert!(rtnl.link("cni0").map_err(io_error)?.is_none());
            assert!(
                rtnl.routes().map_err(io_error)?.iter().all(|r: &Route| r.destination.to_string() != "10.244.0.0/24")
            );
            let mut nft = Nftables::open().map_err(io_error)?;
            for table in ["kybern-cni-masquerade", "kybern-cni-hostport"] {
                assert!(!nft.has_table(Family::Ip, table).map_err(io_error)?);
            }
            Ok(())
        })
        .unwrap();
}

/// A host that has heard an address long ago keeps sending to who had it then, for seconds.
#[test]
fn an_address_of_a_pod_that_has_gone_leads_to_its_next_holder_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let made: Vec<_> = ["host", "neighbour", "pod"].iter().filter_map(|name| TestNs::new(dir.path(), name)).collect();
    let [host, neighbour, pod] = made.as_slice() else { return };
    let subnets = vec!["10.244.0.0/29".parse().unwrap(), "fd00:10:244::/125".parse().unwrap()];
    let data_dir = Some(dir.path().join("networks"));
    let network = DefaultNetwork { subnets, data_dir, ..DefaultNetwork::default() };
    let conf = dir.path().join("net.d");
    assert!(network.write(&conf).unwrap());
    let cni = Cni::load(&conf, &[], &dir.path().join("cache")).unwrap();
    host.ns.run(|| cni.add(&container("neighbour", &neighbour.path)).map_err(io_error)).unwrap();
    let (mut met, mut repeated) = (std::collections::BTreeSet::new(), 0);
    for number in 0..20 {
        let container = container(&format!("pod-{number}"), &pod.path);
        let result = host.ns.run(|| cni.add(&container).map_err(io_error)).unwrap();
        for address in result.container_ips() {
            repeated += u32::from(!met.insert(address));
            let listener = pod.ns.run(|| TcpListener::bind((address, 8080))).unwrap();
            for (name, from) in [("node", &host.ns), ("neighbour", &neighbour.ns)] {
                let wait = Duration::from_millis(900);
                let connected = from.run(|| TcpStream::connect_timeout(&(address, 8080).into(), wait));
                assert!(connected.is_ok(), "{name} to {address}, pod {number}: {connected:?}");
            }
            drop(listener);
        }
        host.ns.run(|| cni.del(&container).map_err(io_error)).unwrap();
    }
    assert!(repeated > 20, "{repeated} addresses had been another's");
}
