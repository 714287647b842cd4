//! Where a policy's expressions do not fit the types of what it is about; upstream's
//! `admission/plugin/policy/validating/typechecking.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kybern_apimachinery::{Gvk, Value};
use kybern_cel::{CompileError, DeclType, Env, Type, admission};

use super::{openapi, types};

/// Of how many kinds a rule is checked.
const MAX_KINDS: usize = 10;

/// The documents of groups and versions that are not built in.
pub(super) type Documents = BTreeMap<(String, String), Value>;

/// The groups and versions whose documents a check needs.
pub(super) fn documents(spec: &Value) -> BTreeSet<(String, String)> {
    let builtin = kybern_schema::builtin().resources();
    let is_other = |group: &str, version: &str| {
        !group.is_empty() && !builtin.iter().any(|row| row.group == group && row.version == version)
    };
    let mut needed: BTreeSet<_> =
        param_kind(&spec["paramKind"]).map(|kind| (kind.group, kind.version)).into_iter().collect();
    for rule in list(&spec["matchConstraints"], "resourceRules") {
        let Some((groups, versions, _)) = named(rule) else { continue };
        needed.extend(groups.iter().flat_map(|g| versions.iter().map(move |v| ((*g).to_owned(), (*v).to_owned()))));
    }
    needed.retain(|(group, version)| is_other(group, version));
    needed.into_iter().take(MAX_KINDS).collect()
}

/// The fields with what is wrong in them.
pub(super) fn check(spec: &Value, documents: &Documents) -> Vec<(String, String)> {
    let kinds: Vec<(Gvk, Env)> = environments(spec, documents);
    let mut warnings = Vec::new();
    for (i, validation) in list(spec, "validations").enumerate() {
        for field in ["expression", "messageExpression"] {
            let expression = text(validation, field);
            if field == "messageExpression" && expression.is_empty() {
                continue;
            }
            let faults =
                kinds.iter().filter_map(|(kind, env)| Some(format!("{}: {}\n", shown(kind), fault(env, expression)?)));
            let faults: Vec<String> = faults.collect();
            if !faults.is_empty() {
                warnings.push((format!("spec.validations[{i}].{field}"), faults.join("\n")));
            }
        }
    }
    warnings
}

fn fault(env: &Env, expression: &str) -> Option<String> {
    match env.compile(expression) {
        Err(CompileError::Issues(issues)) => Some(issues.to_string()),
        // Nothing is evaluated here.
        Err(CompileError::Instantiation(_)) | Ok(_) => None,
    }
}

fn environments(spec: &Value, documents: &Documents) -> Vec<(Gvk, Env)> {
    let described = |kind: &Gvk| {
        let document = documents.get(&(kind.group.clone(), kind.version.clone()));
        types::of_kind(kind).or_else(|| openapi::declared(document?, kind))
    };
    let params = param_kind(&spec["paramKind"]).and_then(|kind| described(&kind)).map(Arc::new);
    let kinds = kinds_to_check(spec, documents).into_iter();
    let typed = kinds.filter_map(|kind| described(&kind).map(|of| (kind, Arc::new(of))));
    typed.map(|(kind, of)| (kind, environment(spec, &of, params.as_ref()))).collect()
}

fn environment(spec: &Value, object: &Arc<DeclType>, params: Option<&Arc<DeclType>>) -> Env {
    let mut env = Env::kubernetes()
        .with_declared("object", object.clone())
        .with_declared("oldObject", object.clone())
        .with_declared("namespaceObject", Arc::new(admission::namespace_type()))
        .with_declared("request", Arc::new(admission::request_type()))
        .with_variable("authorizer", Type::object("kubernetes.authorization.Authorizer"));
    if let Some(params) = params {
        env = env.with_declared("params", params.clone());
    }
    env = env.with_lazy("variables", []);
    for variable in list(spec, "variables") {
        let compiled = env.compile(text(variable, "expression"));
        let of = compiled.map_or(Type::Dyn, |program| program.result_type().of_variable());
        env = env.with_lazy_field("variables", text(variable, "name"), of);
    }
    env
}

/// The kinds that the rules name, in order. What is named by a wildcard is not looked for.
fn kinds_to_check(spec: &Value, documents: &Documents) -> BTreeSet<Gvk> {
    let mut kinds = BTreeSet::new();
    for rule in list(&spec["matchConstraints"], "resourceRules") {
        let Some((groups, versions, resources)) = named(rule) else { continue };
        let mut found = 0;
        for (group, version) in groups.iter().flat_map(|group| versions.iter().map(move |version| (group, version))) {
            for resource in &resources {
                // The core group has no name: to upstream's mapper that is any group.
                let rows = kybern_schema::builtin().resources().iter().filter(|row| {
                    (group.is_empty() || row.group == *group) && row.version == *version && row.resource == *resource
                });
                let document = documents.get(&((*group).to_owned(), (*version).to_owned()));
                let other = document.and_then(|document| openapi::kind_of(document, resource));
                for kind in rows.map(|row| row.gvk()).chain(other) {
                    kinds.insert(kind);
                    found += 1;
                    if found == MAX_KINDS {
                        return kinds;
                    }
                }
            }
        }
    }
    kinds
}

/// The groups, versions and resources that a rule names, in order; `None` where a wildcard stands for the first two.
fn named(rule: &Value) -> Option<(Vec<&str>, Vec<&str>, Vec<&str>)> {
    let words = |field: &str| -> Vec<&str> {
        let mut words: Vec<&str> = list(rule, field).filter_map(Value::as_str).collect();
        words.sort_unstable();
        words
    };
    let (groups, versions) = (words("apiGroups"), words("apiVersions"));
    let resources = words("resources").into_iter().filter(|word| !word.contains(['*', '/'])).collect();
    let is_wild = groups.iter().chain(&versions).any(|word| word.contains('*'));
    (!is_wild).then_some((groups, versions, resources))
}

fn param_kind(kind: &Value) -> Option<Gvk> {
    let version = text(kind, "apiVersion");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    kind.is_object().then(|| Gvk::new(group, version, text(kind, "kind")))
}

fn shown(kind: &Gvk) -> String {
    format!("{}/{}, Kind={}", kind.group, kind.version, kind.kind)
}

fn list<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    object[field].as_array().into_iter().flatten()
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;

    fn warnings(groups: &[&str], resources: &[&str], expressions: &[&str]) -> Vec<(String, String)> {
        let validations: Vec<Value> = expressions.iter().map(|e| json!({"expression": e})).collect();
        let spec = json!({
            "matchConstraints": {"resourceRules": [{"apiGroups": groups, "apiVersions": ["v1"], "resources": resources}]},
            "validations": validations, "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "variables": [{"name": "v", "expression": "object.spec.nope"}, {"name": "n", "expression": "1"}],
        });
        assert_eq!(documents(&spec).into_iter().filter(|(group, _)| group != "nonsense.io").count(), 0);
        check(&spec, &Documents::new())
    }

    /// As upstream's controller said.
    #[test]
    fn what_does_not_fit_is_told_in_upstreams_words() {
        let said = |expression: &str, text: &str| {
            let got = warnings(&["apps"], &["deployments"], &[expression]);
            let expect: Vec<_> = (!text.is_empty())
                .then(|| {
                    (
                        "spec.validations[0].expression".to_owned(),
                        format!("apps/v1, Kind=Deployment: ERROR: <input>:{text}\n"),
                    )
                })
                .into_iter()
                .collect();
            assert_eq!(got, expect, "{expression}");
        };
        said(
            "object.spec.replicas > '1' ",
            "1:22: found no matching overload for '_>_' applied to '(int, string)'\n | object.spec.replicas > '1' \n | .....................^",
        );
        said("object.spec.nope == 1 ", "1:12: undefined field 'nope'\n | object.spec.nope == 1 \n | ...........^");
        said(
            "object.metadata.creationTimestamp == 'x' ",
            "1:35: found no matching overload for '_==_' applied to '(timestamp, string)'\n | object.metadata.creationTimestamp == 'x' \n | ..................................^",
        );
        said(
            "object.spec.template.spec.containers.all(c, c.resources.limits['cpu'] == '1') ",
            "1:56: undefined field 'limits'\n | object.spec.template.spec.containers.all(c, c.resources.limits['cpu'] == '1') \n | .......................................................^",
        );
        said(
            "object.status.replicas.x == 1 ",
            "1:23: type 'int' does not support field selection\n | object.status.replicas.x == 1 \n | ......................^",
        );
        said("params.x == 1 ", "1:7: undefined field 'x'\n | params.x == 1 \n | ......^");
        said(
            "object.metadata.managedFields.all(o, o.fieldsV1.x == 1) ",
            "1:48: undefined field 'x'\n | object.metadata.managedFields.all(o, o.fieldsV1.x == 1) \n | ...............................................^",
        );
        for fine in [
            "object.spec.strategy.rollingUpdate.maxSurge == 1",
            "has(object.metadata.labels.x)",
            "variables.v == 1",
            "variables.n == 1",
            "authorizer.path('/a').check('get').allowed()",
            "object.spec.template.spec.containers.all(c, c.image == 'x')",
        ] {
            said(fine, "");
        }
    }

    #[test]
    fn every_kind_that_is_named_is_looked_at() {
        let got = warnings(
            &["apps", ""],
            &["deployments", "pods", "services", "pods/status"],
            &["object.spec.replicas > 1 "],
        );
        let of = |kind: &str| {
            format!(
                "{kind}: ERROR: <input>:1:12: undefined field 'replicas'\n | object.spec.replicas > 1 \n | ...........^\n"
            )
        };
        let text = [of("/v1, Kind=Pod"), of("/v1, Kind=Service")].join("\n");
        assert_eq!(got, [("spec.validations[0].expression".to_owned(), text)]);
        assert!(warnings(&["*"], &["deployments"], &["object.spec.nope == 1"]).is_empty());
        assert!(warnings(&["nonsense.io"], &["things"], &["object.spec.nope == 1"]).is_empty());
    }

    #[test]
    fn types_within_themselves_end() {
        let nested = "object.spec.versions.all(v, v.schema.openAPIV3Schema.properties['a'].properties['b'].properties['c'].nope == 1)";
        let got = warnings(&["apiextensions.k8s.io"], &["customresourcedefinitions"], &[nested]);
        assert!(got[0].1.contains("1:69: undefined field 'properties'"), "{got:?}");
        for row in kybern_schema::builtin().resources() {
            assert!(types::of_kind(&row.gvk()).is_some(), "{:?}", row.gvk());
        }
    }
}
