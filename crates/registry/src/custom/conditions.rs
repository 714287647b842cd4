//! `status.conditions` of a definition, with upstream's reasons and messages. All pure.

use std::collections::HashSet;

use kybern_apimachinery::{Value, json, object, time};

use crate::tree::{list, map, text};

pub(crate) const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
const APPROVAL: &str = "api-approved.kubernetes.io";

/// One condition without its time.
pub(crate) struct Condition {
    pub(crate) kind: &'static str,
    pub(crate) status: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Condition {
    pub(crate) fn new(
        kind: &'static str,
        status: &'static str,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, status, reason, message: message.into() }
    }
}

pub(super) fn find<'a>(definition: &'a Value, kind: &str) -> Option<&'a Value> {
    list(&definition["status"], "conditions").iter().find(|c| text(c, "type") == kind)
}

pub(crate) fn is_true(definition: &Value, kind: &str) -> bool {
    find(definition, kind).is_some_and(|condition| text(condition, "status") == "True")
}

/// Sets a condition; its time changes with its status.
pub(crate) fn set(definition: &mut Value, condition: &Condition, now: jiff::Timestamp) {
    let mut made = json!({
        "type": condition.kind, "status": condition.status, "lastTransitionTime": time::to_rfc3339(now),
        "reason": condition.reason, "message": condition.message,
    });
    let mut all = list(&definition["status"], "conditions").to_vec();
    match all.iter_mut().find(|c| text(c, "type") == condition.kind) {
        Some(old) => {
            if text(old, "status") == condition.status && !text(old, "lastTransitionTime").is_empty() {
                made["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            // What this version does not know of a condition stays.
            if let (Value::Object(old), Value::Object(made)) = (old, made) {
                old.extend(made);
            }
        }
        None => all.push(made),
    }
    object::set(definition, &["status", "conditions"], all);
}

fn remove(definition: &mut Value, kind: &str) {
    let all = list(&definition["status"], "conditions");
    if all.iter().any(|c| text(c, "type") == kind) {
        let kept: Vec<Value> = all.iter().filter(|c| text(c, "type") != kind).cloned().collect();
        object::set(definition, &["status", "conditions"], kept);
    }
}

/// Names that definitions of a group have, or want.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct InUse {
    pub(super) resources: HashSet<String>,
    pub(super) kinds: HashSet<String>,
}

impl InUse {
    /// Those of `spec.names` or `status.acceptedNames`.
    pub(super) fn of(names: &Value) -> Self {
        let fields = |fields: [&str; 2]| fields.map(|field| text(names, field)).into_iter();
        let short = list(names, "shortNames").iter().filter_map(Value::as_str);
        let owned = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        Self {
            resources: fields(["plural", "singular"]).chain(short).filter_map(owned).collect(),
            kinds: fields(["kind", "listKind"]).filter_map(owned).collect(),
        }
    }

    /// Whether some name of it is none of the other's.
    pub(super) fn has_more_than(&self, other: &Self) -> bool {
        !self.resources.is_subset(&other.resources) || !self.kinds.is_subset(&other.kinds)
    }
}

fn taken(name: &str) -> String {
    format!("{name:?} is already in use")
}

/// Grants a definition the names that nobody else has, and says whether it got all.
fn accept_names(definition: &mut Value, in_use: &InUse, now: jiff::Timestamp) {
    let (wanted, granted) = (definition["spec"]["names"].clone(), definition["status"]["acceptedNames"].clone());
    if wanted == granted && find(definition, "NamesAccepted").is_some() {
        return;
    }
    let mut names = if granted.is_object() { granted.clone() } else { json!({}) };
    let mut problem: Option<(&'static str, String)> = None;
    for (field, reason, used) in [
        ("plural", "PluralConflict", &in_use.resources),
        ("singular", "SingularConflict", &in_use.resources),
        ("shortNames", "ShortNamesConflict", &in_use.resources),
        ("kind", "KindConflict", &in_use.kinds),
        ("listKind", "ListKindConflict", &in_use.kinds),
    ] {
        let fault = if field == "shortNames" {
            let own = list(&granted, field);
            let foreign = |name: &&Value| !own.contains(name) && name.as_str().is_some_and(|n| used.contains(n));
            let faults: Vec<String> =
                list(&wanted, field).iter().filter(foreign).map(|n| taken(n.as_str().unwrap_or(""))).collect();
            match faults.as_slice() {
                [] => None,
                [one] => Some(one.clone()),
                more => Some(format!("[{}]", more.join(", "))),
            }
        } else {
            let name = text(&wanted, field);
            (name != text(&granted, field) && used.contains(name)).then(|| taken(name))
        };
        match (fault, wanted.get(field)) {
            (Some(message), _) => problem = Some((reason, message)),
            (None, Some(name)) => names[field] = name.clone(),
            (None, None) => drop(object::remove(&mut names, &[field])),
        }
    }
    match wanted.get("categories") {
        Some(categories) => names["categories"] = categories.clone(),
        None => drop(object::remove(&mut names, &["categories"])),
    }
    object::set(definition, &["status", "acceptedNames"], names);
    let all_granted = problem.is_none();
    let condition = match problem {
        None => Condition::new("NamesAccepted", "True", "NoConflicts", "no conflicts found"),
        Some((reason, message)) => Condition::new("NamesAccepted", "False", reason, message),
    };
    set(definition, &condition, now);
    if !is_true(definition, "Established") {
        let condition = if all_granted {
            Condition::new("Established", "False", "Installing", "the initial names have been accepted")
        } else {
            Condition::new("Established", "False", "NotAccepted", "not all names are accepted")
        };
        set(definition, &condition, now);
    }
}

/// Whether a group belongs to the Kubernetes project, which reviews what is in it.
pub(crate) fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|domain| group == *domain || group.ends_with(&format!(".{domain}")))
}

/// What the annotation of a protected group's definition says: reason, and message.
pub(crate) fn approval(definition: &Value) -> (&'static str, String) {
    let annotations = map(&definition["metadata"], "annotations");
    let value = annotations.filter(|(key, _)| *key == APPROVAL).find_map(|(_, value)| value.as_str());
    match value {
        None | Some("") => (
            "MissingAnnotation",
            format!(
                "protected groups must have approval annotation {APPROVAL:?}, see https://github.com/kubernetes/enhancements/pull/1111"
            ),
        ),
        Some(value) if value.starts_with("unapproved") => ("UnapprovedAnnotation", format!("not approved: {value:?}")),
        Some(value) if is_url(value) => ("ApprovedAnnotation", format!("approved in {value}")),
        Some(_) => (
            "InvalidAnnotation",
            format!(
                "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"
            ),
        ),
    }
}

fn is_url(text: &str) -> bool {
    let host = text.split_once("://").filter(|(scheme, _)| !scheme.is_empty()).map(|(_, rest)| rest);
    host.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
}

fn approve(definition: &mut Value, now: jiff::Timestamp) {
    if !is_protected(text(&definition["spec"], "group")) {
        return;
    }
    let (reason, message) = approval(definition);
    let status = if reason == "ApprovedAnnotation" { "True" } else { "False" };
    let condition = Condition::new("KubernetesAPIApprovalPolicyConformant", status, reason, message);
    let known = find(definition, condition.kind);
    let same = known.is_some_and(|known| {
        text(known, "status") == status
            && text(known, "reason") == reason
            && text(known, "message") == condition.message
    });
    if !same {
        set(definition, &condition, now);
    }
}

/// Everything that a definition's own content decides, all names of others known. `problem` says why it cannot be served;
/// what can is established.
pub(super) fn advance(definition: &mut Value, in_use: &InUse, violations: &str, now: jiff::Timestamp) {
    accept_names(definition, in_use, now);
    if violations.is_empty() {
        remove(definition, "NonStructuralSchema");
    } else if find(definition, "NonStructuralSchema").is_none_or(|c| text(c, "message") != violations) {
        set(definition, &Condition::new("NonStructuralSchema", "True", "Violations", violations), now);
    }
    approve(definition, now);
    if !is_true(definition, "NamesAccepted") || is_true(definition, "Established") || object::is_deleting(definition) {
        return;
    }
    let condition =
        Condition::new("Established", "True", "InitialNamesAccepted", "the initial names have been accepted");
    set(definition, &condition, now);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }

    fn definition(plural: &str, kind: &str, short: &[&str]) -> Value {
        json!({"metadata": {"name": format!("{plural}.ex.io")}, "spec": {"group": "ex.io", "names": {
            "plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List"),
            "shortNames": short}}, "status": {"acceptedNames": {"plural": "", "kind": ""}, "conditions": null}})
    }

    fn told(definition: &Value) -> Vec<String> {
        let show = |c: &Value| {
            format!("{}={} {}: {}", text(c, "type"), text(c, "status"), text(c, "reason"), text(c, "message"))
        };
        list(&definition["status"], "conditions").iter().map(show).collect()
    }

    #[test]
    fn what_has_its_names_is_established() {
        let mut foo = definition("foos", "Foo", &["f"]);
        advance(&mut foo, &InUse::default(), "", now());
        assert_eq!(
            told(&foo),
            [
                "NamesAccepted=True NoConflicts: no conflicts found",
                "Established=True InitialNamesAccepted: the initial names have been accepted"
            ]
        );
        assert_eq!(foo["status"]["acceptedNames"], foo["spec"]["names"]);
        let again = foo.clone();
        advance(&mut foo, &InUse::default(), "", now() + jiff::SignedDuration::from_secs(9));
        assert_eq!(foo, again, "nothing changes twice");
    }

    #[test]
    fn a_name_is_had_by_one() {
        let mut first = definition("foos", "Foo", &["f", "x"]);
        advance(&mut first, &InUse::default(), "", now());
        let mut in_use = InUse::of(&first["status"]["acceptedNames"]);
        let mut second = definition("bars", "Foo", &["f"]);
        second["spec"]["names"]["singular"] = "bar".into();
        advance(&mut second, &in_use, "", now());
        // The last conflict is told; what is free is granted nevertheless.
        assert_eq!(
            told(&second),
            [
                "NamesAccepted=False ListKindConflict: \"FooList\" is already in use",
                "Established=False NotAccepted: not all names are accepted"
            ]
        );
        assert_eq!(second["status"]["acceptedNames"], json!({"plural": "bars", "singular": "bar", "kind": ""}));
        advance(&mut second, &InUse::default(), "", now());
        assert!(is_true(&second, "Established") && is_true(&second, "NamesAccepted"));
        // Who is established stays so, whatever names it asks for later.
        second["spec"]["names"]["shortNames"] = json!(["x", "y"]);
        in_use.resources.insert("y".to_owned());
        advance(&mut second, &in_use, "", now());
        assert!(is_true(&second, "Established") && !is_true(&second, "NamesAccepted"));
        assert!(told(&second)[0].ends_with("ShortNamesConflict: [\"x\" is already in use, \"y\" is already in use]"));
    }

    #[test]
    fn protected_groups_are_approved() {
        let mut foo = definition("foos", "Foo", &[]);
        foo["spec"]["group"] = "sig.k8s.io".into();
        for (value, reason) in [
            ("", "MissingAnnotation"),
            ("unapproved, for now", "UnapprovedAnnotation"),
            ("https://github.com/kubernetes/kubernetes/pull/1", "ApprovedAnnotation"),
            ("yes", "InvalidAnnotation"),
        ] {
            foo["metadata"]["annotations"] = json!({APPROVAL: value});
            advance(&mut foo, &InUse::default(), "", now());
            let condition = find(&foo, "KubernetesAPIApprovalPolicyConformant").unwrap();
            assert_eq!(text(condition, "reason"), reason);
        }
        assert!(is_protected("k8s.io") && !is_protected("ak8s.io") && is_protected("a.kubernetes.io"));
    }
}
