//! Levels, versions, and the labels that choose them.

use std::fmt;

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Value, object};

use crate::PREFIX;

/// From the least strict to the strictest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    /// The error is upstream's text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "privileged" => Ok(Self::Privileged),
            "baseline" => Ok(Self::Baseline),
            "restricted" => Ok(Self::Restricted),
            _ => Err("must be one of privileged, baseline, restricted"),
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// `v1.MINOR`, or the newest there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Minor(u32),
    Latest,
}

impl Version {
    /// The error is upstream's text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let minor = text
            .strip_prefix("v1.")
            .filter(|minor| minor.bytes().all(|c| c.is_ascii_digit()) && (*minor == "0" || !minor.starts_with('0')));
        match (text, minor.and_then(|minor| minor.parse().ok())) {
            ("latest", _) => Ok(Self::Latest),
            (_, Some(minor)) => Ok(Self::Minor(minor)),
            _ => Err("must be \"latest\" or \"v1.x\""),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minor(minor) => write!(f, "v1.{minor}"),
            Self::Latest => f.write_str("latest"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelVersion {
    pub level: Level,
    pub version: Version,
}

impl LevelVersion {
    pub(crate) const PRIVILEGED: Self = Self { level: Level::Privileged, version: Version::Latest };

    fn is_equivalent(self, other: Self) -> bool {
        self == other || [self, other].iter().all(|policy| policy.level == Level::Privileged)
    }
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level.as_str(), self.version)
    }
}

/// What holds in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

impl Default for Policy {
    fn default() -> Self {
        let privileged = LevelVersion::PRIVILEGED;
        Self { enforce: privileged, audit: privileged, warn: privileged }
    }
}

impl Policy {
    /// By the labels of a namespace. What is wrong with a label is told, and the strictest is enforced in its place, but not
    /// audited or warned of.
    pub fn of(namespace: &Value, defaults: &Self) -> (Self, Vec<FieldError>) {
        let (mut policy, mut errors) = (*defaults, Vec::new());
        let label = |name: &str| object::label(namespace, &format!("{PREFIX}{name}"));
        let mut wrong = |name: &str, value: &str, text: &str| {
            let path = FieldPath::new("metadata.labels").key(&format!("{PREFIX}{name}"));
            errors.push(FieldError::invalid(&path, value, text));
        };
        let mut enforced = false;
        for (name, mode, instead) in [
            ("enforce", &mut policy.enforce, Level::Restricted),
            ("audit", &mut policy.audit, Level::Privileged),
            ("warn", &mut policy.warn, Level::Privileged),
        ] {
            if let Some(text) = label(name) {
                let level = Level::parse(text);
                enforced |= name == "enforce" && level.is_ok();
                mode.level = level.unwrap_or_else(|error| {
                    wrong(name, text, error);
                    instead
                });
            }
            let version = format!("{name}-version");
            if let Some(text) = label(&version) {
                mode.version = Version::parse(text).unwrap_or_else(|error| {
                    wrong(&version, text, error);
                    Version::Latest
                });
            }
        }
        // Who is refused shall be warned.
        if label("warn").is_none() && enforced && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if label("warn-version").is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }

    pub fn is_fully_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|mode| mode.level == Level::Privileged)
    }

    pub(crate) fn is_equivalent(&self, other: &Self) -> bool {
        self.enforce.is_equivalent(other.enforce)
            && self.audit.is_equivalent(other.audit)
            && self.warn.is_equivalent(other.warn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn of(labels: &[(&str, &str)]) -> (String, String) {
        let labels: std::collections::BTreeMap<String, &str> =
            labels.iter().map(|(name, value)| (format!("{PREFIX}{name}"), *value)).collect();
        let (policy, errors) = Policy::of(&json!({"metadata": {"labels": labels}}), &Policy::default());
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        (format!("{} {} {}", policy.enforce, policy.audit, policy.warn), errors.join("; "))
    }

    #[test]
    fn labels_choose() {
        let check = |labels: &[(&str, &str)], expect: &str, error: &str| {
            assert_eq!(of(labels), (expect.to_owned(), error.to_owned()), "{labels:?}");
        };
        check(&[], "privileged:latest privileged:latest privileged:latest", "");
        check(&[("enforce", "baseline")], "baseline:latest privileged:latest baseline:latest", "");
        check(
            &[("enforce", "baseline"), ("enforce-version", "v1.20")],
            "baseline:v1.20 privileged:latest baseline:v1.20",
            "",
        );
        check(
            &[("enforce", "baseline"), ("enforce-version", "v1.20"), ("warn-version", "v1.3")],
            "baseline:v1.20 privileged:latest baseline:v1.3",
            "",
        );
        check(
            &[("enforce", "restricted"), ("warn", "privileged"), ("audit", "baseline"), ("audit-version", "v1.99")],
            "restricted:latest baseline:v1.99 privileged:latest",
            "",
        );
        check(
            &[("enforce", "Baseline"), ("audit", "x"), ("warn-version", "1.2")],
            "restricted:latest privileged:latest privileged:latest",
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"Baseline\": must be one of privileged, baseline, \
             restricted; metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: \"x\": must be one of privileged, \
             baseline, restricted; metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"1.2\": must be \
             \"latest\" or \"v1.x\"",
        );
    }

    #[test]
    fn versions() {
        for (text, expect) in [("latest", Version::Latest), ("v1.0", Version::Minor(0)), ("v1.35", Version::Minor(35))]
        {
            assert_eq!(Version::parse(text), Ok(expect));
            assert_eq!(expect.to_string(), text);
        }
        for bad in ["", "v1", "v1.", "v1.01", "v2.0", "v1.x", "v1.-1", "v1.99999999999999999999", "1.3"] {
            assert!(Version::parse(bad).is_err(), "{bad}");
        }
        assert!(Version::Minor(99) < Version::Latest && Version::Minor(3) < Version::Minor(20));
    }
}
