//! `/openapi/v3`: an index, and one document per group and version.

use kybern_apimachinery::{GroupVersion, Map, Value, json};

use super::definitions::Definitions;
use super::operations::{self, Operation, Parameter, Path};
use super::plain::{self, Plain};
use super::{Flavor, Served};

/// Where a group and version's document is, below `/openapi/v3/`: `api/v1`, `apis/apps/v1`.
pub fn path(group_version: &GroupVersion) -> String {
    match group_version.group.as_str() {
        "" => format!("api/{}", group_version.version),
        group => format!("apis/{group}/{}", group_version.version),
    }
}

/// Where a document of this path and fingerprint is.
pub fn address(path: &str, hash: &str) -> String {
    format!("/openapi/v3/{path}?hash={hash}")
}

/// The index of documents, given by their fingerprints: each one's address with it, so that clients can keep what they have.
pub fn index<'a>(documents: impl IntoIterator<Item = (GroupVersion, &'a str)>) -> Value {
    let entry = |(group_version, hash): (GroupVersion, &str)| {
        let path = path(&group_version);
        let address = json!({"serverRelativeURL": address(&path, hash)});
        (path, address)
    };
    json!({"paths": documents.into_iter().map(entry).collect::<Map<_, _>>()})
}

/// The document of one group and version; `None` where nothing of it is served.
pub fn document(group_version: &GroupVersion, served: &[Served], version: &str) -> Option<Value> {
    let mut definitions = Definitions::new(Flavor::V3);
    let mut paths = Vec::new();
    let mut is_built_in = false;
    for resource in served.iter().filter(|s| s.group_version() == *group_version) {
        definitions.add_served(resource);
        paths.extend(operations::of(resource));
        is_built_in |= resource.schema.is_none();
    }
    paths.extend(is_built_in.then(|| plain::version(group_version)));
    (!paths.is_empty()).then(|| made(paths, definitions, version))
}

/// Documents of paths that are no resources, each with its path below `/openapi/v3/`; `groups` are those of built-in kinds.
pub fn others<'a>(groups: impl Iterator<Item = &'a str>, version: &str) -> Vec<(String, Value)> {
    let document = |plain: Plain| {
        let made = made(vec![plain.path], Definitions::new(Flavor::V3), version);
        (plain.document, made)
    };
    plain::others(groups).into_iter().map(document).collect()
}

fn made(all: Vec<Path>, mut definitions: Definitions, version: &str) -> Value {
    let mut paths = Map::new();
    for path in all {
        let mut item = Map::new();
        if !path.parameters.is_empty() {
            item.insert("parameters".into(), path.parameters.iter().map(parameter).collect());
        }
        for operation in &path.operations {
            definitions.add(&operation.answer);
            if let Some((body, _)) = &operation.body {
                definitions.add(body);
            }
            item.insert(operation.method.to_owned(), self::operation(operation));
        }
        paths.insert(path.path, Value::Object(item));
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": paths,
        "components": {
            "schemas": definitions.finish().into_iter().collect::<Map<_, _>>(),
            "securitySchemes": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}},
        },
    })
}

fn parameter(parameter: &Parameter) -> Value {
    let schema = json!({"type": parameter.ty, "uniqueItems": true});
    let mut object = json!({"name": parameter.name, "in": parameter.place, "schema": schema});
    if parameter.place == "path" {
        object["required"] = true.into();
    }
    object
}

fn content(types: &[&str], schema: &Value) -> Value {
    types.iter().map(|ty| ((*ty).to_owned(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
}

fn operation(operation: &Operation) -> Value {
    let schema = match operation.answer.as_str() {
        "" => json!({"type": "string"}),
        name => json!({"$ref": Flavor::V3.reference(name)}),
    };
    let responses = operation.responses.iter().map(|(code, description)| {
        let mut response = json!({"description": description});
        if *code != "401" {
            response["content"] = content(operation.produces, &schema);
        }
        ((*code).to_owned(), response)
    });
    let mut object = json!({
        "operationId": operation.id,
        "tags": [operation.tag],
        "responses": responses.collect::<Map<_, _>>(),
    });
    if !operation.parameters.is_empty() {
        object["parameters"] = operation.parameters.iter().map(parameter).collect();
    }
    if let Some((body, required)) = &operation.body {
        let schema = json!({"$ref": Flavor::V3.reference(body)});
        object["requestBody"] = json!({"content": content(operation.consumes, &schema)});
        if *required {
            object["requestBody"]["required"] = true.into();
        }
    }
    for (name, value) in operations::extensions(operation) {
        object[name] = value;
    }
    object
}
