//! Request and response bodies: the same type that the API server serves.

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use kybern_component_base::transport::BoxError;

/// A body of either direction.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Reads a whole body; an error when it is longer than `limit` bytes.
pub async fn collect(mut body: Body, limit: usize) -> Result<Bytes, BoxError> {
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        length += data.len();
        if length > limit {
            return Err(format!("the response is longer than {limit} bytes").into());
        }
        // A body of one frame, as the in-process transport delivers it, is not copied.
        match first {
            None => first = Some(data),
            Some(ref one) => {
                if rest.is_empty() {
                    rest.reserve(body.size_hint().lower() as usize + one.len() + data.len());
                    rest.extend_from_slice(one);
                }
                rest.extend_from_slice(&data);
            }
        }
    }
    Ok(if rest.is_empty() { first.unwrap_or_default() } else { rest.freeze() })
}
