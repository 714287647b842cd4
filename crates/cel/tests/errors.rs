//! What is said of expressions that do not parse, check or evaluate: upstream's texts.

use std::sync::Arc;

use kybern_cel::{DeclType, Env, Limits, Type, Value, Variables};
use serde_json::json;

fn env() -> Env {
    let decl = DeclType::from_schema(
        &json!({"type": "object", "properties": {
            "replicas": {"type": "integer"},
            "name": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "ports": {"type": "array", "items": {"type": "object", "properties": {"port": {"type": "integer"}}}},
            "port": {"x-kubernetes-int-or-string": true},
            "a-b": {"type": "string"},
            "namespace": {"type": "string"},
        }}),
        false,
    );
    Env::kubernetes()
        .with_declared("self", Arc::new(decl.expect("a type").named("selfType")))
        .with_variable("object", Type::Dyn)
}

#[test]
fn refused_when_compiled() {
    let env = env();
    let start = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, \
                 IDENTIFIER}";
    for (expression, complaint) in [
        ("x", "ERROR: <input>:1:1: undeclared reference to 'x' (in container '')\n | x\n | ^".to_owned()),
        (
            "1 + 'a'",
            "ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'\n | 1 + 'a'\n | ..^"
                .to_owned(),
        ),
        ("self.foo", "ERROR: <input>:1:5: undefined field 'foo'\n | self.foo\n | ....^".to_owned()),
        (
            "self.replicas.foo",
            "ERROR: <input>:1:14: type 'int' does not support field selection\n | self.replicas.foo\n | .............^"
                .to_owned(),
        ),
        (
            "self.name.startsWith(1)",
            "ERROR: <input>:1:21: found no matching overload for 'startsWith' applied to 'string.(int)'\n \
             | self.name.startsWith(1)\n | ....................^"
                .to_owned(),
        ),
        (
            "self.ports == self.labels",
            "ERROR: <input>:1:12: found no matching overload for '_==_' applied to \
             '(list(selfType.ports.@idx), map(string, string))'\n | self.ports == self.labels\n | ...........^"
                .to_owned(),
        ),
        (
            "self.replicas.all(x, x > 1)",
            "ERROR: <input>:1:5: expression of type 'int' cannot be range of a comprehension (must be list, map, or \
             dynamic)\n | self.replicas.all(x, x > 1)\n | ....^"
                .to_owned(),
        ),
        (
            "[1, 'a']",
            "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^".to_owned(),
        ),
        (
            "has(self)",
            "ERROR: <input>:1:5: invalid argument to has() macro\n | has(self)\n | ....^".to_owned(),
        ),
        (
            "duration('1x')",
            "ERROR: <input>:1:10: invalid duration argument\n | duration('1x')\n | .........^".to_owned(),
        ),
        (
            "self.name.matches('[')",
            "ERROR: <input>:1:19: invalid matches argument\n | self.name.matches('[')\n | ..................^".to_owned(),
        ),
        (
            "request.user = 'test'",
            "ERROR: <input>:1:14: Syntax error: token recognition error at: '= '\n | request.user = 'test'\n \
             | .............^\nERROR: <input>:1:16: Syntax error: extraneous input ''test'' expecting <EOF>\n \
             | request.user = 'test'\n | ...............^"
                .to_owned(),
        ),
        (
            "object.x in [1, 2,",
            "ERROR: <input>:1:19: Syntax error: missing ']' at '<EOF>'\n | object.x in [1, 2,\n | ..................^"
                .to_owned(),
        ),
        (
            "'asdf'.contains('x'",
            "ERROR: <input>:1:20: Syntax error: missing ')' at '<EOF>'\n | 'asdf'.contains('x'\n | ...................^"
                .to_owned(),
        ),
        (
            "1 + ",
            format!("ERROR: <input>:1:5: Syntax error: mismatched input '<EOF>' expecting {start}\n | 1 + \n | ....^"),
        ),
        (
            "*a",
            format!("ERROR: <input>:1:1: Syntax error: extraneous input '*' expecting {start}\n | *a\n | ^"),
        ),
        (
            "1 + +",
            format!(
                "ERROR: <input>:1:5: Syntax error: mismatched input '+' expecting {start}\n | 1 + +\n | ....^\n\
                 ERROR: <input>:1:6: Syntax error: mismatched input '<EOF>' expecting {start}\n | 1 + +\n | .....^"
            ),
        ),
        (
            "{'a': 1}.'a'",
            "ERROR: <input>:1:10: Syntax error: no viable alternative at input '.'a''\n | {'a': 1}.'a'\n | .........^"
                .to_owned(),
        ),
        (
            "self.true == 1",
            "ERROR: <input>:1:6: Syntax error: mismatched input 'true' expecting IDENTIFIER\n | self.true == 1\n \
             | .....^"
                .to_owned(),
        ),
        (
            "1 + 2\n3 +",
            "ERROR: <input>:2:1: Syntax error: mismatched input '3' expecting <EOF>\n | 3 +\n | ^".to_owned(),
        ),
        (
            "'ä' + x",
            "ERROR: <input>:1:7: undeclared reference to 'x' (in container '')\n | 'ä' + x\n | .．....^".to_owned(),
        ),
        ("as", "ERROR: <input>:1:1: reserved identifier: as\n | as\n | ^".to_owned()),
        (
            "9223372036854775808",
            "ERROR: <input>:1:1: invalid int literal\n | 9223372036854775808\n | ^".to_owned(),
        ),
        (
            "'%d'.format(['a'])",
            "ERROR: <input>:1:14: error during formatting: decimal clause can only be used on integers, was given \
             string\n | '%d'.format(['a'])\n | .............^"
                .to_owned(),
        ),
        (
            "'%s'.format(['a', 'b'])",
            "ERROR: <input>:1:12: too many arguments supplied to string.format (expected 1, got 2)\n \
             | '%s'.format(['a', 'b'])\n | ...........^"
                .to_owned(),
        ),
        ("int('a')", "type conversion error from 'string' to 'int'".to_owned()),
        ("self.name.find('[')", "error parsing regexp: missing closing ]: `[`".to_owned()),
    ] {
        match env.compile(expression) {
            Ok(_) => panic!("{expression} compiles"),
            Err(error) => assert_eq!(error.to_string(), complaint, "{expression}"),
        }
    }
}

#[test]
fn failed_when_evaluated() {
    let object = json!({"list": [1, 2], "map": {"a": 1}, "text": "abc", "none": null, "n": 7});
    let env = env();
    for (expression, complaint) in [
        ("object.absent", "no such key: absent"),
        ("object.map.b == 1", "no such key: b"),
        ("object['absent']", "no such key: absent"),
        ("object.list[3] == 1", "index out of bounds: 3"),
        ("object.list[-1] == 1", "index out of bounds: -1"),
        ("object.list['a']", "unsupported index type 'string' in list"),
        ("object.list.field", "unsupported index type 'string' in list"),
        ("object.text.field", "no such key: field"),
        ("object.n / 0 == 1", "division by zero"),
        ("object.n % 0 == 1", "modulus by zero"),
        ("object.n + 'a' == 'b'", "no such overload"),
        ("object.none + 1 == 2", "no such overload: _+_"),
        ("object.text < 1", "no such overload"),
        ("object.map < object.map", "no such overload: _<_"),
        ("object.n.startsWith('a')", "no such overload: startsWith(int, string)"),
        ("size(object.n) == 1", "no such overload: size"),
        ("object.n && true", "no such overload"),
        ("9223372036854775807 + object.n > 0", "integer overflow"),
        ("uint(0 - object.n) > 0u", "unsigned integer overflow"),
        ("int(object.text) > 0", "type conversion error from 'string' to 'int'"),
        (
            "timestamp(object.text) > timestamp('2020-01-01T00:00:00Z')",
            "type conversion error from 'string' to 'google.protobuf.Timestamp'",
        ),
        ("object.text.matches(object.text + '(')", "error parsing regexp: missing closing ): `abc(`"),
        ("object.text.find(object.text + '(') == ''", "Illegal regex: error parsing regexp: missing closing ): `abc(`"),
        ("object.text.substring(5) == ''", "index out of range: 5"),
        ("object.text.substring(2, 1) == ''", "invalid substring range. start: 2, end: 1"),
        ("optional.none().value() == 1", "optional.none() dereference"),
        ("object.list.filter(x, x > 5).max() == 1", "max called on empty list"),
        ("[1].filter(x, x > 5).max() == 1", "max called on empty list"),
        (
            "quantity(object.text).isInteger()",
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        ("[object.list].map(x, {x: 1}).size() == 1", "unsupported key type: list"),
        ("object.map.transformMap(k, v, v / 0).size() == 1", "division by zero"),
    ] {
        let program = env.compile(expression).unwrap_or_else(|e| panic!("{expression}: {e}"));
        let variables = Variables::new().with("object", Value::json(&object));
        match program.eval(&variables, Limits::default()).result {
            Ok(value) => panic!("{expression} is {value:?}"),
            Err(error) => assert_eq!(error.to_string(), complaint, "{expression}"),
        }
    }
}

#[test]
fn errors_that_do_not_count() {
    let object = json!({"list": [1, 0, 2], "n": 7});
    let env = env();
    for (expression, expected) in [
        ("object.absent == 1 || object.n == 7", true),
        ("object.absent == 1 && object.n == 8", false),
        ("object.list.exists(x, 2 / x == 2)", true),
        ("object.list.all(x, 2 / x == 2)", false),
        ("has(object.absent) || true", true),
        ("object.?absent.orValue(7) == 7", true),
        ("object.?absent.?deeper.hasValue()", false),
        ("object[?'n'].orValue(0) == 7", true),
        ("object.?list[?1].orValue(5) == 0", true),
        ("object.absent != 1 || true", true),
    ] {
        let program = env.compile(expression).unwrap_or_else(|e| panic!("{expression}: {e}"));
        let variables = Variables::new().with("object", Value::json(&object));
        let result = program.eval(&variables, Limits::default()).result;
        assert_eq!(result.as_ref().map(Value::as_bool), Ok(Some(expected)), "{expression}");
    }
}

#[test]
fn fields_that_are_no_identifiers() {
    let object = json!({"a-b": "x", "namespace": "y"});
    let decl = DeclType::from_schema(
        &json!({"type": "object", "properties": {"a-b": {"type": "string"}, "namespace": {"type": "string"}}}),
        false,
    )
    .expect("a type");
    let env = env();
    let program = env.compile("self.a__dash__b == 'x' && self.__namespace__ == 'y'").expect("it compiles");
    let variables = Variables::new().with("self", Value::typed(&object, &decl).expect("a value"));
    assert_eq!(program.eval(&variables, Limits::default()).result.expect("a value").as_bool(), Some(true));
}
