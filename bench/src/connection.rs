//! Requests over connections of their own, whose answers are taken piece by piece and thrown away: many at once cost little.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Request;
use http::header::{ACCEPT, AUTHORIZATION, HOST};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use kybern_client::RestConfig;
use kybern_component_base::transport::{Connector, SystemResolver};
use tower_service::Service;

use crate::server::{PORT, Server, TOKEN};

pub(crate) const JSON: &str = "application/json";
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// One HTTP/1.1 connection over TLS.
pub(crate) struct Connection(http1::SendRequest<Empty<Bytes>>);

/// How an answer came.
pub(crate) struct Answer {
    pub(crate) first_byte: Duration,
    pub(crate) whole: Duration,
    pub(crate) bytes: usize,
}

/// What makes connections to a server.
pub(crate) struct Dialer(Connector);

impl Dialer {
    pub(crate) fn new(server: &Server) -> Result<Self> {
        let config = RestConfig::from_kubeconfig(&server.kubeconfig())?;
        Ok(Self(Connector::new(&config, &[b"http/1.1"], std::sync::Arc::new(SystemResolver))?))
    }

    pub(crate) async fn dial(&self) -> Result<Connection> {
        let stream = self.0.clone().call(format!("https://127.0.0.1:{PORT}").parse()?).await?;
        let (sender, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Connection(sender))
    }
}

impl Connection {
    /// The body of a successful answer.
    pub(crate) async fn get(&mut self, path: &str, accept: &str) -> Result<Incoming> {
        let request = Request::get(path)
            .header(HOST, "127.0.0.1")
            .header(ACCEPT, accept)
            .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
            .body(Empty::new())?;
        // The end of the last answer may have come just now.
        self.0.ready().await?;
        let response = self.0.send_request(request).await?;
        if !response.status().is_success() {
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            bail!("{path}: {status} {}", String::from_utf8_lossy(&body));
        }
        Ok(response.into_body())
    }

    /// Takes a whole answer.
    pub(crate) async fn take(&mut self, path: &str, accept: &str) -> Result<Answer> {
        let start = Instant::now();
        let mut body = self.get(path, accept).await?;
        let mut answer = Answer { first_byte: Duration::ZERO, whole: Duration::ZERO, bytes: 0 };
        while let Some(piece) = next(&mut body).await? {
            if answer.bytes == 0 {
                answer.first_byte = start.elapsed();
            }
            answer.bytes += piece.len();
        }
        answer.whole = start.elapsed();
        Ok(answer)
    }
}

/// The next piece of a body.
pub(crate) async fn next(body: &mut Incoming) -> Result<Option<Bytes>> {
    match body.frame().await {
        None => Ok(None),
        Some(frame) => Ok(Some(frame.context("the answer broke off")?.into_data().unwrap_or_default())),
    }
}
