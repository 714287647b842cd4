//! Objects of every kind, made up along their shapes: what is written is what is read, however the JSON is laid out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kybern_apimachinery::{Map, Value, json};

use super::*;
use crate::types::{Schema, Type};

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len() as u64) as usize]
    }
}

const TEXTS: [&str; 8] = [
    "",
    "a",
    "with space",
    "\"quoted\\\"",
    "line\nend",
    "größer 日本",
    "0123456789abcdef0123456789abcdef-long",
    "{[,:]}",
];

fn value(schema: &Schema, ty: &Type, dice: &mut Dice, depth: u32) -> Value {
    match ty {
        Type::Bool => (dice.roll(2) == 0).into(),
        Type::Int32 => [0, 1, -1, 300, i32::MAX, i32::MIN][dice.roll(6) as usize].into(),
        Type::Int64 => [0, 1, -1, 300, i64::MAX, i64::MIN][dice.roll(6) as usize].into(),
        Type::Double => [json!(0), json!(1.5), json!(-3), json!(1e300)][dice.roll(4) as usize].clone(),
        Type::String => dice.pick(&TEXTS).into(),
        Type::Bytes => STANDARD.encode(dice.pick(&TEXTS)).into(),
        Type::IntOrString => [json!(80), json!("50%"), json!("")][dice.roll(3) as usize].clone(),
        Type::Quantity => dice.pick(&["0", "100m", "1Gi", "5"]).into(),
        Type::Time => dice
            .pick(&["2026-01-31T23:59:59Z", "1969-12-31T00:00:00Z", "2024-02-29T12:00:01Z", "0900-03-01T00:00:00Z"])
            .into(),
        Type::MicroTime => dice.pick(&["2026-11-28T12:00:00.000001Z", "1969-12-31T23:59:59.999999Z"]).into(),
        Type::Duration => dice.pick(&["0s", "1h30m0s", "100ms"]).into(),
        Type::FieldsV1 => json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}}),
        Type::RawExtension | Type::Any => {
            [json!({"a": [1, {"b": null}], "z": "}"}), json!({})][dice.roll(2) as usize].clone()
        }
        Type::Struct(id) => {
            let mut object = Map::new();
            if depth < 12 {
                let fields = &schema.get(*id).fields;
                // The deeper, the less.
                for field in fields.iter().filter(|f| f.proto != crate::types::ProtoTag::NONE) {
                    if dice.roll(10) < 8u64.saturating_sub(u64::from(depth)) {
                        object.insert(field.name.to_string(), value(schema, &field.ty, dice, depth + 1));
                    }
                }
            }
            Value::Object(object)
        }
        Type::List(list) => (0..dice.roll(3)).map(|_| value(schema, &list.item, dice, depth + 1)).collect(),
        Type::Map(map) => {
            let entries =
                (0..dice.roll(4)).map(|_| (dice.pick(&TEXTS).to_owned(), value(schema, &map.value, dice, depth + 1)));
            Value::Object(entries.collect())
        }
        Type::Either(either) => match dice.roll(2) {
            0 => value(schema, &either.object, dice, depth + 1),
            _ => value(schema, &either.other, dice, depth + 1),
        },
    }
}

/// The same in another order of keys, with space between, and with escapes that need not be.
fn untidy(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            out.push_str("{ ");
            for (i, (key, value)) in map.iter().rev().enumerate() {
                out.push_str(if i == 0 { "\n" } else { " ,\t" });
                untidy(&Value::from(key.as_str()), out);
                out.push_str(" : ");
                untidy(value, out);
            }
            out.push_str(" }");
        }
        Value::Array(list) => {
            out.push_str("[ ");
            for (i, value) in list.iter().enumerate() {
                out.push_str(if i == 0 { "\r\n" } else { " , " });
                untidy(value, out);
            }
            out.push_str(" ]\n");
        }
        Value::String(text) => {
            let text = serde_json::to_string(text).unwrap();
            // `\u0061` is an `a`, wherever no backslash stands before it.
            out.push_str(&if text.contains('\\') { text } else { text.replace('a', "\\u0061") });
        }
        other => out.push_str(&other.to_string()),
    }
}

#[test]
fn what_is_written_is_read_whatever_the_layout() {
    let builtin = crate::builtin();
    let mut dice = Dice(7);
    let (mut checked, mut alike) = (0, 0);
    for kind in builtin.kinds().filter_map(|gvk| builtin.kind(gvk)).filter(has_form) {
        for _ in 0..4 {
            let rough = value(&kind.schema, &Type::Struct(kind.root), &mut dice, 0);
            let message = encode_message(&kind, &rough).unwrap_or_else(|e| panic!("{}: {e}", kind.gvk));
            // From here on as every stored object is.
            let object = decode_message(&kind, &message).unwrap();
            let message = encode_message(&kind, &object).unwrap();
            let read = decode_message(&kind, &message).unwrap();
            assert_eq!(read, object, "{}", kind.gvk);
            let mut other = String::new();
            untidy(&object, &mut other);
            let mut writer = Writer::default();
            writer.raw(b"end");
            writer.message(&kind, other.as_bytes()).unwrap();
            let written = writer.written().strip_suffix(b"end").unwrap();
            assert_eq!(decode_message(&kind, written).unwrap(), read, "{}", kind.gvk);
            // Raw JSON is kept as it is laid out.
            if written.len() == message.len() {
                assert_eq!(written, message, "{}", kind.gvk);
                alike += 1;
            }
            checked += 1;
        }
    }
    assert!(checked > 500 && alike > checked / 4, "only {checked} objects, {alike} without raw JSON");
}

#[test]
fn damaged_json_is_refused_and_told() {
    let pod = crate::builtin().kind(&Gvk::new("", "v1", "Pod")).unwrap();
    let whole = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"x":"\u00e9"},"managedFields":[{"fieldsV1":{"f:x":{}}}]},"spec":{"containers":[{"name":"c"}]}}"#;
    let mut writer = Writer::default();
    writer.message(&pod, whole.as_bytes()).unwrap();
    for end in 0..whole.len() {
        assert!(writer.message(&pod, &whole.as_bytes()[..end]).is_err(), "{}", &whole[..end]);
    }
    for (bad, expect) in [
        ("[]", "malformed JSON at byte 0"),
        (" null", "malformed JSON at byte 1"),
        ("{} {}", "malformed JSON at byte 3"),
        (r#"{"spec":nil}"#, "malformed JSON at byte 11"),
        (r#"{"spec":{},}"#, "malformed JSON at byte 11"),
        (r#"{"spec":{"priority":1.5}}"#, "field spec.priority: 1.5 is of a wrong type"),
        (r#"{"spec":{"containers":[{"name":[]}]}}"#, "field spec.containers.name: [] is of a wrong type"),
        (r#"{"spec":{"containers":[null]}}"#, "field spec.containers: null is of a wrong type"),
        (r#"{"metadata":{"labels":{"a":7}}}"#, "field metadata.labels.a: 7 is of a wrong type"),
        (
            r#"{"metadata":{"creationTimestamp":"today"}}"#,
            "field metadata.creationTimestamp: \"today\" is of a wrong type",
        ),
    ] {
        assert_eq!(writer.message(&pod, bad.as_bytes()).unwrap_err().to_string(), expect, "{bad}");
    }
    assert_eq!(writer.message(&pod, b"{\"spec\":{\"nodeName\":\"\xff\"}}"), Err(ProtoError::Utf8));
    let crd = crate::builtin().kind(&Gvk::new("apiextensions.k8s.io", "v1", "JSONSchemaProps"));
    assert!(crd.is_none(), "what nests without end is no kind of its own");
    let crd = crate::builtin().kind(&Gvk::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition")).unwrap();
    let deep = |n: usize| {
        let (open, close) = (r#"{"not":"#.repeat(n), "}".repeat(n));
        format!(r#"{{"spec":{{"versions":[{{"schema":{{"openAPIV3Schema":{open}{{}}{close}}}}}]}}}}"#)
    };
    writer.message(&crd, deep(100).as_bytes()).unwrap();
    assert_eq!(writer.message(&crd, deep(100_000).as_bytes()), Err(ProtoError::Depth));
    // The last of equal names counts, also where it is null.
    writer.clear();
    writer.message(&pod, br#"{"metadata":{"name":"a","name":"b","namespace":"c","namespace":null}}"#).unwrap();
    let read = decode_message(&pod, writer.written()).unwrap();
    assert_eq!((&read["metadata"]["name"], &read["metadata"]["namespace"]), (&json!("b"), &json!(null)));
}
