//! Kinds that are not built in, as the OpenAPI document (v3) of their group and version describes them: custom resources and those
//! of other servers.

use kybern_apimachinery::{Gvk, Map, Value};
use kybern_cel::{DeclKind, DeclType};

use super::types;

/// A schema is not looked into within itself more often than this.
const MAX_NESTING: usize = 2;

pub(super) fn path(group: &str, version: &str) -> String {
    format!("/openapi/v3/apis/{group}/{version}")
}

/// The kind of a resource.
pub(super) fn kind_of(document: &Value, resource: &str) -> Option<Gvk> {
    let paths = document["paths"].as_object()?;
    let (_, verbs) = paths.iter().find(|(path, _)| path.rsplit('/').next() == Some(resource))?;
    let verbs = verbs.as_object()?.values();
    verbs.map(|verb| gvk(&verb["x-kubernetes-group-version-kind"])).find(|kind| !kind.kind.is_empty())
}

/// The type of a kind's objects.
pub(super) fn declared(document: &Value, kind: &Gvk) -> Option<DeclType> {
    let schemas = document["components"]["schemas"].as_object()?;
    let is_meant = |schema: &&Value| {
        let kinds = schema["x-kubernetes-group-version-kind"].as_array();
        kinds.is_some_and(|kinds| kinds.iter().any(|shown| gvk(shown) == *kind))
    };
    let schema = inlined(schemas.values().find(is_meant)?, schemas, &mut Vec::new())?;
    let mut declared = DeclType::from_schema(&schema, true)?;
    if let DeclKind::Object { fields, .. } = &mut declared.kind
        && let Some(metadata) = types::metadata()
    {
        fields.insert("metadata".to_owned(), metadata);
    }
    Some(declared.named(&kind.kind))
}

fn gvk(shown: &Value) -> Gvk {
    let text = |field: &str| shown[field].as_str().unwrap_or("");
    Gvk::new(text("group"), text("version"), text("kind"))
}

/// A schema with what it refers to in its place; `None` for what is too deep within itself.
fn inlined<'d>(schema: &'d Value, schemas: &'d Map<String, Value>, within: &mut Vec<&'d str>) -> Option<Value> {
    let alone = schema["allOf"].as_array().filter(|all| all.len() == 1).map_or(schema, |all| &all[0]);
    if let Some(name) = alone["$ref"].as_str().and_then(|path| path.strip_prefix("#/components/schemas/")) {
        if within.iter().filter(|outer| **outer == name).count() >= MAX_NESTING {
            return None;
        }
        within.push(name);
        let found = schemas.get(name).and_then(|schema| inlined(schema, schemas, within));
        within.pop();
        return found;
    }
    let mut schema = schema.clone();
    for field in ["items", "additionalProperties"] {
        if let Some(inner) = alone.get(field).filter(|inner| inner.is_object()) {
            schema[field] = inlined(inner, schemas, within)?;
        }
    }
    if let Some(properties) = alone["properties"].as_object() {
        let seen = properties.iter().filter_map(|(name, p)| Some((name.clone(), inlined(p, schemas, within)?)));
        schema["properties"] = Value::Object(seen.collect());
    }
    Some(schema)
}
