//! OpenAPI documents in gnostic's protobuf forms, `openapi.v2.Document` and `openapi.v3.Document`: the messages are
//! described by tables, and one function writes them from a document's JSON.

use kybern_apimachinery::{Map, Value};

use crate::proto::wire::Reversed;

/// The media types of the two forms; the second is the one that clients ask for as of 1.24.
pub const V2_MEDIA_TYPES: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];
pub const V3_MEDIA_TYPES: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v3@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v3.v1.0+protobuf",
];

/// Encodes a document of [`v2`](super::v2).
pub fn v2(document: &Value) -> Vec<u8> {
    encode(&V2_DOCUMENT, document)
}

/// Encodes a document of [`v3`](super::v3).
pub fn v3(document: &Value) -> Vec<u8> {
    encode(&V3_DOCUMENT, document)
}

fn encode(message: &Message, document: &Value) -> Vec<u8> {
    let mut out = Reversed::default();
    if let Some(object) = document.as_object() {
        fields(&mut out, message, object);
    }
    out.finish()
}

/// A message made of an object's members.
struct Message {
    /// By ascending number.
    members: &'static [(&'static str, u32, Kind)],
    /// The field of members that start with `x-`; 0 for none.
    extension: u32,
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Bool,
    Int,
    Double,
    /// Anything, as YAML text.
    Any,
    /// A member that is a message.
    Message(&'static Message),
    /// Each item is a field.
    List(&'static Kind),
    /// A message with one field, holding the value.
    Wrap(u32, &'static Kind),
    /// A message with one repeated field of names and values.
    Map(u32, &'static Kind),
    /// v3's `DefaultType`. Lists and objects have no form and are left out.
    Default,
    /// A message with one of several fields, chosen by the value.
    Choose(fn(&Value) -> (u32, Kind)),
}

fn fields(out: &mut Reversed, message: &Message, object: &Map<String, Value>) {
    // Everything is written last to first; extensions have the highest number everywhere.
    for (key, value) in object.iter().rev().filter(|(key, _)| message.extension != 0 && key.starts_with("x-")) {
        let end = out.len();
        write(out, &Kind::Any, 2, value);
        out.bytes_field(1, key.as_bytes());
        out.close_field(message.extension, end);
    }
    for (key, number, kind) in message.members.iter().rev() {
        if let Some(value) = object.get(*key) {
            write(out, kind, *number, value);
        }
    }
}

/// Writes a value as a field. A value of another type than its kind is left out.
fn write(out: &mut Reversed, kind: &Kind, number: u32, value: &Value) {
    let end = out.len();
    match (kind, value) {
        (Kind::Text, Value::String(text)) => out.bytes_field(number, text.as_bytes()),
        (Kind::Bool, Value::Bool(set)) => out.varint_field(number, (*set).into()),
        (Kind::Int, Value::Number(n)) => out.varint_field(number, n.as_i64().unwrap_or_default().cast_unsigned()),
        (Kind::Double, Value::Number(n)) => out.double_field(number, n.as_f64().unwrap_or_default()),
        (Kind::Any, value) => {
            // JSON is YAML; gnostic's own ends with a line end.
            out.bytes_field(2, format!("{value}\n").as_bytes());
            out.close_field(number, end);
        }
        (Kind::Message(message), Value::Object(object)) => {
            fields(out, message, object);
            out.close_field(number, end);
        }
        (Kind::List(kind), Value::Array(items)) => items.iter().rev().for_each(|item| write(out, kind, number, item)),
        (Kind::List(kind), value) => write(out, kind, number, value),
        (Kind::Wrap(inner, kind), value) => {
            write(out, kind, *inner, value);
            out.close_field(number, end);
        }
        (Kind::Map(entry, kind), Value::Object(object)) => {
            for (key, value) in object.iter().rev() {
                let end = out.len();
                write(out, kind, 2, value);
                out.bytes_field(1, key.as_bytes());
                out.close_field(*entry, end);
            }
            out.close_field(number, end);
        }
        (Kind::Default, Value::Number(_)) => write(out, &Kind::Wrap(1, &Kind::Double), number, value),
        (Kind::Default, Value::Bool(_)) => write(out, &Kind::Wrap(2, &Kind::Bool), number, value),
        (Kind::Default, Value::String(_)) => write(out, &Kind::Wrap(3, &Kind::Text), number, value),
        (Kind::Choose(choose), value) => {
            let (inner, kind) = choose(value);
            write(out, &kind, inner, value);
            out.close_field(number, end);
        }
        _ => {}
    }
}

const TEXTS: Kind = Kind::List(&Kind::Text);
const ANYS: Kind = Kind::List(&Kind::Any);

fn is_reference(value: &Value) -> bool {
    value.get("$ref").is_some()
}

static REFERENCE: Message = Message { members: &[("$ref", 1, Kind::Text)], extension: 0 };

static V2_DOCUMENT: Message = Message {
    members: &[
        ("swagger", 1, Kind::Text),
        ("info", 2, Kind::Message(&V2_INFO)),
        ("paths", 8, Kind::Map(2, &Kind::Message(&V2_PATH))),
        ("definitions", 9, Kind::Map(1, &V2_SCHEMA)),
        ("parameters", 10, Kind::Map(1, &Kind::Choose(v2_parameter))),
        ("security", 12, Kind::List(&SECURITY)),
        ("securityDefinitions", 13, Kind::Map(1, &Kind::Wrap(2, &Kind::Message(&V2_API_KEY)))),
    ],
    extension: 16,
};
static SECURITY: Kind = Kind::Map(1, &Kind::Wrap(1, &TEXTS));
static V2_INFO: Message = Message { members: &[("title", 1, Kind::Text), ("version", 2, Kind::Text)], extension: 7 };
static V2_API_KEY: Message =
    Message { members: &[("type", 1, Kind::Text), ("name", 2, Kind::Text), ("in", 3, Kind::Text)], extension: 5 };
static V2_PATH: Message = Message {
    members: &[
        ("get", 2, Kind::Message(&V2_OPERATION)),
        ("put", 3, Kind::Message(&V2_OPERATION)),
        ("post", 4, Kind::Message(&V2_OPERATION)),
        ("delete", 5, Kind::Message(&V2_OPERATION)),
        ("options", 6, Kind::Message(&V2_OPERATION)),
        ("head", 7, Kind::Message(&V2_OPERATION)),
        ("patch", 8, Kind::Message(&V2_OPERATION)),
        ("parameters", 9, Kind::List(&Kind::Choose(v2_parameter_or_reference))),
    ],
    extension: 10,
};
static V2_OPERATION: Message = Message {
    members: &[
        ("tags", 1, TEXTS),
        ("description", 3, Kind::Text),
        ("operationId", 5, Kind::Text),
        ("produces", 6, TEXTS),
        ("consumes", 7, TEXTS),
        ("parameters", 8, Kind::List(&Kind::Choose(v2_parameter_or_reference))),
        ("responses", 9, Kind::Map(1, &Kind::Wrap(1, &Kind::Message(&V2_RESPONSE)))),
        ("schemes", 10, TEXTS),
    ],
    extension: 13,
};
static V2_RESPONSE: Message =
    Message { members: &[("description", 1, Kind::Text), ("schema", 2, Kind::Wrap(1, &V2_SCHEMA))], extension: 5 };
static V2_BODY: Message = Message {
    members: &[
        ("description", 1, Kind::Text),
        ("name", 2, Kind::Text),
        ("in", 3, Kind::Text),
        ("required", 4, Kind::Bool),
        ("schema", 5, Kind::Message(&V2_SCHEMA_MESSAGE)),
    ],
    extension: 6,
};
static V2_QUERY: Message = Message {
    members: &[
        ("required", 1, Kind::Bool),
        ("in", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("name", 4, Kind::Text),
        ("type", 6, Kind::Text),
        ("format", 7, Kind::Text),
        ("uniqueItems", 20, Kind::Bool),
    ],
    extension: 23,
};
static V2_IN_PATH: Message = Message {
    members: &[
        ("required", 1, Kind::Bool),
        ("in", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("name", 4, Kind::Text),
        ("type", 5, Kind::Text),
        ("format", 6, Kind::Text),
        ("uniqueItems", 19, Kind::Bool),
    ],
    extension: 22,
};

/// `ParametersItem`.
fn v2_parameter_or_reference(value: &Value) -> (u32, Kind) {
    if is_reference(value) { (2, Kind::Message(&REFERENCE)) } else { (1, Kind::Choose(v2_parameter)) }
}

/// `Parameter`: of a body, or another.
fn v2_parameter(value: &Value) -> (u32, Kind) {
    if value["in"] == "body" { (1, Kind::Message(&V2_BODY)) } else { (2, Kind::Choose(v2_non_body)) }
}

fn v2_non_body(value: &Value) -> (u32, Kind) {
    if value["in"] == "path" { (4, Kind::Message(&V2_IN_PATH)) } else { (3, Kind::Message(&V2_QUERY)) }
}

static V2_SCHEMA: Kind = Kind::Message(&V2_SCHEMA_MESSAGE);
static V2_SCHEMA_MESSAGE: Message = Message {
    members: &[
        ("$ref", 1, Kind::Text),
        ("format", 2, Kind::Text),
        ("title", 3, Kind::Text),
        ("description", 4, Kind::Text),
        ("default", 5, Kind::Any),
        ("multipleOf", 6, Kind::Double),
        ("maximum", 7, Kind::Double),
        ("exclusiveMaximum", 8, Kind::Bool),
        ("minimum", 9, Kind::Double),
        ("exclusiveMinimum", 10, Kind::Bool),
        ("maxLength", 11, Kind::Int),
        ("minLength", 12, Kind::Int),
        ("pattern", 13, Kind::Text),
        ("maxItems", 14, Kind::Int),
        ("minItems", 15, Kind::Int),
        ("uniqueItems", 16, Kind::Bool),
        ("maxProperties", 17, Kind::Int),
        ("minProperties", 18, Kind::Int),
        ("required", 19, TEXTS),
        ("enum", 20, ANYS),
        ("additionalProperties", 21, Kind::Choose(v2_additional)),
        ("type", 22, Kind::Wrap(1, &TEXTS)),
        ("items", 23, Kind::Wrap(1, &V2_SCHEMA)),
        ("allOf", 24, Kind::List(&V2_SCHEMA)),
        ("properties", 25, Kind::Map(1, &V2_SCHEMA)),
        ("example", 30, Kind::Any),
    ],
    extension: 31,
};

fn v2_additional(value: &Value) -> (u32, Kind) {
    if value.is_boolean() { (2, Kind::Bool) } else { (1, V2_SCHEMA) }
}

static V3_DOCUMENT: Message = Message {
    members: &[
        ("openapi", 1, Kind::Text),
        ("info", 2, Kind::Message(&V3_INFO)),
        ("paths", 4, Kind::Map(1, &Kind::Message(&V3_PATH))),
        ("components", 5, Kind::Message(&V3_COMPONENTS)),
    ],
    extension: 9,
};
static V3_INFO: Message = Message { members: &[("title", 1, Kind::Text), ("version", 6, Kind::Text)], extension: 7 };
static V3_COMPONENTS: Message = Message {
    members: &[
        ("schemas", 1, Kind::Map(1, &V3_SCHEMA)),
        ("securitySchemes", 7, Kind::Map(1, &Kind::Wrap(1, &Kind::Message(&V3_SECURITY)))),
    ],
    extension: 10,
};
static V3_SECURITY: Message =
    Message { members: &[("type", 1, Kind::Text), ("name", 3, Kind::Text), ("in", 4, Kind::Text)], extension: 9 };
static V3_PATH: Message = Message {
    members: &[
        ("get", 4, Kind::Message(&V3_OPERATION)),
        ("put", 5, Kind::Message(&V3_OPERATION)),
        ("post", 6, Kind::Message(&V3_OPERATION)),
        ("delete", 7, Kind::Message(&V3_OPERATION)),
        ("options", 8, Kind::Message(&V3_OPERATION)),
        ("head", 9, Kind::Message(&V3_OPERATION)),
        ("patch", 10, Kind::Message(&V3_OPERATION)),
        ("parameters", 13, Kind::List(&Kind::Wrap(1, &Kind::Message(&V3_PARAMETER)))),
    ],
    extension: 14,
};
static V3_OPERATION: Message = Message {
    members: &[
        ("tags", 1, TEXTS),
        ("description", 3, Kind::Text),
        ("operationId", 5, Kind::Text),
        ("parameters", 6, Kind::List(&Kind::Wrap(1, &Kind::Message(&V3_PARAMETER)))),
        ("requestBody", 7, Kind::Wrap(1, &Kind::Message(&V3_BODY))),
        ("responses", 8, Kind::Map(2, &Kind::Wrap(1, &Kind::Message(&V3_RESPONSE)))),
    ],
    extension: 13,
};
static V3_PARAMETER: Message = Message {
    members: &[
        ("name", 1, Kind::Text),
        ("in", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("required", 4, Kind::Bool),
        ("schema", 10, Kind::Choose(v3_schema)),
    ],
    extension: 14,
};
static V3_MEDIA_TYPE: Message = Message { members: &[("schema", 1, Kind::Choose(v3_schema))], extension: 5 };
static V3_BODY: Message = Message {
    members: &[
        ("description", 1, Kind::Text),
        ("content", 2, Kind::Map(1, &Kind::Message(&V3_MEDIA_TYPE))),
        ("required", 3, Kind::Bool),
    ],
    extension: 4,
};
static V3_RESPONSE: Message = Message {
    members: &[("description", 1, Kind::Text), ("content", 3, Kind::Map(1, &Kind::Message(&V3_MEDIA_TYPE)))],
    extension: 5,
};
static V3_SCHEMA: Kind = Kind::Choose(v3_schema);

/// `SchemaOrReference`.
fn v3_schema(value: &Value) -> (u32, Kind) {
    if is_reference(value) { (2, Kind::Message(&REFERENCE)) } else { (1, Kind::Message(&V3_SCHEMA_MESSAGE)) }
}

fn v3_additional(value: &Value) -> (u32, Kind) {
    if value.is_boolean() { (2, Kind::Bool) } else { (1, V3_SCHEMA) }
}

static V3_SCHEMA_MESSAGE: Message = Message {
    members: &[
        ("nullable", 1, Kind::Bool),
        ("example", 7, Kind::Any),
        ("title", 9, Kind::Text),
        ("multipleOf", 10, Kind::Double),
        ("maximum", 11, Kind::Double),
        ("exclusiveMaximum", 12, Kind::Bool),
        ("minimum", 13, Kind::Double),
        ("exclusiveMinimum", 14, Kind::Bool),
        ("maxLength", 15, Kind::Int),
        ("minLength", 16, Kind::Int),
        ("pattern", 17, Kind::Text),
        ("maxItems", 18, Kind::Int),
        ("minItems", 19, Kind::Int),
        ("uniqueItems", 20, Kind::Bool),
        ("maxProperties", 21, Kind::Int),
        ("minProperties", 22, Kind::Int),
        ("required", 23, TEXTS),
        ("enum", 24, ANYS),
        ("type", 25, Kind::Text),
        ("allOf", 26, Kind::List(&V3_SCHEMA)),
        ("oneOf", 27, Kind::List(&V3_SCHEMA)),
        ("anyOf", 28, Kind::List(&V3_SCHEMA)),
        ("not", 29, Kind::Message(&V3_SCHEMA_MESSAGE)),
        ("items", 30, Kind::Wrap(1, &V3_SCHEMA)),
        ("properties", 31, Kind::Map(1, &V3_SCHEMA)),
        ("additionalProperties", 32, Kind::Choose(v3_additional)),
        ("default", 33, Kind::Default),
        ("description", 34, Kind::Text),
        ("format", 35, Kind::Text),
    ],
    extension: 36,
};
