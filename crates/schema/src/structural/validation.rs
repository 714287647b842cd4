//! Validation of custom resources against their schema (OpenAPI v3 as `CustomResourceDefinition` allows it), with
//! upstream's texts (`k8s.io/kube-openapi/pkg/validation`). A schema is compiled once, when its definition is served.
//!
//! An update is ratcheted: what is as it was is not looked at again, however wrong it is under the schema of today.

use std::fmt;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldErrorType, FieldPath};
use kybern_cel::RUNTIME_COST_BUDGET;

use super::compile::{Node, compile};
pub use super::compile::{PatternError, check_pattern};
use super::formats;
use super::objects;
use super::rules::{self, Former, unchanged};

/// A compiled schema.
#[derive(Debug)]
pub struct Validator(Node);

impl Validator {
    /// Compiles the `openAPIV3Schema` of a resource, its rules included.
    pub fn new(schema: &Value) -> Result<Self, PatternError> {
        Self::of_part(schema, true)
    }

    /// Compiles a part of a schema, such as one that has a default.
    pub(crate) fn of_part(schema: &Value, is_resource: bool) -> Result<Self, PatternError> {
        let mut node = compile(schema, &FieldPath::new("openAPIV3Schema"))?;
        rules::attach(&mut node, schema, None, is_resource);
        Ok(Self(node))
    }

    /// Everything that is wrong with a new object, but for its rules.
    pub fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = self.against_schema(object, None);
        errors.extend(self.structure(object, None));
        errors
    }

    /// What the schema itself says of an object, and of one that takes the place of another.
    pub fn against_schema(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut findings = Findings::default();
        self.0.check(object, old, Name::Root, &mut findings);
        findings.errors
    }

    /// What the schema says of the status of an object that takes the place of another.
    pub fn status_against_schema(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let (Some(status), Some(node)) = (object.get("status"), self.0.properties.get("status")) else {
            return Vec::new();
        };
        let mut findings = Findings { under: FieldPath::new("status"), ..Findings::default() };
        node.check(status, old.get("status"), Name::Root, &mut findings);
        findings.errors
    }

    /// Objects within say what they are, and sets and maps hold nothing twice.
    pub fn structure(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        objects::embedded(&self.0, object, &FieldPath::root(), &mut errors);
        errors.extend(self.lists(object, old));
        errors
    }

    /// Sets and maps hold nothing twice; but where they did before, they may.
    pub fn lists(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let (mut new, mut before) = (Vec::new(), Vec::new());
        objects::lists(&self.0, object, &FieldPath::root(), &mut new);
        if let (false, Some(old)) = (new.is_empty(), old) {
            objects::lists(&self.0, old, &FieldPath::root(), &mut before);
        }
        if before.is_empty() { new } else { Vec::new() }
    }

    /// Whether there are rules in CEL.
    pub fn has_rules(&self) -> bool {
        self.0.ruled
    }

    /// What rules have against an object; what was wrong before and is not touched is warned of.
    pub fn rules(&self, object: &Value, old: Option<&Value>, warnings: &mut Vec<String>) -> Vec<FieldError> {
        self.rules_under(&FieldPath::root(), object, old, &mut Some(RUNTIME_COST_BUDGET), warnings)
    }

    /// What rules have against a part of an object. The budget is `None` when it is used up.
    pub(crate) fn rules_under(
        &self,
        under: &FieldPath,
        object: &Value,
        old: Option<&Value>,
        budget: &mut Option<u64>,
        warnings: &mut Vec<String>,
    ) -> Vec<FieldError> {
        rules::evaluate(&self.0, object, old, under, budget, warnings)
    }

    pub(crate) fn against_schema_under(&self, under: &FieldPath, part: &Value) -> Vec<FieldError> {
        let mut findings = Findings { under: under.clone(), ..Findings::default() };
        self.0.check(part, None, Name::Root, &mut findings);
        findings.errors
    }

    pub(crate) fn structure_under(&self, under: &FieldPath, part: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        objects::embedded(&self.0, part, under, &mut errors);
        errors
    }
}

/// Where a value is. It is written out where something is wrong with it.
#[derive(Clone, Copy)]
enum Name<'n> {
    Root,
    Property(&'n Name<'n>, &'n str),
    /// A key that is none of the properties.
    Entry(&'n Name<'n>, &'n str),
    Item(&'n Name<'n>, usize),
}

impl Name<'_> {
    fn is_empty(&self) -> bool {
        match self {
            Self::Root => true,
            Self::Property(of, key) => key.is_empty() && of.is_empty(),
            Self::Entry(..) | Self::Item(..) => false,
        }
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Property(of, key) if of.is_empty() => f.write_str(key),
            Self::Property(of, key) | Self::Entry(of, key) => write!(f, "{of}.{key}"),
            Self::Item(of, i) => write!(f, "{of}[{i}]"),
        }
    }
}

/// What a check has found.
#[derive(Debug, Default)]
struct Findings {
    errors: Vec<FieldError>,
    /// How many checks were made: of alternatives that fail, the one that came furthest is told of.
    checks: usize,
    /// What errors' paths begin with, unlike those in their texts.
    under: FieldPath,
}

impl Findings {
    fn nested(&self) -> Self {
        Self { under: self.under.clone(), ..Self::default() }
    }

    fn path(&self, name: Name<'_>) -> FieldPath {
        let name = name.to_string();
        match name.strip_prefix('.').unwrap_or(&name) {
            "" => self.under.clone(),
            name if name.starts_with('[') => FieldPath::new(&format!("{}{name}", self.under.as_str())),
            name => self.under.child(name),
        }
    }

    fn invalid(&mut self, name: Name<'_>, value: impl Into<Value>, rule: &str) {
        let detail = format!("{name} in body {rule}");
        self.errors.push(FieldError::invalid(&self.path(name), value, detail));
    }

    /// A fault of a combination, which upstream tells without its place.
    fn composite(&mut self, detail: String) {
        let error = FieldError::invalid(&self.under, "", detail);
        if !self.errors.iter().any(|known| known.detail == error.detail) {
            self.errors.push(error);
        }
    }

    fn take(&mut self, other: Self) {
        self.checks += other.checks;
        for error in other.errors {
            let same = |known: &FieldError| known.path == error.path && known.to_string() == error.to_string();
            if !self.errors.iter().any(same) {
                self.errors.push(error);
            }
        }
    }
}

impl Node {
    fn check(&self, value: &Value, old: Option<&Value>, name: Name<'_>, findings: &mut Findings) {
        if old.is_some_and(|old| unchanged(self, value, old)) {
            return;
        }
        let fits = self.type_of(value, name, findings);
        if value.is_null() {
            self.common(value, name, findings);
            return;
        }
        self.combinations(value, old, name, findings);
        match value {
            Value::String(text) => self.string(text, name, findings),
            Value::Number(_) => self.number(value, fits, name, findings),
            Value::Array(items) => self.list(items, old, name, findings),
            _ => {}
        }
        self.common(value, name, findings);
        if let Value::Object(_) = value {
            self.object(value, old, name, findings);
        }
        findings.checks += 1;
    }

    /// Whether a value is of a type that it may be of.
    fn type_of(&self, value: &Value, name: Name<'_>, findings: &mut Findings) -> bool {
        if self.types.is_empty() || (value.is_null() && self.nullable) {
            return true;
        }
        findings.checks += 1;
        let is = type_name(value);
        let fits = self.types.iter().any(|ty| {
            *ty == is || (ty == "integer" && is == "number" && is_whole(value)) || (ty == "number" && is == "integer")
        });
        if fits {
            return true;
        }
        let detail = format!("{name} in body must be of type {}: {is:?}", self.types.join(","));
        let kind = FieldErrorType::TypeInvalid;
        findings.errors.push(FieldError { kind, path: findings.path(name), value: Some(is.into()), detail });
        false
    }

    fn common(&self, value: &Value, name: Name<'_>, findings: &mut Findings) {
        findings.checks += 1;
        if self.allowed.is_empty() || self.allowed.iter().any(|allowed| same(allowed, value)) {
            return;
        }
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let texts: Vec<String> = self.allowed.iter().map(text).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        findings.errors.push(FieldError::not_supported(&findings.path(name), value.clone(), &texts));
    }

    fn string(&self, text: &str, name: Name<'_>, findings: &mut Findings) {
        findings.checks += 1;
        let length = text.chars().count();
        // The first of these counts.
        if let Some(max) = self.length.max.filter(|max| length > *max) {
            findings.errors.push(FieldError::too_long(&findings.path(name), max));
        } else if let Some(min) = self.length.min.filter(|min| length < *min) {
            findings.invalid(name, text, &format!("should be at least {min} chars long"));
        } else if let Some((source, _)) = self.pattern.as_ref().filter(|(_, regex)| !regex.is_match(text)) {
            findings.invalid(name, text, &format!("should match '{source}'"));
        }
        if let Some(format) = self.format.as_deref() {
            findings.checks += 1;
            if !formats::holds(format, text) {
                let detail = format!("{name} in body must be of type {format}: {text:?}");
                let kind = FieldErrorType::TypeInvalid;
                findings.errors.push(FieldError { kind, path: findings.path(name), value: Some(text.into()), detail });
            }
        }
    }

    fn number(&self, value: &Value, fits: bool, name: Name<'_>, findings: &mut Findings) {
        findings.checks += 1;
        let number = value.as_f64().unwrap_or_default();
        if let Some(ty) = self.types.first()
            && fits
            && !formats::in_range(ty, self.number_format.as_deref().unwrap_or(""), value)
        {
            let format = match self.number_format.as_deref() {
                Some(format) => format!("with format {format}"),
                None => "(default format)".to_owned(),
            };
            findings.composite(format!("Checked value must be of type {ty} {format} in {name}"));
        }
        if let Some(factor) = self.multiple_of {
            if factor <= 0.0 {
                findings.invalid(name, factor, "must be positive");
            } else if !is_multiple(value, factor) {
                findings.invalid(name, value.clone(), &format!("should be a multiple of {factor}"));
            }
        }
        let or_equal = |exclusive: bool| if exclusive { "" } else { "or equal to " };
        if let Some((min, exclusive)) = self.minimum.filter(|(min, ex)| number < *min || (*ex && number == *min)) {
            findings.invalid(name, value.clone(), &format!("should be greater than {}{min}", or_equal(exclusive)));
        }
        if let Some((max, exclusive)) = self.maximum.filter(|(max, ex)| number > *max || (*ex && number == *max)) {
            findings.invalid(name, value.clone(), &format!("should be less than {}{max}", or_equal(exclusive)));
        }
    }

    fn list(&self, items: &[Value], old: Option<&Value>, name: Name<'_>, findings: &mut Findings) {
        findings.checks += 1;
        if let Some(item) = &self.items {
            let former = Former::of(self, old);
            for (i, value) in items.iter().enumerate() {
                item.check(value, former.get(value), Name::Item(&name, i), findings);
            }
        }
        let size = items.len();
        if let Some(min) = self.count.min.filter(|min| size < *min) {
            findings.invalid(name, size, &format!("should have at least {min} items"));
        }
        if let Some(max) = self.count.max.filter(|max| size > *max) {
            findings.errors.push(FieldError::too_many(&findings.path(name), size, max));
        }
    }

    fn object(&self, value: &Value, old: Option<&Value>, name: Name<'_>, findings: &mut Findings) {
        let Some(object) = value.as_object() else { return };
        findings.checks += 1;
        let size = object.len();
        if let Some(min) = self.entries.min.filter(|min| size < *min) {
            findings.invalid(name, size, &format!("should have at least {min} properties"));
        }
        if let Some(max) = self.entries.max.filter(|max| size > *max) {
            findings.errors.push(FieldError::too_many(&findings.path(name), size, max));
        }
        for (key, child) in object {
            // Nobody sees how type and version change: both are converted to the version at hand.
            let is_type = name.is_empty() && matches!(key.as_str(), "apiVersion" | "kind");
            let old = old.filter(|_| !is_type).and_then(|old| old.get(key));
            match (self.properties.get(key), &self.additional) {
                (Some(property), _) => property.check(child, old, Name::Property(&name, key), findings),
                (None, Some(additional)) => additional.check(child, old, Name::Entry(&name, key), findings),
                (None, None) if self.closed => {
                    let detail = format!("{name}.{key} in body is a forbidden property");
                    findings.errors.push(FieldError::invalid(&findings.path(name), key.as_str(), detail));
                }
                (None, None) => {}
            }
        }
        for key in self.required.iter().filter(|key| !object.contains_key(*key)) {
            findings.errors.push(FieldError::required(&findings.path(Name::Entry(&name, key)), ""));
        }
    }

    fn combinations(&self, value: &Value, old: Option<&Value>, name: Name<'_>, findings: &mut Findings) {
        findings.checks += 1;
        let tried = |node: &Node, findings: &Findings| {
            let mut found = findings.nested();
            node.check(value, old, name, &mut found);
            found
        };
        let closest = |failed: Vec<Findings>| {
            // Of equals the first.
            failed.into_iter().reduce(|best, other| if other.checks > best.checks { other } else { best })
        };
        if !self.any_of.is_empty() {
            let all: Vec<Findings> = self.any_of.iter().map(|node| tried(node, findings)).collect();
            if all.iter().all(|found| !found.errors.is_empty()) {
                findings.composite(format!("{:?} must validate at least one schema (anyOf)", name.to_string()));
                closest(all).into_iter().for_each(|found| findings.take(found));
            }
        }
        if !self.one_of.is_empty() {
            let all: Vec<Findings> = self.one_of.iter().map(|node| tried(node, findings)).collect();
            let valid = all.iter().filter(|found| found.errors.is_empty()).count();
            if valid != 1 {
                let which = match valid {
                    0 => "Found none valid".to_owned(),
                    more => format!("Found {more} valid alternatives"),
                };
                findings.composite(format!(
                    "{:?} must validate one and only one schema (oneOf). {which}",
                    name.to_string()
                ));
                if valid == 0 {
                    closest(all).into_iter().for_each(|found| findings.take(found));
                }
            }
        }
        if !self.all_of.is_empty() {
            let all: Vec<Findings> = self.all_of.iter().map(|node| tried(node, findings)).collect();
            let valid = all.iter().filter(|found| found.errors.is_empty()).count();
            all.into_iter().for_each(|found| findings.take(found));
            if valid != self.all_of.len() {
                let none = if valid == 0 { ". None validated" } else { "" };
                findings.composite(format!("{:?} must validate all the schemas (allOf){none}", name.to_string()));
            }
        }
        if self.not.as_ref().is_some_and(|node| tried(node, findings).errors.is_empty()) {
            findings.composite(format!("{:?} must not validate the schema (not)", name.to_string()));
        }
    }
}

/// Whether two values are the same to upstream, for which `1` and `1.0` are.
fn same(allowed: &Value, value: &Value) -> bool {
    allowed == value
        || (allowed.is_number() && value.is_number() && allowed.as_f64() == value.as_f64() && value.as_f64().is_some())
}

/// An integer, or a float without a fraction: upstream takes `1.0` for one.
fn is_whole(value: &Value) -> bool {
    value.as_f64().is_some_and(|n| n.fract() == 0.0 && n.abs() <= 9_007_199_254_740_991.0)
}

fn is_multiple(value: &Value, factor: f64) -> bool {
    if let (Some(value), true) = (value.as_i64(), factor.fract() == 0.0) {
        return value % (factor as i64).max(1) == 0;
    }
    let number = value.as_f64().unwrap_or_default();
    let times = if factor < 1.0 { 1.0 / factor * number } else { number / factor };
    // As close to a whole number as upstream takes for one.
    (times - times.round()).abs() < 1e-9
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() => "integer",
        // Upstream reads what is larger as a float.
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn check(schema: &Value, value: Value, expect: &[&str]) {
        let schema = json!({"type": "object", "properties": {"spec": schema}});
        let errors = Validator::new(&schema).unwrap().validate(&json!({"spec": value}));
        assert_eq!(texts(&errors), expect);
    }

    #[test]
    fn upstream_texts() {
        let object = json!({"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1, "maximum": 5},
            "mode": {"type": "string", "enum": ["a", "b"]},
            "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
        }});
        check(&object, json!({"size": 5, "mode": "a", "name": "abc", "unknown": 1}), &[]);
        check(&object, json!({"size": 5.0}), &[]);
        check(&object, json!({}), &["spec.size: Required value"]);
        check(
            &object,
            json!({"size": "5"}),
            &[r#"spec.size: Invalid value: "string": spec.size in body must be of type integer: "string""#],
        );
        check(
            &object,
            json!({"size": null}),
            &[r#"spec.size: Invalid value: "null": spec.size in body must be of type integer: "null""#],
        );
        check(
            &object,
            json!({"size": 0, "mode": "c", "name": "ABCD"}),
            &[
                r#"spec.mode: Unsupported value: "c": supported values: "a", "b""#,
                "spec.name: Too long: may not be more than 3 bytes",
                "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
            ],
        );
        check(
            &object,
            json!({"size": 1, "name": "A"}),
            &[r#"spec.name: Invalid value: "A": spec.name in body should match '^[a-z]+$'"#],
        );
    }

    #[test]
    fn lists_maps_and_combinations() {
        let keyed = json!({"type": "array", "maxItems": 2, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
            "items": {"type": "object", "properties": {"id": {"type": "string"}}}});
        check(&keyed, json!([{"id": "1", "x": 1}, {"id": "1", "x": 2}]), &[r#"spec[1]: Duplicate value: {"id":"1"}"#]);
        check(
            &keyed,
            json!([{"id": "1"}, {"id": "2"}, {"id": "3"}]),
            &["spec: Too many: 3: must have at most 2 items"],
        );
        let values = json!({"type": "object", "additionalProperties": {"type": "boolean"}});
        check(
            &values,
            json!({"a": true, "b": 1}),
            &[r#"spec.b: Invalid value: "integer": spec.b in body must be of type boolean: "integer""#],
        );
        let port = json!({"x-kubernetes-int-or-string": true, "nullable": true});
        for good in [json!(80), json!("http"), json!(null)] {
            check(&port, good, &[]);
        }
        check(
            &port,
            json!(true),
            &[r#"spec: Invalid value: "boolean": spec in body must be of type integer,string: "boolean""#],
        );
        let one = json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
        check(&one, json!({"a": 1}), &[]);
        check(
            &one,
            json!({"a": 1, "b": 1}),
            &[
                r#"<nil>: Invalid value: "": "spec" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
            ],
        );
        check(
            &one,
            json!({}),
            &[
                r#"<nil>: Invalid value: "": "spec" must validate one and only one schema (oneOf). Found none valid"#,
                "spec.a: Required value",
            ],
        );
        let not = json!({"not": {"required": ["a"]}});
        check(&not, json!({"a": 1}), &[r#"<nil>: Invalid value: "": "spec" must not validate the schema (not)"#]);
        assert!(Validator::new(&json!({"properties": {"a": {"pattern": "("}}})).is_err());
    }

    #[test]
    fn what_stays_wrong_is_let_be() {
        let schema = json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "a": {"type": "string", "maxLength": 1}, "b": {"type": "string", "maxLength": 1},
                "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                    "items": {"type": "object", "properties": {"id": {"type": "string"}, "n": {"type": "integer", "maximum": 1}}}},
                "plain": {"type": "array", "items": {"type": "integer", "maximum": 1}},
            }},
            "status": {"type": "object", "required": ["x"]},
        }});
        let validator = Validator::new(&schema).unwrap();
        let old = json!({"spec": {"a": "long", "set": ["x", "x"], "list": [{"id": "1", "n": 5}], "plain": [5, 0]}});
        assert_eq!(validator.validate(&old).len(), 4);
        let update = |new: &Value| {
            let mut errors = validator.against_schema(new, Some(&old));
            errors.extend(validator.structure(new, Some(&old)));
            errors
        };
        assert!(update(&old).is_empty());
        let mut new = old.clone();
        new["spec"]["b"] = "x".into();
        new["spec"]["list"] = json!([{"id": "2", "n": 0}, {"id": "1", "n": 5}]);
        new["spec"]["set"] = json!(["y", "y"]);
        assert!(update(&new).is_empty(), "{:?}", update(&new));
        new["spec"]["b"] = "long".into();
        new["spec"]["plain"] = json!([5]);
        assert_eq!(
            texts(&update(&new)),
            [
                "spec.b: Too long: may not be more than 1 bytes",
                "spec.plain[0]: Invalid value: 5: spec.plain[0] in body should be less than or equal to 1",
            ]
        );
        new["status"] = json!({"y": 1});
        assert_eq!(texts(&validator.status_against_schema(&new, &old)), ["status.x: Required value"]);
    }
}
