//! The flags of upstream's components, and what becomes of each here.
//!
//! `data/COMPONENT.flags` has upstream's flags, one a line: name, type, marks, default value. A flag that the command's own
//! arguments (`commands/`) have works. The others' fates are in `data/COMPONENT.fates` or, where several components have
//! them, in `data/common.fates`: headings `[fate] reason`, and below each the flags.

use std::collections::BTreeMap;

/// One of upstream's flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    /// As pflag names it: `bool`, `stringSlice` and the like.
    pub(super) kind: &'static str,
    pub(super) default: &'static str,
    pub(super) short: Option<char>,
    /// Its value where none follows.
    pub(super) bare: Option<&'static str>,
}

/// What becomes of a flag that the command does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has no meaning here: accepted, and said so.
    Idle { reason: &'static str },
    /// These values are accepted, and `said` so where they are not quite what is done here. Anything else would be a broken
    /// promise, and is refused.
    Only { values: Vec<&'static str>, said: bool, reason: &'static str },
}

/// The flags of one component.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) flags: BTreeMap<&'static str, Flag>,
    pub(super) fates: BTreeMap<&'static str, Fate>,
}

struct Data {
    component: &'static str,
    flags: &'static str,
    fates: &'static str,
}

macro_rules! data {
    ($component:literal) => {
        Data {
            component: $component,
            flags: include_str!(concat!("data/", $component, ".flags")),
            fates: include_str!(concat!("data/", $component, ".fates")),
        }
    };
}

const DATA: &[Data] = &[
    data!("kube-apiserver"),
    data!("kube-controller-manager"),
    data!("kube-scheduler"),
    data!("kubelet"),
    data!("kube-proxy"),
];
const COMMON: &str = include_str!("data/common.fates");

impl Table {
    /// `None` for what is no component of upstream's.
    pub(super) fn of(component: &str) -> Option<Self> {
        let data = DATA.iter().find(|data| data.component == component)?;
        let flags: BTreeMap<_, _> = lines(data.flags).filter_map(flag).map(|flag| (flag.name, flag)).collect();
        let mut table = Self { flags, fates: BTreeMap::new() };
        for (name, mut fate) in fates(COMMON).chain(fates(data.fates)) {
            let Some(flag) = table.flags.get(name) else { continue };
            // What is refused is all but upstream's default.
            if let Fate::Only { values, .. } = &mut fate
                && values.is_empty()
            {
                values.push(flag.default.trim_start_matches('[').trim_end_matches(']'));
            }
            table.fates.insert(name, fate);
        }
        Some(table)
    }
}

fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn flag(line: &'static str) -> Option<Flag> {
    let (name, rest) = line.split_once(' ')?;
    let (kind, rest) = rest.split_once(' ')?;
    let (marks, default) = rest.split_once(' ').unwrap_or((rest, ""));
    let mut flag = Flag { name, kind, default, short: None, bare: None };
    for mark in marks.split(';') {
        match mark.split_once(':') {
            Some(("short", letter)) => flag.short = letter.chars().next(),
            Some(("bare", value)) => flag.bare = Some(value),
            // `deprecated` and `hidden` are upstream's words on what its help shows.
            _ => {}
        }
    }
    Some(flag)
}

/// The names below each heading.
fn fates(text: &'static str) -> impl Iterator<Item = (&'static str, Fate)> {
    let mut fate = None;
    lines(text).flat_map(move |line| {
        if let Some(heading) = line.strip_prefix('[') {
            // A value may have brackets of its own.
            fate = heading.rsplit_once("] ").and_then(|(words, reason)| heading_of(words, reason.trim()));
            return Vec::new();
        }
        let named = |name| Some((name, fate.clone()?));
        line.split_whitespace().filter_map(named).collect()
    })
}

fn heading_of(words: &'static str, reason: &'static str) -> Option<Fate> {
    let mut words = words.split(' ');
    match words.next()? {
        "idle" => Some(Fate::Idle { reason }),
        "only" => Some(Fate::Only { values: words.collect(), said: false, reason }),
        "said" => Some(Fate::Only { values: words.collect(), said: true, reason }),
        "refused" => Some(Fate::Only { values: Vec::new(), said: false, reason }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;
    use crate::flags::values;

    #[test]
    fn every_flag_of_upstreams_works_or_has_a_fate() {
        for data in DATA {
            let component = data.component;
            let table = Table::of(component).unwrap();
            assert_eq!(lines(data.flags).count(), table.flags.len(), "{component}: a line of its flags is not read");
            let command = Cli::command();
            let command = command.find_subcommand(component).unwrap();
            let ours: BTreeSet<&str> = command.get_arguments().filter_map(|a| a.get_long()).collect();
            for flag in table.flags.values() {
                let works = ours.contains(flag.name) || super::super::OWN.contains(&flag.name);
                assert!(
                    works != table.fates.contains_key(flag.name),
                    "{component} --{} must either be in commands/ or have one fate",
                    flag.name
                );
                let list = values::is_list(flag.kind);
                let default = flag.default.trim_start_matches('[').trim_end_matches(']');
                let default = if list { default } else { flag.default };
                let read = values::canonical(flag.kind, default);
                assert!(read.is_ok(), "{component} --{}: default {default:?}: {read:?}", flag.name);
                assert!(flag.kind != "bool" || flag.bare == Some("true"), "{component} --{}", flag.name);
            }
        }
    }

    #[test]
    fn every_fate_is_somebodys_and_says_why() {
        let tables: Vec<Table> = DATA.iter().map(|data| Table::of(data.component).unwrap()).collect();
        for (name, _) in fates(COMMON) {
            assert!(tables.iter().any(|table| table.fates.contains_key(name)), "no component has --{name}");
        }
        for (data, table) in DATA.iter().zip(&tables) {
            let mut seen = BTreeSet::new();
            for (name, fate) in fates(data.fates) {
                assert!(table.flags.contains_key(name), "{} has no --{name}", data.component);
                assert!(seen.insert(name), "{} --{name} has two fates", data.component);
                let (Fate::Idle { reason } | Fate::Only { reason, .. }) = fate;
                assert!(reason.len() > 10, "{} --{name} says no reason", data.component);
            }
            for text in [COMMON, data.fates] {
                let headings = lines(text).filter(|line| line.starts_with('['));
                for heading in headings {
                    let (words, reason) = heading[1..].rsplit_once("] ").unwrap();
                    assert!(heading_of(words, reason).is_some(), "{heading}");
                }
            }
        }
    }
}
