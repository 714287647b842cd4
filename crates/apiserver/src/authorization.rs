//! May the user do this?

use kybern_apimachinery::{ApiError, GroupResource};

use crate::access::{Attributes, Decision, UserInfo};
use crate::request_info::RequestInfo;
use crate::server::Server;

/// Asks the authorizers in order; the error says why not.
pub(crate) fn authorize(server: &Server, attributes: &Attributes) -> Result<(), String> {
    let mut reasons = Vec::new();
    for authorizer in &server.authorizers {
        match authorizer.authorize(attributes) {
            Decision::Allow => return Ok(()),
            Decision::Deny(reason) => return Err(reason),
            Decision::NoOpinion(reason) => reasons.extend(Some(reason).filter(|r| !r.is_empty())),
        }
    }
    Err(reasons.join("\n"))
}

pub(crate) fn check(server: &Server, info: &RequestInfo, user: &UserInfo) -> Result<(), ApiError> {
    let attributes = Attributes {
        user: user.clone(),
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
    };
    authorize(server, &attributes).map_err(|reason| {
        let resource = GroupResource::new(&info.group, &info.resource);
        ApiError::forbidden(&resource, &info.name, &attributes.refusal(&reason))
    })
}
