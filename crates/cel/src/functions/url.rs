//! URLs, as Go's `net/url` reads them.

use std::collections::BTreeMap;

use crate::decl::Functions;
use crate::error::EvalError;
use crate::map::{Map, MapKey};
use crate::opaque::Opaque;
use crate::text::quote;
use crate::value::{Str, Value};

use super::{of, opaque, str};

#[derive(Debug)]
pub struct Url {
    text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

impl Url {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// An absolute URL or path: what Go's `ParseRequestURI` takes.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::read(text).map_err(|why| format!("parse {}: {why}", quote(text)))
    }

    fn read(text: &str) -> Result<Self, String> {
        if text.bytes().any(|b| b < b' ' || b == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        if text.is_empty() {
            return Err("empty url".to_owned());
        }
        let (scheme, rest) = scheme(text)?;
        let mut url = Self {
            text: text.to_owned(),
            scheme: scheme.to_ascii_lowercase(),
            host: String::new(),
            path: String::new(),
            query: String::new(),
        };
        if text == "*" {
            url.path = "*".to_owned();
            return Ok(url);
        }
        let (rest, _fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        url.query = query.to_owned();
        if !rest.starts_with('/') {
            // What has a scheme may be opaque.
            return if url.scheme.is_empty() { Err("invalid URI for request".to_owned()) } else { Ok(url) };
        }
        let mut path = rest;
        if !url.scheme.is_empty()
            && let Some(rest) = rest.strip_prefix("//")
        {
            let (authority, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            url.host = host(authority)?;
            path = rest;
        }
        unescape(path, false)?;
        url.path = path.to_owned();
        Ok(url)
    }

    fn hostname(&self) -> &str {
        let host =
            self.host.rfind(':').filter(|i| !self.host[*i..].contains(']')).map_or(&*self.host, |i| &self.host[..i]);
        host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
    }

    fn port(&self) -> &str {
        let from = if self.host.starts_with('[') { self.host.find(']').unwrap_or(0) } else { 0 };
        self.host[from..].rsplit_once(':').map_or("", |(_, port)| port)
    }

    fn escaped_path(&self) -> String {
        let valid = |b: u8| plain(b) || b"!'()*[]%".contains(&b);
        if self.path.bytes().all(valid) {
            return self.path.clone();
        }
        let bytes = unescape(&self.path, false).unwrap_or_default();
        let mut escaped = String::new();
        for b in bytes {
            if plain(b) {
                escaped.push(char::from(b));
            } else {
                escaped.push_str(&format!("%{b:02X}"));
            }
        }
        escaped
    }

    fn query(&self) -> BTreeMap<String, Vec<String>> {
        let mut parameters: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in self.query.split('&').filter(|p| !p.is_empty() && !p.contains(';')) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = |part| unescape(part, true).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            if let (Ok(name), Ok(value)) = (text(name), text(value)) {
                parameters.entry(name).or_default().push(value);
            }
        }
        parameters
    }
}

/// What stands in a path as it is.
fn plain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&b)
}

fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (i, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if i > 0 => {}
            ':' if i == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&text[..i], &text[i + 1..])),
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

fn host(authority: &str) -> Result<String, String> {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let port_at = if host.starts_with('[') {
        let close = host.rfind(']').ok_or_else(|| "missing ']' in host".to_owned())?;
        close + 1
    } else {
        host.rfind(':').unwrap_or(host.len())
    };
    let port = &host[port_at..];
    let digits = port.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    if !(port.is_empty() || digits) {
        return Err(format!("invalid port {} after host", quote(port)));
    }
    if let Some(bad) = host.chars().find(|c| c.is_ascii() && !(plain(*c as u8) || "!'()*<>\"[]%".contains(*c))) {
        return Err(format!("invalid character {} in host name", quote(&bad.to_string())));
    }
    Ok(String::from_utf8_lossy(&unescape(host, false)?).into_owned())
}

fn unescape(text: &str, in_query: bool) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let digit = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16));
                let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else {
                    let shown: String = text[at..].chars().take(3).collect();
                    return Err(format!("invalid URL escape {}", quote(&shown)));
                };
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            b'+' if in_query => {
                out.push(b' ');
                at += 1;
            }
            b => {
                out.push(b);
                at += 1;
            }
        }
    }
    Ok(out)
}

fn url<'v>(value: &'v Value<'_>) -> Result<&'v Url, EvalError> {
    match opaque(value)? {
        Opaque::Url(url) => Ok(url),
        _ => Err(EvalError::no_such_overload()),
    }
}

pub(super) fn declare(f: &mut Functions) {
    let mut add =
        |name, id, signature: &str, native| f.add(name, id, &signature.replace('U', "kubernetes.URL"), native);
    add("url", "string_to_url", "(string) -> U", |a| {
        let parsed = Url::parse(str(&a[0])?);
        parsed
            .map(|url| of(Opaque::Url(url)))
            .map_err(|e| EvalError::new(format!("URL parse error during conversion from string: {e}")))
    });
    add("getScheme", "url_get_scheme", "U.() -> string", |a| Ok(Value::string(url(&a[0])?.scheme.as_str())));
    add("getHost", "url_get_host", "U.() -> string", |a| Ok(Value::string(url(&a[0])?.host.as_str())));
    add("getHostname", "url_get_hostname", "U.() -> string", |a| Ok(Value::string(url(&a[0])?.hostname())));
    add("getPort", "url_get_port", "U.() -> string", |a| Ok(Value::string(url(&a[0])?.port())));
    add("getEscapedPath", "url_get_escaped_path", "U.() -> string", |a| Ok(Value::string(url(&a[0])?.escaped_path())));
    add("getQuery", "url_get_query", "U.() -> map(string, list(string))", |a| {
        let entries = url(&a[0])?.query().into_iter();
        Map::of(entries.map(|(k, v)| (MapKey::String(Str::Shared(k.into())), Value::strings(v))).collect())
            .map(Value::Map)
    });
    add("isURL", "is_url_string", "(string) -> bool", |a| Ok(Value::Bool(Url::parse(str(&a[0])?).is_ok())));
}
