//! YAML as upstream reads it: YAML 1.1 booleans (`yes`, `off`) and octal numbers (`0644`), the last duplicate wins.

use kybern_apimachinery::Value;
use serde::de::{Deserialize, DeserializeSeed};
use serde_saphyr::{DuplicateKeyPolicy, Options};

use super::DecodeError;
use super::walk::Node;

fn options() -> Options {
    let mut options = Options::default();
    options.legacy_octal_numbers = true;
    options.duplicate_keys = DuplicateKeyPolicy::LastWins;
    options.with_snippet = false;
    options
}

fn failed(error: &serde_saphyr::Error) -> DecodeError {
    DecodeError::Syntax(format!("error converting YAML to JSON: yaml: {error}"))
}

pub(super) fn read(yaml: &[u8], node: Node) -> Result<Option<Value>, DecodeError> {
    serde_saphyr::with_deserializer_from_slice_with_options(yaml, options(), |d| node.deserialize(d))
        .map_err(|e| failed(&e))
}

/// One YAML document as a tree, of no particular kind: a patch, a configuration file. Empty input is `null`.
pub fn to_value(yaml: &[u8]) -> Result<Value, DecodeError> {
    serde_saphyr::with_deserializer_from_slice_with_options(yaml, options(), |d| Value::deserialize(d))
        .map_err(|e| failed(&e))
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
