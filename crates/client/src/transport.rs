//! The seam between a client and the way its requests travel.

use crate::{Body, BoxError, BoxFuture};

/// Carries one request to an API server and brings the head of its response; the body streams after it.
///
/// Request URIs hold path and query only: the transport knows the server. A `101 Switching Protocols` response carries
/// hyper's `OnUpgrade` in its extensions. Dropping the future or the response body abandons the request.
pub trait Transport: Send + Sync + 'static {
    fn call(&self, request: http::Request<Body>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>>;
}

/// The request may or may not have reached the server; no response came.
#[derive(Debug, thiserror::Error)]
#[error("{context}: {cause}")]
pub struct TransportError {
    /// What was attempted, such as `cannot reach https://10.0.0.1:6443`.
    pub context: String,
    pub cause: BoxError,
}

impl TransportError {
    pub fn new(context: impl Into<String>, cause: impl Into<BoxError>) -> Self {
        Self { context: context.into(), cause: cause.into() }
    }
}
