//! Two clusters on one machine: each keeps to what is its own, whatever flags are given.

use std::path::Path;
use std::process::Command;

use kybern_e2e::{Cluster, Finished, Scratch, eventually};

/// `kybern COMMAND` on a host, with a cluster's directories but for these.
fn kybern(host: &Scratch, command: &str, directories: &Scratch, but: &[String]) -> Finished {
    let name = |flag: &str| flag.split_once('=').map(|(name, _)| name.to_owned());
    let kept = directories.directories().into_iter().filter(|flag| !but.iter().any(|other| name(other) == name(flag)));
    let flags: Vec<String> = kept.chain(but.iter().cloned()).collect();
    let mut kybern = host.on_host(&Cluster::get().kybern);
    kybern.arg(command).args(&flags);
    if command == "up" {
        kybern.arg("--no-add-ons");
    }
    Finished::new(format!("kybern {command} {}", flags.join(" ")), kybern.output().expect("kybern starts"))
}

fn kubectl(of: &Scratch, arguments: &[&str]) -> Finished {
    let mut command = of.on_host(Cluster::get().kubectls.last().unwrap());
    command.arg("--kubeconfig").arg(of.data_dir().join("admin.kubeconfig")).args(arguments).env("HOME", of.home());
    Finished::new(format!("kubectl {}", arguments.join(" ")), command.output().expect("kubectl starts"))
}

fn image() -> String {
    let version = Command::new(&Cluster::get().kybern).arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    format!("--image=kybern.local/kybern:{}", version.trim().rsplit(' ').next().unwrap())
}

/// A pod that has every kind of thing on the node, and its container.
fn pod(of: &Scratch) -> String {
    kubectl(of, &["create", "deployment", "web", &image(), "--", "/kybern", "testapp", "serve"]).ok();
    kubectl(of, &["rollout", "status", "deployment/web", "--timeout=90s"]).ok();
    container(of)
}

fn container(of: &Scratch) -> String {
    kubectl(of, &["get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].containerID}"]).ok()
}

fn serves(of: &Scratch) {
    let address = kubectl(of, &["get", "pods", "-o", "jsonpath={.items[0].status.podIP}"]).ok();
    let url = format!("http://{address}:8080/");
    eventually("the pod answers", || {
        let page = of.on_host(Path::new("curl")).args(["-sf", "--max-time", "5", &url]).output().unwrap();
        if page.status.success() { Ok(()) } else { Err(url.clone()) }
    });
}

#[test]
fn each_keeps_to_its_own() {
    let (one, two) = (Scratch::new("one"), Scratch::new("two"));
    kybern(&one, "up", &one, &[]).ok();
    let first = pod(&one);

    // What is the first's is refused, by the flag that solves it, and nothing is made.
    let of_one = |flag: &str| one.directories().into_iter().find(|other| other.starts_with(flag)).unwrap();
    let inside = format!("--data-dir={}", one.data_dir().join("kubelet/other").display());
    let cases = [
        (&two, vec![of_one("--run-dir=")], "name another with --run-dir"),
        (&two, vec![of_one("--cgroup-root=")], "name another root with --cgroup-root"),
        (
            &two,
            vec![format!("{}/kubepods/burstable", of_one("--cgroup-root="))],
            "name another root with --cgroup-root",
        ),
        (&two, vec![of_one("--cni-conf-dir=")], "name another with --cni-conf-dir"),
        (&two, vec![inside], "name another with --data-dir"),
        (&one, vec![], "start this one in another (ip netns add NAME;"),
    ];
    let data = format!("--data-dir={}", one.data_dir().display());
    for (host, but, cure) in cases {
        let refused = kybern(host, "up", &two, &but).exits_with(1);
        assert!(
            refused.stderr.contains(cure) && refused.stderr.contains(&format!("`kybern down {data}`")),
            "{refused}"
        );
        assert_eq!(two.left(), [""; 0], "{refused}");
    }
    let other_root = kybern(&two, "up", &one, &["--cgroup-root=/elsewhere".to_owned()]).exits_with(1);
    assert!(other_root.stderr.contains("--cgroup-root=/elsewhere"), "{other_root}");
    assert_eq!(container(&one), first, "the first goes on");

    // They may share the directory of logs.
    kybern(&two, "up", &two, &[of_one("--pod-logs-dir=")]).ok();
    let second = pod(&two);
    assert_eq!((container(&one), container(&two)), (first, second.clone()));
    serves(&one);
    serves(&two);

    // `down` of one, as wrong as it can be called: from the other's network, with the other's directories, after a crash.
    let pid = one.server_pid().to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    kybern(&two, "down", &two, &[data]).ok();
    assert_eq!(one.left_but_for(&two), [""; 0]);
    assert_eq!(container(&two), second, "the second does not notice");
    serves(&two);
    let logs = kubectl(&two, &["logs", "deployment/web"]);
    assert_eq!(logs.code, Some(0), "its logs are there: {logs}");

    // The first comes back beside it, and goes again: a `down` that has nothing to do with it takes nothing away.
    kybern(&one, "up", &one, &[]).ok();
    let again = pod(&one);
    kybern(&one, "down", &two, &[]).ok();
    assert_eq!(two.left(), [""; 0]);
    assert_eq!(container(&one), again);
    serves(&one);
    kybern(&two, "down", &one, &[]).ok();
    assert_eq!(one.left(), [""; 0]);
}
