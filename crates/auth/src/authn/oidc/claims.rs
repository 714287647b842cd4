//! The user that a token's claims make.

use std::collections::BTreeMap;

use kybern_apimachinery::Value;
use kybern_apiserver::access::UserInfo;

use super::expressions::user_value;
use super::validation::{JwtIssuer, Mapping, Rule};
use crate::AUTHENTICATED;

/// The user of a verified token, or why it makes none.
pub(super) fn user_of(issuer: &JwtIssuer, claims: &Value) -> Result<UserInfo, String> {
    let mut user = UserInfo {
        name: name(&issuer.username, claims)?,
        groups: groups(issuer.groups.as_ref(), claims)?,
        uid: uid(issuer.uid.as_ref(), claims)?,
        extra: extra(issuer, claims)?,
    };
    for rule in &issuer.claim_rules {
        check(rule, claims)?;
    }
    let shown = user_value(&user);
    for (rule, message) in &issuer.user_rules {
        let held = rule.holds(&shown, message);
        held.map_err(|error| format!("oidc: error evaluating user info validation rule: {error}"))?;
    }
    user.groups.push(AUTHENTICATED.to_owned());
    Ok(user)
}

/// A claim that must be a string.
fn text<'v>(claims: &'v Value, claim: &str) -> Result<&'v str, String> {
    match claims.get(claim) {
        None => Err("claim not present".to_owned()),
        // As Go reads null into anything.
        Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("json: cannot unmarshal {} into Go value of type string", kind(other))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn name(mapping: &Mapping, claims: &Value) -> Result<String, String> {
    match mapping {
        Mapping::Expression(expression) => {
            let failed = |error: String| format!("oidc: error evaluating username claim expression: {error}");
            let name = expression.string(claims).map_err(failed)?;
            let name = name.ok_or_else(|| failed("username claim expression must return a string".to_owned()))?;
            if name.is_empty() {
                return Err("oidc: empty username via CEL expression is not allowed".to_owned());
            }
            Ok(name)
        }
        Mapping::Claim { claim, prefix } => {
            let name = text(claims, claim).map_err(|e| format!("oidc: parse username claims {claim:?}: {e}"))?;
            if claim == "email" {
                // Where an issuer tells whether an address was verified, it must have been.
                match claims.get("email_verified") {
                    None | Some(Value::Bool(true)) => {}
                    Some(Value::Bool(false) | Value::Null) => return Err("oidc: email not verified".to_owned()),
                    Some(other) => {
                        let kind = kind(other);
                        return Err(format!(
                            "oidc: parse 'email_verified' claim: json: cannot unmarshal {kind} into Go value of type bool"
                        ));
                    }
                }
            }
            Ok(format!("{prefix}{name}"))
        }
    }
}

fn groups(mapping: Option<&Mapping>, claims: &Value) -> Result<Vec<String>, String> {
    match mapping {
        None => Ok(Vec::new()),
        Some(Mapping::Expression(expression)) => {
            let groups = expression.strings(claims);
            groups.map_err(|error| format!("oidc: error evaluating group claim expression: {error}"))
        }
        Some(Mapping::Claim { claim, prefix }) => {
            // Some issuers have one group, which is no list.
            let one = |value: &Value| value.as_str().map(|group| format!("{prefix}{group}"));
            let groups = match claims.get(claim) {
                None | Some(Value::Null) => Some(Vec::new()),
                Some(Value::Array(list)) => list.iter().map(one).collect(),
                Some(other) => one(other).map(|group| vec![group]),
            };
            groups.ok_or_else(|| {
                let kind = kind(&claims[claim]);
                format!(
                    "oidc: parse groups claim {claim:?}: json: cannot unmarshal {kind} into Go value of type string"
                )
            })
        }
    }
}

fn uid(mapping: Option<&Mapping>, claims: &Value) -> Result<String, String> {
    match mapping {
        None => Ok(String::new()),
        Some(Mapping::Claim { claim, .. }) => {
            let uid = text(claims, claim).map_err(|e| format!("oidc: parse uid claim {claim:?}: {e}"))?;
            Ok(uid.to_owned())
        }
        Some(Mapping::Expression(expression)) => {
            let failed = |error: String| format!("oidc: error evaluating uid claim expression: {error}");
            let uid = expression.string(claims).map_err(failed)?;
            uid.ok_or_else(|| failed("uid claim expression must return a string".to_owned()))
        }
    }
}

fn extra(issuer: &JwtIssuer, claims: &Value) -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut extra = BTreeMap::new();
    if let Some(id) = claims["jti"].as_str().filter(|id| !id.is_empty()) {
        extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={id}")]);
    }
    for (key, expression) in &issuer.extra {
        let values = expression.strings(claims).map_err(|error| {
            format!("oidc: error evaluating extra claim expression: {}: {error}", expression.text())
        })?;
        if !values.is_empty() {
            extra.insert(key.clone(), values);
        }
    }
    Ok(extra)
}

fn check(rule: &Rule, claims: &Value) -> Result<(), String> {
    match rule {
        Rule::Required { claim, value } => {
            if claims.get(claim).is_none() {
                return Err(format!("oidc: required claim {claim} not present in ID token"));
            }
            let got = text(claims, claim).map_err(|e| format!("oidc: parse claim {claim}: {e}"))?;
            if got != value {
                return Err(format!("oidc: required claim {claim} value does not match. Got = {got}, want = {value}"));
            }
            Ok(())
        }
        Rule::Expression { expression, message } => {
            let held = expression.holds(claims, message);
            held.map_err(|error| format!("oidc: error evaluating claim validation expression: {error}"))
        }
    }
}
