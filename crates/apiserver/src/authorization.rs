//! May the user do this?

use std::sync::Arc;

use kybern_apimachinery::{ApiError, GroupResource, Reason};

use crate::access::{self, Attributes, Decision, UserInfo};
use crate::audit::Record;
use crate::request_info::RequestInfo;
use crate::server::Server;

/// Asks the authorizers in order, and answers the reason of who allows it.
pub(crate) async fn authorize(server: &Server, attributes: &Attributes) -> Result<Option<Arc<str>>, Refusal> {
    match access::ask(&server.authorizers, attributes).decision().await {
        Decision::Allow(reason) => Ok(reason),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(Refusal::Forbidden(reason)),
        Decision::Error { text, .. } => Err(Refusal::Failed(text)),
    }
}

/// Why a request does not go on.
pub(crate) enum Refusal {
    /// Nobody allows it; the reason may be empty.
    Forbidden(String),
    /// Those who are asked cannot tell.
    Failed(String),
}

impl Refusal {
    fn into_api_error(self, info: &RequestInfo, attributes: &Attributes) -> ApiError {
        match self {
            Self::Forbidden(reason) => {
                let resource = GroupResource::new(&info.group, &info.resource);
                ApiError::forbidden(&resource, &info.name, &attributes.refusal(&reason))
            }
            Self::Failed(text) => {
                ApiError::new(Reason::InternalError, format!("Internal Server Error: {:?}: {text}", info.path))
            }
        }
    }
}

/// What a request is to those who judge it.
pub(crate) fn attributes(info: &RequestInfo, user: UserInfo) -> Attributes {
    Attributes {
        user,
        verb: info.verb.to_owned(),
        resource_request: info.resource_request,
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        path: info.path.clone(),
        field_selector: info.field_selector.clone(),
        label_selector: info.label_selector.clone(),
    }
}

/// The refusal of a request that is not allowed, else its user. `audit` is told how it was decided.
pub(crate) async fn check(
    server: &Server,
    info: &RequestInfo,
    user: UserInfo,
    audit: Option<&Record>,
) -> Result<UserInfo, ApiError> {
    let attributes = attributes(info, user);
    let decision = authorize(server, &attributes).await;
    if let Some(audit) = audit {
        let (word, reason) = match &decision {
            Ok(reason) => (Some("allow"), reason.as_deref().unwrap_or("")),
            Err(Refusal::Forbidden(reason)) => (Some("forbid"), reason.as_str()),
            Err(Refusal::Failed(_)) => (None, "internal error"),
        };
        if let Some(word) = word {
            audit.annotate("authorization.k8s.io/decision", word);
        }
        audit.annotate("authorization.k8s.io/reason", reason);
    }
    match decision {
        Ok(_) => Ok(attributes.user),
        Err(refusal) => Err(refusal.into_api_error(info, &attributes)),
    }
}

/// Whoever may update or patch may not create by that what is not there yet: a PUT or an apply that creates asks again.
pub(crate) async fn check_creation(server: &Server, info: &RequestInfo, user: &UserInfo) -> Result<(), ApiError> {
    let attributes = Attributes { verb: "create".to_owned(), ..attributes(info, user.clone()) };
    authorize(server, &attributes).await.map(|_| ()).map_err(|refusal| refusal.into_api_error(info, &attributes))
}
