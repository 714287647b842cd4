//! Single containers: what their processes see and may do, and how they end.

use std::time::{Duration, Instant};

use kybern_cri::*;

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
             busybox head -c 4 /dev/zero | busybox wc -c; busybox ls /sys/class/net",
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
    assert!(output.contains("\n1777\n1777\n0\n") && output.ends_with("null\n4\nlo\n"), "{output}");
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

pub(crate) async fn start_is_fast() {
    let node = Node::new().await;
    let mut times = Vec::new();
    for i in 0..10 {
        let pod = node.pod(&format!("fast-{i}"));
        let started = Instant::now();
        let sandbox = node.sandbox(&pod).await;
        let sandboxed = started.elapsed();
        node.start(&sandbox, node.shell("main", "busybox sleep 60")).await;
        times.push((started.elapsed(), sandboxed));
        node.service().remove_pod_sandbox(&sandbox).await.unwrap();
    }
    times.sort();
    let (total, sandbox) = times[times.len() / 2];
    println!(
        "  sandbox and container start: p50 {} ms, of which the sandbox {} ms",
        total.as_millis(),
        sandbox.as_millis()
    );
    assert!(total < Duration::from_millis(250), "{times:?}");
    node.finish().await;
}
