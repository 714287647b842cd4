//! Links and nftables in a network namespace that each test makes. Needs root; says so otherwise.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use kybern_linux::nft::{
    BaseChain, ChainKind, CmpOp, Datatype, DynsetOp, Element, Expr, Family, Hook, Nftables, Rule, Set, SetKind, Table,
    Verdict, concat_key, ct_state, priority,
};
use kybern_linux::rtnl::{Route, Rtnl};
use kybern_testbed::{TestNs, not_run};

fn io_error(error: impl std::error::Error) -> io::Error {
    io::Error::other(error.to_string())
}

#[test]
fn links_addresses_and_routes() {
    let (Some(a), Some(b)) = (TestNs::temporary("links-a"), TestNs::temporary("links-b")) else { return };
    a.ns.run(|| {
        use std::os::fd::AsFd;
        let mut rtnl = Rtnl::open().map_err(io_error)?;
        rtnl.add_bridge("br0", Some(1400)).map_err(io_error)?;
        let error = rtnl.add_bridge("br0", None).unwrap_err();
        assert!(error.is_exists(), "{error}");
        let bridge = rtnl.require_link("br0").map_err(io_error)?;
        for missing in ["br", "br00", "", "a-name-that-is-too-long"] {
            assert_eq!(rtnl.link(missing).map_err(io_error)?, None, "{missing:?}");
        }
        assert!(rtnl.links().map_err(io_error)?.contains(&bridge), "one asked for alone is as among all");
        assert_eq!((bridge.kind.as_str(), bridge.mtu, bridge.up), ("bridge", 1400, false));
        rtnl.add_veth("veth0", "eth0", Some(b.ns.as_fd()), Some(1400)).map_err(io_error)?;
        let veth = rtnl.require_link("veth0").map_err(io_error)?;
        let change =
            kybern_linux::rtnl::LinkChange { master: Some(bridge.index), up: Some(true), ..Default::default() };
        rtnl.change_link(veth.index, change).map_err(io_error)?;
        rtnl.set_hairpin(veth.index, true).map_err(io_error)?;
        rtnl.set_up(bridge.index).map_err(io_error)?;
        let address = "10.1.0.1/24".parse().unwrap();
        rtnl.add_address(bridge.index, address).map_err(io_error)?;
        rtnl.add_address(bridge.index, address).map_err(io_error)?;
        assert_eq!(rtnl.addresses(bridge.index).map_err(io_error)?.iter().filter(|a| **a == address).count(), 1);
        let veth = rtnl.require_link("veth0").map_err(io_error)?;
        assert_eq!((veth.up, veth.master, veth.kind.as_str()), (true, Some(bridge.index), "veth"));
        Ok(())
    })
    .unwrap();
    b.ns.run(|| {
        let mut rtnl = Rtnl::open().map_err(io_error)?;
        let eth0 = rtnl.require_link("eth0").map_err(io_error)?;
        rtnl.set_up(eth0.index).map_err(io_error)?;
        rtnl.add_address(eth0.index, "10.1.0.2/24".parse().unwrap()).map_err(io_error)?;
        let route = Route {
            destination: "0.0.0.0/0".parse().unwrap(),
            gateway: Some("10.1.0.1".parse().unwrap()),
            link: Some(eth0.index),
            source: None,
        };
        rtnl.replace_route(&route).map_err(io_error)?;
        assert!(rtnl.routes().map_err(io_error)?.contains(&route));
        rtnl.replace_neighbour(eth0.index, "10.1.0.9".parse().unwrap(), [2, 0, 0, 0, 0, 9]).map_err(io_error)?;
        rtnl.delete_route(&route).map_err(io_error)?;
        assert!(!rtnl.routes().map_err(io_error)?.contains(&route));
        rtnl.delete_link(eth0.index).map_err(io_error)
    })
    .unwrap();
    a.ns.run(|| {
        assert!(Rtnl::open().map_err(io_error)?.link("veth0").map_err(io_error)?.is_none(), "went with its peer");
        Ok(())
    })
    .unwrap();
}

/// A table that uses every instruction of the model.
fn everything(family: Family, endpoints: &[&str]) -> Table {
    let address = |v4: &str, v6: &str| -> IpAddr { if family == Family::Ip6 { v6 } else { v4 }.parse().unwrap() };
    let vip = address("10.96.0.10", "fd00::10");
    let address_type = if family == Family::Ip6 { Datatype::Ipv6Addr } else { Datatype::Ipv4Addr };
    let mut table = Table::new(family, "kybern-test");
    let mut services = Set::new(&[address_type, Datatype::InetProto, Datatype::InetService], SetKind::Verdicts);
    let bytes = kybern_linux::nft::rule::ip_bytes(vip);
    services
        .elements
        .insert(concat_key(&[&bytes, &[6], &80u16.to_be_bytes()]), Element::Verdict(Verdict::Goto("service".into())));
    table.sets.insert("service-ips".into(), services);
    let mut ips = Set::new(&[address_type], SetKind::Set);
    ips.elements.insert(bytes, Element::None);
    table.sets.insert("cluster-ips".into(), ips);
    let mut ports = Set::new(&[Datatype::InetService], SetKind::Values(vec![Datatype::Mark]));
    ports.elements.insert(80u16.to_be_bytes().to_vec(), Element::Value(7u32.to_ne_bytes().to_vec()));
    table.sets.insert("marks".into(), ports);
    let mut affinity = Set::new(&[address_type], SetKind::Set);
    affinity.timeout = Some(Duration::from_secs(10800));
    table.sets.insert("affinity".into(), affinity);

    let base = |kind, hook, priority| Some(BaseChain { kind, hook, priority });
    table.chain("prerouting").base = base(ChainKind::Nat, Hook::Prerouting, priority::DSTNAT);
    let wide = (if family == Family::Ip6 { 4 } else { 1 }) as u8;
    table.chain("prerouting").rules = vec![
        Rule::new()
            .load_daddr(family, 0)
            .load_l4proto(wide)
            .load_dport(wide + 1)
            .vmap("service-ips")
            .comment("a comment"),
        Rule::new().daddr_is_local().l4proto(17).dport(53).jump("service"),
        Rule::new().l4proto(6).expr(Expr::Redirect { port: None }),
    ];
    table.chain("filter").base = base(ChainKind::Filter, Hook::Input, -110);
    table.chain("filter").rules = vec![
        Rule::new().ct_state(ct_state::NEW).load_daddr(family, 0).in_set("cluster-ips").expr(Expr::Counter).reject(),
        Rule::new()
            .l4proto(6)
            .load_dport(0)
            .expr(Expr::Map { map: "marks".into(), src: 0, dst: 0 })
            .expr(Expr::SetMeta { key: kybern_linux::nft::MetaKey::Mark, src: 0 }),
        Rule::new().l4proto(6).expr(Expr::Reject(kybern_linux::nft::Reject::TcpReset)),
        Rule::new().verdict(Verdict::Accept),
    ];
    table.chain("postrouting").base = base(ChainKind::Nat, Hook::Postrouting, priority::SRCNAT);
    table.chain("postrouting").rules = vec![
        Rule::new().mark_bits(0x4000, CmpOp::Eq).verdict(Verdict::Return),
        Rule::new().change_mark(!0x4000, 0),
        Rule::new().ct_status(kybern_linux::nft::CT_STATUS_DNAT).masquerade(true),
    ];
    let net = if family == Family::Ip6 { "fd00:10::/64" } else { "10.244.0.0/16" }.parse().unwrap();
    table.chain("service").rules = vec![
        Rule::new().saddr_in(net, CmpOp::Neq).change_mark(!0, 0x4000),
        Rule::new().load_saddr(family, 0).in_set("affinity").goto(endpoints[0]),
        Rule::new().random_goto(endpoints.iter().copied()),
    ];
    for endpoint in endpoints {
        table.chain(*endpoint).rules = vec![
            Rule::new().saddr(vip).verdict(Verdict::Return),
            Rule::new().load_saddr(family, 0).expr(Expr::Dynset {
                op: DynsetOp::Update,
                set: "affinity".into(),
                src: 0,
            }),
            Rule::new().l4proto(6).dnat(vip, Some(8080)),
            Rule::new().l4proto(132).dnat(vip, None),
        ];
    }
    table
}

#[test]
fn a_table_reads_back_as_it_was_written() {
    let Some(test) = TestNs::temporary("nft") else { return };
    test.ns
        .run(|| {
            let mut nft = Nftables::open().map_err(io_error)?;
            for family in [Family::Ip, Family::Ip6] {
                let mut want = everything(family, &["endpoint-a", "endpoint-b"]);
                assert!(nft.reconcile(&want).map_err(io_error)? > 0);
                let read = nft.read(family, "kybern-test").map_err(io_error)?.expect("just made");
                assert_eq!(read.sets, want.sets);
                for (name, chain) in &want.chains {
                    assert_eq!(&read.chains[name], chain, "{name}");
                }
                assert_eq!(nft.reconcile(&want).map_err(io_error)?, 0, "a second time has nothing to do");

                want = everything(family, &["endpoint-b", "endpoint-c", "endpoint-d"]);
                assert!(nft.reconcile(&want).map_err(io_error)? > 0);
                assert_eq!(nft.read(family, "kybern-test").map_err(io_error)?, Some(want.clone()));

                want.sets.get_mut("affinity").unwrap().timeout = Some(Duration::from_secs(5));
                assert!(nft.reconcile(&want).map_err(io_error)? > 0);
                assert_eq!(nft.read(family, "kybern-test").map_err(io_error)?, Some(want.clone()));

                want.chain("service").rules.push(Rule::new().jump("nowhere"));
                let error = nft.reconcile(&want).unwrap_err().to_string();
                assert!(error.contains("add rule of chain service"), "{error}");
                assert!(nft.has_table(family, "kybern-test").map_err(io_error)?);
                nft.delete_table(family, "kybern-test").map_err(io_error)?;
                nft.delete_table(family, "kybern-test").map_err(io_error)?;
                assert_eq!(nft.read(family, "kybern-test").map_err(io_error)?, None);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn nft_shows_tables_as_they_would_be_written() {
    let Some(test) = TestNs::temporary("nft-list") else { return };
    let list = || {
        let mut nft = Nftables::open().map_err(io_error)?;
        nft.reconcile(&everything(Family::Ip, &["endpoint-a", "endpoint-b"])).map_err(io_error)?;
        std::process::Command::new("nft").args(["list", "table", "ip", "kybern-test"]).output()
    };
    let output = match test.ns.run(list) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return not_run("nft_shows_tables_as_they_would_be_written", "no nft (Debian: nftables)");
        }
        output => output.unwrap(),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    for line in [
        "type ipv4_addr . inet_proto . inet_service : verdict",
        "elements = { 10.96.0.10 . tcp . 80 : goto service }",
        "elements = { 80 : 0x00000007 }",
        "flags dynamic,timeout",
        "timeout 3h",
        "update @affinity { ip saddr }",
        "meta l4proto tcp dnat to 10.96.0.10:8080",
        "type filter hook input priority -110; policy accept;",
        "ct state new ip daddr @cluster-ips counter packets 0 bytes 0 reject",
        "reject with tcp reset",
        "meta mark & 0x00004000 == 0x00000000 return",
        "ct status dnat masquerade fully-random",
        "ip daddr . meta l4proto . th dport vmap @service-ips comment \"a comment\"",
        "fib daddr type local udp dport 53 jump service",
        "ip saddr != 10.244.0.0/16 meta mark set meta mark ^ 0x00004000",
        "numgen random mod 2 vmap { 0 : goto endpoint-a, 1 : goto endpoint-b }",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn changes_by_others_are_noticed() {
    let Some(test) = TestNs::temporary("nft-monitor") else { return };
    test.ns
        .run(|| {
            let (mut own, mut other) = (Nftables::open().map_err(io_error)?, Nftables::open().map_err(io_error)?);
            let mut monitor = kybern_linux::nft::Monitor::open().map_err(io_error)?;
            let port = own.port().map_err(io_error)?;
            let mut changed = || monitor.changed_by_others("kybern-test", port).map_err(io_error);
            own.reconcile(&everything(Family::Ip, &["a"])).map_err(io_error)?;
            assert!(!changed()?, "an own change");
            other.reconcile(&Table::new(Family::Ip, "another")).map_err(io_error)?;
            assert!(!changed()?, "another table");
            other.reconcile(&everything(Family::Ip, &["b"])).map_err(io_error)?;
            assert!(changed()?);
            assert!(!changed()?, "told once");
            other.delete_table(Family::Ip, "kybern-test").map_err(io_error)?;
            assert!(changed()?);
            Ok(())
        })
        .unwrap();
}
