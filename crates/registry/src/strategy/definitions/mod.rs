//! CustomResourceDefinition objects: names, versions, conversion, and the root of each schema.

mod versions;

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::time::parse_rfc3339;
use kybern_apimachinery::validation::{dns1035_label, dns1123_subdomain};
use kybern_apimachinery::{Value, json, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};
use kybern_schema::structural;
use tokio::runtime::RuntimeFlavor;

use super::webhooks::{webhook_service, webhook_url};
use crate::custom::{Condition, FINALIZER, approval, is_protected, is_true, set_condition};
use crate::tree::{default, flag, has, list, map, text};
use crate::validation::{Errors, format};

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CustomResourceDefinition;

impl Strategy for CustomResourceDefinition {
    fn default(&self, definition: &mut Value) {
        if !definition["spec"].is_object() {
            definition["spec"] = json!({});
        }
        let spec = &mut definition["spec"];
        if !spec["names"].is_object() {
            spec["names"] = json!({});
        }
        let kind = text(&spec["names"], "kind").to_owned();
        for (field, value) in [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))] {
            if !kind.is_empty() && text(&spec["names"], field).is_empty() {
                spec["names"][field] = value.into();
            }
        }
        default(spec, "conversion", json!({"strategy": "None"}));
        if has(&spec["conversion"], "webhook") && has(&spec["conversion"]["webhook"]["clientConfig"], "service") {
            default(&mut spec["conversion"]["webhook"]["clientConfig"]["service"], "port", 443);
        }
    }

    fn prepare_for_create(&self, _: &StrategyContext<'_>, definition: &mut Value) {
        definition["status"] =
            json!({"acceptedNames": {"kind": "", "plural": ""}, "conditions": null, "storedVersions": null});
        add_stored_version(definition);
    }

    fn prepare_for_update(&self, _: &StrategyContext<'_>, definition: &mut Value, _old: &Value) {
        add_stored_version(definition);
    }

    fn validate_create(&self, definition: &Value) -> Vec<FieldError> {
        let mut out = in_place(|| sound(definition, None));
        stored_versions(&mut out, definition);
        approved(&mut out, definition, None);
        preserving(&mut out, definition);
        out
    }

    fn validate_update(&self, definition: &Value, old: &Value) -> Vec<FieldError> {
        let (mut out, path) = (in_place(|| sound(definition, Some(old))), FieldPath::new("spec"));
        let (spec, before) = (&definition["spec"], &old["spec"]);
        let mut kept = |path: FieldPath, new: &Value, old: &Value| {
            if new != old {
                out.push(FieldError::invalid(&path, new.clone(), "field is immutable"));
            }
        };
        let names = path.child("names");
        // Where objects are, and what they say they are.
        if is_true(old, "Established") {
            kept(path.child("scope"), &spec["scope"], &before["scope"]);
            kept(names.child("kind"), &spec["names"]["kind"], &before["names"]["kind"]);
        }
        kept(path.child("group"), &spec["group"], &before["group"]);
        kept(names.child("plural"), &spec["names"]["plural"], &before["names"]["plural"]);
        stored_versions(&mut out, definition);
        approved(&mut out, definition, Some(old));
        if before["preserveUnknownFields"] != true {
            preserving(&mut out, definition);
        }
        out
    }

    /// A definition goes after its objects, whoever deletes it.
    fn deletion_pending(&self, definition: &Value) -> bool {
        !object::is_deleting(definition)
    }

    fn prepare_for_delete(&self, definition: &mut Value) {
        let mut finalizers: Vec<String> = object::finalizers(definition).map(str::to_owned).collect();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
            object::set(definition, &["metadata", "finalizers"], finalizers);
        }
        object::remove(definition, &["metadata", "deletionGracePeriodSeconds"]);
        let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
        let condition = Condition::new("Terminating", "True", "InstanceDeletionPending", message);
        let at = parse_rfc3339(object::str_at(definition, &["metadata", "deletionTimestamp"]));
        set_condition(definition, &condition, at.unwrap_or_default());
    }

    fn warnings(&self, definition: &Value, old: Option<&Value>) -> Vec<String> {
        let known = old.map(unrecognized).unwrap_or_default();
        let new = unrecognized(definition).into_iter().filter(|format| !known.contains(format));
        new.map(|format| format!("unrecognized format {format:?}")).collect()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// Does what a large definition makes take long; others are served by other threads meanwhile.
fn in_place<T>(work: impl FnOnce() -> T) -> T {
    let flavor = tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor());
    match flavor {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// What is wrong with a definition, which takes the place of another.
fn sound(definition: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let (mut out, spec, path) = (Vec::new(), &definition["spec"], FieldPath::new("spec"));
    let (name, group, names, old) =
        (object::name(definition), text(spec, "group"), &spec["names"], old.map(|old| &old["spec"]));
    if !name.is_empty() && name != format!("{}.{group}", text(names, "plural")) {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        out.push(FieldError::invalid(&FieldPath::new("metadata.name"), name, detail));
    }
    let (group_path, faults) = (path.child("group"), dns1123_subdomain(group));
    if group.is_empty() {
        out.push(FieldError::required(&group_path, ""));
    } else if !faults.is_empty() {
        out.push(FieldError::invalid(&group_path, group, faults.join(",")));
    } else if !group.contains('.') {
        out.push(FieldError::invalid(&group_path, group, "should be a domain with at least one dot"));
    }
    format::required_one_of(&mut out, &path.child("scope"), text(spec, "scope"), &["Cluster", "Namespaced"]);
    versions::versions(&mut out, spec, old);
    self::names(&mut out, &path.child("names"), names);
    versions::common(&mut out, spec, old);
    conversion(&mut out, &path.child("conversion"), &spec["conversion"]);
    out
}

/// The formats of texts that nobody checks.
fn unrecognized(definition: &Value) -> Vec<String> {
    fn walk(schema: &Value, found: &mut Vec<String>) {
        if let (Some(format), true) = (schema["format"].as_str(), text(schema, "type") == "string")
            && !format.is_empty()
            && !structural::formats::is_known(format)
        {
            found.push(format.to_owned());
        }
        let children = ["items", "additionalProperties", "not"].into_iter().map(|key| &schema[key]);
        children.filter(|child| child.is_object()).for_each(|child| walk(child, found));
        map(schema, "properties").for_each(|(_, child)| walk(child, found));
        for key in ["allOf", "anyOf", "oneOf"] {
            list(schema, key).iter().for_each(|child| walk(child, found));
        }
    }
    let mut found = Vec::new();
    for version in list(&definition["spec"], "versions") {
        walk(&version["schema"]["openAPIV3Schema"], &mut found);
    }
    found
}

/// A group of the Kubernetes project says where its API was approved. What was wrong before may stay so.
fn approved(out: &mut Errors, definition: &Value, old: Option<&Value>) {
    if !is_protected(text(&definition["spec"], "group")) {
        return;
    }
    let (reason, message) = approval(definition);
    if old.is_some_and(|old| approval(old).0 == reason) {
        return;
    }
    const KEY: &str = "api-approved.kubernetes.io";
    let path = FieldPath::new("metadata.annotations").key(KEY);
    match reason {
        "MissingAnnotation" => out.push(FieldError::required(&path, message)),
        "InvalidAnnotation" => {
            let value = object::annotation(definition, KEY).unwrap_or("");
            out.push(FieldError::invalid(&path, value, message));
        }
        _ => {}
    }
}

fn preserving(out: &mut Errors, definition: &Value) {
    if flag(&definition["spec"], "preserveUnknownFields") {
        let detail =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        out.push(FieldError::invalid(&FieldPath::new("spec.preserveUnknownFields"), true, detail));
    }
}

/// The version that is stored now is one that has been stored.
fn add_stored_version(definition: &mut Value) {
    let versions = list(&definition["spec"], "versions");
    let Some(stored) = versions.iter().find(|version| flag(version, "storage")) else { return };
    let name = Value::from(text(stored, "name"));
    let mut known = list(&definition["status"], "storedVersions").to_vec();
    if !known.contains(&name) {
        known.push(name);
        definition["status"]["storedVersions"] = known.into();
    }
}

fn names(out: &mut Errors, path: &FieldPath, names: &Value) {
    for field in ["plural", "singular", "kind", "listKind"] {
        if text(names, field).is_empty() {
            out.push(FieldError::required(&path.child(field), ""));
        }
    }
    for field in ["plural", "singular", "kind", "listKind"] {
        let name = text(names, field);
        let mixed = matches!(field, "kind" | "listKind");
        let faults = if mixed { dns1035_label(&name.to_lowercase()) } else { dns1035_label(name) };
        if !name.is_empty() && !faults.is_empty() {
            let before = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            out.push(FieldError::invalid(&path.child(field), name, format!("{before}{}", faults.join(","))));
        }
    }
    let list_of = |out: &mut Errors, field: &str| {
        for (i, name) in list(names, field).iter().enumerate() {
            let name = name.as_str().unwrap_or("");
            let faults = dns1035_label(name);
            if !faults.is_empty() {
                out.push(FieldError::invalid(&path.child(field).index(i), name, faults.join(",")));
            }
        }
    };
    list_of(out, "shortNames");
    let kind = text(names, "kind");
    if !kind.is_empty() && kind == text(names, "listKind") {
        let detail = "kind and listKind may not be the same";
        out.push(FieldError::invalid(&path.child("listKind"), kind, detail));
    }
    list_of(out, "categories");
}

fn conversion(out: &mut Errors, path: &FieldPath, conversion: &Value) {
    let strategy = text(conversion, "strategy");
    format::required_one_of(out, &path.child("strategy"), strategy, &["None", "Webhook"]);
    let (webhook, client_path) = (&conversion["webhook"], path.child("webhookClientConfig"));
    let client = &webhook["clientConfig"];
    let given = has(webhook, "clientConfig");
    let versions = list(webhook, "conversionReviewVersions");
    let versions_path = path.child("conversionReviewVersions");
    if strategy != "Webhook" {
        let detail = "should not be set when strategy is not set to Webhook";
        if given {
            out.push(FieldError::forbidden(&client_path, detail));
        }
        if !versions.is_empty() {
            out.push(FieldError::forbidden(&versions_path, detail));
        }
        return;
    }
    match (given, has(client, "url"), has(client, "service")) {
        (false, ..) => out.push(FieldError::required(&client_path, "required when strategy is set to Webhook")),
        (_, true, false) => webhook_url(out, &client_path.child("url"), text(client, "url")),
        (_, false, true) => webhook_service(out, &client_path.child("service"), &client["service"]),
        _ => out.push(FieldError::required(&client_path, "exactly one of url or service is required")),
    }
    if versions.is_empty() {
        out.push(FieldError::required(&versions_path, ""));
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        let text = version.as_str().unwrap_or("");
        if versions[..i].contains(version) {
            out.push(FieldError::invalid(&versions_path.index(i), text, "duplicate version"));
        } else if !dns1035_label(text).is_empty() {
            out.push(FieldError::invalid(&versions_path.index(i), text, dns1035_label(text).join(",")));
        }
    }
    if !versions.iter().any(|version| version == "v1" || version == "v1beta1") {
        let detail = "must include at least one of v1, v1beta1";
        out.push(FieldError::invalid(&versions_path, versions.to_vec(), detail));
    }
}

fn stored_versions(out: &mut Errors, definition: &Value) {
    let path = FieldPath::new("status.storedVersions");
    let (stored, versions) = (list(&definition["status"], "storedVersions"), list(&definition["spec"], "versions"));
    if stored.is_empty() {
        out.push(FieldError::invalid(&path, Value::Null, "must have at least one stored version"));
    }
    // A version stands for one of those that were stored, once.
    let missing = versions.iter().enumerate().find(|(i, version)| {
        let again = versions[..*i].iter().any(|earlier| earlier["name"] == version["name"]);
        flag(version, "storage") && (again || !stored.contains(&version["name"]))
    });
    if !stored.is_empty()
        && let Some((_, missing)) = missing
    {
        let detail = format!("must have the storage version {}", text(missing, "name"));
        out.push(FieldError::invalid(&path, stored.to_vec(), detail));
    }
    for (i, name) in stored.iter().enumerate() {
        let name = name.as_str().unwrap_or("");
        if !versions.iter().any(|version| text(version, "name") == name) {
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            out.push(FieldError::invalid(&path.index(i), name, detail));
        }
    }
}

/// `status` of a definition.
pub(super) fn validate_status(definition: &Value, _old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    stored_versions(&mut out, definition);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(names: Value, versions: Value) -> Value {
        let mut definition = json!({
            "metadata": {"name": "foos.ex.io"},
            "spec": {"group": "ex.io", "scope": "Namespaced", "names": names, "versions": versions},
        });
        CustomResourceDefinition.default(&mut definition);
        definition["status"] = json!({});
        add_stored_version(&mut definition);
        definition
    }

    fn texts(definition: &Value) -> Vec<String> {
        CustomResourceDefinition.validate_create(definition).iter().map(ToString::to_string).collect()
    }

    fn version(name: &str, storage: bool) -> Value {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object"}}})
    }

    /// On one thread, what is waited for could not come.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_large_definition_holds_nobody_up() {
        let (send, receive) = std::sync::mpsc::channel();
        let checking =
            tokio::spawn(async move { in_place(|| receive.recv_timeout(std::time::Duration::from_secs(20))) });
        tokio::spawn(async move { send.send(()) });
        checking.await.unwrap().expect("others go on meanwhile");
    }

    #[test]
    fn names_follow_the_kind() {
        let made = definition(json!({"plural": "foos", "kind": "Foo"}), json!([version("v1", true)]));
        assert_eq!(made["spec"]["names"]["listKind"], "FooList");
        assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
        assert!(texts(&made).is_empty(), "{:?}", texts(&made));
    }

    #[test]
    fn one_version_is_stored() {
        let names = json!({"plural": "foos", "kind": "Foo"});
        let two = definition(names.clone(), json!([version("v1", true), version("v2", true)]));
        assert!(texts(&two)[0].ends_with("must have exactly one version marked as storage version"));
        let mut gone = definition(names, json!([version("v2", true)]));
        gone["status"]["storedVersions"] = json!(["v1", "v2"]);
        assert!(texts(&gone)[0].starts_with("status.storedVersions[0]: Invalid value: \"v1\": missing from"));
    }
}
