//! What a pod's failure means, and which successes suffice.

use kybern_api::Object;
use kybern_api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, SuccessPolicy,
};
use kybern_api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};

use super::indexes::Indexes;
use crate::pods;

/// What `spec.podFailurePolicy` says about a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It counts towards the limits: no rule matches, or one that says so.
    Count,
    /// It does not.
    Ignore,
    /// Its index has failed.
    FailIndex,
    /// The job has failed, and why.
    FailJob(String),
}

impl Judgement {
    pub(super) fn counts(&self) -> bool {
        *self != Self::Ignore
    }
}

/// Whether a pod takes no further part: it has failed, or it was deleted and need not end first to be replaced.
pub(super) fn has_failed(spec: &JobSpec, pod: &Pod) -> bool {
    let phase = pods::phase(pod);
    let deleted = pod.is_deleting() && phase != "Succeeded";
    phase == "Failed" || (deleted && !only_replaces_failed(spec))
}

/// Whether pods that are being deleted are replaced only when they have ended.
pub(super) fn only_replaces_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

/// Whether each pod works on an index, and the indexes are what counts.
pub(super) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

pub(super) fn is_suspended(spec: &JobSpec) -> bool {
    spec.suspend == Some(true)
}

/// Judges a failed pod by the first rule that matches.
pub(super) fn judge(spec: &JobSpec, pod: &Pod) -> Judgement {
    let (Some(policy), Some(status)) = (&spec.pod_failure_policy, &pod.status) else { return Judgement::Count };
    let (namespace, name) = (pod.namespace(), pod.name());
    for (at, rule) in policy.rules.iter().enumerate() {
        let action = &rule.action;
        let why = if let Some(wanted) = &rule.on_exit_codes {
            exit_code(status, wanted).map(|(container, code)| {
                format!(
                    "Container {} for pod {namespace}/{name} failed with exit code {code} matching {action} rule at index {at}",
                    container.name
                )
            })
        } else {
            let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
            condition(status, patterns).map(|found| {
                format!("Pod {namespace}/{name} has condition {} matching {action} rule at index {at}", found.type_)
            })
        };
        match (action.as_str(), why) {
            ("FailJob", Some(why)) => return Judgement::FailJob(why),
            ("FailIndex", Some(_)) => return Judgement::FailIndex,
            ("Ignore", Some(_)) => return Judgement::Ignore,
            ("Count", Some(_)) => return Judgement::Count,
            _ => {}
        }
    }
    Judgement::Count
}

/// The first container that ended with a code that is asked for; 0 never is.
fn exit_code<'a>(
    status: &'a PodStatus,
    wanted: &PodFailurePolicyOnExitCodesRequirement,
) -> Option<(&'a ContainerStatus, i32)> {
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let ended = all.filter_map(|c| Some((c, c.state.as_ref()?.terminated.as_ref()?.exit_code)));
    ended.into_iter().find(|(container, code)| {
        let named = wanted.container_name.as_ref().is_none_or(|name| *name == container.name);
        let listed = wanted.values.contains(code);
        let asked = match wanted.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        named && *code != 0 && asked
    })
}

fn condition<'a>(
    status: &'a PodStatus,
    patterns: &[PodFailurePolicyOnPodConditionsPattern],
) -> Option<&'a PodCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|c| patterns.iter().any(|p| p.type_ == c.type_ && p.status.as_deref().unwrap_or("True") == c.status))
}

/// The index of the rule of `spec.successPolicy` that the indexes satisfy that have succeeded.
pub(super) fn satisfied(policy: &SuccessPolicy, completions: usize, succeeded: &Indexes) -> Option<usize> {
    if succeeded.total() == 0 {
        return None;
    }
    policy.rules.iter().position(|rule| {
        let count = rule.succeeded_count.and_then(|n| usize::try_from(n).ok());
        match &rule.succeeded_indexes {
            Some(text) => {
                let wanted = Indexes::parse(text, completions);
                let found = wanted.common(succeeded);
                wanted.total() > 0 && (found == wanted.total() || count.is_some_and(|count| found >= count))
            }
            None => count.is_some_and(|count| succeeded.total() >= count),
        }
    })
}

#[cfg(test)]
mod tests {
    use kybern_api::batch::v1::{PodFailurePolicy, PodFailurePolicyRule, SuccessPolicyRule};
    use kybern_api::core::v1::{ContainerState, ContainerStateTerminated};

    use super::*;
    use crate::testing::pod;

    fn codes(action: &str, operator: &str, values: &[i32], name: Option<&str>) -> PodFailurePolicyRule {
        let requirement = PodFailurePolicyOnExitCodesRequirement {
            container_name: name.map(Into::into),
            operator: operator.into(),
            values: values.to_vec(),
        };
        PodFailurePolicyRule { action: action.into(), on_exit_codes: Some(requirement), on_pod_conditions: None }
    }

    fn on(action: &str, kind: &str) -> PodFailurePolicyRule {
        let pattern = PodFailurePolicyOnPodConditionsPattern { type_: kind.into(), status: Some("True".into()) };
        PodFailurePolicyRule { action: action.into(), on_exit_codes: None, on_pod_conditions: Some(vec![pattern]) }
    }

    fn failed(code: i32) -> Pod {
        let mut pod = pod("a").phase("Failed").build();
        let terminated = ContainerStateTerminated { exit_code: code, ..Default::default() };
        let state = Some(ContainerState { terminated: Some(terminated), ..Default::default() });
        let status = pod.status.get_or_insert_default();
        status.container_statuses = Some(vec![ContainerStatus { name: "main".into(), state, ..Default::default() }]);
        let disrupted =
            PodCondition { type_: "DisruptionTarget".into(), status: "True".into(), ..PodCondition::default() };
        status.conditions = Some(vec![disrupted]);
        pod
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let job = "Container main for pod default/a failed with exit code 42 matching FailJob rule at index 0";
        let disrupted = "Pod default/a has condition DisruptionTarget matching FailJob rule at index 1";
        let fail = |why: &str| Judgement::FailJob(why.to_owned());
        for (rules, code, expect) in [
            (vec![], 42, Judgement::Count),
            (vec![codes("FailJob", "In", &[42], None)], 42, fail(job)),
            (vec![codes("FailJob", "In", &[42], Some("main"))], 42, fail(job)),
            (vec![codes("FailJob", "In", &[42], Some("other"))], 42, Judgement::Count),
            (vec![codes("FailJob", "In", &[42], None)], 1, Judgement::Count),
            (vec![codes("FailJob", "NotIn", &[1], None), on("Ignore", "DisruptionTarget")], 1, Judgement::Ignore),
            (vec![codes("FailJob", "NotIn", &[1], None)], 0, Judgement::Count),
            (vec![codes("FailIndex", "In", &[2], None), on("FailJob", "DisruptionTarget")], 1, fail(disrupted)),
            (vec![codes("FailIndex", "In", &[1], None), on("Ignore", "DisruptionTarget")], 1, Judgement::FailIndex),
            (vec![codes("Count", "In", &[1], None), on("FailJob", "DisruptionTarget")], 1, Judgement::Count),
            (vec![on("FailJob", "Ready"), codes("Ignore", "In", &[7], None)], 1, Judgement::Count),
        ] {
            let spec = JobSpec { pod_failure_policy: Some(PodFailurePolicy { rules }), ..JobSpec::default() };
            assert_eq!(judge(&spec, &failed(code)), expect, "{spec:?} {code}");
        }
    }

    #[test]
    fn successes_that_suffice() {
        let rule = |indexes: Option<&str>, succeeded_count| SuccessPolicyRule {
            succeeded_indexes: indexes.map(Into::into),
            succeeded_count,
        };
        for (rules, succeeded, expect) in [
            (vec![rule(None, Some(2))], "0", None),
            (vec![rule(None, Some(2))], "0,7", Some(0)),
            (vec![rule(Some("0-2"), None)], "0,1", None),
            (vec![rule(Some("0-2"), None)], "0-5", Some(0)),
            (vec![rule(Some("9"), None), rule(Some("0-4"), Some(2))], "1,3", Some(1)),
            (vec![rule(Some("30"), Some(0))], "1", None),
            (vec![rule(None, Some(1))], "", None),
        ] {
            let policy = SuccessPolicy { rules };
            assert_eq!(satisfied(&policy, 10, &Indexes::parse(succeeded, 10)), expect, "{policy:?} {succeeded}");
        }
    }
}
