//! `bridge`: a veth pair between the container and a bridge of the host. Configuration keys are those of upstream's plugin.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use ipnet::IpNet;
use kybern_linux::announce::announce;
use kybern_linux::netlink::NetlinkError;
use kybern_linux::netns::NetNs;
use kybern_linux::rtnl::{Link, LinkChange, Mac, Route, Rtnl};
use kybern_linux::sysctl;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{in_netns, masquerade, open_netns, parse};
use crate::error::{PluginError, code};
use crate::exec::{Call, Command};
use crate::result::{CniResult, Interface, RouteConfig};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Input {
    name: String,
    cni_version: String,
    #[serde(default = "default_bridge")]
    bridge: String,
    #[serde(default)]
    is_gateway: bool,
    #[serde(default)]
    is_default_gateway: bool,
    #[serde(default)]
    ip_masq: bool,
    #[serde(default)]
    hairpin_mode: bool,
    mtu: Option<u32>,
    #[serde(default)]
    ipam: Option<Value>,
    prev_result: Option<CniResult>,
}

fn default_bridge() -> String {
    "cni0".into()
}

pub(super) fn run(call: &Call<'_>, raw: &Value) -> Result<Option<Value>, PluginError> {
    let input: Input = parse(raw)?;
    match call.command {
        Command::Add => add(call, &input, raw).map(Some),
        Command::Del => del(call, &input, raw).map(|()| None),
        Command::Check => check(call, &input, raw).map(|()| None),
    }
}

/// The IPAM plugin's type, where the configuration has one.
fn ipam_type(input: &Input) -> Option<&str> {
    input.ipam.as_ref()?.get("type")?.as_str().filter(|t| !t.is_empty())
}

fn run_ipam(call: &Call<'_>, input: &Input, raw: &Value) -> Result<Option<Value>, PluginError> {
    let Some(plugin) = ipam_type(input) else { return Ok(None) };
    call.run(plugin, raw).map_err(|error| PluginError::new(code::INTERNAL, error.to_string()))
}

/// The address after the network's own.
fn first_host(net: IpNet) -> IpAddr {
    match net.network() {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip) + 1).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) + 1).into(),
    }
}

/// The host's end of the pair. It depends on the container only, so that a repeated addition or a deletion finds it.
fn host_link_name(container_id: &str, if_name: &str) -> String {
    // FNV-1a: short, stable, and not for security.
    let hash = [container_id, "/", if_name]
        .iter()
        .flat_map(|part| part.bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("veth{:08x}", (hash >> 32) as u32 ^ hash as u32)
}

fn format_mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn ensure_bridge(rtnl: &mut Rtnl, input: &Input) -> Result<Link, PluginError> {
    let bridge = match rtnl.link(&input.bridge)? {
        Some(link) => link,
        None => {
            match rtnl.add_bridge(&input.bridge, input.mtu) {
                Err(error) if !error.is_exists() => return Err(error.into()),
                _ => {}
            }
            let link = rtnl.require_link(&input.bridge)?;
            // Set explicitly, the address no longer changes with the bridge's ports, and neighbours need not relearn it.
            rtnl.change_link(link.index, LinkChange { mac: Some(link.mac), ..Default::default() })?;
            link
        }
    };
    if bridge.kind != "bridge" {
        return Err(PluginError::new(code::INTERNAL, format!("{:?} already exists but is not a bridge", input.bridge)));
    }
    if !bridge.up {
        rtnl.set_up(bridge.index)?;
    }
    Ok(bridge)
}

fn add(call: &Call<'_>, input: &Input, raw: &Value) -> Result<Value, PluginError> {
    let netns = open_netns(call)?;
    let mut rtnl = Rtnl::open()?;
    let bridge = ensure_bridge(&mut rtnl, input)?;

    let ipam = run_ipam(call, input, raw)?;
    let mut result: CniResult = match ipam {
        Some(value) => parse(&value)?,
        None => CniResult::default(),
    };
    if ipam_type(input).is_some() && result.ips.is_empty() {
        return Err(PluginError::new(code::INTERNAL, "IPAM plugin returned missing IP config"));
    }
    for ip in &mut result.ips {
        ip.interface = Some(2);
        if ip.gateway.is_none() && input.is_gateway {
            ip.gateway = Some(first_host(ip.address));
        }
    }
    if input.is_default_gateway {
        let default =
            |ip: IpAddr| -> IpNet { if ip.is_ipv4() { "0.0.0.0/0" } else { "::/0" }.parse().expect("constant") };
        for ip in &result.ips {
            let dst = default(ip.address.addr());
            if !result.routes.iter().any(|route| route.dst == dst) {
                result.routes.push(RouteConfig { dst, gw: ip.gateway });
            }
        }
    }

    let host_name = host_link_name(call.container_id, call.if_name);
    let host = connect(&mut rtnl, &netns, call.if_name, &host_name, &bridge, input)?;
    let container = in_netns(&netns, || configure_container(call.if_name, &result))?;
    if input.is_gateway || input.is_default_gateway {
        for ip in &result.ips {
            if let Some(gateway) = ip.gateway {
                let address =
                    IpNet::new(gateway, ip.address.prefix_len()).expect("the length of an address of its family");
                rtnl.add_address(bridge.index, address)?;
                enable_forwarding(gateway)?;
            }
        }
    }
    for ip in &result.ips {
        announce_holder(&mut rtnl, bridge.index, ip.address.addr(), container.mac)?;
    }
    if input.ip_masq {
        for ip in &result.ips {
            masquerade::ensure(&input.name, ip.address)?;
        }
    }

    result.cni_version.clone_from(&input.cni_version);
    let on_host = |link: &Link| Interface { name: link.name.clone(), mac: format_mac(link.mac), ..Default::default() };
    result.interfaces = vec![
        on_host(&bridge),
        on_host(&host),
        Interface {
            name: call.if_name.to_owned(),
            mac: format_mac(container.mac),
            sandbox: call.netns.display().to_string(),
            mtu: None,
        },
    ];
    Ok(json!(result))
}

/// Who has talked to the address's last holder would go on sending there for up to eight seconds (`arp(7)`:
/// `delay_first_probe_time` and three probes). Sent from the bridge and not from the container, whose port forwards only a
/// moment later.
fn announce_holder(rtnl: &mut Rtnl, bridge: u32, address: IpAddr, mac: Mac) -> Result<(), NetlinkError> {
    rtnl.forget_neighbour(bridge, address)?;
    // A kernel without packet sockets loses the promptness only.
    let _ = announce(bridge, address, mac);
    Ok(())
}

/// Makes the pair, one end in the container, the other a port of the bridge.
fn connect(
    rtnl: &mut Rtnl,
    netns: &NetNs,
    if_name: &str,
    host_name: &str,
    bridge: &Link,
    input: &Input,
) -> Result<Link, NetlinkError> {
    if let Some(stale) = rtnl.link(host_name)? {
        rtnl.delete_link(stale.index)?;
    }
    rtnl.add_veth(host_name, if_name, Some(netns.as_fd()), input.mtu)?;
    let host = rtnl.require_link(host_name)?;
    rtnl.change_link(host.index, LinkChange { master: Some(bridge.index), up: Some(true), ..Default::default() })?;
    if input.hairpin_mode {
        rtnl.set_hairpin(host.index, true)?;
    }
    Ok(host)
}

/// Inside the container: addresses, up, routes.
fn configure_container(if_name: &str, result: &CniResult) -> Result<Link, PluginError> {
    let mut rtnl = Rtnl::open()?;
    let link = rtnl.require_link(if_name)?;
    if result.ips.iter().any(|ip| ip.address.addr().is_ipv6()) {
        sysctl::set(&format!("net/ipv6/conf/{if_name}/disable_ipv6"), "0")?;
    }
    for ip in &result.ips {
        rtnl.add_address(link.index, ip.address)?;
    }
    rtnl.set_up(link.index)?;
    for route in &result.routes {
        let same_family = |ip: &&crate::result::IpConfig| ip.address.addr().is_ipv4() == route.dst.addr().is_ipv4();
        let gateway = route.gw.or_else(|| result.ips.iter().find(same_family).and_then(|ip| ip.gateway));
        rtnl.replace_route(&Route { destination: route.dst, gateway, link: Some(link.index), source: None })?;
    }
    Ok(link)
}

fn enable_forwarding(gateway: IpAddr) -> Result<(), PluginError> {
    let key = if gateway.is_ipv4() { "net/ipv4/ip_forward" } else { "net/ipv6/conf/all/forwarding" };
    Ok(sysctl::set(key, "1")?)
}

fn del(call: &Call<'_>, input: &Input, raw: &Value) -> Result<(), PluginError> {
    // Links first: an address must not be given to another while this container still answers to it.
    let mut rtnl = Rtnl::open()?;
    if let Some(host) = rtnl.link(&host_link_name(call.container_id, call.if_name))? {
        match rtnl.delete_link(host.index) {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
    }
    run_ipam(call, input, raw).map(drop)
}

fn check(call: &Call<'_>, input: &Input, raw: &Value) -> Result<(), PluginError> {
    run_ipam(call, input, raw)?;
    let prev = input
        .prev_result
        .as_ref()
        .ok_or_else(|| PluginError::new(code::INVALID_NETWORK_CONFIG, "Required prevResult missing"))?;
    let netns = open_netns(call)?;
    in_netns(&netns, || {
        let mut rtnl = Rtnl::open()?;
        let link = rtnl.require_link(call.if_name)?;
        let addresses = rtnl.addresses(link.index)?;
        match prev.ips.iter().find(|ip| !addresses.contains(&ip.address)) {
            None => Ok(()),
            Some(ip) => {
                let msg = format!("Failed to match addr {} on interface {}", ip.address, call.if_name);
                Err(PluginError::new(code::INTERNAL, msg))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_link_is_stable_and_fits() {
        let name = host_link_name(&"ab".repeat(32), "eth0");
        assert_eq!(name, host_link_name(&"ab".repeat(32), "eth0"));
        assert_ne!(name, host_link_name(&"ab".repeat(32), "eth1"));
        assert!(name.len() < 16);
    }
}
