//! What Go's encoders write for an object with nothing set: the object that a create is compared with, so that the
//! creator owns no struct that is always there.

use kybern_apimachinery::{Map, Value};

use crate::types::{KindType, Presence, StructId, Type};

/// The zero object of a kind.
pub(super) fn zero(kind: &KindType) -> Value {
    zero_struct(kind, kind.root)
}

fn zero_struct(kind: &KindType, id: StructId) -> Value {
    let fields = kind.schema.get(id).fields.iter().filter_map(|field| {
        let value = match (field.presence, &field.ty) {
            // Go cannot leave out a struct that is no pointer; a custom resource can leave out anything.
            (Presence::Always | Presence::OmitEmpty, Type::Struct(id)) => zero_struct(kind, *id),
            (Presence::Always, Type::Bool) => Value::Bool(false),
            (Presence::Always, Type::Int32 | Type::Int64 | Type::Double) => Value::from(0),
            (Presence::Always, Type::String | Type::Duration) => Value::from(""),
            (Presence::Always, Type::Quantity) => Value::from("0"),
            (Presence::Always | Presence::NullPointer, _) => Value::Null,
            _ => return None,
        };
        Some((field.name.to_string(), value))
    });
    Value::Object(fields.collect::<Map<String, Value>>())
}
