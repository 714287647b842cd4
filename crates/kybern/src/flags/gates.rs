//! `--feature-gates`. Gates are upstream's; what a gate switches is here as it is in a cluster that sets none.

use super::values;

/// A gate a line: name, default, stage, and `locked` where it cannot be set otherwise.
const GATES: &str = include_str!("data/feature.gates");

/// Says which settings have no effect; an error in upstream's words for what is no gate.
pub(super) fn check(text: &str) -> Result<Vec<String>, String> {
    let mut notes = Vec::new();
    for item in values::items(text).filter(|item| !item.is_empty()) {
        // `kube:` names the component whose gate it is.
        let item = item.strip_prefix("kube:").unwrap_or(item);
        let (name, value) = item.split_once('=').ok_or_else(|| format!("missing bool value for {item}"))?;
        let (name, value) = (name.trim(), value.trim());
        let wanted = values::parse_bool(value).map_err(|why| format!("invalid value of {name}={value}, err: {why}"))?;
        let (default, locked) = gate(name).ok_or_else(|| format!("unrecognized feature gate: {name}"))?;
        match wanted == default {
            true => {}
            false if locked => {
                return Err(format!("cannot set feature gate {name} to {wanted}, feature is locked to {default}"));
            }
            false => notes.push(format!(
                "--feature-gates: {name}={wanted} has no effect: what the gate switches is as with {name}={default}"
            )),
        }
    }
    Ok(notes)
}

/// A gate's default, and whether it is locked to it.
fn gate(name: &str) -> Option<(bool, bool)> {
    let mut words = GATES.lines().map(str::split_whitespace);
    let mut gate = words.find_map(|mut words| (words.next() == Some(name)).then_some(words))?;
    Some((gate.next() == Some("true"), gate.any(|word| word == "locked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_known_by_name() {
        assert_eq!(check(""), Ok(Vec::new()));
        assert_eq!(check("AllAlpha=false,kube:AllBeta=false"), Ok(Vec::new()));
        let notes = check("AllAlpha=true").unwrap();
        assert!(notes.len() == 1 && notes[0].contains("AllAlpha=true has no effect"), "{notes:?}");
        for (text, expect) in [
            ("Nonsense=true", "unrecognized feature gate: Nonsense"),
            ("AllAlpha", "missing bool value for AllAlpha"),
            ("AllAlpha=x", "invalid value of AllAlpha=x, err: strconv.ParseBool: parsing \"x\": invalid syntax"),
        ] {
            assert_eq!(check(text), Err(expect.to_owned()));
        }
        let locked = GATES.lines().find(|line| line.ends_with("locked")).unwrap();
        let (name, rest) = locked.split_once(' ').unwrap();
        let other = !rest.starts_with("true");
        assert!(check(&format!("{name}={other}")).unwrap_err().contains("feature is locked to"), "{locked}");
    }
}
