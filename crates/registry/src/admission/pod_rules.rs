//! What administrators may ask of pods besides: `AlwaysPullImages`, `ExtendedResourceToleration` and
//! `LimitPodHardAntiAffinityTopology`. Off by default.

use std::collections::BTreeSet;

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{ApiError, Reason, Value, json};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};

use super::pod_defaults::is_pod;
use crate::tree::{has, list, list_mut, map, text};
use crate::validation::names::is_extended_resource;

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

fn is_written_pod(request: &AdmissionRequest<'_>) -> bool {
    is_pod(request, Operation::Create) || is_pod(request, Operation::Update)
}

/// Whoever may not pull an image may not use what another has pulled.
pub(super) struct AlwaysPullImages;

fn images(pod: &Value) -> BTreeSet<&str> {
    CONTAINERS.iter().flat_map(|field| list(&pod["spec"], field)).map(|container| text(container, "image")).collect()
}

/// An update that brings no image is let be.
fn pulls(request: &AdmissionRequest<'_>, pod: &Value) -> bool {
    let brings = request.old.is_none_or(|old| !images(pod).is_subset(&images(old)));
    is_written_pod(request) && (request.operation == Operation::Create || brings)
}

fn always(pod: &mut Value) {
    let spec = &mut pod["spec"];
    for container in CONTAINERS {
        list_mut(spec, container).iter_mut().for_each(|container| container["imagePullPolicy"] = "Always".into());
    }
    for volume in list_mut(spec, "volumes").iter_mut().filter(|volume| has(volume, "image")) {
        volume["image"]["pullPolicy"] = "Always".into();
    }
}

fn not_always(pod: &Value) -> Vec<FieldError> {
    let (spec, path) = (&pod["spec"], FieldPath::new("spec"));
    let mut errors = Vec::new();
    let mut check = |path: FieldPath, policy: &str| {
        if policy != "Always" {
            errors.push(FieldError::not_supported(&path, policy, &["Always"]));
        }
    };
    for field in CONTAINERS {
        for (i, container) in list(spec, field).iter().enumerate() {
            check(path.child(field).index(i).child("imagePullPolicy"), text(container, "imagePullPolicy"));
        }
    }
    for (i, volume) in list(spec, "volumes").iter().enumerate().filter(|(_, volume)| has(volume, "image")) {
        check(path.child("volumes").index(i).child("image").child("pullPolicy"), text(&volume["image"], "pullPolicy"));
    }
    errors
}

impl AdmissionPlugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    fn handles(&self, _: Step, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        if let Some(pod) = object
            && pulls(request, pod)
        {
            always(pod);
        }
        Box::pin(async { Ok(()) })
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let Some(pod) = object.filter(|pod| pulls(request, pod)) else { return Ok(()) };
            let refusals = not_always(pod).into_iter();
            let texts: Vec<String> =
                refusals.map(|error| request.forbidden(object, &error.to_string()).message().to_owned()).collect();
            // Upstream gathers them, and what is gathered has no reason.
            match texts.as_slice() {
                [] => Ok(()),
                [one] => Err(ApiError::new(Reason::Unknown, one.clone())),
                several => Err(ApiError::new(Reason::Unknown, format!("[{}]", several.join(", ")))),
            }
        })
    }
}

/// Nodes with special resources are tainted with their names.
pub(super) struct ExtendedResourceToleration;

fn tolerate_resources(pod: &mut Value) {
    let containers = ["containers", "initContainers"].iter().flat_map(|field| list(&pod["spec"], field));
    let names = containers.flat_map(|container| map(&container["resources"], "requests")).map(|(name, _)| name);
    let names: BTreeSet<String> = names.filter(|name| is_extended_resource(name)).cloned().collect();
    if names.is_empty() {
        return;
    }
    let mut tolerations = list(&pod["spec"], "tolerations").to_vec();
    for name in names {
        let wanted = json!({"key": name, "operator": "Exists", "effect": "NoSchedule"});
        let same = |toleration: &Value| {
            ["key", "operator", "effect", "value"].iter().all(|field| text(toleration, field) == text(&wanted, field))
        };
        match tolerations.iter_mut().find(|toleration| same(toleration)) {
            Some(toleration) => *toleration = wanted,
            None => tolerations.push(wanted),
        }
    }
    pod["spec"]["tolerations"] = tolerations.into();
}

impl AdmissionPlugin for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Admit && matches!(operation, Operation::Create | Operation::Update)
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        if let Some(pod) = object
            && is_written_pod(request)
        {
            tolerate_resources(pod);
        }
        Box::pin(async { Ok(()) })
    }
}

/// No pod keeps others off more than its node.
pub(super) struct LimitPodHardAntiAffinityTopology;

const HOSTNAME: &str = "kubernetes.io/hostname";

fn wide_anti_affinity(pod: &Value) -> Option<&str> {
    let affinity = &pod["spec"]["affinity"]["podAntiAffinity"];
    let terms = list(affinity, "requiredDuringSchedulingIgnoredDuringExecution").iter();
    terms.map(|term| text(term, "topologyKey")).find(|key| *key != HOSTNAME)
}

impl AdmissionPlugin for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Validate && matches!(operation, Operation::Create | Operation::Update)
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let key = object.filter(|_| is_written_pod(request)).and_then(wide_anti_affinity);
        let refusal = key.map(|key| {
            let cause = format!(
                "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOSTNAME} is allowed"
            );
            request.forbidden(object, &cause)
        });
        Box::pin(async move { refusal.map_or(Ok(()), Err) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_always_pulled() {
        let mut pod = json!({"spec": {"containers": [{"name": "a", "imagePullPolicy": "Never"}], "ephemeralContainers": [{"name": "e"}],
            "volumes": [{"name": "v", "image": {"reference": "x"}}, {"name": "w", "emptyDir": {}}]}});
        let texts: Vec<String> = not_always(&pod).iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 3);
        assert_eq!(
            texts[0],
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Never\": supported values: \"Always\""
        );
        assert!(texts[2].starts_with("spec.volumes[0].image.pullPolicy"), "{texts:?}");
        always(&mut pod);
        assert!(not_always(&pod).is_empty());
        assert_eq!(pod["spec"]["volumes"][1], json!({"name": "w", "emptyDir": {}}));
    }

    #[test]
    fn what_is_asked_for_is_tolerated() {
        let requests = json!({"requests": {"cpu": "1", "example.com/gpu": "1"}});
        let mut pod = json!({"spec": {"containers": [{"resources": requests}], "tolerations": [
            {"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 3}, {"key": "x"}]}});
        tolerate_resources(&mut pod);
        let gpu = json!({"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"});
        assert_eq!(pod["spec"]["tolerations"], json!([gpu, {"key": "x"}]));
        let before = pod.clone();
        tolerate_resources(&mut pod);
        assert_eq!(pod, before);
    }

    #[test]
    fn only_nodes_are_kept_free() {
        let pod = |key: &str| {
            let terms = json!([{"topologyKey": HOSTNAME}, {"topologyKey": key}]);
            json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}})
        };
        assert_eq!(wide_anti_affinity(&pod("zone")), Some("zone"));
        assert_eq!(wide_anti_affinity(&pod(HOSTNAME)), None);
        assert_eq!(wide_anti_affinity(&json!({"spec": {}})), None);
    }
}
