//! Cron schedules and time zones.

use jiff::tz::TimeZone;

/// What is wrong with a schedule.
pub(super) fn fault(schedule: &str) -> Option<String> {
    if is_schedule(schedule) {
        return None;
    }
    if schedule.starts_with('@') {
        return Some(format!("unrecognized descriptor: {schedule}"));
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    Some(match fields.len() {
        5 => "a field of the schedule is out of its range".to_owned(),
        count => format!("expected exactly 5 fields, found {count}: [{}]", fields.join(" ")),
    })
}

/// What is wrong with the name of a time zone.
pub(super) fn zone_faults(zone: &str) -> Vec<String> {
    if zone.is_empty() {
        return vec!["timeZone must be nil or non-empty string".to_owned()];
    }
    if zone.eq_ignore_ascii_case("local") {
        let text = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        let unknown = (zone != "Local").then(|| format!("unknown time zone {zone}"));
        return std::iter::once(text.to_owned()).chain(unknown).collect();
    }
    // The database takes names in any case.
    let known = TimeZone::get(zone).is_ok_and(|found| found.iana_name() == Some(zone));
    if known { Vec::new() } else { vec![format!("unknown time zone {zone}")] }
}

/// Whether a text is a standard cron schedule: five fields or one of the `@` names.
fn is_schedule(text: &str) -> bool {
    if let Some(name) = text.strip_prefix('@') {
        let every = name
            .strip_prefix("every ")
            .is_some_and(|d| d.ends_with(['s', 'm', 'h']) && d.starts_with(|c: char| c.is_ascii_digit()));
        return every || ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"].contains(&name);
    }
    const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let ranges: [(i64, i64, &[&str]); 5] = [(0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, &MONTHS), (0, 6, &DAYS)];
    let fields: Vec<&str> = text.split_whitespace().collect();
    let value = |word: &str, (low, high, names): (i64, i64, &[&str])| {
        let named = names
            .iter()
            .position(|n| n.eq_ignore_ascii_case(word))
            .and_then(|i| i64::try_from(i).ok())
            .map(|i| i + low);
        named.or_else(|| word.parse().ok()).filter(|v| (low..=high).contains(v))
    };
    fields.len() == 5
        && fields.iter().zip(ranges).all(|(field, range)| {
            field.split(',').all(|part| {
                let (span, step) = part.split_once('/').map_or((part, None), |(s, n)| (s, Some(n)));
                let step_good = step.is_none_or(|n| n.parse::<u32>().is_ok_and(|n| n > 0));
                let span_good = matches!(span, "*" | "?")
                    || match span.split_once('-') {
                        Some((a, b)) => matches!((value(a, range), value(b, range)), (Some(a), Some(b)) if a <= b),
                        None => value(span, range).is_some(),
                    };
                step_good && span_good
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for (text, good) in [
            ("* * * * *", true),
            ("*/5 0-6 1,15 jan-mar mon", true),
            ("@hourly", true),
            ("@every 5m", true),
            ("60 * * * *", false),
            ("* * * *", false),
            ("a b c d e", false),
            ("*/0 * * * *", false),
            ("5-1 * * * *", false),
            ("@never", false),
        ] {
            assert_eq!(is_schedule(text), good, "{text}");
        }
    }

    #[test]
    fn zones() {
        for (zones, wrong) in [
            (&["UTC", "Etc/UTC", "Europe/Berlin", "US/Pacific", "GMT", "Etc/GMT+5"][..], 0),
            (&["", "-a", "x y", "Local", "europe/berlin", "Europe/Nowhere", "../UTC"], 1),
            (&["local"], 2),
        ] {
            for zone in zones {
                assert_eq!(zone_faults(zone).len(), wrong, "{zone}");
            }
        }
    }
}
