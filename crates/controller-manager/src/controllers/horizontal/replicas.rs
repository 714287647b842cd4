//! How many replicas a metric calls for (`podautoscaler/replica_calculator.go`).

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kybern_api::core::v1::{Container, Pod, ResourceRequirements};
use kybern_api::{Object, condition};
use kybern_apimachinery::quantity::Quantity;

use super::Settings;
use crate::pods;

/// What was measured of a pod, in thousandths.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measured {
    pub(super) value: i64,
    pub(super) at: Timestamp,
    pub(super) window: SignedDuration,
}

/// By the pod's name.
pub(super) type Measurements = BTreeMap<String, Measured>;

/// How far usage may be from its target before something is done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerance {
    pub(super) down: f64,
    pub(super) up: f64,
}

impl Tolerance {
    fn covers(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// What each pod should use.
pub(super) enum Target {
    /// Percent of what it requests, and the requests by the pods' names.
    Utilization(i32, BTreeMap<String, i64>),
    Value(i64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Proposal {
    pub(super) replicas: i32,
    /// Of a pod, on average.
    pub(super) usage: i64,
    pub(super) utilization: Option<i32>,
}

struct Ratio {
    ratio: f64,
    usage: i64,
    utilization: Option<i32>,
}

impl Target {
    fn ratio(&self, measured: &Measurements) -> Result<Ratio, String> {
        match self {
            Self::Value(target) => {
                let usage = measured.values().fold(0_i64, |sum, one| sum.saturating_add(one.value));
                let usage = usage / i64::try_from(measured.len()).unwrap_or(i64::MAX).max(1);
                Ok(Ratio { ratio: usage as f64 / *target as f64, usage, utilization: None })
            }
            Self::Utilization(target, requests) => {
                let known: Vec<(i64, i64)> =
                    measured.iter().filter_map(|(pod, one)| Some((one.value, *requests.get(pod)?))).collect();
                let sum = |of: fn(&(i64, i64)) -> i64| known.iter().map(of).fold(0_i64, i64::saturating_add);
                let (used, requested) = (sum(|one| one.0), sum(|one| one.1));
                if requested == 0 {
                    return Err("no metrics returned matched known pods".to_owned());
                }
                let percent = i128::from(used) * 100 / i128::from(requested);
                let utilization = i32::try_from(percent).unwrap_or(i32::MAX);
                let usage = used / i64::try_from(known.len()).unwrap_or(i64::MAX);
                Ok(Ratio { ratio: f64::from(utilization) / f64::from(*target), usage, utilization: Some(utilization) })
            }
        }
    }

    /// What a pod is taken to use of which nothing is known, when there may be too many.
    fn all_of_it(&self, pod: &str) -> i64 {
        match self {
            Self::Value(target) => *target,
            Self::Utilization(target, requests) => {
                requests.get(pod).copied().unwrap_or(0).saturating_mul(i64::from(100.max(*target))) / 100
            }
        }
    }
}

/// The replicas with which the pods would use what they should, on average. `target` is made when it is known that there is
/// something to measure it against.
pub(super) fn average(
    groups: &Groups<'_>,
    mut measured: Measurements,
    target: impl FnOnce() -> Result<Target, String>,
    current: i32,
    tolerance: Tolerance,
) -> Result<Proposal, String> {
    if groups.is_empty {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    measured.retain(|pod, _| !groups.ignored.contains(pod.as_str()) && !groups.unready.contains(pod.as_str()));
    if measured.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let target = target()?;
    let Ratio { ratio, usage, utilization } = target.ratio(&measured)?;
    let proposal = |replicas| Ok(Proposal { replicas, usage, utilization });
    let up_with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !up_with_unready && groups.missing.is_empty() {
        return proposal(if tolerance.covers(ratio) { current } else { ceil(ratio * groups.ready as f64) });
    }
    // Of those that are not known the worse is believed: that they use all when there may be too many, nothing when there
    // may be too few.
    let mut assume = |pods: &BTreeSet<&str>, value: &dyn Fn(&str) -> i64| {
        let unknown =
            |pod: &str| Measured { value: value(pod), at: Timestamp::UNIX_EPOCH, window: SignedDuration::ZERO };
        measured.extend(pods.iter().map(|pod| ((*pod).to_owned(), unknown(pod))));
    };
    if ratio < 1.0 {
        assume(&groups.missing, &|pod| target.all_of_it(pod));
    } else if ratio > 1.0 {
        assume(&groups.missing, &|_| 0);
    }
    if up_with_unready {
        assume(&groups.unready, &|_| 0);
    }
    let again = target.ratio(&measured)?.ratio;
    if tolerance.covers(again) || (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0) {
        return proposal(current);
    }
    let replicas = ceil(again * measured.len() as f64);
    let turns = (again < 1.0 && replicas > current) || (again > 1.0 && replicas < current);
    proposal(if turns { current } else { replicas })
}

/// The replicas with which a total would be what it should be.
pub(super) fn total(pods: &[Arc<Pod>], ratio: f64, current: i32, tolerance: Tolerance) -> Result<i32, String> {
    if current == 0 {
        return Ok(ceil(ratio));
    }
    if tolerance.covers(ratio) {
        return Ok(current);
    }
    if pods.is_empty() {
        let text = "unable to calculate ready pods: no pods returned by selector while calculating replica count";
        return Err(text.to_owned());
    }
    let ready = pods.iter().filter(|pod| pods::phase(pod) == "Running" && pods::is_ready(pod)).count();
    Ok(ceil(ratio * ready as f64))
}

/// The replicas with which each would get its share of a total, and the share as it is.
pub(super) fn share(usage: i64, target: i64, current: i32, tolerance: Tolerance) -> (i32, i64) {
    let ratio = usage as f64 / (target as f64 * f64::from(current));
    let replicas = if tolerance.covers(ratio) { current } else { ceil(usage as f64 / target as f64) };
    (replicas, (usage as f64 / f64::from(current)).ceil() as i64)
}

/// Rounded up; what is too large is the largest.
fn ceil(replicas: f64) -> i32 {
    replicas.ceil() as i32
}

/// The pods by what is known of them.
pub(super) struct Groups<'a> {
    is_empty: bool,
    ready: usize,
    unready: BTreeSet<&'a str>,
    missing: BTreeSet<&'a str>,
    ignored: BTreeSet<&'a str>,
}

impl<'a> Groups<'a> {
    /// With settings for what is measured of the processor.
    pub(super) fn of(pods: &'a [Arc<Pod>], measured: &Measurements, cpu: Option<&Settings>, now: Timestamp) -> Self {
        let none = BTreeSet::new;
        let mut groups =
            Self { is_empty: pods.is_empty(), ready: 0, unready: none(), missing: none(), ignored: none() };
        for pod in pods {
            let name = pod.name();
            if pod.is_deleting() || pods::phase(pod) == "Failed" {
                groups.ignored.insert(name);
            } else if pods::phase(pod) == "Pending" {
                groups.unready.insert(name);
            } else if let Some(measured) = measured.get(name) {
                if cpu.is_some_and(|settings| is_warming_up(pod, measured, settings, now)) {
                    groups.unready.insert(name);
                } else {
                    groups.ready += 1;
                }
            } else {
                groups.missing.insert(name);
            }
        }
        groups
    }
}

/// Whether the CPU usage is that of a start, which says nothing of what comes.
fn is_warming_up(pod: &Pod, measured: &Measured, settings: &Settings, now: Timestamp) -> bool {
    let Some(status) = &pod.status else { return true };
    let (Some(ready), Some(start)) = (condition::find(&status.conditions, "Ready"), &status.start_time) else {
        return true;
    };
    let changed = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let after = |time: Timestamp, wait| time.checked_add(wait).unwrap_or(Timestamp::MAX);
    let is_unready = ready.status == "False";
    if after(start.0, settings.cpu_initialization_period) > now {
        is_unready || measured.at < after(changed, measured.window)
    } else {
        is_unready && after(start.0, settings.initial_readiness_delay) > changed
    }
}

/// What the pods request of a resource, in thousandths: all containers, or the one that is named.
pub(super) fn requests(pods: &[Arc<Pod>], container: &str, resource: &str) -> Result<BTreeMap<String, i64>, String> {
    pods.iter().map(|pod| Ok((pod.name().to_owned(), request(pod, container, resource)?))).collect()
}

fn request(pod: &Pod, container: &str, resource: &str) -> Result<i64, String> {
    let amount = |of: Option<&ResourceRequirements>| {
        let quantity = of?.requests.as_ref()?.get(resource)?;
        Quantity::parse(&quantity.0).ok().map(|quantity| quantity.milli_value())
    };
    let Some(spec) = &pod.spec else { return Err(format!("Pod {} has no spec", pod.name())) };
    let restarts = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(restarts));
    let of = |c: &Container| {
        let missing = || format!("missing request for {resource} in container {} of Pod {}", c.name, pod.name());
        amount(c.resources.as_ref()).ok_or_else(missing)
    };
    if !container.is_empty() {
        let found = containers.find(|c| c.name == container);
        return found.map_or_else(|| Err(format!("container {container} not found in Pod {}", pod.name())), of);
    }
    if spec.resources.as_ref().and_then(|r| r.requests.as_ref()).is_some_and(|requests| !requests.is_empty()) {
        let sum = || containers.filter_map(|c| amount(c.resources.as_ref())).reduce(i64::saturating_add);
        let missing = || format!("missing pod-level request for {resource} in Pod {}", pod.name());
        return amount(spec.resources.as_ref()).or_else(sum).ok_or_else(missing);
    }
    containers.map(of).try_fold(0_i64, |sum, one| Ok(sum.saturating_add(one?)))
}
