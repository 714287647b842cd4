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

/// How many requests of a recording must be answered with upstream's code, and how many with upstream's whole answer. Each of
/// the rest is a fault that is known and not yet mended; what is mended raises these.
struct Floor {
    file: &'static str,
    codes: usize,
    answers: usize,
}

const FLOORS: [Floor; 3] = [
    Floor { file: "create", codes: 14170, answers: 14150 },
    Floor { file: "update", codes: 2565, answers: 2563 },
    Floor { file: "sequence", codes: 2455, answers: 2450 },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_upstreams() {
    let mut failures = Vec::new();
    let mut report = std::env::var_os("KYBERN_ANSWERS_REPORT").map(|path| std::fs::File::create(path).unwrap());
    let only = std::env::var("KYBERN_ANSWERS_ONLY").unwrap_or_default();
    let files = std::env::var("KYBERN_ANSWERS_FILES").unwrap_or_default();
    for floor in FLOORS.iter().filter(|floor| files.is_empty() || files.split(',').any(|file| file == floor.file)) {
        let test = format!("registry: answers_are_upstreams: {}", floor.file);
        let Some(path) = upstream_answers(&test, &format!("{}.jsonl.gz", floor.file)) else { return };
        let exceptions = Exceptions::of(floor.file);
        let mut replay = Replay::start(floor.file == "sequence").await;
        let (mut asked, mut codes, mut same, mut excepted) = (0, 0, 0, 0);
        for line in Line::read(&path) {
            // What comes before and after belongs to the same object, and has its id's beginning.
            if !line.id.starts_with(&only) {
                continue;
            }
            let Some(difference) = replay.send(&line).await else { continue };
            asked += 1;
            codes += usize::from(difference.code_agrees());
            if difference.is_none() {
                same += 1;
            } else if exceptions.cover(&line.id) {
                excepted += 1;
            } else if let Some(report) = &mut report {
                writeln!(report, "{}", difference.describe(floor.file, &line)).unwrap();
            }
        }
        println!(
            "{}: {asked} asked, {codes} codes agree, {same} answers agree, {excepted} differ for a reason",
            floor.file
        );
        if only.is_empty() && (codes + excepted < floor.codes || same + excepted < floor.answers) {
            let Floor { file, codes: want_codes, answers } = floor;
            failures.push(format!(
                "{file}: {codes} codes and {same} answers agree, {excepted} differ for a reason; it was {want_codes} and {answers}"
            ));
        }
        if only.is_empty() {
            failures.extend(
                exceptions.unused().map(|e| format!("{}: the exception {e:?} covers no difference", floor.file)),
            );
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
    assert!(same.is_none() && same.code_agrees());
    assert!(!Difference::between(&line, 201, Vec::new(), serde_json::json!({"a": 1})).code_agrees());
    assert!(!Difference::between(&line, 200, vec!["299 - \"w\"".into()], serde_json::json!({"a": 1})).is_none());
    assert!(!Difference::between(&line, 200, Vec::new(), serde_json::json!({"a": 2})).is_none());
}
