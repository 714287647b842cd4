//! IP addresses and ranges. Old fields take IPv4 numbers with leading zeros and IPv6 forms of IPv4 addresses, and warn;
//! new fields take the canonical form alone.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use kybern_apimachinery::field::{FieldError, FieldPath};

use super::format::Errors;

const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An address as old fields take it: leading zeros are decimal.
pub(crate) fn parse(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let parts: Vec<u8> = text
        .split('.')
        .map(|part| part.bytes().all(|c| c.is_ascii_digit()).then(|| part.parse::<u8>().ok()).flatten())
        .collect::<Option<_>>()?;
    let octets: [u8; 4] = parts.try_into().ok()?;
    Some(IpAddr::V4(Ipv4Addr::from(octets)))
}

/// A range as old fields take it, and the address that it was written with.
pub(crate) fn parse_cidr(text: &str) -> Option<(IpAddr, IpNet)> {
    let (address, bits) = text.split_once('/')?;
    let bits = Some(bits).filter(|b| !b.is_empty() && b.bytes().all(|c| c.is_ascii_digit()))?.parse().ok()?;
    let address = parse(address)?;
    Some((address, IpNet::new(address, bits).ok()?.trunc()))
}

fn is_mapped(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// As Go writes it: IPv4 in IPv6 is IPv4.
fn canonical(ip: IpAddr) -> String {
    ip.to_canonical().to_string()
}

/// An address in an old field.
pub(crate) fn legacy(out: &mut Errors, path: &FieldPath, text: &str) -> Option<IpAddr> {
    let parsed = parse(text);
    if parsed.is_none() {
        out.push(FieldError::invalid(path, text, IP));
    }
    parsed
}

/// An address in its canonical form.
pub(crate) fn strict(text: &str) -> Vec<String> {
    let Some(ip) = parse(text) else { return vec![IP.to_owned()] };
    let mut texts = Vec::new();
    if text.parse::<IpAddr>().is_err() {
        texts.push("must not have leading 0s".to_owned());
    }
    if is_mapped(&ip) {
        texts.push("must not be an IPv4-mapped IPv6 address".to_owned());
    }
    if texts.is_empty() && canonical(ip) != text {
        texts.push(format!("must be in canonical form ({:?})", canonical(ip)));
    }
    texts
}

/// A range in an old field.
pub(crate) fn legacy_cidr(out: &mut Errors, path: &FieldPath, text: &str) -> Option<IpNet> {
    let parsed = parse_cidr(text).map(|(_, net)| net);
    if parsed.is_none() {
        out.push(FieldError::invalid(path, text, CIDR));
    }
    parsed
}

/// A range in its canonical form.
pub(crate) fn strict_cidr(text: &str) -> Vec<String> {
    let Some((ip, net)) = parse_cidr(text) else { return vec![CIDR.to_owned()] };
    let detail = if text.parse::<IpNet>().is_err() || has_leading_zero(text) {
        "must not have leading 0s in IP or prefix length"
    } else if is_mapped(&ip) {
        "must not have an IPv4-mapped IPv6 address"
    } else if ip != net.addr() {
        "must not have bits set beyond the prefix length"
    } else if net.to_string() != text {
        return vec![format!("must be in canonical form ({:?})", net.to_string())];
    } else {
        return Vec::new();
    };
    vec![detail.to_owned()]
}

fn has_leading_zero(cidr: &str) -> bool {
    cidr.rsplit('/').next().is_some_and(|bits| bits.len() > 1 && bits.starts_with('0'))
}

/// What is odd about an address in an old field.
pub(crate) fn warn(path: &FieldPath, text: &str) -> Option<String> {
    let ip = parse(text)?;
    if text.parse::<IpAddr>().is_err() || is_mapped(&ip) {
        return Some(format!(
            "{path}: non-standard IP address {text:?} will be considered invalid in a future Kubernetes release: use {:?}",
            canonical(ip)
        ));
    }
    (ip.is_ipv6() && ip.to_string() != text)
        .then(|| format!("{path}: IPv6 address {text:?} should be in RFC 5952 canonical format ({:?})", ip.to_string()))
}

/// What is odd about a range in an old field.
pub(crate) fn warn_cidr(path: &FieldPath, text: &str) -> Vec<String> {
    let Some((ip, net)) = parse_cidr(text) else { return Vec::new() };
    let mut out = Vec::new();
    if ip != net.addr() {
        out.push(format!(
            "{path}: CIDR value {text:?} is ambiguous in this context (should be {:?} or {:?}?)",
            net.to_string(),
            format!("{}/{}", canonical(ip), net.max_prefix_len())
        ));
    }
    if text.parse::<IpNet>().is_err() || has_leading_zero(text) || is_mapped(&ip) {
        out.push(format!(
            "{path}: non-standard CIDR value {text:?} will be considered invalid in a future Kubernetes release: use {:?}",
            net.to_string()
        ));
    }
    if out.is_empty() && ip.is_ipv6() && net.to_string() != text {
        out.push(format!(
            "{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({:?})",
            net.to_string()
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_fields_take_more() {
        assert_eq!(parse("010.0.0.1"), "10.0.0.1".parse().ok());
        assert!(parse("1.2.3").is_none() && parse("1.2.3.400").is_none() && parse("x").is_none());
        assert!(warn(&FieldPath::new("ip"), "010.0.0.1").is_some_and(|w| w.ends_with("use \"10.0.0.1\"")));
        assert!(warn(&FieldPath::new("ip"), "10.0.0.1").is_none());
        assert_eq!(warn_cidr(&FieldPath::new("cidr"), "10.0.0.1/8").len(), 1);
    }

    #[test]
    fn new_fields_take_the_canonical_form() {
        assert!(strict("2001:db8::1").is_empty() && strict_cidr("10.0.0.0/8").is_empty());
        assert_eq!(strict("2001:DB8::1"), ["must be in canonical form (\"2001:db8::1\")"]);
        assert_eq!(strict("010.0.0.1"), ["must not have leading 0s"]);
        assert_eq!(strict_cidr("10.0.0.1/8"), ["must not have bits set beyond the prefix length"]);
        assert_eq!(strict_cidr("10.0.0.0/08"), ["must not have leading 0s in IP or prefix length"]);
    }
}
