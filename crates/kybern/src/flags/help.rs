//! What `--help` of a component says beside clap's list of what works.

use std::fmt::Write;

use super::table::{Fate, Table};

/// The flags of upstream's that do nothing here or are refused, with their reasons.
pub(crate) fn help(component: &str) -> String {
    let Some(table) = Table::of(component) else { return String::new() };
    let mut text = String::from(
        "Further flags:\n  -v, --v LEVEL         How much is logged: 4 for debugging, 6 for each request\n      --feature-gates   \
         Name=true|false,…: upstream's gates are known; what they switch is as by default\n      --version         Prints the \
         version\n",
    );
    let all = table.fates.iter();
    let group = |fate: &Fate| all.clone().filter(|(_, f)| *f == fate).map(|(name, _)| *name).collect::<Vec<_>>();
    let mut said: Vec<&Fate> = Vec::new();
    for (heading, idle) in [("Accepted, without effect here:", true), ("Refused, except at the values named:", false)] {
        let _ = write!(text, "\n{heading}\n");
        for fate in table.fates.values().filter(|fate| matches!(fate, Fate::Idle { .. }) == idle) {
            if said.contains(&fate) {
                continue;
            }
            said.push(fate);
            let names = group(fate).iter().map(|name| format!("--{name}")).collect::<Vec<_>>().join(" ");
            let _ = match fate {
                Fate::Idle { reason } => writeln!(text, "  {names}\n      {reason}"),
                Fate::Only { values, reason, .. } => {
                    let values: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
                    writeln!(text, "  {names} (only {})\n      {reason}", values.join(", "))
                }
            };
        }
    }
    text
}
