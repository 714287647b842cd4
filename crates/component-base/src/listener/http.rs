//! HTTP over a connection that is held to its limits.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Slot;
use super::frames::Counted;

/// Requests that one HTTP/2 connection may have open, as upstream's default.
const MAX_STREAMS: u32 = 250;
/// All headers of one request together.
const MAX_HEADER_BYTES: u32 = 64 << 10;
/// Headers of one HTTP/1 request.
const MAX_HEADERS: usize = 200;
/// Requests that are taken back before they are looked at.
const MAX_PENDING_RESETS: usize = 20;
/// Answers that wait for one stream's client.
const MAX_SEND_BYTES: usize = 256 << 10;
/// What a client may send on one stream, and on all of a connection, before it is read.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// A silent HTTP/2 client is asked whether it is there, and has so long to answer.
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What is spoken on a connection, as TLS has agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    pub fn of(alpn: Option<&[u8]>) -> Self {
        if alpn == Some(b"h2") { Self::Http2 } else { Self::Http1 }
    }
}

/// Serves one connection to its end. Whoever asks nothing within [`Limits::head`](super::Limits), or has to give way, is cut.
pub async fn serve<S, F, B, E>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    protocol: Protocol,
    slot: Slot,
    service: S,
) -> Result<(), Box<dyn Error + Send + Sync>>
where
    S: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
    E: Into<Box<dyn Error + Send + Sync>> + 'static,
{
    let asked = Arc::new(AtomicBool::new(false));
    let service = {
        let asked = asked.clone();
        service_fn(move |request| {
            asked.store(true, Ordering::Relaxed);
            service(request)
        })
    };
    let head = slot.limits().head;
    let silent = async {
        tokio::time::sleep(head).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        () = slot.evicted() => Ok(()),
        served = speak(stream, protocol, &slot, service) => served.map_err(|error| {
            if error.is_timeout() || error.is_parse_too_large() {
                slot.cut(if error.is_timeout() { "silent" } else { "head" });
            }
            error.into()
        }),
        () = silent => {
            slot.cut("silent");
            Err("it asked for nothing".into())
        }
    }
}

async fn speak<S, B>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    protocol: Protocol,
    slot: &Slot,
    service: S,
) -> hyper::Result<()>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    match protocol {
        Protocol::Http1 => {
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(slot.limits().head)
                .max_headers(MAX_HEADERS)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await
        }
        Protocol::Http2 => {
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(MAX_STREAMS)
                .max_header_list_size(MAX_HEADER_BYTES)
                .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(MAX_SEND_BYTES)
                .keep_alive_interval(PING_AFTER)
                .keep_alive_timeout(PING_TIMEOUT)
                .serve_connection(TokioIo::new(Counted::new(stream, slot.clone())), service)
                .await
        }
    }
}
