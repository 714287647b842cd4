//! Who knows what the objects of a resource use.

use jiff::Timestamp;
use kybern_apimachinery::Value;

use crate::amounts::{Amounts, one};
use crate::scopes::is_terminating;
use crate::{claims, pods};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evaluator {
    Pods,
    Services,
    /// PersistentVolumeClaims.
    Claims,
    /// ResourceClaims.
    DeviceClaims,
    /// Any other resource, counted by these names.
    Count(Vec<String>),
}

/// By which a quota counts the objects of a resource.
pub fn count_name(group: &str, resource: &str) -> String {
    if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") }
}

/// Of no quota's concern: never stored, or too many and too short-lived.
fn is_ignored(group: &str, resource: &str) -> bool {
    match group {
        "" => matches!(resource, "bindings" | "componentstatuses" | "events"),
        "events.k8s.io" => resource == "events",
        "authentication.k8s.io" => matches!(resource, "tokenreviews" | "selfsubjectreviews"),
        "authorization.k8s.io" => matches!(
            resource,
            "subjectaccessreviews"
                | "selfsubjectaccessreviews"
                | "localsubjectaccessreviews"
                | "selfsubjectrulesreviews"
        ),
        _ => false,
    }
}

impl Evaluator {
    /// Nobody for resources that no quota counts.
    pub fn of(group: &str, resource: &str) -> Option<Self> {
        if is_ignored(group, resource) {
            return None;
        }
        Some(match (group, resource) {
            ("", "pods") => Self::Pods,
            ("", "services") => Self::Services,
            ("", "persistentvolumeclaims") => Self::Claims,
            ("resource.k8s.io", "resourceclaims") => Self::DeviceClaims,
            ("", "configmaps" | "resourcequotas" | "replicationcontrollers" | "secrets") => {
                Self::Count(vec![count_name(group, resource), resource.to_owned()])
            }
            _ => Self::Count(vec![count_name(group, resource)]),
        })
    }

    /// Whether a write can change what is used: a creation, or an update of `old`.
    pub fn handles(&self, subresource: &str, object: &Value, old: Option<&Value>) -> bool {
        match (self, subresource, old) {
            (Self::Pods, "", Some(old)) => is_terminating(object) != is_terminating(old),
            (Self::Pods, "resize", Some(_)) | (Self::Claims, "status", Some(_)) => true,
            (Self::Services | Self::Claims | Self::DeviceClaims, "", Some(_)) => true,
            (_, "", None) => true,
            _ => false,
        }
    }

    /// Whether it knows how much of a resource is used.
    pub fn counts(&self, name: &str) -> bool {
        match self {
            Self::Pods => pods::is_counted(name),
            Self::Services => claims::OF_SERVICES.contains(&name),
            Self::Claims => claims::is_of_claims(name),
            Self::DeviceClaims => claims::is_of_device_claims(name),
            Self::Count(names) => names.iter().any(|own| own == name),
        }
    }

    /// Whether an object says of itself what quotas of the resources `required` want to know.
    pub fn constraints(&self, required: &[&str], object: &Value) -> Result<(), String> {
        match self {
            Self::Pods => pods::constraints(required, object),
            _ => Ok(()),
        }
    }

    pub fn usage(&self, object: &Value, now: Timestamp) -> Amounts {
        match self {
            Self::Pods => pods::usage(object, now),
            Self::Services => claims::of_service(object),
            Self::Claims => claims::of_claim(object),
            Self::DeviceClaims => claims::of_device_claim(object),
            Self::Count(names) => names.iter().map(|name| (name.clone(), one())).collect(),
        }
    }

    /// Whether it tells objects apart by scopes.
    pub(crate) fn has_scopes(&self) -> bool {
        matches!(self, Self::Pods | Self::Claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn resources_have_their_evaluators() {
        assert_eq!(Evaluator::of("", "events"), None);
        assert_eq!(Evaluator::of("events.k8s.io", "events"), None);
        assert_eq!(Evaluator::of("apps", "deployments"), Some(Evaluator::Count(vec!["count/deployments.apps".into()])));
        let secrets = Evaluator::of("", "secrets").unwrap();
        assert!(secrets.counts("secrets") && secrets.counts("count/secrets") && !secrets.counts("count/configmaps"));
    }

    #[test]
    fn only_what_changes_use_is_looked_at() {
        let (plain, ending) = (json!({"spec": {}}), json!({"spec": {"activeDeadlineSeconds": 5}}));
        let pods = Evaluator::Pods;
        assert!(pods.handles("", &plain, None) && pods.handles("", &ending, Some(&plain)));
        assert!(!pods.handles("", &plain, Some(&plain)) && !pods.handles("status", &plain, Some(&plain)));
        assert!(pods.handles("resize", &plain, Some(&plain)) && !pods.handles("eviction", &plain, None));
        let count = Evaluator::Count(Vec::new());
        assert!(count.handles("", &plain, None) && !count.handles("", &plain, Some(&plain)));
        assert!(Evaluator::Claims.handles("status", &plain, Some(&plain)));
        assert!(!Evaluator::Services.handles("status", &plain, Some(&plain)));
    }
}
