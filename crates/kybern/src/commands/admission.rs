//! `--enable-admission-plugins` and `--disable-admission-plugins`.

use anyhow::{Result, bail};

/// Plugins of upstream's that are not here yet. None of them keeps others out.
const ABSENT: [&str; 1] = ["NodeDeclaredFeatureValidator"];

/// None of upstream's: there the storage of roles and of policies has its checks.
const ALWAYS: [&str; 2] = ["PolicyParameters", "RBACEscalation"];

/// Checks the names that are asked for against the plugins that there are, and says which of them are to be left out.
pub(crate) fn left_out(there: &[&str], enable: &[String], disable: &[String]) -> Result<Vec<String>> {
    let names = |list: &[String]| -> Vec<String> {
        list.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
    };
    let (enable, disable) = (names(enable), names(disable));
    let there: Vec<&str> = there.iter().copied().filter(|name| !ALWAYS.contains(name)).collect();
    let absent = |name: &String| ABSENT.contains(&name.as_str());
    for (flag, list) in [("enable", &enable), ("disable", &disable)] {
        let unknown = list.iter().find(|name| !there.contains(&name.as_str()) && !absent(name));
        if let Some(name) = unknown {
            bail!("{flag}-admission-plugins plugin {name:?} is unknown");
        }
    }
    if let Some(name) = enable.iter().find(|name| disable.contains(name)) {
        bail!("[{name}] in enable-admission-plugins and disable-admission-plugins overlapped");
    }
    for name in enable.iter().filter(|name| absent(name)) {
        tracing::warn!("--enable-admission-plugins={name} has no effect: it is not there yet");
    }
    Ok(disable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_known_by_name() {
        let there = ["NodeRestriction", "Priority", "AlwaysDeny", ALWAYS[0]];
        let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let check = |enable: &str, disable: &str| {
            left_out(&there, &list(enable), &list(disable)).map_err(|error| error.to_string())
        };
        assert_eq!(check("NodeRestriction", ""), Ok(Vec::new()));
        assert_eq!(check("AlwaysDeny", ""), Ok(Vec::new()));
        assert_eq!(check("", "Priority,NodeRestriction"), Ok(list("Priority,NodeRestriction")));
        assert!(check("Nonsense", "").unwrap_err().contains("\"Nonsense\" is unknown"));
        assert!(check("Priority", "Priority").unwrap_err().contains("overlapped"));
        assert_eq!(check(ABSENT[0], ""), Ok(Vec::new()));
        assert!(check("", ALWAYS[0]).unwrap_err().contains("is unknown"));
    }
}
