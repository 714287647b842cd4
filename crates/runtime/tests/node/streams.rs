//! Logs, exec, attach and port-forward.

use std::time::Duration;

use kybern_cri::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::fixture::Node;

/// A command line for a container of [`Node::shell`].
fn sh(script: &str) -> Vec<String> {
    ["/bin/busybox", "sh", "-c", script].map(str::to_owned).into()
}

/// A client's streams, and the far ends of them.
fn client(stdin: bool, stderr: bool) -> (ExecIo, Option<DuplexStream>, DuplexStream, Option<DuplexStream>) {
    let (ours_out, theirs_out) = tokio::io::duplex(1024);
    let mut io = ExecIo { stdout: Some(Box::pin(theirs_out)), ..Default::default() };
    let mut ours_in = None;
    if stdin {
        let (ours, theirs) = tokio::io::duplex(1024);
        io.stdin = Some(Box::pin(theirs));
        ours_in = Some(ours);
    }
    let mut ours_err = None;
    if stderr {
        let (ours, theirs) = tokio::io::duplex(1024);
        io.stderr = Some(Box::pin(theirs));
        ours_err = Some(ours);
    }
    (io, ours_in, ours_out, ours_err)
}

async fn read_to_end(mut from: DuplexStream) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).await.unwrap();
    text
}

pub(crate) async fn logs() {
    let node = Node::new().await;
    let sandbox = node.sandbox(&node.pod("logs")).await;
    let script = "echo out; echo err >&2; busybox head -c 20000 /dev/zero | busybox tr '\\0' x; echo; printf partial";
    let id = node.start(&sandbox, node.shell("main", script)).await;
    let status = node.ended(&id).await;
    let log = std::fs::read_to_string(&status.log_path).unwrap();
    let mut lines: Vec<(&str, &str, usize)> = log
        .lines()
        .map(|line| {
            let mut parts = line.splitn(4, ' ');
            let time = parts.next().unwrap();
            assert_eq!(time.len(), 30, "{time}");
            (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap().len())
        })
        .collect();
    lines.sort();
    assert_eq!(
        lines,
        [
            ("stderr", "F", 3),
            ("stdout", "F", 3),
            ("stdout", "F", 20000 - 16384),
            ("stdout", "P", 7),
            ("stdout", "P", 16384)
        ]
    );

    let id = node
        .start(
            &sandbox,
            node.shell(
                "rotated",
                "echo one; while [ ! -e /go ]; do busybox sleep 0.02; done; echo two; busybox sleep 60",
            ),
        )
        .await;
    let path = node.status(&id).await.log_path;
    tokio::time::sleep(Duration::from_millis(150)).await;
    std::fs::rename(&path, format!("{path}.1")).unwrap();
    node.service().reopen_container_log(&id).await.unwrap();
    node.service().exec_sync(&id, sh("echo > /go"), None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(std::fs::read_to_string(format!("{path}.1")).unwrap().ends_with("F one\n"));
    assert!(std::fs::read_to_string(&path).unwrap().ends_with("F two\n"));
    node.finish().await;
}

pub(crate) async fn exec() {
    let node = Node::new().await;
    let sandbox = node.sandbox(&node.pod("exec")).await;
    let id = node.start(&sandbox, node.shell("main", "export A=1; busybox sleep 600")).await;
    let service = node.service();
    let result = service
        .exec_sync(&id, sh("echo out; echo err >&2; busybox ps | busybox grep -c '[s]leep 600'; exit 7"), None)
        .await
        .unwrap();
    assert_eq!(
        (result.stdout.as_slice(), result.stderr.as_slice(), result.exit_code),
        (&b"out\n1\n"[..], &b"err\n"[..], 7)
    );
    let seccomp = service.exec_sync(&id, sh("busybox grep ^Seccomp: /proc/self/status"), None).await.unwrap();
    assert_eq!(seccomp.stdout, b"Seccomp:\t2\n");
    let error = service.exec_sync(&id, vec!["nosuch".into()], None).await.unwrap_err().to_string();
    assert!(error.contains("exec: \"nosuch\": executable file not found in $PATH"), "{error}");
    let slow = service.exec_sync(&id, sh("busybox sleep 600"), Some(Duration::from_millis(200))).await;
    assert!(matches!(slow, Err(CriError::DeadlineExceeded(_))), "{slow:?}");
    let background = service.exec_sync(&id, sh("busybox sleep 5 & echo started"), None).await.unwrap();
    assert_eq!(background.stdout, b"started\n", "a process left behind does not hold the answer");

    let (io, stdin, stdout, stderr) = client(true, true);
    let writer = tokio::spawn(async move {
        let mut stdin = stdin.unwrap();
        for _ in 0..1000 {
            stdin.write_all(&[b'y'; 1000]).await.unwrap();
        }
    });
    let (code, out, err) = tokio::join!(
        service.exec(&id, sh("busybox cat; echo done >&2; exit 4"), false, io),
        read_to_end(stdout),
        read_to_end(stderr.unwrap())
    );
    writer.await.unwrap();
    assert_eq!((code.unwrap(), out.len(), err.as_str()), (4, 1_000_000, "done\n"));
    let left = service.exec_sync(&id, sh("busybox ps | busybox grep -c '[s]leep 600'"), None).await.unwrap();
    assert_eq!(left.stdout, b"1\n", "the timed-out command was killed");
    node.service().stop_container(&id, Duration::ZERO).await.unwrap();
    let error = service.exec_sync(&id, sh("true"), None).await.unwrap_err();
    assert!(matches!(error, CriError::FailedPrecondition(_)), "{error}");
    node.finish().await;
}

pub(crate) async fn exec_with_a_terminal() {
    let node = Node::new().await;
    let sandbox = node.sandbox(&node.pod("tty")).await;
    let id = node.start(&sandbox, node.shell("main", "busybox sleep 600")).await;
    let (mut io, stdin, stdout, _) = client(true, false);
    let (sizes, resize) = tokio::sync::mpsc::channel(4);
    sizes.send(TermSize { columns: 97, rows: 31 }).await.unwrap();
    io.resize = Some(resize);
    let mut stdin = stdin.unwrap();
    stdin.write_all(b"go\n").await.unwrap();
    let script = "read word; echo got $word; busybox stty size; busybox tty; exit 5";
    let (code, out) = tokio::join!(node.service().exec(&id, sh(script), true, io), read_to_end(stdout));
    assert_eq!(code.unwrap(), 5);
    assert!(out.contains("got go\r\n31 97\r\n/dev/pts/0\r\n"), "{out:?}");
    node.finish().await;
}

pub(crate) async fn attach() {
    let node = Node::new().await;
    let sandbox = node.sandbox(&node.pod("attach")).await;
    let mut config = node.shell("cat", "while read line; do echo got $line; done; echo end; exit 9");
    config.stdin = true;
    config.stdin_once = true;
    let id = node.start(&sandbox, config).await;
    let (io, stdin, stdout, stderr) = client(true, true);
    let mut stdin = stdin.unwrap();
    stdin.write_all(b"one\ntwo\n").await.unwrap();
    drop(stdin);
    let (done, out, _) =
        tokio::join!(node.service().attach(&id, io), read_to_end(stdout), read_to_end(stderr.unwrap()));
    done.unwrap();
    assert_eq!(out, "got one\ngot two\nend\n");
    assert_eq!(node.ended(&id).await.exit_code, 9);
    assert_eq!(node.output(&id).await, out, "the log has it too");

    let mut config = node.shell("shell", "busybox tty; read x; echo read $x; busybox stty size");
    (config.stdin, config.tty) = (true, true);
    let id = node.start(&sandbox, config).await;
    let (mut io, stdin, stdout, _) = client(true, false);
    let (sizes, resize) = tokio::sync::mpsc::channel(4);
    io.resize = Some(resize);
    sizes.send(TermSize { columns: 80, rows: 25 }).await.unwrap();
    let mut stdin = stdin.unwrap();
    let typing = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stdin.write_all(b"hello\n").await.unwrap();
    };
    let (done, out, ()) = tokio::join!(node.service().attach(&id, io), read_to_end(stdout), typing);
    done.unwrap();
    assert!(out.contains("read hello\r\n25 80\r\n"), "{out:?}");
    assert!(node.output(&id).await.contains("/dev/pts/0"), "the first process has a terminal");
    node.finish().await;
}

pub(crate) async fn port_forward() {
    let node = Node::new().await;
    let sandbox = node.sandbox(&node.pod("port")).await;
    node.start(&sandbox, node.shell("main", "while :; do echo hello from the pod | busybox nc -l -p 8080; done")).await;
    let mut stream = None;
    for _ in 0..100 {
        if let Ok(connected) = node.service().port_forward(&sandbox, 8080).await {
            stream = Some(connected);
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut text = String::new();
    let mut stream = stream.expect("connected");
    stream.shutdown().await.unwrap();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello from the pod\n");
    let error = node.service().port_forward(&sandbox, 8081).await.unwrap_err().to_string();
    assert!(error.contains("localhost:8081") && error.contains("refused"), "{error}");
    node.finish().await;
}

/// However fast it is written, a log stays within its bound, and no line of it is lost between two files.
pub(crate) async fn a_fast_log_is_rotated() {
    let node = Node::new().await;
    let rotation = LogRotation { max_bytes: 1 << 20, max_files: 100 };
    let script = "busybox seq 1 300000";
    let sandbox = node.sandbox(&node.pod("fast")).await;
    let id = node.start(&sandbox, ContainerConfig { log_rotation: rotation, ..node.shell("main", script) }).await;
    let log = std::path::PathBuf::from(node.ended(&id).await.log_path);
    let mut files = rotated_logs(&log).unwrap();
    files.push(log);
    assert!(files.len() > 5, "{files:?}");
    let mut next = 1;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.len() <= 1 << 20, "{}: {}", file.display(), text.len());
        for line in text.lines() {
            assert_eq!(line.rsplit(' ').next().unwrap(), next.to_string());
            next += 1;
        }
    }
    assert_eq!(next, 300_001);
    node.finish().await;
}
