//! The distribution protocol (OCI distribution spec): manifests and blobs of one repository at one endpoint.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde::Deserialize;

use super::auth::{Challenge, Credential, query};
use super::config::{Endpoint, Registries};
use super::http::{read, send};
use crate::image::{DOCUMENT_MAX, Document, is_digest, sha256};

/// How often a request that a busy registry refuses is repeated.
const RETRIES_MAX: u32 = 3;

/// A registry that wants a longer pause than this is not waited for: the kubelet's back-off does that.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The most that a token service's answer and an error's text may hold, in bytes.
const TOKEN_MAX: usize = 1 << 20;
const REASON_MAX: usize = 64 << 10;

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

/// A manifest or index whose digest was verified.
pub(crate) struct Manifest {
    pub(crate) digest: String,
    pub(crate) bytes: Bytes,
    pub(crate) document: Document,
}

/// Everything asked of one repository with one credential.
pub(crate) struct Session {
    registries: Arc<Registries>,
    endpoint: Endpoint,
    credential: Option<Credential>,
    /// What goes into the `Authorization` header, once the registry has said what it wants.
    authorization: Mutex<Option<HeaderValue>>,
}

const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*";

impl Session {
    pub(crate) fn new(registries: Arc<Registries>, endpoint: Endpoint, credential: Option<Credential>) -> Session {
        Session { registries, endpoint, credential, authorization: Mutex::default() }
    }

    /// The host and port of the endpoint.
    pub(crate) fn host(&self) -> &str {
        &self.endpoint.host
    }

    fn url(&self, kind: &str, name: &str) -> String {
        let Endpoint { base, repository, mirror_of, .. } = &self.endpoint;
        let namespace = mirror_of.as_ref().map(|registry| format!("?ns={}", query(registry))).unwrap_or_default();
        format!("{base}/{repository}/{kind}/{name}{namespace}")
    }

    /// A manifest or index by tag or digest.
    pub(crate) async fn manifest(&self, name: &str) -> Result<Manifest, RegistryError> {
        let accept = [(ACCEPT, HeaderValue::from_static(MANIFEST_TYPES))];
        let url = self.url("manifests", name);
        let response = self.get(&url, &accept).await?;
        // Of a tag the registry itself says what it means.
        let said = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        let wanted = Some(name).filter(|name| is_digest(name)).or(said.filter(|said| is_digest(said)));
        let wanted = wanted.map(str::to_owned);
        let bytes = read(response, DOCUMENT_MAX as usize).await?;
        let digest = sha256(&bytes);
        let host = &self.endpoint.host;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != digest) {
            return Err(RegistryError::Invalid(format!(
                "{host} sent a manifest with the digest {digest} instead of {wanted}: its data is damaged or was tampered with"
            )));
        }
        let document = Document::read(&digest, &bytes)
            .map_err(|error| RegistryError::Invalid(format!("{host} sent no image manifest for {name}: {error}")))?;
        Ok(Manifest { digest, bytes, document })
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
        let begins = match response.status() {
            StatusCode::PARTIAL_CONTENT => range_start(response.headers()).unwrap_or(offset),
            _ => 0,
        };
        if begins != 0 && begins != offset {
            let host = &self.endpoint.host;
            return Err(RegistryError::Invalid(format!("{host} sent {digest} from {begins} on, not from {offset}")));
        }
        Ok((begins, response.into_body()))
    }

    /// Asks until the registry is not too busy to answer, within reason.
    async fn get(
        &self,
        url: &str,
        extra: &[(http::HeaderName, HeaderValue)],
    ) -> Result<Response<Incoming>, RegistryError> {
        let mut retries = 0;
        loop {
            let response = self.ask(url, extra).await?;
            let pause = pause(response.status(), response.headers(), retries);
            match pause.filter(|_| retries < RETRIES_MAX) {
                _ if response.status().is_success() => return Ok(response),
                Some(pause) => {
                    drop(response);
                    tokio::time::sleep(pause).await;
                    retries += 1;
                }
                None => return Err(refused(Method::GET, url, response).await),
            }
        }
    }

    async fn ask(
        &self,
        url: &str,
        extra: &[(http::HeaderName, HeaderValue)],
    ) -> Result<Response<Incoming>, RegistryError> {
        let mut headers: HeaderMap = extra.iter().cloned().collect();
        if let Some(value) = self.authorization.lock().clone() {
            headers.insert(AUTHORIZATION, value);
        }
        let response = send(Method::GET, url, &headers, Bytes::new(), &self.registries).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(value) = self.authorize(&response).await?
        {
            *self.authorization.lock() = Some(value.clone());
            headers.insert(AUTHORIZATION, value);
            return Ok(send(Method::GET, url, &headers, Bytes::new(), &self.registries).await?);
        }
        Ok(response)
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
        if self.credential.is_some() && self.endpoint.base.starts_with("https://") && !realm.starts_with("https://") {
            let host = &self.endpoint.host;
            return Err(RegistryError::Invalid(format!(
                "{host} asks for credentials to be sent to {realm}, which is not encrypted: refused"
            )));
        }
        let (service, scope) = (query(service), query(scope));
        let mut headers = HeaderMap::new();
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
        let response = send(method.clone(), &url, &headers, body, &self.registries).await?;
        if !response.status().is_success() {
            return Err(refused(method, realm, response).await);
        }
        let invalid = |error: &dyn std::fmt::Display| RegistryError::Invalid(format!("token service {realm}: {error}"));
        let body = read(response, TOKEN_MAX).await.map_err(|error| invalid(&error))?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|error| invalid(&error))?;
        [answer.token, answer.access_token]
            .into_iter()
            .find(|t| !t.is_empty())
            .ok_or_else(|| invalid(&"it answered without a token"))
    }
}

/// Where the body of a partial answer begins (`bytes 100-299/300`).
fn range_start(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// How long to wait before a refused request is repeated; `None` where that would not help.
fn pause(status: StatusCode, headers: &HeaderMap, retries: u32) -> Option<Duration> {
    let passing = matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504);
    let wish = retry_after(headers).unwrap_or(Duration::from_millis(250) * 2u32.pow(retries));
    (passing && wish <= PAUSE_MAX).then_some(wish)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The error of a refused request, with the registry's own reason where its answer holds one.
async fn refused(method: Method, url: &str, response: Response<Incoming>) -> RegistryError {
    let status = response.status();
    let later = retry_after(response.headers()).map(|pause| format!(" (try again after {} s)", pause.as_secs()));
    let body = read(response, REASON_MAX).await.ok();
    let reason = body.and_then(|body| reason(&body)).map(|text| format!(": {text}")).unwrap_or_default();
    let reason = reason + &later.unwrap_or_default();
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
    fn busy_registries_are_asked_again() {
        let check = |status: u16, after: Option<&str>, retries, expect: Option<u64>| {
            let headers = after.map(|value| (RETRY_AFTER, HeaderValue::from_str(value).unwrap()));
            let status = StatusCode::from_u16(status).unwrap();
            let got = pause(status, &headers.into_iter().collect(), retries);
            assert_eq!(got, expect.map(Duration::from_millis), "{status} {after:?}");
        };
        check(200, None, 0, None);
        check(404, None, 0, None);
        check(401, Some("1"), 0, None);
        check(503, None, 0, Some(250));
        check(500, None, 2, Some(1000));
        check(429, Some("7"), 0, Some(7000));
        check(429, Some("Fri, 31 Dec 1999 23:59:59 GMT"), 1, Some(500));
        check(429, Some("3600"), 0, None);
    }

    #[test]
    fn ranges() {
        let start = |value| range_start(&[(CONTENT_RANGE, HeaderValue::from_static(value))].into_iter().collect());
        assert_eq!(start("bytes 100-299/300"), Some(100));
        assert_eq!(start("bytes */300"), None);
        assert_eq!(range_start(&HeaderMap::new()), None);
    }

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
