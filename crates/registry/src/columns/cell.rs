//! What the cells of several kinds have in common.

use std::sync::Arc;

use kybern_apimachinery::selector::LabelSelector;
use kybern_apimachinery::time::{human_duration, parse_rfc3339};
use kybern_apimachinery::{Value, object};
use kybern_apiserver::resource::{self, Columns};

use crate::tree::{list, map, text};

/// The columns of a built-in kind, as they stand in the program.
pub(super) struct Printer {
    pub(super) definitions: &'static [Column],
    pub(super) cells: fn(&Value, now: jiff::Timestamp) -> Vec<Value>,
}

/// A column of a built-in kind.
#[derive(Clone, Copy)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) ty: &'static str,
    pub(super) format: &'static str,
    pub(super) priority: i32,
}

impl From<Printer> for Columns {
    fn from(printer: Printer) -> Self {
        let column = |c: &Column| resource::Column {
            name: c.name.to_owned(),
            ty: c.ty.to_owned(),
            format: c.format.to_owned(),
            description: String::new(),
            priority: c.priority,
        };
        Self {
            definitions: printer.definitions.iter().map(column).collect(),
            cells: Arc::new(printer.cells),
            order: None,
        }
    }
}

const fn column(name: &'static str, ty: &'static str, format: &'static str, priority: i32) -> Column {
    Column { name, ty, format, priority }
}

/// The first column.
pub(super) const fn name() -> Column {
    column("Name", "string", "name", 0)
}

pub(super) const fn string(name: &'static str) -> Column {
    column(name, "string", "", 0)
}

pub(super) const fn integer(name: &'static str) -> Column {
    column(name, "integer", "", 0)
}

pub(super) const fn boolean(name: &'static str) -> Column {
    column(name, "boolean", "", 0)
}

pub(super) const fn date(name: &'static str) -> Column {
    column(name, "date", "", 0)
}

/// A column of `-o wide`.
pub(super) const fn wide(name: &'static str) -> Column {
    column(name, "string", "", 1)
}

pub(super) fn object_name(object: &Value) -> Value {
    object::name(object).into()
}

/// The time since a timestamp, as `5m`; `<unknown>` without one.
pub(super) fn since(timestamp: &str, now: jiff::Timestamp) -> String {
    parse_rfc3339(timestamp).map_or_else(|| "<unknown>".to_owned(), |t| human_duration(now.as_second() - t.as_second()))
}

pub(super) fn age(object: &Value, now: jiff::Timestamp) -> Value {
    since(object::str_at(object, &["metadata", "creationTimestamp"]), now).into()
}

/// A text, or `<none>` for an empty one.
pub(super) fn or_none(text: impl Into<String>) -> Value {
    let text = text.into();
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// A number at a path, 0 where there is none.
pub(super) fn count(object: &Value, path: &[&str]) -> i64 {
    object::at(object, path).and_then(Value::as_i64).unwrap_or(0)
}

pub(super) fn joined<'a>(items: impl IntoIterator<Item = &'a Value>) -> String {
    items.into_iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn labels(object: &Value, field: &str) -> Value {
    or_none(map(object, field).map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect::<Vec<_>>().join(","))
}

/// A label selector as kubectl writes it.
pub(super) fn selector(selector: Option<&Value>) -> Value {
    match selector.filter(|s| !s.is_null()).map(LabelSelector::from_object) {
        None => "<none>".into(),
        Some(Ok(parsed)) => or_none(parsed.to_string()),
        Some(Err(_)) => "<error>".into(),
    }
}

/// Names and images of a template's containers, as two cells.
pub(super) fn containers(pod_spec: &Value) -> [Value; 2] {
    ["name", "image"]
        .map(|field| list(pod_spec, "containers").iter().map(|c| text(c, field)).collect::<Vec<_>>().join(",").into())
}

/// The status of a condition.
pub(super) fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    list(status, "conditions").iter().find(|c| text(c, "type") == kind)
}
