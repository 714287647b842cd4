//! Container logs in CRI's format: `<time> <stream> <P|F> <text>` (`pkg/kubelet/kuberuntime/logs`).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use jiff::Timestamp;

/// What of a log is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail_lines: Option<usize>,
    pub limit_bytes: Option<u64>,
    pub since: Option<Timestamp>,
    /// `stdout` or `stderr` alone.
    pub stream: Option<&'static str>,
}

impl LogOptions {
    /// Reads the query of `/containerLogs`.
    pub fn parse<'a>(query: impl Iterator<Item = (&'a str, &'a str)>, now: Timestamp) -> Result<Self, String> {
        let mut options = Self::default();
        for (name, value) in query {
            let number = || {
                value.parse::<u64>().map_err(|_| format!("invalid value {value:?} of {name}: must be a whole number"))
            };
            match name {
                "follow" => options.follow = is_true(value),
                "previous" => options.previous = is_true(value),
                "timestamps" => options.timestamps = is_true(value),
                "tailLines" => options.tail_lines = Some(number()? as usize),
                "limitBytes" => options.limit_bytes = Some(number()?),
                "sinceSeconds" => options.since = Some(now - jiff::SignedDuration::from_secs(number()? as i64)),
                "sinceTime" => {
                    let time = kybern_apimachinery::time::parse_rfc3339(value);
                    options.since =
                        Some(time.ok_or_else(|| format!("invalid time {value:?} of sinceTime: must be RFC 3339"))?);
                }
                "stream" => {
                    options.stream = match value {
                        "Stdout" => Some("stdout"),
                        "Stderr" => Some("stderr"),
                        _ => None,
                    }
                }
                _ => {}
            }
        }
        Ok(options)
    }
}

fn is_true(value: &str) -> bool {
    matches!(value, "true" | "1" | "True" | "t" | "T" | "TRUE")
}

/// One line of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLine<'a> {
    pub time: &'a str,
    pub stream: &'a str,
    /// The rest of the line follows in another record.
    pub partial: bool,
    pub text: &'a [u8],
}

/// Parses one record, without its newline.
pub fn parse_line(line: &[u8]) -> Option<LogLine<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tags = parts.next()?;
    let text = parts.next().unwrap_or_default();
    matches!(stream, "stdout" | "stderr").then_some(LogLine {
        time,
        stream,
        partial: tags.first() == Some(&b'P'),
        text,
    })
}

/// Turns records into what the client asked for; keeps a record's missing rest until it comes.
pub struct LogFilter {
    options: LogOptions,
    rest: Vec<u8>,
    written: u64,
    /// The last record written was partial: its continuation has no timestamp of its own.
    in_line: bool,
}

impl LogFilter {
    pub fn new(options: LogOptions) -> Self {
        Self { options, rest: Vec::new(), written: 0, in_line: false }
    }

    /// Whether the limit of bytes is reached.
    pub fn is_full(&self) -> bool {
        self.options.limit_bytes.is_some_and(|limit| self.written >= limit)
    }

    /// Takes the file's next bytes and appends to `out`.
    pub fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.rest.extend_from_slice(bytes);
        let all = std::mem::take(&mut self.rest);
        let mut from = 0;
        while let Some(length) = memchr_newline(&all[from..]) {
            self.line(&all[from..from + length], out);
            from += length + 1;
        }
        self.rest = all[from..].to_vec();
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(record) = parse_line(line) else { return };
        if self.options.stream.is_some_and(|stream| stream != record.stream) {
            return;
        }
        if let Some(since) = self.options.since
            && record.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        {
            return;
        }
        let begin = out.len();
        if self.options.timestamps && !self.in_line {
            out.extend_from_slice(record.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(record.text);
        if !record.partial {
            out.push(b'\n');
        }
        self.in_line = record.partial;
        if let Some(limit) = self.options.limit_bytes {
            let left = limit.saturating_sub(self.written);
            out.truncate(begin + usize::try_from(left).unwrap_or(usize::MAX).min(out.len() - begin));
        }
        self.written += (out.len() - begin) as u64;
    }
}

fn memchr_newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

/// Where the last `lines` records of a file begin. Reads backwards, block by block.
pub fn tail_offset(file: &mut File, lines: usize) -> io::Result<u64> {
    const BLOCK: u64 = 64 * 1024;
    let mut end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let (mut seen, mut block, last) = (0, Vec::new(), end);
    while end > 0 {
        let begin = end.saturating_sub(BLOCK);
        block.resize((end - begin) as usize, 0);
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(&mut block)?;
        for (index, byte) in block.iter().enumerate().rev() {
            let at = begin + index as u64;
            // The newline at the very end closes the last record.
            if *byte == b'\n' && at + 1 != last {
                seen += 1;
                if seen == lines {
                    return Ok(at + 1);
                }
            }
        }
        end = begin;
    }
    Ok(0)
}

/// The end of a log as text, for a termination message.
pub fn tail_text(path: &Path, lines: usize, bytes: usize) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let offset = tail_offset(&mut file, lines)?;
        file.seek(SeekFrom::Start(offset))?;
        let (mut raw, mut out) = (Vec::new(), Vec::new());
        file.take(16 << 20).read_to_end(&mut raw)?;
        LogFilter::new(LogOptions::default()).take(&raw, &mut out);
        Ok(out)
    };
    let out = read().unwrap_or_default();
    String::from_utf8_lossy(&out[out.len().saturating_sub(bytes)..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:01.5Z stdout F one\n2026-01-01T00:00:02Z stderr F two\n\
                       2026-01-01T00:00:03Z stdout P th\n2026-01-01T00:00:03Z stdout F ree\n2026-01-01T00:00:04Z stdout F \n";

    fn check(query: &[(&str, &str)], expect: &str) {
        let options = LogOptions::parse(query.iter().copied(), "2026-01-01T00:00:05Z".parse().unwrap()).unwrap();
        for size in [1, 7, 1000] {
            let (mut filter, mut out) = (LogFilter::new(options.clone()), Vec::new());
            for chunk in LOG.as_bytes().chunks(size) {
                filter.take(chunk, &mut out);
            }
            assert_eq!(String::from_utf8(out).unwrap(), expect, "{query:?} in chunks of {size}");
        }
    }

    #[test]
    fn filters() {
        check(&[], "one\ntwo\nthree\n\n");
        check(&[("stream", "Stderr")], "two\n");
        check(&[("limitBytes", "6")], "one\ntw");
        check(&[("sinceSeconds", "2")], "three\n\n");
        check(&[("sinceTime", "2026-01-01T00:00:04Z")], "\n");
        check(
            &[("timestamps", "true")],
            "2026-01-01T00:00:01.5Z one\n2026-01-01T00:00:02Z two\n2026-01-01T00:00:03Z three\n2026-01-01T00:00:04Z \n",
        );
        assert!(LogOptions::parse([("tailLines", "x")].into_iter(), Timestamp::UNIX_EPOCH).is_err());
    }

    #[test]
    fn tails() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("log");
        std::fs::write(&path, LOG).unwrap();
        assert_eq!(tail_text(&path, 1, 100), "\n");
        assert_eq!(tail_text(&path, 2, 100), "ree\n\n");
        assert_eq!(tail_text(&path, 100, 100), "one\ntwo\nthree\n\n");
        assert_eq!(tail_text(&path, 100, 4), "ee\n\n");
        assert_eq!(tail_offset(&mut File::open(&path).unwrap(), 0).unwrap(), LOG.len() as u64);
    }
}
