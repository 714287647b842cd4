//! The priority levels and flow schemas that upstream makes (`pkg/apis/flowcontrol/bootstrap`), so that its tools find
//! them.

use kybern_apimachinery::{ApiError, Reason, Value, json, object};
use kybern_apiserver::connect::Objects;

use super::reconcile::ensure;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// Queues, hand size and queue length.
type Queuing = (i64, i64, i64);

/// Name, shares, lendable percent, and queues, hand size and queue length; no queues: excess is rejected.
const LEVELS: [(&str, i64, i64, Option<Queuing>); 7] = [
    ("system", 30, 33, Some((64, 6, 50))),
    ("node-high", 40, 25, Some((64, 6, 50))),
    ("leader-election", 10, 0, Some((16, 4, 50))),
    ("workload-high", 40, 50, Some((128, 6, 50))),
    ("workload-low", 100, 90, Some((128, 6, 50))),
    ("global-default", 20, 50, Some((128, 6, 50))),
    ("catch-all", 5, 0, None),
];

/// What a schema's rule covers.
enum Covers {
    /// Every request.
    All,
    /// Requests for paths that are no resources.
    Paths(&'static [&'static str]),
    /// Leases in all namespaces, with these verbs.
    Leases(&'static [&'static str]),
    /// Nodes, and leases in all namespaces.
    NodesAndLeases,
}

struct Schema {
    name: &'static str,
    level: &'static str,
    precedence: i64,
    distinguisher: &'static str,
    /// `group:NAME`, `user:NAME` or `sa:NAMESPACE/NAME`.
    subjects: &'static [&'static str],
    covers: Covers,
}

const fn schema(
    name: &'static str,
    level: &'static str,
    precedence: i64,
    distinguisher: &'static str,
    subjects: &'static [&'static str],
    covers: Covers,
) -> Schema {
    Schema { name, level, precedence, distinguisher, subjects, covers }
}

const EVERYONE: &[&str] = &["group:system:unauthenticated", "group:system:authenticated"];

const SCHEMAS: [Schema; 11] = [
    schema("exempt", "exempt", 1, "", &["group:system:masters"], Covers::All),
    schema("probes", "exempt", 2, "", EVERYONE, Covers::Paths(&["/healthz", "/readyz", "/livez"])),
    schema(
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        &["user:system:kube-controller-manager", "user:system:kube-scheduler", "sa:kube-system/*"],
        Covers::Leases(&["get", "create", "update"]),
    ),
    schema("system-node-high", "node-high", 400, "ByUser", &["group:system:nodes"], Covers::NodesAndLeases),
    schema("system-nodes", "system", 500, "ByUser", &["group:system:nodes"], Covers::All),
    schema(
        "kube-controller-manager",
        "workload-high",
        800,
        "ByNamespace",
        &["user:system:kube-controller-manager"],
        Covers::All,
    ),
    schema("kube-scheduler", "workload-high", 800, "ByNamespace", &["user:system:kube-scheduler"], Covers::All),
    schema("kube-system-service-accounts", "workload-high", 900, "ByNamespace", &["sa:kube-system/*"], Covers::All),
    schema("service-accounts", "workload-low", 9000, "ByUser", &["group:system:serviceaccounts"], Covers::All),
    schema("global-default", "global-default", 9900, "ByUser", EVERYONE, Covers::All),
    schema("catch-all", "catch-all", 10000, "ByUser", EVERYONE, Covers::All),
];

/// Makes what is missing, and removes schemas that an earlier release made.
pub(super) async fn ensure_all(objects: &dyn Objects) -> Result<(), ApiError> {
    // All at once, so that they share commits.
    let levels = levels().map(|level| ("prioritylevelconfigurations", level));
    let schemas = SCHEMAS.iter().map(|schema| ("flowschemas", flow_schema(schema)));
    let made = levels.chain(schemas).map(|(resource, object)| ensure(objects, GROUP, resource, object, follow));
    futures_util::future::try_join_all(made).await?;
    for schema in objects.list(GROUP, "flowschemas", "").await? {
        let name = object::name(&schema);
        if follows(&schema) && !SCHEMAS.iter().any(|schema| schema.name == name) {
            let deleted = objects.delete(GROUP, "flowschemas", "", name, Value::Null).await;
            if let Err(error) = deleted
                && error.reason() != Reason::NotFound
            {
                return Err(error);
            }
        }
    }
    Ok(())
}

fn follows(object: &Value) -> bool {
    object::annotation(object, AUTOUPDATE) == Some("true")
}

/// Brings a spec up to date, unless somebody has taken it over. What the exempt level lends is anybody's to say.
fn follow(live: &mut Value, wanted: &Value) -> bool {
    if !follows(live) || live["spec"] == wanted["spec"] || wanted["spec"]["type"] == "Exempt" {
        return false;
    }
    live["spec"] = wanted["spec"].clone();
    let generation = live["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
    live["metadata"]["generation"] = generation.into();
    true
}

/// The objects that upstream does not let anyone change: what is never held back, and what catches the rest.
pub(crate) fn mandatory(kind: &str, name: &str) -> Option<Value> {
    if !["exempt", "catch-all"].contains(&name) {
        return None;
    }
    match kind {
        "FlowSchema" => SCHEMAS.iter().find(|schema| schema.name == name).map(flow_schema),
        _ => levels().find(|level| object::name(level) == name),
    }
}

/// Upstream's servers bring what has the annotation up to date.
fn metadata(name: &str) -> Value {
    json!({"name": name, "annotations": {AUTOUPDATE: "true"}})
}

fn levels() -> impl Iterator<Item = Value> {
    let level = |name: &str, spec: Value| json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration", "metadata": metadata(name), "spec": spec});
    let exempt =
        level("exempt", json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}));
    let limited = LEVELS.into_iter().map(move |(name, shares, lendable, queues)| {
        let response = match queues {
            Some((queues, hand, length)) => {
                json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}})
            }
            None => json!({"type": "Reject"}),
        };
        let limited =
            json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        level(name, json!({"type": "Limited", "limited": limited}))
    });
    std::iter::once(exempt).chain(limited)
}

fn flow_schema(schema: &Schema) -> Value {
    let subjects: Vec<Value> = schema
        .subjects
        .iter()
        .filter_map(|subject| {
            let (kind, name) = subject.split_once(':')?;
            Some(match kind {
                "group" => json!({"kind": "Group", "group": {"name": name}}),
                "user" => json!({"kind": "User", "user": {"name": name}}),
                _ => {
                    let (namespace, name) = name.split_once('/')?;
                    json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}})
                }
            })
        })
        .collect();
    let resources = |verbs: &[&str], group: &str, resources: &[&str], cluster: bool| {
        let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
        if cluster {
            rule["clusterScope"] = true.into();
        }
        rule
    };
    let leases = |verbs: &[&str]| resources(verbs, "coordination.k8s.io", &["leases"], false);
    let mut rule = json!({"subjects": subjects});
    match schema.covers {
        Covers::All => {
            rule["resourceRules"] = json!([resources(&["*"], "*", &["*"], true)]);
            rule["nonResourceRules"] = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
        }
        Covers::Paths(paths) => rule["nonResourceRules"] = json!([{"verbs": ["get"], "nonResourceURLs": paths}]),
        Covers::Leases(verbs) => rule["resourceRules"] = json!([leases(verbs)]),
        Covers::NodesAndLeases => {
            let nodes = resources(&["*"], "", &["nodes", "nodes/status"], true);
            rule["resourceRules"] = json!([nodes, leases(&["*"])]);
        }
    }
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": schema.level}, "matchingPrecedence": schema.precedence, "rules": [rule],
    });
    if !schema.distinguisher.is_empty() {
        spec["distinguisherMethod"] = json!({"type": schema.distinguisher});
    }
    json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": metadata(schema.name), "spec": spec})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_taken_over_follows() {
        let wanted = flow_schema(&SCHEMAS[3]);
        let mut live = wanted.clone();
        assert!(!follow(&mut live, &wanted));
        live["spec"]["matchingPrecedence"] = 7.into();
        let mut taken = live.clone();
        assert!(follow(&mut live, &wanted) && live["spec"] == wanted["spec"] && live["metadata"]["generation"] == 1);
        taken["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        assert!(!follow(&mut taken, &wanted) && taken["spec"]["matchingPrecedence"] == 7);
    }

    #[test]
    fn every_schema_leads_to_a_level() {
        let names: Vec<Value> = levels().map(|l| l["metadata"]["name"].clone()).collect();
        for schema in &SCHEMAS {
            let object = flow_schema(schema);
            assert!(names.contains(&object["spec"]["priorityLevelConfiguration"]["name"]), "{object}");
            assert_eq!(object["spec"]["rules"][0]["subjects"].as_array().unwrap().len(), schema.subjects.len());
        }
    }
}
