use super::*;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn port(name: &str, protocol: &'static str, number: u16) -> Port {
    Port { name: name.into(), protocol, number }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn endpoint(address: &str, hostname: &str, ports: &[Port]) -> Endpoint {
    Endpoint { ip: ip(address), hostname: hostname.into(), ports: ports.into() }
}

fn cluster() -> Arc<Cluster> {
    let cluster = Cluster::default();
    for namespace in ["default", "kube-system"] {
        cluster.set_namespace(namespace, true);
    }
    let dns_ports = [port("dns", "udp", 53), port("dns-tcp", "tcp", 53)];
    for (key, ips, ports) in [
        ("default/web", &["10.96.0.7", "fd96::7"][..], &[port("http", "tcp", 80)][..]),
        ("kube-system/kube-dns", &["10.96.0.10"], &dns_ports),
    ] {
        let ips = ips.iter().map(|text| ip(text)).collect();
        cluster.set_service(key, Some(ServiceKind::Cluster { ips, ports: ports.into() }));
    }
    cluster.set_service("default/db", Some(ServiceKind::Headless));
    let pg = [port("pg", "tcp", 5432)];
    cluster.set_endpoints(
        "default/db",
        vec![endpoint("10.244.0.5", "db-0", &pg), endpoint("10.244.0.6", "10-244-0-6", &pg)],
    );
    cluster.set_service("default/idle", Some(ServiceKind::Headless));
    cluster.set_service("default/ext", Some(ServiceKind::External(name("example.org"))));
    cluster.set_pod("default", ip("10.244.0.5"), true);
    cluster.start_serial(1);
    cluster.set_synced();
    Arc::new(cluster)
}

fn plugin(pods: PodsMode, fallthrough: Fallthrough) -> Kubernetes {
    let options = Options {
        zones: ["in-addr.arpa", "ip6.arpa", "cluster.local"].map(name).into(),
        ttl: 30,
        pods,
        fallthrough,
        pod_names: false,
        namespaces: Vec::new(),
    };
    Kubernetes::new(options, cluster())
}

fn show(record: &Record) -> String {
    let owner = match &record.owner {
        Owner::Question => String::new(),
        Owner::Name(name) => format!("{name} "),
    };
    let data = match &record.data {
        RData::Ip(ip) => ip.to_string(),
        RData::Cname(name) | RData::Ptr(name) | RData::Ns(name) => name.to_string(),
        RData::Srv { priority, weight, port, target } => format!("{priority} {weight} {port} {target}"),
        RData::Txt(text) => format!("{text:?}"),
        RData::Soa { primary, mailbox, .. } => format!("{primary} {mailbox}"),
    };
    assert_eq!(record.ttl, 30);
    format!("{owner}{} {data}", rtype::name(record.data.kind()))
}

/// The code and the records: `NOERROR`, answers, `+` extras; the SOA of a negative answer as `soa ZONE`.
fn ask(plugin: &Kubernetes, text: &str, qtype: u16) -> String {
    match plugin.handle(&Query::new(1, &name(text), qtype)) {
        Outcome::Next => "next".into(),
        Outcome::Answer(answer) => {
            assert!(answer.authoritative);
            let negative = answer.answers.is_empty();
            assert_eq!(answer.authority.len(), usize::from(negative), "negative answers carry the SOA");
            let mut out = vec![rcode::name(answer.rcode).to_owned()];
            out.extend(answer.answers.iter().map(show));
            out.extend(answer.additional.iter().map(|record| format!("+ {}", show(record))));
            out.join("; ")
        }
    }
}

#[test]
fn the_specification_holds() {
    let plugin = plugin(PodsMode::Insecure, Fallthrough::default());
    for (text, qtype, expect) in [
        // Services with a cluster IP.
        ("web.default.svc.cluster.local", rtype::A, "NOERROR; A 10.96.0.7"),
        ("WEB.Default.svc.Cluster.LOCAL", rtype::A, "NOERROR; A 10.96.0.7"),
        ("web.default.svc.cluster.local", rtype::AAAA, "NOERROR; AAAA fd96::7"),
        ("web.default.svc.cluster.local", rtype::MX, "NOERROR"),
        ("kube-dns.kube-system.svc.cluster.local", rtype::AAAA, "NOERROR"),
        (
            "_http._tcp.web.default.svc.cluster.local",
            rtype::SRV,
            "NOERROR; SRV 0 100 80 web.default.svc.cluster.local.; + web.default.svc.cluster.local. A 10.96.0.7; \
             + web.default.svc.cluster.local. AAAA fd96::7",
        ),
        ("_http._tcp.web.default.svc.cluster.local", rtype::A, "NOERROR"),
        ("_http._udp.web.default.svc.cluster.local", rtype::SRV, "NXDOMAIN"),
        ("_nope._tcp.web.default.svc.cluster.local", rtype::SRV, "NXDOMAIN"),
        (
            "kube-dns.kube-system.svc.cluster.local",
            rtype::SRV,
            "NOERROR; SRV 0 50 53 kube-dns.kube-system.svc.cluster.local.; SRV 0 50 53 kube-dns.kube-system.svc.cluster.local.; \
             + kube-dns.kube-system.svc.cluster.local. A 10.96.0.10",
        ),
        // Headless services.
        ("db.default.svc.cluster.local", rtype::A, "NOERROR; A 10.244.0.5; A 10.244.0.6"),
        ("db.default.svc.cluster.local", rtype::AAAA, "NOERROR"),
        ("db-0.db.default.svc.cluster.local", rtype::A, "NOERROR; A 10.244.0.5"),
        ("10-244-0-6.db.default.svc.cluster.local", rtype::A, "NOERROR; A 10.244.0.6"),
        ("db-9.db.default.svc.cluster.local", rtype::A, "NXDOMAIN"),
        (
            "_pg._tcp.db.default.svc.cluster.local",
            rtype::SRV,
            "NOERROR; SRV 0 50 5432 db-0.db.default.svc.cluster.local.; SRV 0 50 5432 10-244-0-6.db.default.svc.cluster.local.; \
             + db-0.db.default.svc.cluster.local. A 10.244.0.5; + 10-244-0-6.db.default.svc.cluster.local. A 10.244.0.6",
        ),
        ("idle.default.svc.cluster.local", rtype::A, "NXDOMAIN"),
        // External names, whatever the type.
        ("ext.default.svc.cluster.local", rtype::A, "NOERROR; CNAME example.org."),
        ("ext.default.svc.cluster.local", rtype::CNAME, "NOERROR; CNAME example.org."),
        // Pods.
        ("10-244-0-9.default.pod.cluster.local", rtype::A, "NOERROR; A 10.244.0.9"),
        ("fd00--9.default.pod.cluster.local", rtype::AAAA, "NOERROR; AAAA fd00::9"),
        ("10-244-0-9.nowhere.pod.cluster.local", rtype::A, "NXDOMAIN"),
        ("x.default.pod.cluster.local", rtype::A, "NXDOMAIN"),
        // Reverse.
        ("7.0.96.10.in-addr.arpa", rtype::PTR, "NOERROR; PTR web.default.svc.cluster.local."),
        ("5.0.244.10.in-addr.arpa", rtype::PTR, "NOERROR; PTR db-0.db.default.svc.cluster.local."),
        ("7.0.96.10.in-addr.arpa", rtype::A, "NOERROR"),
        ("9.9.9.9.in-addr.arpa", rtype::PTR, "NXDOMAIN"),
        // The zone itself, and names with nothing but others below them.
        ("cluster.local", rtype::SOA, "NOERROR; cluster.local. SOA ns.dns.cluster.local. hostmaster.cluster.local."),
        ("cluster.local", rtype::NS, "NOERROR; NS ns.dns.cluster.local."),
        ("cluster.local", rtype::A, "NOERROR"),
        ("ns.dns.cluster.local", rtype::A, "NOERROR; A 10.96.0.10"),
        ("dns-version.cluster.local", rtype::TXT, "NOERROR; TXT \"1.1.0\""),
        ("svc.cluster.local", rtype::A, "NOERROR"),
        ("default.svc.cluster.local", rtype::A, "NOERROR"),
        ("nowhere.svc.cluster.local", rtype::A, "NXDOMAIN"),
        ("web.nowhere.svc.cluster.local", rtype::A, "NXDOMAIN"),
        ("gone.default.svc.cluster.local", rtype::A, "NXDOMAIN"),
        ("a.b.c.d.e.f.g.h.i.cluster.local", rtype::A, "NXDOMAIN"),
        // A pod's search path makes such names of external ones.
        ("example.org.default.svc.cluster.local", rtype::A, "NXDOMAIN"),
        ("example.org", rtype::A, "next"),
    ] {
        assert_eq!(ask(&plugin, text, qtype), expect, "{text} {}", rtype::name(qtype));
    }
}

#[test]
fn pod_names_follow_the_mode() {
    for (mode, known, unknown) in [
        (PodsMode::Disabled, "NXDOMAIN", "NXDOMAIN"),
        (PodsMode::Insecure, "NOERROR; A 10.244.0.5", "NOERROR; A 10.244.0.99"),
        (PodsMode::Verified, "NOERROR; A 10.244.0.5", "NXDOMAIN"),
    ] {
        let plugin = plugin(mode, Fallthrough::default());
        assert_eq!(ask(&plugin, "10-244-0-5.default.pod.cluster.local", rtype::A), known);
        assert_eq!(ask(&plugin, "10-244-0-99.default.pod.cluster.local", rtype::A), unknown);
    }
}

#[test]
fn unknown_names_fall_through_where_told() {
    let plugin = plugin(PodsMode::Disabled, Fallthrough::new(vec![name("in-addr.arpa")]));
    assert_eq!(ask(&plugin, "9.9.9.9.in-addr.arpa", rtype::PTR), "next");
    assert_eq!(ask(&plugin, "gone.default.svc.cluster.local", rtype::A), "NXDOMAIN");
}

#[test]
fn before_the_first_lists_nothing_is_known() {
    let options = plugin(PodsMode::Disabled, Fallthrough::default()).options;
    let plugin = Kubernetes::new(options, Arc::default());
    assert!(!plugin.is_ready());
    let outcome = plugin.handle(&Query::new(1, &name("web.default.svc.cluster.local"), rtype::A));
    assert_eq!(outcome, Outcome::Answer(Answer::code(rcode::SERVFAIL)));
}
