//! Kinds for tests: built-in ones by name, and a custom resource with every kind of list and map.

use std::sync::Arc;

use kybern_apimachinery::Gvk;

use crate::types::{Field, KindType, ListKind, ListType, MapType, Schema, StructId, StructType, Type};

/// `Widget`, `Deployment`, or a kind of the core group.
pub(crate) fn kind(name: &str) -> KindType {
    match name {
        "Widget" => widget(),
        "Deployment" => builtin("apps", name),
        core => builtin("", core),
    }
}

fn builtin(group: &str, kind: &str) -> KindType {
    crate::builtin().kind(&Gvk::new(group, "v1", kind)).unwrap_or_else(|| panic!("there is no kind {kind:?}"))
}

fn field(name: &str, ty: Type) -> Field {
    Field::new(name, ty)
}

fn list(item: Type, kind: ListKind) -> Type {
    Type::List(Box::new(ListType { item, kind }))
}

fn map(value: Type) -> Type {
    Type::Map(Box::new(MapType { value, atomic: false }))
}

fn widget() -> KindType {
    let mut structs = Vec::new();
    let mut add = |name: &str, atomic: bool, preserve_unknown: bool, fields: Vec<Field>| {
        let id = StructId(u32::try_from(structs.len()).unwrap());
        structs.push(StructType::new(Arc::from(name), fields, atomic, preserve_unknown));
        Type::Struct(id)
    };
    let string = |name: &str| field(name, Type::String);
    let tags = || field("tags", list(Type::String, ListKind::Set));
    let part = add("Part", false, false, vec![string("name"), field("size", Type::Int64), tags()]);
    let sealed = add("Sealed", true, false, vec![string("a"), string("b")]);
    let free = add("Free", false, true, vec![string("known")]);
    let spec = vec![
        field("parts", list(part.clone(), ListKind::Map(vec![Arc::from("name")]))),
        tags(),
        field("steps", list(Type::String, ListKind::Atomic)),
        field("sealed", sealed),
        field("free", free),
        field("raw", Type::Any),
        field("byName", map(part)),
        field("size", Type::Int64),
    ];
    let spec = add("WidgetSpec", false, false, spec);
    let status = add("WidgetStatus", false, false, vec![string("phase")]);
    let metadata = vec![
        string("name"),
        string("namespace"),
        string("resourceVersion"),
        field("labels", map(Type::String)),
        field("annotations", map(Type::String)),
        field("managedFields", list(Type::Any, ListKind::Atomic)),
    ];
    let metadata = add("ObjectMeta", false, false, metadata);
    let root = vec![
        string("apiVersion"),
        string("kind"),
        field("metadata", metadata),
        field("spec", spec),
        field("status", status),
    ];
    let Type::Struct(root) = add("Widget", false, false, root) else { unreachable!("structs are structs") };
    KindType { schema: Arc::new(Schema::new(structs)), root, gvk: Gvk::new("example.com", "v1", "Widget") }
}
