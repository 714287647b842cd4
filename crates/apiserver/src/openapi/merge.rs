//! Another server's part of `/openapi/v2`, brought into this server's.

use std::collections::{HashMap, HashSet};

use kybern_apimachinery::Value;
use kybern_schema::openapi;
use serde_json::Map;

use crate::openapi_parts::hash;

const DEFINITIONS: &str = "#/definitions/";
const PARAMETERS: &str = "#/parameters/";

/// Of a document of `/openapi/v2`, the paths of one group and version with the definitions and parameters that they need.
pub fn part_of(document: &Value, group: &str, version: &str) -> Value {
    let prefix = format!("/apis/{group}/{version}/");
    let own = |(path, _): &(&String, &Value)| path.starts_with(&prefix);
    let paths: Map<String, Value> =
        entries(document, "paths").filter(own).map(|(p, v)| (p.clone(), v.clone())).collect();
    let mut definitions = Map::new();
    let (mut wanted, mut shared) = (Vec::new(), Vec::new());
    paths.values().for_each(|path| references(path, DEFINITIONS, &mut wanted));
    paths.values().for_each(|path| references(path, PARAMETERS, &mut shared));
    while let Some(name) = wanted.pop() {
        if let Some(definition) = document["definitions"].get(&name).filter(|_| !definitions.contains_key(&name)) {
            references(definition, DEFINITIONS, &mut wanted);
            definitions.insert(name, definition.clone());
        }
    }
    let parameter = |name: String| Some((name.clone(), document["parameters"].get(&name)?.clone()));
    let parameters: Map<String, Value> = shared.into_iter().filter_map(parameter).collect();
    kybern_apimachinery::json!({"paths": paths, "definitions": definitions, "parameters": parameters})
}

/// What a part adds to a document that has these definitions (each with its [`hash`]) and parameters: a definition that is
/// there under its name and says something else gets another name. What it adds is known from then on.
pub(super) fn beside(
    part: &Value,
    known: &mut HashMap<String, u64>,
    known_parameters: &mut HashSet<String>,
) -> openapi::V2Part {
    let mut renamed: HashMap<String, String> = HashMap::new();
    let mut added = Vec::new();
    for (name, definition) in entries(part, "definitions") {
        let hash = hash(definition);
        match known.get(name) {
            None => added.push((name.clone(), hash, definition)),
            Some(same) if *same == hash => {}
            Some(_) => {
                let free = (2u32..).map(|n| format!("{name}_v{n}"));
                let is_free = |other: &String| !known.contains_key(other) && part["definitions"].get(other).is_none();
                if let Some(other) = free.into_iter().find(is_free) {
                    renamed.insert(name.clone(), other.clone());
                    added.push((other, hash, definition));
                }
            }
        }
    }
    let named = |value: &Value| {
        let mut value = value.clone();
        if !renamed.is_empty() {
            rename(&mut value, &renamed);
        }
        value
    };
    known.extend(added.iter().map(|(name, hash, _)| (name.clone(), *hash)));
    let is_new = |(name, _): &(&String, &Value)| known_parameters.insert((*name).clone());
    openapi::V2Part {
        definitions: added.into_iter().map(|(name, _, definition)| (name, named(definition))).collect(),
        parameters: entries(part, "parameters")
            .filter(is_new)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        paths: entries(part, "paths").map(|(path, item)| (path.clone(), named(item))).collect(),
    }
}

fn entries<'a>(document: &'a Value, field: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    document[field].as_object().into_iter().flatten()
}

/// Names of the definitions or parameters that something refers to.
fn references(value: &Value, place: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(name) = fields.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(place)) {
                found.push(name.to_owned());
            }
            fields.values().for_each(|value| references(value, place, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, place, found)),
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
        let mut first = refers("X");
        first["parameters"] = json!([{"$ref": "#/parameters/p"}]);
        let document = json!({
            "paths": {"/apis/a.b/v1/x": first, "/apis/a.b/v10/x": refers("Z"), "/apis/apps/v1/x": refers("Z")},
            "definitions": {"X": {"properties": {"y": {"$ref": "#/definitions/Y"}}}, "Y": {"items": [{"$ref": "#/definitions/X"}]}, "Z": {}},
            "parameters": {"p": {"name": "p"}, "q": {"name": "q"}},
        });
        let part = part_of(&document, "a.b", "v1");
        assert_eq!(part["paths"], json!({"/apis/a.b/v1/x": first}));
        assert_eq!(part["definitions"].as_object().unwrap().keys().collect::<Vec<_>>(), ["X", "Y"]);
        assert_eq!(part["parameters"], json!({"p": {"name": "p"}}));
        let nothing = json!({"paths": {}, "definitions": {}, "parameters": {}});
        assert_eq!(part_of(&json!(["rubbish"]), "a.b", "v1"), nothing);
    }

    #[test]
    fn what_is_there_is_kept_as_it_is() {
        let one = json!({"a": 1});
        let mut known = HashMap::from([("Same".to_owned(), hash(&one)), ("Other".to_owned(), hash(&one))]);
        let mut parameters = HashSet::from(["p".to_owned()]);
        let part = json!({
            "paths": {"/q": refers("Other")},
            "definitions": {"Same": {"a": 1}, "Other": {"self": {"$ref": "#/definitions/Other"}}, "New": refers("Same")},
            "parameters": {"p": {"name": "other"}, "q": {"name": "q"}},
        });
        let added = beside(&part, &mut known, &mut parameters);
        assert_eq!(Value::from(added.paths), json!({"/q": refers("Other_v2")}));
        let other = json!({"self": {"$ref": "#/definitions/Other_v2"}});
        assert_eq!(Value::from(added.definitions), json!({"New": refers("Same"), "Other_v2": other}));
        assert_eq!(Value::from(added.parameters), json!({"q": {"name": "q"}}));
        // The same once more adds no definition.
        let again = beside(&json!({"definitions": {"New": refers("Same")}}), &mut known, &mut parameters);
        assert!(again.definitions.is_empty());
    }
}
