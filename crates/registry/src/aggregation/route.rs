//! Requests that another server answers.

use std::sync::{Arc, Weak};
use std::time::Duration;

use http::header::{EXPECT, HOST, LOCATION, UPGRADE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version};
use kybern_apimachinery::ApiError;
use kybern_apiserver::forward::take_hop_by_hop;
use kybern_apiserver::{Body, BoxFuture, PrefixRequest, PrefixRoute, body};

use super::Shared;
use super::backend::{Connections, identify};
use crate::connect::{forwarded_for, stream};

const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// How long discovery of another server's may take, so that its clients need not wait for one that hangs.
const DISCOVERY_PATIENCE: Duration = Duration::from_secs(5);

/// Answers for one APIService.
pub(super) struct Route {
    pub(super) name: String,
    pub(super) shared: Weak<Shared>,
    /// An error says why there can be none.
    pub(super) connections: Result<Arc<Connections>, String>,
    pub(super) rejects_redirects: bool,
}

impl PrefixRoute for Route {
    fn serve(&self, request: PrefixRequest) -> BoxFuture<'_, Result<Response<Body>, ApiError>> {
        Box::pin(async move { Ok(self.pass_on(request).await.unwrap_or_else(Refusal::answer)) })
    }
}

/// An answer of this server's.
struct Refusal(StatusCode, String);

impl Refusal {
    fn unavailable(text: impl Into<String>) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, text.into())
    }

    fn internal(text: impl Into<String>) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, text.into())
    }

    fn unreachable(cause: &str) -> Self {
        Self::unavailable(format!("error trying to reach service: {cause}"))
    }

    fn undialled(cause: &dyn std::fmt::Display) -> Self {
        Self::unavailable(format!("error dialing backend: {cause}"))
    }

    /// As Go's `http.Error` writes it.
    fn answer(self) -> Response<Body> {
        let mut response = body::text(self.0, format!("{}\n", self.1));
        response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

impl Route {
    async fn pass_on(&self, request: PrefixRequest) -> Result<Response<Body>, Refusal> {
        let PrefixRequest { user, held, mut request, .. } = request;
        if !self.shared.upgrade().is_some_and(|shared| shared.is_available(&self.name)) {
            return Err(Refusal::unavailable("service unavailable"));
        }
        let connections = self.connections.as_ref().map_err(|error| Refusal::internal(error.as_str()))?;
        let authority = connections.authority().map_err(|error| {
            tracing::warn!(apiservice = self.name, error, "a request cannot be passed on");
            Refusal::unavailable("service unavailable")
        })?;
        let path = request.uri().path().to_owned();
        let query = request.uri().query().map_or_else(String::new, |query| format!("?{query}"));
        let uri: Uri =
            format!("https://{authority}{path}{query}").parse().map_err(|_| Refusal::internal("malformed URL"))?;
        identify(request.headers_mut(), &user).map_err(|cause| Refusal::unreachable(&cause))?;
        forwarded_for(&mut request);
        request.headers_mut().remove(HOST);
        request.headers_mut().remove(EXPECT);
        if request.headers().contains_key(UPGRADE) {
            request.extensions_mut().insert(held);
            return self.switch(connections, uri, &authority, request).await;
        }
        let headers = request.headers_mut();
        let mut insert = |name, text: &str| headers.extend(HeaderValue::from_str(text).ok().map(|value| (name, value)));
        insert(FORWARDED_URI, &path);
        insert(FORWARDED_HOST, &authority);
        insert(FORWARDED_PROTO, "https");
        // `/apis/GROUP/VERSION`.
        let is_discovery = path.starts_with("/apis/") && path.trim_matches('/').split('/').count() == 3;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_11;
        request.extensions_mut().clear();
        let sent = connections.send(request);
        let answer = if is_discovery {
            let late = |_| Err("context deadline exceeded".to_owned());
            tokio::time::timeout(DISCOVERY_PATIENCE, sent).await.unwrap_or_else(late)
        } else {
            sent.await
        };
        let mut answer = answer.map_err(|cause| Refusal::unreachable(&cause))?;
        if self.rejects_redirects && answer.status().is_redirection() && answer.headers().contains_key(LOCATION) {
            let text = "the backend attempted to redirect this request, which is not permitted";
            return Ok(body::text(StatusCode::BAD_GATEWAY, text));
        }
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Refusal::unreachable("the backend switched protocols unasked"));
        }
        take_hop_by_hop(answer.headers_mut());
        *answer.version_mut() = Version::HTTP_11;
        Ok(answer)
    }

    async fn switch(
        &self,
        connections: &Connections,
        uri: Uri,
        authority: &str,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let failed = Refusal::undialled;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let stream = connections.dial(uri).await.map_err(|cause| failed(&cause))?;
        *request.uri_mut() = path.parse().map_err(|cause: http::uri::InvalidUri| failed(&cause))?;
        let answer = stream::exchange(stream, authority, request).await.map_err(|cause| failed(&cause))?;
        let code = answer.status().as_u16();
        if code != 101 && code < 400 {
            return Err(Refusal::unavailable(format!("invalid upgrade response: status code {code}")));
        }
        Ok(answer)
    }
}
