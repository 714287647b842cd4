use kybern_api::autoscaling::v2::*;
use kybern_api::core::v1::{Container, PodCondition, ResourceRequirements};
use kybern_api::meta::v1::ObjectMeta;
use kybern_apimachinery::json;

use super::replicas::{Measured, Target, Tolerance, average, requests, share, total};
use super::*;
use crate::ask::Refusal;
use crate::testing::{self, NOW, World, at, events, meta, resource, status_of};

/// A pod that requests `request` thousandths of a core and has run for ten minutes; not ready if that never ended.
fn web(name: &str, request: i64, is_ready: bool) -> Pod {
    let mut pod = testing::pod(name).label("app", "web").ready_at(NOW - 500).build();
    let quantity = kybern_api::Quantity(format!("{request}m"));
    let requests = Some([("cpu".to_owned(), quantity)].into());
    let resources = Some(ResourceRequirements { requests, ..ResourceRequirements::default() });
    pod.spec.as_mut().unwrap().containers = vec![Container { name: "main".into(), resources, ..Container::default() }];
    let status = pod.status.as_mut().unwrap();
    status.start_time = Some(Time(at(NOW - 600)));
    if !is_ready {
        status.conditions = Some(vec![PodCondition {
            type_: "Ready".into(),
            status: "False".into(),
            last_transition_time: Some(Time(at(NOW - 600))),
            ..PodCondition::default()
        }]);
    }
    pod
}

fn measured(value: i64) -> Measured {
    Measured { value, at: at(NOW), window: jiff::SignedDuration::from_secs(15) }
}

const TOLERANCE: Tolerance = Tolerance { down: 0.1, up: 0.1 };

/// What each of the pods requests, what it uses (or that it is not known), and whether it is ready.
type Pods<'a> = &'a [(i64, Option<i64>, bool)];

fn by_utilization(pods: Pods<'_>, target: i32, current: i32) -> Result<(i32, Option<i32>), String> {
    let named: Vec<(String, _)> = pods.iter().enumerate().map(|(n, pod)| (format!("p{n}"), pod)).collect();
    let usages = named.iter().filter_map(|(name, (_, used, _))| Some((name.clone(), measured((*used)?)))).collect();
    let pods: Vec<Arc<Pod>> =
        named.iter().map(|(name, (request, _, ready))| Arc::new(web(name, *request, *ready))).collect();
    let target = || Ok(Target::Utilization(target, requests(&pods, "", "cpu")?));
    let found = average(&pods, usages, target, true, current, TOLERANCE, testing::now())?;
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
        let found = average(&pods, [("young".to_owned(), usage)].into(), target, true, 1, TOLERANCE, testing::now());
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

fn spec(min: i32, max: i32, behavior: Option<HorizontalPodAutoscalerBehavior>) -> HorizontalPodAutoscalerSpec {
    let (api_version, kind, name) = (Some("apps/v1".to_owned()), "Deployment".into(), "web".into());
    let target = MetricTarget { type_: "Utilization".into(), average_utilization: Some(50), ..MetricTarget::default() };
    let resource = Some(ResourceMetricSource { name: "cpu".into(), target });
    HorizontalPodAutoscalerSpec {
        scale_target_ref: CrossVersionObjectReference { api_version, kind, name },
        min_replicas: Some(min),
        max_replicas: max,
        metrics: Some(vec![MetricSpec { type_: "Resource".into(), resource, ..MetricSpec::default() }]),
        behavior,
    }
}

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
        let limited = Memory::default().limit(&spec(min, max, None), current, desired, testing::now());
        assert_eq!((limited.replicas, limited.limited.1), (expect, reason), "{min} {max} {current} {desired}");
        assert_eq!((limited.able.0, limited.limited.0), ("ReadyForNewScale", reason != "DesiredWithinRange"));
    }
    let mut memory = Memory::default();
    let mut at_time = |seconds, desired| {
        let limited = memory.limit(&spec(1, 10, None), 8, desired, at(NOW + seconds));
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
        let limited = memory.limit(&spec, current, desired, testing::now());
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
        let limited = memory.limit(&spec, 10, desired, at(NOW + seconds));
        (limited.replicas, limited.able.0)
    };
    assert_eq!(at_time(0, 10), (10, "ReadyForNewScale"));
    assert_eq!(at_time(30, 20), (10, "ScaleUpStabilized"));
    assert_eq!(at_time(59, 5), (10, "ScaleDownStabilized"));
    assert_eq!(at_time(91, 5), (5, "ReadyForNewScale"), "10 and 20 are too old");
}

/// A target of so many replicas (wished and there), whose pods use so much.
struct Server {
    replicas: i32,
    selector: &'static str,
    used: Result<i64, Refusal>,
    written: Option<Refusal>,
}

fn server(replicas: i32, used: i64) -> Server {
    Server { replicas, selector: "app=web", used: Ok(used), written: None }
}

fn refusal(message: &str) -> Refusal {
    Refusal { not_found: false, conflict: message == "conflict", message: message.into() }
}

impl Server {
    fn answer(&self, ask: &Ask) -> Answer {
        let pod = |n: i32| {
            let used = self.used.as_ref().copied().unwrap_or(0);
            json!({
                "metadata": {"name": format!("p{n}")}, "timestamp": "2027-01-15T08:00:00Z", "window": "15s",
                "containers": [{"name": "main", "usage": {"cpu": format!("{used}m")}}],
            })
        };
        match ask {
            Ask::Get(path) if path.ends_with("/apis/apps/v1/namespaces/default/deployments/web/scale") => Ok(json!({
                "metadata": {"name": "web", "resourceVersion": "7"}, "spec": {"replicas": self.replicas},
                "status": {"replicas": self.replicas, "selector": self.selector},
            })),
            Ask::Get(path) => {
                assert_eq!(path, "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods?labelSelector=app%3Dweb");
                self.used.clone().map(|_| json!({"items": (0..self.replicas).map(pod).collect::<Vec<_>>()}))
            }
            Ask::Put { body, subresource, .. } => {
                let body: Value = serde_json::from_slice(body).unwrap();
                assert_eq!((*subresource, &body["metadata"]["resourceVersion"]), ("scale", &json!("7")));
                self.written.clone().map_or(Ok(body), Err)
            }
        }
    }
}

fn world(spec: HorizontalPodAutoscalerSpec, pods: i32) -> World {
    let world = World::with_resources([resource("apps", "deployments", "Deployment", true)]);
    world.writers.autoscalers.upsert(HorizontalPodAutoscaler { metadata: meta("web"), spec: Some(spec), status: None });
    (0..pods).for_each(|n| world.writers.pods.upsert(web(&format!("p{n}"), 1000, true)));
    world
}

/// A whole look: the writes of the scale, and what is done at last.
fn look(controller: &HorizontalController, world: &World, server: &Server) -> (Vec<i64>, Plan) {
    let plan = world.reconcile(controller, "default/web");
    assert_eq!(plan.requeue_after, Some(SYNC_PERIOD));
    let (mut ops, mut written) = (plan.ops, Vec::new());
    while let [Op::Ask { asks, then }] = &ops[..] {
        for ask in asks {
            if let Ask::Put { body, .. } = ask {
                let body: Value = serde_json::from_slice(body).unwrap();
                written.push(body["spec"]["replicas"].as_i64().unwrap());
            }
        }
        ops = then.decide(asks.iter().map(|ask| server.answer(ask)).collect());
    }
    (written, Plan::of(ops))
}

fn conditions(plan: &Plan) -> Vec<String> {
    let status = status_of::<HorizontalPodAutoscaler>(plan).unwrap().status.unwrap();
    let text =
        |c: &HorizontalPodAutoscalerCondition| format!("{} {} {}", c.type_, c.status, c.reason.as_deref().unwrap());
    status.conditions.iter().flatten().map(text).collect()
}

#[test]
fn load_makes_more_replicas_and_the_status_says_why() {
    let (world, controller) = (world(spec(1, 10, None), 2), HorizontalController::default());
    let (written, plan) = look(&controller, &world, &server(2, 900));
    assert_eq!(written, [4]);
    let why = "cpu resource utilization (percentage of request) above target";
    assert_eq!(events(&plan), [format!("SuccessfulRescale: New size: 4; reason: {why}")]);
    let expect = [
        "AbleToScale True SucceededRescale",
        "ScalingActive True ValidMetricFound",
        "ScalingLimited False DesiredWithinRange",
    ];
    assert_eq!(conditions(&plan), expect);
    let hpa = status_of::<HorizontalPodAutoscaler>(&plan).unwrap();
    let status = hpa.status.clone().unwrap();
    assert_eq!((status.current_replicas, status.desired_replicas), (Some(2), 4));
    assert_eq!(status.last_scale_time, Some(Time(testing::now())));
    let current = status.current_metrics.unwrap()[0].resource.clone().unwrap().current;
    assert_eq!((current.average_utilization, current.average_value.unwrap().0.as_str()), (Some(90), "900m"));
    // At its target nothing is written to the target, and the second time not even a status.
    world.writers.autoscalers.upsert(hpa);
    for n in 2..4 {
        world.writers.pods.upsert(web(&format!("p{n}"), 1000, true));
    }
    let (written, plan) = look(&controller, &world, &server(4, 510));
    assert!(written.is_empty() && conditions(&plan)[0] == "AbleToScale True ReadyForNewScale");
    world.writers.autoscalers.upsert(status_of::<HorizontalPodAutoscaler>(&plan).unwrap());
    let (written, plan) = look(&controller, &world, &server(4, 510));
    assert!(written.is_empty() && plan.ops.is_empty(), "{plan:?}");
    let (written, plan) = look(&controller, &world, &server(4, 100));
    assert!(written.is_empty() && conditions(&plan)[0] == "AbleToScale True ScaleDownStabilized");
    world.writers.autoscalers.remove("default/web", "99");
    assert!(world.reconcile(&controller, "default/web").ops.is_empty() && controller.memories.lock().is_empty());
}

#[test]
fn what_does_not_work_is_told() {
    let one = |min, max, server: &Server| {
        let (written, plan) =
            look(&HorizontalController::default(), &world(spec(min, max, None), server.replicas), server);
        let told = events(&plan);
        (written, conditions(&plan).last().cloned().unwrap(), told)
    };
    let above = one(1, 3, &server(5, 1));
    assert_eq!(above.0, [3]);
    assert_eq!(above.2, ["SuccessfulRescale: New size: 3; reason: Current number of replicas above Spec.MaxReplicas"]);
    let below = one(4, 9, &server(2, 1));
    assert_eq!(below.2, ["SuccessfulRescale: New size: 4; reason: Current number of replicas below Spec.MinReplicas"]);
    let none = one(1, 9, &server(0, 1));
    assert_eq!((none.0.len(), none.1.as_str(), none.2.len()), (0, "ScalingActive False ScalingDisabled", 0));
    let bare = one(1, 9, &Server { selector: "", ..server(2, 1) });
    assert_eq!(bare.1, "ScalingActive False InvalidSelector");
    assert_eq!(
        bare.2,
        ["SelectorRequired: selector is required", "FailedComputeMetricsReplicas: selector is required"]
    );
    let silent = one(1, 9, &Server { used: Err(refusal("nobody there")), ..server(2, 1) });
    assert_eq!((silent.0.len(), silent.1.as_str()), (0, "ScalingActive False FailedGetResourceMetric"));
    let cause = "failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from \
                 resource metrics API: nobody there";
    let whole = format!(
        "invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: {cause}"
    );
    assert_eq!(
        silent.2,
        [format!("FailedGetResourceMetric: {cause}"), format!("FailedComputeMetricsReplicas: {whole}")]
    );
    let refused = one(1, 9, &Server { written: Some(refusal("quota")), ..server(2, 1000) });
    assert_eq!((refused.0, refused.2.len()), (vec![4], 1));
    assert!(refused.2[0].starts_with("FailedRescale: New size: 4; reason: cpu resource"), "{:?}", refused.2);
    // Another was faster: it looks anew, and says nothing.
    let conflict = Server { written: Some(refusal("conflict")), ..server(2, 1000) };
    let plan = look(&HorizontalController::default(), &world(spec(1, 9, None), 2), &conflict).1;
    assert!(matches!(&plan.ops[..], [Op::Fail(_)]), "{plan:?}");
    let mut strange = spec(1, 9, None);
    strange.scale_target_ref.kind = "Wonder".into();
    let plan = look(&HorizontalController::default(), &world(strange, 2), &server(2, 1)).1;
    assert_eq!(events(&plan), ["FailedGetScale: no matches for kind \"Wonder\" in group \"apps\""]);
    assert_eq!(conditions(&plan), ["AbleToScale False FailedGetScale"]);
}

#[test]
fn two_that_scale_the_same_pods_do_nothing() {
    let (world, controller) = (world(spec(1, 10, None), 2), HorizontalController::default());
    let metadata = ObjectMeta { uid: Some("other".into()), ..meta("also") };
    world.writers.autoscalers.upsert(HorizontalPodAutoscaler { metadata, spec: Some(spec(1, 10, None)), status: None });
    let memory = Memory { selector: Some(LabelSelector::parse("app in (web)").unwrap()), ..Memory::default() };
    controller.memories.lock().insert("default/also".into(), memory);
    let (written, plan) = look(&controller, &world, &server(2, 900));
    assert!(written.is_empty());
    let text = "pods by selector app=web are controlled by multiple HPAs: [{also default} {web default}]";
    assert_eq!(events(&plan), [format!("AmbiguousSelector: {text}"), format!("FailedComputeMetricsReplicas: {text}")]);
}

#[test]
fn every_kind_of_metric_is_asked_for_and_understood() {
    let world = World::with_resources([resource("networking.k8s.io", "ingresses", "Ingress", true)]);
    let spec = |text: Value| -> MetricSpec { serde_json::from_value(text).unwrap() };
    let metric = json!({"name": "qps", "selector": {"matchLabels": {"a": "b"}}});
    let (target, total) =
        (json!({"type": "AverageValue", "averageValue": "2"}), json!({"type": "Value", "value": "2"}));
    let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "main"});
    let (custom, external) =
        ("/apis/custom.metrics.k8s.io/v1beta1/namespaces/n", "/apis/external.metrics.k8s.io/v1beta1/namespaces/n");
    let of = |name: &str| json!({"describedObject": {"name": name}, "value": "3", "timestamp": "2027-01-15T08:00:00Z"});
    let items = |names: &[&str]| json!({"items": names.iter().map(|name| of(name)).collect::<Vec<_>>()});
    let selected =
        "(&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},})";
    let usage = json!({"items": ["p0", "p1"].map(|name| json!({
        "metadata": {"name": name}, "timestamp": "2027-01-15T08:00:00Z", "window": "15s", "containers": [
            {"name": "main", "usage": {"cpu": "1", "memory": "3Mi"}}, {"name": "side", "usage": {"cpu": "3", "memory": "1Mi"}},
        ],
    }))});
    // The metric, the path, the answer; what it calls for, what it is called, and what the status says of it.
    let table = [
        (
            json!({"type": "Pods", "pods": {"metric": metric, "target": target}}),
            format!("{custom}/pods/*/qps?labelSelector=app%3Dweb&metricLabelSelector=a%3Db"),
            items(&["p0", "p1"]),
            3,
            "pods metric qps".to_owned(),
            json!({"averageValue": "3"}),
        ),
        (
            json!({"type": "Object", "object": {"metric": metric, "target": total, "describedObject": ingress}}),
            format!("{custom}/ingresses.networking.k8s.io/main/qps?metricLabelSelector=a%3Db"),
            items(&["main"]),
            3,
            "Ingress metric qps".to_owned(),
            json!({"value": "3"}),
        ),
        (
            json!({"type": "Object", "object": {"metric": metric, "target": target, "describedObject": ingress}}),
            format!("{custom}/ingresses.networking.k8s.io/main/qps?metricLabelSelector=a%3Db"),
            items(&["main"]),
            2,
            format!("external metric qps{selected}"),
            json!({"averageValue": "1500m"}),
        ),
        (
            json!({"type": "External", "external": {"metric": metric, "target": total}}),
            format!("{external}/qps?labelSelector=a%3Db"),
            items(&["", ""]),
            6,
            format!("external metric qps{selected}"),
            json!({"value": "6"}),
        ),
        (
            json!({"type": "External", "external": {"metric": metric, "target": target}}),
            format!("{external}/qps?labelSelector=a%3Db"),
            items(&["", ""]),
            3,
            format!("external metric qps{selected}"),
            json!({"averageValue": "3"}),
        ),
        (
            json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "2Mi"}}}),
            "/apis/metrics.k8s.io/v1beta1/namespaces/n/pods?labelSelector=app%3Dweb".to_owned(),
            usage.clone(),
            4,
            "memory resource".to_owned(),
            json!({"averageValue": "4Mi"}),
        ),
        (
            json!({"type": "ContainerResource", "containerResource": {
            "name": "cpu", "container": "main", "target": {"type": "Utilization", "averageUtilization": 50}}}),
            "/apis/metrics.k8s.io/v1beta1/namespaces/n/pods?labelSelector=app%3Dweb".to_owned(),
            usage,
            4,
            "cpu container resource utilization (percentage of request)".to_owned(),
            json!({"averageUtilization": 100, "averageValue": "1"}),
        ),
    ];
    let pods: Vec<Arc<Pod>> = ["p0", "p1"].map(|name| Arc::new(web(name, 1000, true))).into();
    for (metric, path, answer, replicas, name, current) in table {
        let metric = spec(metric);
        let question = metrics::question(&metric, "n", "app=web", &world.snapshot.inventory);
        assert_eq!(question, Ok(Ask::Get(path)));
        let measuring = metrics::Measuring {
            namespace: "n",
            pods: &pods,
            spec_replicas: 2,
            status_replicas: 2,
            tolerance: TOLERANCE,
            now: testing::now(),
        };
        let found = measuring.judge(&metric, Ok(answer)).unwrap();
        assert_eq!((found.replicas, found.name.as_str()), (replicas, name.as_str()));
        let status = serde_json::to_value(&found.status).unwrap();
        let part = status.as_object().unwrap().values().find_map(|part| part.get("current")).cloned();
        assert_eq!(part, Some(current), "{name}");
        // An answer that is none.
        let bad = measuring.judge(&metric, Ok(json!({"items": []}))).unwrap_err();
        assert!(bad.reason.starts_with("FailedGet") && bad.error.contains(&bad.message), "{bad:?}");
    }
}

#[test]
fn tolerance_is_ten_percent_or_as_told() {
    let tolerance = |text: &str| Some(kybern_api::Quantity(text.into()));
    let up = HPAScalingRules { tolerance: tolerance("50m"), ..HPAScalingRules::default() };
    let down = HPAScalingRules { tolerance: tolerance("0.3"), ..HPAScalingRules::default() };
    let behavior = HorizontalPodAutoscalerBehavior { scale_up: Some(up), scale_down: Some(down) };
    let told = metrics::tolerance(&spec(1, 2, Some(behavior)));
    assert_eq!((told.down, told.up), (0.3, 0.05));
    let default = metrics::tolerance(&spec(1, 2, None));
    assert_eq!((default.down, default.up), (0.1, 0.1));
}
