//! JSON patch (RFC 6902), with upstream's extension (negative indices count from the end), limit and error texts.

use kybern_apimachinery::{Map, Value};

use super::PatchError;
use super::ledger::Ledger;

/// Upstream's limit of operations in one patch.
pub const MAX_OPERATIONS: usize = 10_000;

const MISSING: &str = "missing value";

/// Applies a JSON patch: all of its operations, in order, or none.
pub fn apply(mut object: Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Array(operations) = patch else {
        return Err(PatchError::Malformed(format!(
            "json: cannot unmarshal {} into Go value of type jsonpatch.Patch",
            json_type(patch)
        )));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations(operations.len()));
    }
    let mut ledger = Ledger::open(&object)?;
    for operation in operations {
        let Value::Object(operation) = operation else {
            return Err(PatchError::Malformed(format!(
                "json: cannot unmarshal {} into Go value of type jsonpatch.Operation",
                json_type(operation)
            )));
        };
        perform(&mut object, operation, &mut ledger)?;
    }
    Ok(object)
}

fn perform(root: &mut Value, operation: &Map<String, Value>, ledger: &mut Ledger) -> Result<(), PatchError> {
    let op = operation.get("op").and_then(Value::as_str).unwrap_or("unknown");
    let text = |field: &str| operation.get(field).and_then(Value::as_str);
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    let path = || text("path").ok_or_else(|| format!("{op} operation failed to decode path: {MISSING}"));
    let from = || text("from").ok_or_else(|| format!("{op} operation failed to decode from: {MISSING}"));
    match op {
        "add" => {
            let path = path()?;
            let (parent, key) = parent_of(root, path)
                .ok_or_else(|| format!("add operation does not apply: doc is missing path: \"{path}\": {MISSING}"))?;
            let value = value();
            ledger.add(path, &value)?;
            ledger.shift(parent)?;
            insert(parent, key, value).map_err(|e| format!("error in add for path: '{path}': {e}"))?;
        }
        "remove" => {
            let path = path()?;
            let (parent, key) = parent_of(root, path).ok_or_else(|| {
                format!("remove operation does not apply: doc is missing path: \"{path}\": {MISSING}")
            })?;
            ledger.shift(parent)?;
            take(parent, &key).map_err(|e| format!("error in remove for path: '{path}': {e}"))?;
        }
        "replace" => {
            let path = path()?;
            let value = value();
            ledger.add(path, &value)?;
            replace(root, path, value)?;
        }
        "move" => {
            let (from, path) = (from()?, path()?);
            let (parent, key) = parent_of(root, from)
                .ok_or_else(|| format!("move operation does not apply: doc is missing from path: {from}: {MISSING}"))?;
            ledger.shift(parent)?;
            let value = take(parent, &key).map_err(|e| format!("error in move for path: '{key}': {e}"))?;
            let (parent, key) = parent_of(root, path).ok_or_else(|| {
                format!("move operation does not apply: doc is missing destination path: {path}: {MISSING}")
            })?;
            ledger.shift(parent)?;
            ledger.relocate(path, &value)?;
            insert(parent, key, value).map_err(|e| format!("error in move for path: '{path}': {e}"))?;
        }
        "copy" => {
            let (from, path) = (from()?, path()?);
            let (parent, key) = parent_of(root, from)
                .ok_or_else(|| format!("copy operation does not apply: doc is missing from path: {from}: {MISSING}"))?;
            let value = get(parent, &key).map_err(|e| format!("error in copy for from: '{from}': {e}"))?;
            let value = value.unwrap_or(&Value::Null);
            ledger.copy(path, value)?;
            let value = value.clone();
            let (parent, key) = parent_of(root, path).ok_or_else(|| {
                format!("copy operation does not apply: doc is missing destination path: {path}: {MISSING}")
            })?;
            ledger.shift(parent)?;
            insert(parent, key, value).map_err(|e| format!("error while adding value during copy: {e}"))?;
        }
        "test" => test(root, path()?, operation.get("value"))?,
        other => return Err(format!("Unexpected kind: {other}").into()),
    }
    Ok(())
}

fn replace(root: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        if !value.is_object() && !value.is_array() {
            return Err("replace operation value must be object or array".to_owned());
        }
        *root = value;
        return Ok(());
    }
    let (parent, key) = parent_of(root, path)
        .ok_or_else(|| format!("replace operation does not apply: doc is missing path: {path}: {MISSING}"))?;
    let missing = || format!("replace operation does not apply: doc is missing key: {path}: {MISSING}");
    match parent {
        // Upstream's library lets an absent key of a map be replaced, against the RFC; scripts rely on it.
        Value::Object(map) => {
            map.insert(key, value);
        }
        Value::Array(list) => {
            let index = existing(list.len(), &key).map_err(|_| missing())?;
            list[index] = value;
        }
        _ => return Err(missing()),
    }
    Ok(())
}

fn test(root: &mut Value, path: &str, expect: Option<&Value>) -> Result<(), PatchError> {
    let failed = || PatchError::TestFailed(format!("testing value {path} failed: test failed"));
    if path.is_empty() {
        return if Some(&*root) == expect { Ok(()) } else { Err(failed()) };
    }
    let (parent, key) = parent_of(root, path)
        .ok_or_else(|| format!("test operation does not apply: is missing path: {path}: {MISSING}"))?;
    let found = get(parent, &key).map_err(|e| format!("error in test for path: '{path}': {e}"))?;
    // An absent value equals null.
    if found.unwrap_or(&Value::Null) == expect.unwrap_or(&Value::Null) { Ok(()) } else { Err(failed()) }
}

/// The container that a pointer's last segment lies in, and that segment. `None` when something on the way is missing.
fn parent_of<'a>(root: &'a mut Value, pointer: &str) -> Option<(&'a mut Value, String)> {
    let (parents, last) = pointer.rsplit_once('/')?;
    let mut value = root;
    for segment in parents.split('/').skip(1) {
        let segment = unescape(segment);
        value = match value {
            Value::Object(map) => map.get_mut(&segment)?,
            Value::Array(list) => {
                let index = existing(list.len(), &segment).ok()?;
                &mut list[index]
            }
            _ => return None,
        };
    }
    (value.is_object() || value.is_array()).then(|| (value, unescape(last)))
}

fn unescape(segment: &str) -> String {
    segment.replace("~1", "/").replace("~0", "~")
}

fn get<'a>(parent: &'a Value, key: &str) -> Result<Option<&'a Value>, String> {
    match parent {
        Value::Object(map) => Ok(map.get(key)),
        Value::Array(list) => existing(list.len(), key).map(|i| Some(&list[i])),
        _ => Ok(None),
    }
}

fn insert(parent: &mut Value, key: String, value: Value) -> Result<(), String> {
    match parent {
        Value::Object(map) => {
            map.insert(key, value);
        }
        Value::Array(list) if key == "-" => list.push(value),
        Value::Array(list) => {
            // One past the end is a place to add at.
            let index = existing(list.len() + 1, &key).map_err(|e| {
                if number(&key).is_ok() { e } else { format!("value was not a proper array index: '{key}': {e}") }
            })?;
            list.insert(index, value);
        }
        _ => return Err(MISSING.to_owned()),
    }
    Ok(())
}

fn take(parent: &mut Value, key: &str) -> Result<Value, String> {
    match parent {
        Value::Object(map) => {
            map.remove(key).ok_or_else(|| format!("Unable to remove nonexistent key: {key}: {MISSING}"))
        }
        Value::Array(list) => existing(list.len(), key).map(|i| list.remove(i)),
        _ => Err(MISSING.to_owned()),
    }
}

fn number(key: &str) -> Result<i64, String> {
    key.parse().map_err(|_| format!("strconv.Atoi: parsing {key:?}: invalid syntax"))
}

/// The position that an index of an array of `len` names; a negative one counts from the end.
fn existing(len: usize, key: &str) -> Result<usize, String> {
    let index = number(key)?;
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    let place = if index < 0 { index + len } else { index };
    match usize::try_from(place) {
        Ok(found) if place < len => Ok(found),
        _ => Err(format!("Unable to access invalid index: {index}: invalid index referenced")),
    }
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn check(object: Value, patch: Value, expect: Value) {
        assert_eq!(apply(object, &patch), Ok(expect), "{patch}");
    }

    fn check_fails(object: Value, patch: Value, expect: &str) {
        assert_eq!(apply(object, &patch).unwrap_err().to_string(), expect, "{patch}");
    }

    #[test]
    fn operations() {
        let doc = || json!({"a": {"b": 1}, "l": [1, 2, 3]});
        check(
            doc(),
            json!([{"op": "add", "path": "/a/c", "value": 2}]),
            json!({"a": {"b": 1, "c": 2}, "l": [1, 2, 3]}),
        );
        check(doc(), json!([{"op": "add", "path": "/l/-", "value": 4}]), json!({"a": {"b": 1}, "l": [1, 2, 3, 4]}));
        check(doc(), json!([{"op": "add", "path": "/l/0", "value": 0}]), json!({"a": {"b": 1}, "l": [0, 1, 2, 3]}));
        check(doc(), json!([{"op": "add", "path": "/l/3", "value": 4}]), json!({"a": {"b": 1}, "l": [1, 2, 3, 4]}));
        check(doc(), json!([{"op": "remove", "path": "/l/-1"}]), json!({"a": {"b": 1}, "l": [1, 2]}));
        check(
            doc(),
            json!([{"op": "replace", "path": "/a/b", "value": null}]),
            json!({"a": {"b": null}, "l": [1, 2, 3]}),
        );
        check(doc(), json!([{"op": "move", "from": "/a/b", "path": "/c"}]), json!({"a": {}, "c": 1, "l": [1, 2, 3]}));
        check(
            doc(),
            json!([{"op": "copy", "from": "/l", "path": "/a/b"}]),
            json!({"a": {"b": [1, 2, 3]}, "l": [1, 2, 3]}),
        );
        check(doc(), json!([{"op": "test", "path": "/a/b", "value": 1}, {"op": "test", "path": "/a/z"}]), doc());
        check(doc(), json!([{"op": "replace", "path": "", "value": {}}]), json!({}));
        check(
            json!({"metadata": {"annotations": {"a/b~c": "x"}}}),
            json!([{"op": "remove", "path": "/metadata/annotations/a~1b~0c"}]),
            json!({"metadata": {"annotations": {}}}),
        );
    }

    #[test]
    fn failures_are_upstreams() {
        let doc = || json!({"a": {"b": 1}, "l": [1]});
        check_fails(
            doc(),
            json!([{"op": "add", "path": "/x/y", "value": 1}]),
            "add operation does not apply: doc is missing path: \"/x/y\": missing value",
        );
        check_fails(
            doc(),
            json!([{"op": "remove", "path": "/a/x"}]),
            "error in remove for path: '/a/x': Unable to remove nonexistent key: x: missing value",
        );
        check_fails(
            doc(),
            json!([{"op": "replace", "path": "/x/y", "value": 1}]),
            "replace operation does not apply: doc is missing path: /x/y: missing value",
        );
        check_fails(
            doc(),
            json!([{"op": "test", "path": "/a/b", "value": 2}]),
            "testing value /a/b failed: test failed",
        );
        check_fails(
            doc(),
            json!([{"op": "add", "path": "/l/5", "value": 1}]),
            "error in add for path: '/l/5': Unable to access invalid index: 5: invalid index referenced",
        );
        check_fails(
            doc(),
            json!([{"op": "add", "path": "/l/x", "value": 1}]),
            "error in add for path: '/l/x': value was not a proper array index: 'x': strconv.Atoi: parsing \"x\": invalid syntax",
        );
        check_fails(doc(), json!([{"op": "frob", "path": "/a"}]), "Unexpected kind: frob");
        check_fails(doc(), json!({}), "json: cannot unmarshal object into Go value of type jsonpatch.Patch");
        check_fails(doc(), json!([{"op": "add"}]), "add operation failed to decode path: missing value");
    }

    #[test]
    fn loads_are_bounded() {
        let test = json!({"op": "test", "path": "/a", "value": 1});
        assert!(apply(json!({"a": 1}), &Value::Array(vec![test.clone(); MAX_OPERATIONS])).is_ok());
        let refused = apply(json!({"a": 1}), &Value::Array(vec![test; MAX_OPERATIONS + 1])).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001"
        );
    }

    /// Each round nests the tree one level deeper: the process must not die of it, nor the tree's end.
    #[test]
    fn moves_do_not_nest_without_end() {
        let round = [
            json!({"op": "add", "path": "/b", "value": {}}),
            json!({"op": "move", "from": "/a", "path": "/b/a"}),
            json!({"op": "move", "from": "/b", "path": "/a"}),
        ];
        let rounds = |n: usize| Value::Array(round.iter().cycle().take(3 * n).cloned().collect());
        assert!(apply(json!({"a": {}}), &rounds(100)).is_ok());
        let refused = apply(json!({"a": {}}), &rounds(3333)).unwrap_err();
        assert_eq!(refused.to_string(), "json: exceeded max depth: lists and maps may be nested 110 deep");
        assert!(matches!(refused, PatchError::NotApplicable(_)));
        // Up and down again is no depth.
        let back = [
            json!({"op": "add", "path": "/b", "value": {}}),
            json!({"op": "move", "from": "/a", "path": "/b/a"}),
            json!({"op": "move", "from": "/b/a", "path": "/a"}),
        ];
        let many = Value::Array(back.iter().cycle().take(9999).cloned().collect());
        assert_eq!(apply(json!({"a": {"x": [1]}}), &many), Ok(json!({"a": {"x": [1]}, "b": {}})));
        // Deep values at deep places.
        let deep = (0..60).fold(json!(1), |inner, _| json!([inner]));
        let path = "/0".repeat(60);
        for op in ["add", "replace"] {
            assert!(apply(deep.clone(), &json!([{"op": op, "path": path, "value": deep}])).is_err(), "{op}");
        }
        let both = json!({"a": deep, "b": deep});
        assert!(apply(both, &json!([{"op": "copy", "from": "/a", "path": format!("/b{path}")}])).is_err());
    }

    #[test]
    fn copies_count_by_their_bytes() {
        let copies = |n: usize| Value::Array(vec![json!({"op": "copy", "from": "/a", "path": "/b/-"}); n]);
        let big = || json!({"a": "x".repeat(100_000), "b": []});
        assert!(apply(big(), &copies(31)).is_ok());
        let refused = apply(big(), &copies(300)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "Unable to complete the copy, the accumulated size increase of copy is 3200096, exceeding the limit 3145728"
        );
        let double = Value::Array(vec![json!({"op": "copy", "from": "/a", "path": "/a/-"}); 60]);
        assert!(apply(json!({"a": [1]}), &double).is_err());
        // As many values as the bytes allow are too many.
        let nulls = json!({"a": vec![Value::Null; 60_000], "b": []});
        assert!(matches!(apply(nulls, &copies(10)), Err(PatchError::TooLarge(_))));
    }

    /// Small operations on a large list or a deep tree must not take minutes.
    #[test]
    fn work_is_bounded() {
        let list = json!({"a": vec![Value::Null; 200_000]});
        let insert = json!({"op": "add", "path": "/a/0", "value": 0});
        assert!(matches!(apply(list.clone(), &Value::Array(vec![insert; 10_000])), Err(PatchError::TooLarge(_))));
        let swap =
            [json!({"op": "move", "from": "/a", "path": "/b"}), json!({"op": "move", "from": "/b", "path": "/a"})];
        let swaps = Value::Array(swap.iter().cycle().take(10_000).cloned().collect());
        assert!(matches!(apply(list, &swaps), Err(PatchError::TooLarge(_))));
        let small = json!({"a": vec![Value::Null; 1000]});
        assert!(apply(small, &swaps).is_ok());
    }
}
