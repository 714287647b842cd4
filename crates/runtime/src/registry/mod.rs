//! Registries: how each is reached (`registries.yaml`), and the distribution protocol over HTTP.

mod auth;
mod config;
mod http;
mod session;
mod tls;

pub(crate) use auth::Credential;
pub(crate) use config::Registries;
pub use config::check_registries;
pub(crate) use http::explained;
pub(crate) use session::{Manifest, RegistryError, Session};
