//! Which webhooks a request is for: rules and selectors.

use kybern_apimachinery::selector::LabelSelector;
use kybern_apimachinery::{ApiError, GroupResource, Gvr, Value, object};
use kybern_apiserver::admission::{AdmissionRequest, Equivalent, Operation};

use super::Configurations;
use super::hook::Hook;
use crate::tree::{list, text};

/// What requests a rule is about.
pub(super) struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    scope: Scope,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    Namespaced,
    Cluster,
}

/// What rules look at.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) operation: &'a str,
    pub(super) resource: &'a Gvr,
    pub(super) subresource: &'a str,
    /// A namespace's own name for itself.
    pub(super) namespace: &'a str,
}

impl Rule {
    pub(super) fn compile(rule: &Value) -> Self {
        let words = |field: &str| -> Vec<String> {
            list(rule, field).iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let resources = words("resources").into_iter().map(|whole| match whole.split_once('/') {
            Some((resource, subresource)) => (resource.to_owned(), subresource.to_owned()),
            None => (whole, String::new()),
        });
        Self {
            operations: words("operations"),
            groups: words("apiGroups"),
            versions: words("apiVersions"),
            resources: resources.collect(),
            scope: match text(rule, "scope") {
                "Namespaced" => Scope::Namespaced,
                "Cluster" => Scope::Cluster,
                _ => Scope::All,
            },
        }
    }

    pub(super) fn matches(&self, subject: &Subject<'_>) -> bool {
        let has = |list: &[String], value: &str| list.iter().any(|item| item == "*" || item == value);
        let Gvr { group, version, resource } = subject.resource;
        // A namespace is in none, though its name stands where others have their namespace.
        let is_namespace = group.is_empty() && version == "v1" && resource == "namespaces";
        let namespaced = !is_namespace && !subject.namespace.is_empty();
        let in_scope = match self.scope {
            Scope::All => true,
            Scope::Namespaced => namespaced,
            Scope::Cluster => !namespaced,
        };
        in_scope
            && has(&self.operations, subject.operation)
            && has(&self.groups, group)
            && has(&self.versions, version)
            && self
                .resources
                .iter()
                .any(|(name, sub)| (name == "*" || name == resource) && (sub == "*" || sub == subject.subresource))
    }
}

/// As what a webhook is to see a request: `None` where it is not about it, but for what its conditions say.
pub(super) fn matches(
    hook: &Hook,
    view: &Configurations,
    request: &AdmissionRequest<'_>,
    object: Option<&Value>,
) -> Result<Option<Equivalent>, ApiError> {
    let subject = Subject {
        operation: request.operation.as_str(),
        resource: &request.resource.gvr,
        subresource: request.subresource,
        namespace: request.namespace,
    };
    let found = if hook.rules.iter().any(|rule| rule.matches(&subject)) {
        Equivalent { resource: request.resource.gvr.clone(), kind: request.kind.clone() }
    } else if hook.equivalent {
        let others = request.equivalents();
        let about =
            |rule: &Rule| others[1..].iter().find(|e| rule.matches(&Subject { resource: &e.resource, ..subject }));
        match hook.rules.iter().find_map(about) {
            Some(equivalent) => equivalent.clone(),
            None => return Ok(None),
        }
    } else {
        return Ok(None);
    };
    // A selector that says no counts before one that cannot be asked.
    let in_namespace = namespace_selected(hook, view, request, object);
    let selected = object_selected(hook, request, object);
    if matches!(in_namespace, Ok(false)) || matches!(selected, Ok(false)) {
        return Ok(None);
    }
    in_namespace?;
    selected?;
    Ok(Some(found))
}

fn parsed(selector: &Result<LabelSelector, String>) -> Result<&LabelSelector, ApiError> {
    selector.as_ref().map_err(ApiError::internal)
}

/// What is in no namespace is chosen by any selector; a namespace is chosen by its own labels, as they are going to be.
fn namespace_selected(
    hook: &Hook,
    view: &Configurations,
    request: &AdmissionRequest<'_>,
    object: Option<&Value>,
) -> Result<bool, ApiError> {
    let is_namespace = request.resource.gvr.resource == "namespaces";
    if request.namespace.is_empty() && !is_namespace {
        return Ok(true);
    }
    let selector = parsed(&hook.namespace_selector)?;
    if selector.is_everything() {
        return Ok(true);
    }
    if is_namespace
        && request.subresource.is_empty()
        && matches!(request.operation, Operation::Create | Operation::Update)
    {
        return Ok(object.is_some_and(|o| selector.matches_map(object::labels(o))));
    }
    let name = if request.namespace.is_empty() { request.name } else { request.namespace };
    match view.namespace_labels(name) {
        Some(labels) => Ok(selector.matches_map(labels.as_object())),
        None => Err(ApiError::not_found(&GroupResource::new("", "namespaces"), name)),
    }
}

/// By the labels of the object as it is going to be, or as it was.
fn object_selected(hook: &Hook, request: &AdmissionRequest<'_>, object: Option<&Value>) -> Result<bool, ApiError> {
    let selector = parsed(&hook.object_selector)?;
    let chosen = |o: &Value| selector.matches_map(object::labels(o));
    Ok(selector.is_everything() || object.is_some_and(chosen) || request.old.is_some_and(chosen))
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;

    /// `OPERATION NAMESPACE GROUP/VERSION/RESOURCE[/SUBRESOURCE]`, `-` for no namespace and the core group.
    fn check(rule: Value, request: &str, expect: bool) {
        let words: Vec<&str> = request.split(' ').collect();
        let none = |word: &str| if word == "-" { String::new() } else { word.to_owned() };
        let mut parts = words[2].split('/');
        let mut next = || parts.next().unwrap_or("");
        let resource = Gvr::new(none(next()), next(), next());
        let (subresource, namespace) = (next(), none(words[1]));
        let subject = Subject { operation: words[0], resource: &resource, subresource, namespace: &namespace };
        assert_eq!(Rule::compile(&rule).matches(&subject), expect, "{rule} {request}");
    }

    fn rule(change: Value) -> Value {
        let mut rule = json!({
            "operations": ["CREATE", "UPDATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"],
            "scope": "*",
        });
        for (field, value) in change.as_object().unwrap() {
            rule[field] = value.clone();
        }
        rule
    }

    #[test]
    fn a_rule_names_operations_groups_versions_resources_and_scopes() {
        let create = "CREATE a apps/v1/deployments";
        check(rule(json!({})), create, true);
        check(rule(json!({})), "DELETE a apps/v1/deployments", false);
        check(rule(json!({})), "CREATE a apps/v1beta1/deployments", false);
        check(rule(json!({})), "CREATE a -/v1/deployments", false);
        check(rule(json!({"operations": ["*"]})), "CONNECT a apps/v1/deployments", true);
        check(rule(json!({"apiGroups": ["*"], "apiVersions": ["*"]})), "CREATE a -/v9/deployments", true);
        check(rule(json!({"scope": "Namespaced"})), create, true);
        check(rule(json!({"scope": "Cluster"})), create, false);
        check(rule(json!({"scope": "Cluster"})), "CREATE - apps/v1/deployments", true);
        let namespaces = |scope: &str| rule(json!({"apiGroups": [""], "resources": ["namespaces"], "scope": scope}));
        check(namespaces("Cluster"), "UPDATE a -/v1/namespaces", true);
        check(namespaces("Namespaced"), "UPDATE a -/v1/namespaces", false);
    }

    #[test]
    fn subresources_are_named_for_themselves() {
        for (resources, whole, status, other) in [
            (json!(["*"]), true, false, true),
            (json!(["*/*"]), true, true, true),
            (json!(["deployments/*"]), true, true, false),
            (json!(["*/status"]), false, true, false),
            (json!(["deployments", "deployments/status"]), true, true, false),
        ] {
            let rule = rule(json!({"resources": resources}));
            check(rule.clone(), "UPDATE a apps/v1/deployments", whole);
            check(rule.clone(), "UPDATE a apps/v1/deployments/status", status);
            check(rule, "UPDATE a apps/v1/daemonsets", other);
        }
    }
}
