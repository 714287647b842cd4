//! The generic API server. It knows no kind: kinds are [`resource::Resource`] rows that the wiring hands in.

pub mod access;
pub mod connect;
pub mod resource;
pub mod strategy;

use std::future::Future;
use std::pin::Pin;

/// A boxed future, so that the traits of this crate are object safe.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A request's or response's body.
pub type Body = http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, Box<dyn std::error::Error + Send + Sync>>;
