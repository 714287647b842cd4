//! Small languages: selectors, field paths, quantities, times, and what CNI plugins print.

use kybern_apimachinery::quantity::Quantity;
use kybern_apimachinery::selector::{FieldSelector, LabelSelector};
use kybern_apimachinery::time;
use kybern_cel::{DeclType, Env, Limits, Type, Value, Variables};
use kybern_schema::apply::FieldSet;

pub(crate) fn selector(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(selector) = LabelSelector::parse(text) {
        let written = selector.to_string();
        let again = LabelSelector::parse(&written).expect("a selector that was written can be read");
        assert_eq!(again.to_string(), written);
        let _ = selector.matches(|_| Some("x"));
    }
    let _ = FieldSelector::parse(text);
    if let Ok(value) = serde_json::from_str(text) {
        let _ = LabelSelector::from_object(&value);
    }
    if let Ok(quantity) = Quantity::parse(text) {
        let _ = (quantity.to_string(), quantity.value());
    }
    let _ = (time::parse_rfc3339(text), time::parse_duration(text));
}

pub(crate) fn field_path(data: &[u8]) {
    let Ok(fields) = kybern_schema::decode::json_to_value(data) else { return };
    let Ok(set) = FieldSet::from_fields_v1(&fields) else { return };
    let again = FieldSet::from_fields_v1(&set.to_fields_v1()).expect("a set that was written can be read");
    assert_eq!(again, set);
    for element in set.paths().iter().flatten() {
        let _ = element.to_string();
    }
}

pub(crate) fn cni(data: &[u8]) {
    if let Ok(result) = serde_json::from_slice::<kybern_cni::CniResult>(data) {
        let _ = result.container_ips().count();
    }
    for is_list in [false, true] {
        let _ = kybern_cni::config::parse(data, is_list);
    }
}

/// An expression; and, before a line break, an object that it is evaluated against, or a schema that it is declared with.
pub(crate) fn cel(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (object, expression) = match text.split_once('\n') {
        Some((first, rest)) => (serde_json::from_str(first).unwrap_or(serde_json::Value::Null), rest),
        None => (serde_json::Value::Null, text),
    };
    let mut env = Env::kubernetes().with_mutation().with_variable("object", Type::Dyn);
    if let Some(decl) = DeclType::from_schema(&object, false) {
        env = env.with_declared("self", std::sync::Arc::new(decl.named("self")));
    }
    match env.compile(expression) {
        Ok(program) => {
            let variables = Variables::new().with("object", Value::json(&object)).with("self", Value::json(&object));
            let limits = Limits { cost: 20_000, ..Limits::default() };
            let evaluation = program.eval(&variables, limits);
            if let Ok(value) = evaluation.result {
                let _ = value.to_json();
            }
        }
        Err(error) => drop(error.to_string()),
    }
}
