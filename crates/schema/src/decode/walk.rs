//! The pass over the input: a serde seed that knows the type at every place.

use std::fmt::{self, Write as _};

use kybern_apimachinery::{Map, Value};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::embedded::embedded;
use super::presence::{fill, omits};
use super::{Decoding, scalar, zero};
use crate::types::{Presence, Schema, StructId, Type};

/// Where in the object the pass is, linked to the places above.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Root,
    /// A field and the struct that declares it.
    Field(&'a Place<'a>, &'a str, StructId),
    Key(&'a Place<'a>, &'a str),
    Index(&'a Place<'a>, usize),
}

impl Place<'_> {
    pub(super) const ROOT: Place<'static> = Place::Root;

    /// As strict errors name a place: `spec.containers[0].name`.
    fn path(&self) -> String {
        match self {
            Place::Root => String::new(),
            Place::Field(parent, name, _) | Place::Key(parent, name) => parent.child(name),
            Place::Index(parent, index) => format!("{}[{index}]", parent.path()),
        }
    }

    fn child(&self, name: &str) -> String {
        let mut path = self.path();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        path
    }

    /// As type errors name a place: field names only, no keys and indexes.
    fn go_path(&self, schema: &Schema, out: &mut String) {
        match self {
            Place::Root => {}
            Place::Field(parent, name, owner) => {
                parent.go_path(schema, out);
                for part in embedded(go_struct(schema, *owner), name).iter().chain([name]) {
                    let _ = write!(out, ".{part}");
                }
            }
            Place::Key(parent, _) | Place::Index(parent, _) => parent.go_path(schema, out),
        }
    }

    fn owner(&self) -> Option<StructId> {
        match self {
            Place::Root => None,
            Place::Field(_, _, owner) => Some(*owner),
            Place::Key(parent, _) | Place::Index(parent, _) => parent.owner(),
        }
    }
}

/// A struct's name without its package.
fn go_struct(schema: &Schema, id: StructId) -> &str {
    schema.get(id).name.rsplit('.').next().unwrap_or_default()
}

/// One value to be read. Answers `None` for `null` and for what could not be read.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) decoding: &'a Decoding<'a>,
    pub(super) ty: &'a Type,
    /// The named Go type, for error texts.
    pub(super) go_type: Option<&'a str>,
    /// In a custom resource: a value of a wrong type is kept.
    pub(super) verbatim: bool,
    pub(super) place: Place<'a>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Node<'_> {
    /// Notes `json: cannot unmarshal <found> into Go struct field S.a.b of type T`.
    fn wrong_type(&self, found: &str, inner: Option<&str>) {
        let schema = &self.decoding.kind.schema;
        self.decoding.wrong_type(|| {
            let expected = inner.or(self.go_type).map_or_else(|| scalar::go_name(schema, self.ty), str::to_owned);
            let Some(owner) = self.place.owner() else {
                return format!("json: cannot unmarshal {found} into Go value of type {expected}");
            };
            let name = go_struct(schema, owner);
            let mut text = format!("json: cannot unmarshal {found} into Go struct field {name}");
            self.place.go_path(schema, &mut text);
            let _ = write!(text, " of type {expected}");
            text
        });
    }

    fn scalar(&self, found: Value) -> Option<Value> {
        if self.verbatim {
            return Some(scalar::canonical(self.ty, found));
        }
        // Only what is not an object reaches this.
        let ty = match self.ty {
            Type::Either(either) => &either.other,
            ty => ty,
        };
        match scalar::read(ty, found) {
            Ok(value) => Some(value),
            Err(scalar::Problem::Type(found)) => {
                self.wrong_type(&found, None);
                None
            }
            Err(scalar::Problem::Inner(found, inner)) => {
                self.wrong_type(&found, Some(inner));
                None
            }
            Err(scalar::Problem::Notation(text)) => {
                self.decoding.wrong_type(|| text);
                None
            }
        }
    }

    /// The type of a list's items or a map's values by its Go name: `[]v1.X` holds `v1.X`.
    fn go_item(&self) -> Option<&str> {
        let name = self.go_type?;
        name.strip_prefix("[]")
            .or_else(|| name.strip_prefix("map[").and_then(|n| n.split_once(']')).map(|(_, item)| item))
    }

    fn fields<'de, A: MapAccess<'de>>(&self, id: StructId, mut map: A) -> Result<Value, A::Error> {
        let schema = &self.decoding.kind.schema;
        let shape = schema.get(id);
        // Sorted, as most are, a map is built of them at once; of equal keys the last counts.
        let mut found: Vec<(String, Value)> = Vec::new();
        let mut seen = vec![false; shape.fields.len()];
        while let Some(key) = map.next_key_seed(Key)? {
            let Some(index) = shape.place(&key) else {
                if shape.preserve_unknown {
                    found.push((key, map.next_value()?));
                } else {
                    self.decoding.strict(format!("unknown field {:?}", self.place.child(&key)));
                    map.next_value::<IgnoredAny>()?;
                }
                continue;
            };
            if std::mem::replace(&mut seen[index], true) {
                self.decoding.strict(format!("duplicate field {:?}", self.place.child(&key)));
                found.retain(|(earlier, _)| *earlier != key);
            }
            let field = &shape.fields[index];
            let value = map.next_value_seed(Node {
                decoding: self.decoding,
                ty: &field.ty,
                go_type: field.go_type.as_deref(),
                verbatim: field.presence == Presence::Verbatim,
                place: Place::Field(&self.place, &field.name, id),
            })?;
            found.extend(value.filter(|value| !omits(schema, field, value)).map(|value| (key, value)));
        }
        let mut object: Map<String, Value> = found.into_iter().collect();
        fill(schema, shape, &mut object);
        Ok(Value::Object(object))
    }

    fn entries<'de, A: MapAccess<'de>>(&self, ty: &Type, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key_seed(Key)? {
            let value = map.next_value_seed(Node {
                decoding: self.decoding,
                ty,
                go_type: self.go_item(),
                verbatim: self.verbatim,
                place: Place::Key(&self.place, &key),
            })?;
            let value = value.unwrap_or_else(|| self.zero_item(ty));
            if object.contains_key(&key) {
                self.decoding.strict(format!("duplicate field {:?}", self.place.child(&key)));
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }

    /// What `null` in a list or map becomes.
    fn zero_item(&self, ty: &Type) -> Value {
        match ty {
            _ if self.verbatim => Value::Null,
            Type::Bytes => "".into(),
            ty => zero(&self.decoding.kind.schema, ty),
        }
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(self.verbatim.then_some(Value::Null))
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Self::Value, E> {
        Ok(self.scalar(v.into()))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Self::Value, E> {
        Ok(self.scalar(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Self::Value, E> {
        Ok(self.scalar(v.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Self::Value, E> {
        if v.is_finite() { Ok(self.scalar(v.into())) } else { Err(E::custom(format!("json: unsupported value: {v}"))) }
    }

    fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
        Ok(self.scalar(v.into()))
    }

    fn visit_string<E>(self, v: String) -> Result<Self::Value, E> {
        Ok(self.scalar(v.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        match self.ty {
            Type::Struct(id) => self.fields(*id, map).map(Some),
            Type::Map(ty) => self.entries(&ty.value, map).map(Some),
            Type::Either(either) => Self { ty: &either.object, ..self }.visit_map(map),
            Type::Any | Type::RawExtension | Type::FieldsV1 => raw_map(map),
            _ if self.verbatim => raw_map(map),
            _ => {
                self.scalar(Value::Object(Map::new()));
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(None)
            }
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        match self.ty {
            Type::List(list) => {
                let mut items = Vec::new();
                loop {
                    let item = Node {
                        decoding: self.decoding,
                        ty: &list.item,
                        go_type: self.go_item(),
                        verbatim: self.verbatim,
                        place: Place::Index(&self.place, items.len()),
                    };
                    let Some(value) = seq.next_element_seed(item)? else { break };
                    items.push(value.unwrap_or_else(|| self.zero_item(&list.item)));
                }
                Ok(Some(Value::Array(items)))
            }
            Type::Either(either) => Self { ty: &either.other, ..self }.visit_seq(seq),
            Type::Any | Type::RawExtension => Value::deserialize(SeqAccessDeserializer::new(seq)).map(Some),
            _ if self.verbatim => Value::deserialize(SeqAccessDeserializer::new(seq)).map(Some),
            _ => {
                self.scalar(Value::Array(Vec::new()));
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(None)
            }
        }
    }
}

fn raw_map<'de, A: MapAccess<'de>>(map: A) -> Result<Option<Value>, A::Error> {
    Value::deserialize(MapAccessDeserializer::new(map)).map(Some)
}

/// An object's key. YAML's may be numbers and booleans; they become strings.
pub(super) struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bool<E>(self, v: bool) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_i64<E>(self, v: i64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_u64<E>(self, v: u64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_f64<E>(self, v: f64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_str<E>(self, v: &str) -> Result<String, E> {
        Ok(v.to_owned())
    }

    fn visit_string<E>(self, v: String) -> Result<String, E> {
        Ok(v)
    }
}
