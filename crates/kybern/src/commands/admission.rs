//! `--enable-admission-plugins` and `--disable-admission-plugins`.

use anyhow::{Result, bail};

/// Plugins of upstream's that are not here yet, and what would not hold without them: who asks for one that keeps others out
/// must not believe that it does.
const ABSENT: &[(&str, Option<&str>)] = &[
    ("ClusterTrustBundleAttest", Some("bundles could be attested that one may not")),
    ("EventRateLimit", Some("events would not be limited")),
    ("ImagePolicyWebhook", Some("images would not be judged")),
    ("NodeDeclaredFeatureValidator", None),
    ("PodTopologyLabels", None),
];

/// None of upstream's: there the storage of roles and of policies has its checks.
const ALWAYS: [&str; 2] = ["PolicyParameters", "RBACEscalation"];

/// Checks the names that are asked for against the plugins that there are, and says which of them are to be left out.
pub(crate) fn left_out(there: &[&str], enable: &[String], disable: &[String]) -> Result<Vec<String>> {
    let names = |list: &[String]| -> Vec<String> {
        list.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
    };
    let (enable, disable) = (names(enable), names(disable));
    let there: Vec<&str> = there.iter().copied().filter(|name| !ALWAYS.contains(name)).collect();
    let absent = |name: &String| ABSENT.iter().find(|(absent, _)| absent == name);
    for (flag, list) in [("enable", &enable), ("disable", &disable)] {
        let unknown = list.iter().find(|name| !there.contains(&name.as_str()) && absent(name).is_none());
        if let Some(name) = unknown {
            bail!("{flag}-admission-plugins plugin {name:?} is unknown");
        }
    }
    if let Some(name) = enable.iter().find(|name| disable.contains(name)) {
        bail!("[{name}] in enable-admission-plugins and disable-admission-plugins overlapped");
    }
    for (name, lost) in enable.iter().filter(|name| !there.contains(&name.as_str())).filter_map(absent) {
        match lost {
            Some(lost) => {
                bail!("--enable-admission-plugins={name} cannot be honoured: it is not there yet, and {lost}")
            }
            None => tracing::warn!("--enable-admission-plugins={name} has no effect: it is not there yet"),
        }
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
        assert_eq!(check("", "Priority,EventRateLimit"), Ok(list("Priority,EventRateLimit")));
        assert!(check("Nonsense", "").unwrap_err().contains("\"Nonsense\" is unknown"));
        assert!(check("Priority", "Priority").unwrap_err().contains("overlapped"));
        assert_eq!(check("PodTopologyLabels", ""), Ok(Vec::new()));
        assert!(check("", ALWAYS[0]).unwrap_err().contains("is unknown"));
        assert!(check("EventRateLimit", "").unwrap_err().contains("cannot be honoured"));
    }
}
