//! Validation of custom resources against their schema (OpenAPI v3 as `CustomResourceDefinition` allows it), with
//! upstream's texts. A schema is compiled once, when the definition is accepted.

use std::collections::BTreeMap;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldErrorType, FieldPath};
use regex_lite::Regex;

/// A compiled schema.
#[derive(Debug, Default)]
pub struct Validator {
    ty: Option<String>,
    int_or_string: bool,
    nullable: bool,
    allowed: Vec<Value>,
    required: Vec<String>,
    properties: BTreeMap<String, Validator>,
    additional: Option<Box<Validator>>,
    items: Option<Box<Validator>>,
    pattern: Option<(String, Regex)>,
    minimum: Option<(f64, bool)>,
    maximum: Option<(f64, bool)>,
    multiple_of: Option<f64>,
    length: Range,
    count: Range,
    entries: Range,
    unique: Unique,
    all_of: Vec<Validator>,
    any_of: Vec<Validator>,
    one_of: Vec<Validator>,
    not: Option<Box<Validator>>,
}

/// Inclusive bounds of a size.
#[derive(Debug, Default)]
struct Range {
    min: Option<usize>,
    max: Option<usize>,
}

/// What may be in a list only once.
#[derive(Debug, Default)]
enum Unique {
    #[default]
    Nothing,
    Items,
    Keys(Vec<String>),
}

/// A `pattern` that is no regular expression.
#[derive(Debug, thiserror::Error)]
#[error("{path}: Invalid value: {pattern:?}: must be a valid regular expression: {problem}")]
pub struct PatternError {
    pub path: String,
    pub pattern: String,
    pub problem: String,
}

impl Validator {
    /// Compiles an `openAPIV3Schema`.
    pub fn new(schema: &Value) -> Result<Self, PatternError> {
        compile(schema, &FieldPath::new("openAPIV3Schema"))
    }

    /// Everything that is wrong with an object.
    pub fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.value(object, &FieldPath::root(), &mut errors);
        errors
    }

    fn holds(&self, value: &Value) -> bool {
        let mut errors = Vec::new();
        self.value(value, &FieldPath::root(), &mut errors);
        errors.is_empty()
    }

    fn value(&self, value: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
        if value.is_null() && self.nullable {
            return;
        }
        if let Some(expected) = self.mismatch(value) {
            let shown = value.as_str().map_or_else(|| type_name(value).to_owned(), |_| "string".to_owned());
            let detail = format!("{} in body must be of type {expected}: {shown:?}", path.as_str());
            errors.push(FieldError {
                kind: FieldErrorType::TypeInvalid,
                path: path.clone(),
                value: Some(shown.into()),
                detail,
            });
            return;
        }
        if !self.allowed.is_empty() && !self.allowed.contains(value) {
            let texts: Vec<String> =
                self.allowed.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            errors.push(FieldError::not_supported(path, value.clone(), &texts));
        }
        match value {
            Value::String(text) => self.string(text, path, errors),
            Value::Number(number) => self.number(number.as_f64().unwrap_or_default(), value, path, errors),
            Value::Array(items) => self.list(items, path, errors),
            Value::Object(object) => {
                self.entries.check(object.len(), "properties", value, path, errors);
                for name in self.required.iter().filter(|n| !object.contains_key(*n)) {
                    errors.push(FieldError::required(&path.child(name), ""));
                }
                for (key, child) in object {
                    match (self.properties.get(key), &self.additional) {
                        (Some(property), _) => property.value(child, &path.child(key), errors),
                        (None, Some(additional)) => additional.value(child, &path.child(key), errors),
                        (None, None) => {}
                    }
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
        self.combinations(value, path, errors);
    }

    /// The type that the value should have had.
    fn mismatch(&self, value: &Value) -> Option<&str> {
        if self.int_or_string {
            return (!(value.is_string() || is_whole(value))).then_some("integer,string");
        }
        let expected = self.ty.as_deref()?;
        let fits = match expected {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => is_whole(value),
            "number" => value.is_number(),
            _ => true,
        };
        (!fits).then_some(expected)
    }

    fn string(&self, text: &str, path: &FieldPath, errors: &mut Vec<FieldError>) {
        let length = text.chars().count();
        if let Some(max) = self.length.max.filter(|max| length > *max) {
            errors.push(FieldError::too_long(path, max));
        }
        let name = path.as_str();
        if let Some(min) = self.length.min.filter(|min| length < *min) {
            errors.push(FieldError::invalid(path, text, format!("{name} in body should be at least {min} chars long")));
        }
        if let Some((source, _)) = self.pattern.as_ref().filter(|(_, regex)| !regex.is_match(text)) {
            errors.push(FieldError::invalid(path, text, format!("{name} in body should match '{source}'")));
        }
    }

    fn number(&self, number: f64, value: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
        let mut wrong = |rule: String| {
            errors.push(FieldError::invalid(
                path,
                value.clone(),
                format!("{} in body should be {rule}", path.as_str()),
            ));
        };
        let or_equal = |exclusive: bool| if exclusive { "" } else { "or equal to " };
        if let Some((min, exclusive)) = self.minimum.filter(|(min, ex)| number < *min || (*ex && number == *min)) {
            wrong(format!("greater than {}{min}", or_equal(exclusive)));
        }
        if let Some((max, exclusive)) = self.maximum.filter(|(max, ex)| number > *max || (*ex && number == *max)) {
            wrong(format!("less than {}{max}", or_equal(exclusive)));
        }
        if let Some(factor) = self.multiple_of.filter(|f| *f != 0.0 && (number / f).fract() != 0.0) {
            wrong(format!("a multiple of {factor}"));
        }
    }

    fn list(&self, items: &[Value], path: &FieldPath, errors: &mut Vec<FieldError>) {
        self.count.check(items.len(), "items", &Value::Null, path, errors);
        if let Some(item) = &self.items {
            items.iter().enumerate().for_each(|(i, value)| item.value(value, &path.index(i), errors));
        }
        let identity = |value: &Value| match &self.unique {
            Unique::Nothing => None,
            Unique::Items => Some(value.clone()),
            Unique::Keys(keys) => {
                Some(keys.iter().filter_map(|k| Some((k.clone(), value.get(k)?.clone()))).collect::<Value>())
            }
        };
        let mut seen = std::collections::BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            if let Some(identity) = identity(item)
                && !seen.insert(identity.to_string())
            {
                errors.push(FieldError::duplicate(&path.index(index), identity));
            }
        }
    }

    fn combinations(&self, value: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
        let mut wrong = |rule: &str| {
            let detail = format!("{:?} must {rule}", path.as_str());
            errors.push(FieldError::invalid(path, value.clone(), detail));
        };
        if !self.any_of.is_empty() && !self.any_of.iter().any(|s| s.holds(value)) {
            wrong("validate at least one schema (anyOf)");
        }
        if !self.one_of.is_empty() && self.one_of.iter().filter(|s| s.holds(value)).count() != 1 {
            wrong("validate one and only one schema (oneOf)");
        }
        if !self.all_of.iter().all(|s| s.holds(value)) {
            wrong("validate all the schemas (allOf)");
        }
        if self.not.as_ref().is_some_and(|s| s.holds(value)) {
            wrong("not validate the schema (not)");
        }
    }
}

impl Range {
    fn check(&self, size: usize, what: &str, value: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
        if let Some(max) = self.max.filter(|max| size > *max) {
            errors.push(FieldError::too_many(path, size, max));
        }
        if let Some(min) = self.min.filter(|min| size < *min) {
            let detail = format!("{} in body should have at least {min} {what}", path.as_str());
            let value = if value.is_null() { size.into() } else { value.clone() };
            errors.push(FieldError::invalid(path, value, detail));
        }
    }
}

/// An integer, or a float without a fraction: upstream takes `1.0` for one.
fn is_whole(value: &Value) -> bool {
    value.as_f64().is_some_and(|n| n.fract() == 0.0)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_whole(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn compile(schema: &Value, path: &FieldPath) -> Result<Validator, PatternError> {
    let is = |key: &str| schema[key] == Value::Bool(true);
    let child = |key: &str| -> Result<Option<Box<Validator>>, PatternError> {
        let nested = schema[key].is_object().then(|| compile(&schema[key], &path.child(key)).map(Box::new));
        nested.transpose()
    };
    let list = |key: &str| -> Result<Vec<Validator>, PatternError> {
        let schemas = schema[key].as_array().into_iter().flatten().enumerate();
        schemas.map(|(i, s)| compile(s, &path.child(key).index(i))).collect()
    };
    let words = |key: &str| -> Vec<String> {
        schema[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let size = |key: &str| schema[key].as_u64().and_then(|n| usize::try_from(n).ok());
    let range = |min: &str, max: &str| Range { min: size(min), max: size(max) };
    let pattern = match schema["pattern"].as_str() {
        None => None,
        Some(source) => match Regex::new(source) {
            Ok(regex) => Some((source.to_owned(), regex)),
            Err(error) => {
                let path = path.child("pattern").to_string();
                return Err(PatternError { path, pattern: source.to_owned(), problem: error.to_string() });
            }
        },
    };
    let properties = schema["properties"].as_object().into_iter().flatten();
    Ok(Validator {
        ty: schema["type"].as_str().map(str::to_owned),
        int_or_string: is("x-kubernetes-int-or-string"),
        nullable: is("nullable"),
        allowed: schema["enum"].as_array().cloned().unwrap_or_default(),
        required: words("required"),
        properties: properties
            .map(|(name, property)| Ok((name.clone(), compile(property, &path.child("properties").key(name))?)))
            .collect::<Result<_, PatternError>>()?,
        additional: child("additionalProperties")?,
        items: child("items")?,
        pattern,
        minimum: schema["minimum"].as_f64().map(|n| (n, is("exclusiveMinimum"))),
        maximum: schema["maximum"].as_f64().map(|n| (n, is("exclusiveMaximum"))),
        multiple_of: schema["multipleOf"].as_f64(),
        length: range("minLength", "maxLength"),
        count: range("minItems", "maxItems"),
        entries: range("minProperties", "maxProperties"),
        unique: match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => Unique::Items,
            Some("map") => Unique::Keys(words("x-kubernetes-list-map-keys")),
            _ if is("uniqueItems") => Unique::Items,
            _ => Unique::Nothing,
        },
        all_of: list("allOf")?,
        any_of: list("anyOf")?,
        one_of: list("oneOf")?,
        not: child("not")?,
    })
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;

    fn check(schema: &Value, value: Value, expect: &[&str]) {
        let schema = json!({"type": "object", "properties": {"spec": schema}});
        let errors = Validator::new(&schema).unwrap().validate(&json!({"spec": value}));
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts, expect);
    }

    #[test]
    fn upstream_texts() {
        let object = json!({"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1, "maximum": 5},
            "mode": {"type": "string", "enum": ["a", "b"]},
            "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
        }});
        check(&object, json!({"size": 5, "mode": "a", "name": "abc", "unknown": 1}), &[]);
        check(&object, json!({}), &["spec.size: Required value"]);
        check(
            &object,
            json!({"size": "5"}),
            &[r#"spec.size: Invalid value: "string": spec.size in body must be of type integer: "string""#],
        );
        check(
            &object,
            json!({"size": 0, "mode": "c", "name": "ABCD"}),
            &[
                r#"spec.mode: Unsupported value: "c": supported values: "a", "b""#,
                "spec.name: Too long: may not be more than 3 bytes",
                r#"spec.name: Invalid value: "ABCD": spec.name in body should match '^[a-z]+$'"#,
                "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
            ],
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
            &[r#"spec: Invalid value: {"a":1,"b":1}: "spec" must validate one and only one schema (oneOf)"#],
        );
        let not = json!({"not": {"required": ["a"]}});
        check(&not, json!({"a": 1}), &[r#"spec: Invalid value: {"a":1}: "spec" must not validate the schema (not)"#]);
        assert!(Validator::new(&json!({"properties": {"a": {"pattern": "("}}})).is_err());
    }
}
