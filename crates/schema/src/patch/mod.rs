//! The three kinds of patch that are no server-side apply. Each is a pure function from a tree and a patch to a tree.

pub mod json;
pub mod merge;
pub mod strategic;

use kybern_apimachinery::{ApiError, Reason};

/// Why a patch was refused. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself makes no sense: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch makes sense, but not for this object: 422.
    #[error("{0}")]
    NotApplicable(String),
    /// A JSON patch of more than [`json::MAX_OPERATIONS`]: 413.
    #[error("Request entity too large: The allowed maximum operations in a JSON patch is {max}, got {0}", max = json::MAX_OPERATIONS)]
    TooManyOperations(usize),
}

impl From<PatchError> for ApiError {
    fn from(error: PatchError) -> Self {
        let text = error.to_string();
        match error {
            PatchError::Malformed(_) => Self::bad_request(text),
            PatchError::TooManyOperations(_) => Self::new(Reason::RequestEntityTooLarge, text),
            // Upstream's message, "the server rejected our request due to an error in our request", hides the reason.
            PatchError::NotApplicable(_) => Self::new(Reason::Invalid, text),
        }
    }
}
