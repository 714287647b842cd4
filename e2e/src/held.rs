//! What the node holds of pods: files, mounts, control groups, processes, links, addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cluster::Cluster;

/// What the machine has, by what it is told apart by: ids of sandboxes and containers, uids of pods.
struct Held {
    /// Pods' uids by sandbox.
    sandboxes: BTreeMap<String, String>,
    /// The containers of each sandbox.
    containers: BTreeMap<String, Vec<String>>,
    shims: Vec<String>,
    netns: Vec<String>,
    addresses: Vec<String>,
    veths: usize,
}

impl Cluster {
    /// Fails unless whatever is on the machine belongs to a pod of the API, and each running pod has what it needs once.
    ///
    /// # Errors
    /// Names the first thing that is not so.
    pub fn holds_what_its_pods_need(&'static self) -> Result<(), String> {
        let pods = self.kubectl().get(&["pods", "--all-namespaces"]);
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let uids: BTreeSet<String> =
            pods.iter().filter_map(|pod| Some(pod["metadata"]["uid"].as_str()?.to_owned())).collect();
        let held = self.held();
        self.nothing_of_nobody(&held, &uids)?;
        for pod in pods.iter().filter(|pod| pod["status"]["phase"] == "Running") {
            held.needs(pod)?;
        }
        Ok(())
    }

    fn held(&self) -> Held {
        let run = PathBuf::from(self.directory("--run-dir"));
        let dir = run.join("runtime/sandboxes");
        let (mut sandboxes, mut containers) = (BTreeMap::new(), BTreeMap::new());
        for name in names(&dir) {
            let record = fs::read(dir.join(&name).join("sandbox.json")).unwrap_or_default();
            let record: Value = serde_json::from_slice(&record).unwrap_or_default();
            containers.insert(name.clone(), names(&dir.join(&name).join("containers")));
            sandboxes.insert(name, record["config"]["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
        }
        let shims = self.processes(&["shim", &run.display().to_string()]);
        let shims = shims.iter().map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default());
        let shims = shims.filter_map(|line| Some(line.rsplit_once('/')?.1.trim_matches('\0').to_owned())).collect();
        let allocations = self.data_dir.join("cni/networks/cbr0");
        let addresses = names(&allocations).into_iter().filter(|name| name.parse::<std::net::IpAddr>().is_ok());
        let holders = addresses.map(|name| fs::read_to_string(allocations.join(name)).unwrap_or_default());
        let addresses = holders.map(|text| text.lines().next().unwrap_or_default().trim().to_owned()).collect();
        let links = self.on_node("ip").args(["-o", "link", "show", "type", "veth"]).output().expect("ip starts");
        let links = String::from_utf8_lossy(&links.stdout).lines().filter(|line| line.contains(": veth")).count();
        Held { sandboxes, containers, shims, netns: names(&run.join("netns")), addresses, veths: links }
    }

    fn nothing_of_nobody(&self, held: &Held, uids: &BTreeSet<String>) -> Result<(), String> {
        let (data, run) = (&self.data_dir, PathBuf::from(self.directory("--run-dir")));
        let ids: BTreeSet<String> = held.sandboxes.keys().cloned().collect();
        let containers: BTreeSet<String> = held.containers.values().flatten().cloned().collect();
        // A namespace's name holds the first half of its sandbox's id.
        let halves: BTreeSet<String> = ids.iter().map(|id| netns_of(id)).collect();
        known("sandboxes", held.sandboxes.values().cloned(), uids)?;
        known("directories of pods", names(&data.join("kubelet/pods")), uids)?;
        known("container layers", names(&data.join("runtime/containers")), &containers)?;
        known("shims", held.shims.iter().cloned(), &ids)?;
        known("network namespaces", held.netns.iter().cloned(), &halves)?;
        known("addresses", held.addresses.iter().cloned(), &ids)?;
        if held.veths > held.netns.len() {
            return Err(format!("{} links for {} network namespaces", held.veths, held.netns.len()));
        }
        let attachments =
            names(&data.join("cni/results")).into_iter().filter(|name| !ids.iter().any(|id| name.contains(id)));
        known("attachments", attachments, &BTreeSet::new())?;
        let logs = PathBuf::from(self.directory("--pod-logs-dir"));
        let uid = |name: &String| name.rsplit_once('_').map(|(_, uid)| uid.to_owned()).unwrap_or_default();
        known("log directories", names(&logs).iter().map(uid), uids)?;
        let links = logs.parent().unwrap_or(Path::new("/")).join("containers");
        let of_pods = names(&links).into_iter().map(|name| fs::read_link(links.join(name)).unwrap_or_default());
        let of_pods = of_pods.filter(|target| !uids.iter().any(|uid| target.display().to_string().contains(uid)));
        known("log links", of_pods.map(|target| target.display().to_string()), &BTreeSet::new())?;

        let hierarchy = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new).into_iter().find(|path| path.is_dir());
        let root = hierarchy.expect("cgroups").join(self.directory("--cgroup-root").trim_start_matches('/'));
        let classes = ["kubepods", "kubepods/burstable", "kubepods/besteffort"].map(|class| root.join(class));
        let groups: Vec<PathBuf> = classes.iter().flat_map(|class| directories(class)).collect();
        let groups: Vec<PathBuf> = groups.into_iter().filter(|group| !classes.contains(group)).collect();
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        known("cgroups of pods", groups.iter().map(|group| name(group).trim_start_matches("pod").to_owned()), uids)?;
        let groups = groups.iter().flat_map(|group| directories(group)).map(|group| name(&group));
        known("cgroups of containers", groups, &containers)?;

        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts can be read");
        let mounted = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
        let mounted = mounted.filter(|mount| mount.starts_with(data) || mount.starts_with(&run));
        let strange = mounted
            .map(|mount| mount.display().to_string())
            .filter(|mount| !uids.iter().chain(&ids).chain(&halves).any(|known| mount.contains(known.as_str())));
        known("mounts", strange, &BTreeSet::new())
    }
}

impl Held {
    /// What a running pod needs, once.
    fn needs(&self, pod: &Value) -> Result<(), String> {
        let (name, uid) = (&pod["metadata"]["name"], pod["metadata"]["uid"].as_str().unwrap_or_default());
        let of_pod: Vec<&String> = self.sandboxes.iter().filter(|(_, of)| *of == uid).map(|(id, _)| id).collect();
        let [id] = of_pod[..] else { return Err(format!("pod {name} has the sandboxes {of_pod:?}")) };
        let count = |list: &[String], what: &str| list.iter().filter(|other| *other == what).count();
        let networks = usize::from(pod["spec"]["hostNetwork"] != true);
        let has = [count(&self.shims, id), count(&self.addresses, id), count(&self.netns, &netns_of(id))];
        if has != [1, networks, networks] {
            return Err(format!("pod {name} has (shims, addresses, network namespaces) {has:?}"));
        }
        let statuses = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
        let statuses: Vec<&Value> =
            statuses.iter().filter_map(|list| pod["status"][list].as_array()).flatten().collect();
        let restarted = statuses.iter().any(|status| status["restartCount"] != 0);
        let made = self.containers[id].len();
        if made != statuses.len() && !restarted {
            return Err(format!("pod {name} has {made} containers, not {}", statuses.len()));
        }
        Ok(())
    }
}

fn netns_of(id: &str) -> String {
    format!("kybern-{}", &id[..id.len().min(32)])
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    names(dir).iter().map(|name| dir.join(name)).filter(|path| path.is_dir()).collect()
}

fn known(what: &str, found: impl IntoIterator<Item = String>, expect: &BTreeSet<String>) -> Result<(), String> {
    let strange: Vec<String> = found.into_iter().filter(|name| !expect.contains(name)).collect();
    if strange.is_empty() { Ok(()) } else { Err(format!("{} {what} of nobody: {strange:?}", strange.len())) }
}
