//! What may go wrong with a call.

use std::time::Duration;

use kybern_api::DecodeError;
use kybern_apimachinery::{ApiError, Reason};
use kybern_component_base::transport::ConfigError;

use crate::TransportError;

/// Why a call brought no object.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with a `Status`.
    #[error("{0}")]
    Api(#[from] ApiError),
    /// No answer came.
    #[error("{0}")]
    Transport(#[from] TransportError),
    /// The answer is not what was asked for.
    #[error("{0}")]
    Decode(String),
    /// The configuration (kubeconfig, in-cluster files) is unusable.
    #[error("{0}")]
    Config(String),
}

impl From<DecodeError> for ClientError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error.to_string())
    }
}

impl From<ConfigError> for ClientError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error.0)
    }
}

impl ClientError {
    /// The API's reason; `None` for errors that are no `Status`.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Api(error) => Some(error.reason()),
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.reason() == Some(Reason::NotFound)
    }

    pub fn is_conflict(&self) -> bool {
        self.reason() == Some(Reason::Conflict)
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason() == Some(Reason::AlreadyExists)
    }

    /// The history before the asked resourceVersion is gone: list again.
    pub fn is_expired(&self) -> bool {
        matches!(self.reason(), Some(Reason::Expired | Reason::Gone)) || matches!(self, Self::Api(e) if e.code() == 410)
    }

    /// How long the server wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        let Self::Api(error) = self else { return None };
        error.details()?["retryAfterSeconds"].as_u64().map(Duration::from_secs)
    }
}
