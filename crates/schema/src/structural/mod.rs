//! The shape of a custom resource, from its structural schema (`openAPIV3Schema` of a `CustomResourceDefinition`).
//!
//! A shape says which fields there are, what their defaults are and how lists and maps merge. Whether a value obeys the
//! schema (ranges, patterns, required fields, types) is [`Validator`]'s to say; decoding keeps wrong types for it to find.

mod check;
mod compile;
pub mod field_path;
pub mod formats;
mod objects;
mod rules;
mod upkeep;
mod validation;

use std::sync::Arc;

use kybern_apimachinery::{Gvk, Value};

use crate::builtin;
use crate::types::{EitherType, Field, KindType, ListKind, ListType, MapType, Schema, StructId, StructType, Type};

pub use check::{Precedent, check, violations};
pub use rules::blocked;
pub use upkeep::Upkeep;
pub use validation::{PatternError, Validator, check_pattern};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The shape of a kind with this schema. `preserve_unknown` is the definition's `preserveUnknownFields`.
pub fn kind_type(gvk: Gvk, schema: &Value, preserve_unknown: bool) -> KindType {
    let mut build = Build { structs: Vec::new() };
    let meta = build.object_meta();
    let mut fields = build.fields(schema);
    fields.retain(|f| !matches!(f.name.as_ref(), "apiVersion" | "kind" | "metadata"));
    fields.extend(type_fields(meta));
    let preserve = preserve_unknown || is_true(schema, "x-kubernetes-preserve-unknown-fields");
    let name = format!("{}.{}.{}", gvk.group, gvk.version, gvk.kind);
    let root = build.add(StructType::new(name.into(), fields, false, preserve));
    KindType { schema: Arc::new(Schema::new(build.structs)), root, gvk }
}

/// The fields of every object.
fn type_fields(meta: StructId) -> [Field; 3] {
    [
        Field::new("apiVersion", Type::String),
        Field::new("kind", Type::String),
        Field { presence: crate::types::Presence::Always, ..Field::new("metadata", Type::Struct(meta)) },
    ]
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema[key].as_str().unwrap_or("")
}

fn is_true(schema: &Value, key: &str) -> bool {
    schema[key] == Value::Bool(true)
}

struct Build {
    structs: Vec<StructType>,
}

impl Build {
    fn add(&mut self, shape: StructType) -> StructId {
        self.structs.push(shape);
        StructId(u32::try_from(self.structs.len() - 1).unwrap_or(u32::MAX))
    }

    /// Copies the built-in object metadata into this schema.
    fn object_meta(&mut self) -> StructId {
        let id = builtin().structure(OBJECT_META).unwrap_or(StructId(0));
        self.copy(id)
    }

    fn copy(&mut self, id: StructId) -> StructId {
        let shape = builtin().schema().get(id);
        let fields = shape.fields.iter().map(|f| Field {
            granular: f.granular,
            name: f.name.clone(),
            ty: self.copy_type(&f.ty),
            required: f.required,
            nullable: f.nullable,
            default: f.default.clone(),
            presence: f.presence,
            proto: f.proto,
            go_type: f.go_type.clone(),
            patch: f.patch.clone(),
        });
        let copied = StructType::new(shape.name.clone(), fields.collect(), shape.atomic, shape.preserve_unknown);
        self.add(copied)
    }

    fn copy_type(&mut self, ty: &Type) -> Type {
        match ty {
            Type::Struct(id) => Type::Struct(self.copy(*id)),
            Type::List(list) => {
                Type::List(Box::new(ListType { item: self.copy_type(&list.item), kind: list.kind.clone() }))
            }
            Type::Map(map) => Type::Map(Box::new(MapType { value: self.copy_type(&map.value), atomic: map.atomic })),
            Type::Either(either) => Type::Either(Box::new(EitherType {
                object: self.copy_type(&either.object),
                other: self.copy_type(&either.other),
                ..**either
            })),
            scalar => scalar.clone(),
        }
    }

    fn fields(&mut self, schema: &Value) -> Vec<Field> {
        let Some(properties) = schema["properties"].as_object() else { return Vec::new() };
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let field = |(name, property): (&String, &Value)| Field {
            required: required.contains(&name.as_str()),
            nullable: is_true(property, "nullable"),
            default: property.get("default").cloned(),
            ..Field::new(name.as_str(), self.ty(property))
        };
        properties.iter().map(field).collect()
    }

    fn ty(&mut self, schema: &Value) -> Type {
        if is_true(schema, "x-kubernetes-int-or-string") {
            return Type::IntOrString;
        }
        match schema["type"].as_str() {
            Some("boolean") => Type::Bool,
            Some("integer") => Type::Int64,
            Some("number") => Type::Double,
            Some("string") => Type::String,
            Some("array") => {
                let keys =
                    || schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let kind = match schema["x-kubernetes-list-type"].as_str() {
                    Some("set") => ListKind::Set,
                    Some("map") => ListKind::Map(keys().map(Arc::from).collect()),
                    _ => ListKind::Atomic,
                };
                Type::List(Box::new(ListType { item: self.ty(&schema["items"]), kind }))
            }
            Some("object") => self.object(schema),
            // What has no type holds anything.
            _ => Type::Any,
        }
    }

    fn object(&mut self, schema: &Value) -> Type {
        let atomic = schema["x-kubernetes-map-type"] == "atomic";
        let preserve = is_true(schema, "x-kubernetes-preserve-unknown-fields");
        let embedded = is_true(schema, "x-kubernetes-embedded-resource");
        match &schema["additionalProperties"] {
            Value::Object(_) => {
                let value = self.ty(&schema["additionalProperties"]);
                return Type::Map(Box::new(MapType { value, atomic }));
            }
            Value::Bool(true) => return Type::Map(Box::new(MapType { value: Type::Any, atomic })),
            _ => {}
        }
        let mut fields = self.fields(schema);
        if embedded {
            let meta = self.object_meta();
            for field in type_fields(meta) {
                fields.retain(|f| f.name != field.name);
                // An embedded object may lack its metadata.
                fields.push(Field { presence: crate::types::Presence::Verbatim, ..field });
            }
        }
        Type::Struct(self.add(StructType::new("object".into(), fields, atomic, preserve)))
    }
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;
    use crate::{Strictness, apply_defaults, decode_value, prune};

    fn widget() -> KindType {
        let schema = json!({"type": "object", "properties": {"spec": {
            "type": "object",
            "required": ["size"],
            "properties": {
                "size": {"type": "integer"},
                "mode": {"type": "string", "default": "fast"},
                "port": {"x-kubernetes-int-or-string": true},
                "note": {"type": "string", "nullable": true, "default": "n"},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "object"}}},
                "env": {"type": "object", "additionalProperties": {"type": "object", "properties": {"v": {"type": "string", "default": "d"}}}},
                "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                    "items": {"type": "object", "properties": {"id": {"type": "string"}, "on": {"type": "boolean", "default": true}}}},
                "template": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
            },
        }}});
        kind_type(Gvk::new("example.com", "v1", "Widget"), &schema, false)
    }

    #[test]
    fn decoding_keeps_values_and_reports_unknown_fields() {
        let body = json!({
            "metadata": {"name": "w", "labels": {}, "odd": 1},
            "spec": {"size": "wrong", "port": 1, "free": {"x": [1.5], "a": {"b": 1}}, "other": 1, "note": null, "parts": [],
                "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "no": 1}, "spec": {"any": 1}}},
        });
        let (object, warnings) = decode_value(&widget(), body, Strictness::Warn).unwrap();
        assert_eq!(
            object,
            json!({
                "apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"},
                "spec": {"size": "wrong", "port": 1, "free": {"x": [1.5], "a": {}}, "note": null, "parts": [],
                    "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"any": 1}}},
            })
        );
        let unknown = ["metadata.odd", "spec.free.a.b", "spec.other", "spec.template.metadata.no"];
        assert_eq!(warnings, unknown.map(|path| format!("unknown field {path:?}")));
        let mut again = object.clone();
        prune(&widget(), &mut again);
        assert_eq!(again, object);
    }

    #[test]
    fn defaults_reach_into_lists_and_maps() {
        let mut object = json!({"spec": {"note": null, "mode": null, "env": {"e": {}}, "parts": [{"id": "1"}, {"id": "2", "on": false}]}});
        apply_defaults(&widget(), &mut object);
        assert_eq!(
            object["spec"],
            json!({"note": null, "mode": "fast", "env": {"e": {"v": "d"}}, "parts": [{"id": "1", "on": true}, {"id": "2", "on": false}]})
        );
    }
}
