//! The rules of a custom resource in one version: its schema's, and those of its definition.

use std::sync::{Arc, Weak};

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::go;
use kybern_apimachinery::validation::label_key;
use kybern_apimachinery::{ApiError, GroupResource, Value, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::strategy::{Strategy, StrategyContext};
use kybern_apiserver::transaction::Transaction;
use kybern_schema::structural::{self, Upkeep, Validator};
use kybern_storage::Guard;

use super::Shared;

/// What is known of a version that objects are checked against.
pub(super) struct Version {
    pub(super) resource: GroupResource,
    pub(super) validator: Validator,
    pub(super) upkeep: Arc<Upkeep>,
    pub(super) has_status: bool,
    /// The `scale` of its subresources.
    pub(super) scale: Option<Value>,
    /// The warning that it is deprecated.
    pub(super) deprecation: Option<String>,
    /// The name of its definition, and who knows what becomes of that.
    pub(super) definition: String,
    pub(super) known: Weak<Shared>,
}

/// The object itself.
pub(super) struct Custom(pub(super) Arc<Version>);

/// Its `status`.
pub(super) struct CustomStatus(pub(super) Arc<Version>);

impl Version {
    /// Where a scale of it would lie must be what a scale can hold.
    fn scale(&self, object: &Value, spec: bool, errors: &mut Vec<FieldError>) {
        let Some(scale) = &self.scale else { return };
        let at = |path: &str| {
            let path = path.trim_start_matches('.');
            path.split('.').try_fold(object, |value, key| value.get(key)).filter(|value| !value.is_null())
        };
        // What is around it may be anything but an object.
        let around = |path: &str| -> Option<String> {
            let names: Vec<&str> = path.trim_start_matches('.').split('.').collect();
            let mut value = object;
            for (i, name) in names.iter().enumerate() {
                match value {
                    Value::Object(fields) => value = fields.get(*name).filter(|value| !value.is_null())?,
                    other => {
                        let (place, shown, ty) = (names[..=i].join("."), shown(other), go::type_of(other));
                        let wanted = "expected map[string]interface{}";
                        return Some(format!(".{place} accessor error: {shown} is of the type {ty}, {wanted}"));
                    }
                }
            }
            None
        };
        let field = if spec { "specReplicasPath" } else { "statusReplicasPath" };
        let path = scale[field].as_str().unwrap_or("");
        let place = FieldPath::new(path);
        match at(path).map(|value| (value, value.as_i64())) {
            None => errors.extend(around(path).map(|detail| FieldError::invalid(&place, 0, detail))),
            Some((value, None)) => {
                let detail = format!(
                    "{path} accessor error: {} is of the type {}, expected int64",
                    shown(value),
                    go::type_of(value)
                );
                errors.push(FieldError::invalid(&place, 0, detail));
            }
            Some((_, Some(n))) if n < 0 => {
                errors.push(FieldError::invalid(&place, n, "should be a non-negative integer"));
            }
            Some((_, Some(n))) if n > i64::from(i32::MAX) => {
                let detail = format!("should be less than or equal to {}", i32::MAX);
                errors.push(FieldError::invalid(&place, n, detail));
            }
            Some(_) => {}
        }
        let selector = scale["labelSelectorPath"].as_str().filter(|path| !spec && !path.is_empty());
        if let Some(path) = selector
            && let Some(detail) = around(path)
        {
            errors.push(FieldError::invalid(&FieldPath::new(path), "", detail));
        }
        if let Some(path) = selector
            && let Some(value) = at(path).filter(|value| !value.is_string())
        {
            let detail = format!(
                "{path} accessor error: {} is of the type {}, expected string",
                shown(value),
                go::type_of(value)
            );
            errors.push(FieldError::invalid(&FieldPath::new(path), "", detail));
        }
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl Version {
    /// Whatever else is wrong with it, and then its rules, which rely on much of the rest.
    fn check(&self, object: &Value, old: Option<&Value>, warnings: &mut Vec<String>) -> Vec<FieldError> {
        let mut errors = self.validator.against_schema(object, old);
        self.scale(object, true, &mut errors);
        self.scale(object, false, &mut errors);
        errors.extend(self.validator.structure(object, old));
        self.rules(object, old, &mut errors, warnings);
        errors
    }

    fn check_status(&self, object: &Value, old: &Value, warnings: &mut Vec<String>) -> Vec<FieldError> {
        let mut errors = self.validator.status_against_schema(object, old);
        self.scale(object, false, &mut errors);
        errors.extend(self.validator.lists(object, Some(old)));
        self.rules(object, Some(old), &mut errors, warnings);
        errors
    }

    fn rules(&self, object: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>, warnings: &mut Vec<String>) {
        if !self.validator.has_rules() {
            return;
        }
        match structural::blocked(errors) {
            Some(blocked) => errors.push(blocked),
            None => errors.extend(self.validator.rules(object, old, warnings)),
        }
    }
}

impl Strategy for Custom {
    fn default(&self, object: &mut Value) {
        self.0.upkeep.settle_nulls(object);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        self.0.check(object, None, &mut Vec::new())
    }

    fn check_update(&self, object: &Value, old: &Value, warnings: &mut Vec<String>) -> Vec<FieldError> {
        self.0.check(object, Some(old), warnings)
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let known: Vec<&str> = old.map(|old| object::finalizers(old).collect()).unwrap_or_default();
        let mut new: Vec<&str> = object::finalizers(object).filter(|f| !known.contains(f)).collect();
        new.sort_unstable();
        new.dedup();
        new.into_iter().flat_map(finalizer_warnings).collect()
    }

    fn deprecation(&self) -> Option<&str> {
        self.0.deprecation.as_deref()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn qualified_finalizers(&self) -> bool {
        false
    }

    /// A new object is committed only while its definition is as it was seen here, and not being removed: whoever counts the
    /// objects that are left of a definition finds all that there will be.
    fn claim<'a>(
        &'a self,
        _: &'a StrategyContext<'a>,
        object: &'a mut Value,
        old: Option<&'a Value>,
        transaction: &'a Transaction,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            if old.is_some() {
                return Ok(());
            }
            let Version { resource, definition, known, .. } = &*self.0;
            let Some((revision, terminating)) = known.upgrade().and_then(|known| known.standing(definition)) else {
                return Err(ApiError::no_such_path());
            };
            if terminating {
                let reason = "create not allowed while custom resource definition is terminating";
                return Err(ApiError::forbidden(resource, object::name(object), reason));
            }
            let key = format!("/registry/apiextensions.k8s.io/customresourcedefinitions/{definition}");
            transaction.guard(Guard::At(key.into(), revision));
            Ok(())
        })
    }
}

fn finalizer_warnings(name: &str) -> Vec<String> {
    let mut warnings: Vec<String> =
        label_key(name).into_iter().map(|fault| format!("metadata.finalizers: {name:?}: {fault}")).collect();
    if !name.contains('/') && !["orphan", "foregroundDeletion", "kubernetes"].contains(&name) {
        let (including, others) = if name.contains('.') {
            (" including a path (/)", " with other finalizer writers")
        } else {
            ("", " with other finalizer writers")
        };
        warnings.push(format!(
            "metadata.finalizers: {name:?}: prefer a domain-qualified finalizer name{including} to avoid accidental conflicts{others}"
        ));
    }
    warnings
}

impl Strategy for CustomStatus {
    fn prepare_for_update(&self, _: &StrategyContext<'_>, object: &mut Value, old: &Value) {
        // Nothing but the status and who owns it is taken.
        let managed = object::remove(object, &["metadata", "managedFields"]);
        let mut metadata = old["metadata"].clone();
        object::remove(&mut metadata, &["managedFields"]);
        if let Some(managed) = managed {
            metadata["managedFields"] = managed;
        }
        object["metadata"] = metadata;
    }

    fn check_update(&self, object: &Value, old: &Value, warnings: &mut Vec<String>) -> Vec<FieldError> {
        self.0.check_status(object, old, warnings)
    }

    fn deprecation(&self) -> Option<&str> {
        self.0.deprecation.as_deref()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn qualified_finalizers(&self) -> bool {
        false
    }
}
