//! What an image may cost the node that unpacks it: a small archive can stand for any number of bytes, files or
//! directories. An archive past a bound is refused, and what was unpacked of it is removed.

use std::cell::Cell;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

/// The bounds of one archive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Of the archive when decompressed, and of the files in it.
    pub(super) bytes: u64,
    /// How many times its compressed size an archive may have that is larger than `free_bytes` when decompressed.
    pub(super) ratio: u64,
    pub(super) free_bytes: u64,
    /// Files, links, directories and whiteouts, implied directories included.
    pub(super) entries: u64,
    /// Of the names of all entries together.
    pub(super) names: u64,
    /// Directories in each other.
    pub(super) depth: usize,
    /// What may precede an entry: its long names and extended attributes.
    pub(super) header: u64,
    /// The part of the disk, in per mille, that unpacking leaves free.
    pub(super) reserve: u64,
}

/// Far above what real images have.
pub(super) const BOUNDS: Bounds = Bounds {
    bytes: 64 << 30,
    ratio: 250,
    free_bytes: 1 << 30,
    entries: 1_000_000,
    names: 128 << 20,
    depth: 256,
    header: 1 << 20,
    reserve: 20,
};

/// How much is written between two looks at the disk.
const DISK_STEP: u64 = 64 << 20;

#[derive(Default)]
struct Counters {
    bytes: Cell<u64>,
    /// Where the header that is being read must have ended.
    header_end: Cell<Option<u64>>,
}

/// Counts what is read and made of one archive.
pub(super) struct Budget {
    bounds: Bounds,
    read: Rc<Counters>,
    entries: u64,
    names: u64,
    content: u64,
    disk_checked: u64,
}

/// An archive's decompressed bytes, up to the bounds.
pub(super) struct Bounded<R> {
    inner: R,
    bounds: Bounds,
    /// The most that may come.
    most: u64,
    read: Rc<Counters>,
}

fn refuse(text: String) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{text}: the archive is damaged or made to do harm, and is refused"),
    )
}

impl Budget {
    /// For the archive that `inner` decompresses, which has so many bytes before.
    pub(super) fn new<R: Read>(inner: R, compressed: u64, bounds: Bounds) -> (Budget, Bounded<R>) {
        let read = Rc::new(Counters::default());
        let most = bounds.bytes.min(compressed.saturating_mul(bounds.ratio).max(bounds.free_bytes));
        let budget = Budget { bounds, read: read.clone(), entries: 0, names: 0, content: 0, disk_checked: 0 };
        (budget, Bounded { inner, bounds, most, read })
    }

    /// From here until [`Budget::entry`] what is read is a header. What was left of the entry before must have been read.
    pub(super) fn header(&self) {
        self.read.header_end.set(Some(self.read.bytes.get() + self.bounds.header));
    }

    /// An entry's header has been read.
    pub(super) fn entry(&mut self, path: &Path) -> io::Result<()> {
        self.read.header_end.set(None);
        let depth = path.components().count();
        if depth > self.bounds.depth {
            return Err(refuse(format!("a path is {depth} directories deep, more than {}", self.bounds.depth)));
        }
        self.names += path.as_os_str().as_bytes().len() as u64;
        if self.names > self.bounds.names {
            return Err(refuse(format!("the names of its entries have more than {} bytes", self.bounds.names)));
        }
        self.made(1)
    }

    /// The last entry was read: what may follow is padding.
    pub(super) fn finished(&self) {
        self.read.header_end.set(None);
    }

    /// So many things were made beside the entries themselves.
    pub(super) fn made(&mut self, count: u64) -> io::Result<()> {
        self.entries += count;
        if self.entries > self.bounds.entries {
            return Err(refuse(format!("it has more than {} entries", self.bounds.entries)));
        }
        Ok(())
    }

    /// A file of this size is about to be written on the disk of `place`. A sparse one counts whole: it is written whole.
    pub(super) fn file(&mut self, size: u64, place: &Path) -> io::Result<()> {
        self.content = self.content.saturating_add(size);
        if self.content > self.bounds.bytes {
            return Err(refuse(format!("its files have more than {} bytes", self.bounds.bytes)));
        }
        if self.disk_checked == 0 || self.content > self.disk_checked {
            let disk = rustix::fs::statvfs(place)?;
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let kept = disk.f_blocks.saturating_mul(disk.f_frsize) / 1000 * self.bounds.reserve;
            if size.saturating_add(kept) > free {
                let text =
                    format!("No space left on device: {size} bytes more would leave less than {kept} of {free} free");
                return Err(io::Error::new(io::ErrorKind::StorageFull, text));
            }
            self.disk_checked = self.content + DISK_STEP;
        }
        Ok(())
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        let bytes = self.read.bytes.get() + length as u64;
        self.read.bytes.set(bytes);
        if bytes > self.most {
            let text = format!("it has more than {} bytes when decompressed", self.most);
            return Err(refuse(text));
        }
        if self.read.header_end.get().is_some_and(|end| bytes > end) {
            return Err(refuse(format!("an entry's names and attributes have more than {} bytes", self.bounds.header)));
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Bounds =
        Bounds { bytes: 1000, ratio: 10, free_bytes: 50, entries: 3, names: 20, depth: 4, header: 100, reserve: 0 };

    fn read(compressed: u64, length: u64) -> io::Result<u64> {
        let (_, mut bounded) = Budget::new(io::repeat(0).take(length), compressed, SMALL);
        io::copy(&mut bounded, &mut io::sink())
    }

    #[test]
    fn bytes_and_their_ratio() {
        for (compressed, length, fits) in
            [(1, 50, true), (1, 51, false), (20, 200, true), (20, 201, false), (500, 1000, true), (500, 1001, false)]
        {
            assert_eq!(read(compressed, length).is_ok(), fits, "{compressed} to {length}");
        }
        assert!(read(1, 51).unwrap_err().to_string().contains("more than 50 bytes when decompressed"));
    }

    #[test]
    fn headers_end() {
        let (mut budget, mut bounded) = Budget::new(io::repeat(0).take(500), 500, SMALL);
        let mut take = |count: usize| bounded.read_exact(&mut vec![0; count]);
        budget.header();
        take(100).unwrap();
        budget.entry(Path::new("/a")).unwrap();
        take(200).unwrap();
        budget.header();
        assert!(take(101).unwrap_err().to_string().contains("names and attributes"));
    }

    #[test]
    fn entries_names_depth_and_content() {
        let budget = || Budget::new(io::empty(), 500, SMALL).0;
        let mut many = budget();
        many.entry(Path::new("/a")).unwrap();
        many.made(2).unwrap();
        assert!(many.entry(Path::new("/a")).unwrap_err().to_string().contains("more than 3 entries"));
        assert!(budget().entry(Path::new("/a/b/c/d")).unwrap_err().to_string().contains("deep"));
        assert!(budget().entry(Path::new("/aaaaaaaaaaaaaaaaaaaa")).unwrap_err().to_string().contains("names"));
        let mut files = budget();
        files.file(900, Path::new("/tmp")).unwrap();
        assert!(files.file(101, Path::new("/tmp")).unwrap_err().to_string().contains("more than 1000 bytes"));
        assert!(budget().file(u64::MAX, Path::new("/tmp")).is_err());
        let mut vast = Budget::new(io::empty(), 500, Bounds { bytes: u64::MAX, ..SMALL }).0;
        assert_eq!(vast.file(u64::MAX - 1, Path::new("/tmp")).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
