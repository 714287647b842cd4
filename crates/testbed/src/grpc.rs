//! A gRPC server on a socket, for clients of plugins. Messages are encoded and decoded by the test.

use std::convert::Infallible;
use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;
use tokio::task::{JoinHandle, JoinSet};

/// A message, or a code with its text.
pub type GrpcAnswer = Result<Vec<u8>, (u8, &'static str)>;

/// Serves each call, by its path and message, until the task is aborted: then the connections are gone, too.
pub fn serve_grpc(
    socket: &Path,
    answer: impl Fn(&str, Bytes) -> GrpcAnswer + Clone + Send + Sync + 'static,
) -> JoinHandle<()> {
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).expect("a socket");
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            connections.spawn(async move {
                let service = service_fn(move |request| call(answer.clone(), request));
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    })
}

async fn call(
    answer: impl Fn(&str, Bytes) -> GrpcAnswer,
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let (message, (code, text)) = match answer(&path, body.slice(body.len().min(5)..)) {
        Ok(message) => (Some(message), (0, "")),
        Err(status) => (None, status),
    };
    let mut frames = Vec::new();
    if let Some(message) = message {
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(message.len() as u32);
        framed.extend_from_slice(&message);
        frames.push(Ok(Frame::data(framed.freeze())));
    }
    let trailers = http::HeaderMap::from_iter([
        (http::HeaderName::from_static("grpc-status"), http::HeaderValue::from(u16::from(code))),
        (http::HeaderName::from_static("grpc-message"), http::HeaderValue::from_static(text)),
    ]);
    frames.push(Ok(Frame::trailers(trailers)));
    let answer = StreamBody::new(futures_util::stream::iter(frames));
    Ok(http::Response::builder().header("content-type", "application/grpc").body(answer).expect("an answer"))
}
