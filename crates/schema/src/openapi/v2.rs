//! `/openapi/v2`: one document for everything that is served.

use std::collections::BTreeSet;

use kybern_apimachinery::{GroupVersion, Gvk, Map, Value, json};

use super::definitions::Definitions;
use super::operations::{self, Operation, Parameter};
use super::{Flavor, Served, plain};

/// What some resources add to the document.
pub struct Part {
    pub paths: Map<String, Value>,
    pub definitions: Map<String, Value>,
    pub parameters: Map<String, Value>,
}

/// The part of built-in resources, and with it all that any custom resource refers to.
pub fn base<'a>(served: impl IntoIterator<Item = &'a Served>) -> Part {
    let any = Served::custom(Gvk::new("none", "v1", "None"), "nones", true, &["status", "scale"], json!({}));
    let cluster = Served { namespaced: false, ..any.clone() };
    let mut all: Vec<&Served> = served.into_iter().collect();
    all.extend([&any, &cluster]);
    let mut part = made(all, Definitions::new(Flavor::V2));
    part.paths.retain(|path, _| !path.starts_with("/apis/none/"));
    part.definitions.retain(|name, _| *name != any.definition && *name != any.list_definition);
    part
}

/// The part of custom resources: only what is their own, to be put beside a [`base`].
pub fn custom<'a>(served: impl IntoIterator<Item = &'a Served>) -> Part {
    Part { parameters: Map::new(), ..made(served, Definitions::custom(Flavor::V2)) }
}

fn made<'a>(served: impl IntoIterator<Item = &'a Served>, mut definitions: Definitions) -> Part {
    let mut all = Vec::new();
    let mut versions: BTreeSet<GroupVersion> = BTreeSet::new();
    for resource in served {
        definitions.add_served(resource);
        all.extend(operations::of(resource));
        if resource.schema.is_none() {
            versions.insert(resource.group_version());
        }
    }
    if !versions.is_empty() {
        all.extend(plain::others(versions.iter().map(|v| v.group.as_str())).into_iter().map(|plain| plain.path));
        all.extend(versions.iter().map(plain::version));
    }
    let mut paths = Map::new();
    let mut shared = BTreeSet::new();
    for path in all {
        let mut item = Map::new();
        let parameters: Vec<Value> = path.parameters.iter().map(|p| parameter(p, &mut shared)).collect();
        if !parameters.is_empty() {
            item.insert("parameters".into(), parameters.into());
        }
        for operation in &path.operations {
            definitions.add(&operation.answer);
            if let Some((body, _)) = &operation.body {
                definitions.add(body);
            }
            item.insert(operation.method.to_owned(), self::operation(operation, &mut shared));
        }
        paths.insert(path.path, Value::Object(item));
    }
    let shared = shared.into_iter().map(|(name, place, ty)| {
        let parameter = Parameter { name, place, ty };
        (key(&parameter), inline(&parameter))
    });
    Part { paths, definitions: definitions.finish().into_iter().collect(), parameters: shared.collect() }
}

/// All but paths, definitions and parameters.
pub fn head(version: &str) -> Value {
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": version},
        "securityDefinitions": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}},
        "security": [{"BearerToken": []}],
    })
}

/// The whole document, as a tree of a few megabytes: write it out and let it go.
pub fn document<'a>(served: impl IntoIterator<Item = &'a Served>, version: &str) -> Value {
    let Part { paths, definitions, parameters } = made(served, Definitions::new(Flavor::V2));
    let mut document = head(version);
    document["paths"] = paths.into();
    document["definitions"] = definitions.into();
    document["parameters"] = parameters.into();
    document
}

fn key(parameter: &Parameter) -> String {
    format!("{}-{}-{}", parameter.name, parameter.place, parameter.ty)
}

fn inline(parameter: &Parameter) -> Value {
    let mut inline = json!({"name": parameter.name, "in": parameter.place, "type": parameter.ty, "uniqueItems": true});
    if parameter.place == "path" {
        inline["required"] = true.into();
    }
    inline
}

/// A reference to a shared parameter. Clients look for `dryRun` and `fieldValidation` without following references.
fn parameter(parameter: &Parameter, shared: &mut BTreeSet<(String, &'static str, &'static str)>) -> Value {
    if matches!(parameter.name.as_str(), "dryRun" | "fieldValidation" | "name") {
        return inline(parameter);
    }
    shared.insert((parameter.name.clone(), parameter.place, parameter.ty));
    json!({"$ref": format!("#/parameters/{}", key(parameter))})
}

fn operation(operation: &Operation, shared: &mut BTreeSet<(String, &'static str, &'static str)>) -> Value {
    let mut parameters: Vec<Value> = Vec::new();
    if let Some((body, required)) = &operation.body {
        let mut body = json!({"name": "body", "in": "body", "schema": {"$ref": Flavor::V2.reference(body)}});
        if *required {
            body["required"] = true.into();
        }
        parameters.push(body);
    }
    parameters.extend(operation.parameters.iter().map(|p| parameter(p, shared)));
    let schema = match operation.answer.as_str() {
        "" => json!({"type": "string"}),
        name => json!({"$ref": Flavor::V2.reference(name)}),
    };
    let responses = operation.responses.iter().map(|(code, description)| {
        let mut response = json!({"description": description});
        if *code != "401" {
            response["schema"] = schema.clone();
        }
        ((*code).to_owned(), response)
    });
    let mut object = json!({
        "operationId": operation.id,
        "tags": [operation.tag],
        "schemes": ["https"],
        "consumes": operation.consumes,
        "produces": operation.produces,
        "responses": responses.collect::<Map<_, _>>(),
    });
    if !parameters.is_empty() {
        object["parameters"] = parameters.into();
    }
    for (name, value) in operations::extensions(operation) {
        object[name] = value;
    }
    object
}
