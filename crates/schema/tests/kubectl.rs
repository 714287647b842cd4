//! Patches must do what they do in the official kubectl, whose `patch --local` runs upstream's own code.

use std::process::Command;

use kybern_apimachinery::{Gvk, Map, Value, json};
use kybern_schema::patch::{PatchError, json as json_patch, merge, strategic};
use kybern_schema::types::KindType;
use kybern_testbed::not_run;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Each case is a process of its own.
const CASES: u32 = 48;
/// No patch made here has more faults than this.
const FAULTS_MAX: usize = 4;

/// What kubectl makes of a patch; its error text without `error: `.
fn kubectl(kind: &str, object: &Value, patch: &Value) -> Result<Value, String> {
    let file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
    std::fs::write(file.path(), object.to_string()).unwrap();
    let mut command = Command::new("kubectl");
    command.args(["patch", "--local", "-o", "json", "--type", kind, "-p", &patch.to_string(), "-f"]).arg(file.path());
    let output = command.output().unwrap();
    if output.status.success() {
        return Ok(serde_json::from_slice(&output.stdout).unwrap());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim().trim_start_matches("error: ");
    // kubectl puts this one into words of its own; the server does not.
    let key = text.strip_prefix("Object to be patched is missing field (").and_then(|rest| rest.strip_suffix(')'));
    Err(key.map_or(text.to_owned(), |key| format!("replace operation does not apply: doc is missing key: {key}")))
}

/// Runs the cases, or says why it does not.
fn compare(
    kind: &str,
    cases: impl Strategy<Value = (Value, Value)>,
    ours: impl Fn(Value, Value) -> Result<Value, PatchError>,
) {
    if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
        return not_run("patches as kubectl makes them", "no kubectl to compare with (Debian: kubernetes-client)");
    }
    let mut runner =
        TestRunner::new(Config { cases: CASES, max_shrink_iters: 64, failure_persistence: None, ..Config::default() });
    let result = runner.run(&cases, |(object, patch)| {
        match (ours(object.clone(), patch.clone()), kubectl(kind, &object, &patch)) {
            (Ok(ours), Ok(theirs)) => prop_assert_eq!(tidy(ours), tidy(theirs)),
            (Err(ours), Err(theirs)) => {
                let ours = ours.to_string().trim().to_owned();
                // Of several faults upstream names the one that Go's random order of maps brings it to first.
                let again =
                    || (0..FAULTS_MAX * 4).any(|_| kubectl(kind, &object, &patch).is_err_and(|e| e.trim() == ours));
                prop_assert!(ours == theirs.trim() || again(), "we: {}\nthey: {}", ours, theirs);
            }
            // Upstream cannot order two empty lists; it is no error to us.
            (_, Err(theirs)) if theirs.contains("no elements in any of the given slices") => {}
            (ours, theirs) => prop_assert!(false, "we: {ours:?}\nthey: {theirs:?}"),
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Without nulls, which decoding drops, and without directives in what is new, which upstream leaves to decoding, too.
fn tidy(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(key, value)| !value.is_null() && !key.starts_with('$'));
            Value::Object(kept.map(|(key, value)| (key, tidy(value))).collect())
        }
        Value::Array(list) => {
            Value::Array(list.into_iter().filter(|item| item.get("$patch").is_none()).map(tidy).collect())
        }
        scalar => scalar,
    }
}

fn deployment() -> KindType {
    kybern_schema::builtin().kind(&Gvk::new("apps", "v1", "Deployment")).unwrap()
}

fn wrap(mut metadata: Value, pod: Value) -> Value {
    metadata["name"] = "d".into();
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"template": {"spec": pod}}})
}

/// A map of those fields that are drawn.
fn fields(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let drawn =
        fields.into_iter().map(|(name, value)| proptest::option::of(value).prop_map(move |v| (name, v)).boxed());
    let set = |drawn: Vec<(&str, Option<Value>)>| {
        let set = drawn.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(set.collect::<Map<String, Value>>())
    };
    drawn.collect::<Vec<_>>().prop_map(set).boxed()
}

fn one_of(values: Vec<Value>) -> BoxedStrategy<Value> {
    proptest::sample::select(values).boxed()
}

/// A list of maps with different names; in a patch some are deleted.
fn named(names: &'static [&'static str], item: BoxedStrategy<Value>, patch: bool) -> BoxedStrategy<Value> {
    let names = proptest::sample::subsequence(names.to_vec(), 0..=names.len().min(3)).prop_shuffle();
    let items = proptest::collection::vec((item, 0..5u8), 3);
    let join = move |(names, items): (Vec<&str>, Vec<(Value, u8)>)| {
        let named = names.into_iter().zip(items).map(|(name, (mut item, dice))| {
            if patch && dice == 0 {
                return json!({"name": name, "$patch": "delete"});
            }
            item["name"] = name.into();
            item
        });
        Value::Array(named.collect())
    };
    (names, items).prop_map(join).boxed()
}

fn pod(patch: bool) -> BoxedStrategy<Value> {
    const NAMES: &[&str] = &["a", "b", "c", "d"];
    let null = if patch { Value::Null } else { json!("i") };
    let env = named(&["A", "B", "C"], fields(vec![("value", one_of(vec![json!("1"), json!("2")]))]), patch);
    let ports = one_of(vec![json!([{"containerPort": 80}]), json!([{"containerPort": 81}, {"containerPort": 80}])]);
    let args = one_of(vec![json!(["x"]), json!([])]);
    let image = one_of(vec![json!("i"), json!("j"), null]);
    let container = fields(vec![("image", image), ("args", args), ("env", env), ("ports", ports)]);
    let volumes = match patch {
        true => json!([{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]),
        false => json!([{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}]),
    };
    let mut parts = vec![
        ("containers", named(NAMES, container, patch)),
        ("volumes", one_of(vec![volumes, json!([{"name": "x", "emptyDir": {}}])])),
        ("tolerations", one_of(vec![json!([{"key": "1"}]), json!([{"key": "2"}])])),
        ("nodeSelector", one_of(vec![json!({"a": "1"}), json!({"a": "2", "b": "2"})])),
    ];
    if patch {
        let order = proptest::sample::subsequence(NAMES.to_vec(), 1..=NAMES.len()).prop_shuffle();
        let order = order.prop_map(|names| names.into_iter().map(|name| json!({"name": name})).collect());
        parts.push(("$setElementOrder/containers", order.boxed()));
        parts
            .push(("nodeSelector", one_of(vec![json!({"$patch": "replace", "c": "3"}), json!({"a": null, "c": "3"})])));
    }
    fields(parts)
}

fn metadata(patch: bool) -> BoxedStrategy<Value> {
    let some = || {
        let of = proptest::sample::subsequence(vec!["x/a", "x/b", "x/c"], 1..=3).prop_shuffle();
        of.prop_map(|list| json!(list)).boxed()
    };
    let removed = if patch { Value::Null } else { json!("0") };
    let labels = ("labels", one_of(vec![json!({"l": "1", "m": "1"}), json!({"l": removed, "m": "2"})]));
    match patch {
        false => fields(vec![("finalizers", some()), labels]),
        // Adding and deleting one item at once does either, in Go's random order of maps.
        true => prop_oneof![
            fields(vec![("finalizers", some()), ("$setElementOrder/finalizers", some()), labels.clone()]),
            fields(vec![("$deleteFromPrimitiveList/finalizers", some()), labels]),
        ]
        .boxed(),
    }
}

#[test]
fn strategic_merge_patches() {
    let kind = deployment();
    let object = (metadata(false), pod(false)).prop_map(|(metadata, pod)| wrap(metadata, pod));
    let patch = (metadata(true), pod(true))
        .prop_map(|(metadata, pod)| json!({"metadata": metadata, "spec": {"template": {"spec": pod}}}));
    compare("strategic", (object, patch), |object, patch| strategic::apply(&kind, object, patch));
}

#[test]
fn merge_patches() {
    let object = (metadata(false), pod(false)).prop_map(|(metadata, pod)| wrap(metadata, pod));
    let patch = (metadata(false), pod(false)).prop_map(|(metadata, mut pod)| {
        pod["nodeSelector"] = json!({"a": null, "z": "1"});
        pod["tolerations"] = Value::Null;
        json!({"metadata": metadata, "spec": {"template": {"spec": pod}}})
    });
    compare("merge", (object, patch), merge::apply);
}

#[test]
fn json_patches() {
    let object = (metadata(false), pod(false)).prop_map(|(metadata, pod)| wrap(metadata, pod));
    let path = proptest::sample::select(vec![
        "/metadata/labels/l",
        "/metadata/labels/x~1y",
        "/metadata/finalizers/0",
        "/metadata/finalizers/1",
        "/metadata/finalizers/-1",
        "/metadata/finalizers/-",
        "/metadata/finalizers/x",
        "/spec/template/spec/containers/0/image",
        "/spec/template/spec/nodeSelector",
        "/spec/nothing/here",
    ]);
    let op = proptest::sample::select(vec!["add", "remove", "replace", "test", "move", "copy"]);
    let operation = (op, path.clone(), path)
        .prop_map(|(op, path, from)| json!({"op": op, "path": path, "from": from, "value": "1"}));
    let patch = proptest::collection::vec(operation, 1..3).prop_map(Value::Array);
    compare("json", (object, patch), |object, patch| json_patch::apply(object, &patch));
}
