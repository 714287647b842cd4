//! The `Authorization` header of a credential.

use std::time::Duration;

use base64::Engine;
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::BoxError;
use super::kubeconfig::Credential;

/// How long a token that was read from a file is used before the file is read again, as client-go does.
const TOKEN_AGE: Duration = Duration::from_secs(60);

pub struct Authorization {
    credential: Option<Credential>,
    cached: Mutex<Option<(Instant, HeaderValue)>>,
}

impl Authorization {
    pub fn new(credential: Option<Credential>) -> Self {
        Self { credential, cached: Mutex::new(None) }
    }

    /// What the header holds now.
    pub async fn header(&self) -> Result<Option<HeaderValue>, BoxError> {
        let bearer = |token: &str| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))?;
            value.set_sensitive(true);
            Ok::<_, BoxError>(Some(value))
        };
        match &self.credential {
            None => Ok(None),
            Some(Credential::Token(token)) => bearer(token),
            Some(Credential::Basic { username, password }) => {
                let text = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
                let mut value = HeaderValue::from_str(&format!("Basic {text}"))?;
                value.set_sensitive(true);
                Ok(Some(value))
            }
            Some(Credential::TokenFile(path)) => {
                let cached = self.cached.lock().clone();
                if let Some((read, value)) = cached
                    && read.elapsed() < TOKEN_AGE
                {
                    return Ok(Some(value));
                }
                let text = tokio::fs::read_to_string(path)
                    .await
                    .map_err(|e| format!("cannot read {}: {e}", path.display()))?;
                let value = bearer(&text)?;
                *self.cached.lock() = value.clone().map(|v| (Instant::now(), v));
                Ok(value)
            }
        }
    }
}
