//! What expressions can cost and do cost, by upstream's tables (facts of apiserver/pkg/cel/library/cost_test.go). Evaluated
//! costs are those of an optimized program, as the server has it: constants are made once.

use std::sync::Arc;

use kybern_cel::{Authorizer, Check, Decision, Env, ErrorKind, Limits, Type, Value, Variables};
use serde_json::json;

struct Nobody;

impl Authorizer for Nobody {
    fn authorize(&self, check: &Check<'_>) -> Decision {
        Decision { reason: format!("asked for {}", check.verb), ..Decision::default() }
    }
}

#[test]
fn libraries() {
    let env = Env::kubernetes()
        .with_mutation()
        .with_variable("authorizer", Type::object("kubernetes.authorization.Authorizer"));
    let mut wrong = Vec::new();
    for line in include_str!("data/costs.tsv").lines() {
        let parts: Vec<&str> = line.split('\t').collect();
        let [expression, min, max, cost] = parts[..] else { panic!("not a case: {line}") };
        let found = match env.compile(expression) {
            Ok(program) => {
                let variables = Variables::new().with("authorizer", Value::authorizer(Arc::new(Nobody)));
                let evaluation = program.eval(&variables, Limits::default());
                let estimate = program.estimate();
                // Upstream's test has an estimate of its own for the elements of some literals.
                let most = if max == "-1" { max.to_owned() } else { estimate.max.to_string() };
                format!("{}\t{most}\t{}", estimate.min, evaluation.cost)
            }
            // What upstream's test leaves the validators out for.
            Err(error) if error.to_string().contains("expected type") => continue,
            Err(error) => error.to_string(),
        };
        let expected = format!("{min}\t{max}\t{cost}");
        if found != expected {
            wrong.push(format!("{expression}\n  {found}\n  should be {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

/// Facts of cel-go's interpreter/runtimecost_test.go, for an optimized program.
#[test]
fn language() {
    let object = json!({
        "list": [1, 2, 3], "map": {"key": "v"}, "text": "0123456789012345678901234", "other": "abc", "yes": true,
        "nested": {"list": [{"name": "a"}, {"name": "b"}]}, "i": 1,
    });
    let env = Env::kubernetes().with_variable("self", Type::Dyn);
    for (expression, cost) in [
        ("'Hello World!'", 0),
        ("self", 1),
        ("self.map['key']", 3),
        ("self.list[0]", 3),
        ("self.list[self.i]", 4),
        ("self.map.key", 3),
        ("has(self.map.key)", 2),
        ("has(self.map.absent)", 2),
        ("self.?map.?key", 3),
        ("self.?map.?absent", 2),
        ("[1, 2, 3].all(x, true)", 10),
        ("self.list.all(x, x > 0)", 18),
        ("self.list.exists(x, x > 2)", 2 + 3 * 6 + 1),
        ("self.list.exists_one(x, x > 2)", 2 + 3 * 2 + 2 + 2),
        ("self.list.map(x, x)", 2 + 3 * 13 + 1),
        ("self.list.filter(x, x > 1)", 2 + 3 * 2 + 2 * 13 + 1),
        ("self.text == self.other", 5),
        ("self.text.startsWith(self.other)", 4 + 3),
        ("self.text.contains(self.other)", 4 + 3),
        ("self.text.matches('[a-z]+')", 2 + 3 * 2),
        ("self.other in ['a', 'abc']", 2),
        // Whether a list or a map only shows when it is there.
        ("self.i in self.list", 2 + 2 + 1),
        ("self.yes ? self.i : 0", 2 + 1),
        ("self.yes && self.yes || self.yes", 4),
        ("self.yes ? 'a' : self.other", 2),
        ("{self.other: 1}", 2 + 30),
        ("[self.i]", 2 + 10),
        ("size(self.list) == 3", 2 + 1 + 1),
        ("self.nested.list.all(x, x.name != '')", 3 + 2 * (2 + 1 + 2) + 1),
    ] {
        let program = env.compile(expression).unwrap_or_else(|e| panic!("{expression}: {e}"));
        let variables = Variables::new().with("self", Value::json(&object));
        let evaluation = program.eval(&variables, Limits::default());
        assert!(evaluation.result.is_ok(), "{expression}: {:?}", evaluation.result);
        assert_eq!(evaluation.cost, cost, "{expression}");
    }
}

#[test]
fn an_evaluation_that_costs_too_much_ends() {
    let numbers = json!((0..1000).collect::<Vec<_>>());
    let env = Env::kubernetes().with_variable("self", Type::Dyn);
    for expression in [
        "self.all(a, self.all(b, self.all(c, a + b + c >= 0)))",
        // Neither macros nor logic swallow it.
        "self.exists(a, self.all(b, self.all(c, a + b + c >= 0))) || true",
        "self.map(a, self.map(b, self.map(c, c))).size() > 0",
        "self.distinct().size() > 0 && self.map(x, x).distinct().map(a, self.distinct()).size() > 1",
        "lists.range(1000000000).size() > 0",
        "self.filter(a, self.exists_one(b, self.exists_one(c, c == a))).size() > 0 ? true : false",
    ] {
        let program = env.compile(expression).unwrap_or_else(|e| panic!("{expression}: {e}"));
        let variables = Variables::new().with("self", Value::json(&numbers));
        let started = std::time::Instant::now();
        let evaluation = program.eval(&variables, Limits::default());
        let error = evaluation.result.expect_err(expression);
        assert_eq!(error.kind(), ErrorKind::CostLimit, "{expression}: {error}");
        assert_eq!(error.to_string(), "operation cancelled: actual cost limit exceeded");
        assert!(started.elapsed() < std::time::Duration::from_secs(20), "{expression}: {:?}", started.elapsed());
    }
}

#[test]
fn an_evaluation_is_given_up() {
    let numbers = json!((0..1000).collect::<Vec<_>>());
    let env = Env::kubernetes().with_variable("self", Type::Dyn);
    let program = env.compile("self.all(a, self.all(b, a + b >= 0))").expect("it compiles");
    let variables = Variables::new().with("self", Value::json(&numbers));
    let asked = std::cell::Cell::new(0);
    let give_up = || {
        asked.set(asked.get() + 1);
        asked.get() > 3
    };
    let limits = Limits { cost: u64::MAX, interrupted: Some(&give_up) };
    let error = program.eval(&variables, limits).result.expect_err("it is given up");
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert_eq!(asked.get(), 4);
}
