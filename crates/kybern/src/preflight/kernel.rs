//! Whether the kernel has what a node needs, found out by using it where that leaves no trace: file systems are opened and
//! not mounted; links and nftables are made in a network namespace that is thrown away. Modules are loaded on the way, as
//! the first use loads them.

use std::io;
use std::path::Path;

use kybern_linux::cgroup::Cgroups;
use kybern_linux::nft::{
    BaseChain, CT_STATUS_DNAT, ChainKind, Family, Hook, Nftables, Rule, Table, Verdict, diff, priority,
};
use kybern_linux::rtnl::Rtnl;
use kybern_linux::{mount, netns};

use super::Missing;

/// The newest system call in use is `mount_setattr(2)`.
const OLDEST: (u32, u32) = (5, 12);
const NAMESPACES: &[&str] = &["cgroup", "ipc", "mnt", "net", "pid", "uts"];
const CONTROLLERS: &[&str] = &["cpu", "memory", "pids"];

/// Everything that is missing.
pub(super) fn missing() -> Vec<Missing> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut missing: Vec<Missing> =
        [version(&release), overlay(), seccomp(), namespaces()].into_iter().flatten().collect();
    missing.extend(cgroups());
    missing.extend(network());
    missing
}

fn version(release: &str) -> Option<Missing> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    let found = (numbers.next()?, numbers.next()?);
    let (major, minor) = OLDEST;
    let what = format!("Linux {major}.{minor} (this is {})", release.trim());
    (found < OLDEST).then(|| Missing::new(what, "run a newer kernel"))
}

fn overlay() -> Option<Missing> {
    let cure = "containers' root file systems are overlays; load the module (modprobe overlay), or run a kernel with \
                CONFIG_OVERLAY_FS";
    match mount::knows_filesystem("overlay") {
        Ok(true) => None,
        Ok(false) => Some(Missing::new("the file system overlay", cure)),
        Err(error) => Some(Missing::new(format!("the file system overlay ({error})"), cure)),
    }
}

fn seccomp() -> Option<Missing> {
    let there = Path::new("/proc/sys/kernel/seccomp/actions_avail").exists();
    let cure = "run a kernel with CONFIG_SECCOMP_FILTER: containers' system calls are filtered";
    (!there).then(|| Missing::new("seccomp filters", cure))
}

fn namespaces() -> Option<Missing> {
    let lacking: Vec<&str> =
        NAMESPACES.iter().copied().filter(|kind| !Path::new("/proc/self/ns").join(kind).exists()).collect();
    let what = format!("namespaces of the kinds {}", lacking.join(", "));
    (!lacking.is_empty()).then(|| Missing::new(what, "run a kernel with CONFIG_NAMESPACES"))
}

fn cgroups() -> Option<Missing> {
    let cgroups = match Cgroups::detect() {
        Ok(cgroups) => cgroups,
        Err(error) => {
            return Some(Missing::new(
                format!("cgroups ({error})"),
                "mount them: mount -t cgroup2 cgroup2 /sys/fs/cgroup",
            ));
        }
    };
    match cgroups.missing(CONTROLLERS) {
        Ok(lacking) if lacking.is_empty() => None,
        Ok(lacking) => Some(Missing::new(
            format!("the cgroup controllers {}", lacking.join(", ")),
            format!("boot with {}, or run a kernel that has them", parameters(&lacking)),
        )),
        Err(error) => Some(Missing::new(format!("readable cgroups ({error})"), "mount the cgroup file system")),
    }
}

/// What turns controllers on that a distribution has turned off.
fn parameters(controllers: &[&str]) -> String {
    controllers.iter().map(|name| format!("cgroup_enable={name}")).collect::<Vec<_>>().join(" ")
}

/// Links and nftables, in a namespace of their own.
fn network() -> Vec<Missing> {
    let found = netns::in_new(|| Ok(links().into_iter().chain(nftables()).collect()));
    found.unwrap_or_else(|error: io::Error| {
        vec![Missing::new(format!("network namespaces ({error})"), "run a kernel with CONFIG_NET_NS")]
    })
}

fn links() -> Vec<Missing> {
    let mut rtnl = match Rtnl::open() {
        Ok(rtnl) => rtnl,
        Err(error) => return vec![Missing::new(format!("rtnetlink ({error})"), "run a kernel with CONFIG_NET")],
    };
    let veth = rtnl.add_veth("probe0", "probe1", None, None);
    let bridge = rtnl.add_bridge("probe2", None);
    [("veth", veth), ("bridge", bridge)]
        .into_iter()
        .filter_map(|(kind, made)| {
            let error = made.err()?;
            let cure = format!("the pod network is made of them; load the module (modprobe {kind})");
            Some(Missing::new(format!("network links of the kind {kind} ({error})"), cure))
        })
        .collect()
}

/// What the tables of Services and of the pod network are made of, one table for each module.
fn nftables() -> Vec<Missing> {
    let cure = |module: &str| format!("Services are made of it; load the module (modprobe {module})");
    let mut nft = match Nftables::open() {
        Ok(nft) => nft,
        Err(error) => return vec![Missing::new(format!("nf_tables ({error})"), cure("nf_tables"))],
    };
    let mut missing = Vec::new();
    for (module, table) in samples() {
        if let Err(error) = nft.apply(Family::Ip, &table.name, &diff(&table, None)) {
            missing.push(Missing::new(format!("{module} ({error})"), cure(module)));
            if module == "nf_tables" {
                break;
            }
        }
    }
    missing
}

fn samples() -> Vec<(&'static str, Table)> {
    let sample = |module: &'static str, kind, hook, rule: Option<Rule>| {
        let mut table = Table::new(Family::Ip, format!("kybern-probe-{module}"));
        let chain = table.chain("probe");
        chain.base = Some(BaseChain { kind, hook, priority: priority::FILTER });
        chain.rules.extend(rule);
        (module, table)
    };
    let empty = ("nf_tables", Table::new(Family::Ip, "kybern-probe"));
    let filter = |module, rule| sample(module, ChainKind::Filter, Hook::Output, Some(rule));
    let nat = |module, hook, rule| sample(module, ChainKind::Nat, hook, rule);
    let translate = Rule::new().l4proto(6).dnat("192.0.2.1".parse().expect("a constant"), Some(80));
    let (_, mut random) = filter("nft_numgen", Rule::new().random_goto(["a", "b"].into_iter()));
    for chain in ["a", "b"] {
        random.chain(chain).rules.push(Rule::new().verdict(Verdict::Return));
    }
    vec![
        empty,
        nat("nft_chain_nat", Hook::Postrouting, None),
        nat("nft_masq", Hook::Postrouting, Some(Rule::new().masquerade(true))),
        nat("nft_nat", Hook::Output, Some(translate)),
        filter("nft_ct", Rule::new().ct_status(CT_STATUS_DNAT)),
        filter("nft_fib_ipv4", Rule::new().daddr_is_local()),
        filter("nft_reject_ipv4", Rule::new().reject()),
        ("nft_numgen", random),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert!(version("5.11.0-arm64\n").is_some());
        assert!(version("4.19.0").is_some());
        assert_eq!(version("5.12.0"), None);
        assert_eq!(version("6.1.0-56-cloud-amd64\n"), None);
    }

    #[test]
    fn this_machine_has_what_the_tests_use() {
        if super::super::privileges("up").is_err() {
            kybern_testbed::not_run("this_machine_has_what_the_tests_use", "it needs root");
            return;
        }
        assert_eq!(missing(), []);
    }

    #[test]
    fn turned_off_controllers() {
        assert_eq!(parameters(&["memory", "pids"]), "cgroup_enable=memory cgroup_enable=pids");
    }
}
