//! Durations in Go's notation: `1h30m`, `1.5s` (Go's `time.ParseDuration` and `Duration.String`).

const UNITS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Nanoseconds; `None` for what Go's parser refuses.
pub fn parse(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let nanos = UNITS.iter().find(|(name, _)| *name == unit)?.1;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(nanos)?)?;
        let mut scale = nanos;
        for digit in fraction.bytes() {
            if !digit.is_ascii_digit() {
                return None;
            }
            scale /= 10;
            total = total.checked_add(i64::from(digit - b'0') * scale)?;
        }
        rest = after;
    }
    Some(sign * total)
}

/// As Go prints it: `1h0m0s`, `1.5s`, `100ms`, `0s`.
pub fn format(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".to_owned();
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let magnitude = nanos.unsigned_abs();
    let decimal = |unit: u64, name: &str| {
        let (whole, part) = (magnitude / unit, magnitude % unit);
        let width = unit.ilog10() as usize;
        let fraction =
            if part == 0 { String::new() } else { format!(".{part:0width$}").trim_end_matches('0').to_owned() };
        format!("{sign}{whole}{fraction}{name}")
    };
    match magnitude {
        0..1_000 => format!("{sign}{magnitude}ns"),
        1_000..1_000_000 => decimal(1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(1_000_000, "ms"),
        _ => {
            let (minutes, rest) = (magnitude / 60_000_000_000, magnitude % 60_000_000_000);
            let (seconds, part) = (rest / 1_000_000_000, rest % 1_000_000_000);
            let fraction =
                if part == 0 { String::new() } else { format!(".{part:09}").trim_end_matches('0').to_owned() };
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}{fraction}s"),
                (0, m) => format!("{sign}{m}m{seconds}{fraction}s"),
                (h, m) => format!("{sign}{h}h{m}m{seconds}{fraction}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_notation() {
        for (input, expect) in [
            ("1h", "1h0m0s"),
            ("90m", "1h30m0s"),
            ("1.5s", "1.5s"),
            ("100ms", "100ms"),
            ("1500us", "1.5ms"),
            ("-1m2s", "-1m2s"),
            ("0", "0s"),
            (".5h", "30m0s"),
            ("7ns", "7ns"),
        ] {
            assert_eq!(parse(input).map(format).as_deref(), Some(expect), "{input}");
        }
        for bad in ["", "1", "h", "1x", "-", "1..5s", "9999999h"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
