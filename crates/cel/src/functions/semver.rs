//! Semantic versions, as `github.com/blang/semver` reads them.

use std::cmp::Ordering;

use crate::decl::Functions;
use crate::error::EvalError;
use crate::opaque::Opaque;
use crate::text::quote;
use crate::value::Value;

use super::{bool, of, opaque, str};

#[derive(Debug, PartialEq, Eq)]
pub struct Semver {
    numbers: [u64; 3],
    before: Vec<Identifier>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Text(String),
}

impl Semver {
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("Version string empty".to_owned());
        }
        let mut parts = text.splitn(3, '.');
        let (Some(major), Some(minor), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("No Major.Minor.Patch elements found".to_owned());
        };
        let (rest, build) = match rest.split_once('+') {
            Some((rest, build)) => (rest, Some(build)),
            None => (rest, None),
        };
        let (patch, before) = match rest.split_once('-') {
            Some((patch, before)) => (patch, Some(before)),
            None => (rest, None),
        };
        let numbers = [number("Major", major)?, number("Minor", minor)?, number("Patch", patch)?];
        let before = before.map_or(Ok(Vec::new()), |b| b.split('.').map(identifier).collect())?;
        for word in build.into_iter().flat_map(|b| b.split('.')) {
            if word.is_empty() {
                return Err("Build meta data is empty".to_owned());
            }
            if !alphanumeric(word) {
                return Err(format!("Invalid character(s) found in build meta data {}", quote(word)));
            }
        }
        Ok(Self { numbers, before })
    }

    /// Without a leading `v`, and with what is missing of three numbers.
    fn parse_loosely(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut parts: Vec<String> = text
            .splitn(3, '.')
            .map(|part| {
                if part.len() < 2 {
                    return part.to_owned();
                }
                let trimmed = part.trim_start_matches('0');
                let padded = !trimmed.starts_with(|c: char| c.is_ascii_digit());
                if padded { format!("0{trimmed}") } else { trimmed.to_owned() }
            })
            .collect();
        if parts.len() < 3 {
            if parts.last().is_some_and(|p| p.contains(['+', '-'])) {
                return Err("short version cannot contain PreRelease/Build meta data".to_owned());
            }
            parts.resize(3, "0".to_owned());
        }
        Self::parse(&parts.join("."))
    }

    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.before.is_empty(), other.before.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.before.cmp(&other.before),
        })
    }
}

fn alphanumeric(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn number(which: &str, text: &str) -> Result<u64, String> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("Invalid character(s) found in {} number {}", which.to_lowercase(), quote(text)));
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(format!("{which} number must not contain leading zeroes {}", quote(text)));
    }
    parse_uint(text)
}

fn parse_uint(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| {
        let why = if text.is_empty() { "invalid syntax" } else { "value out of range" };
        format!("strconv.ParseUint: parsing {}: {why}", quote(text))
    })
}

fn identifier(text: &str) -> Result<Identifier, String> {
    if text.is_empty() {
        return Err("Prerelease is empty".to_owned());
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        if text.len() > 1 && text.starts_with('0') {
            return Err(format!("Numeric PreRelease version must not contain leading zeroes {}", quote(text)));
        }
        return parse_uint(text).map(Identifier::Number);
    }
    if !alphanumeric(text) {
        return Err(format!("Invalid character(s) found in prerelease {}", quote(text)));
    }
    Ok(Identifier::Text(text.to_owned()))
}

fn semver<'v>(value: &'v Value<'_>) -> Result<&'v Semver, EvalError> {
    match opaque(value)? {
        Opaque::Semver(semver) => Ok(semver),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn parsed(a: &[Value<'_>]) -> Result<Result<Semver, String>, EvalError> {
    let text = str(&a[0])?;
    let loosely = a.get(1).map(bool).transpose()?.unwrap_or(false);
    Ok(if loosely { Semver::parse_loosely(text) } else { Semver::parse(text) })
}

fn make<'a>(a: &[Value<'a>]) -> super::Result<'a> {
    parsed(a)?.map(|v| of(Opaque::Semver(v))).map_err(EvalError::new)
}

fn order(a: &[Value<'_>]) -> Result<Ordering, EvalError> {
    Ok(semver(&a[0])?.compare(semver(&a[1])?))
}

pub(super) fn declare(f: &mut Functions) {
    let mut add = |name, id, signature: &str, native| {
        f.add(name, id, &signature.replace('S', "kubernetes.Semver"), native);
    };
    add("semver", "string_to_semver", "(string) -> S", make);
    add("semver", "string_bool_to_semver", "(string, bool) -> S", make);
    add("isSemver", "is_semver_string", "(string) -> bool", |a| Ok(Value::Bool(parsed(a)?.is_ok())));
    add("isSemver", "is_semver_string_bool", "(string, bool) -> bool", |a| Ok(Value::Bool(parsed(a)?.is_ok())));
    add("isGreaterThan", "semver_is_greater_than", "S.(S) -> bool", |a| {
        Ok(Value::Bool(order(a)? == Ordering::Greater))
    });
    add("isLessThan", "semver_is_less_than", "S.(S) -> bool", |a| Ok(Value::Bool(order(a)? == Ordering::Less)));
    add("compareTo", "semver_compare_to", "S.(S) -> int", |a| Ok(Value::Int(order(a)? as i64)));
    add("major", "semver_major", "S.() -> int", |a| Ok(Value::Int(semver(&a[0])?.numbers[0] as i64)));
    add("minor", "semver_minor", "S.() -> int", |a| Ok(Value::Int(semver(&a[0])?.numbers[1] as i64)));
    add("patch", "semver_patch", "S.() -> int", |a| Ok(Value::Int(semver(&a[0])?.numbers[2] as i64)));
}
