//! Fetches documents from wherever a URL points: those of issuers of tokens.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kybern_component_base::transport::{CertificateAuthorities, Connector, RestConfig, SystemResolver};
use parking_lot::Mutex;

use crate::client::HTTP_2;
use crate::go_text;

/// How long a document may be.
const BODY_MAX: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);
/// How many servers' connections are kept.
const SERVERS_MAX: usize = 16;

type Pool = legacy::Client<Connector, Full<Bytes>>;

/// Fetches documents over TLS. Redirects are not followed.
pub struct Fetcher {
    authorities: CertificateAuthorities,
    user_agent: HeaderValue,
    pools: Mutex<HashMap<String, Pool>>,
}

/// An answer, be it good or bad.
#[derive(Debug)]
pub struct Fetched {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Fetcher {
    /// Trusts servers that these authorities certify.
    pub fn new(authorities: CertificateAuthorities, user_agent: &str) -> Self {
        let user_agent = HeaderValue::from_str(user_agent).unwrap_or(HeaderValue::from_static("kybern"));
        Self { authorities, user_agent, pools: Mutex::default() }
    }

    /// What is there; with a bearer token, if there is one. The error is worded as Go's.
    pub async fn get(&self, url: &str, token: Option<&str>) -> Result<Fetched, String> {
        let failed = |cause: String| format!("Get {url:?}: {cause}");
        let uri: Uri = url.parse().map_err(|e: http::uri::InvalidUri| failed(e.to_string()))?;
        if uri.scheme_str() != Some("https") {
            return Err(failed("its scheme is not https".to_owned()));
        }
        let pool = self.pool(&uri).map_err(failed)?;
        let mut request =
            Request::get(uri).header(ACCEPT, "application/json, */*").header(USER_AGENT, self.user_agent.clone());
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::default()).map_err(|e| failed(e.to_string()))?;
        let fetch = async {
            let response = pool.request(request).await.map_err(|e| go_text::no_response(&e).0)?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, BODY_MAX).collect().await.map_err(|e| e.to_string())?.to_bytes();
            Ok(Fetched { status: head.status, headers: head.headers, body })
        };
        match tokio::time::timeout(TIMEOUT, fetch).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(failed("context deadline exceeded".to_owned())),
        }
    }

    fn pool(&self, uri: &Uri) -> Result<Pool, String> {
        let server = format!("https://{}", uri.authority().map(|a| a.as_str()).unwrap_or_default());
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.get(&server) {
            return Ok(pool.clone());
        }
        let config = RestConfig { server: server.clone(), ca: self.authorities.clone(), ..RestConfig::default() };
        let connector = Connector::new(&config, HTTP_2, Arc::new(SystemResolver)).map_err(|e| e.to_string())?;
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).timer(TokioTimer::new()).pool_idle_timeout(Duration::from_secs(90));
        let pool: Pool = builder.pool_max_idle_per_host(4).build(connector);
        if pools.len() >= SERVERS_MAX {
            pools.clear();
        }
        pools.insert(server, pool.clone());
        Ok(pool)
    }
}
