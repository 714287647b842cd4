//! gRPC calls over connections that are dialled here, so that it is known whether a request was sent.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tonic::body::Body;
use tonic::client::Grpc;
pub use tonic::{Code, Status};
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

/// etcd takes more frequent ones for an attack.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_PATIENCE: Duration = Duration::from_secs(5);
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// One HTTP/2 connection, shared by its clones.
#[derive(Clone)]
pub struct Connection {
    send: http2::SendRequest<Body>,
    origin: http::Uri,
}

impl Connection {
    /// Dials a host and port, with TLS where there is a configuration for it.
    pub async fn tcp(authority: &str, tls: Option<Arc<rustls::ClientConfig>>) -> Result<Self, String> {
        let stream = TcpStream::connect(authority).await.map_err(|e| e.to_string())?;
        // Small requests must not wait for each other.
        let _ = stream.set_nodelay(true);
        let Some(config) = tls else { return Self::over(stream, "http", authority).await };
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.map_err(|e| e.to_string())?;
        Self::over(stream, "https", authority).await
    }

    pub async fn unix(path: &Path) -> Result<Self, String> {
        let stream = UnixStream::connect(path).await.map_err(|e| e.to_string())?;
        Self::over(stream, "http", "localhost").await
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        scheme: &str,
        authority: &str,
    ) -> Result<Self, String> {
        let origin = http::Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build();
        let origin = origin.map_err(|e| e.to_string())?;
        let (send, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_PATIENCE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| chain(&e))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = chain(&error), "a gRPC connection ended");
            }
        });
        Ok(Self { send, origin })
    }

    pub fn is_closed(&self) -> bool {
        self.send.is_closed()
    }

    fn client(&self) -> Grpc<Self> {
        Grpc::with_origin(self.clone(), self.origin.clone()).max_decoding_message_size(usize::MAX)
    }

    pub async fn unary<I, O>(&self, path: &'static str, message: I) -> Result<O, Status>
    where
        I: prost::Message + 'static,
        O: prost::Message + Default + 'static,
    {
        let mut client = self.client();
        client.ready().await.map_err(|e| Status::unavailable(chain(&e)))?;
        let codec = ProstCodec::<I, O>::default();
        Ok(client.unary(Request::new(message), PathAndQuery::from_static(path), codec).await?.into_inner())
    }

    /// Sends messages as they come and answers what comes back. `require_leader` has etcd end it when it has no leader.
    pub async fn streaming<I, O>(
        &self,
        path: &'static str,
        messages: impl futures_util::Stream<Item = I> + Send + 'static,
        require_leader: bool,
    ) -> Result<Streaming<O>, Status>
    where
        I: prost::Message + 'static,
        O: prost::Message + Default + 'static,
    {
        let mut client = self.client();
        client.ready().await.map_err(|e| Status::unavailable(chain(&e)))?;
        let mut request = Request::new(messages);
        if require_leader {
            request.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
        }
        let codec = ProstCodec::<I, O>::default();
        Ok(client.streaming(request, PathAndQuery::from_static(path), codec).await?.into_inner())
    }
}

/// A server on a socket: dialled when it is needed, and again where the connection has ended.
pub struct UnixServer {
    path: PathBuf,
    open: tokio::sync::Mutex<Option<Connection>>,
}

impl UnixServer {
    pub fn new(path: PathBuf) -> Self {
        Self { path, open: Default::default() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub async fn connection(&self) -> Result<Connection, String> {
        let mut open = self.open.lock().await;
        match open.as_ref().filter(|connection| !connection.is_closed()) {
            Some(connection) => Ok(connection.clone()),
            None => Ok(open.insert(Connection::unix(&self.path).await?).clone()),
        }
    }
}

/// A status as gRPC for Go writes it.
pub fn text(status: &Status) -> String {
    format!("rpc error: code = {} desc = {}", code(status.code()), status.message())
}

/// The name that Go has for a code.
pub fn code(code: Code) -> String {
    match code {
        Code::Ok => "OK".to_owned(),
        Code::Cancelled => "Canceled".to_owned(),
        other => format!("{other:?}"),
    }
}

impl tower_service::Service<http::Request<Body>> for Connection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.send.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.send.send_request(request))
    }
}

/// An error with its causes: hyper's own texts say little.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
