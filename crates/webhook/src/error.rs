//! What may go wrong with a call, in upstream's words.

use std::fmt;

use kybern_apimachinery::ApiError;

/// Why a call brought no answer that can be read.
#[derive(Clone, Debug, PartialEq)]
pub enum CallError {
    /// There was no response: `Post "https://…": connection refused`.
    NoResponse { url: String, cause: String, kind: NoResponse },
    /// The body broke off, or is too long.
    Body(String),
    /// The response is an error: the `Status` that it holds, or what its code says.
    Status(ApiError),
    /// There can be no call: the configuration is unusable.
    Config(String),
}

/// How a response came not to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoResponse {
    /// Its time ran out.
    Deadline,
    /// The connection was lost: another attempt may do better.
    Lost,
    Other,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoResponse { url, cause, .. } => write!(f, "Post {url:?}: {cause}"),
            Self::Body(text) | Self::Config(text) => f.write_str(text),
            Self::Status(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl std::error::Error for CallError {}

impl CallError {
    /// Whether another attempt may do better: connections lost, answers that say `later` (upstream's `DefaultShouldRetry`).
    pub fn should_retry(&self) -> bool {
        use kybern_apimachinery::Reason::{InternalError, Timeout, TooManyRequests};
        match self {
            Self::NoResponse { kind, .. } => *kind == NoResponse::Lost,
            Self::Status(error) => {
                let asks = error.details().is_some_and(|d| d["retryAfterSeconds"].as_u64().unwrap_or(0) > 0);
                asks || matches!(error.reason(), InternalError | Timeout | TooManyRequests)
            }
            Self::Body(_) | Self::Config(_) => false,
        }
    }

    pub fn is_deadline(&self) -> bool {
        matches!(self, Self::NoResponse { kind: NoResponse::Deadline, .. })
    }

    /// The HTTP code of an error response.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Status(error) => Some(error.code()),
            _ => None,
        }
    }
}

/// `failed calling webhook "x": CAUSE`.
pub fn failed_calling(webhook: &str, cause: impl fmt::Display) -> String {
    format!("failed calling webhook {webhook:?}: {cause}")
}
