//! The client: one cheap handle through which every call goes, and the typed verbs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use kybern_api::Object;
use kybern_apimachinery::time::{Clock, SystemClock};
use kybern_apimachinery::{ApiError, Gvr, Value, json};

use crate::backoff::{Random, SystemRandom};
use crate::options::{DeleteOptions, ListOptions, Patch};
use crate::raw::{Raw, parse_list};
use crate::transport::{Transport, TransportError};
use crate::{Body, ClientError, RestConfig, Sources, body, tls};

/// The longest response that is read into memory; lists are cut into pages far below it.
const RESPONSE_LIMIT: usize = 256 << 20;
/// How long one call may take, reading its response included. Watches and upgraded connections are not bounded by it.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a call is repeated when the server says `Retry-After`.
const RETRIES: u32 = 5;

pub(crate) const JSON: &str = "application/json";

/// Talks to one API server. Clones share the transport.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    user_agent: HeaderValue,
    random: Arc<dyn Random>,
    clock: Arc<dyn Clock>,
    sources: Option<Sources>,
}

impl Client {
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        let user_agent = HeaderValue::from_static(concat!("kybern/", env!("CARGO_PKG_VERSION")));
        Self { transport, user_agent, random: Arc::new(SystemRandom), clock: Arc::new(SystemClock), sources: None }
    }

    /// A TLS client.
    pub fn from_config(config: &RestConfig) -> Result<Self, ClientError> {
        Ok(Self::new(Arc::new(tls::HttpsTransport::new(config)?)))
    }

    /// A TLS client for the current context of a kubeconfig file.
    pub fn from_kubeconfig(path: &Path) -> Result<Self, ClientError> {
        Self::from_config(&RestConfig::from_kubeconfig(path)?)
    }

    /// A TLS client for a pod, from its service-account volume and environment.
    pub fn in_cluster() -> Result<Self, ClientError> {
        Self::from_config(&RestConfig::in_cluster()?)
    }

    /// The same client under another `User-Agent`, upstream's form being `kube-scheduler/v1.35.0`.
    #[must_use]
    pub fn with_user_agent(mut self, user_agent: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(user_agent) {
            self.user_agent = value;
        }
        self
    }

    /// The same client with another source of jitter.
    #[must_use]
    pub fn with_random(mut self, random: Arc<dyn Random>) -> Self {
        self.random = random;
        self
    }

    /// The same client with another clock, which tells the times of events and leases.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The same client, whose informers may share their watches with those of others that have the same sources.
    #[must_use]
    pub fn with_sources(mut self, sources: &Sources) -> Self {
        self.sources = Some(sources.clone());
        self
    }

    pub(crate) fn sources(&self) -> Option<&Sources> {
        self.sources.as_ref()
    }

    /// The program's name in the `User-Agent`.
    pub(crate) fn component(&self) -> &str {
        self.user_agent.to_str().unwrap_or("").split('/').next().unwrap_or("")
    }

    /// What components stamp their writes with.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn random(&self) -> &dyn Random {
        &*self.random
    }

    /// Sends any request; the URI holds path and query only. An error response is not turned into an error.
    pub async fn request(&self, mut request: Request<Body>) -> Result<Response<Body>, ClientError> {
        request.headers_mut().entry(USER_AGENT).or_insert_with(|| self.user_agent.clone());
        Ok(self.transport.call(request).await?)
    }

    /// Sends a request and returns the response once its head says success; otherwise the `Status` as error.
    pub async fn stream(&self, request: Request<Body>) -> Result<Response<Body>, ClientError> {
        let response = self.request(request).await?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let retry_after = retry_after(&response);
        let body = body::collect(response.into_body(), 1 << 20).await.unwrap_or_default();
        let error = ApiError::from_response(status.as_u16(), &body);
        Err(match retry_after {
            Some(delay) if error.details().is_none() => {
                error.with_details(json!({"retryAfterSeconds": delay.as_secs()})).into()
            }
            _ => error.into(),
        })
    }

    /// One call with a whole request and a whole response. Repeats it while the server asks for that with `Retry-After`.
    pub(crate) async fn call(&self, call: Call) -> Result<Bytes, ClientError> {
        let mut attempt = 0;
        loop {
            let response = tokio::time::timeout(CALL_TIMEOUT, self.call_once(&call)).await.map_err(|_| {
                let context = format!("{} {}", call.method, call.path);
                TransportError::new(context, format!("no answer within {} s", CALL_TIMEOUT.as_secs()))
            })??;
            match response {
                Ok(bytes) => return Ok(bytes),
                Err((error, retry_after)) => match retry_after {
                    Some(delay) if attempt < RETRIES => {
                        attempt += 1;
                        tokio::time::sleep(delay).await;
                    }
                    _ => return Err(error.into()),
                },
            }
        }
    }

    async fn call_once(&self, call: &Call) -> Result<Result<Bytes, (ApiError, Option<Duration>)>, ClientError> {
        let response = self.request(call.to_request()?).await?;
        let status = response.status();
        let retry_after = retry_after(&response);
        let bytes = body::collect(response.into_body(), RESPONSE_LIMIT).await;
        let bytes = bytes.map_err(|cause| {
            TransportError::new(format!("{} {}: reading the response", call.method, call.path), cause)
        })?;
        if status.is_success() {
            return Ok(Ok(bytes));
        }
        let retriable = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
        Ok(Err((ApiError::from_response(status.as_u16(), &bytes), retry_after.filter(|_| retriable))))
    }

    /// Reads what a path names that is no resource's own: a subresource, a metric.
    pub async fn get_path(&self, path: String) -> Result<Value, ClientError> {
        let bytes = self.call(Call::new(Method::GET, path.clone())).await?;
        serde_json::from_slice(&bytes)
            .map_err(|e| ClientError::Decode(format!("cannot decode the answer from {path}: {e}")))
    }

    /// The untyped verbs of a resource.
    pub fn raw(&self, gvr: &Gvr) -> Raw {
        Raw::new(self.clone(), gvr.clone())
    }

    /// Reads one object. `namespace` is empty for cluster-scoped kinds, here and below.
    pub async fn get<K: Object>(&self, namespace: &str, name: &str) -> Result<K, ClientError> {
        let path = object_path::<K>(namespace, name, None);
        Ok(K::from_json(&self.call(Call::new(Method::GET, path)).await?)?)
    }

    /// Reads all objects of a namespace, or of all namespaces where it is empty.
    pub async fn list<K: Object>(&self, namespace: &str, options: &ListOptions) -> Result<Vec<K>, ClientError> {
        let path = format!("{}{}", K::gvr().path(some(namespace)), options.query(false));
        let page = self.call(Call::new(Method::GET, path)).await?;
        parse_list(&page)?.items.iter().map(|item| Ok(K::from_json(item)?)).collect()
    }

    pub async fn create<K: Object>(&self, object: &K) -> Result<K, ClientError> {
        let path = K::gvr().path(some(object.namespace()));
        Ok(K::from_json(&self.call(Call::json(Method::POST, path, object.to_json())).await?)?)
    }

    /// Writes the whole object. Loses fields that the typed struct does not know: prefer [`Client::patch`].
    pub async fn update<K: Object>(&self, object: &K) -> Result<K, ClientError> {
        let path = object_path::<K>(object.namespace(), object.name(), None);
        Ok(K::from_json(&self.call(Call::json(Method::PUT, path, object.to_json())).await?)?)
    }

    pub async fn update_status<K: Object>(&self, object: &K) -> Result<K, ClientError> {
        let path = object_path::<K>(object.namespace(), object.name(), Some("status"));
        Ok(K::from_json(&self.call(Call::json(Method::PUT, path, object.to_json())).await?)?)
    }

    pub async fn patch<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        patch: &Patch,
        subresource: Option<&str>,
    ) -> Result<K, ClientError> {
        let path = object_path::<K>(namespace, name, subresource);
        Ok(K::from_json(&self.call(Call::patch(path, patch)).await?)?)
    }

    /// Deletes one object. `Ok` also when it goes only later (finalizers, grace period).
    pub async fn delete<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), ClientError> {
        let path = object_path::<K>(namespace, name, None);
        self.call(Call::json(Method::DELETE, path, options.to_value().to_string())).await?;
        Ok(())
    }

    /// Posts to a subresource such as `binding`, `eviction` or `token` and returns the answer.
    pub async fn create_subresource<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: &Value,
    ) -> Result<Value, ClientError> {
        self.raw(&K::gvr()).create_subresource(namespace, name, subresource, body).await
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("user_agent", &self.user_agent).finish_non_exhaustive()
    }
}

/// How long the server wants to be left alone.
fn retry_after(response: &Response<Body>) -> Option<Duration> {
    response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok()).map(Duration::from_secs)
}

pub(crate) fn some(namespace: &str) -> Option<&str> {
    (!namespace.is_empty()).then_some(namespace)
}

fn object_path<K: Object>(namespace: &str, name: &str, subresource: Option<&str>) -> String {
    path_of(&K::gvr(), namespace, name, subresource)
}

pub(crate) fn path_of(gvr: &Gvr, namespace: &str, name: &str, subresource: Option<&str>) -> String {
    let mut path = gvr.path(some(namespace));
    for segment in [Some(name), subresource].into_iter().flatten() {
        path.push('/');
        path.push_str(segment);
    }
    path
}

/// One request whose body can be sent again.
pub(crate) struct Call {
    method: Method,
    path: String,
    accept: &'static str,
    content_type: &'static str,
    body: Option<Bytes>,
}

impl Call {
    pub(crate) fn new(method: Method, path: String) -> Self {
        Self { method, path, accept: JSON, content_type: JSON, body: None }
    }

    pub(crate) fn json(method: Method, path: String, body: impl Into<Bytes>) -> Self {
        Self { body: Some(body.into()), ..Self::new(method, path) }
    }

    pub(crate) fn patch(path: String, patch: &Patch) -> Self {
        let path = format!("{path}{}", patch.query());
        Self { content_type: patch.content_type(), ..Self::json(Method::PATCH, path, patch.body().to_string()) }
    }

    pub(crate) fn accept(mut self, accept: &'static str) -> Self {
        self.accept = accept;
        self
    }

    pub(crate) fn to_request(&self) -> Result<Request<Body>, ClientError> {
        let mut request = Request::builder().method(&self.method).uri(&self.path).header(ACCEPT, self.accept);
        if self.body.is_some() {
            request = request.header(CONTENT_TYPE, self.content_type);
        }
        let body = self.body.clone().map_or_else(body::empty, body::full);
        request.body(body).map_err(|e| ClientError::Config(format!("{:?} is no valid request path: {e}", self.path)))
    }
}
