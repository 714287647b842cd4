//! What is looked at before it is written: the seam that admission plugins fill.

use kybern_apimachinery::{ApiError, Value};

use crate::BoxFuture;
use crate::access::UserInfo;
use crate::resource::Resource;

/// What an admission plugin is shown: upstream's `admission.Attributes`.
pub struct AdmissionRequest<'a> {
    pub user: &'a UserInfo,
    pub resource: &'a Resource,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub operation: Operation,
    pub old: Option<&'a Value>,
    /// `CreateOptions` and the like.
    pub options: &'a Value,
    pub dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// One link of the admission chain. Plugins run in list order: every `admit` first, then every `validate`.
pub trait AdmissionPlugin: Send + Sync + 'static {
    /// Upstream's name of the plugin, as in `--enable-admission-plugins`.
    fn name(&self) -> &'static str;

    /// May change the object (absent on delete and connect).
    fn admit<'a>(
        &'a self,
        _request: &'a AdmissionRequest<'a>,
        _object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async { Ok(()) })
    }

    fn validate<'a>(
        &'a self,
        _request: &'a AdmissionRequest<'a>,
        _object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async { Ok(()) })
    }
}
