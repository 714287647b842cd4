//! Posts JSON to one place.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kybern_apimachinery::ApiError;
use kybern_component_base::transport::{Authorization, ConfigError, Connector, Resolve, RestConfig, SystemResolver};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::config::clean_path;
use crate::error::{CallError, NoResponse};
use crate::go_text;

/// The protocols of a client, best first.
pub(crate) const HTTP_1: &[&[u8]] = &[b"http/1.1"];
pub(crate) const HTTP_2: &[&[u8]] = &[b"h2", b"http/1.1"];

/// How long an answer may be unless its caller says otherwise, or it is no more than twice as long as the question. Upstream
/// sets no limit; what an API server stores is 3 MiB at most, and a patch holds it as base64.
pub const RESPONSE_LIMIT: usize = 8 << 20;
/// How many calls of one client are under way at once; more wait, at the cost of their own time.
const CALLS_MAX: usize = 256;
/// How long a call may take unless its caller says otherwise, as upstream has it.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often a response's `Retry-After` is followed unless its caller says otherwise.
const RETRIES: u32 = 10;

/// What of a client is not in its [`RestConfig`].
pub struct Settings {
    pub user_agent: String,
    /// Application protocols, best first.
    pub protocols: &'static [&'static [u8]],
    pub resolver: Arc<dyn Resolve>,
    pub response_limit: usize,
    /// How long a call may take whose caller sets no time.
    pub timeout: Duration,
    /// How often a response's `Retry-After` is followed.
    pub retries: u32,
}

impl Settings {
    /// HTTP/2 or 1.1, the system's resolver, the usual limits.
    pub fn new(user_agent: impl Into<String>) -> Self {
        Self {
            user_agent: user_agent.into(),
            protocols: HTTP_2,
            resolver: Arc::new(SystemResolver),
            response_limit: RESPONSE_LIMIT,
            timeout: TIMEOUT,
            retries: RETRIES,
        }
    }
}

/// Posts JSON to one place, over connections that are kept and shared. Redirects are not followed: whoever answers with one
/// would choose what the API server talks to.
pub struct Client {
    /// Where calls go, without a query.
    url: String,
    pool: legacy::Client<Connector, Full<Bytes>>,
    authorization: Authorization,
    user_agent: HeaderValue,
    permits: Semaphore,
    response_limit: usize,
    timeout: Duration,
    retries: u32,
}

impl Client {
    /// Calls go to the configuration's server and path.
    pub fn new(config: &RestConfig, settings: Settings) -> Result<Self, ConfigError> {
        let server = config.server_uri()?;
        let connector = Connector::new(config, settings.protocols, settings.resolver)?;
        let user_agent = HeaderValue::from_str(&settings.user_agent);
        let authority = server.authority().map(|a| a.as_str()).unwrap_or_default();
        let mut pool = legacy::Client::builder(TokioExecutor::new());
        pool.pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(90))
            .pool_max_idle_per_host(CALLS_MAX)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .http2_keep_alive_timeout(Duration::from_secs(15));
        Ok(Self {
            url: format!("{}://{authority}{}", server.scheme_str().unwrap_or("https"), clean_path(server.path())),
            pool: pool.build(connector),
            authorization: Authorization::new(config.credential.clone()),
            user_agent: user_agent.map_err(|e| ConfigError(format!("user agent: {e}")))?,
            permits: Semaphore::new(CALLS_MAX),
            response_limit: settings.response_limit,
            timeout: settings.timeout,
            retries: settings.retries,
        })
    }

    /// Calls go where a kubeconfig file's current context says.
    pub fn from_kubeconfig(file: &Path, user_agent: &str) -> Result<Self, ConfigError> {
        Self::new(&RestConfig::from_kubeconfig(file)?, Settings::new(user_agent))
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Posts a body and answers with the response's. A `timeout` is told to the server, too.
    pub async fn post(&self, body: Bytes, timeout: Option<Duration>) -> Result<Bytes, CallError> {
        let url = match timeout {
            Some(time) => format!("{}?timeout={}", self.url, go_text::duration(time)),
            None => self.url.clone(),
        };
        let uri: Uri = url.parse().map_err(|e| CallError::Config(format!("{url:?} is no URL: {e}")))?;
        let call = self.call(&url, &uri, body);
        match tokio::time::timeout_at(Instant::now() + timeout.unwrap_or(self.timeout), call).await {
            Ok(answer) => answer,
            Err(_) => {
                let own = if timeout.is_none() { " (Client.Timeout exceeded while awaiting headers)" } else { "" };
                let cause = format!("context deadline exceeded{own}");
                Err(CallError::NoResponse { url, cause, kind: NoResponse::Deadline })
            }
        }
    }

    /// What a call of this client says whose time its caller has measured.
    pub fn deadline_exceeded(&self) -> CallError {
        let cause = "context deadline exceeded".to_owned();
        CallError::NoResponse { url: self.url.clone(), cause, kind: NoResponse::Deadline }
    }

    async fn call(&self, url: &str, uri: &Uri, body: Bytes) -> Result<Bytes, CallError> {
        let no_response = |cause: String| CallError::NoResponse { url: url.to_owned(), cause, kind: NoResponse::Other };
        let _permit = self.permits.acquire().await.map_err(|e| no_response(e.to_string()))?;
        let authorization = self.authorization.header().await.map_err(|e| no_response(e.to_string()))?;
        let limit = self.response_limit.max(2 * body.len());
        let mut retries = 0;
        loop {
            let mut request = Request::post(uri.clone())
                .header(ACCEPT, "application/json, */*")
                .header(CONTENT_TYPE, "application/json")
                .header(USER_AGENT, self.user_agent.clone());
            if let Some(value) = &authorization {
                request = request.header(AUTHORIZATION, value.clone());
            }
            let request = request.body(Full::new(body.clone())).map_err(|e| no_response(e.to_string()))?;
            let response = self.pool.request(request).await.map_err(|error| {
                let (cause, kind) = go_text::no_response(&error);
                CallError::NoResponse { url: url.to_owned(), cause, kind }
            })?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, limit).collect().await.map_err(|e| self.broken(&*e, limit))?.to_bytes();
            if (200..=206).contains(&head.status.as_u16()) {
                return Ok(body);
            }
            let wait = retry_after(&head.headers);
            match wait.filter(|_| head.status == StatusCode::TOO_MANY_REQUESTS || head.status.is_server_error()) {
                Some(seconds) if retries < self.retries => {
                    retries += 1;
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                }
                _ => return Err(CallError::Status(error_response(head.status, &head.headers, &body))),
            }
        }
    }

    fn broken(&self, error: &(dyn std::error::Error + Send + Sync + 'static), limit: usize) -> CallError {
        CallError::Body(if error.is::<LengthLimitError>() {
            format!("the response of {} is longer than {limit} bytes", self.url)
        } else {
            format!("unexpected error when reading response body. Please retry. Original error: {error}")
        })
    }
}

fn retry_after(headers: &HeaderMap) -> Option<u64> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()
}

/// The `Status` that an error response holds, or what its code says.
fn error_response(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ApiError {
    let text_type = headers.get(CONTENT_TYPE).is_none_or(|v| v.as_bytes().starts_with(b"text/"));
    let text = if text_type { String::from_utf8_lossy(body).trim().to_owned() } else { "unknown".to_owned() };
    ApiError::from_status_body(status.as_u16(), body)
        .unwrap_or_else(|| ApiError::generic_response(status.as_u16(), &text, retry_after(headers).unwrap_or(0)))
}
