//! What is looked at before it is written: the seam that admission plugins fill, be they built in, policies or webhooks.

mod reinvocation;
mod request;

use kybern_apimachinery::{ApiError, Value};

use crate::BoxFuture;
pub use reinvocation::Reinvocation;
pub use request::{AdmissionRequest, Equivalent, Operation, Versions};

/// One link of the admission chain. Plugins run in list order: every `admit` first (all of them a second time where one asks
/// for it, see [`Reinvocation`]), then every `validate`. A plugin with many slow things to ask, such as webhooks, asks them
/// at once in its own `validate`.
///
/// An object is held in the version that strategies see, whatever the version of the request; see [`AdmissionRequest::shown`].
/// It is absent on DELETE, where there is the old one.
pub trait AdmissionPlugin: Send + Sync + 'static {
    /// Upstream's name of the plugin, as in `--enable-admission-plugins`.
    fn name(&self) -> &'static str;

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

type Plugins = [std::sync::Arc<dyn AdmissionPlugin>];

/// Runs the mutating chain.
pub(crate) async fn admit(
    plugins: &Plugins,
    request: &AdmissionRequest<'_>,
    mut object: Option<&mut Value>,
) -> Result<(), ApiError> {
    loop {
        for plugin in plugins {
            plugin.admit(request, object.as_deref_mut()).await?;
        }
        if !request.reinvocation.begin_again() {
            return Ok(());
        }
    }
}

/// Runs the validating chain.
pub(crate) async fn validate(
    plugins: &Plugins,
    request: &AdmissionRequest<'_>,
    object: Option<&Value>,
) -> Result<(), ApiError> {
    for plugin in plugins {
        plugin.validate(request, object).await?;
    }
    Ok(())
}
