//! Who sends the request.

use std::sync::Arc;

use http::Request;
use kybern_apimachinery::ApiError;

use super::{Context, Next, Outcome, audit};
use crate::access::{Credentials, Note, Notes, Peer, UserInfo};
use crate::options::Query;
use crate::server::Server;
use crate::{Body, BoxFuture};

pub(super) fn stage(mut context: Box<Context>, next: Next) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        let notes = Notes::default();
        let authenticated = authenticate(&context.server, &mut context.request, &notes).await;
        for note in notes.take() {
            match note {
                Note::Audit(key, value) => context.audit.annotate(key, &value),
                Note::Warning(text) => context.warnings.add(text.to_owned()),
            }
        }
        match authenticated {
            Ok(user) => context.user = user,
            Err(error) => {
                let tried = tried(&context.request, &context.query);
                audit::failed(&context, &tried, error.code());
                return Err(error);
            }
        }
        next.run(context).await
    })
}

/// What the audit log says of a request that nobody vouches for.
fn tried(request: &Request<Body>, query: &Query) -> String {
    let authorization = request.headers().get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or("");
    let scheme = authorization.trim().split_once(' ').map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
    let certificate = request.extensions().get::<Arc<Peer>>().is_some_and(|peer| !peer.certificates.is_empty());
    let methods = [
        (scheme == "basic", "basic"),
        (scheme == "bearer", "bearer"),
        (query.has("access_token"), "access_token"),
        (certificate, "x509"),
    ];
    let methods: Vec<&str> = methods.into_iter().filter(|(tried, _)| *tried).map(|(_, name)| name).collect();
    if methods.is_empty() {
        return "Authentication failed, no credentials provided".to_owned();
    }
    format!("Authentication failed, attempted: {}", methods.join(", "))
}

async fn authenticate(server: &Server, request: &mut Request<Body>, notes: &Notes) -> Result<UserInfo, ApiError> {
    if let Some(user) = request.extensions_mut().remove::<UserInfo>() {
        return Ok(user);
    }
    let peer: Option<Arc<Peer>> = request.extensions().get().cloned();
    let client_certificates = peer.as_ref().map_or(&[][..], |peer| &peer.certificates);
    let credentials =
        Credentials { headers: request.headers(), path: request.uri().path(), client_certificates, notes };
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
