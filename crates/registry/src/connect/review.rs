//! Reviews: who is this, and may they?

use std::sync::Arc;

use http::Response;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::selector::FieldSelector;
use kybern_apimachinery::time::{Clock, to_rfc3339};
use kybern_apimachinery::{ApiError, GroupKind, Value, json, object};
use kybern_apiserver::access::{Attributes, Authorizer, Decision, UserInfo};
use kybern_apiserver::connect::{ConnectRequest, Connector, Objects};
use kybern_apiserver::{Body, BoxFuture};
use kybern_auth::MASTERS;
use kybern_auth::authn::BearerTokens;
use kybern_auth::authz::rbac::{Rbac, Rule};

use super::exchange::{created, read_object};
use crate::tree::{has, list, map, text};

type Answer<'a> = BoxFuture<'a, Result<Response<Body>, ApiError>>;

/// `UserInfo` as JSON.
fn user_value(user: &UserInfo) -> Value {
    let mut value = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        value["uid"] = user.uid.clone().into();
    }
    if !user.extra.is_empty() {
        value["extra"] = json!(user.extra);
    }
    value
}

fn strings(value: &Value, field: &str) -> Vec<String> {
    list(value, field).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

pub(super) struct TokenReview {
    pub(super) tokens: Arc<BearerTokens>,
}

impl Connector for TokenReview {
    fn connect<'a>(&'a self, _: &'a dyn Objects, request: ConnectRequest) -> Answer<'a> {
        Box::pin(async move {
            let mut review = read_object(request.request).await?;
            let token = object::str_at(&review, &["spec", "token"]).to_owned();
            if token.is_empty() {
                return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
            }
            let audiences = strings(&review["spec"], "audiences");
            review["status"] = match self.tokens.judge(&token, &audiences).await {
                Ok(Some((user, audiences))) => {
                    json!({"authenticated": true, "user": user_value(&user), "audiences": audiences})
                }
                Ok(None) => json!({"user": {}}),
                Err(cause) => json!({"user": {}, "error": cause}),
            };
            Ok(created(&review))
        })
    }
}

pub(super) struct SelfSubjectReview {
    pub(super) clock: Arc<dyn Clock>,
}

impl Connector for SelfSubjectReview {
    fn connect<'a>(&'a self, _: &'a dyn Objects, request: ConnectRequest) -> Answer<'a> {
        Box::pin(async move {
            let mut review = read_object(request.request).await?;
            object::set(&mut review, &["metadata", "creationTimestamp"], to_rfc3339(self.clock.now()));
            review["status"] = json!({"userInfo": user_value(&request.user)});
            Ok(created(&review))
        })
    }
}

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
            let attributes =
                attributes(&review, own, (self.scope == Scope::Local).then_some(request.namespace.as_str()))?;
            review["status"] = match self.authorizer.decide(&attributes).await {
                Decision::Allow => json!({"allowed": true}),
                Decision::Deny(reason) => with_reason(json!({"allowed": false, "denied": true}), reason),
                Decision::NoOpinion(reason) => with_reason(json!({"allowed": false}), reason),
                Decision::Error { text, deny: true } => {
                    json!({"allowed": false, "denied": true, "evaluationError": text})
                }
                Decision::Error { text, deny: false } => json!({"allowed": false, "evaluationError": text}),
            };
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

fn attributes(review: &Value, own: Option<&UserInfo>, local: Option<&str>) -> Result<Attributes, ApiError> {
    let (spec, path) = (&review["spec"], FieldPath::new("spec"));
    let mut errors = Vec::new();
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    match (has(spec, "resourceAttributes"), has(spec, "nonResourceAttributes")) {
        (true, true) => errors.push(FieldError::invalid(
            &path.child("nonResourceAttributes"),
            other.clone(),
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
    if let Some(namespace) = local
        && text(resource, "namespace") != namespace
    {
        let detail = format!("must match metadata.namespace: {namespace}");
        errors.push(FieldError::invalid(
            &path.child("resourceAttributes").child("namespace"),
            text(resource, "namespace"),
            detail,
        ));
    }
    if !errors.is_empty() {
        let kind = GroupKind::new("authorization.k8s.io", object::kind(review));
        return Err(ApiError::invalid(&kind, "", &errors));
    }
    let user = own.cloned().unwrap_or_else(|| UserInfo {
        name: text(spec, "user").to_owned(),
        uid: text(spec, "uid").to_owned(),
        groups: strings(spec, "groups"),
        extra: map(spec, "extra").map(|(k, _)| (k.clone(), strings(&spec["extra"], k))).collect(),
    });
    let part = |field: &str| text(resource, field).to_owned();
    Ok(if has(spec, "resourceAttributes") {
        Attributes {
            user,
            verb: part("verb"),
            resource_request: true,
            group: part("group"),
            version: part("version"),
            resource: part("resource"),
            subresource: part("subresource"),
            namespace: part("namespace"),
            name: part("name"),
            field_selector: field_selector(resource),
            ..Attributes::default()
        }
    } else {
        Attributes {
            user,
            verb: text(other, "verb").to_owned(),
            path: text(other, "path").to_owned(),
            ..Attributes::default()
        }
    })
}

/// What a review says that a request selects by fields; a malformed selector is none, which grants less.
fn field_selector(resource: &Value) -> FieldSelector {
    let selector = &resource["fieldSelector"];
    let raw = FieldSelector::parse(text(selector, "rawSelector")).unwrap_or_default();
    let term = |requirement: &Value| {
        let key = text(requirement, "key").to_owned();
        match (text(requirement, "operator"), list(requirement, "values")) {
            ("In", [Value::String(value)]) => Some((key, value.clone(), true)),
            ("NotIn", [Value::String(value)]) => Some((key, value.clone(), false)),
            _ => None,
        }
    };
    let terms = list(selector, "requirements").iter().filter_map(term);
    FieldSelector { terms: raw.terms.into_iter().chain(terms).collect() }
}

/// `kubectl auth can-i --list`.
pub(super) struct RulesReview {
    pub(super) rbac: Option<Arc<Rbac>>,
}

impl Connector for RulesReview {
    fn connect<'a>(&'a self, _: &'a dyn Objects, request: ConnectRequest) -> Answer<'a> {
        Box::pin(async move {
            let mut review = read_object(request.request).await?;
            let namespace = object::str_at(&review, &["spec", "namespace"]).to_owned();
            if namespace.is_empty() {
                return Err(ApiError::bad_request("no namespace on request"));
            }
            let mut rules = self.rbac.as_ref().map(|r| r.rules_for(&request.user, &namespace)).unwrap_or_default();
            if request.user.in_group(MASTERS) {
                let all = || vec!["*".to_owned()];
                rules.push(Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() });
                rules.push(Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() });
            }
            let (urls, resources): (Vec<&Rule>, Vec<&Rule>) =
                rules.iter().partition(|r| !r.non_resource_urls.is_empty());
            let values = |rules: Vec<&Rule>| rules.into_iter().map(Rule::to_value).collect::<Vec<_>>();
            let incomplete = self.rbac.is_none();
            review["status"] =
                json!({"resourceRules": values(resources), "nonResourceRules": values(urls), "incomplete": incomplete});
            Ok(created(&review))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_asks_one_question() {
        let ask = |spec: Value, local: Option<&str>| {
            attributes(&json!({"kind": "SubjectAccessReview", "spec": spec}), None, local)
        };
        let pods = json!({"verb": "get", "resource": "pods", "namespace": "a"});
        let good = ask(json!({"user": "u", "resourceAttributes": pods, "extra": {"k": ["v"]}}), Some("a")).unwrap();
        assert_eq!((good.user.name.as_str(), good.resource.as_str()), ("u", "pods"));
        assert_eq!(good.user.extra["k"], ["v"]);
        let mut own = pods.clone();
        own["fieldSelector"] = json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n"]}]});
        let selected = ask(json!({"user": "u", "resourceAttributes": own}), None).unwrap().field_selector;
        assert_eq!(selected.exact("spec.nodeName"), Some("n"));
        assert!(ask(json!({"user": "u", "resourceAttributes": pods}), Some("b")).is_err());
        assert!(ask(json!({"resourceAttributes": pods}), None).is_err(), "nobody");
        assert!(ask(json!({"user": "u"}), None).is_err(), "nothing");
        assert_eq!(
            ask(json!({"user": "u", "nonResourceAttributes": {"path": "/x", "verb": "get"}}), None).unwrap().path,
            "/x"
        );
    }
}
