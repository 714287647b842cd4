//! MutatingAdmissionPolicy and its binding.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Value, json};
use kybern_apiserver::strategy::Strategy;
use kybern_cel::Env;

use super::admission_policy::{bound, constraints, default_resources, param_kind, variables};
use super::admission_rules::{FAILURE_POLICIES, compiles, match_conditions};
use crate::admission::policy::{Environments, Returns};
use crate::tree::{default, has, list, text};
use crate::validation::{Errors, format};

/// There is nothing to be changed where something goes.
const OPERATIONS: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
const PATCH_TYPES: [&str; 2] = ["ApplyConfiguration", "JSONPatch"];
const REINVOCATION_POLICIES: [&str; 2] = ["IfNeeded", "Never"];

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MutatingAdmissionPolicy;

impl Strategy for MutatingAdmissionPolicy {
    fn default(&self, policy: &mut Value) {
        if !policy["spec"].is_object() {
            policy["spec"] = json!({});
        }
        default(&mut policy["spec"], "failurePolicy", "Fail");
        default_resources(&mut policy["spec"], "matchConstraints");
    }

    fn validate_create(&self, policy: &Value) -> Vec<FieldError> {
        policy_spec(&policy["spec"], true)
    }

    fn validate_update(&self, policy: &Value, old: &Value) -> Vec<FieldError> {
        let changed = ["paramKind", "matchConditions"].iter().any(|f| policy["spec"].get(*f) != old["spec"].get(*f));
        policy_spec(&policy["spec"], changed)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn policy_spec(spec: &Value, with_conditions: bool) -> Errors {
    let (mut out, path) = (Vec::new(), FieldPath::new("spec"));
    format::one_of(&mut out, &path.child("failurePolicy"), text(spec, "failurePolicy"), &FAILURE_POLICIES);
    if has(spec, "paramKind") {
        param_kind(&mut out, &path.child("paramKind"), &spec["paramKind"]);
    }
    constraints(&mut out, &path.child("matchConstraints"), spec);
    operations(&mut out, &path.child("matchConstraints"), &spec["matchConstraints"]);
    if with_conditions {
        let conditions = list(spec, "matchConditions");
        match_conditions(&mut out, &path.child("matchConditions"), conditions, has(spec, "paramKind"));
    }
    let environments = Environments::of(spec);
    variables(&mut out, &path.child("variables"), spec, &environments);
    let mutations = list(spec, "mutations");
    if mutations.is_empty() {
        out.push(FieldError::required(&path.child("mutations"), "mutations must contain at least one item"));
    }
    let env = environments.patches();
    for (i, item) in mutations.iter().enumerate() {
        mutation(&mut out, &path.child("mutations").index(i), item, &env);
    }
    let (reinvocation, path) = (text(spec, "reinvocationPolicy"), path.child("reinvocationPolicy"));
    if reinvocation.is_empty() {
        out.push(FieldError::required(&path, ""));
    } else {
        format::one_of(&mut out, &path, reinvocation, &REINVOCATION_POLICIES);
    }
    out
}

fn operations(out: &mut Errors, path: &FieldPath, resources: &Value) {
    let path = path.child("resourceRules").child("operations");
    for operation in list(resources, "resourceRules").iter().flat_map(|rule| list(rule, "operations")) {
        format::one_of(out, &path, operation.as_str().unwrap_or(""), &OPERATIONS);
    }
}

fn mutation(out: &mut Errors, path: &FieldPath, mutation: &Value, env: &Env) {
    let patch_type = text(mutation, "patchType");
    let (own, other, returns) = match patch_type {
        "" => return out.push(FieldError::required(&path.child("patchType"), "")),
        "JSONPatch" => ("jsonPatch", "applyConfiguration", Returns::Patches),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch", Returns::Object),
        _ => return format::one_of(out, &path.child("patchType"), patch_type, &PATCH_TYPES),
    };
    if has(mutation, own) {
        let (expression, path) = (text(&mutation[own], "expression").trim(), path.child(own).child("expression"));
        if expression.is_empty() {
            out.push(FieldError::required(&path, ""));
        } else {
            compiles(out, &path, env, expression, returns);
        }
    } else {
        let detail = format!("must be specified when patchType is {patch_type}");
        out.push(FieldError::required(&path.child(own), detail));
    }
    if has(mutation, other) {
        let detail = format!("must not be specified when patchType is {patch_type}");
        out.push(FieldError::invalid(&path.child(other), format!("{{{other}}}"), detail));
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MutatingAdmissionPolicyBinding;

impl Strategy for MutatingAdmissionPolicyBinding {
    fn default(&self, binding: &mut Value) {
        if binding["spec"].is_object() {
            default_resources(&mut binding["spec"], "matchResources");
        }
    }

    fn validate(&self, binding: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &binding["spec"], FieldPath::new("spec"));
        bound(&mut out, &path, spec);
        operations(&mut out, &path.child("matchResources"), &spec["matchResources"]);
        out
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(change: Value) -> Vec<String> {
        let rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        let mut policy = json!({"metadata": {"name": "p"}, "spec": {
            "matchConstraints": {"resourceRules": [rule]}, "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{}"}}],
        }});
        for (field, value) in change.as_object().unwrap() {
            policy["spec"][field] = value.clone();
        }
        MutatingAdmissionPolicy.default(&mut policy);
        MutatingAdmissionPolicy.validate_create(&policy).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_policy_says_what_it_changes_and_how() {
        assert_eq!(faults(json!({})), Vec::<String>::new());
        let mutations = |value: Value| faults(json!({"mutations": value}));
        assert_eq!(mutations(json!([])), ["spec.mutations: Required value: mutations must contain at least one item"]);
        let patch = |expression: &str| json!([{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}]);
        assert!(mutations(patch("[JSONPatch{op: 'add', path: '/a', value: Object.spec{}}]")).is_empty());
        assert_eq!(
            mutations(patch("'x'")),
            [
                "spec.mutations[0].jsonPatch.expression: Invalid value: \"'x'\": must evaluate to list(JSONPatch) but got string"
            ]
        );
        let apply =
            json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "{}"}, "jsonPatch": {}}]);
        assert_eq!(
            mutations(apply),
            [
                "spec.mutations[0].applyConfiguration.expression: Invalid value: \"{}\": must evaluate to Object but got map(dyn, dyn)",
                "spec.mutations[0].jsonPatch: Invalid value: \"{jsonPatch}\": must not be specified when patchType is ApplyConfiguration",
            ]
        );
        assert_eq!(
            mutations(json!([{"patchType": "Merge"}, {}, {"patchType": "JSONPatch"}])),
            [
                "spec.mutations[0].patchType: Unsupported value: \"Merge\": supported values: \"ApplyConfiguration\", \"JSONPatch\"",
                "spec.mutations[1].patchType: Required value",
                "spec.mutations[2].jsonPatch: Required value: must be specified when patchType is JSONPatch",
            ]
        );
        assert_eq!(faults(json!({"reinvocationPolicy": ""})), ["spec.reinvocationPolicy: Required value"]);
        let delete = json!({"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        assert_eq!(
            faults(json!({"matchConstraints": {"resourceRules": [delete]}})),
            [
                "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\""
            ]
        );
    }
}
