//! logs, exec, cp, port-forward and attach: over WebSocket with the newest kubectl, over SPDY with the oldest.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use kybern_e2e::{Cluster, eventually};

use crate::manifests::{nginx_deployment, shell_pod};

#[test]
fn logs() {
    let namespace = Cluster::get().namespace("logs");
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: two}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: a
    image: busybox
    command: [sh, -c, 'for i in 1 2 3 4 5; do echo a$i; done; sleep 3600']
  - name: b
    image: busybox
    command: [sh, -c, 'i=0; while true; do i=$((i+1)); echo b$i; sleep 0.2; done']
",
    );
    namespace.wait("pod/two", "condition=Ready");
    eventually("all lines are there", || {
        let text = namespace.run(&["logs", "two", "-c", "a"]).ok();
        if text == "a1\na2\na3\na4\na5\n" { Ok(()) } else { Err(text) }
    });
    assert_eq!(namespace.run(&["logs", "two", "-c", "a", "--tail=2"]).ok(), "a4\na5\n");
    assert!(namespace.run(&["logs", "two", "-c", "b", "--since=1s"]).ok().lines().count() <= 20);
    let labelled = namespace.run(&["logs", "-l", "app=two", "--all-containers", "--prefix", "--tail=1"]).ok();
    assert!(labelled.contains("[pod/two/a] a5"), "{labelled}");
    let stamped = namespace.run(&["logs", "two", "-c", "a", "--timestamps", "--tail=1"]).ok();
    assert!(stamped.starts_with("20") && stamped.ends_with("a5\n"), "{stamped}");
    assert_eq!(namespace.run(&["logs", "two", "-c", "a", "--limit-bytes=4"]).ok(), "a1\na");
    assert_eq!(namespace.run(&["logs", "two", "-c", "a", "--since-time=2099-01-01T00:00:00Z"]).ok(), "");
    assert!(namespace.run(&["logs", "two", "-c", "a", "--since-time=2020-01-01T00:00:00Z"]).ok().starts_with("a1\n"));
    let mut following = namespace.command(&["logs", "-f", "two", "-c", "b"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines: Vec<String> =
        BufReader::new(following.stdout.take().unwrap()).lines().take(12).map(Result::unwrap).collect();
    assert_eq!(lines[0], "b1");
    assert_eq!(lines.len(), 12, "the stream ended early");
    following.kill().unwrap();
    following.wait().unwrap();
    let missing = namespace.run(&["logs", "two", "-c", "nonsense"]).fails();
    assert!(missing.contains("container nonsense is not valid for pod two"), "{missing}");
}

#[test]
fn logs_of_the_container_before() {
    let namespace = Cluster::get().namespace("previous");
    namespace.apply(&shell_pod("again", "echo run $(cat /proc/uptime | cut -d. -f1); sleep 1; exit 1"));
    eventually("it has restarted", || {
        let count = namespace.jsonpath(&["pod", "again"], "{.status.containerStatuses[0].restartCount}");
        if count.parse::<u32>().unwrap_or(0) >= 1 { Ok(()) } else { Err(count) }
    });
    assert!(namespace.run(&["logs", "again", "--previous"]).ok().starts_with("run "));
}

#[test]
fn exec_carries_streams_and_exit_codes() {
    for kubectl in Cluster::get().newest_and_oldest() {
        let namespace = kubectl.namespace("exec");
        namespace.apply(&shell_pod("box", "sleep 3600"));
        namespace.wait("pod/box", "condition=Ready");
        let exec = |script: &str| namespace.run(&["exec", "box", "--", "sh", "-c", script]);
        let both = exec("echo out; echo err >&2; exit 3").exits_with(3);
        assert_eq!(both.stdout, "out\n", "{both}");
        assert!(both.stderr.starts_with("err\n"), "{both}");
        let echoed = namespace.run_with_input(&["exec", "-i", "box", "--", "cat"], "through and back").ok();
        assert_eq!(echoed, "through and back");
        // More than any buffer on the way holds.
        let large = exec("head -c 3000000 /dev/zero | tr '\\0' x").ok();
        assert_eq!(large.len(), 3_000_000);
        let missing = namespace.run(&["exec", "box", "--", "no-such-program"]);
        assert!(missing.code != Some(0) && missing.stderr.contains("no-such-program"), "{missing}");
        // A terminal of kubectl's own, 100 columns wide.
        let script = format!(
            "stty cols 100 rows 30; nsenter --net={} {} --kubeconfig {} -n {} exec -it box -- sh -c 'stty size; exit 4'; echo code $?",
            namespace.cluster.node_netns.display(),
            namespace.program.display(),
            namespace.cluster.kubeconfig.display(),
            namespace.name
        );
        let output = std::process::Command::new("script")
            .args(["-qec", &script, "/dev/null"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let seen = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(seen.contains("30 100"), "window size: {seen}");
        assert!(seen.contains("code 4"), "exit code: {seen}");
    }
}

#[test]
fn copies_both_ways() {
    for kubectl in Cluster::get().newest_and_oldest() {
        let namespace = kubectl.namespace("cp");
        namespace.apply(&shell_pod("box", "sleep 3600"));
        namespace.wait("pod/box", "condition=Ready");
        let folder = std::env::temp_dir().join(&namespace.name);
        std::fs::create_dir_all(folder.join("tree/inner")).unwrap();
        let content: Vec<u8> = (0..500_000_u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(folder.join("tree/inner/data"), &content).unwrap();
        std::os::unix::fs::symlink("inner/data", folder.join("tree/link")).unwrap();
        let path = |name: &str| folder.join(name).display().to_string();
        namespace.run(&["cp", &path("tree"), "box:/tmp/tree"]).ok();
        namespace.run(&["cp", "box:/tmp/tree", &path("back")]).ok();
        assert_eq!(std::fs::read(folder.join("back/inner/data")).unwrap(), content);
        let link = namespace.run(&["exec", "box", "--", "readlink", "/tmp/tree/link"]).ok();
        assert_eq!(link, "inner/data\n", "links are copied as links");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn port_forward_to_pod_and_service() {
    let cluster = Cluster::get();
    for kubectl in cluster.newest_and_oldest() {
        let namespace = kubectl.namespace("forward");
        namespace.apply(&nginx_deployment("web", "nginx:1.14", 1));
        namespace.run(&["expose", "deployment", "web", "--port=8000", "--target-port=80"]).ok();
        namespace.run(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
        let pod = namespace.run(&["get", "pods", "-o", "name"]).ok();
        for (target, port) in [(pod.trim(), "80"), ("service/web", "8000")] {
            let mut command = namespace.command(&["port-forward", target, &format!(":{port}")]);
            let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
            let mut first = String::new();
            BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
            let local = first.trim().strip_prefix("Forwarding from 127.0.0.1:").and_then(|r| r.split(' ').next());
            let local = local.unwrap_or_else(|| panic!("{target}: {first:?}")).to_owned();
            for _ in 0..5 {
                let page = cluster.fetch(&format!("http://127.0.0.1:{local}/")).unwrap();
                assert!(page.contains("nginx"), "{page}");
            }
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

#[test]
fn attach_connects_to_the_running_process() {
    for kubectl in Cluster::get().newest_and_oldest() {
        let namespace = kubectl.namespace("attach");
        namespace.apply(
            "
apiVersion: v1
kind: Pod
metadata: {name: box}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    stdin: true
    stdinOnce: true
    command: [sh, -c, 'while read line; do echo got $line; done; echo end']
",
        );
        namespace.wait("pod/box", "condition=Ready");
        let mut child = namespace.spawn_with_input(&["attach", "-i", "box"]);
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"one\ntwo\n").unwrap();
        drop(stdin);
        let mut seen = String::new();
        child.stdout.take().unwrap().read_to_string(&mut seen).unwrap();
        child.wait().unwrap();
        assert!(seen.contains("got two"), "{seen:?}");
        namespace.wait("pod/box", "jsonpath={.status.phase}=Succeeded");
        assert_eq!(namespace.run(&["logs", "box"]).ok(), "got one\ngot two\nend\n");
    }
}

#[test]
fn a_pod_is_run_with_a_terminal_and_removed() {
    let namespace = Cluster::get().namespace("runrm");
    // Standard input that is a pipe: what it says is the shell's script, and the shell's exit code is kubectl's.
    let run = ["run", "-i", "--rm", "--restart=Never", "box", "--image=busybox", "--", "sh"];
    let ran = namespace.run_with_input(&run, "echo sum $((1+1)); exit 3").exits_with(3);
    assert!(ran.stdout.contains("sum 2\n"), "{ran}");
    assert!(namespace.run(&["get", "pod", "box"]).fails().contains("NotFound"));
    // A terminal: `script` is the one at which a person sits.
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: shell}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: busybox, stdin: true, tty: true, command: [sh]}]
",
    );
    namespace.wait("pod/shell", "condition=Ready");
    let kubectl = format!(
        "nsenter --net={} {} --kubeconfig {} -n {} attach -it shell",
        namespace.cluster.node_netns.display(),
        namespace.program.display(),
        namespace.cluster.kubeconfig.display(),
        namespace.name
    );
    let mut person = std::process::Command::new("script")
        .args(["-qec", &format!("stty cols 90 rows 20; {kubectl}"), "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut typed = person.stdin.take().unwrap();
    let screen = person.stdout.take().unwrap();
    let seen = std::thread::spawn(move || {
        let mut seen = String::new();
        for line in BufReader::new(screen).lines().map_while(Result::ok) {
            seen.push_str(&line);
            if seen.contains("size 20 90") {
                break;
            }
        }
        seen
    });
    // The shell shows what is typed, so the answer must differ from the question. Asked again until the attach is through.
    for _ in 0..200 {
        if seen.is_finished() {
            break;
        }
        let _ = typed.write_all(b"echo size $(stty size)\n");
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    person.kill().unwrap();
    person.wait().unwrap();
    let seen = seen.join().unwrap();
    assert!(seen.contains("size 20 90"), "{seen}");
}
