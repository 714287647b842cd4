//! What of a request nobody wanted to read. Over HTTP/1.1 an answer that is given early (a refusal, mostly) is lost when its
//! connection is closed on bytes that still come: the client sees a reset instead. Over HTTP/2 the stream is reset, without an
//! error, which some clients (curl) take for one. So what still comes is read and thrown away for a while, as Go's server does.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::EXPECT;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::oneshot;

use crate::{Body, body};

/// How long the rest of a body is read.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a client that sends more than is read has for the answer.
const LINGER: Duration = Duration::from_millis(500);

/// A body that comes back when it is dropped before its end.
struct Lent {
    body: Option<Incoming>,
    ended: bool,
    back: Option<oneshot::Sender<Incoming>>,
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        // An error ends a body, too.
        self.ended |= matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, |body| body.size_hint())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let rest = self.body.take().filter(|body| !self.ended && !body.is_end_stream());
        if let (Some(rest), Some(back)) = (rest, self.back.take()) {
            let _ = back.send(rest);
        }
    }
}

/// What is left of a body, as soon as nobody reads it any more.
pub(crate) struct Rest(Option<oneshot::Receiver<Incoming>>);

/// Lends a request's body out.
pub(crate) fn lend(request: Request<Incoming>) -> (Request<Body>, Rest) {
    // A client that asks first whether it may send its body waits for the answer.
    let asks = request.headers().contains_key(EXPECT);
    if request.body().is_end_stream() || asks {
        return (request.map(|body| body.map_err(Into::into).boxed_unsync()), Rest(None));
    }
    let (back, rest) = oneshot::channel();
    let request = request.map(|body| Lent { body: Some(body), ended: false, back: Some(back) }.boxed_unsync());
    (request, Rest(Some(rest)))
}

impl Rest {
    /// Reads on beside the answer, within bounds.
    pub(crate) fn drain(self) {
        let Some(mut rest) = self.0 else { return };
        match rest.try_recv() {
            Ok(body) => drop(tokio::spawn(discard(body))),
            // Whoever answers still reads: a proxied request, mostly.
            Err(oneshot::error::TryRecvError::Empty) => drop(tokio::spawn(async move {
                if let Ok(body) = rest.await {
                    discard(body).await;
                }
            })),
            Err(oneshot::error::TryRecvError::Closed) => {}
        }
    }
}

async fn discard(mut body: Incoming) {
    let mut left = body::MAX_REQUEST_BYTES;
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return false;
            }
        }
        true
    };
    let ended = tokio::time::timeout(PATIENCE, read).await.unwrap_or(false);
    if !ended {
        // Reading no further, but not closing yet either: what was answered is on its way.
        tokio::time::sleep(LINGER).await;
    }
}
