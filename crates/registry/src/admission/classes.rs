//! `DefaultStorageClass`, `DefaultIngressClass` and `PersistentVolumeClaimResize`: what follows from the classes there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use kybern_apimachinery::quantity::Quantity;
use kybern_apimachinery::{ApiError, Value, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};
use kybern_apiserver::connect::Observer;
use parking_lot::RwLock;

use crate::tree::{flag, has, text};

const STORAGE: (&str, &str) = ("storage.k8s.io", "storageclasses");
const INGRESS: (&str, &str) = ("networking.k8s.io", "ingressclasses");
const DEFAULT_STORAGE: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const DEFAULT_INGRESS: [&str; 1] = ["ingressclass.kubernetes.io/is-default-class"];
const STORAGE_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const INGRESS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// The classes of both kinds, by resource and name.
#[derive(Default)]
pub(super) struct Classes(RwLock<BTreeMap<(String, String), Value>>);

impl Observer for Classes {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[STORAGE, INGRESS]
    }

    fn changed(&self, _group: &str, resource: &str, _namespace: &str, name: &str, object: Option<&Value>) {
        let (key, mut all) = ((resource.to_owned(), name.to_owned()), self.0.write());
        match object {
            Some(class) => drop(all.insert(key, class.clone())),
            None => drop(all.remove(&key)),
        }
    }
}

impl Classes {
    /// Of several defaults the newest, and of these the first by name.
    fn chosen(&self, resource: &str, annotations: &[&str]) -> Option<String> {
        let all = self.0.read();
        let is_default = |class: &&Value| annotations.iter().any(|key| object::annotation(class, key) == Some("true"));
        let created = |class: &Value| object::str_at(class, &["metadata", "creationTimestamp"]).to_owned();
        let classes = all.iter().filter(|((of, _), _)| of == resource).map(|(_, class)| class).filter(is_default);
        let newest = classes.min_by(|a, b| created(b).cmp(&created(a)).then(object::name(a).cmp(object::name(b))));
        newest.map(|class| object::name(class).to_owned())
    }

    fn may_grow(&self, name: &str) -> bool {
        let all = self.0.read();
        all.get(&(STORAGE.1.to_owned(), name.to_owned())).is_some_and(|class| flag(class, "allowVolumeExpansion"))
    }
}

fn is_of(request: &AdmissionRequest<'_>, operation: Operation, group: &str, resource: &str) -> bool {
    let gvr = &request.resource.gvr;
    request.operation == operation && request.subresource.is_empty() && gvr.group == group && gvr.resource == resource
}

pub(super) struct DefaultStorageClass(pub(super) Arc<Classes>);

impl AdmissionPlugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Admit && operation == Operation::Create
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        if let Some(claim) = object
            && is_of(request, Operation::Create, "", "persistentvolumeclaims")
            && !has(&claim["spec"], "storageClassName")
            && object::annotation(claim, STORAGE_ANNOTATION).is_none()
            && let Some(class) = self.0.chosen(STORAGE.1, &DEFAULT_STORAGE)
        {
            object::set(claim, &["spec", "storageClassName"], class);
        }
        Box::pin(async { Ok(()) })
    }
}

pub(super) struct DefaultIngressClass(pub(super) Arc<Classes>);

impl AdmissionPlugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Admit && operation == Operation::Create
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        if let Some(ingress) = object
            && is_of(request, Operation::Create, INGRESS.0, "ingresses")
            && !has(&ingress["spec"], "ingressClassName")
            && object::annotation(ingress, INGRESS_ANNOTATION).is_none()
            && let Some(class) = self.0.chosen(INGRESS.1, &DEFAULT_INGRESS)
        {
            object::set(ingress, &["spec", "ingressClassName"], class);
        }
        Box::pin(async { Ok(()) })
    }
}

pub(super) struct PersistentVolumeClaimResize(pub(super) Arc<Classes>);

/// What a claim asks for; nothing is zero.
fn size(claim: &Value) -> Option<Quantity> {
    Quantity::parse(claim.pointer("/spec/resources/requests/storage").and_then(Value::as_str).unwrap_or("0")).ok()
}

fn class(claim: &Value) -> &str {
    object::annotation(claim, STORAGE_ANNOTATION).unwrap_or_else(|| text(&claim["spec"], "storageClassName"))
}

impl PersistentVolumeClaimResize {
    fn refusal(&self, claim: &Value, old: &Value) -> Option<&'static str> {
        if size(claim) <= size(old) {
            return None;
        }
        if text(&old["status"], "phase") != "Bound" {
            return Some("Only bound persistent volume claims can be expanded");
        }
        let (now, before) = (class(claim), class(old));
        let may = !now.is_empty() && now == before && self.0.may_grow(now);
        (!may).then_some(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        )
    }
}

impl AdmissionPlugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Validate && operation == Operation::Update
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let refusal = match (object, request.old) {
            (Some(claim), Some(old)) if is_of(request, Operation::Update, "", "persistentvolumeclaims") => {
                self.refusal(claim, old).map(|cause| request.forbidden(object, cause))
            }
            _ => None,
        };
        Box::pin(async move { refusal.map_or(Ok(()), Err) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn classes(list: &[(&str, &str, bool)]) -> Arc<Classes> {
        let classes = Arc::new(Classes::default());
        for (name, created, default) in list {
            let class = json!({
                "metadata": {"name": name, "creationTimestamp": created, "annotations": {DEFAULT_STORAGE[0]: default.to_string()}},
                "allowVolumeExpansion": *name == "grows",
            });
            classes.changed(STORAGE.0, STORAGE.1, "", name, Some(&class));
        }
        classes
    }

    #[test]
    fn the_newest_default_counts() {
        let (old, new) = ("2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z");
        let default = |list: &[_]| classes(list).chosen(STORAGE.1, &DEFAULT_STORAGE);
        assert_eq!(default(&[("a", old, false)]), None);
        assert_eq!(default(&[("a", old, true), ("b", new, true), ("c", new, true)]).as_deref(), Some("b"));
        let classes = classes(&[("a", old, true)]);
        assert_eq!(classes.chosen(INGRESS.1, &DEFAULT_STORAGE), None, "of another kind");
        classes.changed(STORAGE.0, STORAGE.1, "", "a", None);
        assert_eq!(classes.chosen(STORAGE.1, &DEFAULT_STORAGE), None);
    }

    #[test]
    fn claims_grow_where_their_class_says_so() {
        let plugin = PersistentVolumeClaimResize(classes(&[("grows", "", false), ("stays", "", false)]));
        let claim = |class: &str, size: &str, phase: &str| json!({"spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}, "status": {"phase": phase}});
        let refusal = |class: &str, from: &str, to: &str, phase: &str| {
            plugin.refusal(&claim(class, to, phase), &claim(class, from, phase))
        };
        assert_eq!(refusal("grows", "1Gi", "2Gi", "Bound"), None);
        assert_eq!(refusal("stays", "1Gi", "1024Mi", "Pending"), None, "it is the same");
        assert_eq!(refusal("stays", "2Gi", "1Gi", "Pending"), None, "the strategy's business");
        assert!(refusal("grows", "1Gi", "2Gi", "Pending").unwrap().starts_with("Only bound"));
        for class in ["stays", "", "gone"] {
            assert!(refusal(class, "1Gi", "2Gi", "Bound").unwrap().starts_with("only dynamically"), "{class}");
        }
    }
}
