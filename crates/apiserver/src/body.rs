//! Request bodies in, response bodies out.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use kybern_apimachinery::{ApiError, Reason, Value};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

use crate::Body;

/// The largest request body, as upstream's default.
pub const MAX_REQUEST_BYTES: usize = 3 << 20;

/// How long a client may take to send it: upstream's time for a whole request.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

fn never(error: Infallible) -> Box<dyn std::error::Error + Send + Sync> {
    match error {}
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(never).boxed_unsync()
}

pub fn empty() -> Body {
    Empty::new().map_err(never).boxed_unsync()
}

/// A body of pieces that are made as they are sent.
pub fn stream(pieces: impl futures_util::Stream<Item = Bytes> + Send + 'static) -> Body {
    use futures_util::StreamExt;
    StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))).boxed_unsync()
}

/// Pieces that are made at once: to change threads for each would cost a good part of making it.
const AT_ONCE: usize = 4;

/// A body of pieces whose making takes a while: they are made on threads that may be held up, a few ahead of what is sent, but
/// for the first.
pub fn made_aside(pieces: impl Iterator<Item = Bytes> + Send + 'static) -> Body {
    type Making<I> = JoinHandle<(VecDeque<Bytes>, I)>;
    fn make<I: Iterator<Item = Bytes> + Send + 'static>(mut pieces: I, count: usize) -> Making<I> {
        tokio::task::spawn_blocking(move || (pieces.by_ref().take(count).collect(), pieces))
    }
    let start = (VecDeque::new(), make(pieces.fuse(), 1), 1);
    stream(futures_util::stream::unfold(start, |(mut ready, making, count)| async move {
        if let Some(piece) = ready.pop_front() {
            return Some((piece, (ready, making, count)));
        }
        // If making it panicked, the body ends too early.
        let (mut ready, pieces) = making.await.ok()?;
        let count = AT_ONCE.min(2 * count);
        ready.pop_front().map(|piece| (piece, (ready, make(pieces, count), count)))
    }))
}

/// Reads a whole body, refusing one that is too large.
pub async fn read(body: Body) -> Result<Bytes, ApiError> {
    let late = |_| {
        let text = format!("the body of the request did not come within {} seconds", READ_TIMEOUT.as_secs());
        ApiError::new(Reason::Timeout, text)
    };
    tokio::time::timeout(READ_TIMEOUT, read_all(body)).await.map_err(late)?
}

async fn read_all(mut body: Body) -> Result<Bytes, ApiError> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| ApiError::bad_request(format!("the body of the request could not be read: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > MAX_REQUEST_BYTES {
            let text = format!("Request entity too large: limit is {MAX_REQUEST_BYTES}");
            return Err(ApiError::new(Reason::RequestEntityTooLarge, text));
        }
        if first.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&data);
        }
    }
    // Most bodies come in one piece, which need not be copied.
    Ok(if rest.is_empty() { first } else { [&first[..], &rest].concat().into() })
}

/// A response with a body of a known length.
pub fn response(code: StatusCode, media_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let bytes = bytes.into();
    let length = bytes.len();
    let mut response = Response::new(full(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(media_type));
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response
}

pub fn json(code: StatusCode, value: &Value) -> Response<Body> {
    let mut bytes = value.to_string().into_bytes();
    bytes.push(b'\n');
    response(code, "application/json", bytes)
}

pub fn text(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    response(code, "text/plain; charset=utf-8", text.into())
}

/// An error as the `Status` that clients expect.
pub fn error(error: &ApiError) -> Response<Body> {
    let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &error.to_status());
    let retry = error.details().and_then(|d| d["retryAfterSeconds"].as_u64()).filter(|s| *s > 0);
    if let Some(seconds) = retry {
        response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
    }
    response
}

/// A body that holds on to something until all of it was taken, or it is given up.
pub(crate) fn holding(body: Body, held: impl Send + Unpin + 'static) -> Body {
    // What is there as a whole needs no more work.
    if body.size_hint().exact().is_some() {
        return body;
    }
    Watched { body, held: Some(held), deadline: None }.boxed_unsync()
}

/// A body that ends in an error unless all of it is taken in time.
pub(crate) fn until(body: Body, deadline: Instant) -> Body {
    if body.size_hint().exact().is_some() {
        return body;
    }
    let deadline = Some(Box::pin(tokio::time::sleep_until(deadline)));
    Watched { body, held: None::<()>, deadline }.boxed_unsync()
}

/// A body on its way.
struct Watched<H> {
    body: Body,
    held: Option<H>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<H: Unpin + Send + 'static> http_body::Body for Watched<H> {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            self.held = None;
            return Poll::Ready(Some(Err("the request did not complete within the allotted timeout".into())));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.held = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Gathers small pieces into larger ones, so that a list of small objects is not sent in crumbs.
pub fn coalesce(pieces: impl Iterator<Item = Bytes> + Send + 'static) -> impl Iterator<Item = Bytes> + Send {
    // With its quarter more, what allocators still take for small.
    const PIECE: usize = 48 << 10;
    let mut pieces = pieces.peekable();
    std::iter::from_fn(move || {
        let first = pieces.next()?;
        if first.len() >= PIECE || pieces.peek().is_none() {
            return Some(first);
        }
        let mut gathered = BytesMut::with_capacity(PIECE + PIECE / 4);
        gathered.extend_from_slice(&first);
        while let Some(piece) = pieces.next_if(|piece| gathered.len() + piece.len() <= PIECE + PIECE / 4) {
            gathered.extend_from_slice(&piece);
        }
        Some(gathered.freeze())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coalescing_keeps_every_byte() {
        let pieces: Vec<Bytes> = (0..5000u32).map(|i| Bytes::from(vec![i as u8; (i as usize * 37) % 900])).collect();
        let big = Bytes::from(vec![1; 200_000]);
        let all: Vec<Bytes> = pieces.into_iter().chain([big, Bytes::from_static(b"end")]).collect();
        let expect: Vec<u8> = all.iter().flatten().copied().collect();
        let sent: Vec<Bytes> = coalesce(all.into_iter()).collect();
        assert!(sent.len() < 60, "{}", sent.len());
        assert_eq!(sent.iter().flatten().copied().collect::<Vec<u8>>(), expect);
    }

    #[tokio::test]
    async fn what_is_made_aside_comes_whole_and_in_order() {
        for count in 0..20u8 {
            let pieces = (0..count).map(|i| Bytes::from(vec![i; 3]));
            let expect: Vec<u8> = (0..count).flat_map(|i| [i; 3]).collect();
            assert_eq!(read(made_aside(pieces)).await.unwrap(), expect);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let drops = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Bytes::from_static(b" "), ()))
        });
        assert_eq!(read(stream(drops)).await.unwrap_err().code(), 504);
    }

    #[tokio::test]
    async fn a_body_that_is_too_large_is_refused() {
        assert_eq!(read(full(vec![b' '; MAX_REQUEST_BYTES])).await.unwrap().len(), MAX_REQUEST_BYTES);
        let error = read(full(vec![b' '; MAX_REQUEST_BYTES + 1])).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (413, "Request entity too large: limit is 3145728"));
    }
}
