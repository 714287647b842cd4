//! What the server itself puts into a new pod, and what it leaves out.

use kybern_apimachinery::{Value, json};
use kybern_apiserver::strategy::StrategyContext;

use crate::tree::{drop_field, has, list, list_mut, text};
use crate::validation::scheduling::{PREFERRED, REQUIRED};
use kybern_quota::qos;

/// Fields of containers that upstream's early 1.35 knows and has not turned on.
const OFF_IN_CONTAINERS: [&str; 1] = ["restartPolicyRules"];

/// Drops what is turned off by default: it would be stored, and do nothing.
pub(crate) fn drop_disabled(ctx: &StrategyContext<'_>, spec: &mut Value, old: Option<&Value>) {
    // Who is in a gang stays in it.
    if !ctx.features.has("GenericWorkload") && !old.is_some_and(|old| has(old, "workloadRef")) {
        drop_field(spec, "workloadRef");
    }
    drop_field(spec, "hostnameOverride");
    let images: Vec<String> =
        list(spec, "volumes").iter().filter(|v| v.get("image").is_some()).map(|v| text(v, "name").to_owned()).collect();
    if let Some(volumes) = spec.get_mut("volumes").and_then(Value::as_array_mut) {
        volumes.retain(|volume| volume.get("image").is_none());
        if volumes.is_empty() {
            drop_field(spec, "volumes");
        }
    }
    for sort in ["initContainers", "containers", "ephemeralContainers"] {
        for container in list_mut(spec, sort) {
            for field in OFF_IN_CONTAINERS {
                drop_field(container, field);
            }
            // A sidecar is told by the one policy that is known.
            if sort != "initContainers" || text(container, "restartPolicy") != "Always" {
                drop_field(container, "restartPolicy");
            }
            if let Some(lifecycle) = container.get_mut("lifecycle") {
                drop_field(lifecycle, "stopSignal");
            }
            if let Some(mounts) = container.get_mut("volumeMounts").and_then(Value::as_array_mut) {
                mounts.retain(|mount| !images.iter().any(|image| text(mount, "name") == image));
                if mounts.is_empty() {
                    drop_field(container, "volumeMounts");
                }
            }
            for variable in list_mut(container, "env") {
                if let Some(source) = variable.get_mut("valueFrom") {
                    drop_field(source, "fileKeyRef");
                }
            }
        }
    }
    for volume in list_mut(spec, "volumes") {
        if let Some(projected) = volume.get_mut("projected") {
            for source in list_mut(projected, "sources") {
                drop_field(source, "clusterTrustBundle");
                drop_field(source, "podCertificate");
            }
        }
    }
}

/// The first status of a pod.
pub(super) fn status(pod: &Value, now: jiff::Timestamp) -> Value {
    let mut status = json!({"phase": "Pending", "qosClass": qos::class(&pod["spec"])});
    if !list(&pod["spec"], "schedulingGates").is_empty() {
        status["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "lastProbeTime": null,
            "lastTransitionTime": kybern_apimachinery::time::to_rfc3339(now),
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
    status
}

/// Merges the values that the pod has for `matchLabelKeys` and `mismatchLabelKeys` into the selectors beside them.
pub(super) fn merge_label_keys(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].clone();
    let Some(spec) = pod.get_mut("spec") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.get_mut("affinity").and_then(|a| a.get_mut(kind)) else { continue };
        for term in list_mut(affinity, PREFERRED) {
            if let Some(term) = term.get_mut("podAffinityTerm") {
                merge(term, &labels);
            }
        }
        for term in list_mut(affinity, REQUIRED) {
            merge(term, &labels);
        }
    }
    for constraint in list_mut(spec, "topologySpreadConstraints") {
        merge(constraint, &labels);
    }
}

fn merge(owner: &mut Value, labels: &Value) {
    let mut added = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        let keys = list(owner, field).iter().filter_map(Value::as_str);
        added.extend(
            keys.filter_map(|key| {
                Some(json!({"key": key, "operator": operator, "values": [labels.get(key)?.as_str()?]}))
            }),
        );
    }
    let Some(selector) = owner.get_mut("labelSelector").filter(|s| s.is_object()) else { return };
    if !added.is_empty() {
        let mut all = list(selector, "matchExpressions").to_vec();
        all.extend(added);
        selector["matchExpressions"] = all.into();
    }
}

#[cfg(test)]
mod tests {
    use kybern_apiserver::access::UserInfo;
    use kybern_apiserver::strategy::Features;

    use super::*;

    #[test]
    fn label_keys_are_merged_for_labels_that_are_there() {
        let mut pod = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"topologySpreadConstraints": [
            {"matchLabelKeys": ["app", "none"], "labelSelector": {}}, {"matchLabelKeys": ["app"]}]}});
        merge_label_keys(&mut pod);
        let constraints = &pod["spec"]["topologySpreadConstraints"];
        let expect = json!([{"key": "app", "operator": "In", "values": ["x"]}]);
        assert_eq!(constraints[0]["labelSelector"]["matchExpressions"], expect);
        assert!(constraints[1].get("labelSelector").is_none());
    }

    #[test]
    fn what_is_turned_off_is_dropped_with_its_mounts() {
        let (user, features) = (UserInfo::default(), Features::default());
        let ctx =
            StrategyContext { user: &user, now: jiff::Timestamp::UNIX_EPOCH, dry_run: false, features: &features };
        let mut spec =
            json!({"volumes": [{"name": "i", "image": {}}], "containers": [{"volumeMounts": [{"name": "i"}]}]});
        drop_disabled(&ctx, &mut spec, None);
        assert_eq!(spec, json!({"containers": [{}]}));
        let container = |policy: &str| json!({"restartPolicy": policy});
        let mut spec =
            json!({"initContainers": [container("Always"), container("Never")], "containers": [container("Always")]});
        drop_disabled(&ctx, &mut spec, None);
        assert_eq!(spec, json!({"initContainers": [container("Always"), {}], "containers": [{}]}));
    }

    #[test]
    fn membership_of_gangs_is_behind_its_gate() {
        let user = UserInfo::default();
        let spec = || json!({"workloadRef": {"name": "w", "podGroup": "g"}});
        for (open, old, kept) in
            [(false, None, false), (false, Some(json!({})), false), (false, Some(spec()), true), (true, None, true)]
        {
            let features: Features = open.then_some("GenericWorkload").into_iter().collect();
            let now = jiff::Timestamp::UNIX_EPOCH;
            let ctx = StrategyContext { user: &user, now, dry_run: false, features: &features };
            let mut new = spec();
            drop_disabled(&ctx, &mut new, old.as_ref());
            assert_eq!(has(&new, "workloadRef"), kept, "{open} {old:?}");
        }
    }
}
