//! Another server's part of `/openapi/v2`, brought into this server's.

use std::collections::HashMap;

use kybern_apimachinery::Value;
use serde_json::Map;

const DEFINITIONS: &str = "#/definitions/";

/// Of a document of `/openapi/v2`, the paths of one group and version and the definitions that they need.
pub fn part_of(document: &Value, group: &str, version: &str) -> Value {
    let prefix = format!("/apis/{group}/{version}/");
    let own = |(path, _): &(&String, &Value)| path.starts_with(&prefix);
    let paths: Map<String, Value> =
        entries(document, "paths").filter(own).map(|(p, v)| (p.clone(), v.clone())).collect();
    let mut definitions = Map::new();
    let mut wanted = Vec::new();
    paths.values().for_each(|path| references(path, &mut wanted));
    while let Some(name) = wanted.pop() {
        if let Some(definition) = document["definitions"].get(&name).filter(|_| !definitions.contains_key(&name)) {
            references(definition, &mut wanted);
            definitions.insert(name, definition.clone());
        }
    }
    kybern_apimachinery::json!({"paths": paths, "definitions": definitions})
}

/// Adds what a part has to a document: paths that are not there yet, and definitions; one that is there under its name and
/// says something else gets another.
pub(super) fn into(document: &mut Value, part: &Value) {
    let mut renamed: HashMap<String, String> = HashMap::new();
    for (name, definition) in entries(part, "definitions") {
        let known = &document["definitions"];
        if known.get(name).is_none_or(|known| known == definition) {
            continue;
        }
        let free = (2u32..).map(|n| format!("{name}_v{n}"));
        let other =
            free.into_iter().find(|other| known.get(other).is_none() && part["definitions"].get(other).is_none());
        renamed.extend(other.map(|other| (name.clone(), other)));
    }
    let added = |(name, value): (&String, &Value)| {
        let mut value = value.clone();
        if !renamed.is_empty() {
            rename(&mut value, &renamed);
        }
        (name.clone(), value)
    };
    for (name, definition) in entries(part, "definitions").map(added) {
        let name = renamed.get(&name).cloned().unwrap_or(name);
        document["definitions"][name] = definition;
    }
    for (path, item) in entries(part, "paths").map(added) {
        if document["paths"].get(&path).is_none() {
            document["paths"][path] = item;
        }
    }
}

fn entries<'a>(document: &'a Value, field: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    document[field].as_object().into_iter().flatten()
}

/// Names of the definitions that something refers to.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(name) = fields.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(DEFINITIONS)) {
                found.push(name.to_owned());
            }
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn rename(value: &mut Value, names: &HashMap<String, String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get_mut("$ref")
                && let Some(other) = reference.strip_prefix(DEFINITIONS).and_then(|name| names.get(name))
            {
                *reference = format!("{DEFINITIONS}{other}");
            }
            fields.values_mut().for_each(|value| rename(value, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| rename(value, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;

    fn refers(name: &str) -> Value {
        json!({"schema": {"$ref": format!("#/definitions/{name}")}})
    }

    #[test]
    fn a_part_has_its_paths_and_what_they_need() {
        let document = json!({
            "paths": {"/apis/a.b/v1/x": refers("X"), "/apis/a.b/v10/x": refers("Z"), "/apis/apps/v1/x": refers("Z")},
            "definitions": {"X": {"properties": {"y": {"$ref": "#/definitions/Y"}}}, "Y": {"items": [{"$ref": "#/definitions/X"}]}, "Z": {}},
        });
        let part = part_of(&document, "a.b", "v1");
        assert_eq!(part["paths"], json!({"/apis/a.b/v1/x": refers("X")}));
        assert_eq!(part["definitions"].as_object().unwrap().keys().collect::<Vec<_>>(), ["X", "Y"]);
        assert_eq!(part_of(&json!(["rubbish"]), "a.b", "v1"), json!({"paths": {}, "definitions": {}}));
    }

    #[test]
    fn what_is_there_is_kept_as_it_is() {
        let mut document = json!({"paths": {"/p": 1}, "definitions": {"Same": {"a": 1}, "Other": {"a": 1}}});
        let part = json!({
            "paths": {"/p": 2, "/q": refers("Other")},
            "definitions": {"Same": {"a": 1}, "Other": {"self": {"$ref": "#/definitions/Other"}}, "New": refers("Same")},
        });
        into(&mut document, &part);
        assert_eq!(document["paths"], json!({"/p": 1, "/q": refers("Other_v2")}));
        let definitions = &document["definitions"];
        assert_eq!((&definitions["Other"], &definitions["Same"]), (&json!({"a": 1}), &json!({"a": 1})));
        assert_eq!(definitions["Other_v2"], json!({"self": {"$ref": "#/definitions/Other_v2"}}));
        assert_eq!(definitions["New"], refers("Same"));
    }
}
