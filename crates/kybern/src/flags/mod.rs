//! The command lines of upstream's components: every flag of theirs is known. What works here goes on to clap, under the
//! names in `commands/`; what has no meaning here is accepted and said so; what cannot be honoured and would change what is
//! safe is refused with its reason.

mod gates;
mod help;
mod syntax;
mod table;
pub(crate) mod used;
mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use clap::{ArgAction, Command, CommandFactory};
use tracing::Level;

use crate::cli::Cli;
use crate::version;
pub(crate) use gates::Gates;
pub(crate) use help::help;
use syntax::{Given, Known, Shape, SyntaxError};
use table::{Fate, Table};

const COMPONENTS: &[&str] = &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"];
const COREDNS: &str = "coredns";

/// Flags of upstream's that are dealt with here alone.
#[cfg(test)]
const OWN: &[&str] = &["v", "version", "feature-gates", "help"];

/// A command line, made fit for clap.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Prepared {
    pub(crate) arguments: Vec<OsString>,
    /// The component that is to run, if it is one.
    pub(crate) component: Option<&'static str>,
    /// What `-v LEVEL` asks for.
    pub(crate) level: Option<Level>,
    /// What was asked for in vain, one line each, for the log.
    pub(crate) notes: Vec<String>,
    /// What is to be printed in place of running.
    pub(crate) answer: Option<String>,
}

/// Reads a command line. An error is what upstream's component would say.
pub(crate) fn prepare(arguments: Vec<OsString>) -> Result<Prepared, String> {
    let arguments = with_applet_name(arguments);
    let named = arguments.get(1).and_then(|a| a.to_str());
    if named == Some(COREDNS) {
        return Ok(prepare_coredns(arguments));
    }
    let Some(component) = COMPONENTS.iter().copied().find(|component| named == Some(component)) else {
        return Ok(Prepared { arguments, ..Prepared::default() });
    };
    let mut command = Cli::command();
    command.build();
    let command = command.find_subcommand(component).expect("every component is a command");
    let flags = Flags { table: Table::of(component).expect("every component has its flags"), command };
    let text = |a: &OsString| a.to_str().map(str::to_owned).ok_or_else(|| format!("{} is not UTF-8", a.display()));
    let given: Vec<String> = arguments[2..].iter().map(text).collect::<Result<_, _>>()?;
    let prepared = flags.read(component, &given)?;
    let arguments = arguments[..2].iter().cloned().chain(prepared.arguments).collect();
    Ok(Prepared { arguments, component: Some(component), ..prepared })
}

/// A link named like a component behaves like it: `kube-proxy` is `kybern kube-proxy`.
fn with_applet_name(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let called = arguments.first().and_then(|a| Path::new(a).file_name()).map(|n| n.to_owned());
    let is_component = |name: &OsString| COMPONENTS.iter().chain([&COREDNS]).any(|component| name == component);
    if let Some(name) = called.filter(is_component) {
        arguments.insert(1, name);
    }
    arguments
}

/// CoreDNS' flags have one dash; clap's long ones have two.
fn prepare_coredns(arguments: Vec<OsString>) -> Prepared {
    let mut prepared = Prepared { component: Some(COREDNS), ..Prepared::default() };
    for argument in arguments {
        match argument.to_str() {
            Some("--version" | "-version") => {
                prepared.answer = Some(format!("CoreDNS of Kybern {}", version::KYBERN));
            }
            Some(text) if text.starts_with("-conf") || text.starts_with("-dns.port") => {
                prepared.arguments.push(format!("-{text}").into());
            }
            _ => prepared.arguments.push(argument),
        }
    }
    prepared
}

/// What a component takes: upstream's flags and the command's own.
struct Flags<'a> {
    table: Table,
    command: &'a Command,
}

impl Known for Flags<'_> {
    fn long(&self, name: &str) -> Option<Shape<'_>> {
        if name == "help" {
            return Some(Shape { bare: Some("true") });
        }
        if let Some(flag) = self.table.flags.get(name) {
            return Some(Shape { bare: flag.bare });
        }
        let ours = self.ours(name)?;
        Some(Shape { bare: matches!(ours.get_action(), ArgAction::SetTrue).then_some("true") })
    }

    fn short(&self, letter: char) -> Option<&str> {
        if letter == 'h' {
            return Some("help");
        }
        self.table.flags.values().find(|flag| flag.short == Some(letter)).map(|flag| flag.name)
    }
}

impl Flags<'_> {
    fn ours(&self, name: &str) -> Option<&clap::Arg> {
        self.command.get_arguments().find(|argument| argument.get_long() == Some(name))
    }

    fn read(&self, component: &str, arguments: &[String]) -> Result<Prepared, String> {
        let (given, others) = syntax::split(arguments, self).map_err(|error| self.refusal(component, &error))?;
        let mut prepared = Prepared::default();
        if given.iter().any(|given| given.name == "help") {
            prepared.arguments.push("--help".into());
            return Ok(prepared);
        }
        if let Some(other) = others.iter().find(|other| !other.is_empty()) {
            return Err(match component {
                "kubelet" => format!("unknown command {other}"),
                _ => format!("\"{component}\" does not take any arguments, got {other:?}"),
            });
        }
        let mut refused = Vec::new();
        for (name, values) in self.gathered(given)? {
            let value = values.last().map_or("", String::as_str);
            match name.as_str() {
                "v" => prepared.level = level(value),
                "version" => prepared.answer = version(value)?,
                "feature-gates" => {
                    let gates = Gates::parse(values.iter().map(String::as_str));
                    let gates = gates.map_err(|why| self.invalid(&name, value, &why))?;
                    prepared.notes.extend(gates.notes(component));
                    if self.ours(&name).is_some() {
                        prepared.arguments.extend(self.for_clap(&name, &values));
                    }
                }
                _ => match self.table.fates.get(name.as_str()) {
                    None => prepared.arguments.extend(self.for_clap(&name, &values)),
                    Some(Fate::Idle { reason }) => prepared.notes.push(format!("--{name} has no effect: {reason}")),
                    Some(Fate::Only { values: fine, reason, .. }) if !is_fine(&values, fine) => {
                        refused.push(format!("--{name}={} cannot be honoured: {reason}", values.join(",")));
                    }
                    Some(Fate::Only { said: true, reason, .. }) => {
                        prepared.notes.push(format!("--{name} has no effect: {reason}"));
                    }
                    Some(Fate::Only { .. }) => {}
                },
            }
        }
        if refused.is_empty() { Ok(prepared) } else { Err(refused.join("\n")) }
    }

    /// The values of each flag, in its own notation: of a list all, else the last one.
    fn gathered(&self, given: Vec<Given>) -> Result<BTreeMap<String, Vec<String>>, String> {
        let mut gathered: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for Given { name, value } in given {
            let flag = self.table.flags.get(name.as_str());
            let kind = flag.map_or("string", |flag| flag.kind);
            let value = values::canonical(kind, &value).map_err(|why| self.invalid(&name, &value, &why))?;
            let ours = self.ours(&name).is_some_and(|argument| matches!(argument.get_action(), ArgAction::Append));
            let values = gathered.entry(name).or_default();
            if !values::is_list(kind) && !ours {
                values.clear();
            }
            values.push(value);
        }
        Ok(gathered)
    }

    fn for_clap(&self, name: &str, values: &[String]) -> Vec<OsString> {
        match self.ours(name).map(|argument| argument.get_action()) {
            Some(ArgAction::SetTrue) if values.last().is_some_and(|value| value == "true") => {
                vec![format!("--{name}").into()]
            }
            Some(ArgAction::SetTrue) => Vec::new(),
            Some(ArgAction::Append) => values.iter().map(|value| format!("--{name}={value}").into()).collect(),
            _ => vec![format!("--{name}={}", values.join(",")).into()],
        }
    }

    fn invalid(&self, name: &str, value: &str, why: &str) -> String {
        let short = self.table.flags.get(name).and_then(|flag| flag.short);
        let shown = short.map_or_else(|| format!("--{name}"), |letter| format!("-{letter}, --{name}"));
        format!("invalid argument {value:?} for \"{shown}\" flag: {why}")
    }

    fn refusal(&self, component: &str, error: &SyntaxError) -> String {
        let nearest = match error {
            SyntaxError::Unknown(name) => self.nearest(&syntax::normalize(name)),
            _ => None,
        };
        let hint = nearest.map_or_else(String::new, |name| format!("\nDid you mean --{name}?"));
        format!("{error}{hint}\nSee `kybern {component} --help` for the flags that there are.")
    }

    fn nearest(&self, name: &str) -> Option<&str> {
        let ours = self.command.get_arguments().filter_map(|argument| argument.get_long());
        let all = self.table.flags.keys().copied().chain(ours);
        let scored = all.map(|known| (strsim::jaro_winkler(name, known), known));
        let (score, known) = scored.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
        (score > 0.88).then_some(known)
    }
}

/// Whether all that was given is among what can be had. Of a list, that is each entry.
fn is_fine(given: &[String], fine: &[&str]) -> bool {
    let whole = given.join(",");
    fine.contains(&whole.as_str())
        || given.iter().flat_map(|list| values::items(list)).all(|item| !item.is_empty() && fine.contains(&item))
}

/// klog's levels: 4 is for debugging, 6 shows every request.
fn level(text: &str) -> Option<Level> {
    Some(match text.parse::<i64>().ok()? {
        ..4 => Level::INFO,
        4..6 => Level::DEBUG,
        6.. => Level::TRACE,
    })
}

/// What `--version` prints.
fn version(value: &str) -> Result<Option<String>, String> {
    Ok(match value {
        "raw" => Some(format!(
            "version.Info{{Major:{:?}, Minor:{:?}, GitVersion:{:?}, Compiler:\"rustc\", Platform:\"linux/{}\"}}",
            version::KUBERNETES_MAJOR,
            version::KUBERNETES_MINOR,
            version::KUBERNETES,
            version::architecture(),
        )),
        _ if values::parse_bool(value)? => Some(format!("Kubernetes {}", version::KUBERNETES)),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
