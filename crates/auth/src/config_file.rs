//! Files of `apiserver.config.k8s.io` in YAML or JSON: read strictly, so that a misspelt or misplaced field is told of and never
//! passed over.

use kybern_apimachinery::Value;

/// What a value in such a file must be.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    Text,
    Bool,
    List(&'static Shape),
    Object(&'static [(&'static str, Shape)]),
}

const VERSIONS: [&str; 3] =
    ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];

/// The object of `kind` in a file; `fields` are those beside `apiVersion` and `kind`.
pub(crate) fn read(text: &str, kind: &str, fields: &'static [(&'static str, Shape)]) -> Result<Value, String> {
    let object: Value = serde_saphyr::from_str(text).map_err(|e| format!("couldn't get version/kind; {e}"))?;
    let part = |field: &str| object[field].as_str().unwrap_or_default();
    match (part("apiVersion"), part("kind")) {
        (_, "") => return Err(format!("Object 'Kind' is missing in {:?}", text.trim_end())),
        ("", _) => return Err(format!("Object 'apiVersion' is missing in {:?}", text.trim_end())),
        (version, given) if !VERSIONS.contains(&version) || given != kind => {
            return Err(format!(
                "no kind {given:?} is registered for version {version:?}: expected {kind} of {}",
                VERSIONS[0]
            ));
        }
        _ => {}
    }
    let mut problems = Problems { kind, unknown: Vec::new(), wrong: None };
    for (field, value) in object.as_object().into_iter().flatten() {
        if !matches!(field.as_str(), "apiVersion" | "kind") {
            problems.field(fields, "", field, value);
        }
    }
    match (problems.wrong, problems.unknown.as_slice()) {
        (Some(wrong), _) => Err(wrong),
        (None, []) => Ok(object),
        (None, unknown) => Err(format!("strict decoding error: {}", unknown.join(", "))),
    }
}

struct Problems<'a> {
    kind: &'a str,
    unknown: Vec<String>,
    wrong: Option<String>,
}

impl Problems<'_> {
    fn field(&mut self, fields: &[(&str, Shape)], owner: &str, field: &str, value: &Value) {
        let path = if owner.is_empty() { field.to_owned() } else { format!("{owner}.{field}") };
        match fields.iter().find(|(name, _)| *name == field) {
            Some((_, shape)) => self.value(*shape, &path, value),
            None => self.unknown.push(format!("unknown field {path:?}")),
        }
    }

    fn value(&mut self, shape: Shape, path: &str, value: &Value) {
        let (kind, wanted) = match (shape, value) {
            // As if it were not there.
            (_, Value::Null) | (Shape::Text, Value::String(_)) | (Shape::Bool, Value::Bool(_)) => return,
            (Shape::List(of), Value::Array(list)) => {
                for (index, value) in list.iter().enumerate() {
                    self.value(*of, &format!("{path}[{index}]"), value);
                }
                return;
            }
            (Shape::Object(fields), Value::Object(object)) => {
                object.iter().for_each(|(field, value)| self.field(fields, path, field, value));
                return;
            }
            (shape, value) => (kind_of(value), shape.name()),
        };
        let object = self.kind;
        self.wrong.get_or_insert_with(|| format!("{object}: cannot read the {kind} at {path} as {wanted}"));
    }
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Bool => "a bool",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// The string at `field`; empty where there is none.
pub(crate) fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

pub(crate) fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Errors as upstream's aggregates write them: each text once.
pub(crate) fn aggregate(errors: impl IntoIterator<Item = String>) -> Result<(), String> {
    let mut texts: Vec<String> = Vec::new();
    for text in errors {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.len() {
        0 => Ok(()),
        1 => Err(texts.remove(0)),
        _ => Err(format!("[{}]", texts.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_misspelt_is_told_of() {
        const FIELDS: &[(&str, Shape)] = &[("list", Shape::List(&Shape::Object(&[("name", Shape::Text)])))];
        let read = |text: &str| read(text, "Thing", FIELDS).map(|_| ());
        let head = "{apiVersion: apiserver.config.k8s.io/v1, kind: Thing, ";
        let check = |rest: &str, expect: &str| {
            let error = read(&format!("{head}{rest}}}")).unwrap_err();
            assert!(error.contains(expect), "{rest}: {error}");
        };
        assert_eq!(read(&format!("{head}list: [{{name: a}}, {{name: null}}]}}")), Ok(()));
        check("lists: []", "strict decoding error: unknown field \"lists\"");
        check("list: [{nam: a}], x: 1", "unknown field \"list[0].nam\", unknown field \"x\"");
        check("list: {name: a}", "cannot read the object at list as a list");
        check("list: [{name: 1}]", "cannot read the number at list[0].name as a string");
        check("list: [], list: []", "uplicate");
        for (text, expect) in [
            ("", "Object 'Kind' is missing in \"\""),
            ("kind: Thing", "Object 'apiVersion' is missing"),
            ("{apiVersion: v1, kind: Thing}", "no kind \"Thing\" is registered for version \"v1\""),
            ("{apiVersion: apiserver.config.k8s.io/v1, kind: Other}", "no kind \"Other\" is registered"),
            ("a: [", "couldn't get version/kind"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expect), "{text}: {error}");
        }
    }
}
