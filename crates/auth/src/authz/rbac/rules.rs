//! Policy rules and what they match (`pkg/apis/rbac/v1/evaluation_helpers.go`).

use kybern_apimachinery::{Value, json};
use kybern_apiserver::access::Attributes;

/// `rbac/v1 PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub resource_names: Vec<String>,
    pub non_resource_urls: Vec<String>,
}

const FIELDS: [&str; 5] = ["verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs"];

impl Rule {
    pub fn from_value(rule: &Value) -> Self {
        let [verbs, api_groups, resources, resource_names, non_resource_urls] = FIELDS.map(|field| {
            rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        });
        Self { verbs, api_groups, resources, resource_names, non_resource_urls }
    }

    /// The rules of a Role or ClusterRole.
    pub fn of_role(role: &Value) -> Vec<Self> {
        role["rules"].as_array().into_iter().flatten().map(Self::from_value).collect()
    }

    pub fn to_value(&self) -> Value {
        let lists = [&self.verbs, &self.api_groups, &self.resources, &self.resource_names, &self.non_resource_urls];
        let mut rule = json!({});
        for (field, list) in FIELDS.iter().zip(lists).filter(|(_, list)| !list.is_empty()) {
            rule[*field] = json!(list);
        }
        rule
    }

    pub fn allows(&self, a: &Attributes) -> bool {
        let verb = has(&self.verbs, &a.verb);
        if !a.resource_request {
            return verb && self.non_resource_urls.iter().any(|url| url_covers(url, &a.path));
        }
        verb && has(&self.api_groups, &a.group)
            && self.resources.iter().any(|r| resource_covers(r, &a.resource, &a.subresource))
            && (self.resource_names.is_empty() || self.resource_names.contains(&a.name))
    }

    /// Whether everything that `narrow` allows, one verb, group, resource and name, is allowed here. `narrow` must have
    /// been broken down.
    pub(super) fn covers(&self, narrow: &Self) -> bool {
        let all = |mine: &[String], theirs: &[String]| {
            mine.iter().any(|m| m == "*") || theirs.iter().all(|t| mine.contains(t))
        };
        if !all(&self.verbs, &narrow.verbs) {
            return false;
        }
        if !narrow.non_resource_urls.is_empty() {
            return narrow
                .non_resource_urls
                .iter()
                .all(|url| self.non_resource_urls.iter().any(|mine| url_covers(mine, url)));
        }
        let resources = narrow.resources.iter().all(|wanted| {
            let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
            self.resources.iter().any(|mine| mine == wanted || resource_covers(mine, resource, subresource))
        });
        let names = self.resource_names.is_empty()
            || (!narrow.resource_names.is_empty()
                && narrow.resource_names.iter().all(|n| self.resource_names.contains(n)));
        all(&self.api_groups, &narrow.api_groups) && resources && names
    }
}

fn has(list: &[String], item: &str) -> bool {
    list.iter().any(|l| l == "*" || l == item)
}

/// `*` covers all, `pods` the resource alone, `pods/log` and `*/scale` a subresource.
fn resource_covers(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((r, s)) => !subresource.is_empty() && s == subresource && (r == "*" || r == resource),
    }
}

/// A URL, or with a final `*` every URL that begins so.
fn url_covers(rule: &str, path: &str) -> bool {
    rule == path || rule.strip_suffix('*').is_some_and(|prefix| path.trim_end_matches('*').starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_subresources() {
        for (rule, resource, subresource, expect) in [
            ("*", "pods", "log", true),
            ("pods", "pods", "", true),
            ("pods", "pods", "log", false),
            ("pods/log", "pods", "log", true),
            ("*/scale", "deployments", "scale", true),
            ("*/scale", "deployments", "", false),
        ] {
            assert_eq!(resource_covers(rule, resource, subresource), expect, "{rule}");
        }
        assert!(
            url_covers("/healthz/*", "/healthz/etcd") && !url_covers("/healthz/*", "/healthz") && url_covers("*", "/x")
        );
    }
}
