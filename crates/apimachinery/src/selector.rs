//! Label and field selectors (`k8s.io/apimachinery/pkg/labels`, `…/fields`).

use crate::validation;
use crate::{Map, Value};

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Equals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

impl Requirement {
    /// Whether a set of labels, read through `get`, meets the requirement.
    pub fn matches<'a>(&self, get: &impl Fn(&str) -> Option<&'a str>) -> bool {
        let value = get(&self.key);
        let listed = |v: &str| self.values.iter().any(|x| x == v);
        match self.operator {
            Operator::Equals | Operator::In => value.is_some_and(listed),
            // An absent key meets the negative operators.
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let bound = self.values.first().and_then(|v| v.parse::<i64>().ok());
                match (value.and_then(|v| v.parse::<i64>().ok()), bound) {
                    (Some(v), Some(b)) if self.operator == Operator::GreaterThan => v > b,
                    (Some(v), Some(b)) => v < b,
                    _ => false,
                }
            }
        }
    }
}

/// A label selector: every requirement must be met. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
    /// Selects nothing, whatever the requirements: a `null` selector in an API object.
    pub nothing: bool,
}

impl LabelSelector {
    pub fn everything() -> Self {
        Self::default()
    }

    pub fn none() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(&get))
    }

    /// Matches `metadata.labels` as found in an object; `None` is no labels.
    pub fn matches_map(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str))
    }

    /// Matches labels held as pairs.
    pub fn matches_btree(&self, labels: &std::collections::BTreeMap<String, String>) -> bool {
        self.matches(|key| labels.get(key).map(String::as_str))
    }

    /// Parses the query form: `a=b,c!=d,e in (f,g),h notin (i),j,!k`. Errors are upstream's texts.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements =
            Parser { rest: text.trim() }.requirements().map_err(|e| format!("unable to parse requirement: {e}"))?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// Reads a `metav1.LabelSelector`. `null` selects nothing, an empty one everything.
    pub fn from_object(selector: &Value) -> Result<Self, String> {
        if selector.is_null() {
            return Ok(Self::none());
        }
        let mut requirements = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            let values = vec![value.as_str().unwrap_or("").to_owned()];
            requirements.push(Requirement { key: key.clone(), operator: Operator::Equals, values });
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let key = expression["key"].as_str().unwrap_or("").to_owned();
            let operator = match expression["operator"].as_str().unwrap_or("") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            let values = expression["values"].as_array().into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            requirements.push(Requirement { key, operator, values });
        }
        Ok(Self { requirements, nothing: false })
    }

    /// A selector of equalities, such as a Service's `spec.selector`.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let equals = |(k, v): (&str, &str)| Requirement {
            key: k.to_owned(),
            operator: Operator::Equals,
            values: vec![v.to_owned()],
        };
        Self { requirements: pairs.into_iter().map(equals).collect(), nothing: false }
    }
}

/// The query form that [`LabelSelector::parse`] reads.
impl std::fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let first = r.values.first().map_or("", String::as_str);
            match r.operator {
                Operator::Equals => write!(f, "{}={first}", r.key)?,
                Operator::NotEquals => write!(f, "{}!={first}", r.key)?,
                Operator::In => write!(f, "{} in ({})", r.key, r.values.join(","))?,
                Operator::NotIn => write!(f, "{} notin ({})", r.key, r.values.join(","))?,
                Operator::Exists => write!(f, "{}", r.key)?,
                Operator::DoesNotExist => write!(f, "!{}", r.key)?,
                Operator::GreaterThan => write!(f, "{}>{first}", r.key)?,
                Operator::LessThan => write!(f, "{}<{first}", r.key)?,
            }
        }
        Ok(())
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn requirements(mut self) -> Result<Vec<Requirement>, String> {
        let mut found = Vec::new();
        while !self.rest.is_empty() {
            found.push(self.requirement()?);
            self.space();
            if self.rest.is_empty() {
                break;
            }
            if !self.take(",") {
                return Err(format!("found '{}', expected: ',' or 'end of string'", self.word_or_char()));
            }
            self.space();
            if self.rest.is_empty() {
                return Err("found '', expected: identifier after ','".to_owned());
            }
        }
        Ok(found)
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.take("!");
        self.space();
        let key = self.word().to_owned();
        if key.is_empty() {
            return Err(format!("found '{}', expected: identifier", self.word_or_char()));
        }
        if let Some(error) = validation::label_key(&key).into_iter().next() {
            return Err(format!("key: Invalid value: {key:?}: {error}"));
        }
        self.space();
        if absent {
            return Ok(Requirement { key, operator: Operator::DoesNotExist, values: Vec::new() });
        }
        let operator = if self.take("==") || self.take("=") {
            Operator::Equals
        } else if self.take("!=") {
            Operator::NotEquals
        } else if self.take(">") {
            Operator::GreaterThan
        } else if self.take("<") {
            Operator::LessThan
        } else if self.rest.is_empty() || self.rest.starts_with(',') {
            return Ok(Requirement { key, operator: Operator::Exists, values: Vec::new() });
        } else {
            match self.word() {
                "in" => return self.set(key, Operator::In),
                "notin" => return self.set(key, Operator::NotIn),
                other => {
                    let found = if other.is_empty() { self.word_or_char() } else { other.to_owned() };
                    return Err(format!("found '{found}', expected: in, notin, =, ==, !=, gt, lt"));
                }
            }
        };
        self.space();
        let value = self.word().to_owned();
        let compares = matches!(operator, Operator::GreaterThan | Operator::LessThan);
        if compares && value.parse::<i64>().is_err() {
            let error = "for 'Gt', 'Lt' operators, the value must be an integer";
            return Err(format!("values[0]: Invalid value: {value:?}: {error}"));
        }
        if let Some(error) = validation::label_value(&value).into_iter().next() {
            return Err(format!("values[0][{key}]: Invalid value: {value:?}: {error}"));
        }
        Ok(Requirement { key, operator, values: vec![value] })
    }

    fn set(&mut self, key: String, operator: Operator) -> Result<Requirement, String> {
        self.space();
        if !self.take("(") {
            return Err(format!("found '{}' expected: '('", self.word_or_char()));
        }
        let mut values = Vec::new();
        loop {
            self.space();
            values.push(self.word().to_owned());
            self.space();
            if self.take(")") {
                break;
            }
            if !self.take(",") {
                return Err(format!("found '{}', expected: ',' or ')'", self.word_or_char()));
            }
        }
        values.sort();
        values.dedup();
        Ok(Requirement { key, operator, values })
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        let taken = self.rest.strip_prefix(token);
        self.rest = taken.unwrap_or(self.rest);
        taken.is_some()
    }

    fn word(&mut self) -> &'a str {
        let end = self.rest.find(|c: char| c.is_whitespace() || "!=<>(),".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn word_or_char(&self) -> String {
        let mut copy = Parser { rest: self.rest };
        let word = copy.word();
        if word.is_empty() { self.rest.chars().take(1).collect() } else { word.to_owned() }
    }
}

/// A field selector: `metadata.name=a,status.phase!=Running`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// Path, value, and whether they must be equal (else must differ).
    pub terms: Vec<(String, String, bool)>,
}

impl FieldSelector {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for term in text.split(',').filter(|t| !t.is_empty()) {
            let (path, value, equal) = if let Some((path, value)) = term.split_once("!=") {
                (path, value, false)
            } else if let Some((path, value)) = term.split_once("==") {
                (path, value, true)
            } else if let Some((path, value)) = term.split_once('=') {
                (path, value, true)
            } else {
                return Err(format!("invalid field selector {term:?}: can't understand {term:?}"));
            };
            terms.push((path.trim().to_owned(), value.to_owned(), equal));
        }
        Ok(Self { terms })
    }

    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// `get` answers a selectable field's value (empty when unset).
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|(path, value, equal)| (get(path).unwrap_or("") == value) == *equal)
    }

    /// The value that an equality pins a path to.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.terms.iter().find(|(p, _, equal)| p == path && *equal).map(|(_, v, _)| v.as_str())
    }
}

impl std::fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, (path, value, equal)) in self.terms.iter().enumerate() {
            write!(f, "{}{path}{}{value}", if i > 0 { "," } else { "" }, if *equal { "=" } else { "!=" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: &str, labels: &[(&str, &str)], expect: bool) {
        let parsed = LabelSelector::parse(selector).unwrap_or_else(|e| panic!("{selector}: {e}"));
        let got = parsed.matches(|key| labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v));
        assert_eq!(got, expect, "{selector} on {labels:?}");
        assert_eq!(
            LabelSelector::parse(&parsed.to_string()).as_ref(),
            Ok(&parsed),
            "{selector} does not survive printing"
        );
    }

    #[test]
    fn label_selectors() {
        let web = [("app", "web"), ("tier", "front")];
        check("", &web, true);
        check("app=web", &web, true);
        check("app==web,tier=front", &web, true);
        check("app!=web", &web, false);
        check("missing!=x", &web, true);
        check("app in (db, web)", &web, true);
        check("app notin (db,web)", &web, false);
        check("missing notin (x)", &web, true);
        check("app, !missing", &web, true);
        check("!app", &web, false);
        check("app=", &[("app", "")], true);
        check("n>3", &[("n", "4")], true);
        for bad in ["app in web", "n>x", "=x", "app=web,", "a b", "app in (x"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad:?} parsed");
        }
    }

    #[test]
    fn field_selectors() {
        let selector = FieldSelector::parse("metadata.name=a,status.phase!=Running").unwrap();
        let get = |path: &str| if path == "metadata.name" { Some("a") } else { Some("Pending") };
        assert!(selector.matches(get));
        assert_eq!(selector.exact("metadata.name"), Some("a"));
        assert_eq!(selector.exact("status.phase"), None);
        assert!(FieldSelector::parse("nonsense").is_err());
    }
}
