use kybern_api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscalerBehavior, MetricSpec, MetricTarget, ResourceMetricSource,
};
use kybern_api::core::v1::{Container, PodCondition, ResourceRequirements};
use kybern_api::meta::v1::ObjectMeta;
use kybern_apimachinery::json;

use super::replicas::Tolerance;
use super::*;
use crate::ask::Refusal;
use crate::testing::{self, NOW, World, at, events, meta, resource, status_of};

/// A pod that requests `request` thousandths of a core and has run for ten minutes; not ready if that never ended.
pub(super) fn web(name: &str, request: i64, is_ready: bool) -> Pod {
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

pub(super) const TOLERANCE: Tolerance = Tolerance { down: 0.1, up: 0.1 };

pub(super) fn spec(
    min: i32,
    max: i32,
    behavior: Option<HorizontalPodAutoscalerBehavior>,
) -> HorizontalPodAutoscalerSpec {
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
            Ask::Patch { .. } => panic!("{ask:?}"),
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
    assert_eq!(plan.requeue_after, Some(controller.settings.sync_period));
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
    let mut done = Plan::idle();
    for op in ops {
        match op {
            Op::Measure(measure) => done.measures.push(measure),
            op => done.push(op),
        }
    }
    (written, done)
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
    let measured: Vec<String> = plan.measures.iter().map(|measure| measure.shown()).collect();
    let name = "horizontal_pod_autoscaler_controller";
    assert_eq!(
        measured,
        [
            format!("{name}_metric_computation_total{{action=scale_up,error=none,metric_type=Resource}} 1"),
            format!("{name}_reconciliations_total{{action=scale_up,error=none}} 1"),
            format!("{name}_desired_replicas{{namespace=default,hpa_name=web}} 4"),
        ]
    );
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
fn no_kind_is_missed_by_who_has_just_begun_to_lead() {
    let (snapshot, writers) = Snapshot::for_test(Default::default());
    let autoscaler = HorizontalPodAutoscaler { metadata: meta("web"), spec: Some(spec(1, 9, None)), status: None };
    writers.autoscalers.upsert(autoscaler);
    let world = World { snapshot, writers, ..World::new() };
    let plan = world.reconcile(&HorizontalController::default(), "default/web");
    assert!(plan.ops.is_empty() && plan.requeue_after == Some(DISCOVERING), "{plan:?}");
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
