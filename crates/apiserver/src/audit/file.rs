//! The log as a file that is rotated, as upstream's: at a size, keeping so many old ones, for so many days.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use parking_lot::Mutex;

/// `--audit-log-path` and what follows from it.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// `-` is standard output.
    pub path: PathBuf,
    /// Days that an old file is kept; zero: any number.
    pub max_age: u32,
    /// Old files that are kept; zero: any number.
    pub max_backups: usize,
    /// Bytes.
    pub max_size: u64,
    pub compress: bool,
}

/// The size of a file where none is given.
pub const DEFAULT_MAX_SIZE: u64 = 100 << 20;
/// The time in the name of an old file.
const STAMP: &str = "%Y-%m-%dT%H-%M-%S%.3f";

/// See the module.
pub(super) struct LogFile {
    options: FileOptions,
    open: Mutex<Option<Open>>,
    /// Held while old files are put away.
    tidying: std::sync::Arc<Mutex<()>>,
}

struct Open {
    file: File,
    size: u64,
}

impl LogFile {
    /// Makes the file, so that what is wrong with it is known at the start.
    pub(super) fn open(options: FileOptions) -> io::Result<Self> {
        let open = if options.path == Path::new("-") { None } else { Some(open(&options.path)?) };
        Ok(Self { options, open: Mutex::new(open), tidying: Default::default() })
    }

    /// Appends a line, wholly or not at all.
    pub(super) fn write(&self, line: &[u8]) -> io::Result<()> {
        if self.options.path == Path::new("-") {
            return io::stdout().lock().write_all(line);
        }
        let length = line.len() as u64;
        let mut held = self.open.lock();
        if length > self.options.max_size {
            let text = format!("write length {length} exceeds maximum file size {}", self.options.max_size);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        if held.as_ref().is_some_and(|open| open.size > 0 && open.size + length > self.options.max_size) {
            *held = None;
            self.rotate()?;
        }
        let open = match &mut *held {
            Some(open) => open,
            none => none.insert(open(&self.options.path)?),
        };
        match open.file.write_all(line) {
            Ok(()) => {
                open.size += length;
                Ok(())
            }
            Err(error) => {
                // A full disk takes half a line: the next one must not be added to it.
                if open.file.set_len(open.size).is_err() {
                    *held = None;
                }
                Err(error)
            }
        }
    }

    /// Gives the file the name of an old one.
    fn rotate(&self) -> io::Result<()> {
        let mut at = Timestamp::now();
        let mut name = self.options.path.with_file_name(self.backup(at));
        while name.exists() {
            at += jiff::SignedDuration::from_millis(1);
            name = self.options.path.with_file_name(self.backup(at));
        }
        match fs::rename(&self.options.path, &name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (options, tidying) = (self.options.clone(), self.tidying.clone());
        // Compression takes its time, for which no request must wait.
        std::thread::Builder::new().name("audit-log-old".to_owned()).spawn(move || {
            let _one_at_a_time = tidying.lock();
            if let Err(error) = put_away(&options, SystemTime::now()) {
                tracing::warn!(%error, path = %options.path.display(), "old audit logs are not put away");
            }
        })?;
        Ok(())
    }

    fn backup(&self, at: Timestamp) -> String {
        let (stem, extension) = split(&self.options.path);
        format!("{stem}-{}{extension}", at.to_zoned(TimeZone::UTC).strftime(STAMP))
    }
}

fn open(path: &Path) -> io::Result<Open> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok(Open { file, size })
}

/// The name before and from the last dot on.
fn split(path: &Path) -> (String, String) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match name.rfind('.') {
        Some(dot) => (name[..dot].to_owned(), name[dot..].to_owned()),
        None => (name, String::new()),
    }
}

/// Removes old files that are too many or too old, and compresses the others.
fn put_away(options: &FileOptions, now: SystemTime) -> io::Result<()> {
    let directory = options.path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (stem, extension) = split(&options.path);
    let mut old: Vec<(Timestamp, PathBuf)> = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stamp = name.strip_suffix(".gz").unwrap_or(&name).strip_suffix(&*extension);
        let stamp = stamp.and_then(|rest| rest.strip_prefix(&*stem)?.strip_prefix('-'));
        let at = stamp.and_then(|stamp| jiff::civil::DateTime::strptime(STAMP, stamp).ok());
        let at = at.and_then(|at| at.to_zoned(TimeZone::UTC).ok());
        old.extend(at.map(|at| (at.timestamp(), path)));
    }
    old.sort();
    old.reverse();
    let oldest = now.checked_sub(Duration::from_secs(u64::from(options.max_age) * 86_400));
    let oldest = oldest.filter(|_| options.max_age > 0).and_then(|at| Timestamp::try_from(at).ok());
    for (i, (at, path)) in old.iter().enumerate() {
        if options.max_backups > 0 && i >= options.max_backups || oldest.is_some_and(|oldest| *at < oldest) {
            fs::remove_file(path)?;
        } else if options.compress && path.extension().is_none_or(|e| e != "gz") {
            compress(path)?;
        }
    }
    Ok(())
}

fn compress(path: &Path) -> io::Result<()> {
    let mut target = path.as_os_str().to_owned();
    target.push(".gz");
    let target = PathBuf::from(target);
    let written = (|| {
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&target)?;
        let mut encoder = GzEncoder::new(file, Compression::default());
        io::copy(&mut File::open(path)?, &mut encoder)?;
        encoder.finish()?.sync_all()
    })();
    match written {
        Ok(()) => fs::remove_file(path),
        Err(error) => {
            let _ = fs::remove_file(&target);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn options(directory: &Path) -> FileOptions {
        let path = directory.join("logs/audit.log");
        FileOptions { path, max_age: 0, max_backups: 0, max_size: 100, compress: false }
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory.join("logs")).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_full_file_becomes_an_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let log = LogFile::open(options(directory.path())).unwrap();
        let line = |i: u8| format!("{}\n", char::from(b'a' + i).to_string().repeat(39)).into_bytes();
        for i in 0..7 {
            log.write(&line(i)).unwrap();
        }
        assert!(log.write(&[b'x'; 101]).is_err(), "a line that no file can hold");
        // The thread that puts away has nothing to do here.
        drop(log.tidying.lock());
        let names = names(directory.path());
        assert_eq!(names.len(), 4, "{names:?}");
        let text = |name: &String| fs::read(directory.path().join("logs").join(name)).unwrap();
        let mut all: Vec<u8> = names.iter().filter(|n| n.starts_with("audit-")).flat_map(text).collect();
        all.extend(text(&"audit.log".to_owned()));
        assert_eq!(all, (0..7).flat_map(line).collect::<Vec<u8>>());
        // A server that starts again goes on with the file.
        let again = LogFile::open(options(directory.path())).unwrap();
        again.write(&line(7)).unwrap();
        assert_eq!(text(&"audit.log".to_owned()).len(), 80);
    }

    #[test]
    fn old_files_are_compressed_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let options = FileOptions { max_age: 30, max_backups: 3, compress: true, ..options(directory.path()) };
        let logs = directory.path().join("logs");
        fs::create_dir(&logs).unwrap();
        for day in ["2026-01-01", "2026-02-20", "2026-02-21", "2026-02-22", "2026-02-23"] {
            fs::write(logs.join(format!("audit-{day}T01-02-03.456.log")), day).unwrap();
        }
        for other in ["audit.log", "audit-notes.log", "other-2026-01-01T01-02-03.456.log"] {
            fs::write(logs.join(other), "x").unwrap();
        }
        let now: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
        put_away(&options, now.into()).unwrap();
        let expect = [
            "audit-2026-02-21T01-02-03.456.log.gz",
            "audit-2026-02-22T01-02-03.456.log.gz",
            "audit-2026-02-23T01-02-03.456.log.gz",
            "audit-notes.log",
            "audit.log",
            "other-2026-01-01T01-02-03.456.log",
        ];
        assert_eq!(names(directory.path()), expect);
        let mut text = String::new();
        let packed = File::open(logs.join(expect[0])).unwrap();
        flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
        assert_eq!(text, "2026-02-21");
        let later: Timestamp = "2026-03-25T00:00:00Z".parse().unwrap();
        put_away(&options, later.into()).unwrap();
        assert_eq!(names(directory.path()).len(), 4, "what is older than 30 days is gone");
    }

    #[test]
    fn a_disk_that_is_full_is_told_at_once() {
        // Everything written to it fails with ENOSPC.
        if !Path::new("/dev/full").exists() {
            return;
        }
        let options = FileOptions { path: "/dev/full".into(), ..options(Path::new("/")) };
        let log = LogFile::open(options).unwrap();
        for _ in 0..3 {
            assert_eq!(log.write(b"line\n").unwrap_err().kind(), io::ErrorKind::StorageFull);
        }
    }
}
