//! Every published fixture, one fully populated object per kind, through every codec and back.
//!
//! The fixtures are not part of this repository; `upstream_facts` tells where they are looked for.

use std::path::Path;

use kybern_apimachinery::{Gvk, Value};
use kybern_schema::builtin::Builtin;
use kybern_schema::types::KindType;
use kybern_schema::{Strictness, builtin, decode, decode_yaml, proto};
use kybern_testbed::upstream_facts;

/// Where two trees differ first.
fn difference(path: &str, left: &Value, right: &Value) -> Option<String> {
    match (left, right) {
        (Value::Object(l), Value::Object(r)) => {
            l.keys().chain(r.keys()).find_map(|key| match (l.get(key), r.get(key)) {
                (Some(l), Some(r)) => difference(&format!("{path}.{key}"), l, r),
                (l, r) => Some(format!("{path}.{key}: {l:?} and {r:?}")),
            })
        }
        (Value::Array(l), Value::Array(r)) if l.len() == r.len() => {
            l.iter().zip(r).enumerate().find_map(|(i, (l, r))| difference(&format!("{path}[{i}]"), l, r))
        }
        _ => (left != right).then(|| format!("{path}: {left} and {right}")),
    }
}

fn first_difference(left: &[u8], right: &[u8]) -> String {
    let at = left.iter().zip(right).take_while(|(l, r)| l == r).count();
    let around =
        |bytes: &[u8]| String::from_utf8_lossy(&bytes[at.saturating_sub(30)..bytes.len().min(at + 20)]).into_owned();
    format!("{} and {} bytes, different at {at}: {:?} and {:?}", left.len(), right.len(), around(left), around(right))
}

/// All forms of one object.
struct Fixture {
    json: Vec<u8>,
    yaml: Vec<u8>,
    pb: Vec<u8>,
}

fn check(kind: &KindType, fixture: &Fixture) -> Result<(), String> {
    let (from_json, _) = decode(kind, &fixture.json, Strictness::Strict).map_err(|e| format!("json: {e}"))?;
    let (from_yaml, _) = decode_yaml(kind, &fixture.yaml, Strictness::Strict).map_err(|e| format!("yaml: {e}"))?;
    let from_pb = proto::decode(kind, &fixture.pb).map_err(|e| format!("pb: {e}"))?;
    let expect: Value = serde_json::from_slice(&fixture.json).map_err(|e| e.to_string())?;
    for (form, got) in [("json", &from_json), ("yaml", &from_yaml), ("pb", &from_pb)] {
        if let Some(difference) = difference("", got, &expect) {
            return Err(format!("from {form}, got and expected: {difference}"));
        }
        let encoded = proto::encode(kind, got).map_err(|e| format!("{form} to pb: {e}"))?;
        if encoded != fixture.pb {
            return Err(format!("{form} to pb, got and expected: {}", first_difference(&encoded, &fixture.pb)));
        }
        let text = serde_json::to_vec(got).map_err(|e| e.to_string())?;
        let (again, _) = decode(kind, &text, Strictness::Strict).map_err(|e| format!("{form} to json: {e}"))?;
        if again != *got {
            return Err(format!("{form} to json and back is not the same"));
        }
    }
    Ok(())
}

/// The kind that a fixture's file name tells: `apps.v1.Deployment`.
fn gvk(stem: &str) -> Gvk {
    let (rest, kind) = stem.rsplit_once('.').unwrap();
    let (group, version) = rest.rsplit_once('.').unwrap();
    Gvk::new(if group == "core" { "" } else { group }, version, kind)
}

/// Whatever a body holds, it is decoded or refused, and what was decoded can be encoded.
fn damaged(kind: &KindType, body: &[u8]) {
    let try_it = |body: &[u8]| {
        if let Ok(object) = proto::decode(kind, body) {
            proto::encode(kind, &object).unwrap_or_else(|e| panic!("{}: {e}", kind.gvk));
        }
    };
    for at in 0..body.len() {
        try_it(&body[..at]);
        for flip in [1, 8, 0x80] {
            let mut body = body.to_vec();
            body[at] ^= flip;
            try_it(&body);
        }
    }
}

/// A few objects of our own, with what the published ones have not: zeros, absent values, custom resource definitions.
/// `KYBERN_UPDATE_FIXTURES=1` writes their protobuf forms anew; look at the difference before committing it.
#[test]
fn own_fixtures() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/objects");
    let mut checked = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let kind = builtin().kind(&gvk(stem)).unwrap_or_else(|| panic!("no kind for {stem}"));
        let yaml = std::fs::read(&path).unwrap();
        let tree = kybern_schema::decode::yaml_to_value(&yaml).unwrap();
        if std::env::var_os("KYBERN_UPDATE_FIXTURES").is_some() {
            let (object, _) = decode_yaml(&kind, &yaml, Strictness::Strict).unwrap();
            std::fs::write(path.with_extension("pb"), proto::encode(&kind, &object).unwrap()).unwrap();
        }
        let pb = std::fs::read(path.with_extension("pb")).unwrap_or_else(|e| panic!("{stem}.pb: {e}"));
        let fixture = Fixture { json: tree.to_string().into_bytes(), yaml, pb };
        check(&kind, &fixture).unwrap_or_else(|failure| panic!("{stem}: {failure}"));
        damaged(&kind, &fixture.pb);
        checked += 1;
    }
    assert_eq!(checked, 8);
}

#[test]
fn published_fixtures() {
    let Some(directory) = upstream_facts("published_fixtures", "objects-v1.35") else { return };
    let builtin = Builtin::with_tables(&[include_str!("retired-v1.35.txt")]).unwrap();
    let (mut checked, mut failures) = (0, Vec::new());
    let mut names: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    // `*.after_roundtrip.*` show what later releases, which have other fields, make of these objects: not for us.
    for stem in names.iter().filter_map(|n| n.strip_suffix(".json")).filter(|n| !n.ends_with(".after_roundtrip")) {
        let read = |extension: &str| std::fs::read(directory.join(format!("{stem}.{extension}"))).ok();
        let kind = builtin.kind(&gvk(stem)).unwrap_or_else(|| panic!("no kind for fixture {stem}"));
        let fixture = Fixture { json: read("json").unwrap(), yaml: read("yaml").unwrap(), pb: read("pb").unwrap() };
        checked += 1;
        if let Err(failure) = check(&kind, &fixture) {
            failures.push(format!("{stem}: {failure}"));
        }
    }
    println!("{} of {checked} fixtures hold", checked - failures.len());
    assert!(failures.is_empty(), "{} of {checked} fail:\n{}", failures.len(), failures.join("\n"));
    assert!(checked > 100, "only {checked} fixtures found in {}", directory.display());
}
