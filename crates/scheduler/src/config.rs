//! The scheduler's configuration: the parts of upstream's `KubeSchedulerConfiguration` that there are.

use std::time::Duration;

use kybern_apimachinery::{Value, object};
use kybern_client::LeaseConfig;

/// What [`crate::run`] is told.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub profiles: Profiles,
    /// Work only while this lease is held; `None` where there is one scheduler.
    pub lease: Option<LeaseConfig>,
}

#[derive(Clone, Debug)]
pub struct Profiles {
    /// The schedulers' names that pods may ask for. All have the default plugins.
    pub names: Vec<Box<str>>,
    /// 0 adapts to the number of nodes.
    pub percentage_of_nodes_to_score: u32,
    pub initial_backoff: Duration,
    pub max_backoff: Duration,
}

impl Default for Profiles {
    fn default() -> Self {
        Self {
            names: vec!["default-scheduler".into()],
            percentage_of_nodes_to_score: 0,
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(10),
        }
    }
}

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "no kind \"{kind}\" is registered for version \"{api_version}\": the file must be a kubescheduler.config.k8s.io/v1 KubeSchedulerConfiguration"
    )]
    Kind { api_version: String, kind: String },
    #[error("{path}: Invalid value: {value}: {expected}")]
    Invalid { path: &'static str, value: Value, expected: &'static str },
    /// What would silently do something else than it says.
    #[error("{path}: not supported: {cure}")]
    Unsupported { path: &'static str, cure: &'static str },
}

impl Config {
    /// Reads a `KubeSchedulerConfiguration`. `identity` is this process among the candidates for leadership.
    pub fn from_file(file: &Value, identity: &str) -> Result<Self, ConfigError> {
        let (api_version, kind) = (object::api_version(file), object::kind(file));
        if api_version != "kubescheduler.config.k8s.io/v1" || kind != "KubeSchedulerConfiguration" {
            return Err(ConfigError::Kind { api_version: api_version.to_owned(), kind: kind.to_owned() });
        }
        let mut profiles = Profiles::default();
        if let Some(n) = number(file, "percentageOfNodesToScore", 0..=100, "not in valid range [0-100]")? {
            profiles.percentage_of_nodes_to_score = n as u32;
        }
        let seconds = |name| number(file, name, 1..=86_400, "must be greater than 0");
        if let Some(n) = seconds("podInitialBackoffSeconds")? {
            profiles.initial_backoff = Duration::from_secs(n);
        }
        if let Some(n) = seconds("podMaxBackoffSeconds")? {
            profiles.max_backoff = Duration::from_secs(n);
        }
        if profiles.max_backoff < profiles.initial_backoff {
            let value = file["podMaxBackoffSeconds"].clone();
            let expected = "must be greater than or equal to podInitialBackoffSeconds";
            return Err(ConfigError::Invalid { path: "podMaxBackoffSeconds", value, expected });
        }
        if let Some(listed) = file["profiles"].as_array().filter(|listed| !listed.is_empty()) {
            profiles.names = listed.iter().map(profile_name).collect::<Result<_, _>>()?;
        }
        let lease = &file["leaderElection"];
        let elects = lease["leaderElect"].as_bool().unwrap_or(true);
        let text = |field: &str, default: &str| lease[field].as_str().unwrap_or(default).to_owned();
        let lease = elects.then(|| {
            LeaseConfig::new(
                &text("resourceNamespace", "kube-system"),
                &text("resourceName", "kube-scheduler"),
                identity,
            )
        });
        Ok(Self { profiles, lease })
    }
}

fn profile_name(profile: &Value) -> Result<Box<str>, ConfigError> {
    for path in ["plugins", "pluginConfig"] {
        if !profile[path].is_null() {
            return Err(ConfigError::Unsupported { path, cure: "every profile has the default plugins; leave it out" });
        }
    }
    Ok(profile["schedulerName"].as_str().unwrap_or("default-scheduler").into())
}

fn number(
    file: &Value,
    path: &'static str,
    range: std::ops::RangeInclusive<u64>,
    expected: &'static str,
) -> Result<Option<u64>, ConfigError> {
    match &file[path] {
        Value::Null => Ok(None),
        value => match value.as_u64().filter(|n| range.contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(ConfigError::Invalid { path, value: value.clone(), expected }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn read(mut file: Value) -> Result<Config, String> {
        file["apiVersion"] = "kubescheduler.config.k8s.io/v1".into();
        file["kind"] = "KubeSchedulerConfiguration".into();
        Config::from_file(&file, "me").map_err(|e| e.to_string())
    }

    #[test]
    fn files() {
        let config = read(json!({"percentageOfNodesToScore": 40, "podMaxBackoffSeconds": 20, "leaderElection": {"leaderElect": false}, "profiles": [{"schedulerName": "a"}, {"schedulerName": "b"}]})).unwrap();
        assert_eq!(config.profiles.names, ["a".into(), "b".into()]);
        assert_eq!((config.profiles.percentage_of_nodes_to_score, config.profiles.max_backoff.as_secs()), (40, 20));
        assert!(config.lease.is_none());
        let lease = read(json!({})).unwrap().lease.unwrap();
        assert_eq!((lease.namespace.as_str(), lease.name.as_str()), ("kube-system", "kube-scheduler"));
    }

    #[test]
    fn bad_files() {
        let check = |file: Value, expect: &str| assert_eq!(read(file).unwrap_err(), expect);
        check(
            json!({"percentageOfNodesToScore": 101}),
            "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]",
        );
        check(
            json!({"podInitialBackoffSeconds": 0}),
            "podInitialBackoffSeconds: Invalid value: 0: must be greater than 0",
        );
        check(
            json!({"podMaxBackoffSeconds": 1, "podInitialBackoffSeconds": 5}),
            "podMaxBackoffSeconds: Invalid value: 1: must be greater than or equal to podInitialBackoffSeconds",
        );
        check(
            json!({"profiles": [{"plugins": {}}]}),
            "plugins: not supported: every profile has the default plugins; leave it out",
        );
        assert!(Config::from_file(&json!({"kind": "Pod", "apiVersion": "v1"}), "me").is_err());
    }
}
