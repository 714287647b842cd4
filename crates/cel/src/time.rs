//! Durations and times: Go's forms of them, and the parts that expressions ask for.

use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, civil};

use crate::error::EvalError;

/// A point in time, from the first instant of year 1 to the last of year 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    seconds: i64,
    nanos: u32,
}

const FIRST: i64 = -62_135_596_800;
const LAST: i64 = 253_402_300_799;
const NANOS: i128 = 1_000_000_000;
const EPOCH: civil::DateTime = civil::date(1970, 1, 1).at(0, 0, 0, 0);

pub(crate) fn overflow() -> EvalError {
    EvalError::new("timestamp overflow")
}

impl Time {
    pub fn from_seconds(seconds: i64) -> Option<Self> {
        (FIRST..=LAST).contains(&seconds).then_some(Self { seconds, nanos: 0 })
    }

    pub fn from_nanos(nanos: i128) -> Option<Self> {
        let seconds = i64::try_from(nanos.div_euclid(NANOS)).ok()?;
        let time = Self::from_seconds(seconds)?;
        Some(Self { nanos: nanos.rem_euclid(NANOS) as u32, ..time })
    }

    pub fn seconds(self) -> i64 {
        self.seconds
    }

    /// Since 1970.
    pub fn nanos(self) -> i128 {
        i128::from(self.seconds) * NANOS + i128::from(self.nanos)
    }

    pub(crate) fn is_zero(self) -> bool {
        self.seconds == FIRST && self.nanos == 0
    }

    /// The date and time of day at an offset from UTC.
    fn civil(self, offset: i32) -> Result<civil::DateTime, EvalError> {
        let since = SignedDuration::new(self.seconds.saturating_add(i64::from(offset)), self.nanos as i32);
        EPOCH.checked_add(since).map_err(|_| overflow())
    }

    fn from_civil(date_time: civil::DateTime, offset: i32) -> Option<Self> {
        let since = date_time.duration_since(EPOCH);
        Self::from_nanos(since.as_nanos() - i128::from(offset) * NANOS)
    }
}

impl From<Timestamp> for Time {
    fn from(timestamp: Timestamp) -> Self {
        let bounded = timestamp.as_nanosecond().clamp(i128::from(FIRST) * NANOS, i128::from(LAST) * NANOS);
        Self { seconds: bounded.div_euclid(NANOS) as i64, nanos: bounded.rem_euclid(NANOS) as u32 }
    }
}

pub(crate) fn plus(time: Time, nanos: i64) -> Result<Time, EvalError> {
    Time::from_nanos(time.nanos() + i128::from(nanos)).ok_or_else(overflow)
}

/// A time in RFC 3339, as `timestamp()` takes it.
pub(crate) fn parse(text: &str) -> Option<Time> {
    let bytes = text.as_bytes();
    if bytes.len() < 20 || bytes[10] != b'T' {
        return None;
    }
    parse_date_time(text)
}

/// `2006-01-02T15:04:05.999Z`, with a zone.
fn parse_date_time(text: &str) -> Option<Time> {
    let (date, rest) = (text.get(..10)?, text.get(11..)?);
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = rest.split_at(zone_at);
    Time::from_civil(civil_date(date)?.to_datetime(parse_clock(clock)?), parse_zone(zone)?)
}

/// Seconds east of UTC.
fn parse_zone(zone: &str) -> Option<i32> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (hours, minutes) = match zone[1..].split_once(':') {
        Some(parts) => parts,
        None => zone.get(1..3).zip(zone.get(3..))?,
    };
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    let seconds = hours.parse::<u8>().ok().filter(|h| *h < 24).map(i32::from)? * 3600
        + minutes.parse::<u8>().ok().filter(|m| *m < 60).map(i32::from)? * 60;
    Some(if zone.starts_with('-') { -seconds } else { seconds })
}

fn parse_clock(text: &str) -> Option<civil::Time> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = whole.split(':');
    let mut part = || parts.next().filter(|p| p.len() == 2)?.parse::<i8>().ok();
    let (hour, minute) = (part()?, part()?);
    let second = part().unwrap_or(0);
    if !fraction.bytes().all(|b| b.is_ascii_digit()) || (fraction.is_empty() && text.contains('.')) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    civil::Time::new(hour, minute, second, digits.parse().ok()?).ok()
}

fn civil_date(text: &str) -> Option<civil::Date> {
    let bytes = text.as_bytes();
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let digits = |range: std::ops::Range<usize>| {
        let part = text.get(range)?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<i16>().ok())?
    };
    civil::Date::new(digits(0..4)?, digits(5..7)? as i8, digits(8..10)? as i8).ok()
}

/// A date of an OpenAPI schema.
pub(crate) fn parse_date(text: &str) -> Option<Time> {
    Time::from_civil(civil_date(text)?.to_datetime(civil::Time::midnight()), 0)
}

/// A time of an OpenAPI schema: RFC 3339 and some looser forms.
pub(crate) fn parse_loose_date_time(text: &str) -> Option<Time> {
    if text.is_empty() {
        return Time::from_seconds(0);
    }
    if !matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' ')) {
        return None;
    }
    parse_date_time(text).or_else(|| parse_date_time(&format!("{text}Z")))
}

/// A duration as Go writes it: `1h30m`, `1.5s`, `-2ms`.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let length = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(length);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let unit_length = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_length);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let mut part = whole.checked_mul(unit)?;
        let digits: String = fraction.chars().take(18).collect();
        if !digits.is_empty() {
            part += digits.parse::<i128>().ok()? * unit / 10_i128.pow(digits.len() as u32);
        }
        total = total.checked_add(part)?;
        rest = next;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// A duration of an OpenAPI schema: Go's form, or numbers and words as in `2 days`.
pub(crate) fn parse_loose_duration(text: &str) -> Option<i64> {
    if let Some(nanos) = parse_duration(text) {
        return Some(nanos);
    }
    let mut rest = text.trim();
    let mut total: i64 = 0;
    let mut any = false;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        let unit: i64 = match rest[..letters].to_lowercase().as_str() {
            "ns" | "nano" | "nanos" | "nanosecond" | "nanoseconds" => 1,
            "us" | "µs" | "micro" | "micros" | "microsecond" | "microseconds" => 1_000,
            "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1_000_000,
            "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000_000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000_000_000,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3_600_000_000_000,
            "d" | "day" | "days" => 86_400_000_000_000,
            "w" | "wk" | "wks" | "week" | "weeks" => 604_800_000_000_000,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        any = true;
        rest = rest[letters..].trim_start();
    }
    any.then_some(total)
}

/// Seconds, with as many decimals as it takes: `90s`, `1.5s`.
pub(crate) fn duration_to_string(nanos: i64) -> String {
    let seconds = (nanos / 1_000_000_000) as f64 + (nanos % 1_000_000_000) as f64 / 1e9;
    format!("{seconds}s")
}

/// In RFC 3339, with as many decimals as it takes.
pub(crate) fn to_string(time: Time) -> Result<String, EvalError> {
    Ok(format!("{}Z", time.civil(0)?))
}

/// A part of a time that expressions ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    FullYear,
    Month,
    DayOfYear,
    DayOfMonth,
    Date,
    DayOfWeek,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

pub(crate) fn part(time: Time, zone: Option<&str>, part: Part) -> Result<i64, EvalError> {
    let offset = zone.map_or(Ok(0), |zone| offset(time, zone))?;
    let local = time.civil(offset)?;
    Ok(match part {
        Part::FullYear => i64::from(local.year()),
        Part::Month => i64::from(local.month()) - 1,
        Part::DayOfYear => i64::from(local.date().day_of_year()) - 1,
        Part::DayOfMonth => i64::from(local.day()) - 1,
        Part::Date => i64::from(local.day()),
        Part::DayOfWeek => i64::from(local.weekday().to_sunday_zero_offset()),
        Part::Hours => i64::from(local.hour()),
        Part::Minutes => i64::from(local.minute()),
        Part::Seconds => i64::from(local.second()),
        Part::Milliseconds => i64::from(local.subsec_nanosecond()) / 1_000_000,
    })
}

/// Seconds east of UTC in a zone by its name, or by an offset as in `-08:00`.
fn offset(time: Time, zone: &str) -> Result<i32, EvalError> {
    let unknown = || EvalError::new(format!("unknown time zone {zone}"));
    let Some((hours, minutes)) = zone.split_once(':') else {
        if zone.is_empty() || zone == "UTC" {
            return Ok(0);
        }
        let zone = TimeZone::get(zone).map_err(|_| unknown())?;
        let within = time.seconds.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
        let at = Timestamp::from_second(within).map_err(|_| unknown())?;
        return Ok(zone.to_offset(at).seconds());
    };
    let number = |text: &str| {
        text.parse::<i32>()
            .map_err(|_| EvalError::new(format!("strconv.Atoi: parsing {}: invalid syntax", crate::text::quote(text))))
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let minutes = if zone.starts_with('-') { -minutes } else { minutes };
    let seconds = hours.saturating_mul(3600).saturating_add(minutes.saturating_mul(60));
    Offset::from_seconds(seconds).map(Offset::seconds).map_err(|_| unknown())
}
