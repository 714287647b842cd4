//! `clusterrole-aggregation`: a ClusterRole with an `aggregationRule` has the rules of all that it selects.

use kybern_api::rbac::v1::{ClusterRole, PolicyRule};
use kybern_api::{Object, encode, label_selector};
use kybern_apimachinery::json;
use kybern_client::Patch;

use crate::controller::{Context, Controller, Op, Plan};
use crate::snapshot::Snapshot;
use crate::watches::Watches;

pub struct ClusterRoleAggregationController;

impl Controller for ClusterRoleAggregationController {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        // Any role may be selected by any aggregated one, and there are few of those.
        watches.on(&snapshot.cluster_roles, |_, snapshot| {
            let roles = snapshot.cluster_roles.list();
            roles.iter().filter(|role| role.aggregation_rule.is_some()).map(|role| role.key()).collect()
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, _: &Context) -> Plan {
        let Some(role) = snapshot.cluster_roles.get(key) else { return Plan::idle() };
        let Some(aggregation) = &role.aggregation_rule else { return Plan::idle() };
        let mut rules: Vec<PolicyRule> = Vec::new();
        for selector in aggregation.cluster_role_selectors.iter().flatten() {
            let Ok(selector) = label_selector(selector) else { continue };
            let roles = snapshot.cluster_roles.list();
            let selected =
                roles.iter().filter(|r| r.name() != key && r.labels().is_some_and(|l| selector.matches_btree(l)));
            for rule in selected.flat_map(|r| r.rules.iter().flatten()) {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
        if role.rules.as_deref().unwrap_or_default() == rules {
            return Plan::idle();
        }
        let whole = encode::value(&ClusterRole { rules: Some(rules), ..(*role).clone() });
        let patch = json!({"metadata": {"resourceVersion": role.resource_version()}, "rules": whole["rules"]});
        Plan::of(vec![Op::patch(&*role, Patch::Merge(patch))])
    }
}

#[cfg(test)]
mod tests {
    use kybern_api::meta::v1::ObjectMeta;
    use kybern_api::rbac::v1::AggregationRule;

    use super::*;
    use crate::testing::{World, meta, selector};

    fn role(name: &str, app: &str, verbs: &[&str]) -> ClusterRole {
        let labels = Some(crate::testing::labels(&[("app", app)]));
        let verbs = verbs.iter().map(|v| (*v).to_owned()).collect();
        let metadata = ObjectMeta { namespace: None, labels, ..meta(name) };
        ClusterRole {
            metadata,
            rules: Some(vec![PolicyRule { verbs, ..PolicyRule::default() }]),
            aggregation_rule: None,
        }
    }

    #[test]
    fn rules_are_collected_once() {
        let world = World::new();
        let mut whole = role("whole", "whole", &[]);
        whole.rules = None;
        whole.aggregation_rule =
            Some(AggregationRule { cluster_role_selectors: Some(vec![selector("part"), selector("part")]) });
        for role in
            [whole.clone(), role("a", "part", &["get"]), role("b", "part", &["list"]), role("c", "other", &["delete"])]
        {
            world.writers.cluster_roles.upsert(role);
        }
        let plan = world.reconcile(&ClusterRoleAggregationController, "whole");
        let Op::Patch { patch: Patch::Merge(patch), .. } = &plan.ops[0] else { panic!("{plan:?}") };
        assert_eq!(patch["rules"], json!([{"verbs": ["get"]}, {"verbs": ["list"]}]));
        whole.rules = Some(vec![
            PolicyRule { verbs: vec!["get".into()], ..PolicyRule::default() },
            PolicyRule { verbs: vec!["list".into()], ..PolicyRule::default() },
        ]);
        world.writers.cluster_roles.upsert(whole);
        assert!(world.reconcile(&ClusterRoleAggregationController, "whole").ops.is_empty());
    }
}
