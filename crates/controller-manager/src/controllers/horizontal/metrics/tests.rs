use kybern_api::autoscaling::v2::HorizontalPodAutoscalerBehavior;
use kybern_apimachinery::json;

use super::super::tests::{TOLERANCE, spec as with, web};
use super::*;
use crate::testing::{self, World, resource};

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
    let of_pod = |name: &str| {
        let containers = json!([
            {"name": "main", "usage": {"cpu": "1", "memory": "3Mi"}}, {"name": "side", "usage": {"cpu": "3", "memory": "1Mi"}},
        ]);
        json!({
            "metadata": {"name": name}, "timestamp": "2027-01-15T08:00:00Z", "window": "15s", "containers": containers,
        })
    };
    let usage = json!({"items": [of_pod("p0"), of_pod("p1")]});
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
        let question = question(&metric, "n", "app=web", &world.snapshot.inventory);
        assert_eq!(question, Ok(Ask::Get(path)));
        let measuring = Measuring {
            namespace: "n",
            pods: &pods,
            spec_replicas: 2,
            status_replicas: 2,
            tolerance: TOLERANCE,
            settings: Settings::default(),
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
fn custom_metrics_are_asked_for_in_the_preferred_version() {
    let metric = json!({"metric": {"name": "qps"}, "target": {"type": "AverageValue", "averageValue": "2"}});
    let metric: MetricSpec = serde_json::from_value(json!({"type": "Pods", "pods": metric})).unwrap();
    for (served, expect) in
        [(None, "v1beta1"), (Some("v1beta1"), "v1beta1"), (Some("v1beta2"), "v1beta2"), (Some("v9"), "v1beta1")]
    {
        let served = served.map(|version| {
            let mut resource = resource(CUSTOM, "pods/qps", "MetricValueList", true);
            resource.gvr.version = version.to_owned();
            resource
        });
        let world = World::with_resources(served);
        let path = format!(
            "/apis/custom.metrics.k8s.io/{expect}/namespaces/n/pods/*/qps?labelSelector=a&metricLabelSelector="
        );
        assert_eq!(question(&metric, "n", "a", &world.snapshot.inventory), Ok(Ask::Get(path)), "{expect}");
    }
}

#[test]
fn tolerance_is_ten_percent_or_as_told() {
    let quantity = |text: &str| Some(kybern_api::Quantity(text.into()));
    let up = HPAScalingRules { tolerance: quantity("50m"), ..HPAScalingRules::default() };
    let down = HPAScalingRules { tolerance: quantity("0.3"), ..HPAScalingRules::default() };
    let behavior = HorizontalPodAutoscalerBehavior { scale_up: Some(up), scale_down: Some(down) };
    let told = tolerance(&with(1, 2, Some(behavior)), 0.1);
    assert_eq!((told.down, told.up), (0.3, 0.05));
    let default = tolerance(&with(1, 2, None), 0.2);
    assert_eq!((default.down, default.up), (0.2, 0.2));
}
