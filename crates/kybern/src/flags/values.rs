//! Values of flags, as Go reads them: what is no value of its type is refused in Go's words.

use kybern_apimachinery::time::parse_duration;

/// The value in the form that Rust's parsers read, too.
pub(super) fn canonical(kind: &str, text: &str) -> Result<String, String> {
    match kind {
        "bool" => parse_bool(text).map(|value| value.to_string()),
        "int" | "int64" | "count" | "Level" => signed(text, i64::MIN, i64::MAX),
        "int32" => signed(text, i32::MIN.into(), i32::MAX.into()),
        "uint" | "uint64" => unsigned(text, u64::MAX),
        "uint32" => unsigned(text, u32::MAX.into()),
        "uint16" => unsigned(text, u16::MAX.into()),
        "float32" | "float64" => match text.parse::<f64>() {
            Ok(_) => Ok(text.to_owned()),
            Err(_) => Err(format!("strconv.ParseFloat: parsing {text:?}: invalid syntax")),
        },
        // Go has zero without a unit, too.
        "duration" if text == "0" => Ok("0s".to_owned()),
        "duration" => match parse_duration(text.strip_prefix('-').unwrap_or(text)) {
            Some(_) => Ok(text.to_owned()),
            None => Err(format!("time: invalid duration {text:?}")),
        },
        "mapStringBool" | "mapStringString" => {
            // The kubelet's thresholds are as memory.available<100Mi.
            let wrong = items(text).find(|item| !item.is_empty() && !item.contains(['=', '<']));
            match wrong {
                Some(item) => Err(format!("malformed pair, expect string=string: {item:?}")),
                None => Ok(text.to_owned()),
            }
        }
        _ => Ok(text.to_owned()),
    }
}

/// Kinds of which several values add up; of others the last one counts.
pub(super) fn is_list(kind: &str) -> bool {
    kind.ends_with("Slice") || kind.ends_with("Array") || kind.starts_with("map") || kind.starts_with("colon")
}

/// The entries of a list.
pub(super) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim)
}

/// `strconv.ParseBool`.
pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

fn signed(text: &str, low: i64, high: i64) -> Result<String, String> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let number = magnitude(digits).ok_or_else(|| format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))?;
    let number = i128::try_from(number).unwrap_or(i128::MAX);
    let number = if negative { -number } else { number };
    match i64::try_from(number).ok().filter(|number| (low..=high).contains(number)) {
        Some(number) => Ok(number.to_string()),
        None => Err(format!("strconv.ParseInt: parsing {text:?}: value out of range")),
    }
}

fn unsigned(text: &str, high: u64) -> Result<String, String> {
    let number = magnitude(text).ok_or_else(|| format!("strconv.ParseUint: parsing {text:?}: invalid syntax"))?;
    match u64::try_from(number).ok().filter(|number| *number <= high) {
        Some(number) => Ok(number.to_string()),
        None => Err(format!("strconv.ParseUint: parsing {text:?}: value out of range")),
    }
}

/// Digits in the base that their beginning names, as in Go's source. What is too large is as large as can be.
fn magnitude(text: &str) -> Option<u128> {
    let lower = text.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(base)) {
        return None;
    }
    Some(u128::from_str_radix(&digits, base).unwrap_or(u128::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let ok = |kind: &str, text: &str, expect: &str| {
            assert_eq!(canonical(kind, text).as_deref(), Ok(expect), "{kind} {text}");
        };
        ok("bool", "T", "true");
        ok("bool", "0", "false");
        ok("int", "0x10", "16");
        ok("int", "-7", "-7");
        ok("int32", "010", "8");
        ok("uint16", "65_535", "65535");
        ok("float32", "0.9", "0.9");
        ok("duration", "1m30s", "1m30s");
        ok("duration", "-1ms", "-1ms");
        ok("duration", "0", "0s");
        ok("mapStringString", "a=1,b=2", "a=1,b=2");
        ok("string", "anything", "anything");
        let fails = |kind: &str, text: &str, expect: &str| {
            assert_eq!(canonical(kind, text), Err(expect.to_owned()), "{kind} {text}");
        };
        fails("bool", "yes", "strconv.ParseBool: parsing \"yes\": invalid syntax");
        fails("int", "x", "strconv.ParseInt: parsing \"x\": invalid syntax");
        fails("int", "", "strconv.ParseInt: parsing \"\": invalid syntax");
        fails("int32", "2147483648", "strconv.ParseInt: parsing \"2147483648\": value out of range");
        fails("uint", "-1", "strconv.ParseUint: parsing \"-1\": invalid syntax");
        fails("duration", "soon", "time: invalid duration \"soon\"");
        fails("mapStringBool", "a", "malformed pair, expect string=string: \"a\"");
    }
}
