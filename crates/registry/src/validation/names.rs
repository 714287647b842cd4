//! Formats of names that several groups share, besides those of `kybern_apimachinery::validation`.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_label, dns1123_subdomain, label_key};

use super::format::{self, Errors};

const IDENTIFIER: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of \
alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is \
'[A-Za-z_][A-Za-z0-9_]*')";
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must \
consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', \
regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

pub(crate) use kybern_apimachinery::validation::{is_extended_resource, path_segment};

/// The name of a device's attribute or capacity: an identifier, perhaps below a domain.
pub(crate) fn attribute_name(out: &mut Errors, path: &FieldPath, name: &str) {
    const MAX_IDENTIFIER: usize = 32;
    let mut identifier = |id: &str| {
        if id.len() > MAX_IDENTIFIER {
            out.push(FieldError::too_long(path, MAX_IDENTIFIER));
        }
        let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
        if id.is_empty() || !id.bytes().all(inner) || id.as_bytes()[0].is_ascii_digit() {
            out.push(FieldError::invalid(path, id, IDENTIFIER));
        }
    };
    match name.split('/').collect::<Vec<_>>()[..] {
        [""] => {
            out.push(FieldError::required(path, "name required"));
            out.push(FieldError::invalid(path, "", IDENTIFIER));
        }
        [id] => identifier(id),
        [domain, id] => {
            if domain.is_empty() {
                out.push(FieldError::required(path, "the domain must not be empty"));
            } else {
                driver_name(out, path, domain);
            }
            if id.is_empty() {
                out.push(FieldError::required(path, "the name must not be empty"));
            } else {
                attribute_name(out, path, id);
            }
        }
        _ => {}
    }
}

/// `*.` and a subdomain.
pub(crate) fn wildcard_subdomain(name: &str) -> Vec<String> {
    let mut texts = Vec::new();
    if name.len() > 253 {
        texts.push("must be no more than 253 bytes".to_owned());
    }
    if !name.strip_prefix("*.").is_some_and(is_subdomain) {
        texts.push(WILDCARD.to_owned());
    }
    texts
}

/// Whether a text has the characters of a subdomain, of whatever length.
fn is_subdomain(text: &str) -> bool {
    !text.is_empty() && text.split('.').all(|part| part.len() > 63 || dns1123_label(part).is_empty())
}

/// The name of a driver: a subdomain in either case, of at most 63 bytes.
pub(crate) fn driver_name(out: &mut Errors, path: &FieldPath, name: &str) {
    if name.is_empty() {
        out.push(FieldError::required(path, ""));
        return;
    }
    if name.len() > 63 {
        out.push(FieldError::too_long(path, 63));
    }
    format::invalid(out, path, name, dns1123_subdomain(&name.to_lowercase()));
}

/// `provisioner` and `driverName` of storage: a qualified name in either case.
pub(crate) fn provisioner(out: &mut Errors, path: &FieldPath, name: &str) {
    if name.is_empty() {
        out.push(FieldError::required(path, ""));
    } else {
        let lower = name.to_lowercase();
        format::invalid(out, path, &lower, label_key(&lower));
    }
}

/// A name of at least three segments, as a webhook's must be.
pub(crate) fn fully_qualified(out: &mut Errors, path: &FieldPath, name: &str) {
    if name.is_empty() {
        out.push(FieldError::required(path, ""));
        return;
    }
    let texts = dns1123_subdomain(name);
    if !texts.is_empty() {
        out.push(FieldError::invalid(path, name, texts.join(",")));
    } else if name.split('.').count() < 3 {
        out.push(FieldError::invalid(path, name, "should be a domain with at least three segments separated by dots"));
    }
}

/// A domain of at least two labels, perhaps with a dot at its end.
pub(crate) fn domain(out: &mut Errors, path: &FieldPath, name: &str) {
    if name.is_empty() {
        out.push(FieldError::required(path, ""));
        return;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let texts = dns1123_subdomain(name);
    if !texts.is_empty() {
        out.push(FieldError::invalid(path, name, texts.join(",")));
    } else if !name.contains('.') {
        out.push(FieldError::invalid(path, name, "should be a domain with at least two segments separated by dots"));
    } else if let Some(label) = name.split('.').find(|label| !dns1123_label(label).is_empty()) {
        out.push(FieldError::invalid(path, label, dns1123_label(label).join(",")));
    }
}

/// `example.com/path`, as an ingress class names its controller.
pub(crate) fn domain_prefixed_path(out: &mut Errors, path: &FieldPath, text: &str) {
    if text.is_empty() {
        out.push(FieldError::required(path, ""));
        return;
    }
    let (host, rest) = match text.split_once('/') {
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => (host, rest),
        _ => {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            out.push(FieldError::invalid(path, text, detail));
            return;
        }
    };
    format::invalid(out, path, host, dns1123_subdomain(host));
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&c);
    if !rest.bytes().all(allowed) {
        let detail = "Invalid path (regex used for validation is '^[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+$')";
        out.push(FieldError::invalid(path, rest, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert!(path_segment("system:node").is_empty() && !path_segment("a/b").is_empty());
        assert!(wildcard_subdomain("*.a.b").is_empty());
        assert!(!wildcard_subdomain("*a.b").is_empty() && !wildcard_subdomain("*.").is_empty());
        let texts = |check: &dyn Fn(&mut Errors)| {
            let mut out = Vec::new();
            check(&mut out);
            out.len()
        };
        assert_eq!(texts(&|out| driver_name(out, &FieldPath::root(), "CSI.example.com")), 0);
        assert_eq!(texts(&|out| driver_name(out, &FieldPath::root(), &"a".repeat(64))), 1);
        assert_eq!(texts(&|out| domain_prefixed_path(out, &FieldPath::root(), "a.b/c d")), 1);
        assert_eq!(texts(&|out| fully_qualified(out, &FieldPath::root(), "a.b")), 1);
        assert_eq!(texts(&|out| domain(out, &FieldPath::root(), "a.b.")), 0);
    }
}
