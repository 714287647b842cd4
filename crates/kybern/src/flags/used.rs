//! What flags a component runs with, as `/flagz` tells.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use clap::{ArgMatches, Command};

static USED: OnceLock<BTreeMap<String, String>> = OnceLock::new();

/// Notes the flags of the subcommand that is run, with what holds where nothing is said. Once for a process.
pub(crate) fn note(command: &Command, matches: &ArgMatches) {
    let Some((name, matches)) = matches.subcommand() else { return };
    let Some(command) = command.find_subcommand(name) else { return };
    let _ = USED.set(read(command, matches));
}

/// By name.
pub(crate) fn used() -> BTreeMap<String, String> {
    USED.get().cloned().unwrap_or_default()
}

fn read(command: &Command, matches: &ArgMatches) -> BTreeMap<String, String> {
    let flag = |argument: &clap::Arg| {
        let name = argument.get_long()?.to_owned();
        let values = matches.try_get_raw(argument.get_id().as_str()).ok().flatten();
        let values: Vec<String> = values.into_iter().flatten().map(|v| v.to_string_lossy().into_owned()).collect();
        Some((name, values.join(",")))
    };
    command.get_arguments().filter_map(flag).filter(|(name, _)| name != "help" && name != "version").collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    #[test]
    fn flags_are_read_as_they_hold() {
        let command = Command::new("x")
            .arg(Arg::new("secure_port").long("secure-port").default_value("6443"))
            .arg(Arg::new("issuer").long("issuer").action(clap::ArgAction::Append));
        let matches = command.clone().get_matches_from(["x", "--issuer=a", "--issuer=b"]);
        let used = read(&command, &matches);
        assert_eq!((used["secure-port"].as_str(), used["issuer"].as_str()), ("6443", "a,b"));
        assert_eq!(used.len(), 2);
    }
}
