//! Who asks, and may they: the seams that the crate `auth` fills.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use kybern_apimachinery::selector::{FieldSelector, LabelSelector};
use kybern_component_base::listener::Slot;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;

use crate::BoxFuture;
pub use crate::forward::CredentialHeaders;

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

/// Who is at the other end of a connection: an extension of every request that came by one.
#[derive(Debug, Default)]
pub struct Peer {
    pub address: Option<SocketAddr>,
    /// The client's certificate chain, verified; empty when it showed none.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Its place among the listener's connections, which is kept once it is known who is at the other end.
    pub slot: Option<Slot>,
}

/// What an authenticator may look at. In-process callers bring their [`UserInfo`] as a request extension and are not
/// authenticated again.
pub struct Credentials<'a> {
    pub headers: &'a http::HeaderMap,
    /// The URL's path: anonymous requests are let in by it.
    pub path: &'a str,
    /// The client's certificate chain (DER), verified by TLS against the client CA; empty when none was shown.
    pub client_certificates: &'a [CertificateDer<'static>],
    /// Takes what is to be told of a credential.
    pub notes: &'a Notes,
}

/// What is told of a credential beside whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// An annotation of the request in the audit log.
    Audit(&'static str, String),
    /// To the client.
    Warning(&'static str),
}

#[derive(Debug, Default)]
pub struct Notes(Mutex<Vec<Note>>);

impl Notes {
    pub fn extend(&self, notes: Vec<Note>) {
        self.0.lock().extend(notes);
    }

    pub(crate) fn take(&self) -> Vec<Note> {
        std::mem::take(&mut self.0.lock())
    }
}

/// Tells who sends a request. Authenticators are asked in order: the first answer counts.
pub trait Authenticator: Send + Sync + 'static {
    /// `Ok(None)`: no credential of this kind was presented. `Err`: one was, and it is bad.
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> BoxFuture<'a, Result<Option<UserInfo>, String>>;

    /// Where it finds credentials beside `Authorization` and the client's certificate: nothing that is proxied gets to see
    /// these headers.
    fn credential_headers(&self) -> CredentialHeaders {
        CredentialHeaders::default()
    }

    /// Whether it is asked only about those who showed no bad credential: their senders are to learn of it.
    fn is_last_resort(&self) -> bool {
        false
    }
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
    /// What a list, a watch or the deletion of a collection selects by fields; empty where it does not, or is malformed.
    pub field_selector: FieldSelector,
    /// The same by labels.
    pub label_selector: LabelSelector,
}

impl Attributes {
    /// The text after `is forbidden: ` of a refusal (upstream's `responsewriters`):
    /// `User "x" cannot list resource "pods" in API group "" in the namespace "default"`.
    pub fn refusal(&self, reason: &str) -> String {
        let Self { user, verb, group, resource, subresource, namespace, path, .. } = self;
        let mut text = if self.resource_request {
            let slash = if subresource.is_empty() { "" } else { "/" };
            let scope = if namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {namespace:?}")
            };
            format!(
                "User {:?} cannot {verb} resource \"{resource}{slash}{subresource}\" in API group {group:?} {scope}",
                user.name
            )
        } else {
            format!("User {:?} cannot {verb} path {path:?}", user.name)
        };
        if !reason.is_empty() {
            text.push_str(": ");
            text.push_str(reason);
        }
        text
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// With the reason, if there is one to tell.
    Allow(Option<Arc<str>>),
    Deny(String),
    /// Ask the next; the text is added to the final refusal.
    NoOpinion(String),
    /// The authorizer cannot tell: the next is asked, unless its failure policy denies. A request that nobody allows fails with
    /// the error.
    Error {
        text: String,
        deny: bool,
    },
}

/// What an authorizer says. Those who know from memory say it at once, without a future on the heap.
pub enum Answer<'a> {
    Now(Decision),
    Later(BoxFuture<'a, Decision>),
}

impl Answer<'_> {
    pub async fn decision(self) -> Decision {
        match self {
            Self::Now(decision) => decision,
            Self::Later(decision) => decision.await,
        }
    }
}

impl From<Decision> for Answer<'_> {
    fn from(decision: Decision) -> Self {
        Self::Now(decision)
    }
}

/// Says whether a request may go on. The first `Allow` or `Deny` counts; nothing but `NoOpinion` is a refusal.
pub trait Authorizer: Send + Sync + 'static {
    fn authorize<'a>(&'a self, attributes: &'a Attributes) -> Answer<'a>;
}

impl dyn Authorizer {
    /// The answer, once it is there.
    pub async fn decide(&self, attributes: &Attributes) -> Decision {
        self.authorize(attributes).decision().await
    }

    pub async fn allows(&self, attributes: &Attributes) -> bool {
        matches!(self.decide(attributes).await, Decision::Allow(_))
    }
}

/// Asks some authorizers in order.
pub fn ask<'a>(authorizers: &'a [Arc<dyn Authorizer>], attributes: &'a Attributes) -> Answer<'a> {
    let mut so_far = SoFar::default();
    for (number, authorizer) in authorizers.iter().enumerate() {
        let first = match authorizer.authorize(attributes) {
            Answer::Now(decision) => match so_far.add(decision) {
                Some(decision) => return decision.into(),
                None => continue,
            },
            Answer::Later(first) => first,
        };
        return Answer::Later(Box::pin(async move {
            if let Some(decision) = so_far.add(first.await) {
                return decision;
            }
            for authorizer in &authorizers[number + 1..] {
                if let Some(decision) = so_far.add(authorizer.decide(attributes).await) {
                    return decision;
                }
            }
            so_far.end()
        }));
    }
    so_far.end().into()
}

/// What those said who had no opinion.
#[derive(Default)]
struct SoFar {
    reasons: Vec<String>,
    errors: Vec<String>,
}

impl SoFar {
    /// The decision, if it is the last word.
    fn add(&mut self, decision: Decision) -> Option<Decision> {
        match decision {
            Decision::NoOpinion(reason) => self.reasons.extend(Some(reason).filter(|r| !r.is_empty())),
            Decision::Error { text, deny: false } => self.errors.push(text),
            Decision::Error { deny: true, .. } | Decision::Allow(_) | Decision::Deny(_) => return Some(decision),
        }
        None
    }

    fn end(mut self) -> Decision {
        match self.errors.len() {
            0 => Decision::NoOpinion(self.reasons.join("\n")),
            1 => Decision::Error { text: self.errors.remove(0), deny: false },
            _ => Decision::Error { text: format!("[{}]", self.errors.join(", ")), deny: false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_upstreams() {
        let user = UserInfo { name: "x".into(), ..UserInfo::default() };
        let mut attributes = Attributes {
            user,
            verb: "list".into(),
            resource_request: true,
            resource: "pods".into(),
            ..Attributes::default()
        };
        attributes.namespace = "default".into();
        let check = |a: &Attributes, expect: &str| assert_eq!(a.refusal(""), expect);
        check(&attributes, r#"User "x" cannot list resource "pods" in API group "" in the namespace "default""#);
        assert!(attributes.refusal("why").ends_with(r#" in the namespace "default": why"#));
        attributes.namespace.clear();
        attributes.subresource = "log".into();
        check(&attributes, r#"User "x" cannot list resource "pods/log" in API group "" at the cluster scope"#);
        attributes.resource_request = false;
        attributes.path = "/metrics".into();
        check(&attributes, r#"User "x" cannot list path "/metrics""#);
    }
}
