//! The versions of a definition: schemas, subresources, columns, selectable fields. What all versions have in common upstream
//! moves to where it used to be before there were versions, and says of that place what is wrong.

use std::collections::HashSet;

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::dns1035_label;
use kybern_apimachinery::{Value, object};
use kybern_schema::structural::{self, Precedent, field_path};

use crate::tree::{flag, has, list, text};
use crate::validation::Errors;

const MAX_SELECTABLE_FIELDS: usize = 8;
const MAX_WARNING: usize = 256;

/// What a schema may have at its root where the status is a subresource, by upstream's names.
const AT_ROOT: [(&str, &str); 22] = [
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
    ("x-kubernetes-validations", "XValidations"),
];

/// What is the same in all versions.
struct Common {
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl Common {
    fn of(versions: &[Value]) -> Self {
        let same = |field: &str| versions.windows(2).all(|pair| pair[0][field] == pair[1][field]);
        Self {
            schema: same("schema"),
            subresources: same("subresources"),
            columns: same("additionalPrinterColumns"),
            selectable: same("selectableFields"),
        }
    }
}

impl Common {
    /// Versions as upstream shows them.
    fn without(&self, versions: &[Value]) -> Value {
        let moved = [
            (self.schema, "schema"),
            (self.subresources, "subresources"),
            (self.columns, "additionalPrinterColumns"),
            (self.selectable, "selectableFields"),
        ];
        let shown = versions.iter().map(|version| {
            let mut shown = version.clone();
            for (_, field) in moved.iter().filter(|(moved, _)| *moved) {
                object::remove(&mut shown, &[field]);
            }
            shown
        });
        shown.collect::<Vec<Value>>().into()
    }
}

/// Checks the versions, and what of them is checked before the names of the kind.
pub(super) fn versions(out: &mut Errors, spec: &Value, old: Option<&Value>) {
    let (path, versions) = (FieldPath::new("spec.versions"), list(spec, "versions"));
    for (i, version) in versions.iter().enumerate() {
        if !has(&version["schema"], "openAPIV3Schema") {
            out.push(FieldError::required(&path.index(i).child("schema").child("openAPIV3Schema"), ""));
        }
    }
    let (common, precedent) = (Common::of(versions), precedent(old));
    for (i, version) in versions.iter().enumerate() {
        let (each, name) = (path.index(i), text(version, "name"));
        let faults = dns1035_label(name);
        if !faults.is_empty() {
            out.push(FieldError::invalid(&each.child("name"), name, faults.join(",")));
        }
        deprecation(out, &each.child("deprecationWarning"), version);
        if !common.schema {
            schema(out, &each.child("schema"), version, &precedent_of(&precedent, version, old));
        }
        if !common.subresources {
            scale(out, &each.child("subresources"), version);
        }
        if !common.columns {
            columns(out, &each.child("additionalPrinterColumns"), version);
        }
        if !common.selectable {
            selectable(out, &each.child("selectableFields"), version, old);
        }
    }
    let given = || if versions.is_empty() { Value::Null } else { common.without(versions) };
    let names: HashSet<&str> = versions.iter().map(|version| text(version, "name")).collect();
    if names.len() < versions.len() {
        out.push(FieldError::invalid(&path, given(), "must contain unique version names"));
    }
    if versions.iter().filter(|version| flag(version, "storage")).count() != 1 {
        out.push(FieldError::invalid(&path, given(), "must have exactly one version marked as storage version"));
    }
    // Upstream has the first one's name twice.
    let first = versions.first().map_or("", |version| text(version, "name"));
    let faults = dns1035_label(first);
    if !first.is_empty() && !faults.is_empty() {
        out.push(FieldError::invalid(&FieldPath::new("spec.version"), first, faults.join(",")));
    }
}

/// Checks what all versions have in common.
pub(super) fn common(out: &mut Errors, spec: &Value, old: Option<&Value>) {
    let Some(first) = list(spec, "versions").first() else { return };
    let (path, common) = (FieldPath::new("spec"), Common::of(list(spec, "versions")));
    if common.schema {
        schema(out, &path.child("validation"), first, &precedent_of(&precedent(old), first, old));
    }
    if common.subresources {
        scale(out, &path.child("subresources"), first);
    }
    if common.columns {
        columns(out, &path.child("additionalPrinterColumns"), first);
    }
    if common.selectable {
        selectable(out, &path.child("selectableFields"), first, old);
    }
}

fn precedent(old: Option<&Value>) -> Precedent {
    let versions = old.map_or(&[][..], |old| list(old, "versions"));
    Precedent::of(versions.iter().map(|version| &version["schema"]["openAPIV3Schema"]))
}

fn before<'o>(version: &Value, old: Option<&'o Value>) -> Option<&'o Value> {
    list(old?, "versions").iter().find(|before| text(before, "name") == text(version, "name"))
}

fn precedent_of(precedent: &Precedent, version: &Value, old: Option<&Value>) -> Precedent {
    precedent.with_same_schema(before(version, old).is_some_and(|before| before["schema"] == version["schema"]))
}

fn deprecation(out: &mut Errors, path: &FieldPath, version: &Value) {
    let Some(warning) = version["deprecationWarning"].as_str() else { return };
    let mut invalid = |detail: String| out.push(FieldError::invalid(path, warning, detail));
    if !flag(version, "deprecated") {
        invalid("can only be set for deprecated versions".to_owned());
        return;
    }
    if warning.len() > MAX_WARNING {
        invalid(format!("must be <= {MAX_WARNING} characters long"));
    }
    if warning.is_empty() {
        invalid("must not be an empty string".to_owned());
    }
    if let Some((i, _)) = warning.char_indices().find(|(_, c)| c.is_control() || (c.is_whitespace() && *c != ' ')) {
        invalid(format!("must only contain printable UTF-8 characters; non-printable character found at index {i}"));
    }
}

fn schema(out: &mut Errors, path: &FieldPath, version: &Value, precedent: &Precedent) {
    if !has(&version["schema"], "openAPIV3Schema") {
        return;
    }
    let (schema, path) = (&version["schema"]["openAPIV3Schema"], path.child("openAPIV3Schema"));
    if version["subresources"]["status"].is_object() {
        root(out, &path, schema);
    }
    out.extend(structural::check(schema, &path, precedent));
}

/// What is asked of the root of a schema so that it holds of a status alone.
fn root(out: &mut Errors, path: &FieldPath, schema: &Value) {
    let ty = text(schema, "type");
    if !ty.is_empty() && ty != "object" {
        let detail =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        out.push(FieldError::invalid(&FieldPath::new(&format!("{}.type", path.as_str())), ty, detail));
        return;
    }
    let is_set = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    let known = |key: &str| AT_ROOT.iter().any(|(name, _)| *name == key);
    if schema.as_object().into_iter().flatten().any(|(key, value)| !known(key) && is_set(value)) {
        let names: Vec<&str> = AT_ROOT.iter().map(|(_, name)| *name).collect();
        let detail = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            names.join(" ")
        );
        out.push(FieldError::invalid(path, schema.clone(), detail));
    }
}

fn scale(out: &mut Errors, path: &FieldPath, version: &Value) {
    let scale = &version["subresources"]["scale"];
    if !scale.is_object() {
        return;
    }
    for (field, needed, below) in [
        ("specReplicasPath", true, &[".spec."][..]),
        ("statusReplicasPath", true, &[".status."]),
        ("labelSelectorPath", false, &[".spec.", ".status."]),
    ] {
        let (path, given) = (FieldPath::new(&format!("{}.scale.{field}", path.as_str())), text(scale, field));
        match (given, given.starts_with('.')) {
            ("", _) if needed => out.push(FieldError::required(&path, "")),
            ("", _) => {}
            (given, false) => out.push(FieldError::invalid(&path, given, "must be a simple json path starting with .")),
            (given, true) if !below.iter().any(|root| given.starts_with(root)) => {
                let places: Vec<&str> = below.iter().map(|root| root.trim_end_matches('.')).collect();
                let either = if places.len() > 1 { "either " } else { "" };
                let detail = format!("should be a json path under {either}{}", places.join(" or "));
                out.push(FieldError::invalid(&path, given, detail));
            }
            _ => {}
        }
    }
}

fn selectable(out: &mut Errors, path: &FieldPath, version: &Value, old: Option<&Value>) {
    let (fields, schema) = (list(version, "selectableFields"), &version["schema"]["openAPIV3Schema"]);
    let mut seen = HashSet::new();
    for (i, field) in fields.iter().enumerate() {
        let (path, given) = (path.index(i).child("jsonPath"), text(field, "jsonPath"));
        if given.is_empty() {
            out.push(FieldError::required(&path, ""));
            continue;
        }
        let found = match field_path::find(given, schema, false) {
            Ok(found) => found,
            Err(problem) => {
                out.push(FieldError::invalid(&path, given, format!("is an invalid path: {problem}")));
                continue;
            }
        };
        if found.names.first().is_some_and(|name| name == "metadata") {
            out.push(FieldError::invalid(&path, given, "must not point to fields in metadata"));
        }
        if !matches!(text(found.schema, "type"), "string" | "boolean" | "integer") {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            out.push(FieldError::invalid(&path, given, detail));
        }
        if !seen.insert(found.path.as_str().to_owned()) {
            out.push(FieldError::duplicate(&path, given));
        }
    }
    let kept = before(version, old).is_some_and(|before| {
        list(before, "selectableFields").len() > MAX_SELECTABLE_FIELDS
            && before["selectableFields"] == version["selectableFields"]
    });
    if seen.len() > MAX_SELECTABLE_FIELDS && !kept {
        out.push(FieldError::too_many(path, seen.len(), MAX_SELECTABLE_FIELDS));
    }
}

fn columns(out: &mut Errors, path: &FieldPath, version: &Value) {
    for (i, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
        column_of(out, &path.index(i), column);
    }
}

fn column_of(out: &mut Errors, path: &FieldPath, column: &Value) {
    const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    if text(column, "name").is_empty() {
        out.push(FieldError::required(&path.child("name"), ""));
    }
    let (ty, detail) = (text(column, "type"), format!("must be one of {}", COLUMN_TYPES.join(",")));
    match ty {
        "" => out.push(FieldError::required(&path.child("type"), detail)),
        ty if !COLUMN_TYPES.contains(&ty) => out.push(FieldError::invalid(&path.child("type"), ty, detail)),
        _ => {}
    }
    let format = text(column, "format");
    if !format.is_empty() && !FORMATS.contains(&format) {
        let detail = format!("must be one of {}", FORMATS.join(","));
        out.push(FieldError::invalid(&path.child("format"), format, detail));
    }
    // Upstream's path is that of the internal version.
    let (given, path) = (text(column, "jsonPath"), path.child("JSONPath"));
    match given {
        "" => out.push(FieldError::required(&path, "")),
        given if !given.starts_with('.') => {
            out.push(FieldError::invalid(&path, given, "must be a simple json path starting with ."));
        }
        _ => {}
    }
}
