//! Keys that a YAML mapping has twice, in the words of Go's YAML decoder.

use std::collections::HashSet;

use granit_parser::{Event, Parser};

use super::MAX_STRICT_ERRORS;

/// `line 9: key "foo" already set in map`, for each key of the first document that its mapping has already. Text that is no YAML
/// ends the search: whoever reads it says what is wrong with it.
pub(super) fn duplicates(yaml: &str) -> Vec<String> {
    let mut open: Vec<Level> = Vec::new();
    let mut found = Vec::new();
    for event in Parser::new_from_str(yaml) {
        let Ok((event, span)) = event else { break };
        match event {
            Event::Scalar(text, ..) => {
                if let Some(Level::Key(seen)) = open.last_mut()
                    && !seen.insert(text.to_string())
                    && found.len() < MAX_STRICT_ERRORS
                {
                    found.push(format!("line {}: key {text:?} already set in map", span.start.line()));
                }
                turn(&mut open);
            }
            Event::Alias(_) => turn(&mut open),
            Event::MappingStart(..) => open.push(Level::Key(HashSet::new())),
            Event::SequenceStart(..) => open.push(Level::List),
            Event::MappingEnd | Event::SequenceEnd => {
                open.pop();
                turn(&mut open);
            }
            Event::DocumentEnd => break,
            _ => {}
        }
    }
    found
}

/// What stands next in a collection.
enum Level {
    Key(HashSet<String>),
    Value(HashSet<String>),
    List,
}

/// After a key comes its value, after a value the next key.
fn turn(open: &mut [Level]) {
    if let Some(level) = open.last_mut() {
        *level = match std::mem::replace(level, Level::List) {
            Level::Key(seen) => Level::Value(seen),
            Level::Value(seen) => Level::Key(seen),
            Level::List => Level::List,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_repetition_is_named_with_its_line() {
        let yaml = "\nspec:\n  foo: 1\n  list: [{foo: 2}, {foo: 3, foo: [4]}]\n  ? [a, b]\n  : foo\n  foo: 5\nspec: {}\n---\nspec: 1\nspec: 2\n";
        let expect = [(4, "foo"), (7, "foo"), (8, "spec")];
        assert_eq!(duplicates(yaml), expect.map(|(line, key)| format!("line {line}: key {key:?} already set in map")));
        assert_eq!(duplicates("a: 1\na: 2\nb: [\n"), ["line 2: key \"a\" already set in map"]);
        assert_eq!(duplicates("{\"a\": 1,\n \"a\": 2}"), ["line 2: key \"a\" already set in map"]);
        assert!(duplicates("x: &x {a: 1}\ny: {<<: *x, a: 2}\n").is_empty());
    }
}
