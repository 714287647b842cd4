//! Resource quantities: `500m`, `1Gi`, `1e3` (`k8s.io/apimachinery/pkg/api/resource`).

use std::fmt;

use crate::Value;

/// How a quantity is written back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    BinarySi,
    DecimalSi,
    DecimalExponent,
}

/// A fixed-point number in units of 10⁻⁹, upstream's finest precision, and its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;

/// The text that upstream answers for a malformed quantity.
pub const MALFORMED: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

impl Quantity {
    pub fn from_units(units: i64, format: Format) -> Self {
        Self { nanos: i128::from(units) * NANO, format }
    }

    pub fn from_millis(millis: i64) -> Self {
        Self { nanos: i128::from(millis) * (NANO / 1000), format: Format::DecimalSi }
    }

    pub fn bytes(bytes: i64) -> Self {
        Self::from_units(bytes, Format::BinarySi)
    }

    /// Parses; finer than 10⁻⁹ is rounded up, as upstream does.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let digits_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(digits_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(MALFORMED);
        }
        // The multiplier as numerator and denominator, both exact.
        let (up, down, format) = match suffix {
            "n" => (1, NANO, Format::DecimalSi),
            "u" => (1, 1_000_000, Format::DecimalSi),
            "m" => (1, 1000, Format::DecimalSi),
            "" => (1, 1, Format::DecimalSi),
            "k" => (1000, 1, Format::DecimalSi),
            "M" => (1_000_000, 1, Format::DecimalSi),
            "G" => (NANO, 1, Format::DecimalSi),
            "T" => (NANO * 1000, 1, Format::DecimalSi),
            "P" => (NANO * 1_000_000, 1, Format::DecimalSi),
            "E" => (NANO * NANO, 1, Format::DecimalSi),
            "Ki" => (1 << 10, 1, Format::BinarySi),
            "Mi" => (1 << 20, 1, Format::BinarySi),
            "Gi" => (1 << 30, 1, Format::BinarySi),
            "Ti" => (1 << 40, 1, Format::BinarySi),
            "Pi" => (1 << 50, 1, Format::BinarySi),
            "Ei" => (1 << 60, 1, Format::BinarySi),
            exponent => {
                let power: i32 = exponent.strip_prefix(['e', 'E']).and_then(|e| e.parse().ok()).ok_or(MALFORMED)?;
                let ten = |p: u32| 10_i128.checked_pow(p).ok_or(MALFORMED);
                match power {
                    0..=18 => (ten(power.unsigned_abs())?, 1, Format::DecimalExponent),
                    -18..0 => (1, ten(power.unsigned_abs())?, Format::DecimalExponent),
                    _ => return Err(MALFORMED),
                }
            }
        };
        let mut mantissa: i128 = 0;
        let mut scale: i128 = 1;
        for c in whole.bytes() {
            mantissa = mantissa.saturating_mul(10).saturating_add(i128::from(c - b'0'));
        }
        for c in fraction.bytes().take(18) {
            mantissa = mantissa.saturating_mul(10).saturating_add(i128::from(c - b'0'));
            scale *= 10;
        }
        // Upstream caps binary magnitudes at 2^63-1 and decimal ones not at all; here they end where nanos do.
        let cap = if format == Format::BinarySi { i128::from(i64::MAX) * NANO } else { i128::MAX };
        let denominator = down * scale;
        let nanos = match mantissa.checked_mul(up).and_then(|m| m.checked_mul(NANO)) {
            Some(numerator) => (numerator / denominator + i128::from(numerator % denominator != 0)).min(cap),
            None => cap,
        };
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// A quantity in an object: a string, or a number as written.
    pub fn of(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Self::parse(text).ok(),
            Value::Number(number) => Self::parse(&number.to_string()).ok(),
            _ => None,
        }
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// Whole units, rounded up (away from zero), as upstream's `Value()`.
    pub fn value(&self) -> i64 {
        self.scaled(NANO)
    }

    /// Thousandths, rounded up, as upstream's `MilliValue()`.
    pub fn milli_value(&self) -> i64 {
        self.scaled(NANO / 1000)
    }

    fn scaled(&self, unit: i128) -> i64 {
        let magnitude = self.nanos.abs();
        let up = magnitude / unit + i128::from(magnitude % unit != 0);
        i64::try_from(up * self.nanos.signum()).unwrap_or(if self.nanos < 0 { i64::MIN } else { i64::MAX })
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// The number, if it is a whole one that fits (upstream's `AsInt64`).
    pub fn as_i64(&self) -> Option<i64> {
        (self.nanos % NANO == 0).then(|| i64::try_from(self.nanos / NANO).ok())?
    }

    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// The sum, in this quantity's format; nothing takes on the other's.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { nanos: self.nanos.saturating_add(other.nanos), format: self.joined(other) }
    }

    /// The difference, in this quantity's format; nothing takes on the other's.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self { nanos: self.nanos.saturating_sub(other.nanos), format: self.joined(other) }
    }

    fn joined(self, other: Self) -> Format {
        if self.is_zero() { other.format } else { self.format }
    }

    /// The next whole unit, away from zero.
    #[must_use]
    pub fn rounded_up(self) -> Self {
        let rest = self.nanos % NANO;
        let nanos = if rest == 0 { self.nanos } else { self.nanos - rest + NANO * self.nanos.signum() };
        Self { nanos, format: self.format }
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.nanos.cmp(&other.nanos))
    }
}

/// Upstream's canonical form: no fraction, the largest suffix that keeps the number whole.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos % NANO == 0;
        if self.format == Format::BinarySi && whole && self.nanos.abs() >= 1024 * NANO {
            let units = self.nanos / NANO;
            let (mut value, mut steps) = (units, 0);
            while value % 1024 == 0 && steps < 6 {
                value /= 1024;
                steps += 1;
            }
            return write!(f, "{value}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][steps]);
        }
        let (mut value, mut power) = (self.nanos, -9);
        while value % 1000 == 0 && power < 18 {
            value /= 1000;
            power += 3;
        }
        if self.format == Format::DecimalExponent && power != 0 {
            return write!(f, "{value}e{power}");
        }
        let suffix = match power {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            0 => "",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        };
        write!(f, "{value}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (input, expect) in [
            ("0", "0"),
            ("1", "1"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1e3", "1e3"),
            ("1000", "1k"),
            ("100M", "100M"),
            ("0.1", "100m"),
            ("-1", "-1"),
            ("1Ki", "1Ki"),
            ("1536", "1536"),
            ("12e6", "12e6"),
            ("0.0000000001", "1n"),
            ("512", "512"),
            (".5", "500m"),
            ("5.", "5"),
            ("10000000000000000000", "10E"),
            ("16Ei", "9223372036854775807"),
        ] {
            assert_eq!(Quantity::parse(input).unwrap().to_string(), expect, "{input}");
        }
        for bad in ["", "a", "1x", "1.2.3", "1 Gi", "Gi", "1ee3", "--1"] {
            assert!(Quantity::parse(bad).is_err(), "{bad:?} parsed");
        }
    }

    #[test]
    fn nothing_has_no_form() {
        let of = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!(of("0").plus(of("1024Mi")).to_string(), "1Gi");
        assert_eq!(of("1000").plus(of("1Ki")).to_string(), "2024");
        assert_eq!(of("0").minus(of("1Ki")).to_string(), "-1Ki");
    }

    #[test]
    fn rounding_is_up() {
        assert_eq!(Quantity::parse("1.5").unwrap().rounded_up().to_string(), "2");
        assert_eq!(Quantity::parse("-1.5").unwrap().rounded_up().to_string(), "-2");
        assert_eq!(Quantity::parse("1Ki").unwrap().rounded_up().to_string(), "1Ki");
        assert_eq!(Quantity::parse("1m").unwrap().value(), 1);
        assert_eq!(Quantity::parse("-1500m").unwrap().value(), -2);
        assert_eq!(Quantity::parse("100u").unwrap().milli_value(), 1);
        assert_eq!(Quantity::parse("2").unwrap().milli_value(), 2000);
        assert!(Quantity::parse("1Gi").unwrap() > Quantity::parse("1G").unwrap());
    }
}
