//! A test that cannot run here says so, where `cargo xtask` finds it: the test runner swallows what passing tests print.

use std::io::Write;
use std::path::{Path, PathBuf};

/// The variable that names the file in which tests leave why they did not run.
pub const NOT_RUN_FILE: &str = "KYBERN_NOT_RUN_FILE";

/// Notes that `test` did not run, and what the machine lacks for it. Whether that is a failure is `cargo xtask`'s to decide:
/// it knows what this machine ought to be able to run.
pub fn not_run(test: &str, lacking: &str) {
    println!("not run: {test}: {lacking}");
    let Some(file) = std::env::var_os(NOT_RUN_FILE) else { return };
    let line = format!("{test}: {lacking}\n");
    // One write of one line: test programs may append at the same time.
    let written = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&file)
        .and_then(|mut f| f.write_all(line.as_bytes()));
    written.unwrap_or_else(|error| panic!("cannot note in {} what did not run: {error}", Path::new(&file).display()));
}

/// The published API facts, which are no part of this repository: in `$KYBERN_UPSTREAM_FACTS`, or beside the checkout in
/// `../shared/upstream`. `None`, and said so, where `name` is in neither place.
pub fn upstream_facts(test: &str, name: &str) -> Option<PathBuf> {
    published(test, name, "KYBERN_UPSTREAM_FACTS", "upstream")
}

/// Requests with upstream's own answers, likewise: in `$KYBERN_UPSTREAM_ANSWERS`, or in `../shared/answers`.
pub fn upstream_answers(test: &str, name: &str) -> Option<PathBuf> {
    published(test, name, "KYBERN_UPSTREAM_ANSWERS", "answers")
}

fn published(test: &str, name: &str, variable: &str, folder: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(folder);
    let candidates = std::env::var_os(variable).map(PathBuf::from).into_iter().chain([beside]);
    let found = candidates.map(|folder| folder.join(name)).find(|path| path.exists());
    if found.is_none() {
        not_run(test, &format!("no published {name} here; set {variable} to the folder that holds it"));
    }
    found
}
