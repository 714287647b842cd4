//! Security contexts, as /proc shows them.

use kybern_e2e::{Cluster, eventually};

#[test]
fn defaults_are_safe() {
    let namespace = Cluster::get().namespace("secure");
    namespace.apply(&crate::manifests::shell_pod("p", "sleep 3600"));
    namespace.wait("pod/p", "condition=Ready");
    let status = namespace.run(&["exec", "p", "--", "cat", "/proc/1/status"]).ok();
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("").trim().to_owned();
    assert_eq!(field("Seccomp:"), "2", "{status}");
    // The default bounding set: no CAP_SYS_ADMIN.
    let bounding = u64::from_str_radix(&field("CapBnd:"), 16).unwrap();
    assert_eq!(bounding & (1 << 21), 0, "{bounding:x}");
    let refused = namespace.run(&["exec", "p", "--", "mount", "-t", "tmpfs", "none", "/tmp"]).fails();
    assert!(refused.contains("denied") || refused.contains("not permitted"), "{refused}");
    let masked =
        namespace.run(&["exec", "p", "--", "sh", "-c", "cat /proc/kcore | wc -c; echo 1 > /proc/sys/kernel/printk"]);
    assert!(masked.stdout.starts_with("0\n") && masked.stderr.contains("Read-only"), "{masked}");
}

#[test]
fn users_groups_and_capabilities() {
    let namespace = Cluster::get().namespace("users");
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 1
  securityContext:
    runAsUser: 1000
    runAsGroup: 2000
    fsGroup: 3000
    supplementalGroups: [4000]
    sysctls: [{name: net.ipv4.tcp_syncookies, value: '0'}]
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - name: main
    image: busybox
    command: [sleep, '3600']
    volumeMounts: [{name: v, mountPath: /v}]
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}
  - name: root
    image: busybox
    command: [sleep, '3600']
    securityContext: {runAsUser: 0, privileged: true}
",
    );
    namespace.wait("pod/p", "condition=Ready");
    let exec = |container: &str, script: &str| namespace.run(&["exec", "p", "-c", container, "--", "sh", "-c", script]);
    assert_eq!(exec("main", "id -u; id -g; id -G").ok(), "1000\n2000\n2000 3000 4000\n");
    assert_eq!(exec("main", "touch /v/f; stat -c %g /v/f").ok().trim(), "3000");
    assert_eq!(exec("main", "cat /proc/sys/net/ipv4/tcp_syncookies").ok(), "0\n");
    assert!(exec("main", "touch /f").fails().contains("Read-only file system"));
    let status = exec("main", "cat /proc/1/status").ok();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    assert!(status.contains("CapBnd:\t0000000000000400"), "{status}");
    let status = exec("root", "cat /proc/1/status").ok();
    assert!(status.contains("Seccomp:\t0"), "{status}");
    exec("root", "mount -t tmpfs none /tmp && umount /tmp").ok();
}

#[test]
fn run_as_non_root_is_enforced() {
    let namespace = Cluster::get().namespace("nonroot");
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  securityContext: {runAsNonRoot: true}
  containers: [{name: main, image: busybox, command: [sleep, '3600']}]
",
    );
    eventually("the refusal shows", || {
        let waiting = namespace.jsonpath(&["pod", "p"], "{.status.containerStatuses[0].state.waiting}");
        let shown = waiting.contains("CreateContainerConfigError") && waiting.contains("runAsNonRoot");
        if shown { Ok(()) } else { Err(waiting) }
    });
}
