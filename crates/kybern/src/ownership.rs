//! What a cluster has made outside its data directory, on record: in the data directory, so that `down` removes that and nothing
//! else whatever flags it is given, and in one place of the machine, so that `up` of another cluster sees what would collide.

use std::collections::hash_map::DefaultHasher;
use std::fs::{DirBuilder, File};
use std::hash::{Hash, Hasher};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kybern_linux::cgroup::Cgroups;
use kybern_linux::netns::NetNs;
use kybern_linux::rtnl::Rtnl;
use serde::{Deserialize, Serialize};

use crate::paths::{self, Paths};

/// Where the machine's clusters are listed: one place, whatever their flags say.
const REGISTER: &str = "/run/kybern-clusters";

/// What a cluster has outside its data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Owned {
    data: PathBuf,
    run: PathBuf,
    pod_logs: PathBuf,
    container_logs: PathBuf,
    cni_config: PathBuf,
    cgroup_root: String,
    /// The network namespace of bridge and rules.
    netns: u64,
    /// The pods' control groups were not there before.
    pub(crate) cgroups_made: bool,
}

/// What is there on the machine of what another cluster has on record. A stale record must not stand in the way.
struct Machine<'a> {
    runs: &'a dyn Fn(&Owned) -> bool,
    group_exists: &'a dyn Fn(&str) -> bool,
    bridge_exists: &'a dyn Fn() -> bool,
}

/// The pods' group below a root.
pub(crate) fn kubepods(root: &str) -> String {
    format!("{}/kubepods", root.trim_end_matches('/'))
}

impl Owned {
    fn new(paths: &Paths) -> Result<Self> {
        let own_netns = NetNs::current().and_then(|netns| netns.inode());
        Ok(Self {
            data: paths.data.clone(),
            run: paths.run.clone(),
            pod_logs: paths.pod_logs.clone(),
            container_logs: paths.container_logs.clone(),
            cni_config: paths.cni_config.clone(),
            cgroup_root: paths.cgroup_root.clone(),
            netns: own_netns.context("cannot read this process's network namespace")?,
            cgroups_made: !group_exists(&kubepods(&paths.cgroup_root)),
        })
    }

    /// What the cluster whose data lies there has on record.
    pub(crate) fn read(data: &Path) -> Result<Option<Self>> {
        read(&data.join(Paths::OWNED))
    }

    /// The same directories, as the cluster was started with.
    pub(crate) fn paths(&self, given: &Paths) -> Paths {
        Paths {
            run: self.run.clone(),
            pod_logs: self.pod_logs.clone(),
            container_logs: self.container_logs.clone(),
            cni_config: self.cni_config.clone(),
            cgroup_root: self.cgroup_root.clone(),
            ..given.clone()
        }
    }

    /// The network namespace that the cluster's bridge and rules are in; `None` when it is this process's own, an error where
    /// it is not there any more.
    pub(crate) fn foreign_netns(&self) -> io::Result<Option<NetNs>> {
        let is_it = |netns: &NetNs| netns.inode().is_ok_and(|inode| inode == self.netns);
        if is_it(&NetNs::current()?) {
            return Ok(None);
        }
        let named = std::fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|entry| entry.path());
        let of_processes = std::fs::read_dir("/proc")?.flatten().map(|entry| entry.path().join("ns/net"));
        let found = named.chain(of_processes).filter_map(|path| NetNs::open(&path).ok()).find(is_it);
        found.map(Some).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Why this cluster must not be started where the other is, if so.
    fn collision(&self, other: &Self, machine: &Machine<'_>) -> Option<String> {
        let runs = (machine.runs)(other);
        let whose = format!("of the cluster in {}", other.data.display());
        let or = format!(", or remove that cluster with `kybern down --data-dir={}`", other.data.display());
        // What is below another's directory would go with it.
        for (flag, own) in [("--data-dir", &self.data), ("--run-dir", &self.run)] {
            for (what, theirs) in [("data", &other.data), ("run", &other.run)] {
                if own.starts_with(theirs) || theirs.starts_with(own) {
                    let (own, theirs) = (own.display(), theirs.display());
                    return Some(format!(
                        "{own} and the {what} directory {theirs} {whose} are one in the other: name another with {flag}{or}"
                    ));
                }
            }
        }
        for (flag, own) in [("--cni-conf-dir", &self.cni_config), ("--pod-logs-dir", &self.pod_logs)] {
            if let Some(theirs) = [&other.data, &other.run].into_iter().find(|theirs| own.starts_with(theirs)) {
                let (own, theirs) = (own.display(), theirs.display());
                return Some(format!("{own} is below {theirs} {whose}: name another with {flag}{or}"));
            }
        }
        let (group, others) = (kubepods(&self.cgroup_root), kubepods(&other.cgroup_root));
        if within(&group, &others) && (runs || (machine.group_exists)(&others)) {
            return Some(format!("{others} is the control group {whose}: name another root with --cgroup-root{or}"));
        }
        if self.netns == other.netns && (runs || (machine.bridge_exists)()) {
            return Some(format!(
                "this network namespace has the bridge and the rules {whose}: start this one in another (ip netns add NAME; \
                 nsenter --net=/run/netns/NAME kybern up …){or}"
            ));
        }
        None
    }

    /// Whether a node works on it now, in a server or alone.
    pub(crate) fn has_a_kubelet(&self) -> bool {
        kybern_runtime::is_in_use(&self.run.join(Paths::RUNTIME))
    }

    /// What this record has and the other not, as flags.
    fn changed(&self, before: &Self) -> Vec<String> {
        let flag = |name: &str, now: &str, before: &str| (now != before).then(|| format!("--{name}={before}"));
        let path = |name: &str, now: &Path, before: &Path| {
            flag(name, &now.display().to_string(), &before.display().to_string())
        };
        let changed = [
            path("run-dir", &self.run, &before.run),
            path("cni-conf-dir", &self.cni_config, &before.cni_config),
            path("pod-logs-dir", &self.pod_logs, &before.pod_logs),
            flag("cgroup-root", &self.cgroup_root, &before.cgroup_root),
        ];
        changed.into_iter().flatten().collect()
    }
}

fn within(one: &str, other: &str) -> bool {
    let below = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    below(one, other) || below(other, one)
}

fn group_exists(group: &str) -> bool {
    Cgroups::detect().is_ok_and(|cgroups| cgroups.directories(group).iter().any(|dir| dir.exists()))
}

fn bridge_exists() -> bool {
    let bridge = kybern_cni::DefaultNetwork::default().bridge;
    Rtnl::open().and_then(|mut rtnl| rtnl.link(&bridge)).is_ok_and(|link| link.is_some())
}

fn read(path: &Path) -> Result<Option<Owned>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        bytes => {
            let parsed = bytes.map_err(anyhow::Error::from).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
            parsed.map(Some).with_context(|| format!("cannot read {}", path.display()))
        }
    }
}

fn write(path: &Path, owned: &Owned) -> Result<()> {
    let beside = path.with_extension("new");
    let written = serde_json::to_vec_pretty(owned)
        .map_err(io::Error::from)
        .and_then(|bytes| std::fs::write(&beside, bytes))
        .and_then(|()| std::fs::rename(&beside, path));
    written
        .inspect_err(|_| drop(std::fs::remove_file(&beside)))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The list of the machine's clusters.
pub(crate) struct Register(PathBuf);

impl Register {
    pub(crate) fn of_machine() -> Self {
        Self(REGISTER.into())
    }

    fn entry(&self, data: &Path) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        data.hash(&mut hasher);
        self.0.join(format!("{:016x}.json", hasher.finish()))
    }

    /// Fails where something of this cluster is another's. Changes nothing.
    pub(crate) fn check(&self, paths: &Paths) -> Result<()> {
        let machine = Machine {
            runs: &|owned| kybern_storage::lock::holder(&owned.data).is_some() || owned.has_a_kubelet(),
            group_exists: &group_exists,
            bridge_exists: &bridge_exists,
        };
        self.check_on(&Owned::new(paths)?, &machine)
    }

    fn check_on(&self, owned: &Owned, machine: &Machine<'_>) -> Result<()> {
        if let Some(before) = Owned::read(&owned.data)? {
            let changed = owned.changed(&before);
            if !changed.is_empty() {
                bail!(
                    "the cluster in {} was started with {}; start it with the same, or take it down first with `kybern down \
                     --keep-data --data-dir={}`",
                    owned.data.display(),
                    changed.join(" "),
                    owned.data.display()
                );
            }
        }
        if let Some(other) = others_network(&owned.cni_config, &owned.data) {
            bail!(
                "{} holds the pod network of the cluster in {}: name another with --cni-conf-dir, or remove that cluster with \
                 `kybern down --data-dir={}`",
                owned.cni_config.display(),
                other.display(),
                other.display()
            );
        }
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            // One whose data is gone has nobody to answer for it.
            let on_record = read(&path).ok().flatten();
            let Some(other) = on_record.filter(|other| Owned::read(&other.data).is_ok_and(|it| it.is_some())) else {
                continue;
            };
            if other.data != owned.data
                && let Some(why) = owned.collision(&other, machine)
            {
                bail!("{why}");
            }
        }
        Ok(())
    }

    /// Puts the cluster on record, unless something of it is another's. The data directory is there and locked.
    pub(crate) fn claim(&self, paths: &Paths) -> Result<()> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        let lock =
            made.and_then(|()| File::options().create(true).truncate(false).write(true).open(self.0.join("lock")));
        let lock = lock.and_then(|lock| lock.lock().map(|()| lock));
        let _lock = lock.with_context(|| format!("cannot lock the list of clusters {}", self.0.display()))?;
        self.check(paths)?;
        let mut owned = Owned::new(paths)?;
        if let Some(before) = Owned::read(&paths.data)? {
            owned.cgroups_made |= before.cgroups_made;
        }
        write(&paths.data.join(Paths::OWNED), &owned)?;
        write(&self.entry(&paths.data), &owned)
    }

    /// The same for a kubelet alone, whose data directory need not be there yet.
    pub(crate) fn claim_for_kubelet(&self, paths: &Paths) -> Result<()> {
        let made = kybern_linux::files::make_dirs(&paths.data, 0o700);
        made.map_err(|error| paths::failure(&format!("cannot make {}", paths.data.display()), error))?;
        self.claim(paths)
    }

    /// Forgets a cluster of which nothing but its data is left.
    pub(crate) fn release(&self, data: &Path) {
        for path in [data.join(Paths::OWNED), self.entry(data)] {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The data directory of another cluster whose network is configured there.
fn others_network(cni_config: &Path, data: &Path) -> Option<PathBuf> {
    let owner = network_owner(cni_config)?;
    (owner != data && owner.exists()).then_some(owner)
}

/// Whose network Kybern's configuration there is.
pub(crate) fn network_owner(cni_config: &Path) -> Option<PathBuf> {
    let text = std::fs::read(cni_config.join(kybern_cni::default::CONFIG_FILE)).ok()?;
    let list: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let allocations = Path::new(list["plugins"][0]["ipam"]["dataDir"].as_str()?);
    allocations.ancestors().nth(2).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(data: &Path, change: impl FnOnce(&mut Owned)) -> Owned {
        let mut owned = Owned {
            data: data.to_owned(),
            run: data.join("run"),
            pod_logs: "/var/log/pods".into(),
            container_logs: "/var/log/containers".into(),
            cni_config: data.join("net.d"),
            cgroup_root: format!("/{}", data.file_name().unwrap().display()),
            netns: data.as_os_str().len() as u64,
            cgroups_made: true,
        };
        change(&mut owned);
        owned
    }

    #[test]
    fn what_would_collide_is_refused_with_its_flag() {
        let temp = tempfile::tempdir().unwrap();
        let register = Register(temp.path().join("register"));
        std::fs::create_dir(&register.0).unwrap();
        let (first, second) = (temp.path().join("first"), temp.path().join("the-second"));
        std::fs::create_dir(&first).unwrap();
        let one = owned(&first, |_| {});
        write(&first.join(Paths::OWNED), &one).unwrap();
        write(&register.entry(&first), &one).unwrap();
        let stopped = Machine { runs: &|_| false, group_exists: &|_| true, bridge_exists: &|| true };
        let check = |machine: &Machine<'_>, change: &dyn Fn(&mut Owned)| {
            register.check_on(&owned(&second, change), machine).map_err(|error| error.to_string())
        };
        check(&stopped, &|_| {}).unwrap();
        check(&stopped, &|it| it.cgroup_root = "/first-too".into()).unwrap();
        type Change<'a> = &'a dyn Fn(&mut Owned);
        let cases: [(Change<'_>, &str); 8] = [
            (&|it| it.data = first.join("kubelet/below"), "--data-dir"),
            (&|it| it.data = temp.path().into(), "--data-dir"),
            (&|it| it.cni_config = first.join("net.d"), "--cni-conf-dir"),
            (&|it| it.pod_logs = first.join("logs"), "--pod-logs-dir"),
            (&|it| it.run = first.join("run"), "--run-dir"),
            (&|it| it.cgroup_root = "/first/".into(), "--cgroup-root"),
            (&|it| it.cgroup_root = "/first/kubepods/burstable".into(), "--cgroup-root"),
            (&|it| it.netns = one.netns, "ip netns add"),
        ];
        for (change, flag) in cases {
            let error = check(&stopped, change).unwrap_err();
            assert!(error.contains(flag) && error.contains(&format!("--data-dir={}", first.display())), "{error}");
        }
        // Of a cluster that does not run, what is not there any more is in nobody's way.
        let gone = Machine { runs: &|_| false, group_exists: &|_| false, bridge_exists: &|| false };
        check(&gone, &|it| (it.cgroup_root, it.netns) = (one.cgroup_root.clone(), one.netns)).unwrap();
        std::fs::remove_dir_all(&first).unwrap();
        check(&stopped, &|it| it.run = first.join("run")).unwrap();
    }

    #[test]
    fn a_network_of_another_cluster_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let (first, second, conf) = (temp.path().join("a"), temp.path().join("b"), temp.path().join("net.d"));
        let data_dir = Some(first.join("cni/networks"));
        kybern_cni::DefaultNetwork { data_dir, ..Default::default() }.write(&conf).unwrap();
        assert_eq!(network_owner(&conf), Some(first.clone()));
        assert_eq!(others_network(&conf, &second), None, "of a cluster that is gone");
        std::fs::create_dir(&first).unwrap();
        assert_eq!(others_network(&conf, &second), Some(first.clone()));
        assert_eq!(others_network(&conf, &first), None);
    }

    #[test]
    fn other_directories_than_before_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let register = Register(temp.path().join("register"));
        let before = owned(temp.path(), |_| {});
        write(&temp.path().join(Paths::OWNED), &before).unwrap();
        let machine = Machine { runs: &|_| false, group_exists: &|_| false, bridge_exists: &|| false };
        register.check_on(&before, &machine).unwrap();
        let now = owned(temp.path(), |it| it.cgroup_root = "/".into());
        let error = register.check_on(&now, &machine).unwrap_err().to_string();
        assert!(error.contains(&format!("was started with --cgroup-root={}", before.cgroup_root)), "{error}");
        register.release(temp.path());
        register.check_on(&now, &machine).unwrap();
    }
}
