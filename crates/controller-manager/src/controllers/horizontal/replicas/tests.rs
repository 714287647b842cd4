use kybern_api::meta::v1::Time;

use super::super::tests::{TOLERANCE, web};
use super::*;
use crate::testing::{self, NOW, at};

fn measured(value: i64) -> Measured {
    Measured { value, at: at(NOW), window: jiff::SignedDuration::from_secs(15) }
}

/// What each of the pods requests, what it uses (or that it is not known), and whether it is ready.
type Pods<'a> = &'a [(i64, Option<i64>, bool)];

fn by_utilization(pods: Pods<'_>, target: i32, current: i32) -> Result<(i32, Option<i32>), String> {
    let named: Vec<(String, _)> = pods.iter().enumerate().map(|(n, pod)| (format!("p{n}"), pod)).collect();
    let usages = named.iter().filter_map(|(name, (_, used, _))| Some((name.clone(), measured((*used)?)))).collect();
    let pods: Vec<Arc<Pod>> =
        named.iter().map(|(name, (request, _, ready))| Arc::new(web(name, *request, *ready))).collect();
    let target = || Ok(Target::Utilization(target, requests(&pods, "", "cpu")?));
    let groups = Groups::of(&pods, &usages, Some(&Settings::default()), testing::now());
    let found = average(&groups, usages, target, current, TOLERANCE)?;
    Ok((found.replicas, found.utilization))
}

#[test]
fn utilization_calls_for_as_many_as_upstreams() {
    let ready = |used: i64| (1000, Some(used), true);
    let unready = |used: i64| (1000, Some(used), false);
    let unknown = (1000, None, true);
    let table: [(Pods<'_>, i32, i32, (i32, i32)); 10] = [
        (&[ready(300), ready(500), ready(700)], 30, 3, (5, 50)),
        (&[unready(300), ready(500), ready(700)], 30, 3, (4, 60)),
        (&[ready(400), unready(500), unready(700)], 30, 3, (3, 40)),
        (&[ready(100), ready(300), ready(500), ready(250), ready(250)], 50, 5, (3, 28)),
        (&[(900, Some(1010), true), (1000, Some(1030), true), (1100, Some(1020), true)], 100, 3, (3, 102)),
        (&[ready(400), ready(95), unknown, unknown], 100, 4, (3, 24)),
        (&[ready(1000), unknown], 50, 2, (2, 100)),
        (&[ready(1000), unknown], 20, 2, (5, 100)),
        (&[ready(0), ready(0)], 50, 2, (0, 0)),
        (&[ready(549), ready(551)], 50, 2, (2, 55)),
    ];
    for (pods, target, current, (replicas, utilization)) in table {
        assert_eq!(by_utilization(pods, target, current), Ok((replicas, Some(utilization))), "{pods:?} {target}");
    }
    let none = "did not receive metrics for targeted pods (pods might be unready)";
    assert_eq!(by_utilization(&[unknown, unready(5)], 50, 2).unwrap_err(), none);
    let none = "no pods returned by selector while calculating replica count";
    assert_eq!(by_utilization(&[], 50, 2).unwrap_err(), none);
    let mut bare = web("bare", 1, true);
    bare.spec.as_mut().unwrap().containers[0].resources = None;
    let missing = requests(&[Arc::new(bare)], "", "cpu").unwrap_err();
    assert_eq!(missing, "missing request for cpu in container main of Pod bare");
    let missing = requests(&[Arc::new(web("a", 1, true))], "side", "cpu").unwrap_err();
    assert_eq!(missing, "container side not found in Pod a");
}

#[test]
fn a_young_pods_processor_time_counts_once_it_has_been_ready_for_a_window() {
    // Seconds since its start, since it became ready or unready, and since the end of the measurement; whether it counts.
    let table = [
        (100, 50, true, 0, true),
        (100, 10, true, 0, false),
        (100, 50, false, 0, false),
        (600, 5, true, 0, true),
        (600, 590, false, 0, false),
        (600, 100, false, 0, true),
    ];
    for (started, changed, is_ready, ago, counts) in table {
        let mut young = web("young", 1000, false);
        let status = young.status.as_mut().unwrap();
        status.start_time = Some(Time(at(NOW - started)));
        let ready = &mut status.conditions.as_mut().unwrap()[0];
        ready.status = if is_ready { "True" } else { "False" }.into();
        ready.last_transition_time = Some(Time(at(NOW - changed)));
        let usage = Measured { at: at(NOW - ago), ..measured(1000) };
        let pods = [Arc::new(young)];
        let target = || Ok(Target::Value(500));
        let measured = [("young".to_owned(), usage)].into();
        let groups = Groups::of(&pods, &measured, Some(&Settings::default()), testing::now());
        let found = average(&groups, measured, target, 1, TOLERANCE);
        assert_eq!(found.is_ok_and(|found| found.replicas == 2), counts, "{started} {changed} {is_ready}");
    }
}

#[test]
fn totals_and_shares() {
    let pods: Vec<Arc<Pod>> = [true, true, false].map(|ready| Arc::new(web("a", 1, ready))).into();
    for (ratio, current, expect) in [(2.0, 3, 4), (1.05, 3, 3), (0.5, 3, 1), (0.2, 0, 1), (3.4, 0, 4), (0.0, 0, 0)] {
        assert_eq!(total(&pods, ratio, current, TOLERANCE), Ok(expect), "{ratio} {current}");
    }
    assert_eq!(total(&pods, f64::MAX, 3, TOLERANCE), Ok(i32::MAX));
    assert_eq!(share(8600, 2000, 3, TOLERANCE), (5, 2867));
    assert_eq!(share(6100, 2000, 3, TOLERANCE), (3, 2034));
    assert_eq!(share(i64::MAX, 1, 1, TOLERANCE), (i32::MAX, i64::MAX));
}
