//! Whether a daemon's pod belongs on a node: node name, node selector and affinity, taints.

use std::collections::BTreeMap;

use kybern_api::Object;
use kybern_api::apps::v1::DaemonSetSpec;
use kybern_api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Toleration,
};
use kybern_api::node_affinity::tolerates;
use kybern_api::node_affinity::{NodeTerm, terms};

/// The answer for one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    /// A pod is to be made here.
    pub(super) should_run: bool,
    /// A pod that is here may go on.
    pub(super) may_stay: bool,
}

impl Fit {
    pub(super) const NO: Self = Self { should_run: false, may_stay: false };
}

/// What a daemon's pod asks of nodes, read once for all of them.
pub(super) struct Daemon<'a> {
    pod: Option<&'a PodSpec>,
    tolerations: Vec<Toleration>,
    /// One of these must select the node; `None` where nothing is required.
    terms: Option<Vec<NodeTerm>>,
}

impl<'a> Daemon<'a> {
    pub(super) fn of(spec: &'a DaemonSetSpec) -> Self {
        let pod = spec.template.spec.as_ref();
        let affinity = pod.and_then(|pod| pod.affinity.as_ref()?.node_affinity.as_ref());
        let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let tolerations =
            pod.map(|pod| pod.tolerations.iter().flatten().cloned().chain(own_tolerations(pod)).collect());
        Self { pod, tolerations: tolerations.unwrap_or_default(), terms: required.map(terms) }
    }

    /// `NodeShouldRunDaemonPod`.
    pub(super) fn fit(&self, node: &Node) -> Fit {
        let Some(pod) = self.pod else { return Fit::NO };
        let named_elsewhere = pod.node_name.as_deref().is_some_and(|n| !n.is_empty() && n != node.name());
        if named_elsewhere || !self.selects(pod, node) {
            return Fit::NO;
        }
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
        let repels = |effects: &[&str]| {
            let bears = |taint| self.tolerations.iter().any(|toleration| tolerates(toleration, taint));
            taints.iter().any(|taint| effects.contains(&taint.effect.as_str()) && !bears(taint))
        };
        Fit { should_run: !repels(&["NoSchedule", "NoExecute"]), may_stay: !repels(&["NoExecute"]) }
    }

    fn selects(&self, pod: &PodSpec, node: &Node) -> bool {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        let labels = node.metadata.labels.as_ref().unwrap_or(&NONE);
        pod.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(node.name(), labels)))
    }
}

/// Whether a change of a node can change the answer (or its being there at all).
pub(super) fn differs(old: &Node, new: &Node) -> bool {
    let taints = |n: &Node| n.spec.as_ref().and_then(|s| s.taints.clone());
    old.metadata.labels != new.metadata.labels || taints(old) != taints(new)
}

/// What every daemon tolerates (`AddOrUpdateDaemonPodTolerations`): it serves nodes in trouble too.
fn own_tolerations(pod: &PodSpec) -> Vec<Toleration> {
    let toleration = |key: &str, effect: &str| Toleration {
        key: Some(format!("node.kubernetes.io/{key}")),
        operator: Some("Exists".into()),
        effect: Some(effect.into()),
        ..Toleration::default()
    };
    let mut list = vec![
        toleration("not-ready", "NoExecute"),
        toleration("unreachable", "NoExecute"),
        toleration("disk-pressure", "NoSchedule"),
        toleration("memory-pressure", "NoSchedule"),
        toleration("pid-pressure", "NoSchedule"),
        toleration("unschedulable", "NoSchedule"),
    ];
    if pod.host_network == Some(true) {
        list.push(toleration("network-unavailable", "NoSchedule"));
    }
    list
}

/// Pins a pod to a node by affinity, so that the scheduler still has its say, and adds the daemons' own tolerations
/// (`ReplaceDaemonSetPodNodeNameNodeAffinity`).
pub(super) fn pin(pod: &mut PodSpec, node: &str) {
    let own = own_tolerations(pod);
    let tolerations = pod.tolerations.get_or_insert_default();
    tolerations.extend(own.into_iter().filter(|t| !tolerations.contains(t)).collect::<Vec<_>>());
    let name = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity: &mut Affinity = pod.affinity.get_or_insert_default();
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    let required: &mut NodeSelector =
        affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default();
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![name.clone()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_api::core::v1::Taint;

    use crate::testing::{labels, meta, template};

    fn fit(spec: &DaemonSetSpec, node: &Node) -> Fit {
        Daemon::of(spec).fit(node)
    }

    fn node(taints: &[(&str, &str)]) -> Node {
        let mut node = Node { metadata: meta("n1"), ..Node::default() };
        node.metadata.labels = Some(labels(&[("disk", "ssd")]));
        let taint =
            |(key, effect): &(&str, &str)| Taint { key: (*key).into(), effect: (*effect).into(), ..Taint::default() };
        node.spec.get_or_insert_default().taints = Some(taints.iter().map(taint).collect());
        node
    }

    fn spec(change: impl FnOnce(&mut PodSpec)) -> DaemonSetSpec {
        let mut template = template("d", "i");
        change(template.spec.as_mut().unwrap());
        DaemonSetSpec { template, ..DaemonSetSpec::default() }
    }

    #[test]
    fn taints_repel_all_but_the_daemons_own() {
        let check = |taints: &[(&str, &str)], should_run, may_stay| {
            assert_eq!(fit(&spec(|_| {}), &node(taints)), Fit { should_run, may_stay }, "{taints:?}");
        };
        check(&[], true, true);
        check(
            &[("node.kubernetes.io/not-ready", "NoExecute"), ("node.kubernetes.io/unschedulable", "NoSchedule")],
            true,
            true,
        );
        check(&[("mine", "PreferNoSchedule")], true, true);
        check(&[("mine", "NoSchedule")], false, true);
        check(&[("mine", "NoExecute")], false, false);
        check(&[("node.kubernetes.io/network-unavailable", "NoSchedule")], false, true);
        let host = spec(|pod| pod.host_network = Some(true));
        assert!(fit(&host, &node(&[("node.kubernetes.io/network-unavailable", "NoSchedule")])).should_run);
    }

    #[test]
    fn selectors_choose_nodes() {
        for (key, value, expect) in [("disk", "ssd", true), ("disk", "hdd", false), ("gpu", "yes", false)] {
            let spec = spec(|pod| pod.node_selector = Some(labels(&[(key, value)])));
            assert_eq!(fit(&spec, &node(&[])).should_run, expect, "{key}={value}");
        }
        assert_eq!(fit(&spec(|pod| pod.node_name = Some("n2".into())), &node(&[])), Fit::NO);
        for (target, expect) in [("n1", true), ("n2", false)] {
            assert_eq!(fit(&spec(|pod| pin(pod, target)), &node(&[])).should_run, expect);
        }
    }
}
