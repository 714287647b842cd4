//! What makes a pod of a set this one and no other: its name and ordinal, and what follows from them.

use std::borrow::Cow;

use kybern_api::apps::v1::{StatefulSet, StatefulSetSpec};
use kybern_api::core::v1::{Pod, PodTemplateSpec};
use kybern_api::{Object, owner};
use kybern_apimachinery::json;
use kybern_client::Patch;

use super::storage;
use crate::controller::Op;
use crate::pods;

const REVISION_LABEL: &str = "controller-revision-hash";
const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// A template that pods of the set may have.
#[derive(Clone)]
pub(super) struct Version<'a> {
    pub(super) revision: &'a str,
    pub(super) template: Cow<'a, PodTemplateSpec>,
}

/// The name of the set and the ordinal in a pod's name.
pub(super) fn parse(name: &str) -> Option<(&str, i64)> {
    let (set, digits) = name.rsplit_once('-')?;
    let ordinal: i64 = digits.parse().ok()?;
    // No set makes a `web-01` beside its `web-1`.
    (ordinal.to_string() == digits).then_some((set, ordinal))
}

/// The ordinal of a pod that has a name of this set's pods.
pub(super) fn ordinal(set: &str, pod: &Pod) -> Option<i64> {
    parse(pod.name()).filter(|(name, _)| *name == set).map(|(_, ordinal)| ordinal)
}

pub(super) fn pod_name(set: &StatefulSet, ordinal: i64) -> String {
    format!("{}-{ordinal}", set.name())
}

/// The name of the revision that a pod was made from.
pub(super) fn revision(pod: &Pod) -> &str {
    pod.labels().and_then(|labels| labels.get(REVISION_LABEL)).map_or("", String::as_str)
}

pub(super) fn make_pod(set: &StatefulSet, spec: &StatefulSetSpec, version: &Version<'_>, ordinal: i64) -> Pod {
    let mut pod = pods::from_template(&version.template, set.namespace(), set.name(), owner::controller_ref(set));
    let name = pod_name(set, ordinal);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(REVISION_LABEL.to_owned(), version.revision.to_owned());
    labels.insert(POD_NAME_LABEL.to_owned(), name.clone());
    labels.insert(INDEX_LABEL.to_owned(), ordinal.to_string());
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.volumes = storage::volumes(spec, &name, pod_spec.volumes.take());
    pod_spec.hostname = Some(name.clone());
    pod_spec.subdomain = spec.service_name.clone().filter(|service| !service.is_empty());
    pod.metadata.name = Some(name);
    pod
}

/// Gives an adopted pod the labels of its name, where it lacks them.
pub(super) fn mended(pod: &Pod, ordinal: i64) -> Option<Op> {
    if pod.labels().and_then(|labels| labels.get(POD_NAME_LABEL)).is_some_and(|name| name == pod.name()) {
        return None;
    }
    let labels = json!({POD_NAME_LABEL: pod.name(), INDEX_LABEL: ordinal.to_string()});
    Some(Op::patch(pod, Patch::Merge(json!({"metadata": {"uid": pod.uid(), "labels": labels}}))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ordinals() {
        assert_eq!(parse("web-0"), Some(("web", 0)));
        assert_eq!(parse("a-b-12"), Some(("a-b", 12)));
        for name in ["web-01", "web-+1", "web-x", "web", "web-99999999999999999999"] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
