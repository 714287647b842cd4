use kybern_apimachinery::json;

use super::*;

fn texts(schema: &Value) -> Vec<String> {
    check(schema, &FieldPath::new("s"), &Precedent::default()).iter().map(ToString::to_string).collect()
}

fn of(spec: Value) -> Vec<String> {
    texts(&json!({"type": "object", "properties": {"spec": spec}}))
}

#[test]
fn good_schemas_pass() {
    for spec in [
        json!({"type": "string", "pattern": "^a+$", "default": "a"}),
        json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
        json!({"x-kubernetes-int-or-string": true, "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"minimum": 1}]}),
        json!({"x-kubernetes-preserve-unknown-fields": true}),
        json!({"type": "object", "additionalProperties": {"type": "string"}}),
        json!({"type": "object", "properties": {"a": {"type": "string"}}, "oneOf": [{"required": ["a"]}, {"properties": {"a": {"minLength": 1}}}]}),
        json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"],
            "items": {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}}),
        json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
    ] {
        assert_eq!(of(spec.clone()), Vec::<String>::new(), "{spec}");
    }
    let metadata = json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}}}});
    assert_eq!(texts(&metadata), Vec::<String>::new());
}

#[test]
fn bad_schemas_are_told() {
    let p = "s.properties[spec]";
    for (spec, expect) in [
        (json!({}), format!("{p}.type: Required value: must not be empty for specified object fields")),
        (json!({"type": "array"}), format!("{p}.items: Required value: must be specified")),
        (
            json!({"type": "thing"}),
            format!(
                "{p}.type: Unsupported value: \"thing\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\""
            ),
        ),
        (
            json!({"type": "string", "pattern": "("}),
            format!("{p}.pattern: Invalid value: \"(\": must be a valid regular expression"),
        ),
        (json!({"type": "string", "pattern": "(a{1000}){1000}"}), format!("{p}.pattern: Invalid value")),
        (
            json!({"type": "string", "anyOf": [{"type": "string"}]}),
            format!("{p}.anyOf[0].type: Forbidden: must be empty to be structural"),
        ),
        (json!({"type": "string", "default": 1}), format!("{p}.default: Invalid value: \"integer\": ")),
        (
            json!({"type": "object", "default": {"a": 1}}),
            format!("{p}.default: Invalid value: {{\"a\":1}}: must not have unknown fields"),
        ),
        (json!({"type": "string", "$ref": "#/x"}), format!("{p}.$ref: Forbidden: $ref is not supported")),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": false}),
            format!("{p}.additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"),
        ),
        (
            json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}}),
            format!("{p}.uniqueItems: Forbidden"),
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}),
            format!(
                "{p}.x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"
            ),
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"], "items": {"type": "object", "properties": {"a": {"type": "string"}}}}),
            format!(
                "{p}.items.properties[a].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
            ),
        ),
        (
            json!({"type": "object", "x-kubernetes-embedded-resource": true}),
            format!("{p}.properties: Required value: must not be empty if"),
        ),
    ] {
        let found = of(spec.clone());
        assert!(found.iter().any(|text| text.starts_with(&expect)), "{spec}\n{found:?}\nlacks {expect}");
    }
    for (schema, expect) in [
        (
            json!({"type": "object", "allOf": [{"properties": {"a": {"minimum": 1}}}]}),
            "s.properties[a]: Required value: because it is defined in s.allOf[0].properties[a]",
        ),
        (json!({"type": "string"}), "s.type: Invalid value: \"string\": must be object at the root"),
        (json!({"type": "object", "nullable": true}), "s.nullable: Forbidden: nullable cannot be true at the root"),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            "s.additionalProperties: Forbidden: must not be used at the root",
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName",
        ),
    ] {
        let found = texts(&schema);
        assert!(found.iter().any(|text| text.starts_with(expect)), "{schema}\n{found:?}\nlacks {expect}");
    }
    let mut deep = json!({"type": "string"});
    for _ in 0..80 {
        deep = json!({"type": "object", "properties": {"a": deep}});
    }
    assert!(texts(&deep)[0].contains("must not be nested deeper"));
}
