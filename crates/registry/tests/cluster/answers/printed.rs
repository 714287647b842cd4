//! Values that are shown in a refusal. Upstream prints the struct that it has in memory: with Go's names of fields
//! (`{"Requests":null}`), with what is absent, and some with numbers for what is text in the API. Ours are printed as the
//! API has them. Both are compared by what they hold.

use kybern_apimachinery::Value;
use serde_json::Deserializer;

/// The text with each `value: {…}` and `value: […]` in one form.
pub(super) fn normal(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("value: ").map(|at| at + "value: ".len()) {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        rest = after;
        if !after.starts_with(['{', '[']) {
            continue;
        }
        let mut values = Deserializer::from_str(after).into_iter::<Value>();
        if let Some(Ok(value)) = values.next() {
            out.push_str(&held(value).unwrap_or(Value::Null).to_string());
            rest = &after[values.byte_offset()..];
        }
    }
    out + rest
}

/// What a value holds: no zeros, and fields without the case of their names.
fn held(value: Value) -> Option<Value> {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_lowercase(), held(value)?)));
            let mut fields: std::collections::BTreeMap<String, Value> = fields.collect();
            // Go's templates embed their metadata.
            if let Some(Value::Object(metadata)) = fields.remove("metadata") {
                fields.extend(metadata);
            }
            (!fields.is_empty()).then(|| Value::Object(fields.into_iter().collect()))
        }
        // An item counts even when it is empty.
        Value::Array(items) if !items.is_empty() => {
            Some(Value::Array(items.into_iter().map(|item| held(item).unwrap_or(Value::Null)).collect()))
        }
        Value::Array(_) | Value::Null | Value::Bool(false) => None,
        Value::String(text) if text.is_empty() => None,
        Value::Number(number) if number.as_i64() == Some(0) => None,
        other => Some(other),
    }
}

#[test]
fn what_is_shown_is_compared_by_what_it_holds() {
    let go = r#"a: Invalid value: {"Devices":{"Requests":[{"Name":"r","Count":0}],"Config":null}}: field is immutable, b: Required value"#;
    let ours = r#"a: Invalid value: {"devices":{"requests":[{"name":"r"}]}}: field is immutable, b: Required value"#;
    assert_eq!(normal(go), normal(ours));
    assert_ne!(normal(go), normal(&ours.replace("\"r\"", "\"s\"")));
    assert_eq!(normal("a: Invalid value: \"x\": {no"), "a: Invalid value: \"x\": {no");
    assert_eq!(normal("a: Invalid value: {no"), "a: Invalid value: {no");
}
