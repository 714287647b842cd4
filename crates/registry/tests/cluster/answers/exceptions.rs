//! Where Kybern answers otherwise on purpose: `exceptions.txt`, a line each: recording, id (`*` for any text), reason.

use std::cell::Cell;

const TEXT: &str = include_str!("exceptions.txt");

pub(super) struct Exceptions(Vec<Exception>);

struct Exception {
    pattern: &'static str,
    used: Cell<bool>,
}

impl Exceptions {
    pub(super) fn of(recording: &str) -> Self {
        let lines = TEXT.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
        let parsed = lines.map(|line| {
            let fields: Vec<&str> = line.split('|').map(str::trim).collect();
            let [file, pattern, reason] = fields[..] else { panic!("not `recording | id | reason`: {line:?}") };
            assert!(!reason.is_empty(), "an exception without a reason: {line:?}");
            (file, pattern)
        });
        let mine = parsed.filter(|(file, _)| *file == recording || *file == "*");
        Self(mine.map(|(_, pattern)| Exception { pattern, used: Cell::default() }).collect())
    }

    pub(super) fn cover(&self, id: &str) -> bool {
        let found = self.0.iter().find(|e| matches(e.pattern, id));
        found.inspect(|e| e.used.set(true)).is_some()
    }

    pub(super) fn unused(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().filter(|e| !e.used.get()).map(|e| e.pattern)
    }
}

/// `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(head) else { return false };
    (0..=rest.len()).filter(|i| rest.is_char_boundary(*i)).any(|i| matches(tail, &rest[i..]))
}

#[test]
fn patterns() {
    assert!(matches("a*c*", "abc") && matches("*", "") && !matches("a*c", "abcd") && !matches("a", "ab"));
}
