//! ValidatingAdmissionPolicy and its binding, and what MutatingAdmissionPolicy has in common with them.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1035_label, dns1123_subdomain, label_key};
use kybern_apimachinery::{Value, json, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};
use kybern_cel::Env;

use super::admission_rules::{self, FAILURE_POLICIES, MATCH_POLICIES, compiles};
use super::status::reset_status;
use crate::admission::policy::{Environments, Returns};
use crate::tree::{default, has, list, text};
use crate::validation::{Errors, conditions, format, meta};

const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
const MAX_ANNOTATIONS: usize = 20;
const MAX_ANNOTATION_EXPRESSION: usize = 5 << 10;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ValidatingAdmissionPolicy;

pub(super) fn default_resources(owner: &mut Value, field: &str) {
    if has(owner, field) {
        let resources = &mut owner[field];
        admission_rules::default_matching(resources);
        for rules in ["resourceRules", "excludeResourceRules"] {
            admission_rules::default_rules(resources, rules);
        }
    }
}

impl Strategy for ValidatingAdmissionPolicy {
    fn default(&self, policy: &mut Value) {
        if !policy["spec"].is_object() {
            policy["spec"] = json!({});
        }
        default(&mut policy["spec"], "failurePolicy", "Fail");
        default_resources(&mut policy["spec"], "matchConstraints");
    }

    fn prepare_for_create(&self, _: &StrategyContext<'_>, policy: &mut Value) {
        reset_status(policy);
    }

    fn validate_create(&self, policy: &Value) -> Vec<FieldError> {
        policy_spec(object::name(policy), &policy["spec"], true)
    }

    fn validate_update(&self, policy: &Value, old: &Value) -> Vec<FieldError> {
        let changed = ["paramKind", "matchConditions"].iter().any(|f| policy["spec"].get(*f) != old["spec"].get(*f));
        policy_spec(object::name(policy), &policy["spec"], changed)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// `status` of a policy.
pub(super) fn validate_status(policy: &Value, _old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    let (status, path) = (&policy["status"], FieldPath::new("status"));
    for (i, warning) in list(&status["typeChecking"], "expressionWarnings").iter().enumerate() {
        let path = path.child("typeChecking").child("expressionWarnings").index(i);
        for field in ["warning", "fieldRef"] {
            if text(warning, field).is_empty() {
                out.push(FieldError::required(&path.child(field), ""));
            }
        }
    }
    conditions::validate(&mut out, &path, status);
    out
}

fn policy_spec(name: &str, spec: &Value, with_conditions: bool) -> Errors {
    let (mut out, path) = (Vec::new(), FieldPath::new("spec"));
    format::one_of(&mut out, &path.child("failurePolicy"), text(spec, "failurePolicy"), &FAILURE_POLICIES);
    if has(spec, "paramKind") {
        param_kind(&mut out, &path.child("paramKind"), &spec["paramKind"]);
    }
    constraints(&mut out, &path.child("matchConstraints"), spec);
    if with_conditions {
        let conditions = list(spec, "matchConditions");
        let params = has(spec, "paramKind");
        admission_rules::match_conditions(&mut out, &path.child("matchConditions"), conditions, params);
    }
    let environments = Environments::of(spec);
    variables(&mut out, &path.child("variables"), spec, &environments);
    let (validations, annotations) = (list(spec, "validations"), list(spec, "auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        for field in ["validations", "auditAnnotations"] {
            let detail = "validations or auditAnnotations must contain at least one item";
            out.push(FieldError::required(&path.child(field), detail));
        }
        return out;
    }
    let messages = environments.messages();
    for (i, item) in validations.iter().enumerate() {
        validation(&mut out, &path.child("validations").index(i), item, &environments.all, &messages);
    }
    audit_annotations(&mut out, &path.child("auditAnnotations"), name, annotations, &environments.all);
    out
}

/// At least one rule, to know of what type objects are.
pub(super) fn constraints(out: &mut Errors, path: &FieldPath, spec: &Value) {
    if !has(spec, "matchConstraints") {
        out.push(FieldError::required(path, ""));
        return;
    }
    match_resources(out, path, &spec["matchConstraints"]);
    if list(&spec["matchConstraints"], "resourceRules").is_empty() {
        out.push(FieldError::required(&path.child("resourceRules"), ""));
    }
}

pub(super) fn variables(out: &mut Errors, path: &FieldPath, spec: &Value, environments: &Environments) {
    for (i, variable) in list(spec, "variables").iter().enumerate() {
        let (path, name) = (path.index(i), text(variable, "name"));
        if name.trim().is_empty() {
            out.push(FieldError::required(&path.child("name"), "name is not specified"));
        } else if !kybern_cel::is_identifier(name) {
            out.push(FieldError::invalid(&path.child("name"), name, "must be a valid CEL identifier"));
        }
        if text(variable, "expression").trim().is_empty() {
            out.push(FieldError::required(&path.child("expression"), "expression is not specified"));
        } else if let Some(error) = environments.variables.error(i) {
            let path = path.child("expression");
            out.push(FieldError::invalid(&path, text(variable, "expression"), error));
        }
    }
}

fn validation(out: &mut Errors, path: &FieldPath, validation: &Value, env: &Env, messages: &Env) {
    let expression = text(validation, "expression");
    if expression.trim().is_empty() {
        out.push(FieldError::required(&path.child("expression"), "expression is not specified"));
    } else {
        compiles(out, &path.child("expression"), env, expression, Returns::Bool);
    }
    for field in ["messageExpression", "message"] {
        let (value, path) = (text(validation, field), path.child(field));
        if !value.is_empty() && value.trim().is_empty() {
            out.push(FieldError::invalid(&path, value, "must be non-empty if specified"));
        } else if field == "messageExpression" {
            if !value.is_empty() {
                compiles(out, &path, messages, value, Returns::Text);
            }
        } else if field == "message" && value.trim().contains(['\n', '\r']) {
            out.push(FieldError::invalid(&path, value, "must not contain line breaks"));
        }
    }
    if has(validation, "reason") {
        format::one_of(out, &path.child("reason"), text(validation, "reason"), &REASONS);
    }
}

fn audit_annotations(out: &mut Errors, path: &FieldPath, policy: &str, annotations: &[Value], env: &Env) {
    if annotations.len() > MAX_ANNOTATIONS {
        let detail = format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations");
        out.push(FieldError::invalid(path, annotations.to_vec(), detail));
    }
    for (i, annotation) in annotations.iter().enumerate() {
        let (path, key) = (path.index(i), text(annotation, "key"));
        if policy.is_empty() {
            out.push(FieldError::invalid(&path.child("key"), key, "requires metadata.name be non-empty"));
        } else {
            let whole = format!("{policy}/{key}");
            format::invalid(out, &path.child("key"), &whole, label_key(&whole));
        }
        let expression = text(annotation, "valueExpression").trim();
        if expression.is_empty() {
            out.push(FieldError::required(&path.child("valueExpression"), "valueExpression is not specified"));
        } else if expression.len() > MAX_ANNOTATION_EXPRESSION {
            let detail = format!("must not exceed {MAX_ANNOTATION_EXPRESSION} bytes in length");
            out.push(FieldError::required(&path.child("valueExpression"), detail));
        } else {
            compiles(out, &path.child("valueExpression"), env, expression, Returns::TextOrNull);
        }
        if annotations[..i].iter().any(|earlier| text(earlier, "key") == key) {
            out.push(FieldError::duplicate(&path.child("key"), key));
        }
    }
}

pub(super) fn param_kind(out: &mut Errors, path: &FieldPath, kind: &Value) {
    let (version, version_path) = (text(kind, "apiVersion"), path.child("apiVersion"));
    if version.is_empty() {
        out.push(FieldError::required(&version_path, ""));
    } else if version.matches('/').count() > 1 {
        let detail = format!("unexpected GroupVersion string: {version}");
        out.push(FieldError::invalid(&version_path, version, detail));
    } else {
        let (group, number) = version.split_once('/').unwrap_or(("", version));
        if !group.is_empty() && !dns1123_subdomain(group).is_empty() {
            out.push(FieldError::invalid(&version_path, group, dns1123_subdomain(group).join(",")));
        }
        if number.is_empty() {
            out.push(FieldError::invalid(&version_path, version, "version must be specified"));
        } else if !dns1035_label(number).is_empty() {
            out.push(FieldError::invalid(&version_path, number, dns1035_label(number).join(",")));
        }
    }
    let (name, path) = (text(kind, "kind"), path.child("kind"));
    let faults = dns1035_label(&name.to_lowercase());
    if name.is_empty() {
        out.push(FieldError::required(&path, ""));
    } else if !faults.is_empty() {
        let detail = format!("may have mixed case, but should otherwise match: {}", faults.join(","));
        out.push(FieldError::invalid(&path, name, detail));
    }
}

fn match_resources(out: &mut Errors, path: &FieldPath, resources: &Value) {
    format::one_of(out, &path.child("matchPolicy"), text(resources, "matchPolicy"), &MATCH_POLICIES);
    for field in ["namespaceSelector", "objectSelector"] {
        meta::selector(out, &path.child(field), &resources[field]);
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in list(resources, field).iter().enumerate() {
            admission_rules::named_rule(out, &path.child(field).index(i), rule);
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ValidatingAdmissionPolicyBinding;

impl Strategy for ValidatingAdmissionPolicyBinding {
    fn default(&self, binding: &mut Value) {
        if binding["spec"].is_object() {
            default_resources(&mut binding["spec"], "matchResources");
        }
    }

    fn validate(&self, binding: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &binding["spec"], FieldPath::new("spec"));
        bound(&mut out, &path, spec);
        let (actions, path) = (list(spec, "validationActions"), path.child("validationActions"));
        for (i, action) in actions.iter().enumerate() {
            let text = action.as_str().unwrap_or("");
            format::one_of(&mut out, &path.index(i), text, &ACTIONS);
            if actions[..i].contains(action) {
                out.push(FieldError::duplicate(&path.index(i), text));
            }
        }
        if ["Deny", "Warn"].iter().all(|both| actions.iter().any(|action| action == both)) {
            let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
            out.push(FieldError::invalid(&path, actions.to_vec(), detail));
        }
        if actions.is_empty() {
            out.push(FieldError::required(&path, "at least one validation action is required"));
        }
        out
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// What bindings of all sorts say.
pub(super) fn bound(out: &mut Errors, path: &FieldPath, spec: &Value) {
    format::required_name(out, &path.child("policyName"), text(spec, "policyName"), dns1123_subdomain);
    if has(spec, "paramRef") {
        param_ref(out, &path.child("paramRef"), &spec["paramRef"]);
    }
    if has(spec, "matchResources") {
        match_resources(out, &path.child("matchResources"), &spec["matchResources"]);
    }
}

fn param_ref(out: &mut Errors, path: &FieldPath, reference: &Value) {
    let (named, selected) = (!text(reference, "name").is_empty(), has(reference, "selector"));
    if named {
        let name = text(reference, "name");
        let faults = crate::validation::names::path_segment(name);
        format::invalid(out, &path.child("name"), name, faults);
        if selected {
            let detail = "name and selector are mutually exclusive";
            out.push(FieldError::forbidden(&path.child("name"), detail));
        }
    }
    if selected {
        meta::selector(out, &path.child("selector"), &reference["selector"]);
        if named {
            let detail = "name and selector are mutually exclusive";
            out.push(FieldError::forbidden(&path.child("selector"), detail));
        }
    }
    if !named && !selected {
        out.push(FieldError::required(path, "one of name or selector must be specified"));
    }
    let (action, path) = (text(reference, "parameterNotFoundAction"), path.child("parameterNotFoundAction"));
    if action.is_empty() {
        out.push(FieldError::required(&path, ""));
    } else {
        format::one_of(out, &path, action, &["Deny", "Allow"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_matches_and_validates() {
        let rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        let mut policy = json!({
            "metadata": {"name": "p"},
            "spec": {"matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": "true"}]},
        });
        ValidatingAdmissionPolicy.default(&mut policy);
        assert!(ValidatingAdmissionPolicy.validate_create(&policy).is_empty());
        let mut empty = json!({"metadata": {"name": "p"}});
        ValidatingAdmissionPolicy.default(&mut empty);
        assert_eq!(ValidatingAdmissionPolicy.validate_create(&empty).len(), 3);
    }

    #[test]
    fn a_binding_acts() {
        let texts = |actions: Value| {
            let binding = json!({"spec": {"policyName": "p", "validationActions": actions}});
            ValidatingAdmissionPolicyBinding.validate(&binding).len()
        };
        assert_eq!((texts(json!(["Deny"])), texts(json!([])), texts(json!(["Deny", "Warn"]))), (0, 1, 1));
    }
}
