//! What is looked at before it is written: the seam that admission plugins fill, be they built in, policies or webhooks.

mod chain;
mod reinvocation;
mod request;

use kybern_apimachinery::{ApiError, Value};

use crate::BoxFuture;
pub(crate) use chain::AdmissionChain;
pub use reinvocation::Reinvocation;
pub use request::{AdmissionRequest, Equivalent, Operation, Versions};

/// The steps of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Objects may be changed.
    Admit,
    Validate,
}

impl Step {
    /// As metrics name it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Validate => "validate",
        }
    }
}

/// One link of the admission chain. Plugins run in list order: every `admit` first (all of them a second time where one asks
/// for it, see [`Reinvocation`]), then every `validate`. A plugin with many slow things to ask, such as webhooks, asks them
/// at once in its own `validate`.
///
/// An object is held in the version that strategies see, whatever the version of the request; see [`AdmissionRequest::shown`].
/// It is absent on DELETE, where there is the old one.
pub trait AdmissionPlugin: Send + Sync + 'static {
    /// Upstream's name of the plugin, as in `--enable-admission-plugins`.
    fn name(&self) -> &'static str;

    /// Whether it has anything to do in a step of an operation: else it is not asked, and does not count. Always the same.
    fn handles(&self, _step: Step, _operation: Operation) -> bool {
        true
    }

    /// May change the object. The strategy has not seen it yet: it lacks what the server fills in, and its name where that is
    /// to be generated.
    fn admit<'a>(
        &'a self,
        _request: &'a AdmissionRequest<'a>,
        _object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async { Ok(()) })
    }

    /// Judges the object as it is going to be written. Asked again where the write has to be tried again.
    fn validate<'a>(
        &'a self,
        _request: &'a AdmissionRequest<'a>,
        _object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async { Ok(()) })
    }
}
