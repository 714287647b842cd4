//! What an ID token must be before its claims count for anything (OpenID Connect Core, section 3.1.3.7, as go-oidc checks it).

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use kybern_apimachinery::Value;

use super::provider::RemoteKeys;

/// By how much an issuer's clock may run ahead.
const LEEWAY: i64 = 60;

/// The claims of a token, none of them verified.
pub(super) fn unverified_claims(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims.is_object().then_some(claims)
}

/// The `iss` of a token, unverified. Google names itself in two ways.
pub(super) fn unverified_issuer(claims: &Value) -> Option<&str> {
    match claims["iss"].as_str()? {
        "accounts.google.com" => Some("https://accounts.google.com"),
        issuer => Some(issuer),
    }
}

/// What a token is held against.
pub(super) struct Verifier<'a> {
    pub(super) audiences: &'a [String],
    pub(super) algorithms: &'a [String],
    pub(super) now: Timestamp,
}

impl Verifier<'_> {
    /// Checks a token of an issuer, whose `claims` these are, and its signature last: everything else costs nothing.
    pub(super) async fn verify(&self, token: &str, claims: &Value, keys: &Arc<RemoteKeys>) -> Result<(), String> {
        let malformed = || "oidc: malformed jwt".to_owned();
        let (message, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, _) = message.split_once('.').ok_or_else(malformed)?;
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| malformed())?;
        let header: Value = serde_json::from_slice(&header).map_err(|_| malformed())?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed())?;
        if !header["crit"].is_null() {
            return Err("oidc: malformed jwt: it has critical headers, of which none is known".to_owned());
        }
        self.check_audience(claims)?;
        self.check_time(claims)?;
        let algorithm = header["alg"].as_str().unwrap_or_default();
        if !self.algorithms.iter().any(|known| known == algorithm) {
            return Err(format!(
                "oidc: id token signed with unsupported algorithm, expected {} got {algorithm:?}",
                quoted(self.algorithms)
            ));
        }
        let id = header["kid"].as_str().unwrap_or_default();
        let verified = keys.verify(id, algorithm, message.as_bytes(), &signature).await;
        verified.map_err(|error| format!("failed to verify signature: {error}"))
    }

    fn check_audience(&self, claims: &Value) -> Result<(), String> {
        let named: Vec<String> = match &claims["aud"] {
            Value::Null => Vec::new(),
            Value::String(one) => vec![one.clone()],
            Value::Array(many) if many.iter().all(Value::is_string) => {
                many.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            _ => return Err("oidc: failed to unmarshal claims: aud is neither a string nor a list of them".to_owned()),
        };
        if named.iter().any(|audience| self.audiences.contains(audience)) {
            return Ok(());
        }
        match self.audiences {
            [one] => Err(format!("oidc: expected audience {one:?} got {}", quoted(&named))),
            many => {
                let mut many = many.to_vec();
                many.sort_unstable();
                Err(format!("oidc: expected audience in {} got {}", quoted(&many), quoted(&named)))
            }
        }
    }

    fn check_time(&self, claims: &Value) -> Result<(), String> {
        let now = self.now.as_second();
        let expiry = seconds(claims, "exp")?.unwrap_or(i64::MIN);
        // A token without an end is one that has ended.
        if expiry < now || (expiry == now && self.now.subsec_nanosecond() > 0) {
            return Err(format!("oidc: token is expired (Token Expiry: {})", shown(expiry)));
        }
        seconds(claims, "iat")?;
        match seconds(claims, "nbf")? {
            Some(start) if now + LEEWAY < start => {
                Err(format!("oidc: current time {} before the nbf (not before) time: {}", shown(now), shown(start)))
            }
            _ => Ok(()),
        }
    }
}

/// A time in a token: a number, whose fraction does not count.
fn seconds(claims: &Value, claim: &str) -> Result<Option<i64>, String> {
    match &claims[claim] {
        Value::Null => Ok(None),
        Value::Number(number) => Ok(number.as_i64().or_else(|| number.as_f64().map(|float| float as i64))),
        other => Err(format!("oidc: failed to unmarshal claims: {claim} is no number but {other}")),
    }
}

fn shown(seconds: i64) -> String {
    match Timestamp::from_second(seconds) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
        Err(_) => "0001-01-01 00:00:00 +0000 UTC".to_owned(),
    }
}

/// As Go writes a list with `%q`.
fn quoted(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", texts.join(" "))
}
