//! How a value is taken apart into owned fields: by the type where there is one, by the JSON where there is none.

use kybern_apimachinery::{Map, Value};

use super::path::PathElement;
use crate::types::{KindType, ListKind, ListType, Schema, StructType, Type};

/// The type of a value, in its schema.
#[derive(Clone, Copy)]
pub(super) struct Typed<'a> {
    schema: &'a Schema,
    ty: Option<&'a Type>,
    /// The field that it is in says so.
    granular: bool,
}

/// How a value, or a pair of values, is walked.
#[derive(Clone, Copy)]
pub(super) enum Shape<'a> {
    /// Owned whole: a scalar, or what is atomic.
    Leaf,
    Struct(&'a StructType),
    /// A granular map, with the type of its values.
    Map(Typed<'a>),
    /// A set or a keyed list.
    List(Items<'a>),
}

#[derive(Clone, Copy)]
pub(super) struct Items<'a> {
    schema: &'a Schema,
    list: &'a ListType,
}

impl<'a> Typed<'a> {
    pub(super) fn root(kind: &'a KindType, root: &'a Type) -> Self {
        Self { schema: &kind.schema, ty: Some(root), granular: false }
    }

    /// What is walked by the JSON alone: maps by key, everything else whole.
    fn deduced(self) -> Self {
        Self { schema: self.schema, ty: None, granular: false }
    }

    /// The shape in which all these values can be walked; a leaf where they do not agree with the type or each other.
    pub(super) fn shape(self, values: &[&Value]) -> Shape<'a> {
        let maps = values.iter().all(|v| v.is_object() || v.is_null());
        let lists = values.iter().all(|v| v.is_array() || v.is_null());
        match self.ty {
            None if maps => Shape::Map(self),
            Some(Type::Struct(id)) if maps => match self.schema.get(*id) {
                ty if ty.atomic && !self.granular => Shape::Leaf,
                ty => Shape::Struct(ty),
            },
            Some(Type::Map(map)) if maps && !map.atomic => {
                Shape::Map(Self { schema: self.schema, ty: Some(&map.value), granular: false })
            }
            Some(Type::List(list)) if lists && list.kind != ListKind::Atomic => {
                Shape::List(Items { schema: self.schema, list })
            }
            Some(Type::Either(either)) if maps => {
                Self { schema: self.schema, ty: Some(&either.object), granular: false }.shape(values)
            }
            _ => Shape::Leaf,
        }
    }

    /// The shape of a value that is looked into though it may be atomic; and whether it is.
    pub(super) fn within(self, value: &Value) -> (Shape<'a>, bool) {
        match (self.ty, value) {
            (Some(Type::Struct(id)), Value::Object(_)) => {
                let ty = self.schema.get(*id);
                (Shape::Struct(ty), ty.atomic && !self.granular)
            }
            (Some(Type::List(list)), Value::Array(_)) => {
                (Shape::List(Items { schema: self.schema, list }), list.kind == ListKind::Atomic)
            }
            (Some(Type::Map(map)), Value::Object(_)) => (self.shape(&[value]), map.atomic),
            _ => (self.shape(&[value]), false),
        }
    }

    /// The type of a struct's field; `None` for one that the schema does not allow.
    pub(super) fn field(self, ty: &'a StructType, name: &str) -> Option<Self> {
        match ty.field(name) {
            Some(field) => Some(Self { schema: self.schema, ty: Some(&field.ty), granular: field.granular }),
            None => ty.preserve_unknown.then(|| self.deduced()),
        }
    }

    pub(super) fn ty(self) -> Option<&'a Type> {
        self.ty
    }
}

impl<'a> Items<'a> {
    pub(super) fn item(self) -> Typed<'a> {
        Typed { schema: self.schema, ty: Some(&self.list.item), granular: false }
    }

    /// What tells an item of this list from the others. Absent keys read as their defaults.
    pub(super) fn element(self, item: &Value) -> Result<PathElement, String> {
        let ListKind::Map(keys) = &self.list.kind else {
            return match item {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
                scalar => Ok(PathElement::Value(scalar.to_string())),
            };
        };
        let Value::Object(map) = item else {
            return Err("associative list with keys may not have non-map elements".to_owned());
        };
        let mut found = Map::new();
        for key in keys {
            let value = map.get(key.as_ref()).or_else(|| self.default_of(key)).ok_or_else(|| {
                format!("associative list with keys has an element that omits key field {key:?} (and doesn't have default value)")
            })?;
            found.insert(key.to_string(), value.clone());
        }
        Ok(PathElement::Key(Value::Object(found).to_string()))
    }

    fn default_of(self, key: &str) -> Option<&'a Value> {
        match &self.list.item {
            Type::Struct(id) => self.schema.get(*id).field(key)?.default.as_ref(),
            _ => None,
        }
    }

    /// The items that can be told apart, in order.
    pub(super) fn elements(self, list: Option<&Value>) -> Vec<(PathElement, &Value)> {
        let items = list.and_then(Value::as_array).into_iter().flatten();
        items.filter_map(|item| Some((self.element(item).ok()?, item))).collect()
    }
}

/// A value without content: absent, null, or an empty map or list.
pub(super) fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

pub(super) fn field_element(name: &str) -> PathElement {
    PathElement::Field(name.to_owned())
}
