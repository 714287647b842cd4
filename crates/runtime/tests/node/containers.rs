//! Single containers: what their processes see and may do, and how they end.

use std::time::{Duration, Instant};

use kybern_cri::*;
use kybern_linux::cgroup::Cgroups;

use crate::fixture::Node;

pub(crate) async fn what_a_process_sees() {
    let node = Node::new().await;
    let (_, output) = node
        .run(
            |pod, container| {
                pod.hostname = "web-0".into();
                container.working_dir = "/work/deep".into();
                container.envs.push(("GREETING".into(), "hi there".into()));
                container.args = vec!["name".into(), "first".into()];
            },
            "echo $0 $1; pwd; echo $GREETING; echo $HOSTNAME $HOME; busybox cat /etc/hostname /etc/resolv.conf; echo $$; \
             busybox ls /dev; busybox stat -c %a /dev/shm /tmp; busybox cat /proc/self/oom_score_adj; \
             busybox grep -c ' / overlay ' /proc/mounts || busybox grep -c overlay /proc/mounts; echo x > /dev/null && echo null; \
             busybox head -c 4 /dev/zero | busybox wc -c; busybox ls /sys/class/net; \
             busybox grep THP_enabled /proc/self/status",
        )
        .await;
    let expect_start = "name first\n/work/deep\nhi there\nweb-0 /root\nweb-0\nnameserver 10.96.0.10\n1\n";
    assert!(output.starts_with(expect_start), "{output}");
    for word in [
        "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
        "zero",
    ] {
        assert!(output.lines().any(|line| line == word), "/dev/{word} in {output}");
    }
    assert!(output.contains("\n1777\n1777\n0\n") && output.ends_with("null\n4\nlo\nTHP_enabled:\t1\n"), "{output}");
    node.finish().await;
}

/// As with containerd 2 and Docker; the pod's own sysctls have the last word, and the host's network is left alone.
pub(crate) async fn any_user_listens_and_pings() {
    let node = Node::new().await;
    let script = "cd /proc/sys/net/ipv4; busybox cat ip_unprivileged_port_start ping_group_range | busybox tr '\\t' ' '; \
                  (busybox timeout 1 busybox nc -l -p 80; echo $?) 2>/dev/null";
    let as_user = |container: &mut ContainerConfig| {
        container.security.run_as_user = Some(1000);
        container.security.capabilities.drop = vec!["ALL".into()];
    };
    let (_, output) = node.run(|_, container| as_user(container), script).await;
    // 143: it listened until it was told to end.
    assert!(output.starts_with("0\n0 2147483647\n143\n"), "{output}");
    let own = |pod: &mut PodSandboxConfig, container: &mut ContainerConfig| {
        as_user(container);
        pod.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "1000".into());
        pod.sysctls.insert("net.ipv4.ping_group_range".into(), "1 0".into());
    };
    let (_, output) = node.run(own, script).await;
    assert!(output.starts_with("1000\n1 0\n") && !output.contains("143"), "{output}");
    let host = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let (_, output) = node
        .run(
            |pod, container| {
                pod.namespaces.network = NamespaceMode::Node;
                container.security.namespaces.network = NamespaceMode::Node;
            },
            "busybox cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
        )
        .await;
    assert_eq!(output, host);
    assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap(), host);
    node.finish().await;
}

pub(crate) async fn confinement() {
    let node = Node::new().await;
    let script = "busybox grep -E '^(Seccomp|NoNewPrivs|CapEff|CapBnd|CapPrm|CapInh|CapAmb):' /proc/self/status; \
                  busybox mount -t tmpfs x /tmp 2>&1; busybox cat /proc/interrupts 2>&1 | busybox wc -c; \
                  echo 1 > /proc/sys/kernel/hostname 2>&1; (echo x > /new) 2>&1 && echo wrote; busybox unshare -n true 2>&1; \
                  busybox mknod /tmp/disk b 254 0 && busybox head -c 1 /tmp/disk 2>&1";
    let field = |output: &str, name: &str| {
        let line = output.lines().find(|l| l.starts_with(&format!("{name}:")));
        line.unwrap_or_else(|| panic!("{name} in {output}")).split_whitespace().nth(1).unwrap().to_owned()
    };
    let (_, output) = node.run(|_, _| {}, script).await;
    assert_eq!(field(&output, "Seccomp"), "2");
    assert_eq!(field(&output, "NoNewPrivs"), "0");
    for (name, expect) in [
        ("CapEff", "00000000a80425fb"),
        ("CapBnd", "00000000a80425fb"),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
    ] {
        assert_eq!(field(&output, name), expect, "{name}");
    }
    assert!(output.contains("mount: permission denied") || output.contains("Operation not permitted"), "{output}");
    assert!(output.contains("Read-only file system") && output.contains("wrote"), "{output}");
    assert!(output.lines().any(|line| line == "0"), "interrupts are masked: {output}");
    assert!(output.contains("unshare(0x40000000): Operation not permitted"), "{output}");
    assert!(output.trim_end().ends_with("Operation not permitted"), "no disk: {output}");

    let (_, output) = node
        .run(
            |_, container| {
                let security = &mut container.security;
                security.capabilities = Capabilities { add: vec!["NET_BIND_SERVICE".into()], drop: vec!["ALL".into()] };
                security.no_new_privs = true;
                security.readonly_rootfs = true;
                security.run_as_user = Some(1000);
            },
            script,
        )
        .await;
    assert_eq!(field(&output, "NoNewPrivs"), "1");
    assert_eq!(field(&output, "Seccomp"), "2");
    assert_eq!(
        (field(&output, "CapBnd"), field(&output, "CapEff")),
        ("0000000000000400".into(), "0000000000000000".into())
    );
    assert!(output.contains("can't create /new: Read-only file system") && !output.contains("wrote"), "{output}");

    let (_, output) = node.run(|_, container| container.security.privileged = true, script).await;
    assert_eq!(field(&output, "Seccomp"), "0");
    assert!(field(&output, "CapEff").ends_with("ffffff"), "{output}");
    assert!(!output.contains("mount:") && output.contains("wrote"), "{output}");

    let (_, output) = node.run(|_, container| container.security.seccomp = SecurityProfile::Unconfined, script).await;
    assert_eq!(field(&output, "Seccomp"), "0");

    let profile = node.dir.join("profile.json");
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":122}]}"#;
    std::fs::write(&profile, text).unwrap();
    let localhost = SecurityProfile::Localhost(profile.display().to_string());
    let (_, output) = node.run(|_, container| container.security.seccomp = localhost, "busybox mkdir /x 2>&1").await;
    assert!(output.contains("Disk quota exceeded"), "the profile's own errno: {output}");
    node.finish().await;
}

pub(crate) async fn users_and_groups() {
    let node = Node::new().await;
    let script = "busybox id -u; busybox id -g; busybox id -G; echo $HOME; echo x > /dev/stdout";
    let (status, output) = node.run(|_, _| {}, script).await;
    assert_eq!(output, "0\n0\n0\n/root\nx\n");
    assert_eq!((status.uid, status.gid), (0, 0));
    let (status, output) = node
        .run(
            |_, container| {
                container.security.run_as_user = Some(1234);
                container.security.run_as_group = Some(2345);
                container.security.supplemental_groups = vec![3456, 4567];
            },
            script,
        )
        .await;
    assert_eq!(output, "1234\n2345\n2345 3456 4567\n/\nx\n");
    assert_eq!((status.uid, status.gid), (1234, 2345));
    let (_, output) = node.run(|_, container| container.security.run_as_username = "nobody".into(), script).await;
    assert_eq!(output, "65534\n65534\n65534\n/\nx\n");
    node.finish().await;
}

pub(crate) async fn mounts() {
    let node = Node::new().await;
    let source = node.dir.join("volume");
    std::fs::create_dir_all(source.join("sub")).unwrap();
    std::fs::write(source.join("file"), "content\n").unwrap();
    std::fs::write(node.dir.join("single"), "one file\n").unwrap();
    let mount = |inside: &str, host: std::path::PathBuf, readonly| Mount {
        container_path: inside.into(),
        host_path: host.display().to_string(),
        readonly,
        ..Default::default()
    };
    let mounts = vec![
        mount("/data/sub", source.join("sub"), false),
        mount("/data", source.clone(), true),
        mount("/etc/single.conf", node.dir.join("single"), true),
        mount("/made", node.dir.join("not/there"), false),
    ];
    let (_, output) = node
        .run(
            |_, container| container.mounts.extend(mounts),
            "busybox cat /data/file /etc/single.conf; (echo x > /data/file) 2>&1; echo new > /data/sub/f && echo wrote; \
             (echo x > /etc/single.conf) 2>&1; echo y > /made/f",
        )
        .await;
    assert!(output.starts_with("content\none file\n"), "{output}");
    assert!(output.contains("can't create /data/file: Read-only") && output.contains("wrote"), "{output}");
    assert!(output.contains("can't create /etc/single.conf: Read-only"), "{output}");
    assert_eq!(std::fs::read_to_string(source.join("sub/f")).unwrap(), "new\n");
    assert_eq!(std::fs::read_to_string(node.dir.join("not/there/f")).unwrap(), "y\n");
    node.finish().await;
}

pub(crate) async fn mount_propagation() {
    use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
    let node = Node::new().await;
    let shared = node.dir.join("shared");
    for sub in ["", "from-host", "from-container"] {
        std::fs::create_dir_all(shared.join(sub)).unwrap();
        if sub.is_empty() {
            mount("t", &shared, "tmpfs", MountFlags::empty(), None).unwrap();
            mount_change(&shared, MountPropagationFlags::SHARED).unwrap();
        }
    }
    let sandbox = node.sandbox(&node.pod("propagation")).await;
    let mut ids = Vec::new();
    for (name, propagation) in [
        ("both", MountPropagation::Bidirectional),
        ("down", MountPropagation::HostToContainer),
        ("none", MountPropagation::Private),
    ] {
        let mut config = node.shell(name, "busybox sleep 600");
        config.security.privileged = true;
        config.mounts.push(Mount {
            container_path: "/shared".into(),
            host_path: shared.display().to_string(),
            propagation,
            ..Default::default()
        });
        ids.push(node.start(&sandbox, config).await);
    }
    mount("t", shared.join("from-host"), "tmpfs", MountFlags::empty(), None).unwrap();
    std::fs::write(shared.join("from-host/file"), "x").unwrap();
    let sh = |script: &str| ["/bin/busybox", "sh", "-c", script].map(str::to_owned).into();
    for (id, expect) in ids.iter().zip([0, 0, 1]) {
        let seen = node.service().exec_sync(id, sh("[ -e /shared/from-host/file ]"), None).await.unwrap();
        assert_eq!(seen.exit_code, expect);
    }
    let script = "busybox mount -t tmpfs t /shared/from-container && echo x > /shared/from-container/file";
    for (id, expect) in ids.iter().zip([true, false, false]) {
        node.service().exec_sync(id, sh(script), None).await.unwrap();
        assert_eq!(shared.join("from-container/file").exists(), expect);
        let _ = unmount(shared.join("from-container"), UnmountFlags::DETACH);
        let _ = std::fs::remove_file(shared.join("from-container/file"));
    }
    node.service().remove_pod_sandbox(&sandbox).await.unwrap();
    for path in [shared.join("from-host"), shared] {
        unmount(&path, UnmountFlags::DETACH).unwrap();
    }
    node.finish().await;
}

pub(crate) async fn resources() {
    let node = Node::new().await;
    let pod = node.pod("resources");
    let sandbox = node.sandbox(&pod).await;
    let mut config = node.shell("main", "busybox sleep 600");
    config.resources = LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 20_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 << 20,
        pids_limit: 50,
        oom_score_adj: 900,
        ..Default::default()
    };
    let id = node.start(&sandbox, config).await;
    let cgroups = Cgroups::detect().unwrap();
    let read = |controller: &str, v1: &str, v2: &str| {
        let file = if matches!(cgroups, Cgroups::V1(_)) { v1 } else { v2 };
        let dir = cgroups.directory(controller, &format!("{}/{id}", pod.cgroup_parent)).unwrap();
        std::fs::read_to_string(dir.join(file)).unwrap().trim().to_owned()
    };
    assert_eq!(read("memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(read("pids", "pids.max", "pids.max"), "50");
    let cpu = read("cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(cpu == "20000" || cpu == "20000 100000", "{cpu}");
    let update = LinuxContainerResources { memory_limit_in_bytes: 96 << 20, cpu_quota: -1, ..Default::default() };
    node.service().update_container_resources(&id, update).await.unwrap();
    assert_eq!(read("memory", "memory.limit_in_bytes", "memory.max"), (96 << 20).to_string());
    assert_eq!(read("pids", "pids.max", "pids.max"), "50", "what was not named stays");
    let score = ["/bin/busybox", "cat", "/proc/1/oom_score_adj"].map(str::to_owned).into();
    assert_eq!(node.service().exec_sync(&id, score, None).await.unwrap().stdout, b"900\n");
    node.finish().await;
}

/// The filter is a program for the unified hierarchy, which a v1 machine has beside the others.
pub(crate) async fn device_filter_of_cgroup_v2() {
    use kybern_linux::cgroup::{DeviceRule, Resources};
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let unified = kybern_linux::mount::parse_mountinfo(&mounts).into_iter().find(|m| m.fs_type == "cgroup2");
    let Some(unified) = unified else {
        kybern_testbed::not_run("containers::device_filter_of_cgroup_v2", "no cgroup2 hierarchy is mounted");
        return;
    };
    let cgroups = Cgroups::V2(unified.mount_point.into());
    let group = format!("/kybern-device-test-{}", std::process::id());
    let rules = vec![DeviceRule::character(1, Some(3))];
    cgroups.create(&group, &Resources { devices: Some(rules), ..Default::default() }).unwrap();
    let script = "read go; echo x > /dev/null && echo null; busybox head -c 1 /dev/zero | busybox wc -c";
    let mut child = std::process::Command::new("/bin/busybox")
        .args(["sh", "-c", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    cgroups.add_process(&group, child.id() as i32).unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"\n").unwrap();
    let output = child.wait_with_output().unwrap();
    cgroups.remove(&group).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "null\n0\n");
}

pub(crate) async fn start_errors_are_upstreams() {
    let node = Node::new().await;
    let sandbox = node.sandbox(&node.pod("errors")).await;
    for (command, text) in [
        ("nosuch", "exec: \"nosuch\": executable file not found in $PATH"),
        ("/nosuch", "exec: \"/nosuch\": stat /nosuch: no such file or directory"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
    ] {
        let mut config = node.shell("bad", "");
        config.command = vec![command.into()];
        let id = node.service().create_container(&sandbox, config, PodSandboxConfig::default()).await.unwrap();
        let error = node.service().start_container(&id).await.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
        let status = node.status(&id).await;
        assert_eq!(
            (status.container.state, status.exit_code, status.reason.as_str()),
            (ContainerState::Exited, 128, "StartError")
        );
        assert!(status.message.contains(text));
        node.service().remove_container(&id).await.unwrap();
    }
    let mut config = node.shell("absent", "");
    config.image.image = "no.such/image:1".into();
    let error = node.service().create_container(&sandbox, config, PodSandboxConfig::default()).await.unwrap_err();
    assert!(matches!(error, CriError::NotFound(_)), "{error}");
    node.finish().await;
}

pub(crate) async fn stopping() {
    let node = Node::new().await;
    let sandbox = node.sandbox(&node.pod("stop")).await;
    let polite = "trap 'echo bye; exit 0' TERM; while :; do busybox sleep 0.05; done";
    let id = node.start(&sandbox, node.shell("polite", polite)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    node.service().stop_container(&id, Duration::from_secs(20)).await.unwrap();
    let status = node.status(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    assert_eq!(node.output(&id).await, "bye\n");
    let started = Instant::now();
    let id = node.start(&sandbox, node.shell("stubborn", "trap '' TERM; while :; do busybox sleep 0.05; done")).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    node.service().stop_container(&id, Duration::from_millis(300)).await.unwrap();
    assert_eq!(node.status(&id).await.exit_code, 137);
    assert!(started.elapsed() < Duration::from_secs(5));
    node.service().stop_container(&id, Duration::from_secs(1)).await.unwrap();
    let mut config = node.shell("quit", "trap 'exit 42' QUIT; while :; do busybox sleep 0.05; done");
    config.stop_signal = "SIGQUIT".into();
    let id = node.start(&sandbox, config).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    node.service().stop_container(&id, Duration::from_secs(20)).await.unwrap();
    assert_eq!(node.status(&id).await.exit_code, 42);
    node.finish().await;
}

pub(crate) async fn out_of_memory() {
    let node = Node::new().await;
    let (status, _) = node
        .run(
            |_, container| container.resources.memory_limit_in_bytes = 16 << 20,
            "x=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; while :; do x=$x$x; done",
        )
        .await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    node.finish().await;
}

pub(crate) async fn many_at_once() {
    let node = Node::new().await;
    let pods = (0..20).map(|i| {
        let node = &node;
        async move {
            let sandbox = node.sandbox(&node.pod(&format!("many-{i}"))).await;
            node.start(&sandbox, node.shell("main", "busybox sleep 60")).await
        }
    });
    let ids = futures_util::future::join_all(pods).await;
    for id in ids {
        assert_eq!(node.status(&id).await.container.state, ContainerState::Running);
    }
    node.finish().await;
}
