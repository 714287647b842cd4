//! Real sockets that misbehave, and others that are served meanwhile.

use std::convert::Infallible;

use ::http::{Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const SHORT: Limits = Limits {
    proven: 16,
    unproven: 16,
    per_address: 16,
    handshake: Duration::from_millis(300),
    head: Duration::from_millis(400),
    unread: Duration::from_millis(400),
};

/// Answers `/N` with as many bytes; `/prove` proves the caller.
async fn answer(slot: Slot, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    if path == "/prove" {
        slot.prove();
    }
    let length = path[1..].parse().unwrap_or(2);
    Ok(Response::new(Full::new(vec![b'x'; length].into())))
}

async fn start(name: &'static str, limits: Limits, protocol: Protocol) -> SocketAddr {
    let listener = Listener::new(TcpListener::bind("127.0.0.1:0").await.unwrap(), name, limits);
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _, slot) = listener.accept().await;
            tokio::spawn(async move {
                let own = slot.clone();
                let _ = serve(stream, protocol, slot, move |request| answer(own.clone(), request)).await;
            });
        }
    });
    address
}

fn cut(name: &str, reason: &str) -> u64 {
    let label = format!("{{listener=\"{name}\",reason=\"{reason}\"}} ");
    super::text().lines().find_map(|line| line.split_once(&label)?.1.parse().ok()).unwrap_or(0)
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// Whether the other end closes within a moment.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let drain = async { while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {} };
    tokio::time::timeout(Duration::from_secs(5), drain).await.is_ok()
}

#[tokio::test]
async fn slow_heads_are_cut() {
    let address = start("heads", SHORT, Protocol::Http1).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut slow = TcpStream::connect(address).await.unwrap();
    let began = tokio::time::Instant::now();
    slow.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    while slow.write_all(b"x: y\r\n").await.is_ok() && began.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if began.elapsed() < Duration::from_millis(300) {
            assert!(get(address, "/").await.starts_with("HTTP/1.1 200"), "others are served");
        }
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(is_closed(&mut silent).await && is_closed(&mut slow).await);
    assert_eq!(cut("heads", "silent"), 2);
    // Idle after a request.
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(is_closed(&mut idle).await);
}

#[tokio::test]
async fn heads_that_do_not_end_are_cut() {
    let address = start("long", Limits { head: Duration::from_secs(20), ..SHORT }, Protocol::Http1).await;
    for piece in ["x: y\r\n", "xxxxxxxxxxxxxxxx"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let piece = piece.repeat(1000);
        let mut sent = 0;
        while stream.write_all(piece.as_bytes()).await.is_ok() && sent < 64 << 20 {
            sent += piece.len();
        }
        assert!(sent < 16 << 20, "{sent} bytes of headers were taken");
        assert!(is_closed(&mut stream).await);
    }
    assert!(get(address, "/").await.starts_with("HTTP/1.1 200"));
}

/// The first connections say nothing, and whoever comes later is served: the oldest give way.
#[tokio::test]
async fn many_connections_do_not_keep_others_out() {
    let limits = Limits { head: Duration::from_secs(60), ..SHORT };
    let address = start("many", limits, Protocol::Http1).await;
    let mut known = TcpStream::connect(address).await.unwrap();
    let ask = b"GET /prove HTTP/1.1\r\nhost: x\r\n\r\n";
    known.write_all(ask).await.unwrap();
    assert!(known.read(&mut [0; 1024]).await.unwrap() > 0);
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    assert!(get(address, "/").await.starts_with("HTTP/1.1 200"));
    known.write_all(ask).await.unwrap();
    assert!(known.read(&mut [0; 1024]).await.unwrap() > 0, "who is known keeps its connection");
    assert!(is_closed(&mut idle[0]).await);
    assert!(cut("many", "unproven") >= 85);
}

#[tokio::test]
async fn half_a_handshake_is_cut() {
    let listener = Listener::new(TcpListener::bind("127.0.0.1:0").await.unwrap(), "half", SHORT);
    let address = listener.local_addr().unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = Arc::new(
        config.with_no_client_auth().with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new())),
    );
    let mut client = TcpStream::connect(address).await.unwrap();
    let (stream, _, slot) = listener.accept().await;
    // The beginning of a ClientHello.
    client.write_all(&[22, 3, 1, 2, 0, 1, 0, 1]).await.unwrap();
    let refused = handshake(stream, tls, &slot).await.map(drop).unwrap_err();
    assert_eq!(refused, "the TLS handshake took too long");
    assert!(is_closed(&mut client).await);
    assert_eq!(cut("half", "handshake"), 1);
}

#[tokio::test]
async fn who_does_not_read_is_cut_unless_known() {
    let address = start("unread", SHORT, Protocol::Http1).await;
    let mut streams = Vec::new();
    for prove in [false, true] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if prove {
            stream.write_all(b"GET /prove HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
        }
        stream.write_all(b"GET /50000000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        streams.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(cut("unread", "unread"), 1);
    for (stream, expect) in streams.iter_mut().zip([false, true]) {
        let mut total = 0;
        let mut buffer = vec![0; 1 << 20];
        while let Ok(Ok(n)) = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut buffer)).await {
            total += n;
            if n == 0 {
                break;
            }
        }
        assert_eq!(total > 50_000_000, expect, "{total}");
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[a, b, c, kind, flags], &stream.to_be_bytes()[..], payload].concat()
}

/// Floods a connection with what `frames` makes of a number; answers how many bytes were taken before it was cut.
async fn flood(address: SocketAddr, frames: impl Fn(u32) -> Vec<u8>) -> usize {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    tokio::spawn(async move { while reader.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {} });
    let mut sent = 0;
    writer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    writer.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    for n in 0..2000u32 {
        let bytes: Vec<u8> = (0..50).flat_map(|m| frames(n * 50 + m)).collect();
        if writer.write_all(&bytes).await.is_err() {
            return sent;
        }
        sent += bytes.len();
    }
    sent
}

/// `:method GET`, `:scheme http`, `:path /`, `:authority x`, as HPACK.
const HEAD: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'x'];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_are_cut_and_others_served() {
    let limits = Limits { head: Duration::from_secs(5), ..SHORT };
    let address = start("flood", limits, Protocol::Http2).await;
    type Frames = fn(u32) -> Vec<u8>;
    let floods: [(&str, Frames); 7] = [
        ("ping", |_| frame(6, 0, 0, &[0; 8])),
        ("settings", |_| frame(4, 0, 0, &[])),
        ("rapid reset", |n| [frame(1, 5, 2 * n + 1, HEAD), frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()),
        ("priority", |_| frame(2, 0, 1, &[0, 0, 0, 0, 1])),
        ("window updates", |n| frame(8, 0, 0, &[0, 0, 0, u8::from(n < 1000)])),
        ("unknown", |_| frame(77, 0, 0, &[])),
        ("continuation", |n| if n == 0 { frame(1, 1, 1, HEAD) } else { frame(9, 0, 1, &[]) }),
    ];
    for (name, frames) in floods {
        let attack = tokio::spawn(flood(address, frames));
        assert!(ask(address, 10).await, "others are served during {name}");
        let bytes = attack.await.unwrap();
        let all: usize = (0..100_000).map(|n| frames(n).len()).sum();
        assert!(bytes < all / 2, "{name}: {bytes} bytes of {all} were taken");
    }
    assert!(cut("flood", "flood") >= 4, "{}", super::text());
}

/// Some requests by one well-behaved connection.
async fn ask(address: SocketAddr, requests: usize) -> bool {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..requests {
        let request = Request::get("http://x/10").body(Full::new(Bytes::new())).unwrap();
        let Ok(answer) = sender.send_request(request).await else { return false };
        if answer.into_body().collect().await.is_err() {
            return false;
        }
    }
    true
}

#[tokio::test]
async fn busy_clients_are_not_taken_for_floods() {
    let limits = Limits { head: Duration::from_secs(5), ..SHORT };
    let address = start("busy", limits, Protocol::Http2).await;
    assert!(ask(address, 1000).await);
    // A large answer, whose client updates windows all the while.
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(16 << 10)
        .initial_connection_window_size(64 << 10)
        .handshake(stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://x/5000000").body(Full::new(Bytes::new())).unwrap();
    let body = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes().len(), 5_000_000);
    assert_eq!(cut("busy", "flood"), 0);
}

#[tokio::test]
async fn a_silent_http2_client_is_cut() {
    let address = start("preface", SHORT, Protocol::Http2).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert!(is_closed(&mut stream).await);
    assert_eq!(cut("preface", "silent"), 1);
}
