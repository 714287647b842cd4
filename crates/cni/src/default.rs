//! The network of a node on which nobody has put another: one bridge, one subnet.

use std::io;
use std::path::Path;

use ipnet::IpNet;
use kybern_linux::files;
use kybern_linux::netlink::NetlinkError;
use kybern_linux::nft::{Family, Nftables};
use kybern_linux::rtnl::Rtnl;
use serde_json::json;

use crate::CniError;
use crate::builtin::{host_local, masquerade, portmap};

/// Name of the configuration file that Kybern writes.
pub const CONFIG_FILE: &str = "10-kybern.conflist";

/// A node's own network.
#[derive(Clone, Debug)]
pub struct DefaultNetwork {
    /// Also the directory of the allocations.
    pub name: String,
    pub bridge: String,
    /// The node's pod subnets, at most one per family.
    pub subnets: Vec<IpNet>,
    /// `None`: the kernel's default of 1500.
    pub mtu: Option<u32>,
    /// Where `host-local` keeps its files; `None`: upstream's `/var/lib/cni/networks`.
    pub data_dir: Option<std::path::PathBuf>,
}

impl Default for DefaultNetwork {
    fn default() -> Self {
        Self {
            name: "cbr0".into(),
            bridge: "cni0".into(),
            subnets: vec!["10.244.0.0/24".parse().expect("constant")],
            mtu: None,
            data_dir: None,
        }
    }
}

impl DefaultNetwork {
    /// The configuration list.
    pub fn conflist(&self) -> serde_json::Value {
        let ranges: Vec<_> = self.subnets.iter().map(|subnet| json!([{"subnet": subnet}])).collect();
        let route = |subnet: &IpNet| json!({"dst": if subnet.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" }});
        let routes: Vec<_> = self.subnets.iter().map(route).collect();
        let mut bridge = json!({
            "type": "bridge",
            "bridge": self.bridge,
            "isGateway": true,
            "ipMasq": true,
            "hairpinMode": true,
            "ipam": {"type": "host-local", "ranges": ranges, "routes": routes},
        });
        if let Some(mtu) = self.mtu {
            bridge["mtu"] = json!(mtu);
        }
        if let Some(dir) = &self.data_dir {
            bridge["ipam"]["dataDir"] = json!(dir);
        }
        json!({
            "cniVersion": "1.0.0",
            "name": self.name,
            "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": true}}],
        })
    }

    /// Whether somebody has put another network there.
    pub fn yields(conf_dir: &Path) -> bool {
        let is_config = |path: &Path| path.extension().is_some_and(|e| e == "conflist" || e == "conf" || e == "json");
        let mut paths = std::fs::read_dir(conf_dir).into_iter().flatten().flatten().map(|entry| entry.path());
        paths.any(|path| is_config(&path) && path != conf_dir.join(CONFIG_FILE))
    }

    /// Writes the configuration list unless the directory holds a configuration other than Kybern's own. Answers whether it
    /// is this one that is in force.
    pub fn write(&self, conf_dir: &Path) -> Result<bool, CniError> {
        let file = conf_dir.join(CONFIG_FILE);
        if Self::yields(conf_dir) {
            return Ok(false);
        }
        let text = format!("{:#}\n", self.conflist());
        if std::fs::read_to_string(&file).is_ok_and(|now| now == text) {
            return Ok(true);
        }
        let write = || -> io::Result<()> {
            files::make_dirs(conf_dir, 0o755)?;
            let temporary = file.with_extension("tmp");
            files::write(&temporary, &text, 0o644)?;
            std::fs::rename(&temporary, &file)
        };
        write().map_err(|cause| CniError::Io {
            what: "cannot write the CNI configuration",
            path: file.clone(),
            cause,
        })?;
        Ok(true)
    }

    /// Sets what the bridge needs of the kernel. Answers what is missing, in words for the log; nothing is fatal here, as a
    /// later addition fails with its own reason.
    pub fn prepare_node(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let forwarding = |v6| if v6 { "net/ipv6/conf/all/forwarding" } else { "net/ipv4/ip_forward" };
        for subnet in &self.subnets {
            if let Err(error) = kybern_linux::sysctl::set(forwarding(subnet.addr().is_ipv6()), "1") {
                missing.push(format!("pods cannot reach other hosts: {error}"));
            }
        }
        // A reply from one port of the bridge to another is translated back only if bridged packets pass netfilter. The files
        // are missing without the module br_netfilter.
        for key in ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"] {
            if let Err(error) = kybern_linux::sysctl::set(key, "1") {
                missing.push(format!("pods of this node see the node's address when they call each other through a Service: load the module br_netfilter ({error})"));
                break;
            }
        }
        missing
    }
}

/// Removes what the built-in plugins made on this node: the bridge (unless it is another's), the nftables tables, the allocations and the remembered
/// results. For `kybern down`; every container must be gone.
pub fn purge(network: &DefaultNetwork, with_bridge: bool, cache_dir: &Path) -> Result<(), CniError> {
    let netlink = |error: NetlinkError| CniError::Io {
        what: "cannot remove the network",
        path: network.bridge.clone().into(),
        cause: io::Error::other(error.to_string()),
    };
    let mut rtnl = Rtnl::open().map_err(netlink)?;
    if with_bridge && let Some(bridge) = rtnl.link(&network.bridge).map_err(netlink)? {
        rtnl.delete_link(bridge.index).map_err(netlink)?;
    }
    let mut nft = Nftables::open().map_err(netlink)?;
    for family in [Family::Ip, Family::Ip6] {
        for table in [masquerade::TABLE, portmap::TABLE] {
            nft.delete_table(family, table).map_err(netlink)?;
        }
    }
    let data_dir = network.data_dir.as_deref().unwrap_or(Path::new(host_local::DATA_DIR));
    for path in [data_dir.join(&network.name), cache_dir.join("results")] {
        match std::fs::remove_dir_all(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                return Err(CniError::Io { what: "cannot remove", path, cause });
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_written_once_and_yields_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let network = DefaultNetwork::default();
        assert!(network.write(dir.path()).unwrap());
        assert!(network.write(dir.path()).unwrap());
        assert_eq!(crate::config::load_dir(dir.path()).unwrap().name, "cbr0");
        std::fs::write(dir.path().join("05-other.conflist"), "{}").unwrap();
        assert!(!network.write(dir.path()).unwrap());
    }
}
