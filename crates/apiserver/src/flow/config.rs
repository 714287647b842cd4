//! `FlowSchema` and `PriorityLevelConfiguration`, read from their objects.

use http::HeaderValue;
use kybern_apimachinery::{Value, object};

use crate::access::UserInfo;
use crate::request_info::RequestInfo;

/// An object's, as answers tell it.
pub(crate) type Uid = Option<HeaderValue>;

fn uid(object: &Value) -> Uid {
    HeaderValue::from_str(object::uid(object)).ok()
}

/// Who is served at which level.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Schema {
    pub(super) name: String,
    pub(super) uid: Uid,
    pub(super) level: String,
    pub(super) precedence: i64,
    pub(super) by: Distinguisher,
    pub(super) rules: Vec<Rule>,
    /// Status, reason and message of its condition `Dangling`.
    pub(super) dangling: Option<[String; 3]>,
}

/// What tells the flows of a schema apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Distinguisher {
    #[default]
    None,
    User,
    Namespace,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    /// Verbs and paths.
    paths: Vec<(Vec<String>, Vec<String>)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Subject {
    User(String),
    Group(String),
    ServiceAccount(String, String),
}

#[derive(Clone, Debug, PartialEq)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster: bool,
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Whether a list of names has one, or the star.
fn names(list: &[String], name: &str) -> bool {
    list.iter().any(|item| item == name || item == "*")
}

impl Schema {
    pub(super) fn parse(given: &Value) -> Self {
        let spec = &given["spec"];
        let rule = |rule: &Value| Rule {
            subjects: list(&rule["subjects"]).filter_map(subject).collect(),
            resources: list(&rule["resourceRules"])
                .map(|rule| ResourceRule {
                    verbs: texts(&rule["verbs"]),
                    groups: texts(&rule["apiGroups"]),
                    resources: texts(&rule["resources"]),
                    namespaces: texts(&rule["namespaces"]),
                    cluster: rule["clusterScope"].as_bool().unwrap_or(false),
                })
                .collect(),
            paths: list(&rule["nonResourceRules"])
                .map(|rule| (texts(&rule["verbs"]), texts(&rule["nonResourceURLs"])))
                .collect(),
        };
        let condition = list(&given["status"]["conditions"]).find(|condition| condition["type"] == "Dangling");
        Self {
            name: object::name(given).to_owned(),
            uid: uid(given),
            level: text(&spec["priorityLevelConfiguration"]["name"]),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            by: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Distinguisher::User,
                Some("ByNamespace") => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: list(&spec["rules"]).map(rule).collect(),
            dangling: condition.map(|c| ["status", "reason", "message"].map(|field| text(&c[field]))),
        }
    }

    /// The schema that stands for `exempt` or `catch-all` while there is no such object.
    pub(super) fn mandatory(name: &str, precedence: i64, groups: &[&str]) -> Self {
        let every = || vec!["*".to_owned()];
        let all =
            ResourceRule { verbs: every(), groups: every(), resources: every(), namespaces: every(), cluster: true };
        let subjects = groups.iter().map(|group| Subject::Group((*group).to_owned())).collect();
        let by = if name == "exempt" { Distinguisher::None } else { Distinguisher::User };
        let rules = vec![Rule { subjects, resources: vec![all], paths: vec![(every(), every())] }];
        Self {
            name: name.to_owned(),
            uid: uid(&Value::Null),
            level: name.to_owned(),
            precedence,
            by,
            rules,
            dangling: None,
        }
    }

    pub(super) fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| {
            rule.subjects.iter().any(|subject| subject.is(user))
                && if info.resource_request {
                    rule.resources.iter().any(|rule| rule.covers(info))
                } else {
                    let path = |spec: &String| {
                        spec == "*"
                            || *spec == info.path
                            || spec.strip_suffix('*').is_some_and(|p| info.path.starts_with(p))
                    };
                    rule.paths.iter().any(|(verbs, paths)| names(verbs, info.verb) && paths.iter().any(path))
                }
        })
    }

    /// The name of a request's flow among its schema's.
    pub(super) fn flow<'a>(&self, user: &'a str, info: &'a RequestInfo) -> &'a str {
        match self.by {
            Distinguisher::None => "",
            Distinguisher::User => user,
            Distinguisher::Namespace => &info.namespace,
        }
    }
}

fn subject(value: &Value) -> Option<Subject> {
    match value["kind"].as_str()? {
        "User" => Some(Subject::User(text(&value["user"]["name"]))),
        "Group" => Some(Subject::Group(text(&value["group"]["name"]))),
        "ServiceAccount" => {
            let account = &value["serviceAccount"];
            Some(Subject::ServiceAccount(text(&account["namespace"]), text(&account["name"])))
        }
        _ => None,
    }
}

impl Subject {
    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Self::User(name) => name == "*" || *name == user.name,
            Self::Group(name) => name == "*" || user.in_group(name),
            Self::ServiceAccount(namespace, name) => {
                let account = user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
                account.is_some_and(|(n, a)| n == namespace && (name == "*" || name == a))
            }
        }
    }
}

impl ResourceRule {
    fn covers(&self, info: &RequestInfo) -> bool {
        let resource = |item: &String| match (info.subresource.as_str(), item.split_once('/')) {
            _ if item == "*" => true,
            ("", _) => *item == info.resource,
            (below, Some((resource, sub))) => resource == info.resource && sub == below,
            _ => false,
        };
        names(&self.verbs, info.verb)
            && names(&self.groups, &info.group)
            && self.resources.iter().any(resource)
            && if info.namespace.is_empty() { self.cluster } else { names(&self.namespaces, &info.namespace) }
    }
}

/// How requests of a level are served.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Level {
    pub(super) name: String,
    pub(super) uid: Uid,
    pub(super) exempt: bool,
    pub(super) shares: u32,
    /// Percent of its nominal limit that others may use.
    pub(super) lendable: u32,
    /// Percent of its nominal limit that it may use of others'; `None` is as much as there is.
    pub(super) borrowing: Option<u32>,
    /// `None`: what finds no seat is refused.
    pub(super) queuing: Option<Queuing>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queuing {
    pub(super) queues: usize,
    pub(super) hand: usize,
    pub(super) length: usize,
}

impl Level {
    pub(super) fn parse(given: &Value) -> Self {
        let spec = &given["spec"];
        let exempt = spec["type"] == "Exempt";
        let part = &spec[if exempt { "exempt" } else { "limited" }];
        let number = |value: &Value, unset: u32| value.as_u64().map_or(unset, |n| n.min(u64::from(u32::MAX)) as u32);
        let queuing = (part["limitResponse"]["type"] == "Queue").then(|| {
            let queuing = &part["limitResponse"]["queuing"];
            let queues = (number(&queuing["queues"], 64) as usize).clamp(1, 1 << 16);
            let hand = (number(&queuing["handSize"], 8) as usize).clamp(1, queues);
            Queuing { queues, hand, length: number(&queuing["queueLengthLimit"], 50) as usize }
        });
        Self {
            name: object::name(given).to_owned(),
            uid: uid(given),
            exempt,
            shares: number(&part["nominalConcurrencyShares"], if exempt { 0 } else { 30 }),
            lendable: number(&part["lendablePercent"], 0).min(100),
            borrowing: part["borrowingLimitPercent"].as_u64().map(|n| n.min(u64::from(u32::MAX)) as u32),
            queuing,
        }
    }

    pub(super) fn mandatory(name: &str) -> Self {
        let exempt = name == "exempt";
        let shares = if exempt { 0 } else { 5 };
        Self {
            name: name.to_owned(),
            uid: uid(&Value::Null),
            exempt,
            shares,
            lendable: 0,
            borrowing: None,
            queuing: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;

    fn schema(rule: Value) -> Schema {
        Schema::parse(&json!({"metadata": {"name": "s"}, "spec": {"rules": [rule]}}))
    }

    fn user(name: &str, group: &str) -> UserInfo {
        UserInfo { name: name.to_owned(), groups: vec![group.to_owned()], ..UserInfo::default() }
    }

    fn info(method: &str, path: &str) -> RequestInfo {
        RequestInfo::parse(&method.parse().unwrap(), path, &Default::default())
    }

    #[test]
    fn a_schema_covers_what_it_says() {
        let leases = schema(json!({
            "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"namespace": "ks", "name": "*"}},
                {"kind": "User", "user": {"name": "boss"}}],
            "resourceRules": [{"verbs": ["get", "update"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
                "namespaces": ["a"]}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/debug/*"]}],
        }));
        let lease = "/apis/coordination.k8s.io/v1/namespaces/a/leases/x";
        for (who, method, path, expect) in [
            ("boss", "GET", lease, true),
            ("system:serviceaccount:ks:any", "PUT", lease, true),
            ("system:serviceaccount:ksx:any", "PUT", lease, false),
            ("other", "GET", lease, false),
            ("boss", "DELETE", lease, false),
            ("boss", "GET", "/apis/coordination.k8s.io/v1/namespaces/b/leases/x", false),
            ("boss", "GET", "/apis/coordination.k8s.io/v1/namespaces/a/leases/x/status", false),
            ("boss", "GET", "/apis/coordination.k8s.io/v1/leases", false),
            ("boss", "GET", "/healthz", true),
            ("boss", "GET", "/healthz/etcd", false),
            ("boss", "GET", "/debug/x", true),
        ] {
            assert_eq!(leases.matches(&user(who, "g"), &info(method, path)), expect, "{who} {method} {path}");
        }
        let all = Schema::mandatory("exempt", 1, &["system:masters"]);
        assert!(all.matches(&user("a", "system:masters"), &info("GET", "/api/v1/nodes")));
        assert!(!all.matches(&user("a", "g"), &info("GET", "/api/v1/nodes")));
    }

    #[test]
    fn flows_are_told_apart_as_said() {
        let by = |method: &str| {
            let spec = json!({"distinguisherMethod": {"type": method}});
            let schema = Schema::parse(&json!({"metadata": {"name": "s"}, "spec": spec}));
            schema.flow("u", &info("GET", "/api/v1/namespaces/n/pods")).to_owned()
        };
        assert_eq!([by("ByUser"), by("ByNamespace"), by("")], ["u", "n", ""]);
    }
}
