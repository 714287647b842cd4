//! Roles and bindings.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::dns1123_subdomain;
use kybern_apimachinery::{Value, json};
use kybern_apiserver::strategy::Strategy;

use crate::tree::{has, list, text};
use crate::validation::names::path_segment;
use crate::validation::{Errors, format, meta};

/// Role and ClusterRole.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Role {
    pub cluster: bool,
}

fn rule(out: &mut Errors, path: &FieldPath, rule: &Value, cluster: bool) {
    if list(rule, "verbs").is_empty() {
        out.push(FieldError::required(&path.child("verbs"), "verbs must contain at least one value"));
    }
    let urls = list(rule, "nonResourceURLs");
    if !urls.is_empty() {
        if !cluster {
            out.push(FieldError::invalid(
                &path.child("nonResourceURLs"),
                rule["nonResourceURLs"].clone(),
                "namespaced rules cannot apply to non-resource URLs",
            ));
        }
        if ["apiGroups", "resources", "resourceNames"].iter().any(|f| !list(rule, f).is_empty()) {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            out.push(FieldError::invalid(&path.child("nonResourceURLs"), rule["nonResourceURLs"].clone(), detail));
        }
        return;
    }
    if list(rule, "apiGroups").is_empty() {
        out.push(FieldError::required(&path.child("apiGroups"), "resource rules must supply at least one api group"));
    }
    if list(rule, "resources").is_empty() {
        out.push(FieldError::required(&path.child("resources"), "resource rules must supply at least one resource"));
    }
}

impl Strategy for Role {
    fn validate(&self, role: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        for (i, item) in list(role, "rules").iter().enumerate() {
            rule(&mut out, &FieldPath::new("rules").index(i), item, self.cluster);
        }
        if self.cluster && has(role, "aggregationRule") {
            let selectors = list(&role["aggregationRule"], "clusterRoleSelectors");
            let path = FieldPath::new("aggregationRule.clusterRoleSelectors");
            if selectors.is_empty() {
                let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
                out.push(FieldError::required(&path, detail));
            }
            for (i, selector) in selectors.iter().enumerate() {
                let (path, before) = (path.index(i), out.len());
                meta::selector(&mut out, &path, selector);
                if out.len() > before {
                    out.push(FieldError::invalid(&path, Value::Null, "invalid label selector."));
                }
            }
        }
        out
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        path_segment(name)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

/// RoleBinding and ClusterRoleBinding.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Binding {
    pub cluster: bool,
}

impl Strategy for Binding {
    fn default(&self, binding: &mut Value) {
        let group = "rbac.authorization.k8s.io";
        if binding["roleRef"].is_object() && text(&binding["roleRef"], "apiGroup").is_empty() {
            binding["roleRef"]["apiGroup"] = group.into();
        }
        for subject in crate::tree::list_mut(binding, "subjects") {
            if matches!(text(subject, "kind"), "User" | "Group") && text(subject, "apiGroup").is_empty() {
                subject["apiGroup"] = group.into();
            }
        }
    }

    fn validate(&self, binding: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        let (path, role) = (FieldPath::new("roleRef"), &binding["roleRef"]);
        format::one_of(&mut out, &path.child("apiGroup"), text(role, "apiGroup"), &["rbac.authorization.k8s.io"]);
        let kinds: &[&str] = if self.cluster { &["ClusterRole"] } else { &["Role", "ClusterRole"] };
        format::one_of(&mut out, &path.child("kind"), text(role, "kind"), kinds);
        format::required_name(&mut out, &path.child("name"), text(role, "name"), path_segment);
        for (i, subject) in list(binding, "subjects").iter().enumerate() {
            let path = FieldPath::new("subjects").index(i);
            if text(subject, "name").is_empty() {
                out.push(FieldError::required(&path.child("name"), ""));
            }
            match text(subject, "kind") {
                "ServiceAccount" => {
                    let name = text(subject, "name");
                    if !name.is_empty() {
                        format::invalid(&mut out, &path.child("name"), name, dns1123_subdomain(name));
                    }
                    format::one_of(&mut out, &path.child("apiGroup"), text(subject, "apiGroup"), &[""]);
                    if self.cluster && text(subject, "namespace").is_empty() {
                        out.push(FieldError::required(&path.child("namespace"), ""));
                    }
                }
                "User" | "Group" => {
                    format::one_of(
                        &mut out,
                        &path.child("apiGroup"),
                        text(subject, "apiGroup"),
                        &["rbac.authorization.k8s.io"],
                    );
                }
                other => out.push(FieldError::not_supported(
                    &path.child("kind"),
                    other,
                    &["ServiceAccount", "User", "Group"],
                )),
            }
        }
        out
    }

    fn validate_update(&self, binding: &Value, old: &Value) -> Vec<FieldError> {
        if binding["roleRef"] == old["roleRef"] {
            return Vec::new();
        }
        // Upstream shows its own form of the reference.
        let part = |field: &str| text(&binding["roleRef"], field);
        let shown = json!({"APIGroup": part("apiGroup"), "Kind": part("kind"), "Name": part("name")});
        vec![FieldError::invalid(&FieldPath::new("roleRef"), shown, "cannot change roleRef")]
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        path_segment(name)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_references() {
        let rule = |rule: Value| Role { cluster: false }.validate(&json!({"rules": [rule]})).len();
        assert_eq!(rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]})), 0);
        assert_eq!(rule(json!({"verbs": [], "apiGroups": [], "resources": []})), 3);
        assert_eq!(rule(json!({"verbs": ["get"], "nonResourceURLs": ["/x"]})), 1);
        let mut binding =
            json!({"roleRef": {"kind": "Role", "name": "a"}, "subjects": [{"kind": "User", "name": "u"}]});
        Binding { cluster: false }.default(&mut binding);
        assert!(Binding { cluster: false }.validate(&binding).is_empty());
        let mut moved = binding.clone();
        moved["roleRef"]["name"] = "b".into();
        assert!(
            Binding { cluster: false }.validate_update(&moved, &binding)[0]
                .to_string()
                .ends_with("cannot change roleRef")
        );
        assert!(path_segment("system:node").is_empty() && !path_segment("a/b").is_empty());
    }
}
