//! `apiextensions.k8s.io/v1beta1`: the form in which upstream's servers store definitions, being the smaller one. What all
//! versions share stands beside them there. It is read, and never served or written.

use kybern_apimachinery::{Map, Value, json};

/// What v1 has in each version, by its names there and in v1.
const SHARED: [(&str, &str); 4] = [
    ("validation", "schema"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
    ("selectableFields", "selectableFields"),
];

pub(super) fn to_v1(mut object: Value) -> Value {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return object };
    let version = spec.remove("version").filter(|version| version.as_str().is_some_and(|name| !name.is_empty()));
    let none = spec.get("versions").and_then(Value::as_array).is_none_or(Vec::is_empty);
    if let Some(name) = version.filter(|_| none) {
        spec.insert("versions".to_owned(), json!([{"name": name, "served": true, "storage": true}]));
    }
    // Unset it is true there.
    match spec.remove("preserveUnknownFields") {
        Some(Value::Bool(false)) => {}
        _ => drop(spec.insert("preserveUnknownFields".to_owned(), true.into())),
    }
    if let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut) {
        reshape_conversion(conversion);
    }
    for (from, to) in SHARED {
        let Some(shared) = spec.remove(from).filter(|shared| !shared.is_null()) else { continue };
        for version in versions(spec) {
            version.insert(to.to_owned(), shared.clone());
        }
    }
    for version in versions(spec) {
        let columns = version.get_mut("additionalPrinterColumns").and_then(Value::as_array_mut);
        for column in columns.into_iter().flatten() {
            super::rename(column, "JSONPath", "jsonPath");
        }
    }
    object
}

fn versions(spec: &mut Map<String, Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    let versions = spec.get_mut("versions").and_then(Value::as_array_mut);
    versions.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn reshape_conversion(conversion: &mut Map<String, Value>) {
    let mut webhook = Map::new();
    for (from, to) in
        [("webhookClientConfig", "clientConfig"), ("conversionReviewVersions", "conversionReviewVersions")]
    {
        if let Some(value) = conversion.remove(from).filter(|value| !value.is_null()) {
            webhook.insert(to.to_owned(), value);
        }
    }
    if !webhook.is_empty() {
        conversion.insert("webhook".to_owned(), webhook.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_versions_share_is_in_each_of_them() {
        let schema = json!({"openAPIV3Schema": {"type": "object"}});
        let stored = json!({"apiVersion": "apiextensions.k8s.io/v1beta1", "spec": {
            "group": "g", "version": "v1", "preserveUnknownFields": false, "validation": schema, "subresources": {"status": {}},
            "additionalPrinterColumns": [{"name": "A", "type": "string", "JSONPath": ".a"}],
            "selectableFields": [{"jsonPath": ".spec.a"}],
            "conversion": {"strategy": "Webhook", "webhookClientConfig": {"url": "u"}, "conversionReviewVersions": ["v1"]},
            "versions": [{"name": "v1", "served": true, "storage": true}, {"name": "v2", "served": true, "storage": false}]}});
        let spec = to_v1(stored)["spec"].take();
        let version = |name: &str, storage: bool| {
            json!({"name": name, "served": true, "storage": storage, "schema": schema, "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "A", "type": "string", "jsonPath": ".a"}],
                "selectableFields": [{"jsonPath": ".spec.a"}]})
        };
        assert_eq!(
            spec,
            json!({"group": "g", "versions": [version("v1", true), version("v2", false)],
                "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": {"url": "u"}, "conversionReviewVersions": ["v1"]}}})
        );
    }

    #[test]
    fn what_versions_have_of_their_own_stays() {
        let column = |key: &str| json!([{"name": "A", "type": "string", key: ".a"}]);
        let stored = json!({"spec": {"version": "v1", "conversion": {"strategy": "None"},
            "versions": [{"name": "v1", "schema": {"a": 1}, "additionalPrinterColumns": column("JSONPath")}, {"name": "v2", "schema": {"b": 2}}]}});
        assert_eq!(
            to_v1(stored)["spec"],
            json!({"preserveUnknownFields": true, "conversion": {"strategy": "None"},
                "versions": [{"name": "v1", "schema": {"a": 1}, "additionalPrinterColumns": column("jsonPath")}, {"name": "v2", "schema": {"b": 2}}]})
        );
        let of_old = to_v1(json!({"spec": {"version": "v1", "preserveUnknownFields": false}}));
        assert_eq!(of_old["spec"], json!({"versions": [{"name": "v1", "served": true, "storage": true}]}));
    }
}
