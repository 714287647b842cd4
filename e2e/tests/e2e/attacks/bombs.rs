//! Small requests that grow: the server refuses them, stays small, and goes on.

use kybern_e2e::Cluster;
use serde_json::{Value, json};

use super::Server;
use super::caller::{Caller, JSON, MERGE};

const JSON_PATCH: &str = "application/json-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
/// Callers at once.
const AT_ONCE: usize = 4;
/// What the server may grow by while they try, in MiB.
const GROWTH: u64 = 200;

fn nested(depth: usize) -> String {
    format!("{}0{}", "{\"x\":".repeat(depth), "}".repeat(depth))
}

/// Rounds of moves, each of which puts the tree one deeper.
fn nesting() -> String {
    let rounds = [
        json!({"op": "add", "path": "/b", "value": {}}),
        json!({"op": "move", "from": "/data", "path": "/b/a"}),
        json!({"op": "move", "from": "/b", "path": "/data"}),
    ];
    Value::from(rounds.iter().cycle().take(9_999).cloned().collect::<Vec<_>>()).to_string()
}

/// Copies of a copy of a copy.
fn doubling() -> String {
    let mut copies = vec![json!({"op": "replace", "path": "/data/k", "value": "x".repeat(10_000)})];
    copies.extend((0..300).map(|n| json!({"op": "copy", "from": "/data", "path": format!("/data/{n}")})));
    Value::from(copies).to_string()
}

#[test]
fn what_grows_is_refused_and_the_server_stays_small() {
    let server = Server::now();
    let namespace = Cluster::get().namespace("bombs");
    let eve = Caller::with_role(&namespace, "eve", "edit");
    let all = format!("/api/v1/namespaces/{}/configmaps", namespace.name);
    let one = format!("{all}/a");
    eve.makes(&all, &json!({"metadata": {"name": "a"}, "data": {"k": "1"}}));
    let (nesting, doubling) = (nesting(), doubling());
    assert!(nesting.len() < 700_000 && doubling.len() < 40_000, "{} {}", nesting.len(), doubling.len());
    let wide = format!("{{\"data\":[{}0]}}", "0,".repeat(1_200_000));
    let aliases = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned()
        + &('b'..='i')
            .map(|c| format!("{c}: &{c} [{}]\n", vec![format!("*{}", char::from(c as u8 - 1)); 9].join(",")))
            .collect::<String>();
    let mut bombs = vec![
        ("PATCH", &one, JSON_PATCH, nesting),
        ("PATCH", &one, JSON_PATCH, doubling),
        ("PATCH", &one, MERGE, wide.clone()),
        ("POST", &all, JSON, wide),
        ("POST", &all, "application/yaml", aliases),
    ];
    let applied = format!("{one}?fieldManager=m");
    for depth in [129, 5_000, 300_000] {
        let body = nested(depth);
        bombs.extend([
            ("PATCH", &one, JSON_PATCH, body.clone()),
            ("PATCH", &one, MERGE, body.clone()),
            ("PATCH", &one, STRATEGIC, body.clone()),
            ("PATCH", &applied, APPLY, body.clone()),
            ("POST", &all, JSON, body.clone()),
            ("POST", &all, "application/yaml", body.clone()),
            ("PUT", &one, JSON, body.clone()),
            ("DELETE", &one, JSON, body),
        ]);
    }
    let before = server.memory("VmRSS");
    server.forget_peak();
    let next = std::sync::Mutex::new(bombs.iter());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some((method, path, media, body)) = next.lock().unwrap().next() else { return };
                    let answer = eve.send(method, path, media, body);
                    let start = &body[..body.len().min(60)];
                    assert!(
                        matches!(answer.code, 400 | 413 | 422),
                        "{method} {media} {} bytes, {start}…: {} {}",
                        body.len(),
                        answer.code,
                        answer.message()
                    );
                }
            });
        }
    });
    let peak = server.memory("VmHWM");
    assert!(peak <= before + GROWTH, "the server grew from {before} to {peak} MiB");
    server.lives();
    assert_eq!(eve.reads(&one)["data"], json!({"k": "1"}), "and nothing of it was stored");
}

/// What is nearly as deep as may be is an object like any other: it can be read, changed, and held by a finalizer.
#[test]
fn a_deep_object_is_kept_whole() {
    let server = Server::now();
    let namespace = Cluster::get().namespace("deep");
    let admin = Caller::administrator();
    let all = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let group = format!("{}.example.com", namespace.name);
    let deep = |depth: usize| {
        let schema = (0..depth).fold(json!({"type": "object"}), |inner, n| {
            if n % 2 == 0 {
                json!({"type": "object", "properties": {"x": inner}})
            } else {
                json!({"type": "array", "items": inner})
            }
        });
        let schema = json!({"type": "object", "properties": {"x": schema}});
        json!({"metadata": {"name": format!("deep.{group}"), "finalizers": ["example.com/held"]},
            "spec": {"group": group, "names": {"plural": "deep", "singular": "deep", "kind": "Deep", "listKind": "DeepList"},
                "scope": "Cluster", "versions": [{"name": "v1", "served": false, "storage": true,
                    "schema": {"openAPIV3Schema": schema}}]}})
    };
    admin.refused("POST", all, &deep(128), &[400, 413, 422]);
    let made = admin.makes(all, &deep(60));
    let path = format!("{all}/deep.{group}");
    let outcome = (|| {
        let read = admin.get(&path);
        if read.body["spec"]["versions"] != made["spec"]["versions"] {
            return Err(format!("it is read as it was not written: {}", read.body));
        }
        let wrong = json!({"preconditions": {"uid": "another"}}).to_string();
        match admin.send("DELETE", &path, JSON, &wrong).code {
            409 => {}
            code => return Err(format!("a precondition does not count: {code}")),
        }
        admin.send("DELETE", &path, JSON, "{}");
        match admin.get(&path) {
            held if held.code == 200 && held.body["metadata"]["deletionTimestamp"].is_string() => Ok(()),
            gone => Err(format!("its finalizer does not count: {gone:?}")),
        }
    })();
    admin.patches(&path, &json!({"metadata": {"finalizers": null}}));
    admin.send("DELETE", &path, JSON, "{}");
    assert_eq!(outcome, Ok(()));
    server.lives();
}
