//! Where metrics are asked for, and what becomes of the answers.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kybern_api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus, HPAScalingRules,
    HorizontalPodAutoscalerSpec, MetricIdentifier, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
    ObjectMetricSource, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use kybern_api::core::v1::Pod;
use kybern_api::label_selector;
use kybern_api::selector::to_go_text;
use kybern_apimachinery::percent::encode;
use kybern_apimachinery::quantity::Quantity;
use kybern_apimachinery::{Value, object, time};

use super::Settings;
use super::replicas::{Groups, Measured, Measurements, Proposal, Target, Tolerance, average, requests, share, total};
use crate::ask::Ask;
use crate::inventory::Inventory;

const CUSTOM: &str = "custom.metrics.k8s.io";
/// Over what custom metrics are taken to be measured.
const WINDOW: i64 = 60;

/// What a metric calls for.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) replicas: i32,
    /// As messages call it.
    pub(super) name: String,
    pub(super) status: MetricStatus,
}

/// Why a metric calls for nothing.
#[derive(Debug, Default)]
pub(super) struct Bad {
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// The message, with what it is about.
    pub(super) error: String,
}

/// What the answers are judged with.
pub(super) struct Measuring<'a> {
    pub(super) namespace: &'a str,
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) spec_replicas: i32,
    pub(super) status_replicas: i32,
    pub(super) tolerance: Tolerance,
    pub(super) settings: Settings,
    pub(super) now: Timestamp,
}

pub(super) fn tolerance(spec: &HorizontalPodAutoscalerSpec, default: f64) -> Tolerance {
    let of = |rules: Option<&HPAScalingRules>| {
        let quantity = rules.and_then(|rules| rules.tolerance.as_ref());
        quantity.and_then(|quantity| Quantity::parse(&quantity.0).ok()).map_or(default, |quantity| quantity.as_f64())
    };
    let behavior = spec.behavior.as_ref();
    Tolerance {
        down: of(behavior.and_then(|b| b.scale_down.as_ref())),
        up: of(behavior.and_then(|b| b.scale_up.as_ref())),
    }
}

/// What to ask for a metric of the pods of `selector`; an error is what there is to say instead.
pub(super) fn question(
    spec: &MetricSpec,
    namespace: &str,
    selector: &str,
    inventory: &Inventory,
) -> Result<Ask, String> {
    let pods = encode(selector, b"");
    // The metric's name as a part of a path, and its selector.
    let of_metric = |metric: &MetricIdentifier| {
        let selector = metric.selector.as_ref().map(label_selector).transpose()?;
        let selector = selector.map_or_else(String::new, |selector| encode(selector.to_string(), b""));
        Ok::<_, String>((encode(&metric.name, b""), selector))
    };
    // Upstream's client knows two versions, and takes the one that the server prefers.
    let version = inventory.preferred_version(CUSTOM).filter(|version| version == "v1beta2");
    let custom = format!("/apis/{CUSTOM}/{}/namespaces", version.as_deref().unwrap_or("v1beta1"));
    let path = if spec.resource.is_some() || spec.container_resource.is_some() {
        format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={pods}")
    } else if let Some(source) = &spec.pods {
        let (name, of) = of_metric(&source.metric)?;
        format!("{custom}/{namespace}/pods/*/{name}?labelSelector={pods}&metricLabelSelector={of}")
    } else if let Some(ObjectMetricSource { described_object, metric, .. }) = &spec.object {
        let (name, of) = of_metric(metric)?;
        let version = described_object.api_version.as_deref().unwrap_or("");
        let place = if described_object.kind == "Namespace" && !version.contains('/') {
            // None but its own.
            "metrics".to_owned()
        } else {
            let kind = &described_object.kind;
            let found = inventory.resource_of_kind(version, kind);
            let found = found.ok_or_else(|| format!("no matches for kind {kind:?} in version {version:?}"))?;
            format!("{}/{}", found.resource.gvr.group_resource(), encode(&described_object.name, b""))
        };
        format!("{custom}/{namespace}/{place}/{name}?metricLabelSelector={of}")
    } else if let Some(source) = &spec.external {
        let (name, of) = of_metric(&source.metric)?;
        format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{name}?labelSelector={of}")
    } else {
        return Err(format!("unknown metric source type {:?}", spec.type_));
    };
    Ok(Ask::Get(path))
}

/// A quantity in thousandths.
fn millis(quantity: &kybern_api::Quantity) -> i64 {
    Quantity::parse(&quantity.0).map_or(0, |quantity| quantity.milli_value())
}

/// The text of a number of thousandths; of memory as metrics servers write it.
fn quantity(resource: &str, millis: i64) -> kybern_api::Quantity {
    let whole = resource == "memory" && millis % 1000 == 0;
    let quantity = if whole { Quantity::bytes(millis / 1000) } else { Quantity::from_millis(millis) };
    kybern_api::Quantity(quantity.to_string())
}

fn value(millis: i64) -> MetricValueStatus {
    MetricValueStatus { value: Some(quantity("", millis)), ..MetricValueStatus::default() }
}

fn average_value(resource: &str, millis: i64) -> MetricValueStatus {
    MetricValueStatus { average_value: Some(quantity(resource, millis)), ..MetricValueStatus::default() }
}

/// The items of a list of metrics.
fn items(answer: Result<Value, String>, api: &str) -> Result<Vec<Value>, String> {
    let answer = answer.map_err(|error| format!("unable to fetch metrics from {api} metrics API: {error}"))?;
    let items = answer["items"].as_array().cloned().unwrap_or_default();
    if items.is_empty() { Err(format!("no metrics returned from {api} metrics API")) } else { Ok(items) }
}

fn amount(value: &Value) -> Option<i64> {
    Quantity::of(value).map(|quantity| quantity.milli_value())
}

fn timestamp(item: &Value) -> Timestamp {
    time::parse_rfc3339(object::str_at(item, &["timestamp"])).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// What pods use of a resource: all their containers, of which none may be missing, or the one that is named.
fn usages(items: &[Value], resource: &str, container: &str) -> Measurements {
    let of_pod = |pod: &Value| {
        let containers = pod["containers"].as_array().filter(|containers| !containers.is_empty())?;
        let mut wanted = containers.iter().filter(|c| container.is_empty() || c["name"] == container).peekable();
        wanted.peek()?;
        let value = wanted.try_fold(0_i64, |sum, c| Some(sum.saturating_add(amount(&c["usage"][resource])?)))?;
        let window = time::parse_duration(object::str_at(pod, &["window"])).unwrap_or_default();
        let window = SignedDuration::try_from(window).unwrap_or(SignedDuration::ZERO);
        Some((object::name(pod).to_owned(), Measured { value, at: timestamp(pod), window }))
    };
    items.iter().filter_map(of_pod).collect()
}

/// The values of a custom metric, by the objects that it describes.
fn values(items: &[Value]) -> Measurements {
    let of_object = |item: &Value| {
        let seconds = item["window"].as_i64().or_else(|| item["windowSeconds"].as_i64()).unwrap_or(WINDOW);
        let measured = Measured {
            value: amount(&item["value"])?,
            at: timestamp(item),
            window: SignedDuration::from_secs(seconds),
        };
        Some((object::str_at(item, &["describedObject", "name"]).to_owned(), measured))
    };
    items.iter().filter_map(of_object).collect()
}

impl Measuring<'_> {
    pub(super) fn judge(&self, spec: &MetricSpec, answer: Result<Value, String>) -> Result<Found, Bad> {
        let (found, reason, about) = if let Some(source) = &spec.resource {
            let found = self.resource(&source.name, "", &source.target, answer).map(|(replicas, name, current)| {
                let resource = Some(ResourceMetricStatus { name: source.name.clone(), current });
                (replicas, name, MetricStatus { resource, ..MetricStatus::default() })
            });
            (found, "FailedGetResourceMetric", format!("{} resource metric value", source.name))
        } else if let Some(source) = &spec.container_resource {
            let (name, container) = (source.name.clone(), source.container.clone());
            let found = self.resource(&name, &container, &source.target, answer).map(|(replicas, text, current)| {
                let container_resource = Some(ContainerResourceMetricStatus { name, container, current });
                (replicas, text, MetricStatus { container_resource, ..MetricStatus::default() })
            });
            (found, "FailedGetContainerResourceMetric", format!("{} container metric value", source.container))
        } else if let Some(source) = &spec.pods {
            let found = self.of_pods(&source.metric, &source.target, answer);
            (found, "FailedGetPodsMetric", "pods metric value".to_owned())
        } else if let Some(source) = &spec.object {
            (self.of_object(source, answer), "FailedGetObjectMetric", "object metric value".to_owned())
        } else if let Some(source) = &spec.external {
            let about = format!("{} external metric value", source.metric.name);
            (self.external(source, answer), "FailedGetExternalMetric", about)
        } else {
            let message = format!("unknown metric source type {:?}", spec.type_);
            return Err(Bad { reason: "InvalidMetricSourceType", error: message.clone(), message });
        };
        let (replicas, name, status) = found.map_err(|message| {
            let error = format!("failed to get {about}: {message}");
            Bad { reason, message, error }
        })?;
        Ok(Found { replicas, name, status: MetricStatus { type_: spec.type_.clone(), ..status } })
    }

    fn average(
        &self,
        measured: Measurements,
        target: impl FnOnce() -> Result<Target, String>,
        is_cpu: bool,
    ) -> Result<Proposal, String> {
        let groups = Groups::of(self.pods, &measured, is_cpu.then_some(&self.settings), self.now);
        average(&groups, measured, target, self.spec_replicas, self.tolerance)
    }

    fn resource(
        &self,
        resource: &str,
        container: &str,
        target: &MetricTarget,
        answer: Result<Value, String>,
    ) -> Result<(i32, String, MetricValueStatus), String> {
        let measured = || match items(answer, "resource") {
            Ok(items) => Ok(usages(&items, resource, container)),
            Err(error) => Err(format!("unable to get metrics for resource {resource}: {error}")),
        };
        let is_cpu = resource == "cpu";
        if let Some(target) = &target.average_value {
            let found = measured().and_then(|m| self.average(m, || Ok(Target::Value(millis(target))), is_cpu));
            let found = found.map_err(|error| format!("failed to get {resource} usage: {error}"))?;
            return Ok((found.replicas, format!("{resource} resource"), average_value(resource, found.usage)));
        }
        let Some(percent) = target.average_utilization else {
            let text = "invalid resource metric source: neither an average utilization target nor an average value (usage) \
                        target was set";
            return Err(text.to_owned());
        };
        let target = || Ok(Target::Utilization(percent, requests(self.pods, container, resource)?));
        let found = measured().and_then(|measured| self.average(measured, target, is_cpu));
        let found = found.map_err(|error| format!("failed to get {resource} utilization: {error}"))?;
        let of = if container.is_empty() { "resource" } else { "container resource" };
        let name = format!("{resource} {of} utilization (percentage of request)");
        let mut current = average_value(resource, found.usage);
        current.average_utilization = found.utilization;
        Ok((found.replicas, name, current))
    }

    fn of_pods(
        &self,
        metric: &MetricIdentifier,
        target: &MetricTarget,
        answer: Result<Value, String>,
    ) -> Result<(i32, String, MetricStatus), String> {
        let target = target.average_value.as_ref().map_or(0, millis);
        let items =
            items(answer, "custom").map_err(|error| format!("unable to get metric {}: {error}", metric.name))?;
        let found = self.average(values(&items), || Ok(Target::Value(target)), false)?;
        let pods = PodsMetricStatus { metric: metric.clone(), current: average_value("", found.usage) };
        let status = MetricStatus { pods: Some(pods), ..MetricStatus::default() };
        Ok((found.replicas, format!("pods metric {}", metric.name), status))
    }

    fn of_object(
        &self,
        source: &ObjectMetricSource,
        answer: Result<Value, String>,
    ) -> Result<(i32, String, MetricStatus), String> {
        let ObjectMetricSource { described_object, metric, target } = source;
        let (name, kind) = (&metric.name, &described_object.kind);
        let usage = || {
            let items = items(answer, "custom")?;
            let [one] = items.as_slice() else {
                let (many, api) = (items.len(), "the custom metrics API server");
                let text = format!("{api} returned {many} results when we asked for exactly one");
                return Err(format!("unable to fetch metrics from custom metrics API: {text}"));
            };
            amount(&one["value"]).ok_or_else(|| "its value is no quantity".to_owned())
        };
        let usage = || {
            let place = format!("{kind} {}/{}", self.namespace, described_object.name);
            usage().map_err(|error| format!("unable to get metric {name}: {error} on {place}"))
        };
        let (replicas, text, current) = match (target.type_.as_str(), &target.value, &target.average_value) {
            ("Value", Some(target), _) => {
                let usage = usage()?;
                let ratio = usage as f64 / millis(target) as f64;
                let replicas = total(self.pods, ratio, self.spec_replicas, self.tolerance)?;
                (replicas, format!("{kind} metric {name}"), value(usage))
            }
            ("AverageValue", _, Some(target)) => {
                let usage = usage().map_err(|error| format!("failed to get {name} object metric: {error}"))?;
                let (replicas, usage) = share(usage, millis(target), self.status_replicas, self.tolerance);
                (replicas, external_name(metric), average_value("", usage))
            }
            _ => {
                let text = "invalid object metric source: neither a value target nor an average value target was set";
                return Err(text.to_owned());
            }
        };
        let described_object = described_object.clone();
        let object = Some(ObjectMetricStatus { described_object, metric: metric.clone(), current });
        Ok((replicas, text, MetricStatus { object, ..MetricStatus::default() }))
    }

    fn external(
        &self,
        source: &ExternalMetricSource,
        answer: Result<Value, String>,
    ) -> Result<(i32, String, MetricStatus), String> {
        let ExternalMetricSource { metric, target } = source;
        let name = &metric.name;
        let usage = || match items(answer, "external") {
            Ok(items) => {
                let values = items.iter().filter_map(|item| amount(&item["value"]));
                Ok(values.fold(0_i64, i64::saturating_add))
            }
            Err(error) => {
                let selector = to_go_text(metric.selector.as_ref());
                Err(format!("unable to get external metric {}/{name}/{selector}: {error}", self.namespace))
            }
        };
        let (replicas, current) = if let Some(target) = &target.average_value {
            let usage = usage().map_err(|error| format!("failed to get {name} external metric: {error}"))?;
            let (replicas, usage) = share(usage, millis(target), self.status_replicas, self.tolerance);
            (replicas, average_value("", usage))
        } else if let Some(target) = &target.value {
            let found = usage().and_then(|usage| {
                let ratio = usage as f64 / millis(target) as f64;
                Ok((total(self.pods, ratio, self.spec_replicas, self.tolerance)?, value(usage)))
            });
            found.map_err(|error| format!("failed to get external metric {name}: {error}"))?
        } else {
            let text = "invalid external metric source: neither a value target nor an average value target was set";
            return Err(text.to_owned());
        };
        let external = Some(ExternalMetricStatus { metric: metric.clone(), current });
        Ok((replicas, external_name(metric), MetricStatus { external, ..MetricStatus::default() }))
    }
}

fn external_name(metric: &MetricIdentifier) -> String {
    format!("external metric {}({})", metric.name, to_go_text(metric.selector.as_ref()))
}
