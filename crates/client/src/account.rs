//! Being a service account: every request carries a token that another client asks for, and asks for again before it ends
//! (upstream's `SAControllerClientBuilder`).

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Response, StatusCode};
use kybern_api::Object;
use kybern_api::core::v1::ServiceAccount;
use kybern_api::meta::v1::ObjectMeta;
use kybern_apimachinery::object::str_at;
use kybern_apimachinery::{json, time};
use tokio::sync::Mutex;

use crate::{Body, BoxError, BoxFuture, Client, ClientError, Transport, TransportError};

/// What is asked for; the server may give less.
const LIFE: Duration = Duration::from_secs(3600);

/// Adds an account's token to what `inner` carries, which must have no credential of its own.
pub struct AccountTransport {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Arc<dyn Transport>,
    issuer: Client,
    namespace: String,
    name: String,
    token: Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    /// When another one is asked for.
    until: jiff::Timestamp,
}

impl AccountTransport {
    /// `issuer` may create the account and its tokens.
    pub fn new(inner: Arc<dyn Transport>, issuer: Client, namespace: &str, name: &str) -> Self {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Self { shared: Arc::new(Shared { inner, issuer, namespace, name, token: Mutex::default() }) }
    }
}

impl Transport for AccountTransport {
    fn call(&self, mut request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let header = shared.header().await.map_err(|cause| {
                TransportError::new(format!("no token for service account {}/{}", shared.namespace, shared.name), cause)
            })?;
            request.headers_mut().insert(AUTHORIZATION, header);
            let response = shared.inner.call(request).await?;
            if response.status() == StatusCode::UNAUTHORIZED {
                // The account was made anew, or the key that signs was.
                *shared.token.lock().await = None;
            }
            Ok(response)
        })
    }
}

impl Shared {
    async fn header(&self) -> Result<HeaderValue, BoxError> {
        let mut token = self.token.lock().await;
        let now = self.issuer.clock().now();
        match &*token {
            Some(token) if now < token.until => Ok(token.header.clone()),
            _ => {
                let new = self.ask(now).await?;
                Ok(token.insert(new).header.clone())
            }
        }
    }

    async fn ask(&self, now: jiff::Timestamp) -> Result<Token, BoxError> {
        let answer = match self.request().await {
            Err(error) if error.is_not_found() => {
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    namespace: Some(self.namespace.clone()),
                    ..ObjectMeta::default()
                };
                match self.issuer.create(&ServiceAccount { metadata, ..ServiceAccount::default() }).await {
                    Err(error) if !error.is_already_exists() => return Err(error.into()),
                    _ => self.request().await?,
                }
            }
            answer => answer?,
        };
        let status = |field| str_at(&answer, &["status", field]);
        let mut header = HeaderValue::from_str(&format!("Bearer {}", status("token")))?;
        header.set_sensitive(true);
        let end = time::parse_rfc3339(status("expirationTimestamp")).ok_or("the token's end cannot be read")?;
        Ok(Token { header, until: now + end.duration_since(now) * 4 / 5 })
    }

    async fn request(&self) -> Result<kybern_apimachinery::Value, ClientError> {
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": LIFE.as_secs()},
        });
        self.issuer.raw(&ServiceAccount::gvr()).create_subresource(&self.namespace, &self.name, "token", &request).await
    }
}
