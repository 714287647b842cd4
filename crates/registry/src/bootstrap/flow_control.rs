//! The priority levels and flow schemas that upstream makes (`pkg/apis/flowcontrol/bootstrap`), so that its tools find
//! them.

use kybern_apimachinery::{ApiError, Value, json};
use kybern_apiserver::connect::Objects;

use super::reconcile::{ensure, keep};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

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
    /// Verbs, group and resources, in all namespaces.
    Resources(&'static [&'static str], &'static str, &'static [&'static str]),
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

const LEASE_VERBS: &[&str] = &["get", "create", "update"];
const EVERYONE: &[&str] = &["group:system:unauthenticated", "group:system:authenticated"];

const SCHEMAS: [Schema; 13] = [
    schema("exempt", "exempt", 1, "", &["group:system:masters"], Covers::All),
    schema("probes", "exempt", 2, "", EVERYONE, Covers::Paths(&["/healthz", "/readyz", "/livez"])),
    schema(
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        &["user:system:kube-controller-manager", "user:system:kube-scheduler", "sa:kube-system/*"],
        Covers::Resources(LEASE_VERBS, "coordination.k8s.io", &["leases"]),
    ),
    schema(
        "endpoint-controller",
        "workload-high",
        150,
        "ByUser",
        &[
            "user:system:kube-controller-manager",
            "sa:kube-system/endpoint-controller",
            "sa:kube-system/endpointslicemirroring-controller",
        ],
        Covers::Resources(LEASE_VERBS, "", &["endpoints"]),
    ),
    schema(
        "workload-leader-election",
        "leader-election",
        200,
        "ByUser",
        &["sa:kube-system/*"],
        Covers::Resources(LEASE_VERBS, "coordination.k8s.io", &["leases"]),
    ),
    schema(
        "system-node-high",
        "node-high",
        400,
        "ByUser",
        &["group:system:nodes"],
        Covers::Resources(&["*"], "coordination.k8s.io", &["leases"]),
    ),
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

/// Makes what is missing.
pub(super) async fn ensure_all(objects: &dyn Objects) -> Result<(), ApiError> {
    // All at once, so that they share commits.
    let levels = levels().map(|level| ("prioritylevelconfigurations", level));
    let schemas = SCHEMAS.iter().map(|schema| ("flowschemas", flow_schema(schema)));
    let made = levels.chain(schemas).map(|(resource, object)| ensure(objects, GROUP, resource, object, keep));
    futures_util::future::try_join_all(made).await.map(drop)
}

/// The objects that upstream does not let anyone change: what is never held back, and what catches the rest.
pub(crate) fn mandatory(kind: &str, name: &str) -> Option<Value> {
    if !["exempt", "catch-all"].contains(&name) {
        return None;
    }
    match kind {
        "FlowSchema" => SCHEMAS.iter().find(|schema| schema.name == name).map(flow_schema),
        _ => levels().find(|level| kybern_apimachinery::object::name(level) == name),
    }
}

/// Upstream's servers bring what has the annotation up to date.
fn metadata(name: &str) -> Value {
    json!({"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}})
}

fn levels() -> impl Iterator<Item = Value> {
    let object = |name: &str, spec: Value| json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration", "metadata": metadata(name), "spec": spec});
    let exempt =
        object("exempt", json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}));
    let limited = LEVELS.into_iter().map(move |(name, shares, lendable, queues)| {
        let response = match queues {
            Some((queues, hand, length)) => {
                json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}})
            }
            None => json!({"type": "Reject"}),
        };
        let limited =
            json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        object(name, json!({"type": "Limited", "limited": limited}))
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
    let mut rule = json!({"subjects": subjects});
    match schema.covers {
        Covers::All => {
            rule["resourceRules"] = json!([resources(&["*"], "*", &["*"], true)]);
            rule["nonResourceRules"] = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
        }
        Covers::Paths(paths) => rule["nonResourceRules"] = json!([{"verbs": ["get"], "nonResourceURLs": paths}]),
        Covers::Resources(verbs, group, names) => {
            rule["resourceRules"] = json!([resources(verbs, group, names, false)])
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
    fn every_schema_leads_to_a_level() {
        let names: Vec<Value> = levels().map(|l| l["metadata"]["name"].clone()).collect();
        for schema in &SCHEMAS {
            let object = flow_schema(schema);
            assert!(names.contains(&object["spec"]["priorityLevelConfiguration"]["name"]), "{object}");
            assert_eq!(object["spec"]["rules"][0]["subjects"].as_array().unwrap().len(), schema.subjects.len());
        }
    }
}
