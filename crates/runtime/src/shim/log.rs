//! The CRI log format: `<RFC 3339 time with nanoseconds> <stdout|stderr> <F|P> <text>`, one line each; a line longer than
//! 16 KiB, or one that the stream's end cuts off, is marked `P` (partial).

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use kybern_cri::{LogRotation, rotated_logs};
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

/// A container's log file. It is moved aside before it would grow beyond its bound, by its writer: no line is lost, and
/// none waits.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    rotation: LogRotation,
}

impl LogFile {
    pub(super) fn open(path: PathBuf, rotation: LogRotation) -> io::Result<LogFile> {
        let file = files::append(&path, 0o640).map_err(|error| crate::disk::named(error, &path))?;
        let bytes = file.metadata()?.len();
        Ok(LogFile { path, file, bytes, rotation })
    }

    /// Goes on in a new file at the same path, after the old one was renamed.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        *self = LogFile::open(self.path.clone(), self.rotation)?;
        Ok(())
    }

    /// Appends lines. A full disk loses lines; it does not stop the container.
    pub(super) fn append(&mut self, lines: &[u8]) {
        let after = self.bytes + lines.len() as u64;
        if self.rotation.max_bytes > 0
            && self.bytes > 0
            && after > self.rotation.max_bytes
            && let Err(error) = self.rotate()
        {
            super::say(format_args!("cannot rotate {}: {error}", self.path.display()));
        }
        match self.file.write_all(lines) {
            Ok(()) => self.bytes += lines.len() as u64,
            Err(error) => super::say(format_args!("{}: {error}", self.path.display())),
        }
    }

    /// Moves the file aside and drops the oldest of those moved before (`pkg/kubelet/logs/container_log_manager.go`).
    fn rotate(&mut self) -> io::Result<()> {
        let now = jiff::Timestamp::now();
        let stamp = format!("{}.{}", self.path.display(), now.strftime("%Y%m%d-%H%M%S"));
        // The second move of one second; in the order of names it follows the first.
        let aside = if Path::new(&stamp).exists() { format!("{stamp}-{:09}", now.subsec_nanosecond()) } else { stamp };
        std::fs::rename(&self.path, aside)?;
        self.reopen()?;
        let old = rotated_logs(&self.path)?;
        // The file being written counts.
        let surplus = (old.len() + 1).saturating_sub(self.rotation.max_files.max(1) as usize);
        old.iter().take(surplus).try_for_each(std::fs::remove_file)
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

    #[test]
    fn files_stay_within_their_bound_and_lose_nothing() {
        let dir = std::env::temp_dir().join(format!("kybern-shim-log-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("0.log");
        std::fs::write(dir.join("0.logs"), "another's").unwrap();
        let mut log = LogFile::open(path.clone(), LogRotation { max_bytes: 100, max_files: 4 }).unwrap();
        for number in 0..30 {
            log.append(format!("{number:09}\n").as_bytes());
        }
        log.append(&[b'x'; 200]);
        log.append(b"last\n");
        let old = rotated_logs(&path).unwrap();
        let texts: Vec<String> = old.iter().chain([&path]).map(|p| std::fs::read_to_string(p).unwrap()).collect();
        let ten = |from: u32| (from..from + 10).map(|n| format!("{n:09}\n")).collect::<String>();
        assert_eq!(texts, [ten(10), ten(20), "x".repeat(200), "last\n".to_owned()]);
        assert!(dir.join("0.logs").exists());
        // A restart of the shim's container goes on counting.
        let mut log = LogFile::open(path.clone(), LogRotation { max_bytes: 10, max_files: 2 }).unwrap();
        log.append(b"123456\n");
        assert_eq!(rotated_logs(&path).unwrap().len(), 1);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
