//! `--authorization-policy-file`: one policy a line, each of which allows something (`pkg/auth/authorizer/abac`).

use kybern_apimachinery::Value;
use kybern_apiserver::access::{Answer, Attributes, Authorizer, Decision};
use serde::Deserialize;

use crate::AUTHENTICATED;

const API_VERSION: &str = "abac.authorization.kubernetes.io/v1beta1";

/// Why a file of policies cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error reading policy file, line {line}: {text}: {cause}")]
pub struct PolicyError {
    pub line: usize,
    pub text: String,
    pub cause: String,
}

/// The policies of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies(Vec<Policy>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    resource: String,
    namespace: String,
    non_resource_path: String,
}

impl Policies {
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let lines = text.lines().enumerate().filter(|(_, line)| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with('#')
        });
        let read = |(number, line): (usize, &str)| {
            Policy::parse(line).map_err(|cause| PolicyError { line: number + 1, text: line.to_owned(), cause })
        };
        lines.map(read).collect::<Result<_, _>>().map(Self)
    }
}

impl Policy {
    fn parse(line: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
        let text = |field: &str| value[field].as_str().unwrap_or_default();
        let policy = |value: &Value| serde_json::from_value::<Policy>(value.clone()).map_err(|e| e.to_string());
        match (text("apiVersion"), text("kind")) {
            (API_VERSION, "Policy") => {
                let mut policy = policy(&value["spec"])?;
                policy.everybody();
                Ok(policy)
            }
            // The form before there were versions.
            ("", _) | (_, "") => {
                let mut policy = policy(&value)?;
                if policy.user.is_empty() && policy.group.is_empty() {
                    policy.group = AUTHENTICATED.to_owned();
                }
                policy.everybody();
                policy.non_resource_path = if policy.namespace.is_empty() && policy.resource.is_empty() {
                    "*".to_owned()
                } else {
                    String::new()
                };
                for part in [&mut policy.namespace, &mut policy.resource] {
                    if part.is_empty() {
                        *part = "*".to_owned();
                    }
                }
                policy.api_group = "*".to_owned();
                Ok(policy)
            }
            (version, kind) => {
                Err(format!("no kind {kind:?} is registered for version {version:?}; use {API_VERSION}"))
            }
        }
    }

    /// `*` is everybody who has shown a credential.
    fn everybody(&mut self) {
        if self.user == "*" || self.group == "*" {
            (self.user, self.group) = (String::new(), AUTHENTICATED.to_owned());
        }
    }

    fn allows(&self, attributes: &Attributes) -> bool {
        let is = |pattern: &str, value: &str| pattern == "*" || pattern == value;
        let user = &attributes.user;
        let subject = (!self.user.is_empty() || !self.group.is_empty())
            && (self.user.is_empty() || self.user == user.name)
            && (self.group.is_empty() || user.in_group(&self.group));
        if !subject || (self.readonly && !matches!(attributes.verb.as_str(), "get" | "list" | "watch")) {
            return false;
        }
        if attributes.resource_request {
            return is(&self.namespace, &attributes.namespace)
                && is(&self.resource, &attributes.resource)
                && is(&self.api_group, &attributes.group);
        }
        let path = &self.non_resource_path;
        is(path, &attributes.path) || (path.ends_with('*') && attributes.path.starts_with(path.trim_end_matches('*')))
    }
}

impl Authorizer for Policies {
    fn authorize<'a>(&'a self, attributes: &'a Attributes) -> Answer<'a> {
        let allowed = self.0.iter().any(|policy| policy.allows(attributes));
        if allowed { Decision::Allow(None) } else { Decision::NoOpinion("No policy matched.".to_owned()) }.into()
    }
}

#[cfg(test)]
mod tests {
    use kybern_apiserver::access::UserInfo;

    use super::*;

    const FILE: &str = r##"
# alice may everything in her projects
{"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": {"user": "alice", "namespace": "hers", "resource": "*", "apiGroup": "*"}}
{"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": {"group": "ops", "readonly": true, "namespace": "*", "resource": "pods"}}
{"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": {"user": "*", "readonly": true, "nonResourcePath": "/version/*"}}
{"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": {"namespace": "*", "resource": "*", "apiGroup": "*", "nonResourcePath": "*"}}
{"user": "old", "resource": "pods"}
{"user": "root"}
"##;

    /// `user[,group] verb namespace group/resource` or `user[,group] verb path`.
    fn may(question: &str) -> bool {
        let words: Vec<&str> = question.split(' ').collect();
        let mut user = words[0].split(',');
        let name = user.next().unwrap().to_owned();
        let groups = user.map(str::to_owned).chain([AUTHENTICATED.to_owned()]).collect();
        let mut attributes = Attributes {
            user: UserInfo { name, groups, ..UserInfo::default() },
            verb: words[1].to_owned(),
            ..Attributes::default()
        };
        match words[2..] {
            [path] => attributes.path = path.to_owned(),
            [namespace, resource] => {
                let (group, resource) = resource.split_once('/').unwrap_or(("", resource));
                attributes.resource_request = true;
                (attributes.namespace, attributes.group) = (namespace.to_owned(), group.to_owned());
                attributes.resource = resource.to_owned();
            }
            _ => unreachable!("{question}"),
        }
        let policies = Policies::parse(FILE).unwrap();
        crate::testing::block(policies.authorize(&attributes).decision()) == Decision::Allow(None)
    }

    #[test]
    fn a_policy_allows_what_it_names() {
        for (question, expect) in [
            ("alice delete hers apps/deployments", true),
            ("alice get others pods", false),
            ("alice get /metrics", false),
            ("bob,ops list a pods", true),
            ("bob,ops delete a pods", false),
            ("bob,ops list a apps/pods", false),
            ("bob get /version/x", true),
            ("bob post /version/x", false),
            ("bob get /versions", false),
            ("old delete a extensions/pods", true),
            ("old get a services", false),
            ("old get /version", false),
            ("root delete a services", true),
            ("root delete /anything", true),
            ("nobody get a pods", false),
        ] {
            assert_eq!(may(question), expect, "{question}");
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = Policies::parse("# fine\n{\"user\": ").unwrap_err();
        assert_eq!(error.line, 2);
        let error = Policies::parse(r#"{"apiVersion": "v9", "kind": "Policy"}"#).unwrap_err();
        assert!(error.cause.contains(API_VERSION), "{error}");
    }
}
