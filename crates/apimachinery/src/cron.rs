//! The schedules of CronJobs, as `robfig/cron`'s `ParseStandard` reads them: five fields or a name such as `@daily`, and
//! before them, perhaps, `TZ=` and a time zone.

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};

use crate::time::parse_duration;

/// In a set: it was written with a star.
const STAR: u64 = 1 << 63;
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// When something is to happen, in a time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    times: Times,
    zone: TimeZone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Times {
    Every(SignedDuration),
    Fields(Fields),
}

/// Sets of numbers, one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
}

/// Finds a zone by its name in the database that is compiled in; names are exact, as Go's are.
pub fn zone(name: &str) -> Result<TimeZone, String> {
    let found = TimeZone::get(name).ok().filter(|zone| zone.iana_name() == Some(name) || name == "UTC");
    found.ok_or_else(|| format!("unknown time zone {name}"))
}

impl Schedule {
    /// Reads a schedule. It is in `default` unless the text names another zone.
    pub fn parse(text: &str, default: &TimeZone) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        let prefixed = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ="));
        let (zone, text) = match prefixed.map(|rest| rest.split_once(' ').unwrap_or((rest, ""))) {
            Some((name, rest)) => {
                (zone(name).map_err(|error| format!("provided bad location {name}: {error}"))?, rest.trim())
            }
            None => (default.clone(), text),
        };
        let times = if text.starts_with('@') { descriptor(text)? } else { Times::Fields(Fields::parse(text)?) };
        Ok(Self { times, zone })
    }

    /// The first time after `after`; none if there is none within five years. A local time that a change of the clock
    /// leaves out does not happen, one that comes twice happens twice.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.times {
            Times::Every(delay) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*delay).ok()
            }
            Times::Fields(fields) => {
                let start = self.zone.to_datetime(after).date();
                let mut day = start;
                while day.year() <= start.year().saturating_add(5) {
                    if fields.has_day(day)
                        && let Some(found) = self.first_in_day(fields, day, after)
                    {
                        return Some(found);
                    }
                    day = day.checked_add(1.day()).ok()?;
                }
                None
            }
        }
    }

    fn first_in_day(&self, fields: &Fields, day: Date, after: Timestamp) -> Option<Timestamp> {
        // Where the clock changes, later local times may come before earlier ones.
        let offset_at = |at: DateTime| match self.zone.to_ambiguous_timestamp(at).offset() {
            AmbiguousOffset::Unambiguous { offset } => Some(offset),
            _ => None,
        };
        let midnight = day.at(0, 0, 0, 0);
        let first = offset_at(midnight);
        let is_even = first.is_some() && midnight.checked_add(1.day()).ok().and_then(offset_at) == first;
        let mut soonest: Option<Timestamp> = None;
        // Who asks for one time after the other need not go through all of each day again.
        let start = self.zone.to_datetime(after);
        let begin = if is_even && start.date() == day { start.hour() } else { 0 };
        for hour in (begin..24_i8).filter(|hour| fields.hours & (1_u64 << *hour) != 0) {
            for minute in (0..60_i8).filter(|minute| fields.minutes & (1_u64 << *minute) != 0) {
                let local = day.at(hour, minute, 0, 0);
                let offsets = match self.zone.to_ambiguous_timestamp(local).offset() {
                    AmbiguousOffset::Unambiguous { offset } => [Some(offset), None],
                    AmbiguousOffset::Fold { before, after } => [Some(before), Some(after)],
                    AmbiguousOffset::Gap { .. } => [None, None],
                };
                let times = offsets.into_iter().flatten().filter_map(|offset| offset.to_timestamp(local).ok());
                for time in times.filter(|time| *time > after) {
                    if is_even {
                        return Some(time);
                    }
                    soonest = Some(soonest.map_or(time, |old| old.min(time)));
                }
            }
        }
        soonest
    }
}

impl Fields {
    fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
        };
        Ok(Self {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, &MONTHS)?,
            weekdays: field(weekdays, 0, 6, &DAYS)?,
        })
    }

    /// Both kinds of day must fit if one has a star; else one of them suffices.
    fn has_day(&self, date: Date) -> bool {
        let weekday = date.weekday().to_sunday_zero_offset();
        let (day, weekday) = (self.days & (1_u64 << date.day()) != 0, self.weekdays & (1_u64 << weekday) != 0);
        let fits = if (self.days | self.weekdays) & STAR != 0 { day && weekday } else { day || weekday };
        fits && self.months & (1_u64 << date.month()) != 0
    }
}

fn descriptor(text: &str) -> Result<Times, String> {
    if let Some(every) = text.strip_prefix("@every ") {
        let duration = parse_duration(every).and_then(|d| i64::try_from(d.as_secs()).ok());
        let seconds =
            duration.ok_or_else(|| format!("failed to parse duration {text}: time: invalid duration {every:?}"))?;
        return Ok(Times::Every(SignedDuration::from_secs(seconds.max(1))));
    }
    let fields = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => return Err(format!("unrecognized descriptor: {text}")),
    };
    Fields::parse(fields).map(Times::Fields)
}

/// Ranges with commas between them. Of nothing but commas there is no time.
fn field(text: &str, low: u32, high: u32, names: &[&str]) -> Result<u64, String> {
    text.split(',').filter(|part| !part.is_empty()).try_fold(0, |set, part| Ok(set | range(part, low, high, names)?))
}

/// `number`, `number-number` or a star, and perhaps `/step`.
fn range(text: &str, low: u32, high: u32, names: &[&str]) -> Result<u64, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let value = |word: &str| match names.iter().position(|name| name.eq_ignore_ascii_case(word)) {
        Some(at) => Ok(low + u32::try_from(at).unwrap_or(u32::MAX - low)),
        None => number(word),
    };
    let (first, mut last, mut star) = match ends[..] {
        ["*" | "?", ..] => (low, high, STAR),
        [one] => (value(one)?, value(one)?, 0),
        [first, last] => (value(first)?, value(last)?, 0),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = match parts[..] {
        [_] => 1,
        [_, step] => {
            let step = number(step)?;
            // `N/step` is `N-max/step`.
            if ends.len() == 1 {
                last = high;
            }
            if step > 1 {
                star = 0;
            }
            step
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    if first < low {
        return Err(format!("beginning of range ({first}) below minimum ({low}): {text}"));
    }
    if last > high {
        return Err(format!("end of range ({last}) above maximum ({high}): {text}"));
    }
    if first > last {
        return Err(format!("beginning of range ({first}) beyond end of range ({last}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    let numbers = (first..=last).step_by(usize::try_from(step).unwrap_or(usize::MAX));
    Ok(numbers.fold(star, |set, number| set | (1_u64 << number)))
}

fn number(text: &str) -> Result<u32, String> {
    let invalid = || format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax");
    let number: i64 = text.parse().map_err(|_| invalid())?;
    if number < 0 {
        return Err(format!("negative number ({number}) not allowed: {text}"));
    }
    u32::try_from(number).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str) -> Option<String> {
        let schedule = Schedule::parse(schedule, &TimeZone::UTC).unwrap();
        schedule.next(after.parse().unwrap()).map(|time| time.to_string())
    }

    #[test]
    fn the_next_time() {
        for (schedule, after, expect) in [
            ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("* * * * *", "2025-12-31T23:59:59.9Z", "2026-01-01T00:00:00Z"),
            ("0/15 * * * *", "2012-07-09T14:45:00Z", "2012-07-09T15:00:00Z"),
            ("*/15 * * * *", "2012-07-09T14:59:59Z", "2012-07-09T15:00:00Z"),
            ("20-35/15 * * * *", "2012-07-09T23:46:00Z", "2012-07-10T00:20:00Z"),
            ("30 6-16/4 * * 1-5", "2026-01-02T14:30:00Z", "2026-01-05T06:30:00Z"),
            ("0 0 */5 apr,aug,oct mon", "2012-07-09T23:35:00Z", "2012-08-01T00:00:00Z"),
            ("0 0 9 apr-oct ?", "2012-07-09T23:35:00Z", "2012-08-09T00:00:00Z"),
            ("0 0 * 2 mon", "2012-07-09T23:35:00Z", "2013-02-04T00:00:00Z"),
            ("0 0 1,15 * sun", "2012-07-10T00:00:00Z", "2012-07-15T00:00:00Z"),
            ("0 0 1 * */2", "2026-02-02T00:00:00Z", "2026-02-03T00:00:00Z"),
            ("0 0 29 2 ?", "2013-01-01T00:00:00Z", "2016-02-29T00:00:00Z"),
            ("0 0 29 2 ?", "2016-02-29T00:00:00Z", "2020-02-29T00:00:00Z"),
            ("@hourly", "2026-01-01T00:59:59Z", "2026-01-01T01:00:00Z"),
            ("@daily", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("@monthly", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"),
            ("@yearly", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("@every 1h30m", "2026-01-01T00:00:00.5Z", "2026-01-01T01:30:00Z"),
            ("@every 10ms", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"),
            // The clock goes forward: a time that is left out does not happen.
            ("TZ=America/New_York 30 2 * * *", "2012-03-10T08:00:00Z", "2012-03-12T06:30:00Z"),
            ("TZ=America/New_York 0 * * * *", "2012-03-11T06:00:00Z", "2012-03-11T07:00:00Z"),
            ("CRON_TZ=America/New_York 0 0 * * *", "2012-03-11T05:00:00Z", "2012-03-12T04:00:00Z"),
            // It goes back: what comes twice happens twice.
            ("TZ=America/New_York 0 1 * * *", "2012-11-03T06:00:00Z", "2012-11-04T05:00:00Z"),
            ("TZ=America/New_York 0 1 * * *", "2012-11-04T05:00:00Z", "2012-11-04T06:00:00Z"),
            ("TZ=America/New_York */30 * * * *", "2012-11-04T05:30:00Z", "2012-11-04T06:00:00Z"),
            ("TZ=America/New_York 0 2 * * *", "2012-11-04T06:00:00Z", "2012-11-04T07:00:00Z"),
            // There is no midnight on that day.
            ("TZ=America/Sao_Paulo 0 9 10 9 ?", "2018-07-09T23:35:00Z", "2018-09-10T12:00:00Z"),
            ("TZ=America/Sao_Paulo 0 9 4 11 ?", "2018-07-09T23:35:00Z", "2018-11-04T11:00:00Z"),
            ("TZ=Asia/Kolkata 0 0 * * *", "2026-01-01T00:00:00Z", "2026-01-01T18:30:00Z"),
        ] {
            assert_eq!(next(schedule, after).as_deref(), Some(expect), "{schedule} after {after}");
        }
        for never in ["0 0 30 2 *", "0 0 31 apr,jun,sep,nov *", ", * * * *"] {
            assert_eq!(next(never, "2026-01-01T00:00:00Z"), None, "{never}");
        }
        assert_eq!(next("@every 9000h", "9999-12-30T00:00:00Z"), None);
    }

    #[test]
    fn what_is_wrong_with_a_schedule() {
        for (text, fault) in [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("@never", "unrecognized descriptor: @never"),
            ("@every 5", "failed to parse duration @every 5: time: invalid duration \"5\""),
            ("TZ=Mars/Base * * * * *", "provided bad location Mars/Base: unknown time zone Mars/Base"),
            ("TZ=UTC", "expected exactly 5 fields, found 0: []"),
        ] {
            assert_eq!(Schedule::parse(text, &TimeZone::UTC), Err(fault.to_owned()), "{text}");
        }
    }

    #[test]
    fn zones_are_known_by_their_exact_names() {
        for (name, known) in [("UTC", true), ("Etc/UTC", true), ("Europe/Berlin", true), ("europe/berlin", false)] {
            assert_eq!(zone(name).is_ok(), known, "{name}");
        }
    }
}
