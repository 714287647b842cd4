//! The official kubectl, oldest and newest on this machine, against a server that knows one pod.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kybern_cri::ExecIo;
use kybern_streaming::upgrade::Answer;
use kybern_streaming::{Exit, Wants};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

/// The oldest and the newest kubectl, by version.
fn kubectls() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain([PathBuf::from("/usr/lib/google-cloud-sdk/bin")]);
    let mut found = BTreeMap::new();
    for file in dirs.flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten()) {
        if !file.file_name().to_string_lossy().starts_with("kubectl") {
            continue;
        }
        let output = std::process::Command::new(file.path()).args(["version", "--client", "-o", "json"]).output();
        let minor = output.ok().and_then(|output| {
            let version: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            version["clientVersion"]["minor"].as_str()?.trim_end_matches('+').parse::<u32>().ok()
        });
        if let Some(minor) = minor {
            found.insert(minor, file.path());
        }
    }
    let ends = [found.first_key_value(), found.last_key_value()];
    let mut picked: Vec<PathBuf> = ends.into_iter().flatten().map(|(_, path)| path.clone()).collect();
    picked.dedup();
    picked
}

fn json(value: serde_json::Value) -> Answer {
    Response::builder().header("content-type", "application/json").body(Full::from(value.to_string())).unwrap()
}

fn answer(request: Request<Incoming>) -> Answer {
    let query = request.uri().query().unwrap_or("").to_owned();
    let has = |term: &str| query.split('&').any(|t| t == term);
    match request.uri().path() {
        "/api" => json(serde_json::json!({"kind": "APIVersions", "versions": ["v1"]})),
        "/apis" => json(serde_json::json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})),
        "/api/v1" => json(serde_json::json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
            {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": ["get", "list"]},
        ]})),
        "/api/v1/namespaces/default/pods/p" => json(serde_json::json!({
            "kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "namespace": "default", "uid": "u"},
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}, "status": {"phase": "Running"},
        })),
        "/api/v1/namespaces/default/pods/p/exec" => {
            let wants = Wants {
                stdin: has("stdin=true"),
                stdout: has("stdout=true"),
                stderr: has("stderr=true"),
                tty: has("tty=true"),
            };
            kybern_streaming::exec(request, wants, command)
        }
        "/api/v1/namespaces/default/pods/p/portforward" => {
            kybern_streaming::port_forward(request, vec![], "p".into(), Arc::new(|_| Box::pin(echo())))
        }
        other => Response::builder().status(404).body(Full::from(format!("no {other}"))).unwrap(),
    }
}

/// A connection to a server that echoes.
async fn echo() -> Result<TcpStream, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut read, mut write) = listener.accept().await.unwrap().0.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut read, &mut write).await });
    Ok(connected)
}

/// Upper-cases what it is given, complains, fails with 3.
async fn command(mut io: ExecIo) -> Exit {
    let mut given = String::new();
    if let Some(mut stdin) = io.stdin.take() {
        stdin.read_to_string(&mut given).await.unwrap();
    }
    let mut stdout = io.stdout.take().unwrap();
    stdout.write_all(given.to_uppercase().as_bytes()).await.unwrap();
    if let Some(mut stderr) = io.stderr.take() {
        stderr.write_all(b"complaint\n").await.unwrap();
    }
    Exit::Code(3)
}

async fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service =
                hyper::service::service_fn(|request| async move { Ok::<_, std::convert::Infallible>(answer(request)) });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection.with_upgrades());
        }
    });
    url
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("kubectl took too long")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_execs_and_forwards() {
    let kubectls = kubectls();
    if kubectls.is_empty() {
        return kybern_testbed::not_run("kubectl_execs_and_forwards", "no kubectl on this machine");
    }
    let server = serve().await;
    let home = tempfile::tempdir().unwrap();
    for kubectl in kubectls {
        let kubectl = |args: &[&str]| {
            let mut command = Command::new(&kubectl);
            command.args(["--server", &server, "--namespace", "default"]).args(args);
            command.env("HOME", home.path()).env_remove("KUBECONFIG").env("NO_PROXY", "127.0.0.1");
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
            command
        };
        let mut child = kubectl(&["exec", "-i", "p", "--", "x"]).spawn().unwrap();
        let big = "hello ".repeat(100_000);
        child.stdin.take().unwrap().write_all(big.as_bytes()).await.unwrap();
        let output = in_time(child.wait_with_output()).await.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        assert!(output.stdout == big.to_uppercase().as_bytes(), "{} bytes came", output.stdout.len());
        assert!(stderr.contains("complaint\n") && stderr.contains("command terminated with exit code 3"), "{stderr}");

        let mut child = kubectl(&["port-forward", "p", ":80"]).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = in_time(lines.next_line()).await.unwrap().expect("kubectl says where it listens");
        let port: u16 = line.split_whitespace().nth(2).unwrap().rsplit(':').next().unwrap().parse().unwrap();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.write_all(&big.as_bytes()[..40_000]).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut echoed = Vec::new();
            in_time(stream.read_to_end(&mut echoed)).await.unwrap();
            assert_eq!(echoed.len(), 40_000);
        }
        child.kill().await.unwrap();
    }
}
