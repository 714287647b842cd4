//! IP addresses and networks.

use std::net::{IpAddr, Ipv6Addr};

use crate::decl::Functions;
use crate::error::EvalError;
use crate::opaque::Opaque;
use crate::text::quote;
use crate::value::Value;

use super::{of, opaque, str};

/// As Go's `netip.ParseAddr`, and no zones and no IPv4 in IPv6.
fn parse_ip(text: &str) -> Result<IpAddr, EvalError> {
    if let Some((_, zone)) = text.split_once('%')
        && !zone.is_empty()
    {
        return Err(EvalError::new(format!("IP address {} with zone value is not allowed", quote(text))));
    }
    let ip: IpAddr = text.parse().map_err(|_| {
        let shown = quote(text);
        EvalError::new(format!(
            "IP Address {shown} parse error during conversion from string: ParseAddr({shown}): unable to parse IP"
        ))
    })?;
    if mapped(&ip) {
        return Err(EvalError::new(format!("IPv4-mapped IPv6 address {} is not allowed", quote(text))));
    }
    Ok(ip)
}

fn mapped(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

fn parse_cidr(text: &str) -> Result<(IpAddr, u8), EvalError> {
    let failed = |why: &str| {
        let what = "network address parse error during conversion from string";
        EvalError::new(format!("{what}: {what}: netip.ParsePrefix({}): {why}", quote(text)))
    };
    let (address, bits) = text.rsplit_once('/').ok_or_else(|| failed("no '/'"))?;
    if address.contains('%') {
        return Err(failed("IPv6 zones cannot be present in a prefix"));
    }
    let ip: IpAddr = address.parse().map_err(|_| failed("unable to parse IP"))?;
    let plain = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    let length: u8 = bits.parse().ok().filter(|_| plain).ok_or_else(|| failed("bad bits after slash"))?;
    if length > width(&ip) {
        return Err(failed("prefix length out of range"));
    }
    if mapped(&ip) {
        let what = "network address parse error during conversion from string";
        return Err(EvalError::new(format!("{what}: IPv4-mapped IPv6 address {} is not allowed", quote(text))));
    }
    Ok((ip, length))
}

fn width(ip: &IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The bits of an address, from the left.
fn bits(ip: &IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn mask(length: u8) -> u128 {
    if length == 0 { 0 } else { u128::MAX << (128 - u32::from(length)) }
}

fn within(ip: &IpAddr, network: &IpAddr, length: u8) -> bool {
    ip.is_ipv4() == network.is_ipv4() && (bits(ip) ^ bits(network)) & mask(length) == 0
}

fn ip(value: &Value<'_>) -> Result<IpAddr, EvalError> {
    match opaque(value)? {
        Opaque::Ip(ip) => Ok(*ip),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn cidr(value: &Value<'_>) -> Result<(IpAddr, u8), EvalError> {
    match opaque(value)? {
        Opaque::Cidr(ip, length) => Ok((*ip, *length)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn link_local_unicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0) == 0xfe80,
    }
}

fn link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => (v6.segments()[0] & 0xff0f) == 0xff02,
    }
}

fn global_unicast(ip: &IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !(broadcast || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local_unicast(ip))
}

fn contains<'a>(network: &Value<'a>, ip: IpAddr) -> super::Result<'a> {
    let (address, length) = cidr(network)?;
    Ok(Value::Bool(within(&ip, &address, length)))
}

fn contains_network<'a>(network: &Value<'a>, (ip, inner): (IpAddr, u8)) -> super::Result<'a> {
    let (address, length) = cidr(network)?;
    Ok(Value::Bool(length <= inner && within(&ip, &address, length)))
}

pub(super) fn declare(f: &mut Functions) {
    f.add("ip", "string_to_ip", "(string) -> net.IP", |a| Ok(of(Opaque::Ip(parse_ip(str(&a[0])?)?))));
    f.add("family", "ip_family", "net.IP.() -> int", |a| Ok(Value::Int(if ip(&a[0])?.is_ipv4() { 4 } else { 6 })));
    f.add("ip.isCanonical", "ip_is_canonical", "(string) -> bool", |a| {
        let text = str(&a[0])?;
        Ok(Value::Bool(parse_ip(text)?.to_string() == **text))
    });
    f.add("isUnspecified", "ip_is_unspecified", "net.IP.() -> bool", |a| Ok(Value::Bool(ip(&a[0])?.is_unspecified())));
    f.add("isLoopback", "ip_is_loopback", "net.IP.() -> bool", |a| Ok(Value::Bool(ip(&a[0])?.is_loopback())));
    f.add("isLinkLocalMulticast", "ip_is_link_local_multicast", "net.IP.() -> bool", |a| {
        Ok(Value::Bool(link_local_multicast(&ip(&a[0])?)))
    });
    f.add("isLinkLocalUnicast", "ip_is_link_local_unicast", "net.IP.() -> bool", |a| {
        Ok(Value::Bool(link_local_unicast(&ip(&a[0])?)))
    });
    f.add("isGlobalUnicast", "ip_is_global_unicast", "net.IP.() -> bool", |a| {
        Ok(Value::Bool(global_unicast(&ip(&a[0])?)))
    });
    f.add("isIP", "is_ip", "(string) -> bool", |a| Ok(Value::Bool(parse_ip(str(&a[0])?).is_ok())));
    f.add("string", "ip_to_string", "(net.IP) -> string", |a| Ok(Value::string(ip(&a[0])?.to_string())));

    f.add("cidr", "string_to_cidr", "(string) -> net.CIDR", |a| {
        let (ip, length) = parse_cidr(str(&a[0])?)?;
        Ok(of(Opaque::Cidr(ip, length)))
    });
    f.add("containsIP", "cidr_contains_ip_string", "net.CIDR.(string) -> bool", |a| {
        contains(&a[0], parse_ip(str(&a[1])?)?)
    });
    f.add("containsIP", "cidr_contains_ip_ip", "net.CIDR.(net.IP) -> bool", |a| contains(&a[0], ip(&a[1])?));
    f.add("containsCIDR", "cidr_contains_cidr_string", "net.CIDR.(string) -> bool", |a| {
        contains_network(&a[0], parse_cidr(str(&a[1])?)?)
    });
    f.add("containsCIDR", "cidr_contains_cidr", "net.CIDR.(net.CIDR) -> bool", |a| {
        contains_network(&a[0], cidr(&a[1])?)
    });
    f.add("ip", "cidr_ip", "net.CIDR.() -> net.IP", |a| Ok(of(Opaque::Ip(cidr(&a[0])?.0))));
    f.add("prefixLength", "cidr_prefix_length", "net.CIDR.() -> int", |a| Ok(Value::Int(i64::from(cidr(&a[0])?.1))));
    f.add("masked", "cidr_masked", "net.CIDR.() -> net.CIDR", |a| {
        let (ip, length) = cidr(&a[0])?;
        let masked = bits(&ip) & mask(length);
        let ip = if ip.is_ipv4() {
            IpAddr::V4(((masked >> 96) as u32).into())
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(masked))
        };
        Ok(of(Opaque::Cidr(ip, length)))
    });
    f.add("isCIDR", "is_cidr", "(string) -> bool", |a| Ok(Value::Bool(parse_cidr(str(&a[0])?).is_ok())));
    f.add("string", "cidr_to_string", "(net.CIDR) -> string", |a| {
        let (ip, length) = cidr(&a[0])?;
        Ok(Value::string(format!("{ip}/{length}")))
    });
}
