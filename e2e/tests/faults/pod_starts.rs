//! `kill -9` while pods are being made: the node ends with what the API says, and with nothing half-made.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kybern_e2e::{Cluster, Kubectl, Namespace, eventually};
use serde_json::Value;

const CRASHES: u32 = 5;
const PODS_PER_CRASH: u32 = 4;

#[test]
fn crashes_while_pods_start_leave_nothing_half_made() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("starts");
    for crash in 0..CRASHES {
        let pods = (0..PODS_PER_CRASH).map(|number| pod(&format!("p{crash}-{number}")));
        namespace.apply(&pods.collect::<String>());
        // At another moment of their starts each time.
        std::thread::sleep(Duration::from_millis(30 * u64::from(crash)));
        cluster.crash_server();
        cluster.up();
    }
    let path = "{range .items[*]}{.metadata.name} {.status.phase} {.status.containerStatuses[*].ready} {.status.containerStatuses[*].restartCount}\n{end}";
    eventually("all of them run, and none was restarted", || {
        let seen = namespace.jsonpath(&["pods"], path);
        let running = seen.lines().filter(|line| line.ends_with(" Running true true 0 0")).count();
        if running == (CRASHES * PODS_PER_CRASH) as usize { Ok(()) } else { Err(seen) }
    });
    eventually("the node holds those pods and nothing else", || only_the_pods(&namespace));
    namespace.run(&["delete", "pods", "--all", "--timeout=60s"]).ok();
    eventually("nothing is left of them", || only_the_pods(&namespace));
}

fn pod(name: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{{name: scratch, emptyDir: {{medium: Memory}}}}]
  containers:
  - {{name: a, image: busybox, command: [sleep, '3600'], volumeMounts: [{{name: scratch, mountPath: /scratch}}]}}
  - {{name: b, image: busybox, command: [sleep, '3600']}}
"
    )
}

/// Whatever is on the machine belongs to a pod of the API, and each pod of this test has what it needs once.
fn only_the_pods(namespace: &Namespace) -> Result<(), String> {
    let cluster = namespace.cluster;
    let (data, run) = (&cluster.data_dir, PathBuf::from(cluster.directory("--run-dir")));
    let sandboxes = run.join("runtime/sandboxes");
    let (mut of_pods, mut containers) = (BTreeMap::new(), BTreeSet::new());
    for name in names(&sandboxes) {
        let record = fs::read(sandboxes.join(&name).join("sandbox.json")).unwrap_or_default();
        let record: Value = serde_json::from_slice(&record).unwrap_or_default();
        containers.extend(names(&sandboxes.join(&name).join("containers")));
        of_pods.insert(name, record["config"]["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
    }
    let all = uids(&cluster.kubectl(), &["--all-namespaces"]);
    let own = uids(namespace, &[]);
    known("sandboxes", of_pods.values().cloned(), &all)?;
    known("directories of pods", names(&data.join("kubelet/pods")), &all)?;
    known("container layers", names(&data.join("runtime/containers")), &containers)?;
    let shims = cluster.processes(&["shim", &run.display().to_string()]);
    let shims = shims.iter().map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default());
    let shims: Vec<String> =
        shims.filter_map(|line| Some(line.rsplit_once('/')?.1.trim_matches('\0').to_owned())).collect();
    let ids: BTreeSet<String> = of_pods.keys().cloned().collect();
    known("shims", shims.clone(), &ids)?;
    // A namespace's name holds the first half of its sandbox's id.
    let halves = ids.iter().map(|id| format!("kybern-{}", &id[..32])).collect();
    let namespaces = names(&run.join("netns"));
    known("network namespaces", namespaces.clone(), &halves)?;
    let allocations = data.join("cni/networks/cbr0");
    let addresses = names(&allocations).into_iter().filter(|name| name.parse::<std::net::IpAddr>().is_ok());
    let holders = addresses.map(|name| fs::read_to_string(allocations.join(name)).unwrap_or_default());
    let holders: Vec<String> = holders.map(|text| text.lines().next().unwrap_or_default().trim().to_owned()).collect();
    known("addresses", holders.clone(), &ids)?;

    let hierarchy = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new).into_iter().find(|path| path.is_dir());
    let root = hierarchy.unwrap().join(cluster.directory("--cgroup-root").trim_start_matches('/'));
    let classes = ["kubepods", "kubepods/burstable", "kubepods/besteffort"].map(|class| root.join(class));
    let groups: Vec<PathBuf> = classes.iter().flat_map(|class| directories(class)).collect();
    let groups: Vec<PathBuf> = groups.into_iter().filter(|group| !classes.contains(group)).collect();
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    known("cgroups of pods", groups.iter().map(|group| name(group).trim_start_matches("pod").to_owned()), &all)?;
    let groups: Vec<String> = groups.iter().flat_map(|group| directories(group)).map(|group| name(&group)).collect();
    known("cgroups of containers", groups, &containers)?;

    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounted = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let mounted = mounted.filter(|mount| mount.starts_with(data) || mount.starts_with(&run));
    let mut strange = mounted
        .map(|mount| mount.display().to_string())
        .filter(|mount| !all.iter().chain(&ids).chain(&halves).any(|known| mount.contains(known.as_str())));
    if let Some(mount) = strange.next() {
        return Err(format!("a mount of no pod: {mount}"));
    }
    for uid in &own {
        let of_pod: Vec<&String> = of_pods.iter().filter(|(_, of)| *of == uid).map(|(id, _)| id).collect();
        let [id] = of_pod[..] else { return Err(format!("pod {uid} has the sandboxes {of_pod:?}")) };
        let count = |list: &[String]| list.iter().filter(|other| *other == id).count();
        let made = names(&sandboxes.join(id).join("containers")).len();
        if (count(&shims), count(&holders), made) != (1, 1, 2) {
            let (shims, addresses) = (count(&shims), count(&holders));
            return Err(format!("pod {uid} has {shims} shims, {addresses} addresses and {made} containers"));
        }
    }
    Ok(())
}

fn uids(kubectl: &Kubectl, which: &[&str]) -> BTreeSet<String> {
    let seen = kubectl.jsonpath(&[&["pods"], which].concat(), "{.items[*].metadata.uid}");
    seen.split_whitespace().map(str::to_owned).collect()
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
    if strange.is_empty() { Ok(()) } else { Err(format!("{what} of nobody: {strange:?}")) }
}
