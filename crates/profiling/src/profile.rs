//! A profile in the format of `go tool pprof` (`profile.proto` of github.com/google/pprof), gzipped.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

use crate::elf::{Elf, Symbols};
use crate::program::Mapping;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Profile {
    #[prost(message, repeated, tag = "1")]
    pub(crate) sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) mapping: Vec<Mapped>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    pub(crate) string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    pub(crate) time_nanos: i64,
    #[prost(int64, tag = "10")]
    pub(crate) duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    pub(crate) period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    pub(crate) period: i64,
    #[prost(int64, repeated, tag = "13")]
    pub(crate) comment: Vec<i64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    pub(crate) value: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Mapped {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) memory_start: u64,
    #[prost(uint64, tag = "3")]
    memory_limit: u64,
    #[prost(uint64, tag = "4")]
    file_offset: u64,
    #[prost(int64, tag = "5")]
    pub(crate) filename: i64,
    #[prost(int64, tag = "6")]
    pub(crate) build_id: i64,
    #[prost(bool, tag = "7")]
    pub(crate) has_functions: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) mapping_id: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[cfg(test)]
impl Mapped {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

#[cfg(test)]
impl Location {
    pub(crate) fn functions(&self) -> impl Iterator<Item = u64> {
        self.line.iter().map(|line| line.function_id)
    }
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    pub(crate) name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
}

/// What was seen while the process was looked at.
pub(crate) struct Seen {
    pub(crate) began: SystemTime,
    pub(crate) lasted: Duration,
    pub(crate) period: Duration,
    /// Times by stack, innermost address first.
    pub(crate) stacks: HashMap<Vec<u64>, u64>,
    /// Samples that are not among the stacks.
    pub(crate) lost: u64,
}

/// Strings and functions, each once.
struct Names<'a> {
    strings: Vec<String>,
    by_string: HashMap<String, i64>,
    functions: Vec<Function>,
    by_name: HashMap<String, u64>,
    symbols: Option<&'a Symbols<'a>>,
}

impl Names<'_> {
    fn string(&mut self, text: &str) -> i64 {
        if let Some(index) = self.by_string.get(text) {
            return *index;
        }
        let index = self.strings.len() as i64;
        self.strings.push(text.to_owned());
        self.by_string.insert(text.to_owned(), index);
        index
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> ValueType {
        ValueType { kind: self.string(kind), unit: self.string(unit) }
    }

    /// The function at an address of the program's file.
    fn line(&mut self, address: u64) -> Option<Line> {
        let system_name = self.symbols?.name(address)?;
        if let Some(id) = self.by_name.get(&system_name) {
            return Some(Line { function_id: *id });
        }
        let id = self.functions.len() as u64 + 1;
        // Without the hash at its end.
        let name = self.string(&format!("{:#}", rustc_demangle::demangle(&system_name)));
        let function = Function { id, name, system_name: self.string(&system_name) };
        self.functions.push(function);
        self.by_name.insert(system_name, id);
        Some(Line { function_id: id })
    }
}

/// The function at each address of this process; none where the program is stripped.
pub(crate) fn functions(mappings: &[Mapping], addresses: &[u64]) -> io::Result<Vec<Option<String>>> {
    let file = File::open("/proc/self/exe")?;
    let elf = Elf::at(&file, 0)?;
    let symbols = elf.symbols()?;
    let name = |address: &u64| {
        let mapping = mappings.iter().find(|mapping| mapping.contains(*address))?;
        symbols.name(address.wrapping_sub(mapping.base)).map(|name| format!("{:#}", rustc_demangle::demangle(&name)))
    };
    Ok(addresses.iter().map(name).collect())
}

impl Seen {
    /// What `/debug/pprof/profile` answers.
    pub(crate) fn encode(&self, mappings: &[Mapping]) -> io::Result<Vec<u8>> {
        let file = File::open("/proc/self/exe")?;
        let elf = Elf::at(&file, 0)?;
        let symbols = elf.symbols()?;
        let profile = self.profile(mappings, Some(&symbols).filter(|symbols| !symbols.is_empty()));
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&profile.encode_to_vec())?;
        gzip.finish()
    }

    pub(crate) fn profile(&self, mappings: &[Mapping], symbols: Option<&Symbols<'_>>) -> Profile {
        let mut names = Names {
            strings: vec![String::new()],
            by_string: HashMap::from([(String::new(), 0)]),
            functions: Vec::new(),
            by_name: HashMap::new(),
            symbols,
        };
        let [samples, time] = [("samples", "count"), ("cpu", "nanoseconds")].map(|(k, u)| names.value_type(k, u));
        let period = self.period.as_nanos() as i64;
        let (mut ids, mut location) = (HashMap::new(), Vec::new());
        let mut locate = |address: u64, names: &mut Names<'_>| {
            *ids.entry(address).or_insert_with(|| {
                let id = location.len() as u64 + 1;
                let mapping = mappings.iter().position(|mapping| mapping.contains(address));
                let own = mapping.filter(|index| mappings[*index].is_program());
                let line = own.and_then(|index| names.line(address.wrapping_sub(mappings[index].base)));
                let mapping_id = mapping.map_or(0, |index| index as u64 + 1);
                location.push(Location { id, mapping_id, address, line: line.into_iter().collect() });
                id
            })
        };
        let sample = self.stacks.iter().map(|(stack, times)| Sample {
            location_id: stack.iter().map(|address| locate(*address, &mut names)).collect(),
            value: vec![*times as i64, *times as i64 * period],
        });
        let sample = sample.collect();
        let mapping = mappings.iter().zip(1..).map(|(mapping, id)| Mapped {
            id,
            memory_start: mapping.start,
            memory_limit: mapping.end,
            file_offset: mapping.offset,
            filename: names.string(&mapping.file),
            build_id: names.string(&mapping.build_id),
            has_functions: mapping.is_program() && symbols.is_some(),
        });
        let mapping = mapping.collect();
        let mut comment = Vec::new();
        if symbols.is_none() {
            comment.push(names.string("the program has no symbols: name the file that it was stripped from to pprof"));
        }
        if self.lost > 0 {
            let lost = format!("{} samples more were taken than are shown: they found no room", self.lost);
            comment.push(names.string(&lost));
        }
        let began = self.began.duration_since(UNIX_EPOCH).unwrap_or_default();
        Profile {
            sample_type: vec![samples, time],
            sample,
            mapping,
            location,
            time_nanos: began.as_nanos() as i64,
            duration_nanos: self.lasted.as_nanos() as i64,
            period_type: Some(time),
            period,
            comment,
            function: names.functions,
            string_table: names.strings,
        }
    }
}
