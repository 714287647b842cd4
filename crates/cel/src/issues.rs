//! What is wrong with an expression, and where: upstream's texts, with the line and a mark under the place.

use std::fmt;

/// Upstream reports no more; the rest is counted.
const MAX_ERRORS: usize = 100;
/// Longer lines are not shown.
const MAX_SNIPPET: usize = 16_384;

/// One complaint about an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    pub message: String,
    /// The offset in code points; none for what concerns the whole expression.
    pub offset: Option<usize>,
}

/// Why an expression does not compile. Its text is what upstream's users see, as in
/// `ERROR: <input>:1:1: undeclared reference to 'x' (in container '')`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issues {
    source: String,
    issues: Vec<Issue>,
    left_out: usize,
}

impl Issues {
    pub(crate) fn new(source: &str) -> Self {
        Self { source: source.to_owned(), issues: Vec::new(), left_out: 0 }
    }

    pub(crate) fn report(&mut self, offset: Option<usize>, message: String) {
        if self.issues.len() < MAX_ERRORS {
            self.issues.push(Issue { message, offset });
        } else {
            self.left_out += 1;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.issues.is_empty()
    }

    pub fn issues(&self) -> &[Issue] {
        &self.issues
    }
}

impl std::error::Error for Issues {}

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut starts = vec![0];
        starts.extend(self.source.chars().enumerate().filter(|(_, c)| *c == '\n').map(|(i, _)| i + 1));
        let lines: Vec<&str> = self.source.split('\n').collect();
        let mut ordered: Vec<&Issue> = self.issues.iter().collect();
        ordered.sort_by_key(|issue| issue.offset);
        for (i, issue) in ordered.into_iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            let Some(offset) = issue.offset else {
                write!(f, "ERROR: <input>:-1:0: {}", issue.message)?;
                continue;
            };
            let line = starts.partition_point(|s| *s <= offset) - 1;
            let column = offset - starts[line];
            if self.source.is_empty() {
                write!(f, "ERROR: <input>:1:0: {}", issue.message)?;
                continue;
            }
            write!(f, "ERROR: <input>:{}:{}: {}", line + 1, column + 1, issue.message)?;
            if lines[line].len() <= MAX_SNIPPET {
                write_snippet(f, lines[line], column)?;
            }
        }
        if self.left_out > 0 {
            write!(f, "\n{} more errors were truncated", self.left_out)?;
        }
        Ok(())
    }
}

/// The line, and under it dots up to the place; characters of several bytes are marked with wide dots.
fn write_snippet(f: &mut fmt::Formatter<'_>, line: &str, column: usize) -> fmt::Result {
    let mut marks = String::new();
    let mut characters = line.chars();
    for c in characters.by_ref().take(column) {
        marks.push(if c.len_utf8() > 1 { '\u{ff0e}' } else { '.' });
    }
    marks.push(if characters.next().is_some_and(|c| c.len_utf8() > 1) { '\u{ff3e}' } else { '^' });
    write!(f, "\n | {}\n | {marks}", line.replace('\t', " "))
}
