//! Expressions that are made to hurt: deep, long, doubling, or with values that are. Each is refused or ends, soon.

use std::time::{Duration, Instant};

use kybern_cel::{Env, Limits, Type, Value, Variables};
use serde_json::json;

/// Compiles and evaluates on a thread with a stack of the size that the server's have; what is said of it.
fn outcome(expression: String) -> String {
    let started = Instant::now();
    let run = move || {
        let env = Env::kubernetes().with_variable("x", Type::Dyn);
        let program = match env.compile(&expression) {
            Ok(program) => program,
            Err(error) => return error.to_string(),
        };
        let numbers = json!((0..500).collect::<Vec<_>>());
        let variables = Variables::new().with("x", Value::json(&numbers));
        let evaluation = program.eval(&variables, Limits::default());
        match evaluation.result {
            Ok(_) => "evaluated".to_owned(),
            Err(error) => error.to_string(),
        }
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(run).expect("a thread");
    let said = thread.join().expect("no panic");
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}: {}",
        started.elapsed(),
        said.lines().next().unwrap_or("")
    );
    said
}

#[test]
fn depth() {
    let limit = "ERROR: <input>:-1:0: expression recursion limit exceeded: 250";
    for (open, middle, close) in [
        ("(", "1", ")"),
        ("[", "", "]"),
        ("{1: ", "1", "}"),
        ("size(", "'a'", ")"),
        ("x ? 1 : ", "1", ""),
        ("1 + (", "1", ")"),
        ("x.all(y, ", "true", ")"),
        ("x.map(y, ", "y", ")"),
        ("[1][", "0", "]"),
        ("optional.of(", "1", ")"),
        ("!(", "true", ")"),
    ] {
        for depth in [300, 20_000] {
            let expression = format!("{}{middle}{}", open.repeat(depth), close.repeat(depth));
            let said = outcome(expression);
            assert!(said.starts_with(limit) || said.contains("exceeds limit"), "{open}: {said}");
        }
        // As deep as it may be.
        let said = outcome(format!("{}{middle}{}", open.repeat(200), close.repeat(200)));
        assert!(!said.contains("recursion limit"), "{open}: {said}");
    }
}

#[test]
fn chains() {
    for (first, link) in [("1", " + 1"), ("x", ".a"), ("x", "[0]"), ("'a'", ".trim()"), ("1", " * 1"), ("1", " < 1")] {
        let said = outcome(format!("{first}{}", link.repeat(5_000)));
        assert!(said.contains("recursion limit exceeded"), "{link}: {}", said.lines().next().unwrap_or(""));
    }
    // Logic is balanced, and signs are counted.
    assert_eq!(outcome(format!("true{}", " && true".repeat(10_000))), "evaluated");
    assert_eq!(outcome(format!("{}true", "!".repeat(90_000))), "evaluated");
}

#[test]
fn length() {
    let said = outcome(format!("'{}'", "a".repeat(100_000)));
    assert_eq!(said, "ERROR: <input>:-1:0: expression code point size exceeds limit: size: 100002, limit 100000");
    assert_eq!(outcome(format!("[{}]", "1,".repeat(40_000))), "evaluated");
    assert_eq!(outcome(format!("x.size() > 0 || {}", vec!["x == x"; 9_000].join(" || "))), "evaluated");
    let many = outcome(vec!["y"; 5_000].join(" && "));
    assert!(many.ends_with("4900 more errors were truncated"), "{}", many.lines().last().unwrap_or(""));
}

#[test]
fn doubling() {
    // Each optMap copies what it is called on.
    let said = outcome(format!("optional.of(1){}", ".optMap(y, y)".repeat(60)));
    assert!(said.contains("expression is too large"), "{said}");
    // A list of the list of the list.
    let said = outcome(format!("[1]{}", ".map(y, [y, y])".repeat(100)));
    assert!(said == "evaluated" || said.contains("cost limit"), "{said}");
    let said = outcome("x.map(a, x.map(b, x)).map(c, c.flatten(2)).flatten(3).size() > 1".to_owned());
    assert!(said.contains("cost limit") || said == "evaluated", "{said}");
    let said = outcome(format!("'{}'{}", "a".repeat(1000), ".replace('', 'aaaaaaaaaaaaaaaaaaaaaaaa')".repeat(6)));
    assert!(said.contains("cost limit"), "{said}");
    let said = outcome(format!("[{}].join('{}').size() > 1", "'a',".repeat(20_000), "b".repeat(10_000)));
    assert!(said.contains("cost limit"), "{said}");
}

#[test]
fn expressions_within() {
    for expression in [
        "'a'.matches('(((((a{1000}){1000}){1000})))')".to_owned(),
        format!("'a'.matches('{}a{}')", "(".repeat(5_000), ")".repeat(5_000)),
        "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'.matches('(a*)*b')".to_owned(),
        "'%.999999999f'.format([1.0]) == ''".to_owned(),
        "lists.range(9223372036854775807).size() > 1".to_owned(),
        "x.slice(0, 9223372036854775807).size() > 1".to_owned(),
        "'a'.substring(9223372036854775807) == ''".to_owned(),
        "[[1]].flatten(9223372036854775807) == [1]".to_owned(),
        "timestamp('9999-12-31T23:59:59Z') + duration('1s') > timestamp('2020-01-01T00:00:00Z')".to_owned(),
        "duration('9223372036854775807ns') + duration('1ns') > duration('1s')".to_owned(),
        "-9223372036854775808 / -1 == 1".to_owned(),
        "ip('::ffff:1.2.3.4').family() == 4".to_owned(),
        "url('http://[::1').getHost() == ''".to_owned(),
        "semver('99999999999999999999.0.0').major() > 1".to_owned(),
        "quantity('99999999999999999999999999999999999E').asInteger() > 1".to_owned(),
        "timestamp('2020-01-01T00:00:00Z').getHours('99999999999:00') > 1".to_owned(),
    ] {
        outcome(expression);
    }
}
