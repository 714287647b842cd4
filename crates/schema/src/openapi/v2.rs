//! `/openapi/v2`: one document for everything that is served.

use std::collections::BTreeSet;

use kybern_apimachinery::{Map, Value, json};

use super::definitions::Definitions;
use super::operations::{self, Operation, Parameter};
use super::{Flavor, Served};

/// The whole document, as a tree of a few megabytes: write it out and let it go.
pub fn document<'a>(served: impl IntoIterator<Item = &'a Served>, version: &str) -> Value {
    let mut definitions = Definitions::new(Flavor::V2);
    let mut paths = Map::new();
    let mut shared = BTreeSet::new();
    for resource in served {
        definitions.add_served(resource);
        for path in operations::of(resource) {
            let mut item = Map::new();
            item.insert("parameters".into(), path.parameters.iter().map(|p| parameter(p, &mut shared)).collect());
            for operation in &path.operations {
                definitions.add(&operation.answer);
                if let Some((body, _)) = &operation.body {
                    definitions.add(body);
                }
                item.insert(operation.method.to_owned(), self::operation(operation, &mut shared));
            }
            paths.insert(path.path, Value::Object(item));
        }
    }
    let shared = shared.into_iter().map(|(name, place, ty)| {
        let parameter = Parameter { name, place, ty };
        (key(&parameter), inline(&parameter))
    });
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": paths,
        "definitions": definitions.finish().into_iter().collect::<Map<_, _>>(),
        "parameters": shared.collect::<Map<_, _>>(),
        "securityDefinitions": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}},
        "security": [{"BearerToken": []}],
    })
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
