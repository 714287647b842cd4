//! What every kind's `metadata` needs: filled in by the server, checked with upstream's texts (`ValidateObjectMeta`).

use jiff::Timestamp;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::object::{self, map_at_mut};
use kybern_apimachinery::{Map, Value, time, validation};
use kybern_component_base::uuid;

use crate::resource::Generation;

/// Annotations in total, keys and values.
const MAX_ANNOTATIONS: usize = 256 << 10;
/// A generated name is cut to this, and gets five characters more.
const MAX_GENERATED_BASE: usize = 58;
/// Upstream's alphabet: no vowels, nothing that looks like something else.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A name made of a `generateName`.
pub(crate) fn generate_name(base: &str) -> String {
    let mut end = base.len().min(MAX_GENERATED_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    // 27 does not divide 256; the bias is of no account for telling names apart.
    let suffix = uuid::random::<5>().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()]));
    base[..end].chars().chain(suffix).collect()
}

/// Fills in a new object's metadata, taking away what a creator may not set.
pub(crate) fn prepare_for_create(object: &mut Value, generation: Generation, now: Timestamp) {
    let metadata = map_at_mut(object, &["metadata"]);
    for field in ["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), uuid::v4().into());
    metadata.insert("creationTimestamp".into(), time::to_rfc3339(now).into());
    if !matches!(generation, Generation::None | Generation::Updates) {
        metadata.insert("generation".into(), 1.into());
    }
}

/// Takes over from the old object what an update does not change or may leave out.
pub(crate) fn prepare_for_update(object: &mut Value, old: &Value) {
    let empty = Map::new();
    let before = object::at(old, &["metadata"]).and_then(Value::as_object).unwrap_or(&empty);
    let metadata = map_at_mut(object, &["metadata"]);
    for field in ["generation", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        match before.get(field) {
            Some(value) => metadata.insert(field.into(), value.clone()),
            None => metadata.remove(field),
        };
    }
    for field in ["uid", "creationTimestamp", "generateName"] {
        if let (true, Some(value)) = (metadata.get(field).is_none_or(|v| v.is_null() || v == ""), before.get(field)) {
            metadata.insert(field.into(), value.clone());
        }
    }
    metadata.remove("resourceVersion");
}

/// Counts a change of what the kind's generation is of.
pub(crate) fn count_generation(object: &mut Value, old: &Value, generation: Generation, subresource: &str) {
    if generation == Generation::None {
        return;
    }
    let status = if generation == Generation::SpecAndStatus { "metadata" } else { "status" };
    let ignored = ["metadata", status, "apiVersion", "kind"];
    let rest = |value: &Value, other: &Value| {
        let other = other.as_object();
        value
            .as_object()
            .into_iter()
            .flatten()
            .all(|(k, v)| ignored.contains(&k.as_str()) || other.is_some_and(|o| o.get(k) == Some(v)))
    };
    let counted = match generation {
        Generation::SpecAndAnnotations if subresource != "status" => Some("annotations"),
        Generation::SpecAndLabels => Some("labels"),
        _ => None,
    };
    let map = |value: &Value, field: &str| {
        let map = object::at(value, &["metadata", field]).and_then(Value::as_object);
        map.filter(|m| !m.is_empty()).cloned()
    };
    let marked = counted.is_some_and(|field| map(object, field) != map(old, field));
    if marked || !(rest(object, old) && rest(old, object)) {
        object::set(object, &["metadata", "generation"], object::generation(old) + 1);
    }
}

/// Drops owner references that equal an earlier one, and answers the warning.
pub(crate) fn drop_duplicate_owners(object: &mut Value, admitted: bool) -> Option<String> {
    let path = ["metadata", "ownerReferences"];
    let references = object::at(object, &path).and_then(Value::as_array).filter(|r| r.len() > 1)?;
    let (mut kept, mut dropped): (Vec<Value>, Vec<&str>) = (Vec::new(), Vec::new());
    for reference in references {
        if kept.contains(reference) {
            dropped.push(reference["uid"].as_str().unwrap_or(""));
        } else {
            kept.push(reference.clone());
        }
    }
    if dropped.is_empty() {
        return None;
    }
    let when = if admitted { " after mutating admission happens" } else { "" };
    let warning = format!(
        ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may \
         reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        dropped.join(", ")
    );
    object::set(object, &path, kept);
    Some(warning)
}

/// Checks the metadata of any object.
pub(crate) fn validate(
    object: &Value,
    namespaced: bool,
    qualified_finalizers: bool,
    validate_name: impl Fn(&str) -> Vec<String>,
) -> Vec<FieldError> {
    let meta = FieldPath::new("metadata");
    let mut errors = Vec::new();
    let generate = object::str_at(object, &["metadata", "generateName"]);
    if !generate.is_empty() {
        // The rest of the name is not known yet: a trailing dash is fine.
        let probe = format!("{}a", generate.trim_end_matches(['-', '.']));
        let problems = validate_name(&probe);
        errors.extend(problems.into_iter().map(|p| FieldError::invalid(&meta.child("generateName"), generate, p)));
    }
    let name = object::name(object);
    if name.is_empty() {
        errors.push(FieldError::required(&meta.child("name"), "name or generateName is required"));
    } else {
        errors.extend(
            path_segment(name)
                .into_iter()
                .chain(validate_name(name))
                .map(|p| FieldError::invalid(&meta.child("name"), name, p)),
        );
    }
    let namespace = object::namespace(object);
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.push(FieldError::required(&meta.child("namespace"), "")),
        (true, false) => {
            let problems = validation::dns1123_label(namespace).into_iter();
            errors.extend(problems.map(|p| FieldError::invalid(&meta.child("namespace"), namespace, p)));
        }
        (false, false) => errors.push(FieldError::forbidden(&meta.child("namespace"), "not allowed on this type")),
        (false, true) => {}
    }
    labels(object, &meta.child("labels"), &mut errors);
    annotations(object, &meta.child("annotations"), &mut errors);
    owners(object, &meta.child("ownerReferences"), &mut errors);
    for (i, finalizer) in object::finalizers(object).enumerate() {
        errors.extend(finalizer_name(finalizer, &meta.child("finalizers"), i, qualified_finalizers));
    }
    errors
}

/// What cannot be part of a path.
fn path_segment(name: &str) -> Vec<String> {
    if name == "." || name == ".." {
        return vec![format!("may not be '{name}'")];
    }
    ['/', '%'].into_iter().filter(|c| name.contains(*c)).map(|c| format!("may not contain '{c}'")).collect()
}

fn labels(object: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    for (key, value) in object::labels(object).into_iter().flatten() {
        errors.extend(validation::label_key(key).into_iter().map(|p| FieldError::invalid(path, key.as_str(), p)));
        let value = value.as_str().unwrap_or("");
        errors.extend(validation::label_value(value).into_iter().map(|p| FieldError::invalid(path, value, p)));
    }
}

fn annotations(object: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let annotations = object::at(object, &["metadata", "annotations"]).and_then(Value::as_object);
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        let problems = validation::label_key(&key.to_ascii_lowercase());
        errors.extend(problems.into_iter().map(|p| FieldError::invalid(path, key.as_str(), p)));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError::too_long(path, MAX_ANNOTATIONS));
    }
}

fn owners(object: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let references = object::at(object, &["metadata", "ownerReferences"]).and_then(Value::as_array);
    let mut controller: Option<&str> = None;
    for reference in references.into_iter().flatten() {
        let text = |field: &str| reference[field].as_str().unwrap_or("");
        for (field, detail) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(field).is_empty() {
                errors.push(FieldError::invalid(&path.child(field), "", detail));
            }
        }
        if text("kind") == "Event" && matches!(text("apiVersion"), "v1" | "events.k8s.io/v1") {
            let detail = format!("{}, Kind=Event is disallowed from being an owner", text("apiVersion"));
            errors.push(FieldError::invalid(path, reference.clone(), detail));
        }
        if reference["controller"] == true {
            if let Some(first) = controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {}",
                    text("name")
                );
                errors.push(FieldError::invalid(path, Value::from(references.cloned().unwrap_or_default()), detail));
            }
            controller = controller.or(Some(text("name")));
        }
    }
}

fn finalizer_name(finalizer: &str, path: &FieldPath, i: usize, qualified: bool) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> =
        validation::label_key(finalizer).into_iter().map(|p| FieldError::invalid(path, finalizer, p)).collect();
    if qualified && !finalizer.contains('/') && !["orphan", "foregroundDeletion", "kubernetes"].contains(&finalizer) {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        errors.push(FieldError::invalid(&path.index(i), finalizer, detail));
    }
    errors
}

/// Checks what an update may not change.
pub(crate) fn validate_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let meta = FieldPath::new("metadata");
    let mut errors = Vec::new();
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let at = |object: &Value| object::at(object, &["metadata", field]).filter(|v| !v.is_null()).cloned();
        let (new, before) = (at(object), at(old));
        if new != before {
            errors.push(FieldError::invalid(&meta.child(field), new.unwrap_or_default(), "field is immutable"));
        }
    }
    if object::is_deleting(old) {
        let added: Vec<&str> =
            object::finalizers(object).filter(|f| !object::finalizers(old).any(|o| o == *f)).collect();
        if !added.is_empty() {
            let quoted: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                quoted.join(", ")
            );
            errors.push(FieldError::forbidden(&meta.child("finalizers"), detail));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn texts(metadata: Value) -> Vec<String> {
        let object = json!({"metadata": metadata});
        validate(&object, true, true, validation::dns1123_subdomain).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn good_metadata_passes() {
        let good = json!({
            "name": "a", "namespace": "ns", "labels": {"app": "x"}, "annotations": {"A.example/B": "anything at all"},
            "finalizers": ["orphan", "example.com/f"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}],
        });
        assert_eq!(texts(good), Vec::<String>::new());
    }

    #[test]
    fn bad_metadata_is_told() {
        let check = |metadata: Value, expect: &str| {
            let got = texts(metadata);
            assert!(got.iter().any(|t| t.starts_with(expect)), "{got:?} lacks {expect}");
        };
        check(json!({"namespace": "ns"}), "metadata.name: Required value: name or generateName is required");
        check(
            json!({"name": "A", "namespace": "ns"}),
            "metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain",
        );
        check(json!({"name": "a/b", "namespace": "ns"}), "metadata.name: Invalid value: \"a/b\": may not contain '/'");
        check(json!({"name": "a"}), "metadata.namespace: Required value");
        check(
            json!({"name": "a", "namespace": "ns", "labels": {"x": "b c"}}),
            "metadata.labels: Invalid value: \"b c\"",
        );
        check(
            json!({"name": "a", "namespace": "ns", "finalizers": ["x"]}),
            "metadata.finalizers[0]: Invalid value: \"x\": name is neither",
        );
        check(
            json!({"name": "a", "namespace": "ns", "annotations": {"a": "x".repeat(300_000)}}),
            "metadata.annotations: Too long",
        );
        check(
            json!({"name": "a", "namespace": "ns", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}),
            "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty",
        );
    }

    #[test]
    fn updates_keep_identity() {
        let old =
            json!({"metadata": {"name": "a", "uid": "1", "generation": 3, "creationTimestamp": "t"}, "spec": {"x": 1}});
        let mut new =
            json!({"metadata": {"name": "a", "resourceVersion": "9", "deletionTimestamp": "x"}, "spec": {"x": 1}});
        prepare_for_update(&mut new, &old);
        count_generation(&mut new, &old, Generation::Spec, "");
        assert_eq!(new, old);
        new["spec"]["x"] = 2.into();
        count_generation(&mut new, &old, Generation::Spec, "");
        assert_eq!(object::generation(&new), 4);
        new["metadata"]["uid"] = "2".into();
        assert_eq!(
            validate_update(&new, &old)[0].to_string(),
            "metadata.uid: Invalid value: \"2\": field is immutable"
        );
    }

    #[test]
    fn a_deleted_object_gets_no_new_finalizers() {
        let old = json!({"metadata": {"deletionTimestamp": "t", "finalizers": ["a/b"]}});
        let new = json!({"metadata": {"deletionTimestamp": "t", "finalizers": ["a/b", "c/d"]}});
        assert_eq!(
            validate_update(&new, &old)[0].to_string(),
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"c/d\"}"
        );
    }

    #[test]
    fn generated_names() {
        let name = generate_name("web-");
        assert!(name.starts_with("web-") && name.len() == 9 && validation::dns1123_label(&name).is_empty());
        assert_eq!(generate_name(&"x".repeat(80)).len(), 63);
    }
}
