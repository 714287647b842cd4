//! The parts of a pod that subresources write: `status`, `ephemeralcontainers`, `resize`.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Value, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use super::defaults;
use crate::strategy::status::keep_all_but;
use crate::tree::{drop_field, keep, list, list_mut, text};
use crate::validation::pod_spec;

/// `pods/status`: the kubelet's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PodStatus;

impl Strategy for PodStatus {
    fn prepare_for_update(&self, _: &StrategyContext<'_>, pod: &mut Value, old: &Value) {
        keep_all_but(pod, old, "status");
        if object::str_at(pod, &["status", "qosClass"]).is_empty() {
            keep(&mut pod["status"], &old["status"], "qosClass");
        }
    }

    fn validate_update(&self, pod: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        let path = FieldPath::new("status");
        let (new_class, old_class) =
            (object::str_at(pod, &["status", "qosClass"]), object::str_at(old, &["status", "qosClass"]));
        if !old_class.is_empty() && new_class != old_class {
            out.push(FieldError::invalid(&path.child("qosClass"), new_class, "field is immutable"));
        }
        let nominated = object::str_at(pod, &["status", "nominatedNodeName"]);
        if !nominated.is_empty() {
            crate::validation::format::invalid(
                &mut out,
                &path.child("nominatedNodeName"),
                nominated,
                kybern_apimachinery::validation::dns1123_subdomain(nominated),
            );
        }
        out
    }
}

/// `pods/ephemeralcontainers`: what `kubectl debug` adds. Containers come, and never go or change.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EphemeralContainers;

impl Strategy for EphemeralContainers {
    fn default(&self, pod: &mut Value) {
        defaults::pod(pod);
    }

    fn prepare_for_update(&self, _: &StrategyContext<'_>, pod: &mut Value, old: &Value) {
        let added = pod["spec"].get("ephemeralContainers").cloned();
        keep_all_but(pod, old, "");
        match added {
            Some(added) => pod["spec"]["ephemeralContainers"] = added,
            None => drop_field(&mut pod["spec"], "ephemeralContainers"),
        }
    }

    fn validate(&self, pod: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        pod_spec::pod(&mut out, pod);
        out
    }

    fn validate_update(&self, pod: &Value, old: &Value) -> Vec<FieldError> {
        let path = FieldPath::new("spec.ephemeralContainers");
        let new = list(&pod["spec"], "ephemeralContainers");
        let mut out = Vec::new();
        for container in list(&old["spec"], "ephemeralContainers") {
            let name = text(container, "name");
            match new.iter().enumerate().find(|(_, c)| text(c, "name") == name) {
                None => out.push(FieldError::forbidden(
                    &path,
                    format!("existing ephemeral containers {name:?} may not be removed\n"),
                )),
                Some((i, found)) if found != container => {
                    let detail = format!("existing ephemeral containers {name:?} may not be changed\n");
                    out.push(FieldError::forbidden(&path.index(i), detail));
                }
                Some(_) => {}
            }
        }
        out
    }
}

/// `pods/resize`: requests and limits of running containers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resize;

impl Strategy for Resize {
    fn prepare_for_update(&self, _: &StrategyContext<'_>, pod: &mut Value, old: &Value) {
        let wanted: Vec<(&str, Vec<Value>)> =
            ["containers", "initContainers"].map(|f| (f, list(&pod["spec"], f).to_vec())).into_iter().collect();
        keep_all_but(pod, old, "");
        for (field, containers) in wanted {
            for container in list_mut(&mut pod["spec"], field) {
                if let Some(source) = containers.iter().find(|c| text(c, "name") == text(container, "name")) {
                    keep(container, source, "resources");
                }
            }
        }
    }

    fn validate(&self, pod: &Value) -> Vec<FieldError> {
        EphemeralContainers.validate(pod)
    }

    fn validate_update(&self, pod: &Value, old: &Value) -> Vec<FieldError> {
        let (new_class, old_class) = (kybern_quota::qos::class(&pod["spec"]), kybern_quota::qos::class(&old["spec"]));
        if new_class == old_class {
            return Vec::new();
        }
        vec![FieldError::invalid(
            &FieldPath::new("spec"),
            new_class,
            "Pod QOS Class may not change as a result of resizing",
        )]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;
    use kybern_apiserver::strategy::Features;

    #[test]
    fn ephemeral_containers_only_come() {
        let pod = |names: &[(&str, &str)]| {
            let containers: Vec<Value> = names.iter().map(|(n, i)| json!({"name": n, "image": i})).collect();
            json!({"spec": {"ephemeralContainers": containers}})
        };
        let check = |new: &[(&str, &str)], wrong: usize| {
            assert_eq!(EphemeralContainers.validate_update(&pod(new), &pod(&[("a", "x")])).len(), wrong, "{new:?}");
        };
        check(&[("a", "x"), ("b", "y")], 0);
        check(&[("a", "y")], 1);
        check(&[], 1);
        let user = Default::default();
        let ctx = StrategyContext {
            user: &user,
            now: jiff::Timestamp::UNIX_EPOCH,
            dry_run: false,
            features: &Features::default(),
        };
        let mut without = json!({"metadata": {}, "spec": {}});
        EphemeralContainers.prepare_for_update(&ctx, &mut without, &pod(&[("a", "x")]));
        assert_eq!(EphemeralContainers.validate_update(&without, &pod(&[("a", "x")])).len(), 1, "{without}");
    }

    #[test]
    fn a_resize_changes_resources_alone() {
        let user = Default::default();
        let ctx = StrategyContext {
            user: &user,
            now: jiff::Timestamp::UNIX_EPOCH,
            dry_run: false,
            features: &Features::default(),
        };
        let old = json!({"metadata": {}, "spec": {"containers": [{"name": "a", "image": "x", "resources": {"requests": {"cpu": "1"}}}]}});
        let mut new = json!({"metadata": {}, "spec": {"nodeName": "b", "containers": [{"name": "a", "image": "y", "resources": {"requests": {"cpu": "2"}}}]}});
        Resize.prepare_for_update(&ctx, &mut new, &old);
        assert_eq!(
            new["spec"],
            json!({"containers": [{"name": "a", "image": "x", "resources": {"requests": {"cpu": "2"}}}]})
        );
    }
}
