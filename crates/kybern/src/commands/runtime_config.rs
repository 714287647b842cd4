//! `--runtime-config`: which versions of the API are served (`k8s.io/apiserver/pkg/server/resourceconfig`).

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use kybern_apimachinery::Gvr;

/// A set of versions: its name, and whether a version is one of it.
type Set = (&'static str, fn(&str) -> bool);

/// In the order in which they hold: the later ones win.
const SETS: [Set; 4] = [
    ("api/all", |_| true),
    ("api/ga", is_stable),
    ("api/beta", |version| version.contains("beta")),
    ("api/alpha", |version| version.contains("alpha")),
];

fn is_stable(version: &str) -> bool {
    !version.contains("alpha") && !version.contains("beta")
}

/// What is switched on and off; without anything, stable versions are served and no others.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuntimeConfig(BTreeMap<String, bool>);

impl RuntimeConfig {
    /// Of `group/version[/resource]=true|false`, without a value `true`.
    pub(crate) fn parse(flags: &[String]) -> Result<Self> {
        let mut settings = BTreeMap::new();
        for flag in flags.iter().map(|flag| flag.trim()).filter(|flag| !flag.is_empty()) {
            let (key, value) = flag.split_once('=').unwrap_or((flag, ""));
            let on = match value {
                "" | "true" | "1" | "t" | "T" | "True" | "TRUE" => true,
                "false" | "0" | "f" | "F" | "False" | "FALSE" => false,
                _ => bail!("--runtime-config: invalid value {key}={value}: true or false"),
            };
            settings.insert(key.to_owned(), on);
        }
        if settings.len() == 1 && settings.get("api/all") == Some(&false) {
            bail!("--runtime-config: invalid key with only api/all=false: nothing would be served");
        }
        Ok(Self(settings))
    }

    /// Keeps of `rows` those that are served.
    pub(crate) fn retain<T>(&self, rows: &mut Vec<T>, gvr: impl Fn(&T) -> &Gvr) -> Result<()> {
        let is_set = |key: &str| SETS.iter().any(|(name, _)| *name == key);
        for key in self.0.keys().filter(|key| !is_set(key)) {
            let parts: Vec<&str> = key.split('/').collect();
            let known = match parts[..] {
                // The core group has no name.
                ["v1"] => true,
                [group, version] => rows.iter().any(|row| gvr(row).group == group && gvr(row).version == version),
                [group, version, resource] => rows.iter().any(|row| {
                    let gvr = gvr(row);
                    gvr.group == group && gvr.version == version && gvr.resource == resource
                }),
                _ => false,
            };
            if !known {
                bail!("--runtime-config: unknown api groups {key}: `kubectl api-versions` lists what is served");
            }
        }
        rows.retain(|row| self.serves(gvr(row)));
        Ok(())
    }

    fn serves(&self, gvr: &Gvr) -> bool {
        let version = if gvr.group.is_empty() { gvr.version.clone() } else { format!("{}/{}", gvr.group, gvr.version) };
        let resource = self.0.get(&format!("{version}/{}", gvr.resource));
        if let Some(on) = resource.or_else(|| self.0.get(&version)) {
            return *on;
        }
        let set = SETS.iter().rev().find_map(|(name, holds)| self.0.get(*name).filter(|_| holds(&gvr.version)));
        set.copied().unwrap_or_else(|| is_stable(&gvr.version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(flags: &[&str]) -> Result<String, String> {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut rows = vec![
            Gvr::new("", "v1", "pods"),
            Gvr::new("apps", "v1", "deployments"),
            Gvr::new("resource.k8s.io", "v1beta1", "resourceclaims"),
            Gvr::new("resource.k8s.io", "v1beta1", "resourceslices"),
            Gvr::new("internal.apiserver.k8s.io", "v1alpha1", "storageversions"),
        ];
        let config = RuntimeConfig::parse(&flags).map_err(|error| error.to_string())?;
        config.retain(&mut rows, |row| row).map_err(|error| error.to_string())?;
        Ok(rows.iter().map(|row| row.resource.as_str()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn stable_versions_unless_more_is_asked_for() {
        let check = |flags: &[&str], expect: &str| assert_eq!(served(flags).as_deref(), Ok(expect), "{flags:?}");
        check(&[], "pods deployments");
        check(&["api/all=true"], "pods deployments resourceclaims resourceslices storageversions");
        check(&["api/beta"], "pods deployments resourceclaims resourceslices");
        check(&["api/all=true", "api/alpha=false"], "pods deployments resourceclaims resourceslices");
        check(&["resource.k8s.io/v1beta1=true"], "pods deployments resourceclaims resourceslices");
        check(&["resource.k8s.io/v1beta1/resourceclaims=true"], "pods deployments resourceclaims");
        check(&["api/all=false", "v1=true"], "pods");
        check(&["apps/v1=false"], "pods");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let check = |flag: &str, expect: &str| {
            let error = served(&[flag]).unwrap_err();
            assert!(error.contains(expect), "{error}");
        };
        check("api/all=false", "invalid key with only api/all=false");
        check("api/beta=perhaps", "invalid value api/beta=perhaps");
        check("nonsense.io/v1=true", "unknown api groups nonsense.io/v1");
        check("apps=true", "unknown api groups apps");
    }
}
