//! The timer of one probe of one start of a container.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kybern_api::core::v1::{Pod, Probe};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval_at};

use super::ProbeKind;
use super::check::{Target, check};
use super::machine::{Machine, Thresholds};
use crate::shared::Shared;

/// A probe's new verdict on one start of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub container_id: String,
    pub kind: ProbeKind,
    pub success: bool,
}

/// When startup and readiness are asked for in the first period after the start, beyond what upstream does. A container is
/// seldom ready at once, and mostly soon after: waiting a whole period would keep it out of its Services for nothing. A
/// failure among these neither counts nor becomes an event: a container that has just started is not ready anyway.
fn early_offsets(kind: ProbeKind, period: Duration) -> Vec<Duration> {
    if kind == ProbeKind::Liveness {
        return Vec::new();
    }
    let steps = std::iter::successors(Some(Duration::from_millis(25)), |step| Some(*step * 2));
    let sums = steps.scan(Duration::ZERO, |sum, step| Some(std::mem::replace(sum, *sum + step)));
    sums.take_while(|offset| *offset < period).collect()
}

/// Probes until dropped, until the startup probe has decided, or until the liveness probe has failed.
pub async fn run(
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    probe: Probe,
    kind: ProbeKind,
    target: Target,
    started: Timestamp,
    verdicts: mpsc::Sender<Verdict>,
) {
    let seconds = |n: Option<i32>, default: u64| n.and_then(|n| u64::try_from(n).ok()).unwrap_or(default);
    let period = Duration::from_secs(seconds(probe.period_seconds, 10).max(1));
    let due = started + SignedDuration::from_secs(seconds(probe.initial_delay_seconds, 0) as i64);
    let wait = Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
    let begin = tokio::time::Instant::now() + wait;
    let mut early = early_offsets(kind, period).into_iter();
    let first_tick = if early.len() > 0 { begin + period } else { begin };
    let mut ticks = interval_at(first_tick, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut machine = Machine::new(Thresholds::of(&probe));
    loop {
        let is_early = match early.next() {
            Some(offset) => {
                tokio::time::sleep_until(begin + offset).await;
                true
            }
            None => {
                ticks.tick().await;
                false
            }
        };
        let result = check(&probe, &target, shared.runtime.as_ref()).await;
        if is_early && result.is_err() {
            continue;
        }
        // Ready: from here on the probe keeps to its period.
        early = Vec::new().into_iter();
        if let Err(output) = &result {
            let message = format!("{} probe failed: {output}", kind.title());
            shared.events.warning(&pod, Some(&target.container.name), "Unhealthy", message);
        }
        let Some(success) = machine.observe(result.is_ok()) else { continue };
        let verdict = Verdict { container_id: target.container_id.clone(), kind, success };
        if verdicts.send(verdict).await.is_err() {
            return;
        }
        match (kind, success) {
            (ProbeKind::Startup, _) | (ProbeKind::Liveness, false) => return,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_checks_thin_out_and_end_with_the_period() {
        let millis = |kind, period| -> Vec<u128> {
            early_offsets(kind, Duration::from_secs(period)).iter().map(Duration::as_millis).collect()
        };
        assert_eq!(millis(ProbeKind::Startup, 1), [0, 25, 75, 175, 375, 775]);
        assert_eq!(millis(ProbeKind::Readiness, 1), millis(ProbeKind::Startup, 1));
        assert_eq!(millis(ProbeKind::Readiness, 10).last(), Some(&6375));
        assert!(millis(ProbeKind::Liveness, 10).is_empty());
    }
}
