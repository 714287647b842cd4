//! Starts that cannot work say why, and change nothing.

use std::net::TcpListener;

use kybern_e2e::Cluster;

#[test]
fn a_second_server_on_the_same_data_refuses() {
    let cluster = Cluster::get();
    let output = cluster.kybern("server").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    let pid = cluster.server_pid().to_string();
    assert!(text.contains(&pid) && text.contains(&cluster.data_dir.display().to_string()), "{text}");
    cluster.kubectl().run(&["get", "nodes"]).ok();
}

#[test]
fn a_port_in_use_is_named() {
    let cluster = Cluster::get();
    // On the machine's loopback, outside the node's namespace.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let data = std::env::temp_dir().join(format!("kybern-port-{}", std::process::id()));
    let mut command = std::process::Command::new(&cluster.kybern);
    command.args(["kube-apiserver", "--bind-address", "127.0.0.1", "--secure-port", &port, "--data-dir"]).arg(&data);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(text.contains(&port) && text.to_lowercase().contains("in use"), "{text}");
    let _ = std::fs::remove_dir_all(data);
}

#[test]
fn bad_flags_and_files_are_named() {
    let cluster = Cluster::get();
    let fails = |arguments: &[&str]| {
        let output = std::process::Command::new(&cluster.kybern).args(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?} should fail");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(fails(&["serve"]).contains("serve"));
    assert!(fails(&["kube-proxy", "--config", "/nonexistent/config.conf"]).contains("/nonexistent/config.conf"));
    assert!(fails(&["coredns", "-conf", "/nonexistent/Corefile"]).contains("/nonexistent/Corefile"));
}
