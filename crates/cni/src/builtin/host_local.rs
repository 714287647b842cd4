//! `host-local`: addresses from ranges, allocated in files (`<dataDir>/<network>/<address>`, holding container id and
//! interface), the layout of upstream's plugin, so that either can take over from the other.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use kybern_linux::files;
use serde::Deserialize;
use serde_json::Value;

use super::parse;
use crate::error::{PluginError, code};
use crate::exec::{Call, Command};
use crate::result::{CniResult, Dns, IpConfig, RouteConfig};

/// Where allocations are kept unless `dataDir` says otherwise.
pub(crate) const DATA_DIR: &str = "/var/lib/cni/networks";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Input {
    name: String,
    cni_version: String,
    ipam: Ipam,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ipam {
    #[serde(flatten)]
    range: Option<Range>,
    #[serde(default)]
    ranges: Vec<Vec<Range>>,
    #[serde(default)]
    routes: Vec<RouteConfig>,
    data_dir: Option<PathBuf>,
    #[serde(default)]
    resolv_conf: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Range {
    subnet: IpNet,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

/// A range with its defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    subnet: IpNet,
    first: IpAddr,
    last: IpAddr,
    gateway: IpAddr,
}

pub(super) fn run(call: &Call<'_>, input: &Value) -> Result<Option<Value>, PluginError> {
    let input: Input = parse(input)?;
    let data_dir = input.ipam.data_dir.as_deref().unwrap_or(Path::new(DATA_DIR));
    let owner = format!("{}\r\n{}", call.container_id, call.if_name);
    if call.command == Command::Del && !data_dir.join(&input.name).exists() {
        return Ok(None);
    }
    let store = Store::open(&data_dir.join(&input.name))?;
    match call.command {
        Command::Add => {
            let mut ips = Vec::new();
            let sets = input.ipam.ranges.iter().map(Vec::as_slice);
            let single = input.ipam.range.as_slice();
            let sets: Vec<&[Range]> =
                sets.chain((!single.is_empty()).then_some(single)).filter(|set| !set.is_empty()).collect();
            if sets.is_empty() {
                return Err(invalid("no IP ranges specified"));
            }
            for (i, set) in sets.into_iter().enumerate() {
                let set = set.iter().map(bounds).collect::<Result<Vec<_>, _>>()?;
                match store.allocate(i, &set, &owner) {
                    Ok(ip) => ips.push(ip),
                    Err(error) => {
                        store.release(&owner)?;
                        return Err(error);
                    }
                }
            }
            let dns =
                if input.ipam.resolv_conf.is_empty() { Dns::default() } else { read_dns(&input.ipam.resolv_conf)? };
            let result =
                CniResult { cni_version: input.cni_version, ips, routes: input.ipam.routes, dns, ..Default::default() };
            Ok(Some(serde_json::to_value(result).map_err(io::Error::from)?))
        }
        Command::Del => store.release(&owner).map(|()| None),
        Command::Check if store.owned(&owner)?.is_empty() => Err(PluginError::new(
            code::INTERNAL,
            format!("host-local: Failed to find address added by container {}", call.container_id),
        )),
        Command::Check => Ok(None),
    }
}

fn invalid(msg: impl Into<String>) -> PluginError {
    PluginError::new(code::INVALID_NETWORK_CONFIG, msg)
}

fn to_u128(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

fn from_u128(like: IpAddr, bits: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(bits as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from(bits).into(),
    }
}

fn bounds(range: &Range) -> Result<Bounds, PluginError> {
    let subnet = range.subnet.trunc();
    if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
        return Err(invalid(format!("Network {subnet} too small to allocate from")));
    }
    let first_of_net = from_u128(subnet.addr(), to_u128(subnet.network()) + 1);
    let last = match subnet {
        IpNet::V4(net) => from_u128(subnet.addr(), to_u128(net.broadcast().into()) - 1),
        IpNet::V6(net) => net.broadcast().into(),
    };
    let inside = |name: &str, ip: Option<IpAddr>, default: IpAddr| match ip {
        Some(ip) if !subnet.contains(&ip) => Err(invalid(format!("{name} {ip} not in network {subnet}"))),
        ip => Ok(ip.unwrap_or(default)),
    };
    let bounds = Bounds {
        subnet,
        first: inside("RangeStart", range.range_start, first_of_net)?,
        last: inside("RangeEnd", range.range_end, last)?,
        gateway: range.gateway.unwrap_or(first_of_net),
    };
    if to_u128(bounds.first) > to_u128(bounds.last) {
        return Err(invalid(format!("RangeStart {} is behind RangeEnd {}", bounds.first, bounds.last)));
    }
    Ok(bounds)
}

/// A network's allocations, locked while this lives.
struct Store {
    dir: PathBuf,
    _lock: File,
}

impl Store {
    fn open(dir: &Path) -> Result<Self, PluginError> {
        let open = || -> io::Result<Self> {
            files::make_dirs(dir, 0o755)?;
            let lock = files::append(&dir.join("lock"), 0o600)?;
            lock.lock()?;
            Ok(Self { dir: dir.to_owned(), _lock: lock })
        };
        open()
            .map_err(|e| PluginError::new(code::IO_FAILURE, format!("cannot open allocations {}: {e}", dir.display())))
    }

    /// The addresses of an owner.
    fn owned(&self, owner: &str) -> io::Result<Vec<IpAddr>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            // An IPv6 address is written with underscores where the file system would not take colons; both are read.
            let Some(ip) = entry.file_name().to_str().and_then(|name| name.replace('_', ":").parse().ok()) else {
                continue;
            };
            if fs::read_to_string(entry.path())?.trim() == owner {
                found.push(ip);
            }
        }
        Ok(found)
    }

    /// The next free address after the last one given out. An owner that has one of these ranges keeps it.
    fn allocate(&self, set_index: usize, set: &[Bounds], owner: &str) -> Result<IpConfig, PluginError> {
        let config = |range: &Bounds, ip: IpAddr| IpConfig {
            address: IpNet::new(ip, range.subnet.prefix_len()).expect("the prefix length is the subnet's"),
            gateway: Some(range.gateway),
            interface: None,
        };
        let owned = self.owned(owner)?;
        for range in set {
            if let Some(ip) = owned.iter().find(|ip| range.subnet.contains(*ip)) {
                return Ok(config(range, *ip));
            }
        }
        let last_file = self.dir.join(format!("last_reserved_ip.{set_index}"));
        let last = fs::read_to_string(&last_file).ok().and_then(|text| text.trim().parse::<IpAddr>().ok());
        let temporary = self.dir.join(".new");
        files::write(&temporary, owner, 0o600)?;
        for (range, ip) in candidates(set, last) {
            // A hard link appears with its content or not at all, and fails where the name is taken.
            match fs::hard_link(&temporary, self.dir.join(ip.to_string())) {
                Ok(()) => {
                    fs::remove_file(&temporary)?;
                    files::write(&last_file, ip.to_string(), 0o600)?;
                    return Ok(config(&range, ip));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
        }
        let ranges: Vec<String> = set.iter().map(|range| format!("{}-{}", range.first, range.last)).collect();
        Err(PluginError::new(
            code::INTERNAL,
            format!(
                "failed to allocate for range {set_index}: no IP addresses available in range set: {}",
                ranges.join(",")
            ),
        ))
    }

    fn release(&self, owner: &str) -> Result<(), PluginError> {
        for ip in self.owned(owner)? {
            for name in [ip.to_string(), ip.to_string().replace(':', "_")] {
                match fs::remove_file(self.dir.join(name)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Every address of the ranges once, from the one after `last` on and around, without gateways.
fn candidates(set: &[Bounds], last: Option<IpAddr>) -> impl Iterator<Item = (Bounds, IpAddr)> {
    let at = last.and_then(|last| {
        set.iter()
            .position(|r| r.subnet.contains(&last) && (to_u128(r.first)..=to_u128(r.last)).contains(&to_u128(last)))
    });
    let (start, last) = at.zip(last).map_or((0, None), |(i, last)| (i, Some(to_u128(last))));
    let whole = |range: Bounds| (to_u128(range.first)..=to_u128(range.last)).map(move |bits| (range, bits));
    let after = last.map(|last| {
        let range = set[start];
        (last + 1..=to_u128(range.last)).map(move |bits| (range, bits))
    });
    let rest = (0..set.len()).map(|i| set[(start + i + usize::from(last.is_some())) % set.len()]).collect::<Vec<_>>();
    after
        .into_iter()
        .flatten()
        .chain(rest.into_iter().flat_map(whole))
        .map(|(range, bits)| (range, from_u128(range.first, bits)))
        .filter(|(range, ip)| *ip != range.gateway)
}

fn read_dns(path: &str) -> Result<Dns, PluginError> {
    let mut dns = Dns::default();
    for line in fs::read_to_string(path)?.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.nameservers.extend(words.next().map(str::to_owned)),
            Some("domain") => dns.domain = words.next().unwrap_or_default().to_owned(),
            Some("search") => dns.search.extend(words.map(str::to_owned)),
            Some("options") => dns.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    Ok(dns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn call<'a>(command: Command, id: &'a str) -> Call<'a> {
        Call { command, container_id: id, netns: Path::new("/none"), if_name: "eth0", args: &[], bin_dirs: &[] }
    }

    fn add(input: &Value, id: &str) -> Result<String, String> {
        let result = run(&call(Command::Add, id), input).map_err(|e| e.to_string())?.unwrap();
        Ok(result["ips"][0]["address"].as_str().unwrap().to_owned())
    }

    #[test]
    fn addresses_go_round_and_are_reused_last() {
        let dir = tempfile::tempdir().unwrap();
        let input =
            json!({"name": "n", "cniVersion": "1.0.0", "ipam": {"subnet": "10.1.2.0/29", "dataDir": dir.path()}});
        for (id, expect) in [("a", "10.1.2.2/29"), ("b", "10.1.2.3/29"), ("a", "10.1.2.2/29"), ("c", "10.1.2.4/29")] {
            assert_eq!(add(&input, id), Ok(expect.into()), "{id}");
        }
        run(&call(Command::Del, "a"), &input).unwrap();
        run(&call(Command::Del, "a"), &input).unwrap();
        for (id, expect) in [("d", "10.1.2.5/29"), ("e", "10.1.2.6/29"), ("f", "10.1.2.2/29")] {
            assert_eq!(add(&input, id), Ok(expect.into()), "{id}");
        }
        let error = add(&input, "g").unwrap_err();
        assert!(error.contains("no IP addresses available in range set: 10.1.2.1-10.1.2.6"), "{error}");
        assert!(run(&call(Command::Check, "f"), &input).is_ok());
        assert!(run(&call(Command::Check, "g"), &input).is_err());
    }

    #[test]
    fn two_range_sets_give_two_families() {
        let dir = tempfile::tempdir().unwrap();
        let input = json!({"name": "n", "cniVersion": "1.0.0", "ipam": {"dataDir": dir.path(), "routes": [{"dst": "0.0.0.0/0"}],
            "ranges": [[{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9"}], [{"subnet": "fd00::/64"}]]}});
        let result = run(&call(Command::Add, "a"), &input).unwrap().unwrap();
        assert_eq!(
            result,
            json!({"cniVersion": "1.0.0", "routes": [{"dst": "0.0.0.0/0"}], "dns": {},
                "ips": [{"address": "10.1.2.9/24", "gateway": "10.1.2.1"}, {"address": "fd00::2/64", "gateway": "fd00::1"}]})
        );
    }

    #[test]
    fn a_bad_range_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (range, expect) in [
            (json!({"subnet": "10.0.0.0/31"}), "too small"),
            (json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"}), "not in network"),
            (json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"}), "behind"),
        ] {
            let input =
                json!({"name": "n", "cniVersion": "1.0.0", "ipam": {"dataDir": dir.path(), "ranges": [[range]]}});
            let error = add(&input, "a").unwrap_err();
            assert!(error.contains(expect), "{error}");
        }
    }
}
