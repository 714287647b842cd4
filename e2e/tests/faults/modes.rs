//! What a cluster makes that was started without a umask: nothing that others can write, and no secret that they can read.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kybern_e2e::{Cluster, Scratch, eventually};

const PODS: &str = "
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {key: hidden}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {key: shown}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: busy}
spec:
  replicas: 2
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      terminationGracePeriodSeconds: 1
      volumes:
      - {name: secret, secret: {secretName: s}}
      - {name: config, configMap: {name: c}}
      - {name: memory, emptyDir: {medium: Memory}}
      - {name: disk, emptyDir: {}}
      - {name: host, hostPath: {path: FOLDER/host/deep, type: DirectoryOrCreate}}
      containers:
      - name: c
        image: IMAGE
        command: [/kybern, testapp, serve]
        volumeMounts:
        - {name: secret, mountPath: /secret}
        - {name: config, mountPath: /config}
        - {name: config, mountPath: /one, subPath: key}
        - {name: memory, mountPath: /memory}
        - {name: disk, mountPath: /disk, subPath: a/b}
        - {name: host, mountPath: /host}
";

/// Whether others may write there: volumes that are meant for all, what containers write, and what images hold.
fn is_open(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["data", "kubelet", "pods", _, "volumes", kind, _, rest @ ..] => {
            rest.is_empty() || *kind == "kubernetes.io~empty-dir"
        }
        ["data", "kubelet", "pods", _, "volume-subpaths", _, _, _, ..] => true,
        ["data", "kubelet", "pods", _, "containers", _, last_words] => last_words.parse::<u32>().is_ok(),
        ["run", "runtime", "sandboxes", _, "shm"] => true,
        _ => false,
    }
}

/// What others must not even read.
fn is_secret(path: &str) -> bool {
    let secret = ["admin.kubeconfig", "server/db", "server/pki", "kubelet/pki", "server.log"];
    let readable = path.ends_with(".crt") || path.ends_with(".pub");
    secret.iter().any(|name| path.starts_with(&format!("data/{name}"))) && !readable
}

fn walk(root: &Path, dir: &Path, wrong: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        // Pods come and go meanwhile.
        let (path, Ok(meta)) = (entry.path(), entry.path().symlink_metadata()) else { continue };
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let mode = meta.permissions().mode() & 0o7777;
        // A secret lies behind a directory that nobody else enters.
        let forbidden = if is_secret(&name) && !meta.is_dir() { 0o077 } else { 0o022 };
        let exempt = meta.is_symlink() || is_open(&name);
        if mode & forbidden != 0 && !exempt {
            wrong.push(format!("{name} {mode:o}"));
        }
        // What is in images and layers is theirs.
        if meta.is_dir() && !["/fs", "/upper", "/work"].iter().any(|end| name.ends_with(end)) {
            walk(root, &path, wrong);
        }
    }
}

#[test]
fn what_a_cluster_makes_is_not_open() {
    let host = Scratch::new("modes");
    host.through_shell("umask 000; exec \"$@\" --no-add-ons", "up").ok();
    let kubectl = |arguments: &[&str]| {
        let mut command = host.on_host(Cluster::get().kubectls.last().unwrap());
        command.arg("--kubeconfig").arg(host.data_dir().join("admin.kubeconfig")).args(arguments);
        let output = command.env("HOME", host.home()).output().expect("kubectl starts");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let version = std::process::Command::new(&Cluster::get().kybern).arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let image = format!("kybern.local/kybern:{}", version.trim().rsplit(' ').next().unwrap());
    let pods = PODS.replace("IMAGE", &image).replace("FOLDER", &host.folder.display().to_string());
    let file = host.home().join("pods.yaml");
    std::fs::create_dir_all(host.home()).unwrap();
    std::fs::write(&file, pods).unwrap();
    kubectl(&["apply", "-f", &file.display().to_string()]);
    kubectl(&["rollout", "status", "deployment/busy", "--timeout=90s"]);
    // Some that go while others start.
    kubectl(&["delete", "pods", "--all", "--force", "--grace-period=0"]);
    kubectl(&["scale", "deployment/busy", "--replicas=4"]);
    kubectl(&["rollout", "status", "deployment/busy", "--timeout=90s"]);
    let mut wrong = Vec::new();
    walk(&host.folder, &host.folder, &mut wrong);
    wrong.retain(|name| !name.starts_with("home"));
    assert!(wrong.is_empty(), "{wrong:#?}");
    let mode = |path: &str| host.folder.join(path).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("host"), mode("host/deep"), mode("data"), mode("run")), (0o755, 0o755, 0o700, 0o700));
    host.kybern("down", &[]).ok();
    eventually("nothing is left", || {
        let left = host.left();
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
}
