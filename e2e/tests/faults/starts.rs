//! `up` on a host of its own: where it cannot work it says why and what to do, and leaves nothing half-made.

use std::process::Stdio;

use kybern_e2e::{Finished, Scratch, eventually};

/// A failure's text, which holds all of these.
#[track_caller]
fn says(finished: Finished, expect: &[&str]) {
    let text = finished.exits_with(1).fails();
    for part in expect {
        assert!(text.contains(part), "should say {part:?}: {text}");
    }
}

fn signal(pid: u32, signal: &str) {
    let killed = std::process::Command::new("kill").args([signal, &pid.to_string()]).status().expect("kill starts");
    assert!(killed.success());
}

#[test]
fn without_privileges() {
    let host = Scratch::new("rights");
    for command in ["up", "server"] {
        let nobody = host.through_shell("setpriv --reuid=65534 --clear-groups -- \"$@\"", command);
        says(nobody, &["needs root", "sudo"]);
        let bound = host.through_shell("setpriv --bounding-set=-net_admin,-sys_admin -- \"$@\"", command);
        says(bound, &["CAP_NET_ADMIN, CAP_SYS_ADMIN", "root"]);
    }
    assert!(!host.data_dir().exists(), "nothing may be made");
}

#[test]
fn without_cgroups() {
    let host = Scratch::new("cgroups");
    let hidden =
        host.through_shell("exec unshare --mount sh -c 'umount -R /sys/fs/cgroup && exec \"$@\"' sh \"$@\"", "up");
    says(hidden, &["cgroups", "mount -t cgroup2"]);
    let log = host.data_dir().join("server.log");
    assert_eq!(host.files(), [log.display().to_string()], "only the log may be there");
}

#[test]
fn on_a_directory_that_cannot_be_written() {
    let host = Scratch::new("readonly");
    std::fs::create_dir(host.data_dir()).unwrap();
    let script = format!(
        "exec unshare --mount sh -c 'mount --bind {0} {0} && mount -o remount,bind,ro {0} && exec \"$@\"' sh \"$@\"",
        host.data_dir().display()
    );
    for command in ["up", "server"] {
        let data = host.data_dir().display().to_string();
        says(host.through_shell(&script, command), &[&data, "Read-only file system", "can be written"]);
    }
}

#[test]
fn on_a_directory_of_somebody_elses() {
    let host = Scratch::new("foreign");
    std::fs::create_dir(host.data_dir()).unwrap();
    let precious = host.data_dir().join("precious");
    std::fs::write(&precious, "mine").unwrap();
    for command in ["up", "server", "down"] {
        says(host.kybern(command, &[]), &["not a Kybern data directory", "precious", "--data-dir"]);
    }
    assert_eq!(host.files(), [precious.display().to_string()]);

    std::fs::remove_file(precious).unwrap();
    std::fs::create_dir_all(host.data_dir().join("server/db")).unwrap();
    std::fs::write(host.data_dir().join("server/db/state.db"), vec![b'x'; 10_000]).unwrap();
    says(host.kybern("up", &[]), &["state.db", "not a database"]);
}

#[test]
fn with_a_port_in_use() {
    for port in ["6443", "10250"] {
        let host = Scratch::new("port");
        let mut taker = host.on_host(&kybern_e2e::Cluster::get().kybern);
        let mut taker = taker.args(["testapp", "serve", "--port", port]).stdout(Stdio::null()).spawn().unwrap();
        eventually("the port is taken", || {
            let open =
                host.on_host("curl".as_ref()).args(["-s", &format!("http://127.0.0.1:{port}/")]).output().unwrap();
            if open.status.success() { Ok(()) } else { Err("not yet".to_owned()) }
        });
        says(host.kybern("up", &[]), &[&format!(":{port}"), "in use", "ss -ltnp"]);
        let store = host.data_dir().join("server/db");
        assert!(!store.exists(), "{}: nothing may be stored before the ports are there", store.display());
        taker.kill().unwrap();
        taker.wait().unwrap();
        host.kybern("up", &["--no-add-ons"]).ok();
    }
}

#[test]
fn the_server_ends_meanwhile() {
    let host = Scratch::new("ends");
    let up = host.command("up").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let server = host.server_pid();
    signal(server, "-9");
    let output = up.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("(process {server}) ended")) && text.contains("server.log"), "{text}");
    host.kybern("up", &[]).ok();
}

#[test]
fn interrupted_and_asked_again() {
    let host = Scratch::new("again");
    let up = host.command("up").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let server = host.server_pid();
    signal(up.id(), "-INT");
    let output = up.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("goes on in the background") && text.contains(&server.to_string()), "{text}");

    let again = host.kybern("up", &[]).ok();
    assert!(again.contains(&format!("a server is running already (process {server})")), "{again}");
    assert!(again.contains(&format!("export KUBECONFIG={}/admin.kubeconfig", host.data_dir().display())), "{again}");
    says(host.kybern("up", &["--node-name=other"]), &["--node-name=other", "kybern down --keep-data"]);

    assert!(host.kybern("down", &[]).ok().contains("The cluster is gone."));
    assert!(!host.data_dir().exists());
    assert!(host.kybern("down", &[]).ok().contains("There is no cluster"));
}

#[test]
fn with_settings_that_cannot_be() {
    let host = Scratch::new("settings");
    for (flag, expect) in [
        ("--node-ip=203.0.113.9", "not an address of this machine"),
        ("--node-ip=127.0.0.1", "loopback"),
        ("--node-name=Bad_Name", "cannot be a node's name"),
        ("--service-cluster-ip-range=10.96.0.0/31", "too small"),
    ] {
        says(host.kybern("up", &[flag]), &[flag.split('=').next().unwrap(), expect]);
        assert!(!host.data_dir().exists(), "{flag}: nothing may be made");
    }
    std::fs::create_dir(host.data_dir()).unwrap();
    let registries = host.data_dir().join("registries.yaml");
    for (text, expect) in [("mirrors: [", "line 1"), ("mirrorz: {}", "mirrorz")] {
        std::fs::write(&registries, text).unwrap();
        says(host.kybern("up", &[]), &[&registries.display().to_string(), expect]);
    }
    assert!(!host.data_dir().join("server").exists(), "nothing may be stored");
}
