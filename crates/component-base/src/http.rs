//! A plain HTTP/1.1 server for `/healthz`, `/metrics` and the like.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::listener::{self, Limits, Listener, Protocol};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: Bytes,
}

impl Reply {
    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self { status, content_type: "application/json", body: body.into() }
    }

    pub fn not_found() -> Self {
        Self::text(StatusCode::NOT_FOUND, "404 page not found\n")
    }
}

/// The registry's metrics in the OpenMetrics text format.
pub fn metrics(registry: &Registry) -> Reply {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => Reply {
            status: StatusCode::OK,
            content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
            body: text.into(),
        },
        Err(_) => Reply::text(StatusCode::INTERNAL_SERVER_ERROR, "cannot encode the metrics\n"),
    }
}

/// A bound server; it serves while [`Server::run`] is polled.
pub struct Server {
    listener: Listener,
}

impl Server {
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        Ok(Self { listener: Listener::new(tcp, "health", Limits::HEALTH) })
    }

    /// The address with the port that was chosen for port 0.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers GET requests by their path, for ever.
    pub async fn run(self, answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Infallible {
        let answer = Arc::new(answer);
        loop {
            let (stream, _, slot) = self.listener.accept().await;
            let answer = answer.clone();
            tokio::spawn(async move {
                let service = move |request: Request<Incoming>| {
                    let reply = answer(request.uri().path());
                    async move { Ok::<_, Infallible>(response(reply)) }
                };
                // A client that misbehaves or goes away is its own concern.
                let _ = listener::serve(stream, Protocol::Http1, slot, service).await;
            });
        }
    }
}

fn response(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(reply.body));
    *response.status_mut() = reply.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn paths_are_answered() {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(server.run(|path| match path {
            "/healthz" => Reply::text(StatusCode::OK, "ok"),
            _ => Reply::not_found(),
        }));
        for (path, expect) in [("/healthz", "HTTP/1.1 200 OK"), ("/other", "HTTP/1.1 404 Not Found")] {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert!(text.starts_with(expect), "{text}");
        }
    }
}
