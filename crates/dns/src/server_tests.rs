use std::net::IpAddr;

use super::*;
use crate::message::{after_question, read_record};
use crate::metrics::Metrics;
use crate::setup::load;
use crate::zone::{Cluster, ServiceKind};

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn server(corefile: &str) -> Arc<PortServer> {
    let cluster = Cluster::default();
    cluster.set_namespace("default", true);
    cluster.set_service("default/web", Some(ServiceKind::Cluster { ips: [ip("10.96.0.7")].into(), ports: [].into() }));
    for (alias, target) in [
        ("inside", "web.default.svc.cluster.local"),
        ("again", "inside.default.svc.cluster.local"),
        ("outside", "example.org"),
    ] {
        cluster.set_service(&format!("default/{alias}"), Some(ServiceKind::External(name(target))));
    }
    cluster.set_service("default/self", Some(ServiceKind::External(name("self.default.svc.cluster.local"))));
    cluster.set_synced();
    load(corefile, "Corefile", 53, &Arc::new(cluster), &Metrics::new()).unwrap().ports[&53].clone()
}

const UDP: Source =
    Source { address: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4000), over_tcp: false };

/// The code and the answers' types and last bytes, or what is done instead.
fn ask(server: &Arc<PortServer>, text: &str, qtype: u16) -> String {
    match server.handle(&Query::new(9, &name(text), qtype).encode(9), UDP) {
        Step::Ignore => "ignored".into(),
        Step::Wait(_) => "waits".into(),
        Step::Reply(bytes) => {
            let mut out = vec![rcode::name(bytes[3] & 15).to_owned()];
            let mut at = after_question(&bytes).unwrap();
            for _ in 0..bytes[7] {
                let record = read_record(&bytes, at).unwrap();
                let shown = if record.kind == rtype::A { bytes[record.end - 1].to_string() } else { String::new() };
                out.push(format!("{}{shown}", rtype::name(record.kind)));
                at = record.end;
            }
            out.join(" ")
        }
    }
}

#[test]
fn queries_find_their_block() {
    let server = server(
        ". {\n kubernetes cluster.local\n forward . 192.0.2.1\n}\nstub.test {\n hosts {\n  10.0.0.9 a.stub.test\n }\n}\n\
         empty.test {\n}\n",
    );
    for (text, qtype, expect) in [
        ("web.default.svc.cluster.local", rtype::A, "NOERROR A7"),
        ("gone.default.svc.cluster.local", rtype::A, "NXDOMAIN"),
        ("example.org", rtype::A, "waits"),
        ("a.stub.test", rtype::A, "NOERROR A9"),
        ("b.stub.test", rtype::A, "NXDOMAIN"),
        ("x.empty.test", rtype::A, "SERVFAIL"),
    ] {
        assert_eq!(ask(&server, text, qtype), expect, "{text}");
    }
}

#[test]
fn names_of_no_zone_are_refused() {
    assert_eq!(ask(&server("stub.test {\n}\n"), "example.org", rtype::A), "REFUSED");
}

#[test]
fn aliases_are_followed() {
    let server = server(". {\n kubernetes cluster.local\n forward . 192.0.2.1\n}\n");
    for (alias, qtype, expect) in [
        ("inside", rtype::A, "NOERROR CNAME A7"),
        ("inside", rtype::CNAME, "NOERROR CNAME"),
        ("again", rtype::A, "NOERROR CNAME CNAME A7"),
        ("outside", rtype::A, "waits"),
    ] {
        assert_eq!(ask(&server, &format!("{alias}.default.svc.cluster.local"), qtype), expect, "{alias}");
    }
    let looping = ask(&server, "self.default.svc.cluster.local", rtype::A);
    assert_eq!(looping.matches("CNAME").count(), MAX_ALIASES + 1, "an alias of itself ends");
}

#[test]
fn the_own_probe_is_recognised() {
    let server = server(". {\n loop\n forward . 192.0.2.1\n}\n");
    let probe = server.blocks[0].loop_probe.as_ref().unwrap().name.to_string();
    assert_eq!(ask(&server, &probe, rtype::HINFO), "waits");
    assert_eq!(ask(&server, &probe, rtype::A), "waits");
    assert_eq!(ask(&server, &probe, rtype::HINFO), "REFUSED");
}

#[test]
fn addresses_change_places() {
    let hosts: String = (1..=4).map(|i| format!("  10.0.0.{i} many.test\n")).collect();
    let server = server(&format!(". {{\n hosts {{\n{hosts} }}\n loadbalance\n}}\n"));
    let mut seen: Vec<String> = (0..64).map(|_| ask(&server, "many.test", rtype::A)).collect();
    seen.sort();
    seen.dedup();
    assert!(seen.len() > 10, "{} orders of 24", seen.len());
}

#[test]
fn other_versions_and_classes_are_refused() {
    let server = server(". {\n forward . 192.0.2.1\n}\n");
    let reply = |bytes: Vec<u8>| match server.handle(&bytes, UDP) {
        Step::Reply(reply) => Some(reply),
        _ => None,
    };
    let mut query = Query::new(1, &name("a.test"), rtype::A);
    query.qclass = 3;
    assert_eq!(reply(query.encode(1)).unwrap()[3] & 15, rcode::REFUSED);
    let mut query = Query::new(1, &name("a.test"), rtype::A);
    query.edns = Some(crate::message::Edns { udp_size: 512, version: 0, dnssec_ok: false });
    let mut bytes = query.encode(1);
    let version = bytes.len() - 5;
    bytes[version] = 1;
    let bytes = reply(bytes).unwrap();
    assert_eq!(bytes[bytes.len() - 6], 1, "BADVERS");
    assert!(matches!(server.handle(&[1, 2, 3], UDP), Step::Ignore));
}
