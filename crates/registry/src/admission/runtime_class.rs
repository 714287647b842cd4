//! `RuntimeClass`: a pod names a class that exists, and gets from it what its sandbox costs and where it can run.

use kybern_apimachinery::{ApiError, Value, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};
use kybern_apiserver::connect::ObjectsSlot;

use super::pod_defaults::is_pod;
use crate::tree::{has, int, list, map, text};

pub(super) struct RuntimeClass {
    objects: ObjectsSlot,
}

const DIFFERENT: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
const UNFOUNDED: &str = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";

impl RuntimeClass {
    pub(super) fn new(objects: ObjectsSlot) -> Self {
        Self { objects }
    }

    /// The class that a pod names.
    async fn class(&self, request: &AdmissionRequest<'_>, pod: &Value) -> Result<Option<Value>, ApiError> {
        if !has(&pod["spec"], "runtimeClassName") {
            return Ok(None);
        }
        let name = object::str_at(pod, &["spec", "runtimeClassName"]);
        match self.objects.get()?.get("node.k8s.io", "runtimeclasses", "", name).await {
            Ok(class) => Ok(Some(class)),
            Err(error) if error.code() == 404 => {
                Err(refusal(request, &format!("pod rejected: RuntimeClass {name:?} not found")))
            }
            Err(error) => Err(error),
        }
    }
}

fn refusal(request: &AdmissionRequest<'_>, cause: &str) -> ApiError {
    ApiError::forbidden(&request.resource.gvr.group_resource(), request.name, cause)
}

impl AdmissionPlugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, _: Step, operation: Operation) -> bool {
        operation == Operation::Create
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let (Some(pod), true) = (object, is_pod(request, Operation::Create)) else {
            return Box::pin(async { Ok(()) });
        };
        Box::pin(async move {
            let Some(class) = self.class(request, pod).await? else { return Ok(()) };
            set_overhead(&mut pod["spec"], &class)
                .and_then(|()| set_scheduling(&mut pod["spec"], &class["scheduling"]))
                .map_err(|cause| refusal(request, &cause))
        })
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let Some(pod) = object.filter(|_| is_pod(request, Operation::Create)) else {
            return Box::pin(async { Ok(()) });
        };
        Box::pin(async move {
            let class = self.class(request, pod).await?;
            check_overhead(&pod["spec"], class.as_ref()).map_err(|cause| refusal(request, cause))
        })
    }
}

fn set_overhead(spec: &mut Value, class: &Value) -> Result<(), String> {
    if !has(class, "overhead") {
        return Ok(());
    }
    let fixed = class["overhead"]["podFixed"].clone();
    if map(spec, "overhead").next().is_some() && spec["overhead"] != fixed {
        return Err(DIFFERENT.to_owned());
    }
    if fixed.is_object() {
        spec["overhead"] = fixed;
    }
    Ok(())
}

fn check_overhead(spec: &Value, class: Option<&Value>) -> Result<(), &'static str> {
    match class.filter(|class| has(class, "overhead")) {
        Some(class) if spec.get("overhead") != class["overhead"].get("podFixed") => Err(DIFFERENT),
        None if has(spec, "overhead") => Err(UNFOUNDED),
        _ => Ok(()),
    }
}

fn set_scheduling(spec: &mut Value, scheduling: &Value) -> Result<(), String> {
    for (key, wanted) in map(scheduling, "nodeSelector") {
        if let Some(own) = spec["nodeSelector"].get(key).filter(|own| *own != wanted) {
            let shown = |value: &Value| value.as_str().unwrap_or("").to_owned();
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                shown(wanted),
                shown(own)
            ));
        }
        object::map_at_mut(spec, &["nodeSelector"]).insert(key.clone(), wanted.clone());
    }
    let merged = merge_tolerations(list(spec, "tolerations"), list(scheduling, "tolerations"));
    if !merged.is_empty() {
        spec["tolerations"] = merged.into();
    }
    Ok(())
}

/// Both lists, without what another one of them tolerates anyway.
fn merge_tolerations(first: &[Value], second: &[Value]) -> Vec<Value> {
    let all: Vec<&Value> = first.iter().chain(second).collect();
    let mut merged: Vec<Value> = Vec::new();
    for (index, toleration) in all.iter().enumerate() {
        let later = &all[index + 1..];
        let redundant = merged.iter().any(|other| tolerates_all(other, toleration))
            || later.iter().any(|other| other != toleration && tolerates_all(other, toleration));
        if !redundant {
            merged.push((*toleration).clone());
        }
    }
    merged
}

/// Whether `wide` tolerates all that `narrow` does.
fn tolerates_all(wide: &Value, narrow: &Value) -> bool {
    let same = |field: &str| text(wide, field) == text(narrow, field);
    if wide == narrow {
        return true;
    }
    if !(same("key") || text(wide, "key").is_empty() && text(wide, "operator") == "Exists") {
        return false;
    }
    if !same("effect") && !text(wide, "effect").is_empty() {
        return false;
    }
    if text(wide, "effect") == "NoExecute"
        && let Some(limit) = int(wide, "tolerationSeconds")
        && int(narrow, "tolerationSeconds").is_none_or(|seconds| seconds > limit)
    {
        return false;
    }
    match text(wide, "operator") {
        "" | "Equal" => text(narrow, "operator") == "Equal" && same("value"),
        "Exists" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn a_pod_gets_what_its_class_says() {
        let class = json!({"overhead": {"podFixed": {"cpu": "250m"}}, "scheduling": {
            "nodeSelector": {"sandbox": "vm"}, "tolerations": [{"key": "vm", "operator": "Exists"}]}});
        let mut spec = json!({"nodeSelector": {"zone": "a"},
            "tolerations": [{"key": "vm", "operator": "Equal", "value": "x"}, {"key": "gpu", "operator": "Exists"}]});
        set_overhead(&mut spec, &class).unwrap();
        set_scheduling(&mut spec, &class["scheduling"]).unwrap();
        assert_eq!(spec["overhead"], json!({"cpu": "250m"}));
        assert_eq!(spec["nodeSelector"], json!({"sandbox": "vm", "zone": "a"}));
        assert_eq!(
            spec["tolerations"],
            json!([{"key": "gpu", "operator": "Exists"}, {"key": "vm", "operator": "Exists"}])
        );
        assert_eq!(check_overhead(&spec, Some(&class)), Ok(()));
        assert_eq!(check_overhead(&spec, None), Err(UNFOUNDED));
        let mut other = json!({"overhead": {"cpu": "1"}});
        assert_eq!(set_overhead(&mut other, &class), Err(DIFFERENT.to_owned()));
        assert_eq!(check_overhead(&other, Some(&class)), Err(DIFFERENT));
        let mut elsewhere = json!({"nodeSelector": {"sandbox": "none"}});
        let conflict = set_scheduling(&mut elsewhere, &class["scheduling"]).unwrap_err();
        assert!(conflict.ends_with("nodeSelector[sandbox] = vm; pod.spec.nodeSelector[sandbox] = none"), "{conflict}");
    }
}
