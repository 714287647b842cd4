//! One client for all that the API server calls out to: reviews of tokens, access, admissions and images, conversions, audit
//! events (`k8s.io/apiserver/pkg/util/webhook`).
//!
//! A [`Client`] posts JSON to one place and answers with the body, or with upstream's words for what went wrong. Clients of
//! objects (a URL or a Service, with a CA bundle) come from a [`ClientManager`], which shares them and their connections;
//! those of files from [`Client::from_kubeconfig`].

mod client;
mod config;
mod error;
mod fetch;
mod go_text;
mod manager;
mod resolver;
mod retry;

pub use client::{Client, RESPONSE_LIMIT, Settings};
pub use config::{ClientConfig, ServiceReference, Target};
pub use error::{CallError, failed_calling};
pub use fetch::{Fetched, Fetcher};
pub use go_text::{dial_error, request_error};
pub use manager::ClientManager;
pub use resolver::{NoServices, ServiceResolver};
pub use retry::Backoff;
