//! `testapp serve`: an HTTP echo server.

use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

/// More connections than this wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;

#[derive(Clone, Debug, Args)]
pub(super) struct Serve {
    /// TCP port for HTTP.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// UDP port that echoes datagrams.
    #[arg(long)]
    udp_port: Option<u16>,
    /// /healthz fails for this many seconds after the start.
    #[arg(long, default_value_t = 0)]
    ready_after: u64,
    /// /healthz fails again after this many seconds.
    #[arg(long)]
    unhealthy_after: Option<u64>,
    /// Goes on serving for this many seconds after SIGTERM.
    #[arg(long, default_value_t = 0)]
    drain: u64,
    /// First line of every answer to GET /.
    #[arg(long, default_value = "Kybern is steering this cluster.")]
    message: String,
}

struct Server {
    options: Serve,
    started: Instant,
    hostname: String,
}

pub(super) async fn run(options: Serve) -> Result<()> {
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, options.port));
    let listener = match TcpListener::bind(address).await {
        // A kernel without IPv6 has no dual-stack wildcard.
        Err(e) if e.kind() != std::io::ErrorKind::AddrInUse => TcpListener::bind(("0.0.0.0", options.port)).await,
        bound => bound,
    }
    .with_context(|| format!("cannot listen on TCP port {}", options.port))?;
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    println!("{hostname}: serving HTTP on port {}", options.port);
    if let Some(port) = options.udp_port {
        let socket =
            UdpSocket::bind(("0.0.0.0", port)).await.with_context(|| format!("cannot listen on UDP port {port}"))?;
        tokio::spawn(echo_datagrams(socket, hostname.clone()));
    }
    let drain = Duration::from_secs(options.drain);
    let server = Arc::new(Server { options, started: Instant::now(), hostname });
    let accepting = tokio::spawn(accept(listener, server));
    signal(SignalKind::terminate())?.recv().await;
    println!("got SIGTERM, ending in {} s", drain.as_secs());
    tokio::time::sleep(drain).await;
    accepting.abort();
    Ok(())
}

async fn accept(listener: TcpListener, server: Arc<Server>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
        let Ok((stream, remote)) = listener.accept().await else { continue };
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let server = Arc::clone(&server);
                async move { Ok::<_, Infallible>(server.answer(request, remote).await) }
            });
            // A client that goes away is no fault of ours.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            drop(slot);
        });
    }
}

async fn echo_datagrams(socket: UdpSocket, hostname: String) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let mut answer = format!("{hostname}: ").into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        let _ = socket.send_to(&answer, from).await;
    }
}

impl Server {
    async fn answer(&self, request: Request<Incoming>, remote: SocketAddr) -> Response<Full<Bytes>> {
        let query = |name: &str| {
            let pairs = request.uri().query().unwrap_or("").split('&');
            pairs.filter_map(|p| p.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        let (status, body) = match request.uri().path() {
            "/healthz" | "/readyz" => match self.is_healthy() {
                true => (StatusCode::OK, "ok".to_owned()),
                false => (StatusCode::SERVICE_UNAVAILABLE, "not healthy".to_owned()),
            },
            "/hostname" => (StatusCode::OK, self.hostname.clone()),
            "/clientip" => (StatusCode::OK, remote.ip().to_canonical().to_string()),
            "/echo" => (StatusCode::OK, query("msg").unwrap_or_default()),
            "/delay" => {
                let millis = query("ms").and_then(|v| v.parse().ok()).unwrap_or(0).min(60_000);
                tokio::time::sleep(Duration::from_millis(millis)).await;
                (StatusCode::OK, self.hostname.clone())
            }
            "/exit" => {
                let code = query("code").and_then(|v| v.parse().ok()).unwrap_or(0);
                println!("asked to exit with {code}");
                std::process::exit(code);
            }
            "/info" => (StatusCode::OK, self.info(&request, remote).to_string()),
            "/" => (StatusCode::OK, format!("{}\nServed by {}.\n", self.options.message, self.hostname)),
            other => (StatusCode::NOT_FOUND, format!("no page {other}\n")),
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response
    }

    fn is_healthy(&self) -> bool {
        let age = self.started.elapsed().as_secs();
        age >= self.options.ready_after && self.options.unhealthy_after.is_none_or(|limit| age < limit)
    }

    fn info(&self, request: &Request<Incoming>, remote: SocketAddr) -> Value {
        let headers: Map<String, Value> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
            .collect();
        let env: Map<String, Value> = std::env::vars().map(|(name, value)| (name, value.into())).collect();
        json!({
            "hostname": self.hostname, "remote": remote.to_string(), "method": request.method().as_str(),
            "uri": request.uri().to_string(), "headers": headers, "env": env,
        })
    }
}
