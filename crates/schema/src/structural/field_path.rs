//! Paths of fields below a schema, as `fieldPath` of a rule and `jsonPath` of a selectable field have them: `.spec.a['b.c']`.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::FieldPath;

/// A path that its schema has.
#[derive(Debug)]
pub struct Found<'s> {
    /// As errors name it.
    pub path: FieldPath,
    /// The names of the fields on the way.
    pub names: Vec<String>,
    /// What the schema says of the field.
    pub schema: &'s Value,
}

/// Finds a field; else says, with upstream's texts, why there is none. `brackets`: whether `['…']` may be used.
pub fn find<'s>(text: &str, schema: &'s Value, brackets: bool) -> Result<Found<'s>, String> {
    let mut found = Found { path: FieldPath::root(), names: Vec::new(), schema };
    let mut tokens = Tokens(text);
    let end = || "unexpected end of JSON path".to_owned();
    while let Some(token) = tokens.next() {
        match token {
            "[" if !brackets => return Err("array notation is not allowed".to_owned()),
            "[" => {
                let quoted = tokens.next().ok_or_else(end)?;
                let inner = (quoted.len() > 1).then(|| quoted.strip_prefix('\'')?.strip_suffix('\'')).flatten();
                let inner = inner.ok_or_else(|| format!("expected single quoted string but got {quoted}"))?;
                found.step(&unescaped(inner)?)?;
                match tokens.next().ok_or_else(end)? {
                    "]" => {}
                    other => return Err(format!("expected ] but got {other}")),
                }
            }
            "." => found.step(tokens.next().ok_or_else(end)?)?,
            other => return Err(format!("expected [ or . but got: {other}")),
        }
    }
    Ok(found)
}

impl Found<'_> {
    fn step(&mut self, name: &str) -> Result<(), String> {
        let (properties, additional) = (&self.schema["properties"], &self.schema["additionalProperties"]);
        let nothing = || "does not refer to a valid field".to_owned();
        if properties.as_object().is_some_and(|all| !all.is_empty()) {
            self.path = self.path.child(name);
            self.schema = properties.get(name).ok_or_else(nothing)?;
        } else if additional.is_object() {
            self.path = self.path.key(name);
            self.schema = additional;
        } else {
            return Err(nothing());
        }
        self.names.push(name.to_owned());
        Ok(())
    }
}

/// `.`, `[`, `]`, quoted texts, and what is between them.
struct Tokens<'t>(&'t str);

impl<'t> Iterator for Tokens<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        let bytes = self.0.as_bytes();
        let first = *bytes.first()?;
        let end = if first == b'\'' {
            let closing = (1..bytes.len()).find(|&i| bytes[i] == b'\'' && bytes[i - 1] != b'\\');
            closing.map_or(bytes.len(), |i| i + 1)
        } else if matches!(first, b'.' | b'[' | b']') {
            1
        } else {
            bytes.iter().position(|b| matches!(b, b'.' | b'[' | b']')).unwrap_or(bytes.len())
        };
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(token)
    }
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        let Some(escaped) = chars.next() else {
            plain.push(c);
            continue;
        };
        plain.push(match escaped {
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            '\'' | '\\' => escaped,
            other => return Err(format!("invalid string literal: invalid escape char \\{other}")),
        });
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;

    #[test]
    fn paths_and_faults() {
        let schema = json!({"properties": {"a": {"properties": {"b.c": {"type": "string"}}},
            "m": {"additionalProperties": {"properties": {"x": {"type": "integer"}}}}, "it's": {"type": "string"}}});
        for (text, expect) in [
            (".a", Ok("a")),
            (".a['b.c']", Ok("a.b.c")),
            ("['a']['b.c']", Ok("a.b.c")),
            (".m.key.x", Ok("m[key].x")),
            (".m['k'].x", Ok("m[k].x")),
            ("['it\\'s']", Ok("it's")),
            ("a", Err("expected [ or . but got: a")),
            (".a.b", Err("does not refer to a valid field")),
            (".a.", Err("unexpected end of JSON path")),
            (".a[0]", Err("expected single quoted string but got 0")),
            (".a[", Err("unexpected end of JSON path")),
            (".a['b.c'", Err("unexpected end of JSON path")),
            (".a['b.c'x]", Err("expected ] but got x")),
            ("['\\z']", Err("invalid string literal: invalid escape char \\z")),
            ("['", Err("expected single quoted string but got '")),
            ("..", Err("does not refer to a valid field")),
        ] {
            let found = find(text, &schema, true).map(|found| found.path.as_str().to_owned());
            assert_eq!(found.as_deref().map_err(String::as_str), expect, "{text}");
        }
        assert_eq!(find(".a['b.c']", &schema, false).unwrap_err(), "array notation is not allowed");
    }
}
