//! The types that expressions see of built-in kinds, as upstream reads them from OpenAPI.

use std::collections::BTreeMap;
use std::sync::Arc;

use kybern_apimachinery::Gvk;
use kybern_cel::{DeclField, DeclKind, DeclType, escape};
use kybern_schema::types::{Schema, StructId, Type};

/// A type is not looked into within itself more often than this.
const MAX_NESTING: usize = 2;

/// The type of a kind's objects; none where the kind is not built in.
pub(super) fn of_kind(kind: &Gvk) -> Option<DeclType> {
    let shape = kybern_schema::builtin().kind(kind)?;
    let declared = declared(&shape.schema, &Type::Struct(shape.root), &mut Vec::new())?;
    Some(declared.named(&kind.kind))
}

/// The type of what every object has.
pub(super) fn metadata() -> Option<DeclField> {
    match of_kind(&Gvk::new("", "v1", "ConfigMap"))?.kind {
        DeclKind::Object { mut fields, .. } => fields.remove("metadata"),
        _ => None,
    }
}

/// `None` for what upstream's expressions do not see: quantities and what is not of one type.
fn declared(schema: &Schema, ty: &Type, within: &mut Vec<StructId>) -> Option<DeclType> {
    Some(match ty {
        Type::Bool => DeclType::bool(),
        Type::Int32 | Type::Int64 => DeclType::int(),
        Type::Double => DeclType::new(DeclKind::Double, 1),
        Type::String | Type::Duration => DeclType::string(),
        Type::Bytes => DeclType::new(DeclKind::Bytes, 2),
        Type::IntOrString => DeclType::new(DeclKind::IntOrString, 1),
        Type::Time | Type::MicroTime => DeclType::timestamp(),
        Type::FieldsV1 | Type::RawExtension => DeclType::object("object", []),
        Type::Quantity | Type::Any | Type::Either(_) => return None,
        Type::List(list) => DeclType::list(declared(schema, &list.item, within)?),
        Type::Map(map) => DeclType::map(declared(schema, &map.value, within)?),
        Type::Struct(id) => {
            if within.iter().filter(|outer| *outer == id).count() >= MAX_NESTING {
                return None;
            }
            within.push(*id);
            let mut fields = BTreeMap::new();
            for field in &schema.get(*id).fields {
                if let (Some(of), Some(key)) = (declared(schema, &field.ty, within), escape(&field.name)) {
                    fields.insert(key.into_owned(), DeclField { of: Arc::new(of), required: field.required });
                }
            }
            within.pop();
            DeclType::new(DeclKind::Object { name: "object".into(), fields }, 2)
        }
    })
}
