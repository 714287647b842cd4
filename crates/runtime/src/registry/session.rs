//! The distribution protocol (OCI distribution spec): manifests and blobs of one repository at one endpoint.

use std::io;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RANGE, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde::Deserialize;

use super::auth::{Challenge, Credential, query};
use super::config::Endpoint;
use super::http::send;
use crate::image::DOCUMENT_MAX;

/// Why a registry did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error("failed to do request: {0}")]
    Io(#[from] io::Error),
    #[error("unexpected status from {method} request to {url}: {status}{reason}")]
    Status { method: Method, url: String, status: StatusCode, reason: String },
    #[error("{0}")]
    Invalid(String),
}

impl RegistryError {
    /// Whether another credential may help.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, RegistryError::Status { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. })
    }
}

/// Everything asked of one repository with one credential.
pub(crate) struct Session {
    endpoint: Endpoint,
    credential: Option<Credential>,
    /// What goes into the `Authorization` header, once the registry has said what it wants.
    authorization: Mutex<Option<HeaderValue>>,
}

const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*";

impl Session {
    pub(crate) fn new(endpoint: Endpoint, credential: Option<Credential>) -> Session {
        Session { endpoint, credential, authorization: Mutex::default() }
    }

    fn url(&self, kind: &str, name: &str) -> String {
        let Endpoint { base, repository, mirror_of, .. } = &self.endpoint;
        let namespace = mirror_of.as_ref().map(|registry| format!("?ns={}", query(registry))).unwrap_or_default();
        format!("{base}/{repository}/{kind}/{name}{namespace}")
    }

    /// A manifest or index by tag or digest.
    pub(crate) async fn manifest(&self, name: &str) -> Result<Bytes, RegistryError> {
        let accept = [(ACCEPT, HeaderValue::from_static(MANIFEST_TYPES))];
        let response = self.get(&self.url("manifests", name), &accept).await?;
        let body = Limited::new(response.into_body(), DOCUMENT_MAX as usize).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| RegistryError::Invalid(format!("manifest {name}: {error}")))
    }

    /// A blob's contents from `offset` on. Answers where the body really begins: a registry may ignore the wish.
    pub(crate) async fn blob(&self, digest: &str, offset: u64) -> Result<(u64, Incoming), RegistryError> {
        let mut headers = Vec::new();
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            headers.push((RANGE, range));
        }
        let response = self.get(&self.url("blobs", digest), &headers).await?;
        let begins = if response.status() == StatusCode::PARTIAL_CONTENT { offset } else { 0 };
        Ok((begins, response.into_body()))
    }

    async fn get(
        &self,
        url: &str,
        extra: &[(http::HeaderName, HeaderValue)],
    ) -> Result<Response<Incoming>, RegistryError> {
        let mut headers: HeaderMap = extra.iter().cloned().collect();
        if let Some(value) = self.authorization.lock().clone() {
            headers.insert(AUTHORIZATION, value);
        }
        let mut response = send(Method::GET, url, &headers, Bytes::new(), &self.endpoint.tls).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(value) = self.authorize(&response).await?
        {
            *self.authorization.lock() = Some(value.clone());
            headers.insert(AUTHORIZATION, value);
            response = send(Method::GET, url, &headers, Bytes::new(), &self.endpoint.tls).await?;
        }
        if response.status().is_success() { Ok(response) } else { Err(refused(Method::GET, url, response).await) }
    }

    /// Does what the registry's challenge asks; `None` when there is nothing to offer.
    async fn authorize(&self, response: &Response<Incoming>) -> Result<Option<HeaderValue>, RegistryError> {
        let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|h| h.to_str().ok());
        let Some(challenge) = challenges.filter_map(Challenge::parse).next() else { return Ok(None) };
        let value = match (challenge, &self.credential) {
            (_, Some(Credential::Bearer(token))) => Some(format!("Bearer {token}")),
            (Challenge::Basic, credential) => credential.as_ref().and_then(Credential::header),
            (Challenge::Bearer { realm, service, scope }, _) => {
                let scope =
                    if scope.is_empty() { format!("repository:{}:pull", self.endpoint.repository) } else { scope };
                Some(format!("Bearer {}", self.token(&realm, &service, &scope).await?))
            }
        };
        let mut value = match value.map(HeaderValue::try_from) {
            None => return Ok(None),
            Some(value) => {
                value.map_err(|_| RegistryError::Invalid("the registry's token is not a header value".into()))?
            }
        };
        value.set_sensitive(true);
        Ok(Some(value))
    }

    async fn token(&self, realm: &str, service: &str, scope: &str) -> Result<String, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            token: String,
            #[serde(default)]
            access_token: String,
        }
        let (service, scope) = (query(service), query(scope));
        let mut headers = HeaderMap::new();
        // The token service is another host as a rule, and the endpoint's TLS settings are not its.
        let tls = if realm.contains(&format!("//{}/", self.endpoint.host)) {
            self.endpoint.tls.clone()
        } else {
            Default::default()
        };
        let (method, url, body) = if let Some(Credential::Identity(token)) = &self.credential {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            let form = format!(
                "grant_type=refresh_token&service={service}&scope={scope}&client_id=kybern&refresh_token={}",
                query(token)
            );
            (Method::POST, realm.to_owned(), Bytes::from(form))
        } else {
            if let Some(value) = self.credential.as_ref().and_then(Credential::header)
                && let Ok(mut value) = HeaderValue::try_from(value)
            {
                value.set_sensitive(true);
                headers.insert(AUTHORIZATION, value);
            }
            let joint = if realm.contains('?') { '&' } else { '?' };
            (Method::GET, format!("{realm}{joint}service={service}&scope={scope}"), Bytes::new())
        };
        let response = send(method.clone(), &url, &headers, body, &tls).await?;
        if !response.status().is_success() {
            return Err(refused(method, realm, response).await);
        }
        let body = Limited::new(response.into_body(), 1 << 20).collect().await;
        let invalid = |error: &dyn std::fmt::Display| RegistryError::Invalid(format!("token service {realm}: {error}"));
        let answer: Answer = serde_json::from_slice(&body.map_err(|error| invalid(&error))?.to_bytes())
            .map_err(|error| invalid(&error))?;
        [answer.token, answer.access_token]
            .into_iter()
            .find(|t| !t.is_empty())
            .ok_or_else(|| invalid(&"it answered without a token"))
    }
}

/// The error of a refused request, with the registry's own reason where its answer holds one.
async fn refused(method: Method, url: &str, response: Response<Incoming>) -> RegistryError {
    let status = response.status();
    let body = Limited::new(response.into_body(), 64 << 10).collect().await;
    let reason =
        body.ok().and_then(|body| reason(&body.to_bytes())).map(|text| format!(": {text}")).unwrap_or_default();
    RegistryError::Status { method, url: url.to_owned(), status, reason }
}

/// `{"errors":[{"code":…,"message":…}]}` (OCI distribution spec, "Error Codes").
fn reason(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        errors: Vec<Entry>,
        #[serde(default)]
        details: String,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let texts: Vec<String> =
        answer.errors.into_iter().map(|e| if e.message.is_empty() { e.code } else { e.message }).collect();
    let text = if texts.is_empty() { answer.details } else { texts.join("; ") };
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons() {
        let check = |body: &str, expect: Option<&str>| assert_eq!(reason(body.as_bytes()).as_deref(), expect, "{body}");
        check(
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"x":1}}]}"#,
            Some("manifest unknown"),
        );
        check(r#"{"errors":[{"code":"DENIED"},{"message":"b"}]}"#, Some("DENIED; b"));
        check(r#"{"details":"incorrect username or password"}"#, Some("incorrect username or password"));
        check("<html>", None);
        check("{}", None);
    }
}
