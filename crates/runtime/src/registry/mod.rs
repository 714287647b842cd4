//! Registries: how each is reached (`registries.yaml`), and the distribution protocol over HTTP.

mod auth;
mod config;
mod http;
mod session;

pub(crate) use auth::Credential;
pub(crate) use config::Registries;
pub(crate) use session::{RegistryError, Session};
