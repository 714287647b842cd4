//! Reviews: who is this, and may they?

use std::sync::Arc;

use http::Response;
use kybern_apimachinery::time::{Clock, to_rfc3339};
use kybern_apimachinery::{ApiError, Value, json, object};
use kybern_apiserver::access::UserInfo;
use kybern_apiserver::connect::{ConnectRequest, Connector, Objects};
use kybern_apiserver::{Body, BoxFuture};
use kybern_auth::MASTERS;
use kybern_auth::authn::BearerTokens;
use kybern_auth::authz::rbac::{Rbac, Rule};

use super::exchange::{created, read_object};
use crate::tree::list;

pub(super) type Answer<'a> = BoxFuture<'a, Result<Response<Body>, ApiError>>;

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

pub(super) fn strings(value: &Value, field: &str) -> Vec<String> {
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
