//! The generic API server. It knows no kind: kinds are [`resource::Resource`] rows that the wiring hands in.
//!
//! A request passes [`pipeline`]'s stages and reaches a handler in `handlers`, one file per verb. Reads are answered from
//! [`cache`] with bytes that were encoded when the object was committed; writes go through `write` to the store.

pub mod access;
pub mod admission;
pub mod audit;
mod authorization;
pub mod body;
pub mod cache;
mod codec;
pub mod connect;
mod contention;
mod continue_token;
mod convert;
mod deletion;
mod discovery;
mod drain;
mod exchange;
mod flow;
mod flow_status;
pub mod forward;
mod gzip;
mod handlers;
mod health;
pub mod held;
mod in_flight;
mod managed;
mod metadata;
mod metrics;
mod negotiate;
mod objects;
mod openapi;
mod openapi_parts;
mod options;
mod pipeline;
mod protobuf_store;
pub mod registrations;
mod request_info;
pub mod resource;
mod resources;
mod respond;
mod routes;
pub mod serve;
mod server;
pub mod strategy;
mod table;
pub mod transaction;
pub mod warnings;
mod write;

use std::future::Future;
use std::pin::Pin;

pub use health::Checks;
pub use metrics::Metrics;
pub use openapi::part_of as openapi_part;
pub use protobuf_store::ProtobufStore;
pub use routes::{PrefixRequest, PrefixRoute, PrefixRoutes, Route};
pub use server::{Options, Server};

/// A boxed future, so that the traits of this crate are object safe.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A request's or response's body.
pub type Body = http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, Box<dyn std::error::Error + Send + Sync>>;
