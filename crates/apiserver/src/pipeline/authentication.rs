//! Who sends the request.

use std::sync::Arc;

use http::Request;
use kybern_apimachinery::ApiError;

use super::{Context, Next, Outcome};
use crate::access::{Credentials, Peer, UserInfo};
use crate::server::Server;
use crate::{Body, BoxFuture};

pub(super) fn stage(mut context: Context, next: Next) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        context.user = authenticate(&context.server, &mut context.request).await?;
        next.run(context).await
    })
}

async fn authenticate(server: &Server, request: &mut Request<Body>) -> Result<UserInfo, ApiError> {
    if let Some(user) = request.extensions_mut().remove::<UserInfo>() {
        return Ok(user);
    }
    let peer: Option<Arc<Peer>> = request.extensions().get().cloned();
    let client_certificates = peer.as_ref().map_or(&[][..], |peer| &peer.certificates);
    let credentials = Credentials { headers: request.headers(), path: request.uri().path(), client_certificates };
    let (mut found, mut failed) = (None, false);
    for authenticator in &server.authenticators {
        if failed && authenticator.is_last_resort() {
            continue;
        }
        match authenticator.authenticate(&credentials).await {
            Ok(None) => {}
            Ok(Some(user)) => {
                found = Some(user);
                break;
            }
            Err(error) => {
                failed = true;
                tracing::debug!(%error, "unable to authenticate the request");
            }
        }
    }
    let mut user = found.ok_or_else(ApiError::unauthorized)?;
    if user.name != "system:anonymous"
        && let Some(slot) = peer.as_ref().and_then(|peer| peer.slot.as_ref())
    {
        slot.prove();
    }
    // No handler and no proxied server gets to see the credential.
    request.headers_mut().remove(http::header::AUTHORIZATION);
    let group = if user.name == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" };
    if !user.in_group("system:authenticated") && !user.in_group("system:unauthenticated") {
        user.groups.push(group.to_owned());
    }
    Ok(user)
}
