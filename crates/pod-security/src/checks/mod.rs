//! The checks, with the versions of the standards that they came with.

mod baseline;
mod profiles;
mod restricted;
mod texts;

use kybern_apimachinery::Value;
use kybern_apimachinery::tree::list;

use crate::policy::{Level, LevelVersion, Version};

/// Why a pod does not meet a level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub reason: String,
    pub detail: String,
}

impl Violation {
    fn new(reason: impl Into<String>, detail: impl Into<String>) -> Option<Self> {
        Some(Self { reason: reason.into(), detail: detail.into() })
    }
}

/// What is checked of a pod.
#[derive(Clone, Copy)]
struct Pod<'a> {
    metadata: &'a Value,
    spec: &'a Value,
}

impl<'a> Pod<'a> {
    /// In the order in which refusals name them.
    fn containers(self) -> impl Iterator<Item = &'a Value> {
        ["initContainers", "containers", "ephemeralContainers"].iter().flat_map(move |field| list(self.spec, field))
    }

    fn is_windows(self) -> bool {
        self.spec["os"]["name"] == "windows"
    }
}

type Check = fn(Pod<'_>) -> Option<Violation>;

struct Row {
    id: &'static str,
    /// From which minor version on; the last that applies is asked.
    versions: &'static [(u32, Check)],
    /// What it makes needless of the level below.
    overrides: &'static str,
}

const fn row(id: &'static str, versions: &'static [(u32, Check)]) -> Row {
    Row { id, versions, overrides: "" }
}

const BASELINE: &[Row] = &[
    row("appArmorProfile", &[(0, profiles::app_armor)]),
    row("capabilities_baseline", &[(0, baseline::capabilities)]),
    row("hostNamespaces", &[(0, baseline::host_namespaces)]),
    row("hostPathVolumes", &[(0, baseline::host_path_volumes)]),
    row("hostPorts", &[(0, baseline::host_ports)]),
    row("hostProbesAndHostLifecycle", &[(34, baseline::probe_hosts)]),
    row("privileged", &[(0, baseline::privileged)]),
    row("procMount", &[(0, baseline::proc_mount)]),
    row("seLinuxOptions", &[(0, profiles::selinux_1_0), (31, profiles::selinux_1_31)]),
    row("seccompProfile_baseline", &[(0, profiles::seccomp_annotations), (19, profiles::seccomp_baseline)]),
    row(
        "sysctls",
        &[
            (0, baseline::sysctls_1_0),
            (27, baseline::sysctls_1_27),
            (29, baseline::sysctls_1_29),
            (32, baseline::sysctls_1_32),
        ],
    ),
    row("windowsHostProcess", &[(0, baseline::windows_host_process)]),
];

const RESTRICTED: &[Row] = &[
    row(
        "allowPrivilegeEscalation",
        &[(8, restricted::privilege_escalation), (25, restricted::privilege_escalation_but_windows)],
    ),
    Row {
        id: "capabilities_restricted",
        versions: &[(22, restricted::capabilities), (25, restricted::capabilities_but_windows)],
        overrides: "capabilities_baseline",
    },
    Row { id: "restrictedVolumes", versions: &[(0, restricted::volumes)], overrides: "hostPathVolumes" },
    row("runAsNonRoot", &[(0, restricted::run_as_non_root)]),
    row("runAsUser", &[(23, restricted::run_as_user)]),
    Row {
        id: "seccompProfile_restricted",
        versions: &[(19, profiles::seccomp_restricted), (25, profiles::seccomp_restricted_but_windows)],
        overrides: "seccompProfile_baseline",
    },
];

impl Row {
    fn at(&self, version: Version) -> Option<Check> {
        self.versions.iter().rev().find(|(since, _)| version >= Version::Minor(*since)).map(|(_, check)| *check)
    }
}

/// What keeps a pod from a level of a version: baseline first, in the order of the checks' names.
pub fn check(policy: LevelVersion, metadata: &Value, spec: &Value) -> Vec<Violation> {
    let LevelVersion { level, version } = policy;
    let pod = Pod { metadata, spec };
    let restricted = if level == Level::Restricted { RESTRICTED } else { &[] };
    let baseline = if level == Level::Privileged { &[] } else { BASELINE };
    let is_overridden = |id: &str| restricted.iter().any(|row| row.overrides == id && row.at(version).is_some());
    let baseline = baseline.iter().filter(|row| !is_overridden(row.id));
    let checks = baseline.chain(restricted).filter_map(|row| row.at(version));
    checks.filter_map(|check| check(pod)).collect()
}

pub fn reasons(violations: &[Violation]) -> String {
    violations.iter().map(|v| v.reason.as_str()).collect::<Vec<_>>().join(", ")
}

pub fn details(violations: &[Violation]) -> String {
    let texts = violations.iter().map(
        |Violation { reason, detail }| {
            if detail.is_empty() { reason.clone() } else { format!("{reason} ({detail})") }
        },
    );
    texts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "../checks_tests.rs"]
mod tests;
