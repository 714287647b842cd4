//! Conditions: reading one by its type and setting one with upstream's rule for `lastTransitionTime`.

use jiff::Timestamp;
use k8s_openapi::api::{apps, autoscaling, core};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{self as meta, Time};

/// One entry of a `status.conditions` list.
pub trait Condition {
    fn kind(&self) -> &str;
    /// `True`, `False` or `Unknown`.
    fn status(&self) -> &str;
    fn reason(&self) -> Option<&str>;
    fn transition_time(&self) -> Option<Timestamp>;
    fn set_transition_time(&mut self, time: Option<Timestamp>);
}

macro_rules! conditions {
    ($($group:ident::$version:ident::$kind:ident),* $(,)?) => {$(
        impl Condition for $group::$version::$kind {
            fn kind(&self) -> &str {
                &self.type_
            }
            fn status(&self) -> &str {
                &self.status
            }
            fn reason(&self) -> Option<&str> {
                self.reason.as_deref()
            }
            fn transition_time(&self) -> Option<Timestamp> {
                self.last_transition_time.as_ref().map(|t| t.0)
            }
            fn set_transition_time(&mut self, time: Option<Timestamp>) {
                self.last_transition_time = time.map(Time);
            }
        }
    )*};
}

conditions!(
    apps::v1::DeploymentCondition,
    apps::v1::ReplicaSetCondition,
    apps::v1::DaemonSetCondition,
    autoscaling::v2::HorizontalPodAutoscalerCondition,
    core::v1::PodCondition,
    core::v1::NodeCondition,
    core::v1::NamespaceCondition,
    core::v1::ReplicationControllerCondition,
);

impl Condition for meta::Condition {
    fn kind(&self) -> &str {
        &self.type_
    }
    fn status(&self) -> &str {
        &self.status
    }
    fn reason(&self) -> Option<&str> {
        Some(&self.reason)
    }
    fn transition_time(&self) -> Option<Timestamp> {
        Some(self.last_transition_time.0)
    }
    fn set_transition_time(&mut self, time: Option<Timestamp>) {
        self.last_transition_time = Time(time.unwrap_or(Timestamp::UNIX_EPOCH));
    }
}

/// The condition of a type.
pub fn find<'a, C: Condition>(conditions: &'a Option<Vec<C>>, kind: &str) -> Option<&'a C> {
    conditions.as_deref().unwrap_or_default().iter().find(|c| c.kind() == kind)
}

/// Whether the condition of a type is there and `True`.
pub fn is_true<C: Condition>(conditions: &Option<Vec<C>>, kind: &str) -> bool {
    find(conditions, kind).is_some_and(|c| c.status() == "True")
}

/// Puts a condition in place of the one of its type. The old `lastTransitionTime` stays when the status stays.
pub fn set<C: Condition>(conditions: &mut Option<Vec<C>>, mut condition: C) {
    let list = conditions.get_or_insert_default();
    match list.iter_mut().find(|c| c.kind() == condition.kind()) {
        Some(old) => {
            if old.status() == condition.status() {
                condition.set_transition_time(old.transition_time());
            }
            *old = condition;
        }
        None => list.push(condition),
    }
}

/// Removes the condition of a type.
pub fn remove<C: Condition>(conditions: &mut Option<Vec<C>>, kind: &str) {
    if let Some(list) = conditions {
        list.retain(|c| c.kind() != kind);
        if list.is_empty() {
            *conditions = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodCondition;

    use super::*;

    fn ready(status: &str, seconds: i64) -> PodCondition {
        let time = Time(Timestamp::from_second(seconds).unwrap());
        PodCondition {
            type_: "Ready".into(),
            status: status.into(),
            last_transition_time: Some(time),
            ..Default::default()
        }
    }

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let mut list = None;
        for (status, at, expect) in [("False", 1, 1), ("False", 2, 1), ("True", 3, 3)] {
            set(&mut list, ready(status, at));
            assert_eq!(find(&list, "Ready").unwrap().transition_time(), Timestamp::from_second(expect).ok());
        }
        assert!(is_true(&list, "Ready"));
        remove(&mut list, "Ready");
        assert_eq!(list, None);
    }
}
