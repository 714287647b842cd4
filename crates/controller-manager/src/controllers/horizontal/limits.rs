//! From what metrics call for to what is done: limits, rates, and the memory that keeps the number from going to and fro.

#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};
use kybern_api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerSpec};
use kybern_apimachinery::selector::LabelSelector;

/// What is remembered of an autoscaler.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    pub(super) recommendations: Vec<(i32, Timestamp)>,
    /// By how much it was scaled, and when.
    pub(super) ups: Vec<(i32, Timestamp)>,
    pub(super) downs: Vec<(i32, Timestamp)>,
    /// Of the pods that it has scaled last.
    pub(super) selector: Option<LabelSelector>,
}

/// A number, and why it is not what the metrics call for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Limited {
    pub(super) replicas: i32,
    /// Reason and message of `AbleToScale`.
    pub(super) able: (&'static str, &'static str),
    /// Status, reason and message of `ScalingLimited`.
    pub(super) limited: (bool, &'static str, &'static str),
}

const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
const DOWN_STABILIZED: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const UP_STABILIZED: (&str, &str) = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const UP_LIMIT: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: (&str, &str) = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: (&str, &str) = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");

/// The rules of a direction, with upstream's defaults.
struct Rules {
    window: SignedDuration,
    policies: Vec<HPAScalingPolicy>,
    select: String,
}

impl Rules {
    fn of(rules: Option<&HPAScalingRules>, window: SignedDuration, policies: &[(&str, i32)]) -> Self {
        let policy = |(kind, value): &(&str, i32)| HPAScalingPolicy {
            type_: (*kind).to_owned(),
            value: *value,
            period_seconds: 15,
        };
        Self {
            window: rules.and_then(|r| r.stabilization_window_seconds).map_or(window, seconds),
            policies: rules.and_then(|r| r.policies.clone()).unwrap_or_else(|| policies.iter().map(policy).collect()),
            select: rules.and_then(|r| r.select_policy.clone()).unwrap_or_else(|| "Max".to_owned()),
        }
    }

    fn up(spec: &HorizontalPodAutoscalerSpec) -> Self {
        let rules = spec.behavior.as_ref().and_then(|b| b.scale_up.as_ref());
        Self::of(rules, SignedDuration::ZERO, &[("Pods", 4), ("Percent", 100)])
    }

    fn down(spec: &HorizontalPodAutoscalerSpec, window: SignedDuration) -> Self {
        let rules = spec.behavior.as_ref().and_then(|b| b.scale_down.as_ref());
        Self::of(rules, window, &[("Percent", 100)])
    }

    fn longest_period(&self) -> SignedDuration {
        seconds(self.policies.iter().map(|policy| policy.period_seconds).max().unwrap_or(0))
    }
}

fn seconds(seconds: i32) -> SignedDuration {
    SignedDuration::from_secs(i64::from(seconds))
}

fn before(now: Timestamp, time: SignedDuration) -> Timestamp {
    now.checked_sub(time).unwrap_or(Timestamp::MIN)
}

impl Memory {
    /// Remembers that the number was changed.
    pub(super) fn scaled(&mut self, spec: &HorizontalPodAutoscalerSpec, from: i32, to: i32, now: Timestamp) {
        if spec.behavior.is_none() {
            return;
        }
        let (events, rules) = if to > from {
            (&mut self.ups, Rules::up(spec))
        } else {
            (&mut self.downs, Rules::down(spec, SignedDuration::ZERO))
        };
        events.retain(|(_, at)| *at >= before(now, rules.longest_period()));
        events.push(((to - from).abs(), now));
    }

    /// What may be done of what the metrics call for. `window` is that of going down where the object has none.
    pub(super) fn limit(
        &mut self,
        spec: &HorizontalPodAutoscalerSpec,
        window: SignedDuration,
        current: i32,
        desired: i32,
        now: Timestamp,
    ) -> Limited {
        let (stable, stabilized) = self.stabilize(spec, window, current, desired, now);
        let able = if stable == desired { READY } else { stabilized };
        let (replicas, (reason, message)) = match &spec.behavior {
            None => by_default(spec, current, stable),
            Some(_) => self.by_rates(spec, current, stable, now),
        };
        Limited { replicas, able, limited: (replicas != stable, reason, message) }
    }

    fn stabilize(
        &mut self,
        spec: &HorizontalPodAutoscalerSpec,
        window: SignedDuration,
        current: i32,
        desired: i32,
        now: Timestamp,
    ) -> (i32, (&'static str, &'static str)) {
        let down_since = before(now, Rules::down(spec, window).window);
        let up_since = spec.behavior.as_ref().map_or(now, |_| before(now, Rules::up(spec).window));
        let (mut lowest, mut highest) = (desired, desired);
        for (replicas, at) in &self.recommendations {
            if *at > up_since {
                lowest = lowest.min(*replicas);
            }
            if *at > down_since {
                highest = highest.max(*replicas);
            }
        }
        self.recommendations.retain(|(_, at)| *at >= up_since.min(down_since));
        self.recommendations.push((desired, now));
        if spec.behavior.is_none() {
            return (highest, DOWN_STABILIZED);
        }
        let stable = current.max(lowest).min(highest);
        (stable, if desired >= current { UP_STABILIZED } else { DOWN_STABILIZED })
    }

    fn by_rates(
        &self,
        spec: &HorizontalPodAutoscalerSpec,
        current: i32,
        desired: i32,
        now: Timestamp,
    ) -> (i32, (&'static str, &'static str)) {
        if desired > current {
            let fastest = self.furthest(&Rules::up(spec), current, now, true).max(current);
            let (most, why) =
                if spec.max_replicas > fastest { (fastest, UP_LIMIT) } else { (spec.max_replicas, TOO_MANY) };
            if desired > most {
                return (most, why);
            }
        } else if desired < current {
            let fastest = self.furthest(&Rules::down(spec, SignedDuration::ZERO), current, now, false).min(current);
            let (least, why) = if minimum(spec) < fastest { (fastest, DOWN_LIMIT) } else { (minimum(spec), TOO_FEW) };
            if desired < least {
                return (least, why);
            }
        }
        (desired, WITHIN)
    }

    /// How far the policies of a direction let the number go now.
    fn furthest(&self, rules: &Rules, current: i32, now: Timestamp, is_up: bool) -> i32 {
        if rules.select == "Disabled" {
            return current;
        }
        let allowed = rules.policies.iter().map(|policy| {
            let since = before(now, seconds(policy.period_seconds));
            let sum = |events: &[(i32, Timestamp)]| -> i64 {
                events.iter().filter(|(_, at)| *at > since).map(|(change, _)| i64::from(*change)).sum()
            };
            let start = i64::from(current) - sum(&self.ups) + sum(&self.downs);
            let value = i64::from(policy.value);
            let furthest = match (policy.type_.as_str(), is_up) {
                ("Pods", true) => start + value,
                ("Pods", false) => start - value,
                // Up, or one could never begin.
                (_, true) => (start as f64 * (1.0 + value as f64 / 100.0)).ceil() as i64,
                (_, false) => (start as f64 * (1.0 - value as f64 / 100.0)) as i64,
            };
            i32::try_from(furthest).unwrap_or(if furthest < 0 { i32::MIN } else { i32::MAX })
        });
        // The least change is the lowest number upwards, and the highest downwards.
        let found = if (rules.select == "Min") == is_up { allowed.min() } else { allowed.max() };
        found.unwrap_or(current)
    }
}

/// Twice as many at once, or four: usage that is reported wrongly must not make a thousand.
fn by_default(spec: &HorizontalPodAutoscalerSpec, current: i32, desired: i32) -> (i32, (&'static str, &'static str)) {
    let fastest = current.saturating_mul(2).max(4);
    let (most, why) = if spec.max_replicas > fastest { (fastest, UP_LIMIT) } else { (spec.max_replicas, TOO_MANY) };
    if desired < minimum(spec) {
        (minimum(spec), TOO_FEW)
    } else if desired > most {
        (most, why)
    } else {
        (desired, WITHIN)
    }
}

pub(super) fn minimum(spec: &HorizontalPodAutoscalerSpec) -> i32 {
    spec.min_replicas.unwrap_or(1)
}
