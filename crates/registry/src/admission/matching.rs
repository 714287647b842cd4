//! Which requests rules and selectors are about: of webhooks, of policies and of what binds them.

use std::sync::OnceLock;

use kybern_apimachinery::selector::LabelSelector;
use kybern_apimachinery::{ApiError, GroupResource, Gvr, Value, object};
use kybern_apiserver::admission::{AdmissionRequest, Equivalent, Operation};

use super::namespaces::NamespaceObjects;
use crate::tree::{list, text};

/// What requests a rule is about.
#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    scope: Scope,
    /// Empty: whatever the name.
    names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    All,
    Namespaced,
    Cluster,
}

/// What rules look at.
#[derive(Clone, Copy)]
struct Subject<'a> {
    operation: &'a str,
    resource: &'a Gvr,
    subresource: &'a str,
    /// A namespace's own name for itself.
    namespace: &'a str,
    name: &'a str,
}

impl Rule {
    fn compile(rule: &Value) -> Self {
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
            names: words("resourceNames"),
        }
    }

    /// Whether it may be about another version of the same resource.
    fn could_match(&self, subject: &Subject<'_>) -> bool {
        self.operations.iter().any(|operation| operation == "*" || operation == subject.operation)
            && self.names_resource(subject)
    }

    fn names_resource(&self, subject: &Subject<'_>) -> bool {
        let name = &subject.resource.resource;
        self.resources
            .iter()
            .any(|(resource, sub)| (resource == "*" || resource == name) && (sub == "*" || sub == subject.subresource))
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
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
            && (self.names.is_empty() || self.names.iter().any(|name| name == subject.name))
            && has(&self.operations, subject.operation)
            && has(&self.groups, group)
            && has(&self.versions, version)
            && self.names_resource(subject)
    }
}

/// What chooses requests, compiled.
#[derive(Debug)]
pub(super) struct Criteria {
    /// None: whatever the resource.
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Whether rules about other versions of a resource count, too.
    equivalent: bool,
    namespace_selector: Result<LabelSelector, String>,
    object_selector: Result<LabelSelector, String>,
    /// Whether everything is chosen where there is no rule.
    all_without_rules: bool,
}

impl Criteria {
    /// `MatchResources`, of a policy or a binding.
    pub(super) fn of_resources(resources: &Value) -> Self {
        Self { all_without_rules: true, ..Self::new(resources, "resourceRules") }
    }

    pub(super) fn of_webhook(webhook: &Value) -> Self {
        Self::new(webhook, "rules")
    }

    fn new(of: &Value, rules: &str) -> Self {
        let compile = |field: &str| list(of, field).iter().map(Rule::compile).collect();
        let selector = |field: &str| match &of[field] {
            Value::Null => Ok(LabelSelector::everything()),
            selector => LabelSelector::from_object(selector),
        };
        Self {
            rules: compile(rules),
            excluded: compile("excludeResourceRules"),
            equivalent: text(of, "matchPolicy") != "Exact",
            namespace_selector: selector("namespaceSelector"),
            object_selector: selector("objectSelector"),
            all_without_rules: false,
        }
    }
}

/// A request that criteria are looked at for.
pub(super) struct Candidate<'a> {
    request: &'a AdmissionRequest<'a>,
    namespaces: &'a NamespaceObjects,
    own: Equivalent,
    /// Itself first.
    equivalents: OnceLock<Vec<Equivalent>>,
}

impl<'a> Candidate<'a> {
    pub(super) fn new(request: &'a AdmissionRequest<'a>, namespaces: &'a NamespaceObjects) -> Self {
        let own = Equivalent { resource: request.resource.gvr.clone(), kind: request.kind.clone() };
        Self { request, namespaces, own, equivalents: OnceLock::new() }
    }

    /// As what a webhook or a policy is to see the request; `None` where it is not about it.
    pub(super) fn matches(&self, criteria: &Criteria, object: Option<&Value>) -> Result<Option<&Equivalent>, ApiError> {
        if self.about(criteria, &criteria.excluded).is_some() {
            return Ok(None);
        }
        let found = if criteria.rules.is_empty() && criteria.all_without_rules {
            Some(&self.own)
        } else {
            self.about(criteria, &criteria.rules)
        };
        let Some(found) = found else { return Ok(None) };
        // A selector that says no counts before one that cannot be asked.
        let in_namespace = self.namespace_selected(criteria, object);
        let selected = self.object_selected(criteria, object);
        if matches!(in_namespace, Ok(false)) || matches!(selected, Ok(false)) {
            return Ok(None);
        }
        in_namespace?;
        selected?;
        Ok(Some(found))
    }

    /// The first resource that one of the rules is about: the request's own, or else an equivalent where those count.
    fn about(&self, criteria: &Criteria, rules: &[Rule]) -> Option<&Equivalent> {
        let request = self.request;
        let subject = Subject {
            operation: request.operation.as_str(),
            resource: &request.resource.gvr,
            subresource: request.subresource,
            namespace: request.namespace,
            name: request.name,
        };
        if rules.iter().any(|rule| rule.matches(&subject)) {
            return Some(&self.own);
        }
        // Other versions differ in nothing else that rules look at.
        if !criteria.equivalent || !rules.iter().any(|rule| rule.could_match(&subject)) {
            return None;
        }
        let others = &self.equivalents.get_or_init(|| request.equivalents())[1..];
        let about = |rule: &Rule| others.iter().find(|e| rule.matches(&Subject { resource: &e.resource, ..subject }));
        rules.iter().find_map(about)
    }

    /// What is in no namespace is chosen by any selector; a namespace is chosen by its own labels, as they are going to be.
    fn namespace_selected(&self, criteria: &Criteria, object: Option<&Value>) -> Result<bool, ApiError> {
        let request = self.request;
        let is_namespace = request.resource.gvr.resource == "namespaces";
        if request.namespace.is_empty() && !is_namespace {
            return Ok(true);
        }
        let selector = parsed(&criteria.namespace_selector)?;
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
        match self.namespaces.get(name) {
            Some(namespace) => Ok(selector.matches_map(object::labels(&namespace))),
            None => Err(ApiError::not_found(&GroupResource::new("", "namespaces"), name)),
        }
    }

    /// By the labels of the object as it is going to be, or as it was.
    fn object_selected(&self, criteria: &Criteria, object: Option<&Value>) -> Result<bool, ApiError> {
        let selector = parsed(&criteria.object_selector)?;
        let chosen = |o: &Value| selector.matches_map(object::labels(o));
        Ok(selector.is_everything() || object.is_some_and(chosen) || self.request.old.is_some_and(chosen))
    }
}

fn parsed(selector: &Result<LabelSelector, String>) -> Result<&LabelSelector, ApiError> {
    selector.as_ref().map_err(ApiError::internal)
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
        let subject =
            Subject { operation: words[0], resource: &resource, subresource, namespace: &namespace, name: "web" };
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
        check(rule(json!({"resourceNames": ["other", "web"]})), create, true);
        check(rule(json!({"resourceNames": ["other"]})), create, false);
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
