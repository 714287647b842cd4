//! Who asks, and may they: the seams that the crate `auth` fills.

use std::collections::BTreeMap;

use kybern_apimachinery::ApiError;

use crate::BoxFuture;

/// `authentication.k8s.io` `UserInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What an authenticator may look at. In-process callers bring their [`UserInfo`] as a request extension and are not
/// authenticated again.
pub struct Credentials<'a> {
    pub headers: &'a http::HeaderMap,
    /// The URL's path: anonymous requests are let in by it.
    pub path: &'a str,
    /// The client's certificate chain (DER), verified by TLS against the client CA; empty when none was shown.
    pub client_certificates: &'a [rustls::pki_types::CertificateDer<'static>],
}

/// Tells who sends a request. Authenticators are asked in order: the first answer counts.
pub trait Authenticator: Send + Sync + 'static {
    /// `Ok(None)`: no credential of this kind was presented. `Err`: one was, and it is bad.
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> BoxFuture<'a, Result<Option<UserInfo>, String>>;
}

/// What is to be authorized: upstream's `authorizer.Attributes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub user: UserInfo,
    /// Lower case: `get list watch create update patch delete deletecollection`, or an HTTP method, or a special verb such
    /// as `bind`, `escalate`, `impersonate`.
    pub verb: String,
    pub resource_request: bool,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// The URL path of a non-resource request.
    pub path: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny(String),
    /// Ask the next; the text is added to the final refusal.
    NoOpinion(String),
}

/// Says whether a request may go on. The first `Allow` or `Deny` counts; nothing but `NoOpinion` is a refusal. Pure over a
/// snapshot that the authorizer keeps current from watches, hence not async.
pub trait Authorizer: Send + Sync + 'static {
    fn authorize(&self, attributes: &Attributes) -> Decision;
}

/// What an admission plugin is shown: upstream's `admission.Attributes`.
pub struct AdmissionRequest<'a> {
    pub user: &'a UserInfo,
    pub resource: &'a crate::resource::Resource,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub operation: Operation,
    pub old: Option<&'a kybern_apimachinery::Value>,
    /// `CreateOptions` and the like.
    pub options: &'a kybern_apimachinery::Value,
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
        _object: Option<&'a mut kybern_apimachinery::Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async { Ok(()) })
    }

    fn validate<'a>(
        &'a self,
        _request: &'a AdmissionRequest<'a>,
        _object: Option<&'a kybern_apimachinery::Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async { Ok(()) })
    }
}
