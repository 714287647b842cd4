//! From two readings of a kubelet's `/metrics/resource` to what was used between them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use kybern_apimachinery::quantity::Quantity;
use kybern_apimachinery::time::to_rfc3339;
use kybern_apimachinery::{Value, json, object};

/// One reading.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Sample {
    node: Part,
    /// By the pod's key and the container's name.
    containers: BTreeMap<(String, String), Part>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Part {
    /// Seconds of CPU time since the start, and when that was read.
    cpu: Option<(Timestamp, f64)>,
    memory: Option<f64>,
}

/// What was used over a time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Usage {
    /// The end of the time.
    at: Timestamp,
    window: SignedDuration,
    /// Billionths of a core.
    cpu: i64,
    memory: i64,
}

/// What a node and its pods have used.
#[derive(Debug, Default)]
pub(super) struct Usages {
    pub(super) node: Option<Usage>,
    /// By key; each with its containers.
    pub(super) pods: BTreeMap<String, Vec<(String, Usage)>>,
}

/// Reads Prometheus' text format. What has no time of its own was read `now`.
pub(super) fn parse(page: &str, now: Timestamp) -> Sample {
    let mut sample = Sample::default();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, numbers)) = line.split_once("} ").or_else(|| line.split_once(' ')) else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let mut numbers = numbers.split_ascii_whitespace();
        let Some(value) = numbers.next().and_then(|number| number.parse::<f64>().ok()) else { continue };
        let at = numbers.next().and_then(|millis| Timestamp::from_millisecond(millis.parse().ok()?).ok());
        let (whose, what) = name.split_once('_').unwrap_or((name, ""));
        if !matches!(what, "cpu_usage_seconds_total" | "memory_working_set_bytes") {
            continue;
        }
        let part = match whose {
            "node" => &mut sample.node,
            "container" => {
                let pod = object::key_of(label(labels, "namespace"), label(labels, "pod"));
                sample.containers.entry((pod, label(labels, "container").to_owned())).or_default()
            }
            _ => continue,
        };
        if what == "cpu_usage_seconds_total" {
            part.cpu = Some((at.unwrap_or(now), value));
        } else {
            part.memory = Some(value);
        }
    }
    sample
}

/// The value of a label. None of those that matter needs escapes.
fn label<'a>(labels: &'a str, name: &str) -> &'a str {
    let pairs = labels.split(',').filter_map(|pair| pair.trim().split_once('='));
    let found = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.trim_matches('"')).next();
    found.unwrap_or("")
}

impl Part {
    /// Nothing for what has begun anew since, or was not read anew.
    fn since(&self, before: &Self) -> Option<Usage> {
        let ((from, start), (at, end)) = (before.cpu?, self.cpu?);
        let window = at.duration_since(from);
        if window <= SignedDuration::ZERO || end < start {
            return None;
        }
        let cpu = ((end - start) / window.as_secs_f64() * 1e9).round() as i64;
        Some(Usage { at, window, cpu, memory: self.memory? as i64 })
    }
}

impl Sample {
    /// What was used since an earlier reading. A pod is left out if that is not known of each of its containers.
    pub(super) fn since(&self, before: &Self) -> Usages {
        let mut usages = Usages { node: self.node.since(&before.node), pods: BTreeMap::new() };
        let mut unknown = BTreeSet::new();
        for (key, part) in &self.containers {
            let (pod, container) = key;
            if let Some(usage) = before.containers.get(key).and_then(|before| part.since(before)) {
                usages.pods.entry(pod.clone()).or_default().push((container.clone(), usage));
            } else {
                unknown.insert(pod);
            }
        }
        usages.pods.retain(|pod, _| !unknown.contains(pod));
        usages
    }
}

pub(super) fn node_metrics(node: &Value, usage: &Usage, now: Timestamp) -> Value {
    let mut metrics = metrics("NodeMetrics", node, usage, now);
    metrics["usage"] = used(usage);
    metrics
}

/// Its time is that of the container that was read first.
pub(super) fn pod_metrics(pod: &Value, containers: &[(String, Usage)], now: Timestamp) -> Value {
    let first = containers.iter().map(|(_, usage)| usage).min_by_key(|usage| usage.at);
    let mut metrics = first.map_or(Value::Null, |first| metrics("PodMetrics", pod, first, now));
    let container = |(name, usage): &(String, Usage)| json!({"name": name, "usage": used(usage)});
    metrics["containers"] = containers.iter().map(container).collect();
    metrics
}

fn metrics(kind: &str, of: &Value, usage: &Usage, now: Timestamp) -> Value {
    let mut metadata = json!({"name": object::name(of), "creationTimestamp": to_rfc3339(now)});
    for field in ["namespace", "labels"] {
        if let Some(value) = of["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    json!({
        "kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": metadata, "timestamp": to_rfc3339(usage.at),
        "window": duration(usage.window),
    })
}

fn used(usage: &Usage) -> Value {
    let cpu = Quantity::parse(&format!("{}n", usage.cpu)).map_or_else(|_| "0".to_owned(), |cpu| cpu.to_string());
    json!({"cpu": cpu, "memory": Quantity::bytes(usage.memory).to_string()})
}

/// As Go prints one, to the millisecond.
fn duration(window: SignedDuration) -> String {
    let millis = window.as_millis();
    let (minutes, seconds) = (millis / 60_000, (millis % 60_000) as f64 / 1000.0);
    match minutes {
        0 if millis < 1000 => format!("{millis}ms"),
        0 => format!("{seconds}s"),
        minutes => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    /// A page of a node, and of containers as `pod/container`, with seconds of CPU time and mebibytes.
    fn page(seconds: i64, node: f64, containers: &[(&str, f64, u64)]) -> Sample {
        let mut page = format!(
            "# HELP node_cpu_usage_seconds_total x\n# TYPE node_cpu_usage_seconds_total counter\n\
             node_cpu_usage_seconds_total {node}\nnode_memory_working_set_bytes 1.073741824e+09\nscrape_error 0\n"
        );
        for (name, cpu, mebibytes) in containers {
            let (pod, container) = name.split_once('/').unwrap();
            let labels = format!("{{container=\"{container}\",namespace=\"n\",pod=\"{pod}\"}}");
            let (millis, bytes) = (seconds * 1000, mebibytes << 20);
            page += &format!(
                "container_cpu_usage_seconds_total{labels} {cpu} {millis}\n\
                 container_memory_working_set_bytes{labels} {bytes} {millis}\n\
                 container_start_time_seconds{labels} 1.7e+09\nnonsense\n"
            );
        }
        parse(&page, at(seconds))
    }

    #[test]
    fn two_readings_tell_what_was_used_between() {
        let before = page(NOW, 100.0, &[("p/a", 10.0, 1), ("p/b", 5.0, 1)]);
        let after = page(NOW + 20, 130.0, &[("p/a", 20.0, 64), ("p/b", 5.0, 3)]);
        let usages = after.since(&before);
        let node = json!({"metadata": {"name": "n1", "labels": {"zone": "a"}}});
        let stamp = to_rfc3339(at(NOW + 20));
        assert_eq!(
            node_metrics(&node, usages.node.as_ref().unwrap(), at(NOW + 21)),
            json!({
                "kind": "NodeMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
                "metadata": {"name": "n1", "creationTimestamp": to_rfc3339(at(NOW + 21)), "labels": {"zone": "a"}},
                "timestamp": stamp, "window": "20s", "usage": {"cpu": "1500m", "memory": "1Gi"},
            })
        );
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}});
        let metrics = pod_metrics(&pod, &usages.pods["n/p"], at(NOW + 21));
        assert_eq!((&metrics["metadata"]["namespace"], &metrics["timestamp"]), (&json!("n"), &json!(stamp)));
        assert_eq!(
            metrics["containers"],
            json!([
                {"name": "a", "usage": {"cpu": "500m", "memory": "64Mi"}},
                {"name": "b", "usage": {"cpu": "0", "memory": "3Mi"}},
            ])
        );
    }

    #[test]
    fn what_is_not_known_of_every_container_is_not_told_of_the_pod() {
        let pods = |before: &[(&str, f64, u64)], after: &[(&str, f64, u64)], later: i64| {
            let usages = page(NOW + later, 1.0, after).since(&page(NOW, 1.0, before));
            usages.pods.into_keys().collect::<Vec<_>>()
        };
        let both = [("p/a", 1.0, 1), ("q/a", 1.0, 1)];
        assert_eq!(pods(&both, &both, 15), ["n/p", "n/q"]);
        assert_eq!(pods(&both, &[("p/a", 0.5, 1), ("q/a", 1.0, 1)], 15), ["n/q"], "it began anew");
        assert_eq!(pods(&both, &[("p/a", 2.0, 1), ("p/new", 0.1, 1), ("q/a", 1.0, 1)], 15), ["n/q"], "one is new");
        assert_eq!(pods(&both, &[("q/a", 1.0, 1)], 15), ["n/q"], "it is gone");
        assert!(pods(&both, &both, 0).is_empty(), "the same reading twice");
    }

    #[test]
    fn durations_are_printed_as_go_does() {
        for (millis, text) in
            [(900, "900ms"), (1500, "1.5s"), (15_021, "15.021s"), (60_000, "1m0s"), (75_250, "1m15.25s")]
        {
            assert_eq!(duration(SignedDuration::from_millis(millis)), text);
        }
    }
}
