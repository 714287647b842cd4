//! Which of the times that have passed is to be served, and when the next comes.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kybern_api::batch::v1::{CronJob, CronJobSpec, CronJobStatus};
use kybern_apimachinery::cron::Schedule;

use crate::pods::created;

/// Clocks differ a little: no schedule is looked at before its time.
const DELTA: Duration = Duration::from_millis(100);
/// More times than these are too many to have been missed without a fault of a clock or a rest of the controller.
const MANY_MISSED: i64 = 100;

/// A time that has come and is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) at: Timestamp,
    pub(super) too_many: bool,
}

/// What has come since the last time, or since the beginning.
struct Missed {
    /// From when on times count.
    earliest: Timestamp,
    last: Option<Timestamp>,
    count: i64,
}

/// The last time that has come and is not served yet.
pub(super) fn due(
    cron: &CronJob,
    spec: &CronJobSpec,
    status: &CronJobStatus,
    schedule: &Schedule,
    now: Timestamp,
) -> Result<Option<Due>, &'static str> {
    let mut earliest = earliest(cron, status);
    let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    if let Some(first) = deadline.and_then(|deadline| now.checked_sub(deadline).ok()) {
        // Nothing from before it begins any more.
        earliest = earliest.max(first);
    }
    let missed = missed(earliest, schedule, now)?;
    Ok(missed.last.map(|at| Due { at, too_many: missed.count > MANY_MISSED }))
}

/// How long it is to the next look.
pub(super) fn next(cron: &CronJob, status: &CronJobStatus, schedule: &Schedule, now: Timestamp) -> Option<Duration> {
    let from = match missed(earliest(cron, status), schedule, now) {
        Ok(Missed { last: Some(last), .. }) => last,
        Ok(Missed { earliest, count: 0, .. }) => earliest,
        _ => now,
    };
    let wait = schedule.next(from)?.duration_since(now);
    Some(Duration::try_from(wait).unwrap_or_default() + DELTA)
}

fn earliest(cron: &CronJob, status: &CronJobStatus) -> Timestamp {
    status.last_schedule_time.as_ref().map_or_else(|| created(&cron.metadata), |last| last.0)
}

/// Upstream's `mostRecentScheduleTime`: as if the first two times were as far from each other as all the others, so that
/// not every time since then has to be looked at.
fn missed(earliest: Timestamp, schedule: &Schedule, now: Timestamp) -> Result<Missed, &'static str> {
    const TOO_CLOSE: &str = "time difference between two schedules is less than 1 second";
    let first = schedule.next(earliest).ok_or(TOO_CLOSE)?;
    if now < first {
        return Ok(Missed { earliest, last: None, count: 0 });
    }
    let second = schedule.next(first);
    if second.is_some_and(|second| now < second) {
        return Ok(Missed { earliest, last: Some(first), count: 0 });
    }
    let between = second.ok_or(TOO_CLOSE)?.duration_since(first).as_secs();
    if between < 1 {
        return Err(TOO_CLOSE);
    }
    let count = now.duration_since(first).as_secs() / between + 1;
    let potential = SignedDuration::from_secs(count.saturating_sub(2).saturating_mul(between));
    let mut from = first.checked_add(potential).map_err(|_| TOO_CLOSE)?;
    let mut last = None;
    while let Some(time) = schedule.next(from).filter(|time| *time <= now) {
        last = Some(time);
        from = time;
    }
    Ok(Missed { earliest, last, count })
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use kybern_api::meta::v1::Time;

    use super::*;
    use crate::testing::meta;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_last_time_that_was_missed() {
        for (schedule, last, deadline, now, due_at, too_many, wait) in [
            // (schedule, last time or creation, deadline, now, due, too many, seconds to the next)
            ("0 * * * *", "2026-01-01T10:00:00Z", None, "2026-01-01T10:59:59Z", None, false, 1),
            (
                "0 * * * *",
                "2026-01-01T10:00:00Z",
                None,
                "2026-01-01T11:00:01Z",
                Some("2026-01-01T11:00:00Z"),
                false,
                3599,
            ),
            (
                "0 * * * *",
                "2026-01-01T10:00:00Z",
                None,
                "2026-01-03T09:30:00Z",
                Some("2026-01-03T09:00:00Z"),
                false,
                1800,
            ),
            (
                "* * * * *",
                "2026-01-01T10:00:00Z",
                None,
                "2026-01-01T11:40:00Z",
                Some("2026-01-01T11:40:00Z"),
                false,
                60,
            ),
            ("* * * * *", "2026-01-01T10:00:00Z", None, "2026-01-01T11:41:00Z", Some("2026-01-01T11:41:00Z"), true, 60),
            ("* * * * *", "2026-01-01T10:00:00Z", Some(30), "2026-01-01T11:41:31Z", None, false, 29),
            (
                "* * * * *",
                "2026-01-01T10:00:00Z",
                Some(600),
                "2026-01-01T11:41:31Z",
                Some("2026-01-01T11:41:00Z"),
                false,
                29,
            ),
            (
                "30 6-16/4 * * 1-5",
                "2026-01-02T06:30:00Z",
                None,
                "2026-01-05T06:31:00Z",
                Some("2026-01-05T06:30:00Z"),
                false,
                14_340,
            ),
            (
                "@every 1h",
                "2026-01-01T10:10:00Z",
                None,
                "2026-01-01T13:00:00Z",
                Some("2026-01-01T12:10:00Z"),
                false,
                600,
            ),
        ] {
            let mut cron = CronJob { metadata: meta("a"), ..CronJob::default() };
            cron.metadata.creation_timestamp = Some(Time(at("2025-12-31T00:00:00Z")));
            let spec = CronJobSpec { starting_deadline_seconds: deadline, ..CronJobSpec::default() };
            let status = CronJobStatus { last_schedule_time: Some(Time(at(last))), ..CronJobStatus::default() };
            let parsed = Schedule::parse(schedule, &TimeZone::UTC).unwrap();
            let found = due(&cron, &spec, &status, &parsed, at(now));
            let expect = due_at.map(|due| Due { at: at(due), too_many });
            assert_eq!(found, Ok(expect), "{schedule} {now}");
            let next = next(&cron, &status, &parsed, at(now)).unwrap();
            assert_eq!(next, Duration::from_secs(wait) + DELTA, "{schedule} {now}");
        }
    }

    #[test]
    fn a_time_that_never_comes() {
        let parsed = Schedule::parse("59 23 31 2 *", &TimeZone::UTC).unwrap();
        let (cron, spec) = (CronJob { metadata: meta("a"), ..CronJob::default() }, CronJobSpec::default());
        let now = at("2026-01-01T00:00:00Z");
        assert!(due(&cron, &spec, &CronJobStatus::default(), &parsed, now).is_err());
        assert_eq!(next(&cron, &CronJobStatus::default(), &parsed, now), None);
    }
}
