//! The CRI log format: `<RFC 3339 time with nanoseconds> <stdout|stderr> <F|P> <text>`, one line each; a line longer than
//! 16 KiB, or one that the stream's end cuts off, is marked `P` (partial).

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use kybern_linux::files;

use super::streams::Source;

/// The most text in one log line, in bytes.
pub(super) const LINE_MAX: usize = 16 * 1024;

/// Turns one stream's chunks into log lines.
pub(super) struct Lines {
    source: Source,
    pending: Vec<u8>,
}

impl Lines {
    pub(super) fn new(source: Source) -> Lines {
        Lines { source, pending: Vec::new() }
    }

    /// Appends to `out` the lines that `chunk` completes, stamped with `time`.
    pub(super) fn push(&mut self, chunk: &[u8], time: &str, out: &mut Vec<u8>) {
        let mut rest = chunk;
        while !rest.is_empty() {
            let room = LINE_MAX - self.pending.len();
            // The newline itself does not count, so a line of exactly the maximum is whole.
            match rest.iter().take(room + 1).position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.line(b'F', &rest[..end], time, out);
                    rest = &rest[end + 1..];
                }
                None if rest.len() > room => {
                    self.line(b'P', &rest[..room], time, out);
                    rest = &rest[room..];
                }
                None => {
                    self.pending.extend_from_slice(rest);
                    rest = &[];
                }
            }
        }
    }

    /// Appends what is left at the end of the stream.
    pub(super) fn finish(&mut self, time: &str, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.line(b'P', &[], time, out);
        }
    }

    fn line(&mut self, tag: u8, text: &[u8], time: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(time.as_bytes());
        out.extend_from_slice(match self.source {
            Source::Stdout => b" stdout ",
            Source::Stderr => b" stderr ",
        });
        out.extend_from_slice(&[tag, b' ']);
        out.extend_from_slice(&self.pending);
        out.extend_from_slice(text);
        out.push(b'\n');
        self.pending.clear();
        self.pending.shrink_to(1024);
    }
}

/// A container's log file.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    pub(super) fn open(path: PathBuf) -> io::Result<LogFile> {
        let file = files::append(&path, 0o640).map_err(|error| crate::disk::named(error, &path))?;
        Ok(LogFile { path, file })
    }

    /// Goes on in a new file at the same path, after the old one was renamed.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        *self = LogFile::open(self.path.clone())?;
        Ok(())
    }

    /// Appends lines. A full disk loses lines; it does not stop the container.
    pub(super) fn append(&mut self, lines: &[u8]) {
        if let Err(error) = self.file.write_all(lines) {
            super::say(format_args!("{}: {error}", self.path.display()));
        }
    }
}

/// The time in the log's form.
pub(super) fn timestamp() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(chunks: &[&[u8]], expect: &str) {
        let mut lines = Lines::new(Source::Stderr);
        let mut out = Vec::new();
        for chunk in chunks {
            lines.push(chunk, "T", &mut out);
        }
        lines.finish("T", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expect);
    }

    #[test]
    fn lines_across_chunks() {
        check(&[], "");
        check(&[b"a\nb", b"c\n\n"], "T stderr F a\nT stderr F bc\nT stderr F \n");
        check(&[b"no end"], "T stderr P no end\n");
    }

    #[test]
    fn long_lines_are_split() {
        let long = "x".repeat(LINE_MAX);
        check(&[long.as_bytes(), b"\n"], &format!("T stderr F {long}\n"));
        check(&[long.as_bytes(), b"yz\n"], &format!("T stderr P {long}\nT stderr F yz\n"));
        let twice = format!("{long}{long}\n");
        check(&[twice.as_bytes()], &format!("T stderr P {long}\nT stderr F {long}\n"));
    }

    #[test]
    fn the_time_has_nanoseconds() {
        let time = timestamp();
        assert_eq!(time.len(), "2026-01-02T03:04:05.123456789Z".len(), "{time}");
        assert!(time.ends_with('Z'));
    }
}
