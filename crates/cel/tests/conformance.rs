//! The language's own conformance cases (facts of github.com/google/cel-spec: expression and result), as far as they need
//! no protocol buffers. What Kubernetes' environment has otherwise is listed below, and must differ.

use kybern_cel::{Env, Limits, Map, Value, Variables};

const CASES: &str = include_str!("data/conformance.tsv");
const DIFFERENT: &str = include_str!("data/different.tsv");

fn render(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => format!("{u}u"),
        Value::Double(d) if d.is_nan() => "NaN".to_owned(),
        Value::Double(d) if d.is_infinite() => if *d > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        Value::Double(d) => format!("{d:?}"),
        Value::String(text) => serde_json::to_string(&**text).expect("a text"),
        Value::Bytes(bytes) => bytes.iter().fold("b".to_owned(), |text, b| text + &format!("{b:02x}")),
        Value::Duration(nanos) => format!("duration({nanos})"),
        Value::Timestamp(time) => format!("timestamp({})", time.nanos()),
        Value::Type(name) => format!("type({name})"),
        Value::List(list) => {
            let items: Vec<String> = list.iter().map(|item| render(&item.expect("an element"))).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => render_map(map),
        Value::Optional(Some(inner)) => format!("optional({})", render(inner)),
        Value::Optional(None) => "none".to_owned(),
        other => format!("{other:?}"),
    }
}

fn render_map(map: &Map<'_>) -> String {
    let mut entries: Vec<String> = map.entries().map(|(k, v)| format!("{}: {}", render(&k), render(&v))).collect();
    entries.sort();
    format!("{{{}}}", entries.join(", "))
}

fn outcome(env: &Env, expression: &str) -> String {
    let program = match env.compile(expression) {
        Ok(program) => program,
        Err(error) => return format!("refused: {}", error.to_string().lines().next().unwrap_or_default()),
    };
    let variables = Variables::new();
    match program.eval(&variables, Limits::default()).result {
        Ok(value) => render(&value),
        Err(error) => format!("failed: {error}"),
    }
}

/// Doubles are compared as numbers: they are written in many ways.
fn same(found: &str, expected: &str) -> bool {
    if expected == "!" {
        return found.starts_with("failed: ") || found.starts_with("refused: ");
    }
    found == expected
        || matches!((found.parse::<f64>(), expected.parse::<f64>()), (Ok(a), Ok(b)) if a == b && found.contains(['.', 'e']))
}

#[test]
fn conformance() {
    let env = Env::kubernetes();
    let mut wrong = Vec::new();
    for line in CASES.lines() {
        let mut parts = line.split('\t');
        let (Some(file), Some(expression), Some(expected)) = (parts.next(), parts.next(), parts.next()) else {
            panic!("not a case: {line}");
        };
        let expression: String = serde_json::from_str(expression).expect("a text");
        let found = outcome(&env, &expression);
        let different = DIFFERENT
            .lines()
            .filter_map(|l| l.split_once('\t'))
            .find(|(e, _)| serde_json::from_str::<String>(e).is_ok_and(|e| e == expression));
        match different {
            Some((_, ours)) if found == ours => {}
            Some((_, ours)) => wrong.push(format!("{file}: {expression:?}\n  is {found}\n  Kubernetes has {ours}")),
            None if same(&found, expected) => {}
            None => wrong.push(format!("{file}: {expression:?}\n  is {found}\n  should be {expected}")),
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}
