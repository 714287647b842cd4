//! `Priority`: a pod's class becomes its number.

use std::collections::BTreeMap;
use std::sync::Arc;

use kybern_apimachinery::{ApiError, GroupResource, Value, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};
use kybern_apiserver::connect::Observer;
use parking_lot::RwLock;

use super::pod_defaults::is_pod;
use crate::tree::{default, flag, int, text};

const GROUP: &str = "scheduling.k8s.io";

/// The priority classes by name.
#[derive(Default)]
pub(super) struct PriorityClasses(RwLock<BTreeMap<String, Value>>);

impl Observer for PriorityClasses {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[(GROUP, "priorityclasses")]
    }

    fn changed(&self, _group: &str, _resource: &str, _namespace: &str, name: &str, object: Option<&Value>) {
        let mut all = self.0.write();
        match object {
            Some(class) => drop(all.insert(name.to_owned(), class.clone())),
            None => drop(all.remove(name)),
        }
    }
}

pub(super) struct Priority {
    classes: Arc<PriorityClasses>,
}

impl Priority {
    pub(super) fn new(classes: Arc<PriorityClasses>) -> Self {
        Self { classes }
    }

    fn set(&self, pod: &mut Value) -> Result<(), ApiError> {
        let classes = self.classes.0.read();
        let named = object::str_at(pod, &["spec", "priorityClassName"]);
        let class = if named.is_empty() {
            // Of several defaults the lowest, as upstream has it.
            classes.values().filter(|c| flag(c, "globalDefault")).min_by_key(|c| int(c, "value").unwrap_or(0))
        } else {
            let class = classes.get(named);
            if class.is_none() {
                let cause = format!("no PriorityClass with name {named} was found");
                return Err(ApiError::forbidden(&GroupResource::new("", "pods"), object::name(pod), &cause));
            }
            class
        };
        apply(pod, class)
    }

    fn one_default(&self, class: &Value) -> Result<(), ApiError> {
        if !flag(class, "globalDefault") {
            return Ok(());
        }
        let classes = self.classes.0.read();
        let other = classes.values().find(|c| flag(c, "globalDefault") && object::name(c) != object::name(class));
        let Some(other) = other else { return Ok(()) };
        let cause =
            format!("PriorityClass {} is already marked as default. Only one default can exist", object::name(other));
        Err(ApiError::forbidden(&GroupResource::new(GROUP, "priorityclasses"), object::name(class), &cause))
    }
}

/// An update that does not name what was computed at the creation does not change it.
fn keep_numbers(spec: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy"] {
        if let Some(value) = old.get(field) {
            default(spec, field, value.clone());
        }
    }
}

fn apply(pod: &mut Value, class: Option<&Value>) -> Result<(), ApiError> {
    let value = class.and_then(|c| int(c, "value")).unwrap_or(0);
    let policy = class
        .map(|c| text(c, "preemptionPolicy"))
        .filter(|p| !p.is_empty())
        .unwrap_or("PreemptLowerPriority")
        .to_owned();
    let name = object::name(pod).to_owned();
    let forbidden = |cause: String| ApiError::forbidden(&GroupResource::new("", "pods"), &name, &cause);
    let spec = &mut pod["spec"];
    if let Some(given) = int(spec, "priority").filter(|g| *g != value) {
        return Err(forbidden(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} \
             from the given PriorityClass name"
        )));
    }
    let given = text(spec, "preemptionPolicy");
    if !given.is_empty() && given != policy {
        return Err(forbidden(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed \
             {policy} from the given PriorityClass name"
        )));
    }
    if let Some(class) = class {
        spec["priorityClassName"] = object::name(class).into();
    }
    default(spec, "priority", value);
    default(spec, "preemptionPolicy", policy);
    Ok(())
}

impl AdmissionPlugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, _: Step, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update | Operation::Delete)
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            match object {
                Some(pod) if is_pod(request, Operation::Create) => self.set(pod),
                Some(pod) if is_pod(request, Operation::Update) => {
                    keep_numbers(&mut pod["spec"], &request.old.unwrap_or(&Value::Null)["spec"]);
                    Ok(())
                }
                _ => Ok(()),
            }
        })
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let gvr = &request.resource.gvr;
            let writes = matches!(request.operation, Operation::Create | Operation::Update);
            match object {
                Some(class) if writes && gvr.group == GROUP && gvr.resource == "priorityclasses" => {
                    self.one_default(class)
                }
                _ => Ok(()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn an_update_keeps_what_was_computed() {
        let mut spec = json!({"priority": 7});
        keep_numbers(&mut spec, &json!({"priority": 5, "preemptionPolicy": "Never"}));
        assert_eq!(spec, json!({"priority": 7, "preemptionPolicy": "Never"}));
    }

    #[test]
    fn a_class_is_a_number() {
        let class = json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"});
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"priorityClassName": "high"}});
        apply(&mut pod, Some(&class)).unwrap();
        assert_eq!((&pod["spec"]["priority"], &pod["spec"]["preemptionPolicy"]), (&json!(1000), &json!("Never")));
        let mut plain = json!({"spec": {}});
        apply(&mut plain, None).unwrap();
        assert_eq!(plain["spec"], json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"}));
        let mut wrong = json!({"metadata": {"name": "p"}, "spec": {"priority": 5}});
        assert_eq!(apply(&mut wrong, Some(&class)).unwrap_err().code(), 403);
    }
}
