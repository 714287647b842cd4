//! The steps of a path to a field, as `FieldsV1` writes them.

use std::fmt;

use kybern_apimachinery::Value;

/// One step. The order is upstream's: fields, then keyed list items, then set items, then positions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathElement {
    /// `f:name`: a field of a struct or a key of a map.
    Field(String),
    /// `k:{…}`: the item of a keyed list with these keys, as a JSON object with sorted keys.
    Key(String),
    /// `v:…`: the item of a set, as JSON.
    Value(String),
    /// `i:n`: a position in a list.
    Index(u32),
}

impl PathElement {
    /// Reads the key of a `FieldsV1` object. `Ok(None)` for a kind of element that is not known, which upstream ignores.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let Some((kind, rest)) = text.split_once(':') else {
            return Err(format!("key must be 2 characters long: {text}"));
        };
        let json =
            || serde_json::from_str::<Value>(rest).map_err(|e| format!("parsing key {text:?} as path element: {e}"));
        Ok(Some(match kind {
            "f" => Self::Field(rest.to_owned()),
            "k" => match json()? {
                keys @ Value::Object(_) => Self::Key(keys.to_string()),
                _ => return Err(format!("parsing key {text:?} as path element: not an object")),
            },
            "v" => Self::Value(json()?.to_string()),
            "i" => {
                Self::Index(rest.parse().map_err(|_| format!("parsing key {text:?} as path element: not a position"))?)
            }
            _ => return Ok(None),
        }))
    }

    /// The key of a `FieldsV1` object.
    pub fn encode(&self) -> String {
        match self {
            Self::Field(name) => ["f:", name].concat(),
            Self::Key(keys) => ["k:", keys].concat(),
            Self::Value(value) => ["v:", value].concat(),
            Self::Index(index) => format!("i:{index}"),
        }
    }
}

/// The form of error texts: `.spec`, `[name="web"]`, `[="item"]`, `[3]`.
impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                let keys: Value = serde_json::from_str(keys).map_err(|_| fmt::Error)?;
                let pairs = keys.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={value}"));
                write!(f, "[{}]", pairs.collect::<Vec<_>>().join(","))
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A whole path in the form of error texts: `.spec.containers[name="web"].image`.
pub(super) fn display(path: &[PathElement]) -> String {
    path.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let check = |text: &str, shown: &str| {
            let element = PathElement::parse(text).unwrap().unwrap();
            assert_eq!(element.encode(), text);
            assert_eq!(element.to_string(), shown);
        };
        check("f:spec", ".spec");
        check("f:a:b", ".a:b");
        check(r#"k:{"containerPort":80,"protocol":"TCP"}"#, r#"[containerPort=80,protocol="TCP"]"#);
        check(r#"v:"x""#, r#"[="x"]"#);
        check("v:3", "[=3]");
        check("i:2", "[2]");
        assert_eq!(PathElement::parse("z:what"), Ok(None));
        for bad in ["", "f", "k:1", "k:{", "v:", "i:x"] {
            assert!(PathElement::parse(bad).is_err(), "{bad:?} parsed");
        }
        let unsorted = PathElement::parse(r#"k:{"b":1, "a":2}"#).unwrap().unwrap();
        assert_eq!(unsorted.encode(), r#"k:{"a":2,"b":1}"#);
    }
}
