//! Which requests rules and selectors are about; for policies, their bindings and webhooks alike.

use kybern_apimachinery::selector::LabelSelector;
use kybern_apimachinery::{Gvk, Gvr, Value, object};

use crate::tree::{list, text};

/// What matching looks at of a request.
pub(crate) struct Subject<'a> {
    pub operation: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub object: Option<&'a Value>,
    pub old: Option<&'a Value>,
    /// The resources by which the object can be reached, and its kinds there: the request's own first.
    pub equivalents: &'a [(Gvr, Gvk)],
}

/// What a rule was found to be about: the request's own resource, or an equivalent.
pub(crate) type Match = (Gvr, Gvk);

impl Subject<'_> {
    fn own(&self) -> &Match {
        &self.equivalents[0]
    }

    fn is_namespace(&self) -> bool {
        let gvr = &self.own().0;
        gvr.group.is_empty() && gvr.version == "v1" && gvr.resource == "namespaces"
    }
}

/// Whether `MatchResources` choose the request, and as what. Labels of namespaces are asked for by name.
pub(crate) fn matches(
    resources: &Value,
    subject: &Subject<'_>,
    namespace_labels: &dyn Fn(&str) -> Option<Value>,
) -> Result<Option<Match>, String> {
    let in_namespace = namespace_selected(&resources["namespaceSelector"], subject, namespace_labels);
    if let Ok(false) = in_namespace {
        return Ok(None);
    }
    let selected = object_selected(&resources["objectSelector"], subject);
    if let Ok(false) = selected {
        return Ok(None);
    }
    let equivalent = text(resources, "matchPolicy") == "Equivalent";
    if any_rule(list(resources, "excludeResourceRules"), equivalent, subject).is_some() {
        return Ok(None);
    }
    let rules = list(resources, "resourceRules");
    let found = if rules.is_empty() { Some(subject.own().clone()) } else { any_rule(rules, equivalent, subject) };
    let Some(found) = found else { return Ok(None) };
    in_namespace?;
    selected?;
    Ok(Some(found))
}

/// Objects outside of namespaces are chosen by any selector of namespaces; a namespace is chosen by its own labels.
pub(crate) fn namespace_selected(
    selector: &Value,
    subject: &Subject<'_>,
    labels: &dyn Fn(&str) -> Option<Value>,
) -> Result<bool, String> {
    let is_namespace = subject.own().0.resource == "namespaces";
    if subject.namespace.is_empty() && !is_namespace {
        return Ok(true);
    }
    let selector = parse(selector)?;
    if selector.is_everything() {
        return Ok(true);
    }
    if is_namespace && subject.subresource.is_empty() && matches!(subject.operation, "CREATE" | "UPDATE") {
        return Ok(subject.object.is_some_and(|o| selector.matches_map(object::labels(o))));
    }
    let name = if subject.namespace.is_empty() { subject.name } else { subject.namespace };
    let found = labels(name).ok_or_else(|| format!("namespaces {name:?} not found"))?;
    Ok(selector.matches_map(found.as_object()))
}

/// By the labels of the object as it is going to be, or as it was.
pub(crate) fn object_selected(selector: &Value, subject: &Subject<'_>) -> Result<bool, String> {
    let selector = parse(selector)?;
    let chosen = |o: &Value| selector.matches_map(object::labels(o));
    Ok(selector.is_everything() || subject.object.is_some_and(chosen) || subject.old.is_some_and(chosen))
}

fn parse(selector: &Value) -> Result<LabelSelector, String> {
    if selector.is_null() { Ok(LabelSelector::everything()) } else { LabelSelector::from_object(selector) }
}

/// The first resource that a rule is about: the request's own, or else an equivalent where those count, too.
pub(crate) fn any_rule(rules: &[Value], equivalent: bool, subject: &Subject<'_>) -> Option<Match> {
    let own = subject.own();
    if rules.iter().any(|rule| is_about(rule, &own.0, subject) && is_named(rule, subject)) {
        return Some(own.clone());
    }
    if !equivalent {
        return None;
    }
    rules.iter().filter(|rule| is_named(rule, subject)).find_map(|rule| {
        subject.equivalents[1..].iter().find(|(resource, _)| is_about(rule, resource, subject)).cloned()
    })
}

fn is_named(rule: &Value, subject: &Subject<'_>) -> bool {
    let names = list(rule, "resourceNames");
    names.is_empty() || names.iter().any(|name| name == subject.name)
}

fn is_about(rule: &Value, resource: &Gvr, subject: &Subject<'_>) -> bool {
    let has = |field: &str, value: &str| list(rule, field).iter().any(|v| v == "*" || v == value);
    let in_scope = match text(rule, "scope") {
        "Namespaced" => !subject.is_namespace() && !subject.namespace.is_empty(),
        "Cluster" => subject.is_namespace() || subject.namespace.is_empty(),
        _ => true,
    };
    in_scope
        && has("operations", subject.operation)
        && has("apiGroups", &resource.group)
        && has("apiVersions", &resource.version)
        && list(rule, "resources").iter().filter_map(Value::as_str).any(|whole| {
            let (name, sub) = whole.split_once('/').unwrap_or((whole, ""));
            (name == "*" || name == resource.resource) && (sub == "*" || sub == subject.subresource)
        })
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;

    fn subject<'a>(equivalents: &'a [Match], object: Option<&'a Value>) -> Subject<'a> {
        Subject { operation: "CREATE", subresource: "", namespace: "a", name: "web", object, old: None, equivalents }
    }

    fn deployments() -> Vec<Match> {
        ["v1", "v1beta1"]
            .map(|version| (Gvr::new("apps", version, "deployments"), Gvk::new("apps", version, "Deployment")))
            .into()
    }

    fn rule(version: &str) -> Value {
        json!({"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": [version], "resources": ["deployments"]})
    }

    #[test]
    fn an_equivalent_resource_is_found_where_it_counts() {
        let equivalents = deployments();
        let subject = subject(&equivalents, None);
        let labels = |_: &str| None;
        for (version, policy, found) in
            [("v1", "Exact", Some("v1")), ("v1beta1", "Exact", None), ("v1beta1", "Equivalent", Some("v1beta1"))]
        {
            let resources = json!({"matchPolicy": policy, "resourceRules": [rule(version)]});
            let matched = matches(&resources, &subject, &labels).unwrap().map(|(resource, _)| resource.version);
            assert_eq!(matched.as_deref(), found, "{version} {policy}");
        }
    }

    #[test]
    fn rules_name_operations_scopes_subresources_and_objects() {
        let equivalents = deployments();
        let labels = |_: &str| None;
        let check = |subject: &Subject<'_>, field: &str, value: Value| {
            let mut rule = rule("*");
            rule[field] = value;
            matches(&json!({"resourceRules": [rule]}), subject, &labels).unwrap().is_some()
        };
        let mut subject = subject(&equivalents, None);
        assert!(check(&subject, "operations", json!(["*"])));
        assert!(!check(&subject, "operations", json!(["DELETE"])));
        assert!(check(&subject, "scope", json!("Namespaced")));
        assert!(!check(&subject, "scope", json!("Cluster")));
        assert!(check(&subject, "resources", json!(["*"])));
        assert!(!check(&subject, "resources", json!(["pods"])));
        assert!(check(&subject, "resourceNames", json!(["other", "web"])));
        assert!(!check(&subject, "resourceNames", json!(["other"])));
        subject.subresource = "scale";
        assert!(!check(&subject, "resources", json!(["*"])));
        assert!(check(&subject, "resources", json!(["deployments/scale"])));
        assert!(check(&subject, "resources", json!(["*/*"])));
    }

    #[test]
    fn what_is_excluded_does_not_match() {
        let equivalents = deployments();
        let subject = subject(&equivalents, None);
        let labels = |_: &str| None;
        let resources = json!({
            "matchPolicy": "Equivalent", "resourceRules": [rule("v1")], "excludeResourceRules": [rule("v1beta1")],
        });
        assert_eq!(matches(&resources, &subject, &labels).unwrap(), None);
    }

    #[test]
    fn selectors_look_at_the_namespace_and_at_both_objects() {
        let equivalents = deployments();
        let (new, old) = (json!({"metadata": {"labels": {"a": "1"}}}), json!({"metadata": {"labels": {"a": "2"}}}));
        let mut subject = subject(&equivalents, Some(&new));
        let labels = |name: &str| (name == "a").then(|| json!({"team": "x"}));
        let check = |subject: &Subject<'_>, field: &str, key: &str, value: &str| {
            let resources = json!({"resourceRules": [rule("v1")], field: {"matchLabels": {key: value}}});
            matches(&resources, subject, &labels).map(|found| found.is_some())
        };
        assert_eq!(check(&subject, "objectSelector", "a", "2"), Ok(false));
        assert_eq!(check(&subject, "objectSelector", "a", "1"), Ok(true));
        subject.old = Some(&old);
        assert_eq!(check(&subject, "objectSelector", "a", "2"), Ok(true));
        assert_eq!(check(&subject, "namespaceSelector", "team", "x"), Ok(true));
        assert_eq!(check(&subject, "namespaceSelector", "team", "y"), Ok(false));
        subject.namespace = "gone";
        assert_eq!(check(&subject, "namespaceSelector", "team", "x"), Err("namespaces \"gone\" not found".to_owned()));
        // A request that no rule is about fails on nothing.
        subject.operation = "DELETE";
        assert_eq!(check(&subject, "namespaceSelector", "team", "x"), Ok(false));
    }
}
