//! What the administrator says: levels of namespaces without labels, and who is exempt.

use std::collections::BTreeSet;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::tree::{list, text};
use kybern_apimachinery::validation::{dns1123_label, dns1123_subdomain};

use crate::policy::{Level, LevelVersion, Policy, Version};

/// `PodSecurityConfiguration`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    pub defaults: Policy,
    pub usernames: Vec<String>,
    pub namespaces: Vec<String>,
    pub runtime_classes: Vec<String>,
}

impl Configuration {
    pub fn parse(document: &Value) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let defaults = &document["defaults"];
        let mut mode = |name: &str| {
            let mut errors_of = |field: &str, value: &str, text: &str| {
                errors.push(FieldError::invalid(&FieldPath::new("defaults").child(field), value, text));
            };
            let mut mode = LevelVersion::PRIVILEGED;
            let level = text(defaults, name);
            if !level.is_empty() {
                match Level::parse(level) {
                    Ok(level) => mode.level = level,
                    Err(error) => errors_of(name, level, error),
                }
            }
            let (field, version) = (format!("{name}-version"), text(defaults, &format!("{name}-version")));
            if !version.is_empty() {
                match Version::parse(version) {
                    Ok(version) => mode.version = version,
                    Err(error) => errors_of(&field, version, error),
                }
            }
            mode
        };
        let (enforce, warn, audit) = (mode("enforce"), mode("warn"), mode("audit"));
        let mut names = |field: &str, check: &dyn Fn(&str) -> Vec<String>| {
            let (path, mut names) = (FieldPath::new("exemptions").child(field), BTreeSet::new());
            for (i, name) in list(&document["exemptions"], field).iter().enumerate() {
                let name = name.as_str().unwrap_or("");
                let wrong = check(name);
                if !wrong.is_empty() {
                    errors.push(FieldError::invalid(&path.index(i), name, wrong.join(", ")));
                } else if !names.insert(name.to_owned()) {
                    errors.push(FieldError::duplicate(&path.index(i), name));
                }
            }
            names.into_iter().collect()
        };
        let configuration = Self {
            defaults: Policy { enforce, audit, warn },
            namespaces: names("namespaces", &|name| dns1123_label(name)),
            runtime_classes: names("runtimeClasses", &|name| dns1123_subdomain(name)),
            usernames: names("usernames", &|name| {
                if name.is_empty() { vec!["username must not be empty".to_owned()] } else { Vec::new() }
            }),
        };
        if errors.is_empty() { Ok(configuration) } else { Err(errors) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn configurations() {
        let document = json!({"defaults": {"enforce": "baseline", "audit-version": "v1.30"},
            "exemptions": {"usernames": ["a"], "namespaces": ["kube-system"], "runtimeClasses": ["kata.v1"]}});
        let configuration = Configuration::parse(&document).unwrap();
        assert_eq!(configuration.defaults.enforce.to_string(), "baseline:latest");
        assert_eq!(configuration.defaults.audit.to_string(), "privileged:v1.30");
        assert_eq!(configuration.runtime_classes, ["kata.v1"]);
        assert_eq!(Configuration::parse(&json!({})), Ok(Configuration::default()));
        let document = json!({"defaults": {"warn": "strict", "warn-version": "1"},
            "exemptions": {"usernames": ["", "b", "b"], "namespaces": ["A"]}});
        let errors: Vec<String> =
            Configuration::parse(&document).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), 5, "{errors:?}");
        assert!(errors[0].starts_with("defaults.warn: Invalid value: \"strict\": must be one of"), "{errors:?}");
        assert!(errors[2].starts_with("exemptions.namespaces[0]: Invalid value: \"A\""), "{errors:?}");
        assert_eq!(errors[4], "exemptions.usernames[2]: Duplicate value: \"b\"");
    }
}
