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
    let mut ticks = interval_at(tokio::time::Instant::now() + wait, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut machine = Machine::new(Thresholds::of(&probe));
    loop {
        ticks.tick().await;
        let result = check(&probe, &target, shared.runtime.as_ref()).await;
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
