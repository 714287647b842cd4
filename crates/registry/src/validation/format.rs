//! Formats of single values.

use std::net::IpAddr;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};

/// What is wrong, gathered.
pub(crate) type Errors = Vec<FieldError>;

/// Adds each of a format check's texts as an invalid value.
pub(crate) fn invalid(out: &mut Errors, path: &FieldPath, value: &str, texts: Vec<String>) {
    out.extend(texts.into_iter().map(|text| FieldError::invalid(path, value, text)));
}

/// A required name of a given format.
pub(crate) fn required_name(out: &mut Errors, path: &FieldPath, value: &str, format: fn(&str) -> Vec<String>) {
    if value.is_empty() {
        out.push(FieldError::required(path, ""));
    } else {
        invalid(out, path, value, format(value));
    }
}

/// One of a set of words.
pub(crate) fn one_of(out: &mut Errors, path: &FieldPath, value: &str, supported: &[&str]) {
    if !supported.contains(&value) {
        out.push(FieldError::not_supported(path, value, supported));
    }
}

/// One of a set of words that must be given.
pub(crate) fn required_one_of(out: &mut Errors, path: &FieldPath, value: &str, supported: &[&str]) {
    if value.is_empty() {
        out.push(FieldError::required(path, ""));
    } else {
        one_of(out, path, value, supported);
    }
}

pub(crate) fn not_negative(out: &mut Errors, path: &FieldPath, value: Option<i64>) {
    if let Some(value) = value.filter(|v| *v < 0) {
        out.push(FieldError::invalid(path, value, "must be greater than or equal to 0"));
    }
}

pub(crate) fn port_number(out: &mut Errors, path: &FieldPath, port: i64) {
    if !(1..=65535).contains(&port) {
        out.push(FieldError::invalid(path, port, "must be between 1 and 65535, inclusive"));
    }
}

/// An IANA service name.
pub(crate) fn port_name(name: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let mut add = |wrong: bool, text: &str| {
        if wrong {
            texts.push(text.to_owned());
        }
    };
    add(name.len() > 15, "must be no more than 15 characters");
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    add(
        name.is_empty() || !name.bytes().all(allowed),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    );
    add(!name.bytes().any(|c| c.is_ascii_lowercase()), "must contain at least one letter (a-z)");
    add(name.contains("--"), "must not contain consecutive hyphens");
    add(name.starts_with('-') || name.ends_with('-'), "must not begin or end with a hyphen");
    texts
}

/// An `IntOrString` port.
pub(crate) fn port(out: &mut Errors, path: &FieldPath, value: &Value) {
    match value {
        Value::String(name) => invalid(out, path, name, port_name(name)),
        other => port_number(out, path, other.as_i64().unwrap_or(0)),
    }
}

/// An address in a field from before strict parsing.
pub(crate) fn ip(out: &mut Errors, path: &FieldPath, text: &str) -> Option<IpAddr> {
    super::ip::legacy(out, path, text)
}

/// A number or percentage, as in `maxUnavailable`.
pub(crate) fn count_or_percent(out: &mut Errors, path: &FieldPath, value: &Value) {
    match value {
        Value::String(text) => {
            let digits = text.strip_suffix('%').unwrap_or("");
            if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
                let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex \
                              used for validation is '[0-9]+%')";
                out.push(FieldError::invalid(path, text.as_str(), detail));
            }
        }
        other => not_negative(out, path, other.as_i64()),
    }
}

/// Keys of ConfigMaps and Secrets.
pub(crate) fn config_key(key: &str) -> Vec<String> {
    let mut texts = Vec::new();
    if key.len() > 253 {
        texts.push("must be no more than 253 characters".to_owned());
    }
    if key.is_empty() || !key.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c)) {
        texts.push(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or \
             'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
                .to_owned(),
        );
    }
    match key {
        "." => texts.push("must not be '.'".to_owned()),
        ".." => texts.push("must not be '..'".to_owned()),
        _ if key.starts_with("..") => texts.push("must not start with '..'".to_owned()),
        _ => {}
    }
    texts
}

/// The name of an environment variable, as it may be since 1.34.
pub(crate) fn env_name(name: &str) -> Vec<String> {
    let mut texts = Vec::new();
    if name.is_empty() {
        texts.push("environment variable name must be non-empty".to_owned());
    }
    if !name.bytes().all(|c| (b' '..=b'~').contains(&c) && c != b'=') {
        let text = "a valid environment variable name must consist only of printable ASCII characters other than '='";
        texts.push(text.to_owned());
    }
    texts
}

/// A search path of DNS: a subdomain with underscores.
pub(crate) fn dns_search(name: &str) -> Vec<String> {
    let mut texts = Vec::new();
    if name.len() > 253 {
        texts.push("must be no more than 253 characters".to_owned());
    }
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_".contains(&c);
    let label = |part: &str| {
        let part = part.strip_prefix('_').unwrap_or(part);
        !part.is_empty() && part.bytes().all(inner) && !part.starts_with(['-', '_']) && !part.ends_with(['-', '_'])
    };
    if !name.split('.').all(label) {
        let text = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start \
                    and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                    '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
        texts.push(text.to_owned());
    }
    texts
}

/// A name of a header of HTTP.
pub(crate) fn header_name(name: &str) -> Vec<String> {
    if !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
        return Vec::new();
    }
    let text = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is \
                '[-A-Za-z0-9]+')";
    vec![text.to_owned()]
}

/// A number that is given and out of its range.
pub(crate) fn range(out: &mut Errors, path: &FieldPath, value: Option<i64>, low: i64, high: i64) {
    if let Some(value) = value.filter(|v| !(low..=high).contains(v)) {
        out.push(FieldError::invalid(path, value, format!("must be between {low} and {high}, inclusive")));
    }
}

/// A local path that leaves names which begin with `..` to whoever writes the volume.
pub(crate) fn local_unreserved_path(out: &mut Errors, path: &FieldPath, text: &str) {
    local_descending_path(out, path, text);
    if text.starts_with("..") && !text.starts_with("../") {
        out.push(FieldError::invalid(path, text, "must not start with '..'"));
    }
}

/// A path that stays below where it starts.
pub(crate) fn local_descending_path(out: &mut Errors, path: &FieldPath, text: &str) {
    if text.starts_with('/') {
        out.push(FieldError::invalid(path, text, "must be a relative path"));
    }
    no_backsteps(out, path, text);
}

pub(crate) fn no_backsteps(out: &mut Errors, path: &FieldPath, text: &str) {
    if text.split('/').any(|part| part == "..") {
        out.push(FieldError::invalid(path, text, "must not contain '..'"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (name, wrong) in
            [("http", 0), ("a-very-long-port-name", 1), ("80", 1), ("a--b", 1), ("-a", 1), ("A", 2), ("", 2)]
        {
            assert_eq!(port_name(name).len(), wrong, "{name}");
        }
        for (name, good) in [("_tcp.a_b.c", true), ("__a", false), ("a_", false), ("a..b", false), ("_", false)] {
            assert_eq!(dns_search(name).is_empty(), good, "{name}");
        }
        for (key, good) in [("a.b_C-1", true), ("", false), ("a/b", false), ("..", false), ("..a", false), (".a", true)]
        {
            assert_eq!(config_key(key).is_empty(), good, "{key}");
        }
    }
}
