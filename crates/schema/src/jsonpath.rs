//! JSON paths as printer columns use them (`k8s.io/client-go/util/jsonpath`): fields, indexes, slices, wildcards, filters and
//! recursive descent. A path that leads nowhere finds nothing.

use kybern_apimachinery::Value;

/// A parsed path, without the braces around it.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// `..name`
    Below(String),
    All,
    /// From, to and stride; an index is a slice of one.
    Slice(Option<i64>, Option<i64>, i64),
    Index(i64),
    Names(Vec<String>),
    Filter(Operand, &'static str, Operand),
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    /// Below the item: `@.a.b`.
    Path(JsonPath),
    Literal(Value),
}

/// Steps of a path at most, and of paths in its filters.
const MAX_STEPS: usize = 64;

/// A text that is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} is no JSON path: {problem}")]
pub struct JsonPathError {
    pub path: String,
    pub problem: &'static str,
}

impl JsonPath {
    pub fn parse(path: &str) -> Result<Self, JsonPathError> {
        steps(path).map_err(|problem| JsonPathError { path: path.to_owned(), problem })
    }

    /// The values at the path.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.of(value)).collect();
        }
        found
    }

    /// The names of fields, where the path is of nothing else.
    pub fn fields(&self) -> Option<Vec<String>> {
        let field = |step: &Step| match step {
            Step::Field(name) => Some(name.clone()),
            _ => None,
        };
        self.0.iter().map(field).collect()
    }
}

impl Step {
    fn of<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Names(names) => names.iter().filter_map(|name| value.get(name)).collect(),
            Self::All => children(value).collect(),
            Self::Below(name) => {
                let mut found = Vec::new();
                let mut left = vec![value];
                while let Some(value) = left.pop() {
                    found.extend(value.get(name));
                    let at = left.len();
                    left.extend(children(value));
                    left[at..].reverse();
                }
                found
            }
            Self::Index(index) => {
                let Some(items) = value.as_array() else { return Vec::new() };
                let length = items.len() as i64;
                let at = if *index < 0 { length + index } else { *index };
                usize::try_from(at).ok().and_then(|at| items.get(at)).into_iter().collect()
            }
            Self::Slice(from, to, stride) => {
                let Some(items) = value.as_array() else { return Vec::new() };
                let length = items.len() as i64;
                let place = |given: i64| if given < 0 { length + given } else { given }.clamp(0, length) as usize;
                let (from, to) = (place(from.unwrap_or(0)), place(to.unwrap_or(length)));
                items.get(from..to).unwrap_or(&[]).iter().step_by((*stride).max(1) as usize).collect()
            }
            Self::Filter(left, operator, right) => {
                children(value).filter(|item| holds(left.of(item), operator, right.of(item))).collect()
            }
        }
    }
}

impl Operand {
    fn of<'a>(&'a self, item: &'a Value) -> Option<&'a Value> {
        match self {
            Self::Path(path) => path.find(item).into_iter().next(),
            Self::Literal(value) => Some(value),
        }
    }
}

fn children(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(map) => Box::new(map.values()),
        _ => Box::new(std::iter::empty()),
    }
}

fn holds(left: Option<&Value>, operator: &str, right: Option<&Value>) -> bool {
    if operator == "exists" {
        return left.is_some();
    }
    let (Some(left), Some(right)) = (left, right) else { return false };
    let order = match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        _ => left.as_f64().zip(right.as_f64()).and_then(|(left, right)| left.partial_cmp(&right)),
    };
    let Some(order) = order else { return false };
    match operator {
        "==" => order.is_eq(),
        "!=" => order.is_ne(),
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        _ => order.is_ge(),
    }
}

fn steps(path: &str) -> Result<JsonPath, &'static str> {
    let mut found = Vec::new();
    let mut rest = path.trim();
    rest = rest.strip_prefix(['$', '@']).unwrap_or(rest);
    while !rest.is_empty() {
        if found.len() >= MAX_STEPS {
            return Err("it has too many steps");
        }
        if let Some(below) = rest.strip_prefix("..") {
            let (name, after) = name(below)?;
            found.push(Step::Below(name));
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('[') {
            let end = closing(inner).ok_or("a bracket is not closed")?;
            found.push(bracket(inner[..end].trim())?);
            rest = &inner[end + 1..];
        } else {
            let after = rest.strip_prefix('.').ok_or("a step begins with a dot or a bracket")?;
            if after.is_empty() && found.is_empty() {
                break;
            }
            if let Some(after) = after.strip_prefix('*') {
                found.push(Step::All);
                rest = after;
            } else if after.starts_with('[') {
                rest = after;
            } else {
                let (name, after) = name(after)?;
                found.push(Step::Field(name));
                rest = after;
            }
        }
    }
    Ok(JsonPath(found))
}

/// A field's name, in which a backslash takes the next character as it is.
fn name(text: &str) -> Result<(String, &str), &'static str> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.push(chars.next().ok_or("it ends with a backslash")?.1),
            '.' | '[' => return finish(name, &text[at..]),
            ' ' | '|' | '(' | ')' | '{' | '}' | ']' => return Err("a name holds a character that has to be escaped"),
            c => name.push(c),
        }
    }
    finish(name, "")
}

fn finish(name: String, rest: &str) -> Result<(String, &str), &'static str> {
    if name.is_empty() { Err("a name is empty") } else { Ok((name, rest)) }
}

/// Where the bracket closes, quotes and brackets within it left out.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote, mut escaped) = (0, None, false);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if std::mem::take(&mut escaped) => {}
            (Some(_), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(inner: &str) -> Result<Step, &'static str> {
    if inner == "*" {
        return Ok(Step::All);
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        return self::filter(filter.trim());
    }
    if inner.starts_with(['\'', '"']) {
        let names: Option<Vec<String>> = inner.split(',').map(|name| quoted(name.trim())).collect();
        let mut names = names.ok_or("a name in brackets is quoted")?;
        return Ok(if names.len() == 1 { Step::Field(names.remove(0)) } else { Step::Names(names) });
    }
    let number = |text: &str| -> Result<Option<i64>, &'static str> {
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| "an index is a number") }
    };
    match inner.split(':').map(str::trim).collect::<Vec<_>>().as_slice() {
        [index] => Ok(Step::Index(number(index)?.ok_or("a bracket is empty")?)),
        [from, to] => Ok(Step::Slice(number(from)?, number(to)?, 1)),
        [from, to, stride] => {
            let stride = number(stride)?.unwrap_or(1);
            if stride < 1 { Err("a stride is positive") } else { Ok(Step::Slice(number(from)?, number(to)?, stride)) }
        }
        _ => Err("a slice has three parts at most"),
    }
}

fn quoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let inner = text.get(1..)?.strip_suffix(quote)?;
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next()? } else { c });
    }
    Some(out)
}

fn filter(text: &str) -> Result<Step, &'static str> {
    let operators = ["==", "!=", "<=", ">=", "<", ">"];
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, _) => {
                if let Some(operator) = operators.iter().find(|operator| text[at..].starts_with(**operator)) {
                    let right = operand(text[at + operator.len()..].trim())?;
                    return Ok(Step::Filter(operand(text[..at].trim())?, operator, right));
                }
            }
        }
    }
    Ok(Step::Filter(operand(text)?, "exists", Operand::Literal(Value::Null)))
}

fn operand(text: &str) -> Result<Operand, &'static str> {
    if text.starts_with('@') || text.starts_with('.') {
        return steps(text).map(Operand::Path);
    }
    if let Some(text) = quoted(text) {
        return Ok(Operand::Literal(text.into()));
    }
    match text {
        "true" => Ok(Operand::Literal(true.into())),
        "false" => Ok(Operand::Literal(false.into())),
        _ => match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(number), _) => Ok(Operand::Literal(number.into())),
            (_, Ok(number)) => Ok(Operand::Literal(number.into())),
            _ => Err("a filter compares paths, texts, numbers and booleans"),
        },
    }
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;

    fn check(path: &str, expect: Value) {
        let object = json!({
            "spec": {"a": 1, "b.c": "x", "list": [{"t": "Ready", "n": 3}, {"t": "Other", "n": 5}], "on": true},
            "status": {"deep": {"a": 2}},
        });
        let path = JsonPath::parse(path).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(Value::from(path.find(&object).into_iter().cloned().collect::<Vec<_>>()), expect);
    }

    #[test]
    fn what_paths_find() {
        check(".spec.a", json!([1]));
        check("$.spec['b.c']", json!(["x"]));
        check(r".spec.b\.c", json!(["x"]));
        check(".spec.list[0].t", json!(["Ready"]));
        check(".spec.list[-1].t", json!(["Other"]));
        check(".spec.list[*].n", json!([3, 5]));
        check(".spec.list[0:1].n", json!([3]));
        check(".spec.list[::2].n", json!([3]));
        check(r#".spec.list[?(@.t=="Ready")].n"#, json!([3]));
        check(".spec.list[?(@.n > 3)].t", json!(["Other"]));
        check(".spec.list[?(@.none)].t", json!([]));
        check("..a", json!([1, 2]));
        check(".spec['a','on']", json!([1, true]));
        check(".none.a", json!([]));
        check(".spec.a.b", json!([]));
        check(".spec.list[9]", json!([]));
        assert_eq!(JsonPath::parse(".spec.a").unwrap().fields(), Some(vec!["spec".into(), "a".into()]));
        assert_eq!(JsonPath::parse(".spec[0]").unwrap().fields(), None);
    }

    #[test]
    fn what_is_no_path_is_told() {
        let long = ".a".repeat(100);
        for bad in ["spec", ".a[", ".a[x]", ".a..", ".a[?(x==1)]", ".a[::0]", "..", ".a b", &long] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
