//! Definitions of structs, and of the types that have a notation of their own.

use std::collections::{BTreeMap, HashMap};

use kybern_apimachinery::{Gvk, Map, Value, json};

use super::descriptions::Descriptions;
use super::{Flavor, Served};
use crate::builtin;
use crate::types::{Field, ListKind, Presence, StructId, StructType, Type};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The definitions of a document, with all that they refer to.
pub(super) struct Definitions {
    flavor: Flavor,
    done: BTreeMap<String, Value>,
    structs: HashMap<&'static str, StructId>,
    kinds: HashMap<StructId, Vec<&'static Gvk>>,
    descriptions: Descriptions,
}

impl Definitions {
    pub(super) fn new(flavor: Flavor) -> Self {
        let builtin = builtin();
        let structs = (0..).map(StructId).zip(&builtin.schema().structs).map(|(id, s)| (s.name.as_ref(), id)).collect();
        let mut kinds: HashMap<StructId, Vec<&Gvk>> = HashMap::new();
        for gvk in builtin.kinds() {
            if let Some(kind) = builtin.kind(gvk) {
                kinds.entry(kind.root).or_default().push(gvk);
            }
        }
        Self { flavor, done: BTreeMap::new(), structs, kinds, descriptions: Descriptions::load() }
    }

    /// Those of custom resources alone: what they refer to of built-in ones is in the document already.
    pub(super) fn custom(flavor: Flavor) -> Self {
        let (structs, kinds) = (HashMap::new(), HashMap::new());
        Self { flavor, done: BTreeMap::new(), structs, kinds, descriptions: Descriptions::of_every_kind() }
    }

    pub(super) fn finish(self) -> BTreeMap<String, Value> {
        self.done
    }

    /// Adds a resource's definitions.
    pub(super) fn add_served(&mut self, served: &Served) {
        match &served.schema {
            Some(schema) => self.add_custom(served, schema),
            None => {
                self.add(&served.definition);
                self.add(&served.list_definition);
            }
        }
        // The options of connections are parameters, no definitions.
        for sub in served.subresources.iter().filter(|s| !s.gvk.kind.ends_with("Options")) {
            self.add(&sub.definition);
        }
    }

    /// Adds a built-in definition and what it refers to; nothing for a name that is not built in.
    pub(super) fn add(&mut self, name: &str) {
        if self.structs.is_empty() {
            return;
        }
        let mut queue = vec![name.to_owned()];
        while let Some(name) = queue.pop() {
            if self.done.contains_key(&name) {
                continue;
            }
            let definition = match (special(self.flavor, &name), self.structs.get(name.as_str())) {
                (Some(special), _) => special,
                (None, Some(id)) => self.structure(*id, &mut queue),
                (None, None) => continue,
            };
            self.done.insert(name, definition);
        }
    }

    fn structure(&self, id: StructId, queue: &mut Vec<String>) -> Value {
        let shape: &StructType = builtin().schema().get(id);
        let mut definition = Map::new();
        definition.insert("type".into(), "object".into());
        if let Some(text) = self.descriptions.of(&shape.name) {
            definition.insert("description".into(), text.into());
        }
        let required: Vec<&str> = shape.fields.iter().filter(|f| f.required).map(|f| f.name.as_ref()).collect();
        if !required.is_empty() {
            definition.insert("required".into(), required.into());
        }
        if !shape.fields.is_empty() {
            let described = |f: &Field| {
                let text = self.descriptions.of_field(&shape.name, &f.name, self.kinds.contains_key(&id));
                (f.name.to_string(), self.property(&shape.name, f, text, queue))
            };
            let properties = shape.fields.iter().map(described);
            definition.insert("properties".into(), Value::Object(properties.collect()));
        }
        if shape.atomic {
            definition.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        if let Some(kinds) = self.kinds.get(&id) {
            let kinds = kinds.iter().map(|k| gvk_json(k)).collect();
            definition.insert("x-kubernetes-group-version-kind".into(), Value::Array(kinds));
        }
        Value::Object(definition)
    }

    fn property(&self, owner: &str, field: &Field, description: Option<&str>, queue: &mut Vec<String>) -> Value {
        let mut property = self.ty(&field.ty, queue);
        if let Some(text) = description {
            property["description"] = text.into();
        }
        if let Some(default) = field.default.clone().or_else(|| zero_of(owner, field)) {
            self.set_default(&mut property, default);
        }
        let Some(object) = property.as_object_mut() else { return property };
        let mut set = |key: &str, value: Value| object.insert(key.to_owned(), value);
        match &field.ty {
            Type::List(list) => match &list.kind {
                ListKind::Atomic => drop(set("x-kubernetes-list-type", "atomic".into())),
                ListKind::Set => drop(set("x-kubernetes-list-type", "set".into())),
                ListKind::Map(keys) => {
                    set("x-kubernetes-list-type", "map".into());
                    set("x-kubernetes-list-map-keys", keys.iter().map(|k| Value::from(k.as_ref())).collect());
                }
            },
            Type::Map(map) if map.atomic => drop(set("x-kubernetes-map-type", "atomic".into())),
            Type::Struct(_) if field.granular => drop(set("x-kubernetes-map-type", "granular".into())),
            _ => {}
        }
        let patch = &field.patch;
        let strategies = [(patch.merge, "merge"), (patch.replace, "replace"), (patch.retain_keys, "retainKeys")];
        let strategies: Vec<&str> = strategies.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        if !strategies.is_empty() {
            set("x-kubernetes-patch-strategy", strategies.join(",").into());
        }
        if let Some(key) = &patch.merge_key {
            set("x-kubernetes-patch-merge-key", key.as_ref().into());
        }
        self.referred(property)
    }

    /// In v3 nothing may stand beside a reference.
    fn referred(&self, mut schema: Value) -> Value {
        if self.flavor == Flavor::V3
            && let Some(object) = schema.as_object_mut().filter(|object| object.len() > 1)
            && let Some(reference) = object.remove("$ref")
        {
            object.insert("allOf".to_owned(), json!([{"$ref": reference}]));
        }
        schema
    }

    /// Only v3 tells of defaults.
    fn set_default(&self, schema: &mut Value, default: Value) {
        if self.flavor == Flavor::V3 {
            schema["default"] = default;
        }
    }

    /// The type of a list's items or a map's values.
    fn inner(&self, ty: &Type, queue: &mut Vec<String>) -> Value {
        let mut schema = self.ty(ty, queue);
        if let Some(zero) = zero(ty) {
            self.set_default(&mut schema, zero);
        }
        self.referred(schema)
    }

    fn ty(&self, ty: &Type, queue: &mut Vec<String>) -> Value {
        let mut refer = |name: &str| {
            queue.push(name.to_owned());
            json!({"$ref": self.flavor.reference(name)})
        };
        match ty {
            Type::Bool => json!({"type": "boolean"}),
            Type::Int32 => json!({"type": "integer", "format": "int32"}),
            Type::Int64 => json!({"type": "integer", "format": "int64"}),
            Type::Double => json!({"type": "number", "format": "double"}),
            Type::String => json!({"type": "string"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::IntOrString => refer("io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
            Type::Quantity => refer("io.k8s.apimachinery.pkg.api.resource.Quantity"),
            Type::Time => refer(&format!("{META}.Time")),
            Type::MicroTime => refer(&format!("{META}.MicroTime")),
            Type::Duration => refer(&format!("{META}.Duration")),
            Type::FieldsV1 => refer(&format!("{META}.FieldsV1")),
            Type::RawExtension => refer("io.k8s.apimachinery.pkg.runtime.RawExtension"),
            // Any JSON has no type.
            Type::Any | Type::Either(_) => json!({}),
            Type::Struct(id) => refer(&builtin().schema().get(*id).name),
            Type::List(list) => json!({"type": "array", "items": self.inner(&list.item, queue)}),
            Type::Map(map) => json!({"type": "object", "additionalProperties": self.inner(&map.value, queue)}),
        }
    }

    /// A field that every object has.
    fn own_field(&self, name: &str, mut property: Value) -> Value {
        if let Some(text) = self.descriptions.of_any(name) {
            property["description"] = text.into();
        }
        self.referred(property)
    }

    /// Gives a custom resource's schema, and the objects embedded in it, the fields that every object has.
    fn add_own_fields(&self, schema: &mut Value, embedded: Embedded) {
        let meta = self.flavor.reference(&format!("{META}.ObjectMeta"));
        let Some(object) = schema.as_object_mut() else { return };
        for (key, child) in object.iter_mut() {
            let inside = |child: &mut Value| self.add_own_fields(child, Embedded::Yes);
            match (key.as_str(), child) {
                ("properties", Value::Object(properties)) => properties.values_mut().for_each(inside),
                ("items" | "additionalProperties", child) => inside(child),
                _ => {}
            }
        }
        if embedded == Embedded::Yes {
            let is_embedded = object.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true));
            let open = object.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
            if !is_embedded || (open && self.flavor == Flavor::V2) {
                return;
            }
            let required = object.entry("required").or_insert_with(|| json!([]));
            if let Some(required) = required.as_array_mut() {
                for name in ["kind", "apiVersion"] {
                    if !required.iter().any(|r| r == name) {
                        required.push(name.into());
                    }
                }
            }
        }
        let properties = object.entry("properties").or_insert_with(|| json!({}));
        for name in ["apiVersion", "kind"] {
            properties[name] = self.own_field(name, json!({"type": "string"}));
        }
        properties["metadata"] = self.own_field("metadata", json!({"$ref": meta}));
    }

    /// A custom resource's schema with the fields that every object has, and its list.
    fn add_custom(&mut self, served: &Served, schema: &Value) {
        let meta = format!("{META}.ObjectMeta");
        let list_meta = format!("{META}.ListMeta");
        self.add(&meta);
        self.add(&list_meta);
        // kubectl takes the properties of what has some for all that there may be.
        let open = self.flavor == Flavor::V2 && preserves_unknown(schema);
        let mut definition = if schema.is_object() && !open { schema.clone() } else { json!({"type": "object"}) };
        if schema.is_object() && !open {
            if self.flavor == Flavor::V2 {
                to_v2(&mut definition);
            }
            self.add_own_fields(&mut definition, Embedded::No);
        }
        definition["x-kubernetes-group-version-kind"] = json!([gvk_json(&served.gvk)]);
        let list = Gvk { kind: format!("{}List", served.gvk.kind), ..served.gvk.clone() };
        let list = json!({
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": self.own_field("apiVersion", json!({"type": "string"})),
                "kind": self.own_field("kind", json!({"type": "string"})),
                "metadata": {"$ref": self.flavor.reference(&list_meta)},
                "items": {
                    "type": "array",
                    "items": {"$ref": self.flavor.reference(&served.definition)},
                    "description": format!("The objects of the list of {}.", served.resource),
                },
            },
            "description": format!("{} is a list of {}.", list.kind, served.gvk.kind),
            "x-kubernetes-group-version-kind": [gvk_json(&list)],
        });
        self.done.insert(served.definition.clone(), definition);
        self.done.insert(served.list_definition.clone(), list);
    }
}

/// The default that upstream's generator gives a field which declares none: what Go's encoder makes of one that is not set,
/// where that is neither nothing nor null.
fn zero_of(owner: &str, field: &Field) -> Option<Value> {
    let is_declared = || owner.rsplit('.').next().is_some_and(|name| ZEROS.contains(&(name, &*field.name)));
    match (field.presence, &field.ty) {
        (Presence::Always, _) | (Presence::OmitEmpty, Type::Struct(_)) => zero(&field.ty),
        _ => is_declared().then(|| zero(&field.ty)).flatten(),
    }
}

/// Fields that may be left out whose zero is a declared default: documents tell it, and objects stay as they are.
const ZEROS: [(&str, &str); 13] = [
    ("AzureDiskVolumeSource", "readOnly"),
    ("ConfigMapEnvSource", "name"),
    ("ConfigMapKeySelector", "name"),
    ("ConfigMapProjection", "name"),
    ("ConfigMapVolumeSource", "name"),
    ("FileKeySelector", "optional"),
    ("GRPCAction", "service"),
    ("LocalObjectReference", "name"),
    ("ReplicationControllerSpec", "minReadySeconds"),
    ("ScaleSpec", "replicas"),
    ("SecretEnvSource", "name"),
    ("SecretKeySelector", "name"),
    ("SecretProjection", "name"),
];

fn zero(ty: &Type) -> Option<Value> {
    Some(match ty {
        Type::Bool => json!(false),
        Type::Int32 | Type::Int64 | Type::Double => json!(0),
        Type::String => json!(""),
        Type::Struct(_) => json!({}),
        _ => return None,
    })
}

/// Whether a node of a schema is the whole, or holds an object with a kind of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Embedded {
    No,
    Yes,
}

fn preserves_unknown(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
}

/// Drops what OpenAPI v2 cannot say, as upstream does: a node that may be null or several types becomes untyped.
fn to_v2(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    for key in ["oneOf", "anyOf", "not", "default"] {
        object.remove(key);
    }
    let untyped = object.remove("nullable") == Some(Value::Bool(true))
        || object.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true))
        || object.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true))
        || object.get("type").is_some_and(|ty| ty == "array") && !object.contains_key("items");
    if untyped {
        for key in ["type", "properties", "items", "additionalProperties"] {
            object.remove(key);
        }
    }
    for (key, child) in object.iter_mut() {
        match (key.as_str(), child) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(to_v2),
            ("items" | "additionalProperties", child) => to_v2(child),
            ("allOf", Value::Array(all)) => all.iter_mut().for_each(to_v2),
            _ => {}
        }
    }
}

pub(super) fn gvk_json(gvk: &Gvk) -> Value {
    json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
}

/// Types that are no structs in JSON.
fn special(flavor: Flavor, name: &str) -> Option<Value> {
    let either = |format: Option<&str>, types: [&str; 2]| {
        let mut both = json!({"oneOf": types.map(|ty| json!({"type": ty}))});
        if let Some(format) = format {
            both["format"] = format.into();
        }
        both
    };
    Some(match name.strip_prefix("io.k8s.apimachinery.pkg.")? {
        "util.intstr.IntOrString" if flavor == Flavor::V3 => either(Some("int-or-string"), ["integer", "string"]),
        "util.intstr.IntOrString" => json!({"type": "string", "format": "int-or-string"}),
        "api.resource.Quantity" if flavor == Flavor::V3 => either(None, ["string", "number"]),
        "api.resource.Quantity" | "apis.meta.v1.Duration" => json!({"type": "string"}),
        "apis.meta.v1.Time" | "apis.meta.v1.MicroTime" => json!({"type": "string", "format": "date-time"}),
        "apis.meta.v1.FieldsV1" | "apis.meta.v1.Patch" | "runtime.RawExtension" => json!({"type": "object"}),
        _ => return None,
    })
}
