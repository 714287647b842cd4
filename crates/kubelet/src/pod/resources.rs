//! Requests and limits: quality of service, cgroup values, sums (`pkg/kubelet/cm`, `component-helpers/resource`).

use std::collections::BTreeMap;

use kybern_api::Quantity as ApiQuantity;
use kybern_api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use kybern_apimachinery::quantity::Quantity;
use kybern_cri::LinuxContainerResources;

use super::spec::is_sidecar;

/// The CFS period in microseconds.
pub const CPU_PERIOD_US: i64 = 100_000;
const MIN_QUOTA_US: i64 = 1000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;

/// A pod's quality of service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

pub type Amounts = BTreeMap<String, Quantity>;

fn parse(map: Option<&BTreeMap<String, ApiQuantity>>) -> Amounts {
    let entries = map.into_iter().flatten();
    entries.filter_map(|(name, q)| Some((name.clone(), Quantity::parse(&q.0).ok()?))).collect()
}

pub fn requests(resources: Option<&ResourceRequirements>) -> Amounts {
    parse(resources.and_then(|r| r.requests.as_ref()))
}

pub fn limits(resources: Option<&ResourceRequirements>) -> Amounts {
    parse(resources.and_then(|r| r.limits.as_ref()))
}

pub fn milli(amounts: &Amounts, name: &str) -> i64 {
    amounts.get(name).map_or(0, Quantity::milli_value)
}

pub fn value(amounts: &Amounts, name: &str) -> i64 {
    amounts.get(name).map_or(0, Quantity::value)
}

/// `GetPodQOS`: from cpu and memory of all containers, or of the pod where it names its own.
pub fn qos_class(spec: &PodSpec) -> QosClass {
    let pod_level = spec.resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some());
    let all: Vec<Option<&ResourceRequirements>> = match pod_level {
        Some(resources) => vec![Some(resources)],
        None => {
            let init = spec.init_containers.iter().flatten();
            spec.containers.iter().chain(init).map(|c| c.resources.as_ref()).collect()
        }
    };
    let named = |amounts: &Amounts, name: &str| amounts.get(name).is_some_and(|q| !q.is_zero());
    let (mut any, mut guaranteed) = (false, true);
    for resources in all {
        let (requests, limits) = (requests(resources), limits(resources));
        for name in ["cpu", "memory"] {
            any |= named(&requests, name) || named(&limits, name);
            let equal = match requests.get(name) {
                Some(request) => limits.get(name).is_some_and(|limit| limit.milli_value() == request.milli_value()),
                None => true,
            };
            guaranteed &= named(&limits, name) && equal;
        }
    }
    match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

fn add(into: &mut Amounts, from: &Amounts) {
    for (name, amount) in from {
        let sum = into.get(name).map_or(*amount, |have| have.plus(*amount));
        into.insert(name.clone(), sum);
    }
}

fn raise(into: &mut Amounts, from: &Amounts) {
    for (name, amount) in from {
        let larger = into.get(name).is_none_or(|have| have.milli_value() < amount.milli_value());
        if larger {
            into.insert(name.clone(), *amount);
        }
    }
}

/// `PodRequests` and `PodLimits`: the containers' sum, or the peak while initializing, and the overhead.
fn pod_total(spec: &PodSpec, of: fn(Option<&ResourceRequirements>) -> Amounts) -> Amounts {
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &of(container.resources.as_ref()));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let mut here = of(container.resources.as_ref());
        if is_sidecar(container) {
            add(&mut sidecars, &here);
            add(&mut total, &here);
            here = sidecars.clone();
        } else {
            add(&mut here, &sidecars);
        }
        raise(&mut peak, &here);
    }
    raise(&mut total, &peak);
    if let Some(pod_level) = &spec.resources {
        total.extend(of(Some(pod_level)));
    }
    add(&mut total, &parse(spec.overhead.as_ref()));
    total
}

pub fn pod_requests(spec: &PodSpec) -> Amounts {
    pod_total(spec, requests)
}

pub fn pod_limits(spec: &PodSpec) -> Amounts {
    pod_total(spec, limits)
}

/// `MilliCPUToShares`.
pub fn cpu_shares(milli: i64) -> i64 {
    (milli * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// `MilliCPUToQuota`: microseconds per period; zero is no limit.
pub fn cpu_quota_us(milli: i64) -> i64 {
    if milli == 0 { 0 } else { (milli * CPU_PERIOD_US / 1000).max(MIN_QUOTA_US) }
}

/// `GetContainerOOMScoreAdjust`.
pub fn oom_score_adj(spec: &PodSpec, container: &Container, memory_capacity_bytes: i64) -> i64 {
    if spec.priority.is_some_and(|p| p >= 2_000_000_000) {
        return -997;
    }
    match qos_class(spec) {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let request = value(&requests(container.resources.as_ref()), "memory");
            let share = if memory_capacity_bytes > 0 { 1000 * request / memory_capacity_bytes } else { 0 };
            match 1000 - share {
                ..3 => 3,
                1000 => 999,
                score => score,
            }
        }
    }
}

/// A container's cgroup values.
pub fn container_resources(
    spec: &PodSpec,
    container: &Container,
    memory_capacity_bytes: i64,
) -> LinuxContainerResources {
    let resources = container.resources.as_ref();
    let (requests, limits) = (requests(resources), limits(resources));
    let cpu_limit = milli(&limits, "cpu");
    // A limit without a request is the request too.
    let cpu_request = if requests.contains_key("cpu") { milli(&requests, "cpu") } else { cpu_limit };
    LinuxContainerResources {
        cpu_period: CPU_PERIOD_US,
        cpu_quota: cpu_quota_us(cpu_limit),
        cpu_shares: cpu_shares(cpu_request),
        memory_limit_in_bytes: value(&limits, "memory"),
        oom_score_adj: oom_score_adj(spec, container, memory_capacity_bytes),
        ..Default::default()
    }
}

/// The pod's own cgroup values (`ResourceConfigForPod`): a limit only where every container has one.
pub fn pod_resources(spec: &PodSpec) -> LinuxContainerResources {
    let (requests, totals) = (pod_requests(spec), pod_limits(spec));
    let all_limited = |name: &str| {
        spec.resources.as_ref().and_then(|r| r.limits.as_ref()).is_some_and(|l| l.contains_key(name))
            || spec.containers.iter().all(|c| value(&limits(c.resources.as_ref()), name) > 0)
    };
    let mut resources = LinuxContainerResources {
        cpu_period: CPU_PERIOD_US,
        cpu_shares: cpu_shares(milli(&requests, "cpu").max(if requests.contains_key("cpu") {
            0
        } else {
            milli(&totals, "cpu")
        })),
        ..Default::default()
    };
    if all_limited("cpu") {
        resources.cpu_quota = cpu_quota_us(milli(&totals, "cpu"));
    }
    if all_limited("memory") {
        resources.memory_limit_in_bytes = value(&totals, "memory");
    }
    resources
}

/// The pod's cgroup below `root` (`/` or a test's own): `/kubepods/burstable/pod<uid>`.
pub fn cgroup_parent(root: &str, pod: &Pod, spec: &PodSpec) -> String {
    let root = root.trim_end_matches('/');
    let uid = pod.metadata.uid.as_deref().unwrap_or("");
    match qos_class(spec) {
        QosClass::Guaranteed => format!("{root}/kubepods/pod{uid}"),
        QosClass::Burstable => format!("{root}/kubepods/burstable/pod{uid}"),
        QosClass::BestEffort => format!("{root}/kubepods/besteffort/pod{uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing::{container, pod, resources};

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    #[test]
    fn quality_of_service() {
        let check = |all: &[(Pairs<'_>, Pairs<'_>)], expect: QosClass| {
            let mut pod = pod("p", vec![]);
            let spec = pod.spec.as_mut().unwrap();
            for (index, (requests, limits)) in all.iter().enumerate() {
                let mut c = container(&format!("c{index}"));
                c.resources = Some(resources(requests, limits));
                spec.containers.push(c);
            }
            assert_eq!(qos_class(spec), expect, "{all:?}");
        };
        let both: &[(&str, &str)] = &[("cpu", "1"), ("memory", "1Gi")];
        check(&[(&[], &[])], QosClass::BestEffort);
        check(&[(&[], both)], QosClass::Guaranteed);
        check(&[(both, &[("cpu", "1000m"), ("memory", "1024Mi")])], QosClass::Guaranteed);
        check(&[(both, both), (&[], &[])], QosClass::Burstable);
        check(&[(&[("cpu", "1")], &[])], QosClass::Burstable);
        check(&[(&[("nvidia.com/gpu", "1")], &[])], QosClass::BestEffort);
    }

    #[test]
    fn totals_take_the_peak_of_initialization() {
        let mut pod = pod("p", vec![container("a"), container("b")]);
        let spec = pod.spec.as_mut().unwrap();
        for c in &mut spec.containers {
            c.resources = Some(resources(&[("cpu", "100m")], &[]));
        }
        let mut big = container("init");
        big.resources = Some(resources(&[("cpu", "1")], &[]));
        let mut sidecar = container("sidecar");
        sidecar.restart_policy = Some("Always".into());
        sidecar.resources = Some(resources(&[("cpu", "50m")], &[]));
        spec.init_containers = Some(vec![sidecar.clone()]);
        assert_eq!(milli(&pod_requests(spec), "cpu"), 250);
        spec.init_containers = Some(vec![sidecar, big]);
        assert_eq!(milli(&pod_requests(spec), "cpu"), 1050);
    }

    #[test]
    fn cgroup_values() {
        let mut c = container("c");
        c.resources = Some(resources(&[("memory", "1Gi")], &[("cpu", "500m"), ("memory", "2Gi")]));
        let pod = pod("p", vec![c.clone()]);
        let spec = pod.spec.as_ref().unwrap();
        let got = container_resources(spec, &c, 4 << 30);
        assert_eq!(
            (got.cpu_shares, got.cpu_quota, got.memory_limit_in_bytes, got.oom_score_adj),
            (512, 50_000, 2 << 30, 750)
        );
        assert_eq!(cgroup_parent("/", &pod, spec), "/kubepods/burstable/podp-uid");
        assert_eq!(cpu_shares(0), 2);
        assert_eq!(cpu_quota_us(1), 1000);
    }
}
