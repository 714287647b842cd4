//! Trees to messages.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kybern_apimachinery::Value;
use kybern_apimachinery::time::parse_rfc3339;

use super::wire::{ProtoError, Reversed};
use crate::duration;
use crate::types::{Field, Presence, Schema, StructType, Type};

pub(super) fn message(schema: &Schema, shape: &StructType, object: &Value) -> Result<Vec<u8>, ProtoError> {
    let mut out = Encoder { schema, out: Reversed::default() };
    out.fields(shape, Some(object))?;
    Ok(out.out.finish())
}

struct Encoder<'a> {
    schema: &'a Schema,
    out: Reversed,
}

impl Encoder<'_> {
    /// Everything is written last to first.
    fn fields(&mut self, shape: &StructType, object: Option<&Value>) -> Result<(), ProtoError> {
        self.group(shape, &shape.proto_order, 0, object)
    }

    /// The fields of one message: those of `order` that share the numbers above `level`.
    fn group(
        &mut self,
        shape: &StructType,
        order: &[u16],
        level: u32,
        object: Option<&Value>,
    ) -> Result<(), ProtoError> {
        let field_at = |index: &u16| &shape.fields[usize::from(*index)];
        let mut rest = order;
        while let Some(last) = rest.last() {
            let Some(number) = field_at(last).proto.level(level) else { break };
            let start = rest.partition_point(|i| field_at(i).proto.level(level) < Some(number));
            let members = &rest[start..];
            rest = &rest[..start];
            let field = field_at(last);
            let value = object.and_then(|o| o.get(field.name.as_ref())).filter(|v| !v.is_null());
            if field.proto.level(level + 1).is_none() {
                self.field(field, number, value).map_err(|e| in_field(&field.name, e))?;
            } else if !matches!((members, &field.ty), ([_], Type::List(_))) || value.is_some() {
                // An inlined struct's message is always there; that of a named list only when there is a list.
                let end = self.out.len();
                self.group(shape, members, level + 1, object)?;
                self.out.close_field(number, end);
            }
        }
        Ok(())
    }

    fn field(&mut self, field: &Field, number: u32, value: Option<&Value>) -> Result<(), ProtoError> {
        match value {
            Some(value) => self.value(&field.ty, number, value),
            None if matches!(field.presence, Presence::Always | Presence::OmitEmpty) => self.zero(&field.ty, number),
            None => Ok(()),
        }
    }

    /// What a field that is no pointer is when it is not set.
    fn zero(&mut self, ty: &Type, number: u32) -> Result<(), ProtoError> {
        let end = self.out.len();
        match ty {
            Type::Bool | Type::Int32 | Type::Int64 => self.out.varint_field(number, 0),
            Type::Double => self.out.double_field(number, 0.0),
            Type::String => self.out.bytes_field(number, b""),
            Type::Quantity => {
                self.out.bytes_field(1, b"0");
                self.out.close_field(number, end);
            }
            Type::IntOrString => self.int_or_string(number, 0, 0, ""),
            Type::Duration => {
                self.out.varint_field(1, 0);
                self.out.close_field(number, end);
            }
            Type::Struct(id) => {
                self.fields(self.schema.get(*id), None)?;
                self.out.close_field(number, end);
            }
            Type::Time | Type::MicroTime | Type::FieldsV1 | Type::RawExtension | Type::Any | Type::Either(_) => {
                self.out.close_field(number, end);
            }
            Type::Bytes | Type::List(_) | Type::Map(_) => {}
        }
        Ok(())
    }

    fn value(&mut self, ty: &Type, number: u32, value: &Value) -> Result<(), ProtoError> {
        let mismatch = || problem(format!("{value} is of a wrong type"));
        let end = self.out.len();
        match ty {
            Type::Bool => self.out.varint_field(number, value.as_bool().ok_or_else(mismatch)?.into()),
            Type::Int32 | Type::Int64 => {
                self.out.varint_field(number, value.as_i64().ok_or_else(mismatch)?.cast_unsigned());
            }
            Type::Double => self.out.double_field(number, value.as_f64().ok_or_else(mismatch)?),
            Type::String => self.out.bytes_field(number, value.as_str().ok_or_else(mismatch)?.as_bytes()),
            Type::Bytes => {
                let text = value.as_str().ok_or_else(mismatch)?;
                let bytes = STANDARD.decode(text).map_err(|e| problem(e.to_string()))?;
                self.out.bytes_field(number, &bytes);
            }
            Type::IntOrString => match (value.as_i64(), value.as_str()) {
                (Some(int), _) => self.int_or_string(number, 0, int, ""),
                (_, Some(text)) => self.int_or_string(number, 1, 0, text),
                _ => return Err(mismatch()),
            },
            Type::Quantity => {
                let text = value.as_str().ok_or_else(mismatch)?;
                self.out.bytes_field(1, text.as_bytes());
                self.out.close_field(number, end);
            }
            Type::Time | Type::MicroTime => {
                let time = value.as_str().and_then(parse_rfc3339).ok_or_else(mismatch)?;
                // Seconds are rounded down, as Go's are, so that the fraction is never negative.
                let nanos = time.as_nanosecond().rem_euclid(1_000_000_000);
                let seconds = time.as_nanosecond().div_euclid(1_000_000_000);
                let nanos = if *ty == Type::Time { 0 } else { nanos / 1000 * 1000 };
                self.out.varint_field(2, u64::try_from(nanos).unwrap_or_default());
                self.out.varint_field(1, i64::try_from(seconds).unwrap_or_default().cast_unsigned());
                self.out.close_field(number, end);
            }
            Type::Duration => {
                let nanos = value.as_str().and_then(duration::parse).ok_or_else(mismatch)?;
                self.out.varint_field(1, nanos.cast_unsigned());
                self.out.close_field(number, end);
            }
            Type::FieldsV1 | Type::RawExtension | Type::Any => {
                let raw = serde_json::to_vec(value).map_err(|e| problem(e.to_string()))?;
                self.out.bytes_field(1, &raw);
                self.out.close_field(number, end);
            }
            Type::Struct(id) => {
                if !value.is_object() {
                    return Err(mismatch());
                }
                self.fields(self.schema.get(*id), Some(value))?;
                self.out.close_field(number, end);
            }
            Type::List(list) => {
                for item in value.as_array().ok_or_else(mismatch)?.iter().rev() {
                    self.value(&list.item, number, item)?;
                }
            }
            Type::Map(map) => {
                for (key, entry) in value.as_object().ok_or_else(mismatch)?.iter().rev() {
                    let end = self.out.len();
                    self.entry(&map.value, entry).map_err(|e| in_field(key, e))?;
                    self.out.bytes_field(1, key.as_bytes());
                    self.out.close_field(number, end);
                }
            }
            Type::Either(either) => {
                if value.is_object() {
                    self.value(&either.object, either.object_number, value)?;
                    // Upstream's `JSONSchemaPropsOrBool` allows what it has a schema for; the bool has the lower number.
                    if either.other == Type::Bool {
                        self.out.varint_field(either.other_number, 1);
                    }
                } else {
                    self.value(&either.other, either.other_number, value)?;
                }
                self.out.close_field(number, end);
            }
        }
        Ok(())
    }

    /// A map entry's value, field 2. A list there is a message of its own.
    fn entry(&mut self, ty: &Type, value: &Value) -> Result<(), ProtoError> {
        if let Type::List(_) = ty {
            let end = self.out.len();
            if !value.is_null() {
                self.value(ty, 1, value)?;
            }
            self.out.close_field(2, end);
            Ok(())
        } else if value.is_null() {
            self.zero(ty, 2)
        } else {
            self.value(ty, 2, value)
        }
    }

    fn int_or_string(&mut self, number: u32, kind: u64, int: i64, text: &str) {
        let end = self.out.len();
        self.out.bytes_field(3, text.as_bytes());
        self.out.varint_field(2, int.cast_unsigned());
        self.out.varint_field(1, kind);
        self.out.close_field(number, end);
    }
}

fn problem(problem: String) -> ProtoError {
    ProtoError::Value { field: String::new(), problem }
}

fn in_field(name: &str, error: ProtoError) -> ProtoError {
    match error {
        ProtoError::Value { field, problem } => {
            let field = if field.is_empty() { name.to_owned() } else { format!("{name}.{field}") };
            ProtoError::Value { field, problem }
        }
        other => other,
    }
}
