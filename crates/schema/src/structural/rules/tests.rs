use kybern_apimachinery::json;

use super::super::{Precedent, Validator, check};
use super::*;

fn texts(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// A schema whose `spec` is this.
fn around(spec: &Value) -> Value {
    json!({"type": "object", "properties": {"spec": spec}})
}

/// What is wrong with a schema.
fn faults(spec: &Value) -> Vec<String> {
    texts(&check(&around(spec), &FieldPath::new("s"), &Precedent::default()))
}

/// What rules have against `spec`, and what they warn of.
fn evaluated(spec: &Value, new: Value, old: Option<Value>) -> (Vec<String>, Vec<String>) {
    assert_eq!(faults(spec), Vec::<String>::new(), "{spec}");
    let validator = Validator::new(&around(spec)).unwrap();
    let mut warnings = Vec::new();
    let object = |spec| json!({"apiVersion": "ex.io/v1", "kind": "Foo", "metadata": {"name": "n"}, "spec": spec});
    let (new, old) = (object(new), old.map(object));
    (texts(&validator.rules(&new, old.as_ref(), &mut warnings)), warnings)
}

fn refused(spec: &Value, new: Value, old: Option<Value>, expect: &[&str]) {
    assert_eq!(evaluated(spec, new, old).0, expect, "{spec}");
}

/// A schema of these properties, and these rules.
fn ruled(properties: Value, rules: Value) -> Value {
    json!({"type": "object", "properties": properties, "x-kubernetes-validations": rules})
}

#[test]
fn what_a_rule_says() {
    let schema =
        ruled(json!({"a": {"type": "integer"}, "b": {"type": "integer"}}), json!([{"rule": "self.a < self.b"}]));
    refused(&schema, json!({"a": 1, "b": 2}), None, &[]);
    refused(&schema, json!({"a": 2, "b": 2}), None, &["spec: Invalid value: failed rule: self.a < self.b"]);
    refused(
        &schema,
        json!({"a": 2}),
        None,
        &["spec: Invalid value: \"object\": no such key: b evaluating rule: self.a < self.b"],
    );
    let with = |rule: Value| {
        ruled(
            json!({"a": {"type": "string"}, "m": {"type": "object", "additionalProperties": {"type": "string"}}}),
            json!([rule]),
        )
    };
    let bad = json!({"a": "x", "m": {"k": "v"}});
    for (rule, expect) in [
        (json!({"rule": "self.a == ''", "message": " not empty "}), "spec: Invalid value: not empty"),
        (json!({"rule": "self.a == ''", "reason": "FieldValueForbidden", "message": "no"}), "spec: Forbidden: no"),
        (json!({"rule": "self.a == ''", "reason": "FieldValueRequired", "message": "no"}), "spec: Required value: no"),
        (json!({"rule": "self.a == ''", "reason": "FieldValueDuplicate", "message": "no"}), "spec: Duplicate value"),
        (json!({"rule": "self.a == ''", "fieldPath": ".a", "message": "no"}), "spec.a: Invalid value: no"),
        (json!({"rule": "self.a == ''", "fieldPath": ".m['k']", "message": "no"}), "spec.m[k]: Invalid value: no"),
        (
            json!({"rule": "self.a == ''", "messageExpression": "'it is ' + self.a", "message": "no"}),
            "spec: Invalid value: it is x",
        ),
        // Messages that cannot be used give way.
        (
            json!({"rule": "self.a == ''", "messageExpression": "self.m.gone", "message": "no"}),
            "spec: Invalid value: no",
        ),
        (json!({"rule": "self.a == ''", "messageExpression": "'a\\nb'", "message": "no"}), "spec: Invalid value: no"),
        (json!({"rule": "self.a == ''", "messageExpression": "' '"}), "spec: Invalid value: failed rule: self.a == ''"),
    ] {
        refused(&with(rule), bad.clone(), None, &[expect]);
    }
    let scalar = json!({"type": "string", "x-kubernetes-validations": [{"rule": "self.startsWith('a')"}]});
    refused(&scalar, json!("b"), None, &["spec: Invalid value: \"b\": failed rule: self.startsWith('a')"]);
}

#[test]
fn types_of_what_is_within() {
    let schema = ruled(
        json!({
            "port": {"x-kubernetes-int-or-string": true},
            "a-b.c": {"type": "integer"},
            "namespace": {"type": "string"},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                "items": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}, "n": {"type": "integer"}}}},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
            "since": {"type": "string", "format": "date-time"},
            "note": {"type": "string", "nullable": true},
        }),
        json!([
            {"rule": "!has(self.port) || (type(self.port) == int ? self.port > 0 : self.port == 'http')", "message": "port"},
            {"rule": "!has(self.a__dash__b__dot__c) || self.a__dash__b__dot__c == 1", "message": "escaped"},
            {"rule": "!has(self.__namespace__) || self.__namespace__ == 'n'", "message": "reserved"},
            {"rule": "!has(self.set) || self.set == ['a', 'b']", "message": "set"},
            {"rule": "!has(self.map) || self.map.all(item, item.n < 5)", "message": "map"},
            {"rule": "!has(self.pod) || (self.pod.kind == 'Pod' && self.pod.metadata.name == 'p')", "message": "pod"},
            {"rule": "!has(self.since) || self.since > timestamp('2026-01-01T00:00:00Z')", "message": "since"},
            {"rule": "!has(self.note) || self.note == 'x'", "message": "note"},
        ]),
    );
    let good = json!({"port": "http", "a-b.c": 1, "namespace": "n", "set": ["b", "a"], "map": [{"id": "1", "n": 1}],
        "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}, "since": "2026-02-01T00:00:00Z", "note": "x"});
    refused(&schema, good, None, &[]);
    refused(&schema, json!({"port": 1}), None, &[]);
    for (bad, expect) in [
        (json!({"port": 0}), "port"),
        (json!({"a-b.c": 2}), "escaped"),
        (json!({"namespace": "x"}), "reserved"),
        (json!({"set": ["a"]}), "set"),
        (json!({"map": [{"id": "1", "n": 5}]}), "map"),
        (json!({"pod": {"apiVersion": "v1", "kind": "Job", "metadata": {"name": "p"}}}), "pod"),
        (json!({"since": "2025-02-01T00:00:00Z"}), "since"),
        (json!({"note": "y"}), "note"),
    ] {
        refused(&schema, bad, None, &[&format!("spec: Invalid value: {expect}")]);
    }
}

#[test]
fn what_it_was_before() {
    let item = json!({"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}, "n": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.n >= oldSelf.n", "message": "may not shrink"}]});
    let schema = json!({"type": "array", "maxItems": 10, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"], "items": item});
    let old = json!([{"id": "a", "n": 5}, {"id": "b", "n": 1}]);
    refused(&schema, json!([{"id": "a", "n": 1}]), None, &[]);
    refused(&schema, json!([{"id": "c", "n": 0}, {"id": "b", "n": 2}]), Some(old.clone()), &[]);
    let shrunk = json!([{"id": "b", "n": 1}, {"id": "a", "n": 4}]);
    refused(&schema, shrunk, Some(old), &["spec[1]: Invalid value: may not shrink"]);

    let optional = json!({"type": "string", "maxLength": 10, "x-kubernetes-validations": [
        {"rule": "oldSelf.hasValue() ? self == oldSelf.value() : self == 'first'", "optionalOldSelf": true, "message": "no"}]});
    refused(&optional, json!("first"), None, &[]);
    refused(&optional, json!("other"), None, &["spec: Invalid value: \"other\": no"]);
    refused(&optional, json!("other"), Some(json!("other")), &[]);
    refused(&optional, json!("first"), Some(json!("other")), &["spec: Invalid value: \"first\": no"]);

    let map = json!({"type": "object", "maxProperties": 5, "additionalProperties": {"type": "integer",
        "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "is fixed"}]}});
    refused(&map, json!({"a": 1, "b": 2}), Some(json!({"a": 1, "b": 1})), &["spec[b]: Invalid value: 2: is fixed"]);
}

#[test]
fn what_stays_wrong_is_warned_of() {
    let field = |rule: &str| json!({"type": "string", "maxLength": 10, "x-kubernetes-validations": [{"rule": rule, "message": "no"}]});
    let schema = json!({"type": "object", "properties": {"a": field("self == 'x'"), "b": field("self == 'x'"), "c": field("self == oldSelf")}});
    let (old, new) = (json!({"a": "1", "b": "1", "c": "1"}), json!({"a": "1", "b": "2", "c": "2"}));
    let (errors, warnings) = evaluated(&schema, new, Some(old));
    assert_eq!(errors, ["spec.b: Invalid value: \"2\": no", "spec.c: Invalid value: \"2\": no"]);
    assert_eq!(warnings, ["spec.a: Invalid value: \"1\": no"]);
    // Items of plain lists are not told from one another: the list as a whole stays, or is looked at again.
    let list =
        json!({"type": "object", "properties": {"l": {"type": "array", "maxItems": 5, "items": field("self == 'x'")}}});
    let (errors, warnings) = evaluated(&list, json!({"l": ["1"]}), Some(json!({"l": ["1"]})));
    assert_eq!((errors.len(), warnings.len()), (0, 1));
    let (errors, warnings) = evaluated(&list, json!({"l": ["1", "x"]}), Some(json!({"l": ["1"]})));
    assert_eq!((errors.len(), warnings.len()), (1, 0));
}

#[test]
fn costs_end_an_evaluation() {
    let schema = json!({"type": "object", "properties": {
        "l": {"type": "array", "maxItems": 100, "items": {"type": "string", "maxLength": 5}},
    }, "x-kubernetes-validations": [{"rule": "self.l.all(a, self.l.all(b, a == b))", "message": "slow"}]});
    refused(&schema, json!({"l": ["a", "b"]}), None, &["spec: Invalid value: slow"]);
    // Schemas that were let in by an earlier server.
    let rule = format!("self.contains('{}')", "x".repeat(1000));
    let text = json!({"type": "string", "x-kubernetes-validations": [{"rule": rule, "message": "no"}]});
    let validator = Validator::new(&around(&text)).unwrap();
    let object = json!({"spec": "a".repeat(200_000)});
    assert_eq!(
        texts(&validator.rules(&object, None, &mut Vec::new())),
        [
            "spec: Invalid value: \"string\": 'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: no"
        ]
    );
    let validator = Validator::new(&around(&json!({"type": "array", "items": text}))).unwrap();
    let object = json!({"spec": vec!["a".repeat(10_000); 150]});
    let errors = texts(&validator.rules(&object, None, &mut Vec::new()));
    let out = "validation failed due to running out of cost budget, no further validation rules will be run";
    assert!(errors.len() < 120, "{}", errors.len());
    assert!(errors.last().unwrap().ends_with(out), "{errors:?}");
}

#[test]
fn rules_are_checked_where_they_are_defined() {
    let p = "s.properties[spec].x-kubernetes-validations[0]";
    let a = json!({"a": {"type": "string"}, "l": {"type": "array", "items": {"type": "string"}}});
    for (rule, expect) in [
        (json!({"rule": " "}), "rule: Required value: rule is not specified".to_owned()),
        (json!({"rule": "true", "message": " "}), "message: Invalid value: \" \": must be non-empty if specified".to_owned()),
        (json!({"rule": "true", "message": "a\nb"}), "message: Invalid value: \"a\\nb\": must not contain line breaks".to_owned()),
        (json!({"rule": "true\n&& true"}), "message: Required value: message must be specified if rule contains line breaks".to_owned()),
        (json!({"rule": "true", "messageExpression": " "}), "messageExpression: Required value: messageExpression must be non-empty if specified".to_owned()),
        (
            json!({"rule": "true", "reason": "Other"}),
            "reason: Unsupported value: \"Other\": supported values: \"FieldValueDuplicate\", \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\"".to_owned(),
        ),
        (json!({"rule": "true", "fieldPath": ".b"}), "fieldPath: Invalid value: \".b\": must be a valid path".to_owned()),
        (
            json!({"rule": "self.b == ''"}),
            "rule: Invalid value: {\"Rule\":\"self.b == ''\",\"Message\":\"\",\"MessageExpression\":\"\",\"Reason\":null,\"FieldPath\":\"\",\"OptionalOldSelf\":null}: compilation failed: ERROR: <input>:1:5: undefined field 'b'\n | self.b == ''\n | ....^".to_owned(),
        ),
        (
            json!({"rule": "self.a < 'b'", "messageExpression": "1"}),
            "messageExpression: Invalid value: {\"Rule\":\"self.a \\u003c 'b'\",\"Message\":\"\",\"MessageExpression\":\"1\",\"Reason\":null,\"FieldPath\":\"\",\"OptionalOldSelf\":null}: messageExpression must evaluate to a string".to_owned(),
        ),
        (
            json!({"rule": "self.a"}),
            "rule: Invalid value: {\"Rule\":\"self.a\",\"Message\":\"\",\"MessageExpression\":\"\",\"Reason\":null,\"FieldPath\":\"\",\"OptionalOldSelf\":null}: cel expression must evaluate to a bool".to_owned(),
        ),
        (json!({"rule": "true", "optionalOldSelf": true}), "optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule".to_owned()),
        (
            json!({"rule": "self.l.all(x, self.l.all(y, x == y))"}),
            "rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)".to_owned(),
        ),
    ] {
        let found = faults(&ruled(a.clone(), json!([rule])));
        assert!(found.contains(&format!("{p}.{expect}")), "{rule}\n{found:#?}\nlacks\n{expect}");
    }
    let old = json!({"type": "array", "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}});
    let found = faults(&old);
    let expect = "s.properties[spec].items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[spec]";
    assert!(found.contains(&expect.to_owned()), "{found:?}");
    let within = json!({"type": "string", "anyOf": [{"x-kubernetes-validations": [{"rule": "true"}]}]});
    assert_eq!(
        faults(&within)[0],
        "s.properties[spec].anyOf[0].x-kubernetes-validations: Forbidden: must be empty to be structural"
    );
}

#[test]
fn the_total_is_limited() {
    let field = json!({"type": "array", "maxItems": 5000, "items": {"type": "string", "maxLength": 1000},
        "x-kubernetes-validations": [{"rule": "self.all(x, x.contains('aaaaaaaaaa'))"}, {"rule": "self.exists(x, x.matches('^a.*b$'))"}]});
    let all: kybern_apimachinery::Map<String, Value> = (0..200).map(|i| (format!("f{i}"), field.clone())).collect();
    let found = faults(&json!({"type": "object", "properties": all}));
    let contributed = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
    assert_eq!(found.iter().filter(|text| text.ends_with(contributed)).count(), 4, "{found:?}");
    let total = found.last().unwrap();
    assert!(total.starts_with("s: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of "), "{total}");
}

#[test]
fn defaults_obey_rules() {
    let with = |default: &str| json!({"type": "string", "default": default, "x-kubernetes-validations": [{"rule": "self == 'x'", "message": "no"}]});
    assert_eq!(faults(&with("x")), Vec::<String>::new());
    assert_eq!(faults(&with("y")), ["s.properties[spec].default: Invalid value: \"y\": no"]);
}
