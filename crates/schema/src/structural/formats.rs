//! The formats of texts and numbers that a schema may name. One that is not known says nothing.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kybern_apimachinery::Value;
use kybern_apimachinery::time::parse_rfc3339;
use regex::Regex;

const KNOWN: [&str; 26] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

/// As upstream compares names.
fn normal(format: &str) -> String {
    format.replace('-', "")
}

/// Whether texts are checked for a format.
pub fn is_known(format: &str) -> bool {
    KNOWN.contains(&normal(format).as_str())
}

static HOSTNAME: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(
        r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$",
    )
});
static CARD: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(
        r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11})$",
    )
});
static RGB: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let part = r"\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*";
    pattern(&format!(r"^rgb\({part},{part},{part}\)$"))
});

fn pattern(text: &str) -> Option<Regex> {
    Regex::new(text).ok()
}

fn matches(regex: &Option<Regex>, text: &str) -> bool {
    regex.as_ref().is_some_and(|regex| regex.is_match(text))
}

/// Whether a text has a format.
pub(super) fn holds(format: &str, text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    match normal(format).as_str() {
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "uri" => uri(text),
        "email" => email(text),
        "hostname" => text.len() <= 255 && text.split('.').all(|label| label.len() <= 63) && matches(&HOSTNAME, text),
        "ipv4" => sloppy_ipv4(text).is_some(),
        "ipv6" => text.contains(':') && text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => cidr(text),
        "mac" => mac(text),
        "uuid" => uuid(text, None),
        "uuid3" => uuid(text, Some('3')),
        "uuid4" => uuid(text, Some('4')),
        "uuid5" => uuid(text, Some('5')),
        "isbn" => isbn10(text) || isbn13(text),
        "isbn10" => isbn10(text),
        "isbn13" => isbn13(text),
        "creditcard" => {
            let bare: String = text.chars().filter(char::is_ascii_digit).collect();
            matches(&CARD, &bare) && luhn(&bare)
        }
        "ssn" => {
            let bare = text.replace(['-', ' '], "");
            let shape = text.len() - bare.len() <= 2 && text.is_char_boundary(3);
            bare.len() == 9
                && digits(&bare)
                && shape
                && text.len() == text.trim().len()
                && text.get(..3).is_some_and(digits)
        }
        "hexcolor" => {
            let bare = text.strip_prefix('#').unwrap_or(text);
            matches!(bare.len(), 3 | 6) && bare.bytes().all(|b| b.is_ascii_hexdigit())
        }
        "rgbcolor" => matches(&RGB, text),
        "byte" => !text.is_empty() && STANDARD.decode(text).is_ok(),
        "date" => text.len() == 10 && parse_rfc3339(&format!("{text}T00:00:00Z")).is_some(),
        "datetime" => date_time(text),
        "duration" => duration(text),
        "k8sshortname" => short_name(text) && text.len() <= 63,
        "k8slongname" => text.len() <= 253 && text.split('.').all(short_name),
        // `password`, and what is not known.
        _ => true,
    }
}

fn short_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !text.is_empty()
        && text.bytes().all(|b| allowed(b) || b == b'-')
        && text.bytes().next().is_some_and(allowed)
        && text.bytes().last().is_some_and(allowed)
}

/// A path, or a scheme and what follows it: Go's `url.ParseRequestURI`.
fn uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|b| b < b' ' || b == 0x7f) {
        return false;
    }
    if text.starts_with('/') {
        return true;
    }
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let good = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let begins = scheme.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    good && begins && !rest.split(['/', '?', '#']).nth(2).is_some_and(|host| host.contains([' ', '<', '>', '"']))
}

fn email(text: &str) -> bool {
    // `Name <a@b>` is one, too.
    let address = match (text.rfind('<'), text.ends_with('>')) {
        (Some(at), true) => &text[at + 1..text.len() - 1],
        _ => text,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let atom = |text: &str| {
        !text.is_empty()
            && text.split('.').all(|part| {
                !part.is_empty()
                    && part.chars().all(|c| c.is_alphanumeric() || !c.is_ascii() || "!#$%&'*+-/=?^_`{|}~".contains(c))
            })
    };
    let quoted = local.len() > 1 && local.starts_with('"') && local.ends_with('"');
    let literal = domain.starts_with('[') && domain.ends_with(']');
    (atom(local) || quoted) && (atom(domain) || literal)
}

/// Leading zeros are let be, as Go once did.
fn sloppy_ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut parts = text.split('.').map(|part| {
        let good = !part.is_empty() && part.len() <= 20 && part.bytes().all(|b| b.is_ascii_digit());
        good.then(|| part.parse::<u64>().ok()).flatten().and_then(|n| u8::try_from(n).ok())
    });
    let mut next = || parts.next().flatten();
    let (a, b, c, d) = (next()?, next()?, next()?, next()?);
    parts.next().is_none().then(|| Ipv4Addr::new(a, b, c, d))
}

fn cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let max = match (sloppy_ipv4(address), address.parse::<Ipv6Addr>()) {
        (Some(_), _) => 32,
        (None, Ok(_)) => 128,
        _ => return false,
    };
    length.bytes().all(|b| b.is_ascii_digit()) && length.parse::<u8>().is_ok_and(|length| length <= max)
}

fn mac(text: &str) -> bool {
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    if text.contains('.') {
        let parts: Vec<&str> = text.split('.').collect();
        return matches!(parts.len(), 3 | 4 | 10) && parts.iter().all(|part| part.len() == 4 && hex(part));
    }
    let separator = if text.contains(':') { ':' } else { '-' };
    let parts: Vec<&str> = text.split(separator).collect();
    matches!(parts.len(), 6 | 8 | 20) && parts.iter().all(|part| part.len() == 2 && hex(part))
}

fn uuid(text: &str, version: Option<char>) -> bool {
    let bare = text.replace('-', "").to_lowercase();
    if bare.len() != 32 || !bare.bytes().all(|b| b.is_ascii_hexdigit()) {
        return false;
    }
    // A dash may only be where one belongs.
    let mut seen = 0;
    for c in text.chars() {
        if c == '-' {
            if ![8, 12, 16, 20].contains(&seen) {
                return false;
            }
        } else {
            seen += 1;
        }
    }
    let doubled = text.contains("--");
    let at = |place: usize| bare.chars().nth(place);
    let variant = matches!(at(16), Some('8' | '9' | 'a' | 'b')) || version == Some('3');
    !doubled && version.is_none_or(|version| at(12) == Some(version) && variant)
}

fn isbn10(text: &str) -> bool {
    let bare = text.replace(['-', ' '], "");
    let value = |(i, c): (usize, char)| match c {
        'X' if i == 9 => Some(10),
        c => c.to_digit(10),
    };
    let digits: Option<Vec<u32>> = bare.chars().enumerate().map(value).collect();
    digits.is_some_and(|d| d.len() == 10 && d.iter().zip((1..=10).rev()).map(|(d, w)| d * w).sum::<u32>() % 11 == 0)
}

fn isbn13(text: &str) -> bool {
    let bare = text.replace(['-', ' '], "");
    let digits: Option<Vec<u32>> = bare.chars().map(|c| c.to_digit(10)).collect();
    let weighed = |d: &[u32]| d.iter().zip([1, 3].into_iter().cycle()).map(|(d, w)| d * w).sum::<u32>();
    digits.is_some_and(|d| d.len() == 13 && weighed(&d) % 10 == 0)
}

fn luhn(digits: &str) -> bool {
    let value = |(i, c): (usize, char)| {
        let digit = c.to_digit(10).unwrap_or(0) * if i % 2 == 1 { 2 } else { 1 };
        if digit > 9 { digit - 9 } else { digit }
    };
    digits.chars().rev().enumerate().map(value).sum::<u32>() % 10 == 0
}

fn date_time(text: &str) -> bool {
    let upper = text.to_uppercase();
    upper.len() > 10 && upper.as_bytes()[10] == b'T' && parse_rfc3339(&upper).is_some()
}

/// Go's notation, or numbers with the names of units, as Scala has them.
fn duration(text: &str) -> bool {
    if crate::duration::parse(text).is_some() {
        return true;
    }
    const UNITS: [&str; 31] = [
        "ns",
        "nano",
        "nanos",
        "nanosecond",
        "nanoseconds",
        "us",
        "µs",
        "micro",
        "micros",
        "microsecond",
        "microseconds",
        "ms",
        "milli",
        "millis",
        "millisecond",
        "milliseconds",
        "s",
        "sec",
        "secs",
        "second",
        "seconds",
        "m",
        "min",
        "mins",
        "minute",
        "minutes",
        "h",
        "hour",
        "hours",
        "d",
        "w",
    ];
    let long = ["hr", "hrs", "day", "days", "wk", "wks", "week", "weeks"];
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let unit = rest.trim();
    rest.len() < text.len() && (UNITS.contains(&unit) || long.contains(&unit))
}

/// Whether a number can be held in what its type and format say.
pub(super) fn in_range(ty: &str, format: &str, value: &Value) -> bool {
    let (whole, number) = (value.as_i64(), value.as_f64().unwrap_or_default());
    // Go takes a float for what it is written as.
    let whole = whole.or_else(|| (number.fract() == 0.0 && number.abs() < 9.2e18).then_some(number as i64));
    match (ty, format) {
        ("integer", "int32") => whole.is_some_and(|n| i32::try_from(n).is_ok()),
        ("integer", "uint32") => whole.is_some_and(|n| u32::try_from(n).is_ok()),
        ("integer", "uint64") => value.as_u64().is_some() || whole.is_some_and(|n| n >= 0),
        ("integer", _) => whole.is_some() || number.fract() != 0.0,
        ("number", "float" | "float32") => number.abs() <= f64::from(f32::MAX),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_formats() {
        for (format, good, bad) in [
            ("ipv4", &["1.2.3.4", "010.0.0.1"][..], &["1.2.3", "::1", "1.2.3.256", ""][..]),
            ("ipv6", &["::1", "fe80::1"], &["1.2.3.4", "x"]),
            ("cidr", &["10.0.0.0/8", "::/0"], &["10.0.0.0", "10.0.0.0/33", "10.0.0.0/+8"]),
            ("mac", &["00:11:22:33:44:55", "0011.2233.4455"], &["00:11", "zz:11:22:33:44:55"]),
            (
                "uuid",
                &["c8a2e7a0-0000-4000-8000-0123456789ab", "C8A2E7A00000400080000123456789AB"],
                &["x", "c8a2e7a0-0000", "c8a2-e7a0000040008000-0123456789ab"],
            ),
            ("uuid4", &["c8a2e7a0-0000-4000-8000-0123456789ab"], &["c8a2e7a0-0000-3000-8000-0123456789ab"]),
            ("date", &["2024-02-29"], &["2023-02-29", "2024-2-9"]),
            (
                "date-time",
                &["2014-12-15T19:30:20.000Z", "2014-12-15t19:30:20z"],
                &["2014-12-15", "2014-12-15 19:30:20Z"],
            ),
            ("datetime", &["2014-12-15T19:30:20+02:00"], &["now"]),
            ("duration", &["5m", "22 ns", "3 hours", "1h30m"], &["", "x", "5", "5 parsecs"]),
            ("email", &["a@b.c", "A B <a.b@c>"], &["a", "@b", "a@", "a b@c"]),
            ("hostname", &["a.example", "localhost"], &["-a", "a_b", ""]),
            ("uri", &["http://a/b?c", "/path"], &["", "a b", "nothing"]),
            ("byte", &["aGk="], &["a", "*"]),
            ("hexcolor", &["#fff", "00ff00"], &["#ff", "red"]),
            ("rgbcolor", &["rgb(1,2,255)"], &["rgb(1,2,256)"]),
            ("isbn", &["0321751043", "978-0321751041"], &["0321751044"]),
            ("creditcard", &["4111 1111 1111 1111"], &["4111 1111 1111 1112"]),
            ("bsonobjectid", &["507f1f77bcf86cd799439011"], &["507f"]),
            ("k8s-short-name", &["a-b"], &["A", "a.b", "-a"]),
            ("k8s-long-name", &["a-b.c"], &["a..b"]),
            ("password", &["anything"], &[]),
            ("unheard-of", &["anything"], &[]),
        ] {
            for text in good {
                assert!(holds(format, text), "{text:?} is a {format}");
            }
            for text in bad {
                assert!(!holds(format, text), "{text:?} is no {format}");
            }
        }
        assert!(is_known("date-time") && !is_known("int32"));
    }

    #[test]
    fn numbers_have_ranges() {
        assert!(in_range("integer", "int32", &Value::from(i32::MAX)));
        assert!(!in_range("integer", "int32", &Value::from(i64::from(i32::MAX) + 1)));
        assert!(!in_range("integer", "uint32", &Value::from(-1)) && in_range("number", "double", &Value::from(1e300)));
        assert!(!in_range("number", "float", &Value::from(1e300)));
    }
}
