//! Whether a daemon's pod belongs on a node: node name, node selector and affinity, taints.

use kybern_api::Object;
use kybern_api::apps::v1::DaemonSetSpec;
use kybern_api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

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

/// `NodeShouldRunDaemonPod`.
pub(super) fn fit(spec: &DaemonSetSpec, node: &Node) -> Fit {
    let Some(pod) = &spec.template.spec else { return Fit::NO };
    let named_elsewhere = pod.node_name.as_deref().is_some_and(|n| !n.is_empty() && n != node.name());
    if named_elsewhere || !selects(pod, node) {
        return Fit::NO;
    }
    let tolerations: Vec<Toleration> = pod.tolerations.iter().flatten().cloned().chain(own_tolerations(pod)).collect();
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let repels = |effects: &[&str]| {
        taints.iter().any(|t| effects.contains(&t.effect.as_str()) && !tolerations.iter().any(|x| tolerates(x, t)))
    };
    Fit { should_run: !repels(&["NoSchedule", "NoExecute"]), may_stay: !repels(&["NoExecute"]) }
}

/// Whether a change of a node can change the answer (or its being there at all).
pub(super) fn differs(old: &Node, new: &Node) -> bool {
    let taints = |n: &Node| n.spec.as_ref().and_then(|s| s.taints.clone());
    old.metadata.labels != new.metadata.labels || taints(old) != taints(new)
}

/// `ToleratesTaint`.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or("");
    let key = toleration.key.as_deref().unwrap_or("");
    let value = |v: &Option<String>| v.clone().unwrap_or_default();
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match toleration.operator.as_deref().unwrap_or("") {
            "" | "Equal" => value(&toleration.value) == value(&taint.value),
            "Exists" => true,
            _ => false,
        }
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

fn selects(pod: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let label = |key: &str| labels.and_then(|l| l.get(key)).map(String::as_str);
    if !pod.node_selector.iter().flatten().all(|(key, value)| label(key) == Some(value)) {
        return false;
    }
    let affinity = pod.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()) else {
        return true;
    };
    let field = |key: &str| (key == "metadata.name").then(|| node.name());
    // Terms are alternatives; a term's requirements all hold; an empty term selects nothing.
    required.node_selector_terms.iter().any(|term| {
        let labels_match = term.match_expressions.iter().flatten().all(|r| meets(r, label(&r.key)));
        let fields_match = term.match_fields.iter().flatten().all(|r| meets(r, field(&r.key)));
        let is_empty =
            term.match_expressions.iter().flatten().chain(term.match_fields.iter().flatten()).next().is_none();
        !is_empty && labels_match && fields_match
    })
}

fn meets(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|x| x == v));
    let compare = |holds: fn(i64, i64) -> bool| {
        let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
        match (number(value), number(values.first().map(String::as_str))) {
            (Some(v), Some(bound)) => holds(v, bound),
            _ => false,
        }
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|v, bound| v > bound),
        "Lt" => compare(|v, bound| v < bound),
        _ => false,
    }
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
    use crate::testing::{labels, meta, template};

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

    #[test]
    fn requirements() {
        let check = |operator: &str, values: &[&str], value: Option<&str>, expect: bool| {
            let values = Some(values.iter().map(|v| (*v).to_owned()).collect());
            let requirement = NodeSelectorRequirement { key: "k".into(), operator: operator.into(), values };
            assert_eq!(meets(&requirement, value), expect, "{operator} {value:?}");
        };
        check("In", &["a"], Some("a"), true);
        check("NotIn", &["a"], None, true);
        check("Exists", &[], Some(""), true);
        check("DoesNotExist", &[], Some(""), false);
        check("Gt", &["5"], Some("6"), true);
        check("Lt", &["5"], Some("6"), false);
        check("Gt", &["5"], Some("x"), false);
    }
}
