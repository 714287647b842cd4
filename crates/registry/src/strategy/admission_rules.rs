//! What webhooks and admission policies have in common: rules, match conditions, defaults.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::label_key;
use kybern_apimachinery::{Value, json};

use crate::admission::policy::{Options, Returns, compile, stateless};
use crate::tree::{default, has, list, list_mut, text};
use crate::validation::names::path_segment;
use crate::validation::{Errors, format};

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];
const MAX_CONDITIONS: usize = 64;
pub(super) const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
pub(super) const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];

/// What a webhook or a policy's `matchConstraints` chooses where it does not say.
pub(super) fn default_matching(owner: &mut Value) {
    default(owner, "matchPolicy", "Equivalent");
    default(owner, "namespaceSelector", json!({}));
    default(owner, "objectSelector", json!({}));
}

pub(super) fn default_rules(owner: &mut Value, field: &str) {
    for rule in list_mut(owner, field) {
        if rule.is_null() {
            *rule = json!({});
        }
        default(rule, "scope", "*");
    }
}

fn wildcard_alone(out: &mut Errors, path: &FieldPath, values: &[Value], others: &str) {
    if values.len() > 1 && values.iter().any(|value| value == "*") {
        let detail = format!("if '*' is present, must not specify other {others}");
        out.push(FieldError::invalid(path, values.to_vec(), detail));
    }
}

/// A rule of operations, groups, versions, resources and a scope.
pub(super) fn rule(out: &mut Errors, path: &FieldPath, rule: &Value) {
    for (field, others) in [("operations", "operations"), ("apiGroups", "API groups"), ("apiVersions", "API versions")]
    {
        let (values, path) = (list(rule, field), path.child(field));
        if values.is_empty() {
            out.push(FieldError::required(&path, ""));
        }
        wildcard_alone(out, &path, values, others);
        for (i, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or("");
            match field {
                "operations" => format::one_of(out, &path.index(i), value, &OPERATIONS),
                "apiVersions" if value.is_empty() => out.push(FieldError::required(&path.index(i), "")),
                _ => {}
            }
        }
    }
    resources(out, &path.child("resources"), list(rule, "resources"));
    if has(rule, "scope") {
        format::one_of(out, &path.child("scope"), text(rule, "scope"), &SCOPES);
    }
}

fn resources(out: &mut Errors, path: &FieldPath, resources: &[Value]) {
    if resources.is_empty() {
        out.push(FieldError::required(path, ""));
    }
    let (mut all_subresources, mut all_resources) = (Vec::new(), Vec::new());
    let mut last_is_plain = false;
    for (i, resource) in resources.iter().enumerate() {
        let whole = resource.as_str().unwrap_or("");
        let path = path.index(i);
        let Some((resource, sub)) = whole.split_once('/') else {
            if whole.is_empty() {
                out.push(FieldError::required(&path, ""));
            } else {
                last_is_plain = whole != "*";
            }
            continue;
        };
        if all_subresources.contains(&resource) {
            let detail = format!("if '{resource}/*' is present, must not specify {whole}");
            out.push(FieldError::invalid(&path, whole, detail));
        }
        if all_resources.contains(&sub) {
            let detail = format!("if '*/{sub}' is present, must not specify {whole}");
            out.push(FieldError::invalid(&path, whole, detail));
        }
        if sub == "*" {
            all_subresources.push(resource);
        }
        if resource == "*" {
            all_resources.push(sub);
        }
    }
    let has = |name: &str| resources.iter().any(|resource| resource == name);
    if resources.len() > 1 && has("*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        out.push(FieldError::invalid(path, resources.to_vec(), detail));
    }
    if has("*") && last_is_plain {
        let detail = "if '*' is present, must not specify other resources without subresources";
        out.push(FieldError::invalid(path, resources.to_vec(), detail));
    }
}

/// A rule that may name objects, as policies have them.
pub(super) fn named_rule(out: &mut Errors, path: &FieldPath, named: &Value) {
    let names = list(named, "resourceNames");
    for (i, name) in names.iter().enumerate() {
        let (path, text) = (path.child("resourceNames").index(i), name.as_str().unwrap_or(""));
        format::invalid(out, &path, text, path_segment(text));
        if names[..i].contains(name) {
            out.push(FieldError::duplicate(&path, text));
        }
    }
    rule(out, path, named);
}

/// A complaint where an expression does not compile to what it has to be.
pub(super) fn compiles(out: &mut Errors, path: &FieldPath, env: &kybern_cel::Env, text: &str, returns: Returns) {
    if let Err(error) = compile(env, text, returns) {
        out.push(match error.strip_prefix("program instantiation failed: ") {
            Some(_) => FieldError::internal(path, error),
            None => FieldError::invalid(path, text, error),
        });
    }
}

/// `params` are those of a policy; webhooks have none.
pub(super) fn match_conditions(out: &mut Errors, path: &FieldPath, conditions: &[Value], params: bool) {
    let env = stateless(Options { params, authorizer: true, patches: false });
    if conditions.len() > MAX_CONDITIONS {
        out.push(FieldError::too_many(path, conditions.len(), MAX_CONDITIONS));
    }
    for (i, condition) in conditions.iter().enumerate() {
        let (path, name) = (path.index(i), text(condition, "name"));
        let expression = text(condition, "expression").trim();
        if expression.is_empty() {
            out.push(FieldError::required(&path.child("expression"), ""));
        } else {
            compiles(out, &path.child("expression"), env, expression, Returns::Bool);
        }
        format::required_name(out, &path.child("name"), name, label_key);
        if !name.is_empty() && conditions[..i].iter().any(|earlier| text(earlier, "name") == name) {
            out.push(FieldError::duplicate(&path.child("name"), name));
        }
    }
}
