//! The three kinds of patch that are no server-side apply. Each is a pure function from a tree and a patch to a tree.

pub mod json;
mod ledger;
pub mod merge;
pub mod strategic;

use kybern_apimachinery::{ApiError, Budget, OverBudget, Reason};

/// Why a patch was refused. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself makes no sense: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch makes sense, but not for this object: 422.
    #[error("{0}")]
    NotApplicable(String),
    /// A `test` of a JSON patch does not hold: 422.
    #[error("{0}")]
    TestFailed(String),
    /// A JSON patch of more than [`json::MAX_OPERATIONS`]: 413.
    #[error("Request entity too large: The allowed maximum operations in a JSON patch is {max}, got {0}", max = json::MAX_OPERATIONS)]
    TooManyOperations(usize),
    /// What the patch would make, or cost, is too large: 413.
    #[error("{0}")]
    TooLarge(String),
}

impl From<String> for PatchError {
    fn from(text: String) -> Self {
        Self::NotApplicable(text)
    }
}

impl From<OverBudget> for PatchError {
    fn from(over: OverBudget) -> Self {
        match over {
            OverBudget::Depth(_) => Self::NotApplicable(OverBudget::Depth(Budget::REQUEST.depth).to_string()),
            OverBudget::Nodes(_) => Self::TooLarge(over.to_string()),
        }
    }
}

impl From<PatchError> for ApiError {
    fn from(error: PatchError) -> Self {
        let text = error.to_string();
        match error {
            PatchError::Malformed(_) => Self::bad_request(text),
            PatchError::TooManyOperations(_) | PatchError::TooLarge(_) => {
                Self::new(Reason::RequestEntityTooLarge, text)
            }
            // Upstream's message, "the server rejected our request due to an error in our request", hides the reason.
            PatchError::NotApplicable(_) | PatchError::TestFailed(_) => Self::new(Reason::Invalid, text),
        }
    }
}
