//! Logs, exec and port-forward over WebSockets, through to a kubelet that knows SPDY alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use kybern_apimachinery::{Value, json};
use kybern_apiserver::{Body, body};
use kybern_streaming::upgrade::{Transport, transport};
use kybern_streaming::{Exit, Wants};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::Cluster;
use crate::proxied::{BACKEND, Connection, OTHER, connection, head, in_network, secure, with_editor};

/// A kubelet's exec and port-forward, as they were before it knew WebSockets: a command that says its input again and ends
/// with 3, and ports of which none is open.
pub(crate) fn spdy_alone(request: Request<Incoming>) -> Response<Body> {
    if transport(request.headers()) != Some(Transport::Spdy) {
        let mut refused = Response::new(body::full("no SPDY, no streams"));
        *refused.status_mut() = http::StatusCode::BAD_REQUEST;
        return refused;
    }
    let answer = if request.uri().path().starts_with("/exec/") {
        let wants = Wants { stdin: true, stdout: true, ..Wants::default() };
        kybern_streaming::exec(request, wants, |mut io| async move {
            let (mut stdin, mut stdout) = (io.stdin.take().unwrap(), io.stdout.take().unwrap());
            let mut said = Vec::new();
            stdin.read_to_end(&mut said).await.unwrap();
            stdout.write_all(&said).await.unwrap();
            Exit::Code(3)
        })
    } else {
        let dial: kybern_streaming::port_forward::Dial =
            Arc::new(|_| Box::pin(async { Err("connection refused".to_owned()) }));
        kybern_streaming::port_forward(request, Vec::new(), "a".to_owned(), dial)
    };
    answer.map(|body| body.map_err(|never| match never {}).boxed_unsync())
}

async fn with_a_kubelet() -> Cluster {
    let cluster = with_editor().await;
    let port = secure("kubelet", &cluster, BACKEND).await;
    let node = json!({"metadata": {"name": "n"}, "status": {"addresses": [{"type": "InternalIP", "address": BACKEND}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    cluster.create("/api/v1/nodes", node).await;
    cluster.pod_at("team", "a", OTHER).await;
    cluster
}

/// A WebSocket to a subresource of the pod, and the head of the answer.
async fn websocket(cluster: &Cluster, what: &str, protocol: &str) -> (Connection, String) {
    let mut client = connection(cluster).await;
    let ask = format!(
        "GET /api/v1/namespaces/team/pods/a/{what} HTTP/1.1\r\nHost: front\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\
         Authorization: Bearer eve-token\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    );
    client.write_all(ask.as_bytes()).await.unwrap();
    let answer = head(&mut client).await;
    (client, answer)
}

/// A short binary message as clients send it, under a mask of zeros.
fn message(data: &[u8]) -> Vec<u8> {
    [&[0x82, 0x80 | data.len() as u8, 0, 0, 0, 0], data].concat()
}

/// The next short message, of any kind: its opcode and data.
async fn next(client: &mut Connection) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    client.read_exact(&mut head).await.unwrap();
    let mut length = usize::from(head[1]);
    if length == 126 {
        length = usize::from(client.read_u16().await.unwrap());
    }
    let mut data = vec![0; length];
    client.read_exact(&mut data).await.unwrap();
    (head[0], data)
}

#[test]
fn a_log_comes_over_a_websocket() {
    in_network("log", || async {
        let cluster = with_a_kubelet().await;
        for (protocol, expect) in [("binary.k8s.io", "/containerLogs/team/a/c"), ("base64.binary.k8s.io", "")] {
            let (mut client, answer) = websocket(&cluster, "log?tailLines=5", protocol).await;
            assert!(answer.starts_with("HTTP/1.1 101") && answer.contains(protocol), "{answer}");
            // An empty message first, then the log, then a close.
            let mut said = Vec::new();
            // It does not answer the close, and is left without TLS's own.
            let _ = client.read_to_end(&mut said).await;
            let opcode = if expect.is_empty() { 0x81 } else { 0x82 };
            assert_eq!(said[..3], [opcode, 0, opcode], "{said:?}");
            assert!(String::from_utf8_lossy(&said).contains(expect), "{said:?}");
            assert_eq!(said[said.len() - 4..], [0x88, 2, 3, 0xe8], "closed as a good end");
        }
    });
}

#[test]
fn websockets_reach_a_kubelet_that_knows_spdy_alone() {
    in_network("spdy", || async {
        let cluster = with_a_kubelet().await;
        let exec = "exec?command=cat&stdin=true&stdout=true";
        let (mut client, answer) = websocket(&cluster, exec, "v5.channel.k8s.io, v4.channel.k8s.io").await;
        assert!(answer.starts_with("HTTP/1.1 101") && answer.contains("v5.channel.k8s.io"), "{answer}");
        for piece in [&b"\x00hello "[..], b"\x00world", b"\xff\x00"] {
            client.write_all(&message(piece)).await.unwrap();
        }
        let mut channels = BTreeMap::<u8, Vec<u8>>::new();
        loop {
            match next(&mut client).await {
                (0x82, data) => channels.entry(data[0]).or_default().extend_from_slice(&data[1..]),
                (opcode, _) => break assert_eq!(opcode, 0x88, "closed"),
            }
        }
        assert_eq!(channels[&1], b"hello world");
        let status: Value = serde_json::from_slice(&channels[&3]).unwrap();
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));

        // What only a kubelet can understand that knows WebSockets, is its to refuse.
        let (_, answer) = websocket(&cluster, exec, "v4.channel.k8s.io").await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");

        // A tunnel holds SPDY as it is: here a ping and its answer.
        let (mut client, answer) = websocket(&cluster, "portforward", "SPDY/3.1+portforward.k8s.io").await;
        assert!(answer.starts_with("HTTP/1.1 101") && answer.contains("SPDY/3.1+portforward.k8s.io"), "{answer}");
        let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
        client.write_all(&message(&ping)).await.unwrap();
        assert_eq!(next(&mut client).await, (0x82, ping.to_vec()));
    });
}
