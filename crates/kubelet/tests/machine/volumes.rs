//! Volumes that may only be read, what is mounted inside them, and what the node makes for pods.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kybern_apimachinery::{Value, json};

use crate::fixture::{Machine, add_volume, container};

/// A volume of each kind that may only be read.
const KINDS: [&str; 4] = ["cm", "secret", "down", "proj"];

fn add_kinds(machine: &Machine, pod: &mut Value) {
    let metadata = |name: &str| json!({"name": name, "namespace": "default"});
    machine.api.put("configmaps", json!({"metadata": metadata("cm"), "data": {"key": "old"}}));
    machine.api.put("secrets", json!({"metadata": metadata("s"), "data": {"key": "b2xk"}}));
    let down = json!([{"path": "key", "fieldRef": {"fieldPath": "metadata.name"}}]);
    let volumes = pod["spec"]["volumes"].as_array_mut().unwrap();
    volumes.push(json!({"name": "cm", "configMap": {"name": "cm"}}));
    volumes.push(json!({"name": "secret", "secret": {"secretName": "s"}}));
    volumes.push(json!({"name": "down", "downwardAPI": {"items": down}}));
    volumes.push(json!({"name": "proj", "projected": {"sources": [{"secret": {"name": "s"}}]}}));
}

/// Mounts every kind whole and by a path in it, and asks for writing.
fn mount_kinds(container: &mut Value) {
    let mounts = container["volumeMounts"].as_array_mut().unwrap();
    for kind in KINDS {
        mounts.push(json!({"name": kind, "mountPath": format!("/{kind}"), "readOnly": false}));
        mounts.push(json!({"name": kind, "mountPath": format!("/sub/{kind}"), "subPath": "key"}));
        mounts.push(json!({"name": kind, "mountPath": format!("/made/{kind}"), "subPath": "new"}));
    }
}

/// Says `wrote` for each place that could be written.
const ATTACK: &str = "for k in cm secret down proj; do for f in /$k/key /$k/new /$k/..data/key /sub/$k /made/$k/x; do \
                      (echo evil > $f) 2>/dev/null && echo wrote $f; done; \
                      busybox rm -rf /$k/key 2>/dev/null; busybox mount -o remount,rw /$k 2>/dev/null && echo remounted; done; true";

pub(crate) async fn what_may_only_be_read_is_never_written() {
    let machine = Machine::new().await;
    let report = "cat /cm/key /secret/key /down/key /proj/key; \
                  for k in cm secret down proj; do mount | grep \" /$k \" | cut -d' ' -f5; done";
    let sidecar = format!("{ATTACK}; echo tried; exec /bin/busybox sleep 1000");
    machine.create("p", &format!("{ATTACK}\n{report}"), |pod| {
        add_kinds(&machine, pod);
        let mut init = [container("init", ATTACK), container("side", &sidecar)];
        init[1]["restartPolicy"] = "Always".into();
        init.iter_mut().for_each(mount_kinds);
        pod["spec"]["initContainers"] = json!(init);
        mount_kinds(&mut pod["spec"]["containers"][0]);
    });
    let output = machine.output("p").await;
    let (text, kinds) = output.split_once("oldoldpold").unwrap_or_else(|| panic!("{output}"));
    assert_eq!(text, "");
    let kinds: Vec<&str> = kinds.lines().collect();
    assert_eq!(kinds[1..], ["tmpfs", "tmpfs", "tmpfs"], "secrets are on no disk: {kinds:?}");
    assert_ne!(kinds[0], "tmpfs");
    for (name, expect) in [("init", ""), ("side", "tried\n")] {
        assert_eq!(machine.log("p", name), expect, "{name}");
    }
    machine.clean_up().await;
}

pub(crate) async fn an_ephemeral_container_writes_no_more() {
    let machine = Machine::new().await;
    machine.create("p", "exec /bin/busybox sleep 1000", |pod| add_kinds(&machine, pod));
    machine.until("p", |pod| pod["status"]["phase"] == "Running").await;
    let mut pod = machine.pod("p");
    let mut debug = container("debug", &format!("{ATTACK}; cat /secret/key"));
    mount_kinds(&mut debug);
    debug["volumeMounts"].as_array_mut().unwrap().retain(|mount| mount.get("subPath").is_none());
    pod["spec"]["ephemeralContainers"] = json!([debug]);
    machine.api.put("pods", pod);
    machine.until("p", |pod| !pod["status"]["ephemeralContainerStatuses"][0]["state"]["terminated"].is_null()).await;
    assert_eq!(machine.log("p", "debug"), "old\n");
    machine.clean_up().await;
}

pub(crate) async fn secrets_stay_in_memory_over_a_restart() {
    let mut machine = Machine::new().await;
    let script = "until [ \"$(cat /secret/key)\" = new ]; do sleep 0.05; done; echo seen";
    machine.create("p", script, |pod| {
        add_kinds(&machine, pod);
        mount_kinds(&mut pod["spec"]["containers"][0]);
        pod["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "64Mi"}});
    });
    machine.until("p", |pod| pod["status"]["phase"] == "Running").await;
    let volume = machine.dir.join("kubelet/pods/p-uid/volumes/kubernetes.io~secret/secret");
    let mounted = || {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = |line: &&str| line.contains(&format!(" {} ", volume.display()));
        table.lines().filter(line).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = mounted();
    assert!(before.len() == 1 && before[0].contains("size=65536k"), "{before:?}");
    machine.restart().await;
    let secret = json!({"metadata": {"name": "s", "namespace": "default"}, "data": {"key": "bmV3"}});
    machine.api.put("secrets", secret);
    assert_eq!(machine.output("p").await, "seen\n");
    machine.clean_up().await;
    assert!(mounted().is_empty());
}

pub(crate) async fn volumes_within_volumes() {
    let machine = Machine::new().await;
    let data = |data: Value| json!({"metadata": {"name": "cm", "namespace": "default"}, "data": data});
    let script = "echo kept > /cm/scratch/deep/file; until [ \"$(cat /cm/b 2>/dev/null)\" = 3 ]; do sleep 0.05; done\n\
                  cat /cm/a /cm/scratch/deep/file; ls /cm; ls -a /cm | grep -c '^\\.\\.[0-9]'";
    machine.create("p", script, |pod| {
        add_kinds(&machine, pod);
        machine.api.put("configmaps", data(json!({"a": "1\n", "gone": "1"})));
        let mount = json!({"name": "cm", "mountPath": "/cm"});
        pod["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap().push(mount);
        let scratch = json!({"name": "scratch", "mountPath": "/cm/scratch/deep"});
        add_volume(pod, json!({"name": "scratch", "emptyDir": {}}), scratch);
    });
    machine.until("p", |pod| pod["status"]["phase"] == "Running").await;
    machine.api.put("configmaps", data(json!({"a": "2\n", "b": "2"})));
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    machine.api.put("configmaps", data(json!({"a": "3\n", "b": "3"})));
    assert_eq!(machine.output("p").await, "3\nkept\na\nb\nscratch\n1\n");
    machine.clean_up().await;
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).permissions().mode() & 0o7777
}

pub(crate) async fn directories_have_the_modes_that_are_meant() {
    let machine = Machine::new().await;
    let host = machine.dir.join("host");
    std::fs::create_dir(&host).unwrap();
    machine.create("p", "busybox stat -c %a /work /work/deep /work/deep/er . /at /at/all; umask", |pod| {
        for (name, kind) in
            [("any/deep", Value::Null), ("dir/deep", "DirectoryOrCreate".into()), ("file", "FileOrCreate".into())]
        {
            let short = name.split('/').next().unwrap();
            let source = json!({"name": short, "hostPath": {"path": host.join(name), "type": kind}});
            add_volume(pod, source, json!({"name": short, "mountPath": format!("/at/all/{short}")}));
        }
        pod["spec"]["containers"][0]["workingDir"] = "/work/deep/er".into();
    });
    assert_eq!(machine.output("p").await, "755\n755\n755\n755\n755\n755\n0022\n");
    for (path, expect) in [("any", 0o755), ("any/deep", 0o755), ("dir", 0o755), ("dir/deep", 0o755), ("file", 0o644)] {
        assert_eq!(mode(&host.join(path)), expect, "{path}");
    }
    machine.clean_up().await;
}

/// A pod may fill its volume deeper than any path or stack goes: it goes with the pod.
pub(crate) async fn a_volume_deeper_than_any_stack() {
    use rustix::fs::{Mode, OFlags, mkdirat, openat};
    let machine = Machine::new().await;
    machine.create("p", "exec /bin/busybox sleep 1000", |pod| {
        add_volume(pod, json!({"name": "disk", "emptyDir": {}}), json!({"name": "disk", "mountPath": "/disk"}));
    });
    machine.until("p", |pod| pod["status"]["phase"] == "Running").await;
    let volume = machine.dir.join("kubelet/pods/p-uid/volumes/kubernetes.io~empty-dir/disk");
    let mut dir = rustix::fs::open(&volume, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..5000 {
        mkdirat(&dir, "d", Mode::RWXU).unwrap();
        dir = openat(&dir, "d", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    drop(dir);
    machine.clean_up().await;
}

/// What is made by a process that was started without a umask: nothing that others can write but what is meant for them.
pub(crate) async fn a_busy_node_leaves_nothing_open() {
    let before = rustix::process::umask(rustix::fs::Mode::empty());
    let machine = Machine::new().await;
    machine.create("p", "exec /bin/busybox sleep 1000", |pod| {
        add_kinds(&machine, pod);
        let mut init = container("init", "true");
        mount_kinds(&mut init);
        pod["spec"]["initContainers"] = json!([init]);
        mount_kinds(&mut pod["spec"]["containers"][0]);
        for (name, medium) in [("mem", "Memory"), ("disk", "")] {
            let volume = json!({"name": name, "emptyDir": {"medium": medium}});
            add_volume(pod, volume, json!({"name": name, "mountPath": format!("/{name}"), "subPath": "a/b"}));
        }
    });
    machine.until("p", |pod| pod["status"]["phase"] == "Running").await;
    let mut seen = Vec::new();
    walk(&machine.dir, &machine.dir, &mut seen);
    rustix::process::umask(before);
    let open = |path: &str| {
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            // The volumes themselves, the paths in them that mounts name, which are as open, and what containers write.
            ["kubelet", "pods", _, "volumes", kind, _, rest @ ..] => {
                rest.is_empty() || rest == ["new"] || *kind == "kubernetes.io~empty-dir"
            }
            ["kubelet", "pods", _, "volume-subpaths", _, _, _, ..] => true,
            ["kubelet", "pods", _, "containers", _, last_words] => last_words.parse::<u32>().is_ok(),
            ["state", "sandboxes", _, "shm"] => true,
            _ => false,
        }
    };
    let wrong: Vec<_> = seen.iter().filter(|(path, mode)| mode & 0o022 != 0 && !open(path)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    for (path, expect) in [
        ("kubelet", 0o750),
        ("kubelet/pods", 0o750),
        ("kubelet/pods/p-uid", 0o750),
        ("kubelet/pods/p-uid/etc-hosts", 0o644),
        ("kubelet/pods/p-uid/containers/c/0", 0o666),
        ("kubelet/pods/p-uid/volumes/kubernetes.io~empty-dir/disk", 0o777),
        ("kubelet/pods/p-uid/volumes/kubernetes.io~empty-dir/disk/a/b", 0o777),
        ("kubelet/pods/p-uid/volumes/kubernetes.io~secret/secret", 0o1777),
        ("pod-logs", 0o755),
        ("pod-logs/default_p_p-uid/c", 0o755),
        ("pod-logs/default_p_p-uid/c/0.log", 0o640),
        ("container-logs", 0o755),
        ("root", 0o711),
        ("root/images/snapshots", 0o711),
        ("state/sandboxes", 0o711),
        ("state/lock", 0o600),
    ] {
        let found = seen.iter().find(|(seen, _)| seen == path).map(|(_, mode)| *mode);
        assert_eq!(found, Some(expect), "{path}: {:o}", found.unwrap_or(0));
    }
    machine.clean_up().await;
}

/// The files and directories below `dir` with their modes, but for what is in images and containers.
fn walk(root: &Path, dir: &Path, seen: &mut Vec<(String, u32)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        if meta.is_symlink() {
            continue;
        }
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let foreign = name.ends_with("/upper") || name.ends_with("/fs");
        seen.push((name, meta.permissions().mode() & 0o7777));
        if meta.is_dir() && !foreign {
            walk(root, &path, seen);
        }
    }
}
