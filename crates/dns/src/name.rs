//! Domain names in wire format (RFC 1035, section 3.1), lower-cased: length-prefixed labels and a final zero.

use std::fmt;
use std::net::IpAddr;

/// Longest name, with its final zero.
pub const MAX_LEN: usize = 255;
const MAX_LABEL: usize = 63;

/// An owned name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    pub fn root() -> Self {
        Self(Box::new([0]))
    }

    /// Reads `a.b.c` or `a.b.c.`; `.` is the root. `None` where a label or the name is too long or empty.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let labels: Vec<&[u8]> =
            if text.is_empty() { Vec::new() } else { text.split('.').map(str::as_bytes).collect() };
        Self::from_labels(&labels, &Self::root())
    }

    /// `labels`, then `suffix`.
    pub fn from_labels(labels: &[&[u8]], suffix: &Self) -> Option<Self> {
        let mut bytes = Vec::with_capacity(labels.iter().map(|l| l.len() + 1).sum::<usize>() + suffix.0.len());
        for label in labels {
            if label.is_empty() || label.len() > MAX_LABEL {
                return None;
            }
            bytes.push(label.len() as u8);
            bytes.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        bytes.extend_from_slice(&suffix.0);
        (bytes.len() <= MAX_LEN).then(|| Self(bytes.into()))
    }

    /// Takes bytes that are a valid lower-cased name.
    pub(crate) fn from_wire(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// The name of an address below `in-addr.arpa` or `ip6.arpa`.
    pub fn reverse(ip: IpAddr) -> Self {
        let text = match ip {
            IpAddr::V4(ip) => {
                let [a, b, c, d] = ip.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa")
            }
            IpAddr::V6(ip) => {
                let nibbles: Vec<String> = ip
                    .octets()
                    .iter()
                    .rev()
                    .flat_map(|byte| [byte & 15, byte >> 4])
                    .map(|n| format!("{n:x}"))
                    .collect();
                format!("{}.ip6.arpa", nibbles.join("."))
            }
        };
        Self::parse(&text).expect("an address makes short labels")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_wire(&self.0, f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Shows a name in wire format.
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_wire(self.0, f)
    }
}

fn fmt_wire(wire: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if wire == [0] {
        return f.write_str(".");
    }
    for label in labels(wire) {
        for byte in label {
            match byte {
                b'.' | b'\\' => write!(f, "\\{}", char::from(*byte))?,
                b'!'..=b'~' => write!(f, "{}", char::from(*byte))?,
                _ => write!(f, "\\{byte:03}")?,
            }
        }
        f.write_str(".")?;
    }
    Ok(())
}

/// The labels of a name, without the root.
pub fn labels(mut wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, rest) = wire.split_first()?;
        let label = rest.get(..usize::from(*len)).filter(|label| !label.is_empty())?;
        wire = &rest[label.len()..];
        Some(label)
    })
}

/// What is before `zone` in `name`, if `name` is in it: labels without a root.
pub fn strip_zone<'a>(name: &'a [u8], zone: &[u8]) -> Option<&'a [u8]> {
    let at = name.len().checked_sub(zone.len())?;
    if &name[at..] != zone {
        return None;
    }
    // Equal bytes count only where a label begins.
    let mut offset = 0;
    while offset < at {
        offset += usize::from(name[offset]) + 1;
    }
    (offset == at).then(|| &name[..at])
}

/// What belongs to the longest of the zones that a name is in.
pub fn find_longest<'a, T>(zones: impl Iterator<Item = (&'a Name, T)>, name: &[u8]) -> Option<T> {
    zones
        .filter(|(zone, _)| strip_zone(name, zone.as_wire()).is_some())
        .max_by_key(|(zone, _)| zone.as_wire().len())
        .map(|(_, found)| found)
}

/// The address that a reverse name stands for.
pub fn parse_reverse(name: &[u8]) -> Option<IpAddr> {
    let mut all: Vec<&[u8]> = labels(name).collect();
    let (top, second) = (all.pop()?, all.pop()?);
    if top != b"arpa" {
        return None;
    }
    match (second, all.len()) {
        (b"in-addr", 4) => {
            let mut octets = [0; 4];
            for (octet, label) in octets.iter_mut().rev().zip(all) {
                *octet = std::str::from_utf8(label).ok()?.parse().ok()?;
            }
            Some(octets.into())
        }
        (b"ip6", 32) => {
            let mut octets = [0u8; 16];
            for (i, label) in all.iter().rev().enumerate() {
                let nibble =
                    u8::try_from(char::from(*label.first().filter(|_| label.len() == 1)?).to_digit(16)?).ok()?;
                octets[i / 2] |= nibble << (4 * (1 - i % 2));
            }
            Some(octets.into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for text in ["a.b.", ".", "_http._tcp.web.default.svc.cluster.local."] {
            assert_eq!(Name::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Name::parse("WWW.Example").unwrap(), Name::parse("www.example.").unwrap());
        assert!(Name::parse("a..b").is_none());
        assert!(Name::parse(&"x".repeat(64)).is_none());
        assert!(Name::parse(&vec!["x".repeat(60); 5].join(".")).is_none());
    }

    #[test]
    fn a_zone_ends_at_a_label() {
        let check = |name: &str, zone: &str, expect: Option<usize>| {
            let (name, zone) = (Name::parse(name).unwrap(), Name::parse(zone).unwrap());
            assert_eq!(strip_zone(name.as_wire(), zone.as_wire()).map(<[u8]>::len), expect, "{name} in {zone}");
        };
        check("a.cluster.local", "cluster.local", Some(2));
        check("cluster.local", "cluster.local", Some(0));
        check("local", "cluster.local", None);
        check("a.b", ".", Some(4));
        // The bytes 1, 'a' end this label but are none of their own.
        assert_eq!(strip_zone(&[3, b'x', 1, b'a', 0], &[1, b'a', 0]), None);
    }

    #[test]
    fn addresses_reverse() {
        for text in ["10.96.0.10", "fd00::1:2", "::"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(parse_reverse(Name::reverse(ip).as_wire()), Some(ip));
        }
        assert_eq!(Name::reverse("10.96.0.1".parse().unwrap()).to_string(), "1.0.96.10.in-addr.arpa.");
        for name in ["0.96.10.in-addr.arpa", "1.0.96.999.in-addr.arpa", "x.arpa", "com"] {
            assert_eq!(parse_reverse(Name::parse(name).unwrap().as_wire()), None, "{name}");
        }
    }
}
