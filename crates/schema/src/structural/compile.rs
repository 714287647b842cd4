//! A schema made ready for checks.

use std::collections::BTreeMap;
use std::sync::Arc;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::FieldPath;
use kybern_cel::DeclType;
use regex::{Regex, RegexBuilder};

use super::formats;
use super::rules::Rule;

/// Memory of a compiled pattern at most: it matches in time that is linear in the text, whatever it is.
const PATTERN_BYTES: usize = 1 << 20;

#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) types: Vec<String>,
    pub(super) nullable: bool,
    pub(super) embedded: bool,
    /// Whether there are embedded objects here or below.
    pub(super) embeds: bool,
    pub(super) allowed: Vec<Value>,
    pub(super) required: Vec<String>,
    pub(super) properties: BTreeMap<String, Node>,
    pub(super) additional: Option<Box<Node>>,
    /// Nothing but the properties (`additionalProperties: false`).
    pub(super) closed: bool,
    pub(super) items: Option<Box<Node>>,
    pub(super) pattern: Option<(String, Regex)>,
    /// Of texts, where it is one that is known.
    pub(super) format: Option<String>,
    pub(super) number_format: Option<String>,
    pub(super) minimum: Option<(f64, bool)>,
    pub(super) maximum: Option<(f64, bool)>,
    pub(super) multiple_of: Option<f64>,
    pub(super) length: Range,
    pub(super) count: Range,
    pub(super) entries: Range,
    pub(super) unique: Uniqueness,
    /// Whether there are sets or maps here or below.
    pub(super) uniques: bool,
    pub(super) all_of: Vec<Node>,
    pub(super) any_of: Vec<Node>,
    pub(super) one_of: Vec<Node>,
    pub(super) not: Option<Box<Node>>,
    /// In CEL.
    pub(super) rules: Vec<Rule>,
    /// Whether there are rules here or below.
    pub(super) ruled: bool,
    /// What values are to rules, where there are some.
    pub(super) declared: Option<Arc<DeclType>>,
}

impl Node {
    /// What the schema says of a field.
    pub(super) fn child(&self, key: &str) -> Option<&Self> {
        self.properties.get(key).or(self.additional.as_deref())
    }

    /// The type as it is written; empty where there is none.
    pub(super) fn type_name(&self) -> &str {
        if let [one] = &self.types[..] { one } else { "" }
    }
}

/// Inclusive bounds of a size.
#[derive(Debug, Default)]
pub(super) struct Range {
    pub(super) min: Option<usize>,
    pub(super) max: Option<usize>,
}

/// What may be in a list only once.
#[derive(Debug, Default)]
pub(super) enum Uniqueness {
    #[default]
    Nothing,
    Items,
    Keys(Vec<String>),
}

/// A `pattern` that is no regular expression.
#[derive(Debug, thiserror::Error)]
#[error("{path}: Invalid value: {pattern:?}: must be a valid regular expression, but isn't: {problem}")]
pub struct PatternError {
    pub path: String,
    pub pattern: String,
    pub problem: String,
}

fn regex(pattern: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES).build();
    built.map_err(|error| error.to_string().lines().last().unwrap_or("").trim().to_owned())
}

/// What is wrong with a pattern.
pub fn check_pattern(pattern: &str) -> Option<String> {
    regex(pattern).err()
}

pub(super) fn compile(schema: &Value, path: &FieldPath) -> Result<Node, PatternError> {
    let is = |key: &str| schema[key] == Value::Bool(true);
    let child = |key: &str| -> Result<Option<Box<Node>>, PatternError> {
        let nested = schema[key].is_object().then(|| compile(&schema[key], &path.child(key)).map(Box::new));
        nested.transpose()
    };
    let list = |key: &str| -> Result<Vec<Node>, PatternError> {
        let schemas = schema[key].as_array().into_iter().flatten().enumerate();
        schemas.map(|(i, s)| compile(s, &path.child(key).index(i))).collect()
    };
    let words = |key: &str| -> Vec<String> {
        schema[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let size = |key: &str| schema[key].as_u64().and_then(|n| usize::try_from(n).ok());
    let range = |min: &str, max: &str| Range { min: size(min), max: size(max) };
    let pattern = match schema["pattern"].as_str().filter(|source| !source.is_empty()) {
        None => None,
        Some(source) => match regex(source) {
            Ok(regex) => Some((source.to_owned(), regex)),
            Err(problem) => {
                let path = path.child("pattern").to_string();
                return Err(PatternError { path, pattern: source.to_owned(), problem });
            }
        },
    };
    let properties = schema["properties"].as_object().into_iter().flatten();
    let int_or_string = is("x-kubernetes-int-or-string");
    let types = match schema["type"].as_str() {
        _ if int_or_string => vec!["integer".to_owned(), "string".to_owned()],
        Some(ty) if !ty.is_empty() => vec![ty.to_owned()],
        _ => Vec::new(),
    };
    let format = schema["format"].as_str().filter(|format| !format.is_empty());
    let mut node = Node {
        types,
        nullable: is("nullable"),
        embedded: is("x-kubernetes-embedded-resource"),
        allowed: schema["enum"].as_array().cloned().unwrap_or_default(),
        required: words("required"),
        properties: properties
            .map(|(name, property)| Ok((name.clone(), compile(property, &path.child("properties").key(name))?)))
            .collect::<Result<_, PatternError>>()?,
        additional: child("additionalProperties")?,
        closed: schema["additionalProperties"] == Value::Bool(false),
        items: child("items")?,
        pattern,
        format: format.filter(|format| formats::is_known(format)).map(str::to_owned),
        number_format: format.filter(|format| formats::is_known(format)).map(str::to_owned),
        minimum: schema["minimum"].as_f64().map(|n| (n, is("exclusiveMinimum"))),
        maximum: schema["maximum"].as_f64().map(|n| (n, is("exclusiveMaximum"))),
        multiple_of: schema["multipleOf"].as_f64(),
        length: range("minLength", "maxLength"),
        count: range("minItems", "maxItems"),
        entries: range("minProperties", "maxProperties"),
        unique: match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => Uniqueness::Items,
            Some("map") => Uniqueness::Keys(words("x-kubernetes-list-map-keys")),
            _ => Uniqueness::Nothing,
        },
        all_of: list("allOf")?,
        any_of: list("anyOf")?,
        one_of: list("oneOf")?,
        not: child("not")?,
        ..Node::default()
    };
    let below = || node.properties.values().chain(node.additional.as_deref()).chain(node.items.as_deref());
    (node.embeds, node.uniques) = (
        node.embedded || below().any(|child| child.embeds),
        !matches!(node.unique, Uniqueness::Nothing) || below().any(|child| child.uniques),
    );
    Ok(node)
}
