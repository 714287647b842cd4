//! The columns of a custom resource: those that its definition names, or its age.

use std::sync::Arc;

use kybern_apimachinery::time::{human_duration, parse_rfc3339};
use kybern_apimachinery::{Value, object};
use kybern_apiserver::resource::{Column, Columns};
use kybern_schema::jsonpath::JsonPath;

use crate::tree::{int, list, text};

const NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may \
    allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation \
    idempotence and configuration definition. Cannot be updated. More info: \
    https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const CREATED: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not \
    guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is \
    represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// The columns of a version.
pub(super) fn of(version: &Value) -> Columns {
    let owned = |text: &str| text.to_owned();
    let name = Column {
        name: owned("Name"),
        ty: owned("string"),
        format: owned("name"),
        description: owned(NAME),
        priority: 0,
    };
    let mut definitions = vec![name];
    let mut paths: Vec<(Option<JsonPath>, String)> = Vec::new();
    let mut add = |name: &str, ty: &str, format: &str, description: &str, priority: i64, path: &str| {
        let path = JsonPath::parse(path).inspect_err(|error| tracing::warn!(%error, "a column stays empty"));
        paths.push((path.ok(), owned(ty)));
        definitions.push(Column {
            name: owned(name),
            ty: owned(ty),
            format: owned(format),
            description: owned(description),
            priority: i32::try_from(priority).unwrap_or(0),
        });
    };
    let columns = list(version, "additionalPrinterColumns");
    for column in columns {
        let path = text(column, "jsonPath");
        let said = format!("Custom resource definition column (in JSONPath format): {path}");
        let description = Some(text(column, "description")).filter(|d| !d.is_empty()).unwrap_or(&said);
        let priority = int(column, "priority").unwrap_or(0);
        add(text(column, "name"), text(column, "type"), text(column, "format"), description, priority, path);
    }
    if columns.is_empty() {
        add("Age", "date", "", CREATED, 0, ".metadata.creationTimestamp");
    }
    let cells = move |object: &Value, now: jiff::Timestamp| {
        let cell = |(path, ty): &(Option<JsonPath>, String)| {
            let found = path.as_ref().and_then(|path| path.find(object).into_iter().next());
            found.map_or(Value::Null, |value| cell(ty, value, now))
        };
        std::iter::once(Value::from(object::name(object))).chain(paths.iter().map(cell)).collect()
    };
    Columns { definitions, cells: Arc::new(cells), order: None }
}

/// A value as a column of a type shows it; null where it does not fit.
fn cell(ty: &str, value: &Value, now: jiff::Timestamp) -> Value {
    match (ty, value) {
        ("string", Value::String(_)) => value.clone(),
        ("string", Value::Null) => Value::Null,
        // As Go's templates print it.
        ("string", value) => value.to_string().into(),
        ("integer", Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(number)) => (number as i64).into(),
            _ => Value::Null,
        },
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => parse_rfc3339(text)
            .map_or_else(|| "<invalid>".to_owned(), |then| human_duration(now.as_second() - then.as_second()))
            .into(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn cells_are_of_their_columns_types() {
        let now: jiff::Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let column = |ty: &str, path: &str| json!({"name": path, "type": ty, "jsonPath": path});
        let version = json!({"additionalPrinterColumns": [
            column("string", ".spec.s"), column("string", ".spec.l"), column("integer", ".spec.i"), column("integer", ".spec.s"),
            column("number", ".spec.f"), column("boolean", ".spec.b"), column("date", ".metadata.creationTimestamp"),
            column("date", ".spec.s"), column("string", ".none"), column("string", ".spec.l[0]"),
        ]});
        let columns = of(&version);
        assert_eq!(columns.definitions.len(), 11);
        let object = json!({"metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"s": "x", "l": [1, "a"], "i": 7, "f": 1.5, "b": true}});
        let expect = json!(["n", "x", "[1,\"a\"]", 7, null, 1.5, true, "60m", "<invalid>", null, "1"]);
        assert_eq!(Value::from((columns.cells)(&object, now)), expect);
        let age = of(&json!({}));
        assert_eq!(Value::from((age.cells)(&object, now)), json!(["n", "60m"]));
    }
}
