//! `up` and `down`, in every order.

use kybern_e2e::{Cluster, Namespace, eventually};

fn down_keeping_data(cluster: &Cluster) {
    let output = cluster.kybern("down").arg("--keep-data").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn pods(namespace: &Namespace) -> String {
    let path = "{range .items[*]}{.metadata.name} {.metadata.uid} {.status.phase}\n{end}";
    namespace.jsonpath(&["pods"], path)
}

/// Everything in the namespace answers.
fn works(namespace: &Namespace) {
    let cluster = namespace.cluster;
    namespace.run(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    let url = format!("http://{}/", namespace.jsonpath(&["service", "web"], "{.spec.clusterIP}"));
    eventually("the Service answers", || cluster.fetch(&url));
    assert_eq!(namespace.jsonpath(&["configmap", "kept"], "{.data.a}"), "b");
}

#[test]
fn up_finds_what_is_there() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("cycle");
    namespace.run(&["create", "configmap", "kept", "--from-literal=a=b"]).ok();
    namespace.run(&["create", "deployment", "web", "--image=nginx:1.14", "--replicas=2"]).ok();
    namespace.run(&["expose", "deployment", "web", "--port=80"]).ok();
    works(&namespace);
    let before = pods(&namespace);

    let server = cluster.server_pid();
    cluster.up();
    assert_eq!(cluster.server_pid(), server, "a running server stays");

    down_keeping_data(cluster);
    // A process that nobody has reaped yet has no program.
    let program = std::path::Path::new("/proc").join(server.to_string()).join("exe");
    assert!(!program.exists(), "the server must be gone");
    cluster.up();
    works(&namespace);
    assert_eq!(pods(&namespace), before, "the same pods run again");

    // Nothing to stop: what a crash leaves is removed, too.
    cluster.crash_server();
    down_keeping_data(cluster);
    down_keeping_data(cluster);
    cluster.up();
    works(&namespace);
    assert_eq!(pods(&namespace), before, "the same pods run again");
}
