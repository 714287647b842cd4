//! Both protocols from the upgrade request on, against small clients of their own.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kybern_cri::ExecIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use crate::spdy::Frame;
use crate::spdy::header::{Deflater, Inflater};
use crate::upgrade::Answer;
use crate::{Exit, Wants};

/// A connection to a server that answers with `handler`, upgraded with these headers; and the answer's head.
async fn upgraded(headers: &str, handler: fn(Request<Incoming>) -> Answer) -> (DuplexStream, String) {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let service =
        hyper::service::service_fn(move |request| async move { Ok::<_, std::convert::Infallible>(handler(request)) });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service).with_upgrades();
    tokio::spawn(connection);
    let request = format!("POST /x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n{headers}\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    (client, String::from_utf8(head).unwrap().to_ascii_lowercase())
}

/// Echoes stdin to stdout, writes `err` to stderr, answers 3.
async fn command(mut io: ExecIo) -> Exit {
    let (mut stdin, mut stdout) = (io.stdin.take().unwrap(), io.stdout.take().unwrap());
    let mut seen = Vec::new();
    stdin.read_to_end(&mut seen).await.unwrap();
    stdout.write_all(&seen).await.unwrap();
    if let Some(mut stderr) = io.stderr.take() {
        stderr.write_all(b"err").await.unwrap();
    }
    if let Some(mut resize) = io.resize.take() {
        let size = resize.recv().await.unwrap();
        stdout.write_all(format!(" {}x{}", size.columns, size.rows).as_bytes()).await.unwrap();
    }
    Exit::Code(3)
}

const ALL: Wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };

fn exec_handler(request: Request<Incoming>) -> Answer {
    crate::exec(request, ALL, command)
}

fn tty_handler(request: Request<Incoming>) -> Answer {
    crate::exec(request, Wants { tty: true, ..ALL }, command)
}

/// A SPDY client.
struct Spdy<T> {
    io: T,
    deflater: Deflater,
    inflater: Inflater,
    buffer: BytesMut,
    next: u32,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Spdy<T> {
    fn new(io: T) -> Self {
        Self { io, deflater: Deflater::new().unwrap(), inflater: Inflater::default(), buffer: BytesMut::new(), next: 1 }
    }

    async fn send(&mut self, frame: Frame) {
        let mut out = BytesMut::new();
        frame.encode(&mut out);
        self.io.write_all(&out).await.unwrap();
    }

    async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let block = self.deflater.encode(&headers).unwrap().into();
        self.send(Frame::SynStream { id, fin: false, block }).await;
        id
    }

    async fn data(&mut self, id: u32, data: &'static [u8], fin: bool) {
        self.send(Frame::Data { id, fin, data: Bytes::from_static(data) }).await;
    }

    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer).unwrap() {
                if let Frame::SynReply { block, .. } = &frame {
                    assert!(self.inflater.decode(block).unwrap().is_empty());
                }
                return Some(frame);
            }
            if self.io.read_buf(&mut self.buffer).await.unwrap() == 0 {
                return None;
            }
        }
    }

    /// All that comes on the streams until the server closes, and which of them it ended.
    async fn drain(&mut self) -> std::collections::BTreeMap<u32, (Vec<u8>, bool)> {
        let mut streams = std::collections::BTreeMap::<u32, (Vec<u8>, bool)>::new();
        while let Some(frame) = self.frame().await {
            if let Frame::Data { id, fin, data } = frame {
                let stream = streams.entry(id).or_default();
                stream.0.extend_from_slice(&data);
                stream.1 |= fin;
            }
        }
        streams
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), work).await.expect("took too long")
}

#[tokio::test]
async fn exec_over_spdy() {
    let headers = "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\nX-Stream-Protocol-Version: channel.k8s.io\r\n";
    let (io, head) = upgraded(headers, exec_handler).await;
    assert!(
        head.starts_with("http/1.1 101") && head.contains("x-stream-protocol-version: v4.channel.k8s.io"),
        "{head}"
    );
    let mut client = Spdy::new(io);
    let error = client.open(&[("streamType", "error")]).await;
    let stdin = client.open(&[("streamType", "stdin")]).await;
    let stdout = client.open(&[("streamType", "stdout")]).await;
    let stderr = client.open(&[("streamType", "stderr")]).await;
    client.send(Frame::Ping(7)).await;
    client.data(stdin, b"hello ", false).await;
    client.data(stdin, b"world", true).await;
    let streams = within(client.drain()).await;
    assert_eq!(streams[&stdout], (b"hello world".to_vec(), true));
    assert_eq!(streams[&stderr], (b"err".to_vec(), true));
    let status: serde_json::Value = serde_json::from_slice(&streams[&error].0).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "3");
    assert!(streams[&error].1);
}

#[tokio::test]
async fn old_spdy_clients_get_text() {
    let (io, _) = upgraded("Upgrade: SPDY/3.1\r\n", exec_handler).await;
    let mut client = Spdy::new(io);
    let mut ids = Vec::new();
    for kind in ["stdin", "stdout", "stderr", "error"] {
        ids.push(client.open(&[("streamType", kind)]).await);
    }
    client.data(ids[0], b"", true).await;
    let streams = within(client.drain()).await;
    assert_eq!(streams[&ids[3]].0, b"command terminated with non-zero exit code: exit status 3");
}

async fn websocket(protocol: &str, handler: fn(Request<Incoming>) -> Answer) -> WebSocketStream<DuplexStream> {
    let headers = format!(
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {protocol}\r\n"
    );
    let (io, head) = upgraded(&headers, handler).await;
    // The answer to the key of RFC 6455's example.
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    assert!(head.contains(&format!("sec-websocket-protocol: {}", protocol.to_ascii_lowercase())), "{head}");
    WebSocketStream::from_raw_socket(io, Role::Client, None).await
}

/// The messages until the server closes, by channel.
async fn messages(socket: &mut WebSocketStream<DuplexStream>) -> std::collections::BTreeMap<u8, Vec<u8>> {
    let mut channels = std::collections::BTreeMap::<u8, Vec<u8>>::new();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(data) = message {
            channels.entry(data[0]).or_default().extend_from_slice(&data[1..]);
        }
    }
    channels
}

#[tokio::test]
async fn exec_over_websocket() {
    let mut socket = websocket("v5.channel.k8s.io", exec_handler).await;
    socket.send(Message::binary(b"\x00hello".to_vec())).await.unwrap();
    socket.send(Message::Ping(Bytes::from_static(b"p"))).await.unwrap();
    socket.send(Message::binary(b"\xff\x00".to_vec())).await.unwrap();
    let channels = within(messages(&mut socket)).await;
    assert_eq!((channels[&1].as_slice(), channels[&2].as_slice()), (&b"hello"[..], &b"err"[..]));
    let status: serde_json::Value = serde_json::from_slice(&channels[&3]).unwrap();
    assert_eq!((&status["status"], &status["reason"]), (&"Failure".into(), &"NonZeroExitCode".into()));
}

#[tokio::test]
async fn a_terminal_is_resized() {
    let mut socket = websocket("v5.channel.k8s.io", tty_handler).await;
    socket.send(Message::binary(b"\x04{\"Width\":80,\"Height\":24}".to_vec())).await.unwrap();
    socket.send(Message::binary(b"\xff\x00".to_vec())).await.unwrap();
    let channels = within(messages(&mut socket)).await;
    assert_eq!(channels[&1], b" 80x24");
    assert!(!channels.contains_key(&2));
}

/// A kubelet that knows SPDY alone, and before it a server that knows both.
fn translated(request: Request<Incoming>, wants: Wants) -> Answer {
    let wants = Wants { stderr: wants.stderr && !wants.tty, ..wants };
    crate::exec(request, wants, move |client| async move {
        let (near, far) = tokio::io::duplex(1 << 16);
        let kubelet = crate::exec::serve_spdy(far, crate::translate::EXEC_PROTOCOL, wants, command);
        tokio::join!(crate::translate::exec_at(near, wants, client), kubelet).0
    })
}

#[tokio::test]
async fn exec_over_websocket_at_a_kubelet_that_knows_spdy() {
    let mut socket = websocket("v5.channel.k8s.io", |request| translated(request, ALL)).await;
    for piece in [&b"\x00hello "[..], b"\x00world", b"\xff\x00"] {
        socket.send(Message::binary(piece.to_vec())).await.unwrap();
    }
    let channels = within(messages(&mut socket)).await;
    assert_eq!((channels[&1].as_slice(), channels[&2].as_slice()), (&b"hello world"[..], &b"err"[..]));
    let status: serde_json::Value = serde_json::from_slice(&channels[&3]).unwrap();
    assert_eq!(
        (&status["reason"], &status["details"]["causes"][0]["message"]),
        (&"NonZeroExitCode".into(), &"3".into())
    );

    let mut socket = websocket("v5.channel.k8s.io", |request| translated(request, Wants { tty: true, ..ALL })).await;
    socket.send(Message::binary(b"\x04{\"Width\":80,\"Height\":24}".to_vec())).await.unwrap();
    socket.send(Message::binary(b"\xff\x00".to_vec())).await.unwrap();
    assert_eq!(within(messages(&mut socket)).await[&1], b" 80x24");
}

#[tokio::test]
async fn a_kubelet_that_breaks_off_is_told_of() {
    let handler = |request| {
        crate::exec(request, ALL, |client| async move {
            let (near, far) = tokio::io::duplex(1 << 16);
            drop(far);
            crate::translate::exec_at(near, ALL, client).await
        })
    };
    let mut socket = websocket("v5.channel.k8s.io", handler).await;
    let channels = within(messages(&mut socket)).await;
    let status: serde_json::Value = serde_json::from_slice(&channels[&3]).unwrap();
    assert_eq!(status["message"], "Internal error occurred: the connection to the kubelet broke");
}

#[tokio::test]
async fn a_peers_pings_are_answered() {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let (_session, streams) = crate::spdy::Session::client(near, vec![Vec::new()]).await;
    assert_eq!(streams[0].id, 1);
    let mut out = BytesMut::new();
    Frame::Ping(2).encode(&mut out);
    far.write_all(&out).await.unwrap();
    let mut buffer = BytesMut::new();
    let answered = async {
        loop {
            match Frame::decode(&mut buffer).unwrap() {
                Some(Frame::Ping(id)) => return id,
                Some(_) => {}
                None => assert!(far.read_buf(&mut buffer).await.unwrap() > 0),
            }
        }
    };
    assert_eq!(within(answered).await, 2);
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_command() {
    use std::sync::atomic::{AtomicBool, Ordering};
    static DROPPED: AtomicBool = AtomicBool::new(false);
    struct OnDrop;
    impl Drop for OnDrop {
        fn drop(&mut self) {
            DROPPED.store(true, Ordering::SeqCst);
        }
    }
    let handler = |request| {
        crate::exec(request, ALL, |io| async move {
            let _guard = (OnDrop, io);
            std::future::pending().await
        })
    };
    let socket = websocket("v4.channel.k8s.io", handler).await;
    drop(socket);
    within(async {
        while !DROPPED.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn other_requests_are_refused() {
    for (headers, expect) in [
        ("", "400"),
        ("Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v99\r\n", "403"),
        ("Upgrade: websocket\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Protocol: v99\r\n", "400"),
    ] {
        let (_, head) = upgraded(headers, exec_handler).await;
        assert!(head.starts_with(&format!("http/1.1 {expect}")), "{headers}: {head}");
    }
}

/// Forwards to an echo server on loopback; port 1 refuses.
fn forward_handler(request: Request<Incoming>) -> Answer {
    let dial: crate::port_forward::Dial = Arc::new(|port| {
        Box::pin(async move {
            if port == 1 {
                return Err("connection refused".to_owned());
            }
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let connecting = TcpStream::connect(listener.local_addr().unwrap());
            let (connected, accepted) = tokio::join!(connecting, listener.accept());
            tokio::spawn(async move {
                let (mut read, mut write) = accepted.unwrap().0.into_split();
                tokio::io::copy(&mut read, &mut write).await
            });
            connected.map_err(|e| e.to_string())
        })
    });
    crate::port_forward(request, vec![80], "p".into(), dial)
}

async fn check_forward<T: AsyncRead + AsyncWrite + Unpin>(io: T) {
    let mut client = Spdy::new(io);
    let open = async |client: &mut Spdy<T>, port: &str, request: &str| {
        let error = client.open(&[("streamType", "error"), ("port", port), ("requestID", request)]).await;
        let data = client.open(&[("streamType", "data"), ("port", port), ("requestID", request)]).await;
        (error, data)
    };
    let (error, data) = open(&mut client, "80", "0").await;
    let (refused, _) = open(&mut client, "1", "1").await;
    client.data(data, b"ping", true).await;
    client.data(error, b"", true).await;
    let (mut echoed, mut cause, mut ended) = (Vec::new(), Vec::new(), 0);
    while ended < 4 {
        if let Frame::Data { id, fin, data: bytes } = within(client.frame()).await.unwrap() {
            ended += u32::from(fin);
            if id == data {
                echoed.extend_from_slice(&bytes);
            } else if id == refused {
                cause.extend_from_slice(&bytes);
            }
        }
    }
    assert_eq!(echoed, b"ping");
    assert_eq!(String::from_utf8(cause).unwrap(), "error forwarding port 1 to pod p: connection refused");
}

#[tokio::test]
async fn port_forward_over_spdy() {
    let headers = "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n";
    let (io, head) = upgraded(headers, forward_handler).await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
    check_forward(io).await;
}

#[tokio::test]
async fn port_forward_tunnelled_in_a_websocket() {
    let socket = websocket("SPDY/3.1+portforward.k8s.io", forward_handler).await;
    check_forward(crate::websocket::tunnel(socket)).await;
}

#[tokio::test]
async fn port_forward_over_websocket_channels() {
    let mut socket = websocket("v4.channel.k8s.io", forward_handler).await;
    socket.send(Message::binary(b"\x00ping".to_vec())).await.unwrap();
    let mut channels = std::collections::BTreeMap::<u8, Vec<u8>>::new();
    while channels.get(&0).is_none_or(|data| data.len() < 6) {
        let Message::Binary(data) = within(socket.next()).await.unwrap().unwrap() else { continue };
        channels.entry(data[0]).or_default().extend_from_slice(&data[1..]);
    }
    assert_eq!((channels[&0].as_slice(), channels[&1].as_slice()), (&b"\x50\0ping"[..], &b"\x50\0"[..]));
}
