//! Whether quotas have room for a write, and what they hold after it
//! (`k8s.io/apiserver/pkg/admission/plugin/resourcequota`).

use std::collections::BTreeSet;

use jiff::Timestamp;
use kybern_apimachinery::tree::map;
use kybern_apimachinery::{Value, object};

use crate::amounts::{Amounts, amounts, equal, growth, shown, sum};
use crate::evaluator::Evaluator;
use crate::scopes::{Scope, in_scope};

/// What may only be used where a quota covers it, by the administrator's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limited {
    pub group: String,
    pub resource: String,
    /// Parts of names of resources.
    pub contains: Vec<String>,
    pub scopes: Vec<Scope>,
}

/// A write that the evaluator handles.
pub struct Request<'a> {
    pub evaluator: &'a Evaluator,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub object: &'a Value,
    /// What it replaces.
    pub old: Option<&'a Value>,
    pub now: Timestamp,
}

/// Why a write is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Forbidden(String),
    /// Upstream answers these as faults of the server.
    Fault(String),
}

/// A quota that a write counts against.
struct Interesting {
    index: usize,
    delta: Amounts,
}

/// What `status.used` of each quota becomes; `None` where it stays.
pub fn charge(quotas: &[&Value], request: &Request<'_>, limited: &[Limited]) -> Result<Vec<Option<Amounts>>, Refusal> {
    let unchanged = || vec![None; quotas.len()];
    let Request { evaluator, object, old, now, .. } = *request;
    let Ok(limited_scopes) = limited_scopes(request, limited) else { return Ok(unchanged()) };
    let usage = evaluator.usage(object, now);
    let (interesting, covered) = interesting(quotas, request)?;
    let negative: Vec<&str> =
        usage.iter().filter(|(_, amount)| amount.is_negative()).map(|(n, _)| n.as_str()).collect();
    if !negative.is_empty() {
        return Err(Refusal::Forbidden(format!("quota usage is negative for resource(s): {}", negative.join(","))));
    }
    let grown = old.map(|old| growth(&usage, &evaluator.usage(old, now)));
    let mut charged = Vec::new();
    for index in interesting.iter().copied() {
        let before = match old {
            Some(old) => counts_against(quotas[index], evaluator, old).map_err(Refusal::Fault)?,
            None => false,
        };
        let delta = grown.as_ref().filter(|_| before).unwrap_or(&usage);
        charged.push(Interesting { index, delta: without_zeros(delta) });
    }
    charged.retain(|quota| !quota.delta.is_empty());
    let nothing = match interesting.is_empty() {
        true => without_zeros(grown.as_ref().unwrap_or(&usage)).is_empty(),
        false => charged.is_empty(),
    };
    if nothing {
        return Ok(unchanged());
    }
    let wanted = limited_names(request, &usage, limited);
    let uncovered: Vec<&str> = wanted.into_iter().filter(|name| !covered.names.contains(*name)).collect();
    if !uncovered.is_empty() {
        return Err(Refusal::Forbidden(format!("insufficient quota to consume: {}", uncovered.join(","))));
    }
    let mut scopes =
        limited_scopes.into_iter().filter(|scope| evaluator.has_scopes() && !covered.scopes.contains(&scope.name));
    if let Some(first) = scopes.next() {
        let shown: Vec<String> = std::iter::once(first).chain(scopes).map(Scope::shown).collect();
        return Err(Refusal::Fault(format!("insufficient quota to match these scopes: [{}]", shown.join(" "))));
    }
    let mut after = unchanged();
    for Interesting { index, delta } in charged {
        after[index] = used_after(quotas[index], request.subresource, delta)?;
    }
    Ok(after)
}

/// What quotas cover: of resources, and of scopes.
#[derive(Default)]
struct Covered {
    names: BTreeSet<String>,
    scopes: BTreeSet<String>,
}

/// The quotas that count the object, all of which know how much there is.
fn interesting(quotas: &[&Value], request: &Request<'_>) -> Result<(Vec<usize>, Covered), Refusal> {
    let Request { evaluator, object, .. } = *request;
    let (mut found, mut covered) = (Vec::new(), Covered::default());
    for (index, quota) in quotas.iter().enumerate() {
        for scope in Scope::of_quota(quota) {
            let inside = in_scope(evaluator, &scope, object).map_err(|error| {
                let name = object::name(quota);
                Refusal::Fault(format!(
                    "error matching scopes of quota {name}, err: error on matching scope {}: {error}",
                    scope.shown()
                ))
            })?;
            if inside {
                covered.scopes.insert(scope.name);
            }
        }
        if !counts_against(quota, evaluator, object).map_err(Refusal::Fault)? {
            continue;
        }
        let (name, status) = (object::name(quota), &quota["status"]);
        let restricted: Vec<&str> =
            map(status, "hard").map(|(name, _)| name.as_str()).filter(|name| evaluator.counts(name)).collect();
        evaluator
            .constraints(&restricted, object)
            .map_err(|text| Refusal::Forbidden(format!("failed quota: {name}: {text}")))?;
        if restricted.iter().any(|name| status["used"].get(*name).is_none()) {
            return Err(Refusal::Forbidden(format!(
                "status unknown for quota: {name}, resources: {}",
                restricted.join(",")
            )));
        }
        covered.names.extend(restricted.into_iter().map(str::to_owned));
        found.push(index);
    }
    Ok((found, covered))
}

/// Whether a quota bounds something that the object uses, and the object is in all its scopes.
fn counts_against(quota: &Value, evaluator: &Evaluator, object: &Value) -> Result<bool, String> {
    for scope in Scope::of_quota(quota) {
        if !in_scope(evaluator, &scope, object)? {
            return Ok(false);
        }
    }
    Ok(map(&quota["status"], "hard").any(|(name, _)| evaluator.counts(name)))
}

fn used_after(quota: &Value, subresource: &str, delta: Amounts) -> Result<Option<Amounts>, Refusal> {
    let (hard, used) = (amounts(&quota["status"], "hard"), amounts(&quota["status"], "used"));
    let requested: Amounts = delta.into_iter().filter(|(name, _)| hard.contains_key(name)).collect();
    let after = sum(used.clone(), &requested);
    let exceeded: BTreeSet<&String> = requested.keys().filter(|name| after[*name] > hard[*name]).collect();
    if !exceeded.is_empty() && subresource != "status" {
        let of = |amounts: &Amounts| shown(amounts.iter().filter(|(name, _)| exceeded.contains(name)));
        return Err(Refusal::Forbidden(format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            object::name(quota),
            of(&requested),
            of(&used),
            of(&hard)
        )));
    }
    Ok(Some(after).filter(|after| !equal(after, &used)))
}

fn without_zeros(amounts: &Amounts) -> Amounts {
    amounts.iter().filter(|(_, amount)| !amount.is_zero()).map(|(name, amount)| (name.clone(), *amount)).collect()
}

/// Of the scopes that may only be used where a quota covers them, those that the object is in.
fn limited_scopes<'l>(request: &Request<'_>, limited: &'l [Limited]) -> Result<Vec<&'l Scope>, String> {
    let mut scopes = Vec::new();
    for scope in limited.iter().flat_map(|limited| &limited.scopes) {
        if in_scope(request.evaluator, scope, request.object)? {
            scopes.push(scope);
        }
    }
    Ok(scopes)
}

/// Of what is used, what may only be used where a quota covers it.
fn limited_names<'u>(request: &Request<'_>, usage: &'u Amounts, limited: &[Limited]) -> BTreeSet<&'u str> {
    let limited = limited.iter().filter(|l| l.group == request.group && l.resource == request.resource);
    let parts: Vec<&str> = limited.flat_map(|limited| &limited.contains).map(String::as_str).collect();
    let used = usage.iter().filter(|(_, amount)| !amount.is_zero() && !amount.is_negative());
    used.map(|(name, _)| name.as_str()).filter(|name| parts.iter().any(|part| name.contains(part))).collect()
}

#[cfg(test)]
#[path = "charge_tests.rs"]
mod tests;
