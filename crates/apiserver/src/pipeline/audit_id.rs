//! Every request has a name, the client's or a new one, which the answer tells.

use http::{HeaderName, HeaderValue};
use kybern_component_base::uuid;

use super::{Context, Next, Outcome};
use crate::BoxFuture;

pub(super) const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// Longer names are not taken from a client.
const MAX_LENGTH: usize = 64;

pub(super) fn stage(context: Box<Context>, next: Next) -> BoxFuture<'static, Outcome> {
    let given = context.request.headers().get(AUDIT_ID).filter(|id| !id.is_empty() && id.len() <= MAX_LENGTH).cloned();
    let id = given.or_else(|| HeaderValue::try_from(uuid::v4()).ok());
    if let Some(id) = id.as_ref().and_then(|id| id.to_str().ok()) {
        context.audit.name(id);
    }
    Box::pin(async move {
        let mut response = next.run(context).await?;
        if let Some(id) = id {
            response.headers_mut().insert(AUDIT_ID, id);
        }
        Ok(response)
    })
}
