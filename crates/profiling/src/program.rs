//! The program as it lies in its own memory: how its stacks are unwound, and where its code comes from.

use std::fs::File;
use std::io;

use framehop::{
    CacheNative, ExplicitModuleSectionInfo, MayAllocateDuringUnwind, Module, UnwindRegsNative, Unwinder, UnwinderNative,
};
use kybern_linux::sampler::Sample;

use crate::elf::{Elf, Section};

/// The deepest stack that is shown.
const DEPTH: usize = 128;

const KERNELS: &str = "[vdso]";

/// Code of one file in memory, as in `/proc/self/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) offset: u64,
    pub(crate) file: String,
    pub(crate) build_id: String,
    /// What is added to the file's addresses.
    pub(crate) base: u64,
}

impl Mapping {
    pub(crate) fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// Not the kernel's part.
    pub(crate) fn is_program(&self) -> bool {
        self.file != KERNELS
    }

    fn base(&self, elf: &Elf<'_>) -> u64 {
        let end = self.offset + (self.end - self.start);
        let here = |[offset, _, size]: &&[u64; 3]| *offset < end && self.offset < offset + size;
        // What the mapping begins with lies at this address of the file, or would.
        let first = elf.segments.iter().find(here).map(|[offset, address, _]| address.wrapping_sub(*offset));
        self.start.wrapping_sub(self.offset).wrapping_sub(first.unwrap_or(0))
    }
}

type Frames = UnwinderNative<Vec<u8>, MayAllocateDuringUnwind>;

/// Unwinds stacks of this process.
pub(crate) struct Program {
    pub(crate) mappings: Vec<Mapping>,
    unwinder: Frames,
    cache: CacheNative<MayAllocateDuringUnwind>,
}

impl Program {
    /// Reads where the program is, and how it unwinds: some megabytes.
    pub(crate) fn running() -> io::Result<Self> {
        let mut program = Self { mappings: Vec::new(), unwinder: Frames::new(), cache: CacheNative::new() };
        program.mappings = mappings(|mapping, elf| {
            let range = |section: Option<&Section>| section.map(|s| s.address..s.address + s.size);
            let contents = |section: Option<&Section>| section.map(|section| elf.contents(section)).transpose();
            let [header, frames, text] = [".eh_frame_hdr", ".eh_frame", ".text"].map(|name| elf.section(name));
            let sections = ExplicitModuleSectionInfo {
                text_svma: range(text),
                eh_frame_hdr_svma: range(header),
                eh_frame_hdr: contents(header)?,
                eh_frame_svma: range(frames),
                eh_frame: contents(frames)?,
                ..ExplicitModuleSectionInfo::default()
            };
            let (name, all) = (mapping.file.clone(), mapping.start..mapping.end);
            program.unwinder.add_module(Module::new(name, all, mapping.base, sections));
            Ok(())
        })?;
        Ok(program)
    }

    /// The addresses of who was called by whom, innermost first; a caller's is within the instruction that calls.
    pub(crate) fn unwind(&mut self, sample: &Sample<'_>) -> Vec<u64> {
        let mut read = |address: u64| -> Result<u64, ()> {
            let at = usize::try_from(address.checked_sub(sample.sp).ok_or(())?).map_err(|_| ())?;
            let word = sample.stack.get(at..).and_then(|rest| rest.first_chunk()).ok_or(())?;
            Ok(u64::from_le_bytes(*word))
        };
        let mut frames = self.unwinder.iter_frames(sample.pc, registers(sample), &mut self.cache, &mut read);
        let mut stack = Vec::new();
        while stack.len() < DEPTH
            && let Ok(Some(frame)) = frames.next()
        {
            let address = frame.address_for_lookup();
            // Beyond what is known to be code, words of the stack were taken for frames.
            if !stack.is_empty() && !self.mappings.iter().any(|mapping| mapping.contains(address)) {
                break;
            }
            stack.push(address);
        }
        stack
    }
}

/// Where this process has the code of its program and of the kernel, with the file of each.
pub(crate) fn mappings(mut each: impl FnMut(&Mapping, &Elf<'_>) -> io::Result<()>) -> io::Result<Vec<Mapping>> {
    let own = std::fs::read_link("/proc/self/exe")?;
    // The file that was started, whatever lies at its path by now.
    let file = File::open("/proc/self/exe")?;
    let memory = File::open("/proc/self/mem")?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let mut found = Vec::new();
    for mut mapping in maps.lines().filter_map(executable) {
        let elf = match &*mapping.file {
            KERNELS => Elf::at(&memory, mapping.start),
            path if own.as_os_str() == path => Elf::at(&file, 0),
            _ => continue,
        };
        let elf = match elf {
            Ok(elf) => elf,
            // Without the kernel's part there is less to see.
            Err(_) if !mapping.is_program() => continue,
            Err(error) => return Err(error),
        };
        mapping.base = mapping.base(&elf);
        mapping.build_id = elf.build_id();
        each(&mapping, &elf)?;
        found.push(mapping);
    }
    // pprof takes the first one for the program.
    found.sort_by_key(|mapping| !mapping.is_program());
    Ok(found)
}

#[cfg(target_arch = "x86_64")]
fn registers(sample: &Sample<'_>) -> UnwindRegsNative {
    UnwindRegsNative::new(sample.pc, sample.sp, sample.fp)
}

#[cfg(target_arch = "aarch64")]
fn registers(sample: &Sample<'_>) -> UnwindRegsNative {
    UnwindRegsNative::new(sample.lr, sample.sp, sample.fp)
}

/// A line of `/proc/self/maps` about code.
fn executable(line: &str) -> Option<Mapping> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
    let code = words.next()?.as_bytes().get(2) == Some(&b'x');
    let offset = hexadecimal(words.next()?)?;
    let file = words.nth(2)?.trim_start().to_owned();
    let (start, end) = (hexadecimal(start)?, hexadecimal(end)?);
    code.then_some(Mapping { start, end, offset, file, build_id: String::new(), base: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps() {
        let line = "7f1000-7f3000 r-xp 00cd4000 fe:00 1234                       /opt/a b (deleted)";
        let mapping = executable(line).unwrap();
        assert_eq!((mapping.start, mapping.end, mapping.offset), (0x7f1000, 0x7f3000, 0xcd4000));
        assert_eq!(mapping.file, "/opt/a b (deleted)");
        assert_eq!(executable("7f1000-7f3000 r--p 00cd4000 fe:00 1234 /opt/a"), None);
        assert_eq!(executable("7f1000-7f3000 rwxp 00000000 00:00 0"), None);
    }
}
