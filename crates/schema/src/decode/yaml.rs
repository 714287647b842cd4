//! YAML as upstream reads it: YAML 1.1 booleans (`yes`, `off`) and octal numbers (`0644`), the last duplicate wins.

use kybern_apimachinery::{Budget, Value};
use serde::de::{Deserialize, DeserializeSeed};
use serde_saphyr::{DuplicateKeyPolicy, Options};

use super::DecodeError;
use super::duplicates::duplicates;
use super::walk::Node;

/// Bytes of scalars, keys included, that a document may have once its aliases are resolved.
const MAX_SCALAR_BYTES: usize = 4 << 20;
/// References to anchors, and anchors, in a document.
const MAX_ALIASES: usize = 10_000;
/// Values that all aliases of a document may stand for together.
const MAX_REPLAYED: usize = 100_000;
/// Aliases within what aliases stand for.
const MAX_REPLAY_DEPTH: usize = 16;
/// Characters of a key that is written without `?`, YAML's own limit.
const MAX_SIMPLE_KEY: usize = 1024;

/// What is read, and how much of it. Every bound is stated here, so that none depends on the library's defaults.
fn options() -> Options {
    let Budget { depth, nodes } = Budget::REQUEST;
    let mut options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: depth,
            flow_nesting_limit: depth,
            max_nodes: nodes,
            max_events: 4 * nodes,
            max_documents: 2,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_merge_keys: MAX_ALIASES,
            max_recorded_anchor_events: MAX_REPLAYED,
            max_recorded_anchor_bytes: MAX_SCALAR_BYTES,
            max_total_scalar_bytes: MAX_SCALAR_BYTES,
            simple_key_max_lookahead: MAX_SIMPLE_KEY,
            max_inclusion_depth: 0,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPLAYED,
            max_replay_stack_depth: MAX_REPLAY_DEPTH,
            max_alias_expansions_per_anchor: MAX_ALIASES,
        },
    };
    options.legacy_octal_numbers = true;
    options.duplicate_keys = DuplicateKeyPolicy::LastWins;
    options.with_snippet = false;
    options
}

fn failed(error: &serde_saphyr::Error) -> DecodeError {
    DecodeError::Syntax(format!("error converting YAML to JSON: yaml: {error}"))
}

/// The parser takes up to 30 KiB of stack for each level (unoptimized), and must not depend on what its caller has left.
const STACK: usize = 8 << 20;

/// Reads YAML on a stack that the deepest document fits on. A thread costs less than reading the smallest object does.
pub(super) fn on_own_stack<T: Send>(read: impl FnOnce() -> Result<T, DecodeError> + Send) -> Result<T, DecodeError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("yaml".to_owned()).stack_size(STACK).spawn_scoped(scope, read);
        let thread = thread.map_err(|e| DecodeError::Syntax(format!("no thread can be started to read YAML: {e}")))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

pub(super) fn read(yaml: &[u8], node: Node) -> Result<Option<Value>, DecodeError> {
    serde_saphyr::with_deserializer_from_slice_with_options(yaml, options(), |d| node.deserialize(d))
        .map_err(|e| failed(&e))
}

/// One YAML document as a tree, of no particular kind: a patch, a configuration file. Empty input is `null`.
pub fn to_value(yaml: &[u8]) -> Result<Value, DecodeError> {
    tree(yaml, DuplicateKeyPolicy::LastWins)
}

/// [`to_value`], and which keys a mapping has twice, each with its line.
pub fn strictly(yaml: &[u8]) -> Result<(Value, Vec<String>), DecodeError> {
    // Where there is no duplicate, and no other fault, one reading is enough.
    match tree(yaml, DuplicateKeyPolicy::Error) {
        Ok(tree) => Ok((tree, Vec::new())),
        Err(_) => Ok((to_value(yaml)?, duplicates(&String::from_utf8_lossy(yaml)))),
    }
}

fn tree(yaml: &[u8], duplicates: DuplicateKeyPolicy) -> Result<Value, DecodeError> {
    let read = || {
        let mut options = options();
        options.duplicate_keys = duplicates;
        serde_saphyr::with_deserializer_from_slice_with_options(yaml, options, |d| Value::deserialize(d))
    };
    let tree = on_own_stack(|| read().map_err(|e| failed(&e)))?;
    Budget::REQUEST.check(&tree)?;
    Ok(tree)
}

/// The documents of a stream separated by `---` lines, as texts; empty ones are left out.
pub fn documents(stream: &str) -> Vec<&str> {
    let mut documents = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in stream.split_inclusive('\n') {
        if line.strip_prefix("---").is_some_and(|rest| rest.trim().is_empty() || rest.starts_with(' ')) {
            documents.push(&stream[start..at]);
            start = at + if line.trim_end() == "---" { line.len() } else { 3 };
        }
        at += line.len();
    }
    documents.push(&stream[start..]);
    documents.retain(|d| d.lines().any(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#')));
    documents
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    fn refused(yaml: &str) -> String {
        to_value(yaml.as_bytes()).expect_err(&yaml[..yaml.len().min(80)]).to_string()
    }

    /// Each line stands for nine of the line before.
    #[test]
    fn a_billion_laughs_are_not_heard() {
        let mut lists = "a0: &a0 [lol]\n".to_owned();
        let mut maps = "a0: &a0 {k: lol}\n".to_owned();
        let mut merges = "a0: &a0 {k0: lol}\n".to_owned();
        for n in 1..30 {
            let of = n - 1;
            let list = vec![format!("*a{of}"); 9].join(", ");
            let _ = writeln!(lists, "a{n}: &a{n} [{list}]");
            let map: Vec<String> = (0..9).map(|key| format!("k{key}: *a{of}")).collect();
            let _ = writeln!(maps, "a{n}: &a{n} {{{}}}", map.join(", "));
            let _ = writeln!(merges, "a{n}: &a{n} {{k{n}: *a{of}, <<: *a{of}}}");
        }
        for bomb in [lists, maps, merges] {
            assert!(refused(&bomb).contains("error converting YAML to JSON: yaml: "));
        }
        // One large anchor, named often.
        let often = format!("a: &a {:?}\nb: [{}]\n", "x".repeat(100_000), vec!["*a"; 1000].join(", "));
        assert!(refused(&often).starts_with("error converting YAML to JSON: yaml: "));
    }

    #[test]
    fn nesting_is_bounded() {
        let depth = Budget::REQUEST.depth;
        let flow = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        let block = |n: usize| (0..n).fold(String::new(), |text, level| text + &" ".repeat(level) + "a:\n");
        assert!(to_value(flow(depth).as_bytes()).is_ok());
        assert!(to_value(block(depth).as_bytes()).is_ok());
        for deep in [flow(depth + 1), flow(100_000), "[".repeat(1_000_000), "- ".repeat(1_000_000), block(depth + 1)] {
            refused(&deep);
        }
    }

    /// Each anchor is half as deep as may be, and holds the one before at its deepest.
    #[test]
    fn aliases_do_not_nest_beyond_the_depth() {
        let half = Budget::REQUEST.depth / 2;
        let (open, close) = ("[".repeat(half), "]".repeat(half));
        let mut text = "a0: &a0 0\n".to_owned();
        for n in 1..12 {
            let _ = writeln!(text, "a{n}: &a{n} {open}*a{}{close}", n - 1);
        }
        refused(&text);
    }

    #[test]
    fn nodes_and_scalars_are_bounded() {
        assert!(to_value(format!("[{}]", "0,".repeat(100_000)).as_bytes()).is_ok());
        refused(&format!("[{}]", "0,".repeat(Budget::REQUEST.nodes + 1)));
        refused(&"- \n".repeat(Budget::REQUEST.nodes + 1));
        refused(&format!("a: {}", "x".repeat(MAX_SCALAR_BYTES + 1)));
        refused(&format!("? {}\n: 1", "x".repeat(MAX_SCALAR_BYTES + 1)));
        refused(&format!("{}: 1", "x".repeat(100_000)));
        refused(&"--- a\n".repeat(3));
    }

    /// What people write is far from every bound.
    #[test]
    fn anchors_and_merges_work() {
        let value = to_value(b"base: &b {a: 1, l: [1, 2]}\nx: {<<: *b, c: 3}\ny: *b\n").unwrap();
        assert_eq!(value["x"], kybern_apimachinery::json!({"a": 1, "l": [1, 2], "c": 3}));
        assert_eq!(value["y"], value["base"]);
    }
}
