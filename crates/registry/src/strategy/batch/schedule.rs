//! Cron schedules and time zones.

use jiff::tz::TimeZone;
use kybern_apimachinery::cron::{self, Schedule};

/// What is wrong with a schedule.
pub(super) fn fault(schedule: &str) -> Option<String> {
    Schedule::parse(schedule, &TimeZone::UTC).err()
}

/// What is wrong with the name of a time zone.
pub(super) fn zone_faults(zone: &str) -> Vec<String> {
    if zone.is_empty() {
        return vec!["timeZone must be nil or non-empty string".to_owned()];
    }
    let unknown = cron::zone(zone).err();
    if zone.eq_ignore_ascii_case("local") {
        let text = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        return std::iter::once(text.to_owned()).chain(unknown.filter(|_| zone != "Local")).collect();
    }
    unknown.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
