use kybern_api::autoscaling::v2::HorizontalPodAutoscalerBehavior;

use super::super::tests::spec;
use super::*;
use crate::testing::{self, NOW, at};

const WINDOW: SignedDuration = SignedDuration::from_mins(5);

fn rules(window: i32, select: &str, policies: &[(&str, i32, i32)]) -> Option<HPAScalingRules> {
    let policy = |(kind, value, period_seconds): &(&str, i32, i32)| HPAScalingPolicy {
        type_: (*kind).into(),
        value: *value,
        period_seconds: *period_seconds,
    };
    Some(HPAScalingRules {
        stabilization_window_seconds: Some(window),
        select_policy: Some(select.into()),
        policies: Some(policies.iter().map(policy).collect()),
        tolerance: None,
    })
}

#[test]
fn without_rules_it_doubles_at_most_and_goes_down_when_nothing_higher_is_recent() {
    let table = [
        (2, 10, 3, 5, 5, "DesiredWithinRange"),
        (2, 100, 3, 50, 6, "ScaleUpLimit"),
        (1, 100, 1, 50, 4, "ScaleUpLimit"),
        (2, 5, 3, 50, 5, "TooManyReplicas"),
        (2, 5, 3, 1, 2, "TooFewReplicas"),
    ];
    for (min, max, current, desired, expect, reason) in table {
        let limited = Memory::default().limit(&spec(min, max, None), WINDOW, current, desired, testing::now());
        assert_eq!((limited.replicas, limited.limited.1), (expect, reason), "{min} {max} {current} {desired}");
        assert_eq!((limited.able.0, limited.limited.0), ("ReadyForNewScale", reason != "DesiredWithinRange"));
    }
    let mut memory = Memory::default();
    let mut at_time = |seconds, desired| {
        let limited = memory.limit(&spec(1, 10, None), WINDOW, 8, desired, at(NOW + seconds));
        (limited.replicas, limited.able.0)
    };
    assert_eq!(at_time(0, 8), (8, "ReadyForNewScale"));
    assert_eq!(at_time(100, 5), (8, "ScaleDownStabilized"));
    assert_eq!(at_time(299, 3), (8, "ScaleDownStabilized"));
    assert_eq!(at_time(301, 3), (5, "ScaleDownStabilized"), "the 8 is too old");
    assert_eq!(at_time(401, 3), (3, "ReadyForNewScale"));
}

#[test]
fn rules_bound_how_fast_it_goes() {
    let four = &[("Pods", 4, 60)][..];
    let both = &[("Pods", 4, 60), ("Percent", 100, 60)][..];
    // Whether upwards, select, policies, what was done 30 s ago, current, desired; the number and why.
    let table = [
        (true, "Max", four, 0, 10, 100, 14, "ScaleUpLimit"),
        (true, "Max", four, 3, 10, 100, 11, "ScaleUpLimit"),
        (true, "Max", four, 4, 10, 100, 10, "ScaleUpLimit"),
        (true, "Max", both, 0, 10, 100, 20, "ScaleUpLimit"),
        (true, "Min", both, 0, 10, 100, 14, "ScaleUpLimit"),
        (true, "Max", both, 0, 10, 12, 12, "DesiredWithinRange"),
        (true, "Disabled", both, 0, 10, 100, 10, "ScaleUpLimit"),
        (true, "Max", both, 0, 45, 100, 50, "TooManyReplicas"),
        (false, "Max", four, 0, 10, 1, 6, "ScaleDownLimit"),
        (false, "Max", four, 3, 10, 1, 9, "ScaleDownLimit"),
        (false, "Max", both, 0, 10, 1, 2, "TooFewReplicas"),
        (false, "Min", both, 0, 10, 1, 6, "ScaleDownLimit"),
        (false, "Disabled", four, 0, 10, 1, 10, "ScaleDownLimit"),
        (false, "Max", &[("Percent", 10, 60)][..], 0, 15, 1, 13, "ScaleDownLimit"),
    ];
    for (is_up, select, policies, done, current, desired, expect, reason) in table {
        let rules = rules(0, select, policies);
        let behavior = if is_up {
            HorizontalPodAutoscalerBehavior { scale_up: rules, ..HorizontalPodAutoscalerBehavior::default() }
        } else {
            HorizontalPodAutoscalerBehavior { scale_down: rules, ..HorizontalPodAutoscalerBehavior::default() }
        };
        let (spec, mut memory) = (spec(2, 50, Some(behavior)), Memory::default());
        if done > 0 {
            memory.scaled(&spec, current, if is_up { current + done } else { current - done }, at(NOW - 30));
        }
        let limited = memory.limit(&spec, WINDOW, current, desired, testing::now());
        let row = format!("{is_up} {select} {policies:?} {done} {current} {desired}");
        assert_eq!((limited.replicas, limited.limited.1), (expect, reason), "{row}");
    }
    // Stabilized in both directions.
    let behavior = HorizontalPodAutoscalerBehavior {
        scale_up: rules(60, "Max", &[("Percent", 1000, 15)]),
        scale_down: rules(60, "Max", &[("Percent", 100, 15)]),
    };
    let (spec, mut memory) = (spec(1, 50, Some(behavior)), Memory::default());
    let mut at_time = |seconds, desired| {
        let limited = memory.limit(&spec, WINDOW, 10, desired, at(NOW + seconds));
        (limited.replicas, limited.able.0)
    };
    assert_eq!(at_time(0, 10), (10, "ReadyForNewScale"));
    assert_eq!(at_time(30, 20), (10, "ScaleUpStabilized"));
    assert_eq!(at_time(59, 5), (10, "ScaleDownStabilized"));
    assert_eq!(at_time(91, 5), (5, "ReadyForNewScale"), "10 and 20 are too old");
}
