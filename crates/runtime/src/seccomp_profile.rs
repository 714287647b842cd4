//! Seccomp profiles of the node (`localhostProfile`), in the OCI runtime spec's JSON.

use std::path::Path;

use kybern_linux::seccomp::{Action, Comparison, Condition, Profile, Rule, number};
use serde::Deserialize;

use crate::disk;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u16>,
    #[serde(default)]
    syscalls: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    names: Vec<String>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Option<Vec<Arg>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Arg {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Reads a profile; the error says which file and what is wrong with it.
pub(crate) fn read(path: &Path) -> Result<Profile, String> {
    let document = disk::read_json(path).map_err(|error| format!("cannot load seccomp profile: {error}"))?;
    profile(document).map_err(|error| format!("cannot load seccomp profile {}: {error}", path.display()))
}

fn profile(document: Document) -> Result<Profile, String> {
    let mut rules = Vec::new();
    for entry in document.syscalls {
        let action = action(&entry.action, entry.errno_ret)?;
        let conditions = entry.args.unwrap_or_default().iter().map(condition).collect::<Result<Vec<_>, _>>()?;
        // Profiles name calls of every architecture; those that this one lacks need no rule.
        for syscall in entry.names.iter().filter_map(|name| number(name)) {
            rules.push(Rule { syscall, action, conditions: conditions.clone() });
        }
    }
    Ok(Profile { default: action(&document.default_action, document.default_errno_ret)?, rules })
}

fn action(name: &str, errno: Option<u16>) -> Result<Action, String> {
    const EPERM: u16 = 1;
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(errno.unwrap_or(EPERM)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_TRACE" => Action::Trace(errno.unwrap_or(EPERM)),
        other => return Err(format!("unknown action {other:?}")),
    })
}

fn condition(arg: &Arg) -> Result<Condition, String> {
    if arg.index > 5 {
        return Err(format!("argument index {} is above 5", arg.index));
    }
    let (comparison, value) = match arg.op.as_str() {
        "SCMP_CMP_EQ" => (Comparison::Equal, arg.value),
        "SCMP_CMP_NE" => (Comparison::NotEqual, arg.value),
        "SCMP_CMP_GT" => (Comparison::Greater, arg.value),
        "SCMP_CMP_GE" => (Comparison::GreaterOrEqual, arg.value),
        "SCMP_CMP_LT" => (Comparison::Less, arg.value),
        "SCMP_CMP_LE" => (Comparison::LessOrEqual, arg.value),
        // Here the first value is the mask and the second what is compared.
        "SCMP_CMP_MASKED_EQ" => (Comparison::MaskedEqual(arg.value), arg.value_two),
        other => return Err(format!("unknown comparison {other:?}")),
    };
    Ok(Condition { argument: arg.index, comparison, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read() {
        let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"syscalls":[
            {"names":["mkdirat","no_such_call"],"action":"SCMP_ACT_ERRNO","errnoRet":13},
            {"names":["socket"],"action":"SCMP_ACT_KILL_PROCESS","args":[{"index":0,"value":255,"valueTwo":40,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;
        let read = profile(serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!(read.default, Action::Allow);
        assert_eq!(read.rules.len(), 2);
        assert_eq!(read.rules[0].action, Action::Errno(13));
        let expect = Condition { argument: 0, comparison: Comparison::MaskedEqual(255), value: 40 };
        assert_eq!(read.rules[1].conditions, [expect]);
        let bad = r#"{"defaultAction":"SCMP_ACT_MAYBE"}"#;
        assert!(profile(serde_json::from_str(bad).unwrap()).unwrap_err().contains("SCMP_ACT_MAYBE"));
    }
}
