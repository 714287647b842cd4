//! Zero values, and which fields are written without being set.

use kybern_apimachinery::{Map, Value};

use crate::types::{Field, Presence, Schema, StructType, Type};

/// What Go writes for a type's zero value.
pub fn zero(schema: &Schema, ty: &Type) -> Value {
    match ty {
        Type::Bool => false.into(),
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => 0.into(),
        Type::String => "".into(),
        Type::Quantity => "0".into(),
        Type::Duration => "0s".into(),
        Type::Struct(id) => {
            let mut object = Map::new();
            fill(schema, schema.get(*id), &mut object);
            Value::Object(object)
        }
        Type::Bytes
        | Type::Time
        | Type::MicroTime
        | Type::FieldsV1
        | Type::RawExtension
        | Type::Any
        | Type::List(_)
        | Type::Map(_)
        | Type::Either(_) => Value::Null,
    }
}

/// Adds the fields that are written even when they are not set.
pub(crate) fn fill(schema: &Schema, shape: &StructType, object: &mut Map<String, Value>) {
    for field in &shape.fields {
        if !matches!(field.presence, Presence::Always | Presence::NullPointer)
            || object.contains_key(field.name.as_ref())
        {
            continue;
        }
        let value = if field.presence == Presence::Always { zero(schema, &field.ty) } else { Value::Null };
        object.insert(field.name.to_string(), value);
    }
}

/// Whether a set value is left out all the same. An empty list or map does not survive upstream's store, and is `null` where
/// the field is always written.
pub(crate) fn omits(schema: &Schema, field: &Field, value: &Value) -> bool {
    let collection = matches!(field.ty, Type::List(_) | Type::Map(_));
    (field.presence == Presence::OmitEmpty || (field.presence == Presence::Always && collection))
        && match value {
            Value::Null => true,
            Value::Bool(b) => !b,
            Value::Number(n) => n.as_f64() == Some(0.0),
            Value::String(s) => s.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(object) => match &field.ty {
                Type::Struct(_) => *value == zero(schema, &field.ty),
                _ => object.is_empty(),
            },
        }
}
