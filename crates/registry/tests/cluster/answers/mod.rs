//! Upstream's recorded answers, replayed. The recordings are no part of this repository: `upstream_answers` tells where they
//! are looked for, `docs/testing.md` how to read what differs.

mod exceptions;
mod normal;
mod printed;
mod replay;

use std::io::Write;

use exceptions::Exceptions;
use kybern_testbed::upstream_answers;
use replay::{Difference, Line, Replay};

const RECORDINGS: [&str; 3] = ["create", "update", "sequence"];

/// How many differences a failure shows.
const SHOWN: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_upstreams() {
    let mut failures = Vec::new();
    let mut report = std::env::var_os("KYBERN_ANSWERS_REPORT").map(|path| std::fs::File::create(path).unwrap());
    let only = std::env::var("KYBERN_ANSWERS_ONLY").unwrap_or_default();
    let files = std::env::var("KYBERN_ANSWERS_FILES").unwrap_or_default();
    for file in RECORDINGS.into_iter().filter(|name| files.is_empty() || files.split(',').any(|file| file == *name)) {
        let test = format!("registry: answers_are_upstreams: {file}");
        let Some(path) = upstream_answers(&test, &format!("{file}.jsonl.gz")) else { return };
        let exceptions = Exceptions::of(file);
        let mut replay = Replay::start(file == "sequence").await;
        let (mut asked, mut same, mut excepted, mut differing) = (0, 0, 0, 0);
        for line in Line::read(&path) {
            // What comes before and after belongs to the same object, and has its id's beginning.
            if !line.id.starts_with(&only) {
                continue;
            }
            let Some(difference) = replay.send(&line).await else { continue };
            asked += 1;
            if difference.is_none() {
                same += 1;
            } else if exceptions.cover(&line.id) {
                excepted += 1;
            } else {
                differing += 1;
                let described = difference.describe(file, &line);
                if differing <= SHOWN {
                    failures.push(described.to_string().chars().take(1000).collect());
                }
                if let Some(report) = &mut report {
                    writeln!(report, "{described}").unwrap();
                }
            }
        }
        println!("{file}: {asked} asked, {same} answers agree, {excepted} differ for a reason, {differing} for none");
        if only.is_empty() {
            failures.extend(exceptions.unused().map(|e| format!("{file}: the exception {e:?} covers no difference")));
        }
    }
    assert!(failures.is_empty(), "{}\nKYBERN_ANSWERS_REPORT=FILE writes what differs", failures.join("\n"));
}

#[test]
fn a_difference_is_seen() {
    let line: Line = serde_json::from_str(
        r#"{"id":"x","method":"GET","path":"/x","body":null,"status":200,"warnings":[],"answer":{"a":1}}"#,
    )
    .unwrap();
    let same = Difference::between(&line, 200, Vec::new(), serde_json::json!({"a": 1}));
    assert!(same.is_none());
    assert!(!Difference::between(&line, 201, Vec::new(), serde_json::json!({"a": 1})).is_none());
    assert!(!Difference::between(&line, 200, vec!["299 - \"w\"".into()], serde_json::json!({"a": 1})).is_none());
    assert!(!Difference::between(&line, 200, Vec::new(), serde_json::json!({"a": 2})).is_none());
}
