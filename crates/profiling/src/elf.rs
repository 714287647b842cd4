//! As much of an ELF file (64 bits, little-endian) as unwinding and naming need. Offsets are not believed: what lies beyond
//! the end of the file, or is larger than it may be, is an error.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The largest section that is read: some ten times what the program has.
const MOST: u64 = 256 << 20;
const PT_LOAD: u64 = 1;
const PF_X: u64 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_NOTE: u32 = 7;
const NT_GNU_BUILD_ID: u32 = 3;
const STT_FUNC: u8 = 2;

/// An ELF image at an offset of a file: 0, or where a process has it in its memory.
pub(crate) struct Elf<'a> {
    file: &'a File,
    start: u64,
    /// Of the segments of code: offset, address, and size in the file.
    pub(crate) segments: Vec<[u64; 3]>,
    sections: Vec<Section>,
}

#[derive(Debug)]
pub(crate) struct Section {
    name: String,
    kind: u32,
    link: u32,
    pub(crate) address: u64,
    offset: u64,
    pub(crate) size: u64,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no ELF file that can be read: {what}"))
}

fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    bytes[at..at + size].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

impl<'a> Elf<'a> {
    pub(crate) fn at(file: &'a File, start: u64) -> io::Result<Self> {
        let mut elf = Self { file, start, segments: Vec::new(), sections: Vec::new() };
        let head = elf.bytes(0, 64)?;
        if !head.starts_with(b"\x7fELF\x02\x01") {
            return Err(invalid("it has another header"));
        }
        let table = |offset: usize, size: usize, count: usize| -> io::Result<(usize, Vec<u8>)> {
            let (size, count) = (number(&head, size, 2), number(&head, count, 2));
            Ok((size.max(64) as usize, elf.bytes(number(&head, offset, 8), size * count)?))
        };
        let (_, programs) = table(32, 54, 56)?;
        let (step, sections) = table(40, 58, 60)?;
        // Its neighbours may begin in the same page.
        let code = |header: &&[u8]| number(header, 0, 4) == PT_LOAD && number(header, 4, 4) & PF_X != 0;
        elf.segments =
            programs.chunks_exact(56).filter(code).map(|header| [8, 16, 32].map(|at| number(header, at, 8))).collect();
        let read = |header: &[u8]| Section {
            name: number(header, 0, 4).to_string(),
            kind: number(header, 4, 4) as u32,
            address: number(header, 16, 8),
            offset: number(header, 24, 8),
            size: number(header, 32, 8),
            link: number(header, 40, 4) as u32,
        };
        elf.sections = sections.chunks_exact(step).map(read).collect();
        let names = elf.sections.get(number(&head, 62, 2) as usize).map(|names| elf.contents(names)).transpose()?;
        let names = names.unwrap_or_default();
        for section in &mut elf.sections {
            let at = section.name.parse().unwrap_or(usize::MAX);
            section.name = names.get(at..).map(text).unwrap_or_default();
        }
        Ok(elf)
    }

    fn bytes(&self, offset: u64, size: u64) -> io::Result<Vec<u8>> {
        if size > MOST {
            return Err(invalid("a part of it is larger than any program's"));
        }
        let at = self.start.checked_add(offset).ok_or_else(|| invalid("a part of it begins nowhere"))?;
        let mut bytes = vec![0; size as usize];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    pub(crate) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    pub(crate) fn contents(&self, section: &Section) -> io::Result<Vec<u8>> {
        self.bytes(section.offset, section.size)
    }

    /// In hexadecimal digits; empty where the linker made none.
    pub(crate) fn build_id(&self) -> String {
        let notes = self.sections.iter().filter(|section| section.kind == SHT_NOTE);
        let id = notes.filter_map(|section| build_id(&self.contents(section).ok()?)).next();
        id.unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Its functions by address; none where it is stripped.
    pub(crate) fn symbols(&self) -> io::Result<Symbols<'_>> {
        let mut symbols = Symbols { elf: self, strings: 0, functions: Vec::new() };
        let Some(table) = self.sections.iter().find(|section| section.kind == SHT_SYMTAB) else { return Ok(symbols) };
        let strings = self.sections.get(table.link as usize).ok_or_else(|| invalid("its symbols have no names"))?;
        symbols.strings = strings.offset;
        let entries = self.contents(table)?;
        let functions = entries.chunks_exact(24).filter(|entry| entry[4] & 15 == STT_FUNC);
        let functions = functions.map(|entry| (number(entry, 8, 8), number(entry, 16, 8), number(entry, 0, 4) as u32));
        symbols.functions = functions.filter(|(address, ..)| *address != 0).collect();
        symbols.functions.sort_unstable();
        Ok(symbols)
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn build_id(mut notes: &[u8]) -> Option<Vec<u8>> {
    while notes.len() >= 12 {
        let [name, value, kind] = [0, 4, 8].map(|at| number(notes, at, 4) as usize);
        let from = 12 + name.next_multiple_of(4);
        let found = notes.get(from..from + value)?;
        if kind == NT_GNU_BUILD_ID as usize && notes[12..].starts_with(b"GNU\0") {
            return Some(found.to_owned());
        }
        notes = notes.get(from + value.next_multiple_of(4)..)?;
    }
    None
}

/// Names are read one by one: all together are larger than the program's code.
pub(crate) struct Symbols<'a> {
    elf: &'a Elf<'a>,
    strings: u64,
    /// Address, size, and where the name is.
    functions: Vec<(u64, u64, u32)>,
}

impl Symbols<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// The function at an address of the file's own count: its name as it is in the file.
    pub(crate) fn name(&self, address: u64) -> Option<String> {
        let after = self.functions.partition_point(|(start, ..)| *start <= address);
        let (start, size, name) = *self.functions.get(after.checked_sub(1)?)?;
        // Functions of assembler have no size.
        if size > 0 && address - start >= size {
            return None;
        }
        let mut bytes = vec![0; 1 << 12];
        let at = self.elf.start + self.strings + u64::from(name);
        let read = self.elf.file.read_at(&mut bytes, at).ok()?;
        Some(text(&bytes[..read])).filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn build_ids_are_found_among_notes() {
        let note = |kind: u8, name: &[u8; 4], value: &[u8]| {
            let mut note = vec![4, 0, 0, 0, value.len() as u8, 0, 0, 0, kind, 0, 0, 0];
            note.extend_from_slice(name);
            note.extend_from_slice(value);
            note.resize(note.len().next_multiple_of(4), 0);
            note
        };
        let both = [note(1, b"GNU\0", &[9; 5]), note(3, b"GNU\0", &[0xab, 1])].concat();
        assert_eq!(build_id(&both), Some(vec![0xab, 1]));
        assert_eq!(build_id(&note(3, b"Go\0\0", &[1])), None);
        for length in 0..both.len() - 2 {
            assert_eq!(build_id(&both[..length]), None, "{length}");
        }
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let opened = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            file
        };
        for bytes in [&b""[..], b"#!/bin/sh\n", &own[..63], &own[..64], &own[..4096]] {
            assert!(Elf::at(&opened(bytes), 0).is_err(), "{} bytes", bytes.len());
        }
        // A header whose every number is as large as can be.
        let mut worst = own[..64].to_vec();
        worst[16..].fill(0xff);
        assert!(Elf::at(&opened(&worst), 0).is_err());
    }
}
