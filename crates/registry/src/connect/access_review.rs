//! Access reviews: may they?

use std::sync::Arc;

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::selector::{FieldSelector, LabelSelector, Operator, Requirement};
use kybern_apimachinery::validation::{label_key, label_value};
use kybern_apimachinery::{ApiError, GroupKind, Value, json};
use kybern_apiserver::access::{Attributes, Authorizer, Decision, UserInfo};
use kybern_apiserver::connect::{ConnectRequest, Connector, Objects};

use super::exchange::{created, read_object};
use super::review::{Answer, strings};
use crate::tree::{has, list, map, text};

/// Whose access is asked about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Subject,
    Local,
    Own,
}

pub(super) struct AccessReview {
    pub(super) authorizer: Arc<dyn Authorizer>,
    pub(super) scope: Scope,
}

impl Connector for AccessReview {
    fn connect<'a>(&'a self, _: &'a dyn Objects, request: ConnectRequest) -> Answer<'a> {
        Box::pin(async move {
            let mut review = read_object(request.request).await?;
            let own = (self.scope == Scope::Own).then_some(&request.user);
            let local = (self.scope == Scope::Local).then_some(request.namespace.as_str());
            let (attributes, ignored) = attributes(&review, own, local)?;
            review["status"] = match self.authorizer.decide(&attributes).await {
                Decision::Allow(reason) => {
                    with_reason(json!({"allowed": true}), reason.as_deref().unwrap_or("").to_owned())
                }
                Decision::Deny(reason) => with_reason(json!({"allowed": false, "denied": true}), reason),
                Decision::NoOpinion(reason) => with_reason(json!({"allowed": false}), reason),
                Decision::Error { text, deny: true } => {
                    json!({"allowed": false, "denied": true, "evaluationError": text})
                }
                Decision::Error { text, deny: false } => json!({"allowed": false, "evaluationError": text}),
            };
            if !ignored.is_empty() {
                let status = &mut review["status"];
                let told = status["evaluationError"].as_str().map(str::to_owned).into_iter().chain(ignored);
                status["evaluationError"] = told.collect::<Vec<_>>().join("; ").into();
            }
            Ok(created(&review))
        })
    }
}

fn with_reason(mut status: Value, reason: String) -> Value {
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    status
}

/// What is asked for, and what of it is not understood, which asks for more than is wanted.
fn attributes(
    review: &Value,
    own: Option<&UserInfo>,
    local: Option<&str>,
) -> Result<(Attributes, Vec<String>), ApiError> {
    let (spec, path) = (&review["spec"], FieldPath::new("spec"));
    let mut errors = Vec::new();
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    match (has(spec, "resourceAttributes"), has(spec, "nonResourceAttributes")) {
        (true, true) => errors.push(FieldError::invalid(
            &path.child("nonResourceAttributes"),
            shown(other),
            "cannot be specified in combination with resourceAttributes",
        )),
        (false, false) => errors.push(FieldError::invalid(
            &path.child("resourceAttributes"),
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    if own.is_none() && text(spec, "user").is_empty() && list(spec, "groups").is_empty() {
        errors.push(FieldError::invalid(&path.child("user"), "", "at least one of user or group must be specified"));
    }
    selectors(&mut errors, &path.child("resourceAttributes"), resource);
    let mut metadata = review["metadata"].clone();
    if let Some(fields) = metadata.as_object_mut() {
        // The namespace was compared with the request's already.
        fields.retain(|field, value| !matches!(field.as_str(), "managedFields" | "namespace") && !is_empty(value));
    }
    if !is_empty(&metadata) {
        let detail = if local.is_some() { "must be empty except for namespace" } else { "must be empty" };
        errors.push(FieldError::invalid(&FieldPath::new("metadata"), metadata, detail));
    }
    if let Some(namespace) = local {
        if has(spec, "resourceAttributes") && text(resource, "namespace") != namespace {
            let path = path.child("resourceAttributes").child("namespace");
            errors.push(FieldError::invalid(&path, text(resource, "namespace"), "must match metadata.namespace"));
        }
        if has(spec, "nonResourceAttributes") {
            let detail = "disallowed on this kind of request";
            errors.push(FieldError::invalid(&path.child("nonResourceAttributes"), shown(other), detail));
        }
    }
    if !errors.is_empty() {
        // Upstream does not say which review it was.
        return Err(ApiError::invalid(&GroupKind::new("authorization.k8s.io", ""), "", &errors));
    }
    let user = own.cloned().unwrap_or_else(|| UserInfo {
        name: text(spec, "user").to_owned(),
        uid: text(spec, "uid").to_owned(),
        groups: strings(spec, "groups"),
        extra: map(spec, "extra").map(|(k, _)| (k.clone(), strings(&spec["extra"], k))).collect(),
    });
    if !has(spec, "resourceAttributes") {
        let (verb, path) = (text(other, "verb").to_owned(), text(other, "path").to_owned());
        return Ok((Attributes { user, verb, path, ..Attributes::default() }, Vec::new()));
    }
    let part = |field: &str| text(resource, field).to_owned();
    let version = Some(part("version")).filter(|v| !v.is_empty()).unwrap_or_else(|| "*".to_owned());
    let mut ignored = Vec::new();
    let attributes = Attributes {
        user,
        verb: part("verb"),
        resource_request: true,
        group: part("group"),
        version,
        resource: part("resource"),
        subresource: part("subresource"),
        namespace: part("namespace"),
        name: part("name"),
        field_selector: field_selector(&resource["fieldSelector"], &mut ignored),
        label_selector: label_selector(&resource["labelSelector"], &mut ignored),
        ..Attributes::default()
    };
    Ok((attributes, ignored))
}

/// As upstream shows what is asked of no resource.
fn shown(other: &Value) -> Value {
    json!({"Path": text(other, "path"), "Verb": text(other, "verb")})
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(_) => false,
    }
}

/// Both selectors, as far as they must make sense: operators may be of a later version.
fn selectors(errors: &mut Vec<FieldError>, path: &FieldPath, resource: &Value) {
    for field in ["fieldSelector", "labelSelector"] {
        let (selector, path) = (&resource[field], path.child(field));
        if selector.is_null() {
            continue;
        }
        let (raw, requirements) = (text(selector, "rawSelector"), list(selector, "requirements"));
        if !raw.is_empty() && !requirements.is_empty() {
            let detail = "may not specified at the same time as requirements";
            errors.push(FieldError::invalid(&path.child("rawSelector"), raw, detail));
        }
        if raw.is_empty() && requirements.is_empty() {
            let detail = format!("when {path} is specified, requirements or rawSelector is required");
            errors.push(FieldError::required(&path.child("requirements"), detail));
        }
        for (index, requirement) in requirements.iter().enumerate() {
            requirement_errors(errors, &path.child("requirements").index(index), requirement, field == "labelSelector");
        }
    }
}

fn requirement_errors(errors: &mut Vec<FieldError>, path: &FieldPath, requirement: &Value, of_labels: bool) {
    let (key, values) = (text(requirement, "key"), list(requirement, "values"));
    if !of_labels && key.is_empty() {
        errors.push(FieldError::required(&path.child("key"), "must be specified"));
    }
    match text(requirement, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(&path.child("values"), detail));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&path.child("values"), detail));
        }
        _ => {}
    }
    if of_labels {
        errors.extend(label_key(key).into_iter().map(|e| FieldError::invalid(&path.child("key"), key, e)));
        for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
            let path = path.child("values").index(index);
            errors.extend(label_value(value).into_iter().map(|e| FieldError::invalid(&path, value, e)));
        }
    }
}

/// Notes what of a selector was left out.
fn note(ignored: &mut Vec<String>, field: &str, understood: bool, left_out: bool) {
    if left_out {
        let partially = if understood { "partially " } else { "" };
        ignored.push(format!("spec.resourceAttributes.{field} {partially}ignored due to parse error"));
    }
}

fn field_selector(selector: &Value, ignored: &mut Vec<String>) -> FieldSelector {
    let raw = text(selector, "rawSelector");
    if !raw.is_empty() {
        let parsed = FieldSelector::parse(raw);
        note(ignored, "fieldSelector", false, parsed.is_err());
        return parsed.unwrap_or_default();
    }
    let term = |requirement: &Value| {
        let key = text(requirement, "key").to_owned();
        match (text(requirement, "operator"), list(requirement, "values")) {
            ("In", [Value::String(value)]) => Some((key, value.clone(), true)),
            ("NotIn", [Value::String(value)]) => Some((key, value.clone(), false)),
            _ => None,
        }
    };
    let requirements = list(selector, "requirements");
    let terms: Vec<_> = requirements.iter().filter_map(term).collect();
    note(ignored, "fieldSelector", !terms.is_empty(), terms.len() < requirements.len());
    FieldSelector { terms }
}

fn label_selector(selector: &Value, ignored: &mut Vec<String>) -> LabelSelector {
    let raw = text(selector, "rawSelector");
    if !raw.is_empty() {
        let parsed = LabelSelector::parse(raw);
        note(ignored, "labelSelector", false, parsed.is_err());
        return parsed.unwrap_or_default();
    }
    let requirement = |requirement: &Value| {
        let operator = match text(requirement, "operator") {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            _ => return None,
        };
        Some(Requirement { key: text(requirement, "key").to_owned(), operator, values: strings(requirement, "values") })
    };
    let given = list(selector, "requirements");
    let requirements: Vec<Requirement> = given.iter().filter_map(requirement).collect();
    note(ignored, "labelSelector", !requirements.is_empty(), requirements.len() < given.len());
    LabelSelector { requirements, nothing: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Asked = Result<(Attributes, Vec<String>), ApiError>;

    fn ask(spec: Value, local: Option<&str>) -> Asked {
        attributes(&json!({"kind": "SubjectAccessReview", "spec": spec}), None, local)
    }

    fn pods(change: Value) -> Value {
        let mut pods = json!({"verb": "get", "resource": "pods", "namespace": "a"});
        for (field, value) in change.as_object().unwrap() {
            pods[field] = value.clone();
        }
        json!({"user": "u", "resourceAttributes": pods, "extra": {"k": ["v"]}})
    }

    #[test]
    fn a_review_asks_one_question() {
        let (good, ignored) = ask(pods(json!({})), Some("a")).unwrap();
        assert_eq!((good.user.name.as_str(), good.resource.as_str(), good.version.as_str()), ("u", "pods", "*"));
        assert_eq!((&good.user.extra["k"][..], ignored.len()), (&["v".to_owned()][..], 0));
        let refused = |asked: Asked| asked.unwrap_err().message().to_owned();
        assert!(refused(ask(pods(json!({})), Some("b"))).contains("must match metadata.namespace"));
        let path = || json!({"user": "u", "nonResourceAttributes": {"path": "/x", "verb": "get"}});
        assert_eq!(ask(path(), None).unwrap().0.path, "/x");
        assert!(refused(ask(path(), Some("b"))).contains("disallowed on this kind of request"));
        assert!(refused(ask(json!({"user": "u"}), None)).contains("exactly one of"), "nothing");
        let nobody = json!({"resourceAttributes": {"verb": "get", "resource": "pods"}});
        assert!(refused(ask(nobody, None)).contains("at least one of user or group"));
    }

    #[test]
    fn selectors_narrow_what_is_asked() {
        let own = json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n"]}]});
        let labels = json!({"rawSelector": "app=web,!old"});
        let (asked, ignored) = ask(pods(json!({"fieldSelector": own, "labelSelector": labels})), None).unwrap();
        assert_eq!(asked.field_selector.exact("spec.nodeName"), Some("n"));
        assert_eq!((asked.label_selector.requirements.len(), ignored.len()), (2, 0));
        // What is not understood is left out, and told.
        let two = json!({"requirements": [
            {"key": "a", "operator": "In", "values": ["n"]}, {"key": "b", "operator": "In", "values": ["n", "m"]},
        ]});
        let unknown = json!({"requirements": [{"key": "a", "operator": "Near", "values": ["n"]}]});
        let (asked, ignored) = ask(pods(json!({"fieldSelector": two, "labelSelector": unknown})), None).unwrap();
        assert_eq!((asked.field_selector.terms.len(), asked.label_selector.requirements.len()), (1, 0));
        assert_eq!(
            ignored,
            [
                "spec.resourceAttributes.fieldSelector partially ignored due to parse error",
                "spec.resourceAttributes.labelSelector ignored due to parse error",
            ]
        );
    }

    #[test]
    fn a_selector_must_make_sense() {
        for (field, selector, expect) in [
            (
                "fieldSelector",
                json!({}),
                "fieldSelector.requirements: Required value: when spec.resourceAttributes.fieldSelector",
            ),
            (
                "fieldSelector",
                json!({"requirements": [{"operator": "In", "values": ["a"]}]}),
                "key: Required value: must be",
            ),
            (
                "labelSelector",
                json!({"requirements": [{"key": "a", "operator": "In"}]}),
                "values: Required value: must be",
            ),
            (
                "labelSelector",
                json!({"requirements": [{"key": "a", "operator": "Exists", "values": ["b"]}]}),
                "values: Forbidden",
            ),
            (
                "labelSelector",
                json!({"requirements": [{"key": "a b", "operator": "Exists"}]}),
                "key: Invalid value: \"a b\"",
            ),
            (
                "labelSelector",
                json!({"rawSelector": "a", "requirements": [{"key": "a", "operator": "Exists"}]}),
                "rawSelector: Invalid value: \"a\": may not specified at the same time as requirements",
            ),
        ] {
            let told = ask(pods(json!({(field): selector})), None).unwrap_err();
            assert!(told.message().contains(expect), "{}", told.message());
        }
    }
}
