//! The scheduler's configuration: the parts of upstream's `KubeSchedulerConfiguration` that there are.

use std::sync::Arc;
use std::time::Duration;

use kybern_apimachinery::{Value, object};
use kybern_client::LeaseConfig;

use crate::arguments::Arguments;
use crate::chain::Chain;
use crate::explain::Explanations;
use crate::extender::Extenders;
use crate::metrics::Metrics;
use crate::pod::PodInfo;

/// The scheduler of pods that name none.
const DEFAULT_NAME: &str = "default-scheduler";

/// What [`crate::run`] is told.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub profiles: Profiles,
    /// Work only while this lease is held; `None` where there is one scheduler.
    pub lease: Option<LeaseConfig>,
    pub metrics: Metrics,
    pub explanations: Explanations,
    pub features: Features,
}

/// Upstream's gates DRADeviceTaints, DRADeviceTaintRules and GangScheduling, all closed by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    pub device_taints: bool,
    pub device_taint_rules: bool,
    pub gangs: bool,
}

#[derive(Clone, Debug)]
pub struct Profiles {
    /// At least one.
    pub list: Vec<Profile>,
    pub initial_backoff: Duration,
    pub max_backoff: Duration,
    pub extenders: Extenders,
}

/// A scheduler that pods may ask for by name.
#[derive(Clone)]
pub struct Profile {
    pub name: Box<str>,
    /// 0 adapts to the number of nodes.
    pub percentage_of_nodes_to_score: u32,
    pub chain: Arc<Chain>,
}

impl Default for Profile {
    fn default() -> Self {
        Self { name: DEFAULT_NAME.into(), percentage_of_nodes_to_score: 0, chain: Arc::default() }
    }
}

impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profile").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Profiles {
    /// Whether pods that ask for this scheduler are ours.
    pub fn has(&self, name: &str) -> bool {
        self.list.iter().any(|profile| *profile.name == *name)
    }

    /// The profile of a pod that waits.
    pub fn of(&self, pod: &PodInfo) -> &Profile {
        &self.list[self.place_of(pod)]
    }

    /// Where in the list it is.
    pub fn place_of(&self, pod: &PodInfo) -> usize {
        let name = &pod.wants().scheduler;
        self.list.iter().position(|profile| profile.name == *name).unwrap_or(0)
    }
}

impl Default for Profiles {
    fn default() -> Self {
        Self {
            list: vec![Profile::default()],
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(10),
            extenders: Extenders::default(),
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
    Invalid { path: String, value: Value, expected: &'static str },
    #[error("{path}: Duplicate value: {value:?}")]
    Duplicate { path: String, value: String },
    #[error("{path}: Required value")]
    Required { path: String },
    #[error("{path}: {error}")]
    Malformed { path: String, error: String },
    /// What would silently do something else than it says.
    #[error("{path}: not supported: {cure}")]
    Unsupported { path: String, cure: &'static str },
}

impl Config {
    /// Reads a `KubeSchedulerConfiguration`. `identity` is this process among the candidates for leadership.
    pub fn from_file(file: &Value, identity: &str) -> Result<Self, ConfigError> {
        let (api_version, kind) = (object::api_version(file), object::kind(file));
        if api_version != "kubescheduler.config.k8s.io/v1" || kind != "KubeSchedulerConfiguration" {
            return Err(ConfigError::Kind { api_version: api_version.to_owned(), kind: kind.to_owned() });
        }
        let mut profiles = Profiles::default();
        let (extenders, ignored) = Extenders::of(&file["extenders"])?;
        profiles.extenders = extenders;
        let percentage = percentage(file, "")?.unwrap_or(0);
        if let Some(listed) = file["profiles"].as_array().filter(|listed| !listed.is_empty()) {
            profiles.list.clear();
            for (n, read) in listed.iter().enumerate() {
                let profile = profile(read, n, listed.len() == 1, percentage, &ignored)?;
                if let Some(before) = profiles.list.iter().position(|other| other.name == profile.name) {
                    let path = format!("profiles[{n}].schedulerName");
                    return Err(ConfigError::Duplicate { path, value: format!("profiles[{before}].schedulerName") });
                }
                profiles.list.push(profile);
            }
        } else {
            profiles.list = vec![profile(&Value::Null, 0, true, percentage, &ignored)?];
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
            return Err(ConfigError::Invalid { path: "podMaxBackoffSeconds".to_owned(), value, expected });
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
        Ok(Self {
            profiles,
            lease,
            metrics: Metrics::default(),
            explanations: Explanations::default(),
            features: Features::default(),
        })
    }
}

fn profile(
    read: &Value,
    n: usize,
    is_only: bool,
    percentage_of_all: u32,
    ignored: &[String],
) -> Result<Profile, ConfigError> {
    let at = |field: &str| format!("profiles[{n}].{field}");
    let name = match read["schedulerName"].as_str() {
        Some(name) if !name.is_empty() => name,
        None if is_only => DEFAULT_NAME,
        _ => return Err(ConfigError::Required { path: at("schedulerName") }),
    };
    let mut arguments = Arguments::of(&read["pluginConfig"], &at("pluginConfig"))?;
    if !ignored.is_empty() {
        arguments.fit.ignored = ignored.to_vec();
    }
    Ok(Profile {
        name: name.into(),
        percentage_of_nodes_to_score: percentage(read, &at(""))?.unwrap_or(percentage_of_all),
        chain: Arc::new(Chain::of(&read["plugins"], &arguments, &at("plugins"))?),
    })
}

fn percentage(from: &Value, at: &str) -> Result<Option<u32>, ConfigError> {
    let found = number(from, "percentageOfNodesToScore", 0..=100, "not in valid range [0-100]");
    match found {
        Err(ConfigError::Invalid { path, value, expected }) => {
            Err(ConfigError::Invalid { path: format!("{at}{path}"), value, expected })
        }
        other => other.map(|n| n.map(|n| n as u32)),
    }
}

fn number(
    file: &Value,
    path: &str,
    range: std::ops::RangeInclusive<u64>,
    expected: &'static str,
) -> Result<Option<u64>, ConfigError> {
    match &file[path] {
        Value::Null => Ok(None),
        value => match value.as_u64().filter(|n| range.contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(ConfigError::Invalid { path: path.to_owned(), value: value.clone(), expected }),
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
        let config = read(json!({"percentageOfNodesToScore": 40, "podMaxBackoffSeconds": 20, "leaderElection": {"leaderElect": false}, "profiles": [{"schedulerName": "a"}, {"schedulerName": "b", "percentageOfNodesToScore": 7}]})).unwrap();
        let profile = |profile: &Profile| format!("{} {}", profile.name, profile.percentage_of_nodes_to_score);
        assert_eq!(config.profiles.list.iter().map(profile).collect::<Vec<_>>(), ["a 40", "b 7"]);
        assert_eq!(config.profiles.max_backoff.as_secs(), 20);
        assert!(config.lease.is_none());
        let config = read(json!({"profiles": [{}]})).unwrap();
        assert_eq!(&*config.profiles.list[0].name, "default-scheduler");
        let lease = config.lease.unwrap();
        assert_eq!((lease.namespace.as_str(), lease.name.as_str()), ("kube-system", "kube-scheduler"));
    }

    /// The filters, and the scores with their weights.
    fn chain(plugins: Value) -> (String, String) {
        let config = read(json!({"profiles": [{"plugins": plugins}]})).unwrap();
        let chain = &config.profiles.list[0].chain;
        let filters: Vec<&str> = chain.filter.iter().map(|plugin| plugin.name()).collect();
        let scores: Vec<String> =
            chain.score.iter().map(|(plugin, weight)| format!("{}={weight}", plugin.name())).collect();
        (filters.join(" "), scores.join(" "))
    }

    #[test]
    fn plugins() {
        let all = "NodeUnschedulable NodeName TaintToleration NodeAffinity NodePorts NodeResourcesFit VolumeRestrictions \
                   NodeVolumeLimits VolumeBinding VolumeZone PodTopologySpread InterPodAffinity DynamicResources";
        let scores = "TaintToleration=3 NodeAffinity=2 NodeResourcesFit=1 PodTopologySpread=2 InterPodAffinity=2 \
                      NodeResourcesBalancedAllocation=1 ImageLocality=1";
        let check = |plugins: Value, filters: &str, expect: &str| {
            assert_eq!(chain(plugins.clone()), (filters.to_owned(), expect.to_owned()), "{plugins}");
        };
        let every = || json!([{"name": "*"}]);
        check(Value::Null, all, scores);
        check(json!({"preScore": {"disabled": every()}, "score": {"disabled": every()}}), all, "");
        let some = json!([{"name": "ImageLocality", "weight": 7}, {"name": "NodeAffinity"}]);
        check(json!({"score": {"disabled": every(), "enabled": some}}), all, "ImageLocality=7 NodeAffinity=1");
        check(
            json!({"score": {"enabled": [{"name": "ImageLocality", "weight": 7}], "disabled": [{"name": "NodeAffinity"}]}}),
            all,
            "ImageLocality=7 TaintToleration=3 NodeResourcesFit=1 PodTopologySpread=2 InterPodAffinity=2 NodeResourcesBalancedAllocation=1",
        );
        let few =
            json!([{"name": "DefaultBinder"}, {"name": "NodeResourcesFit", "weight": 5}, {"name": "PrioritySort"}]);
        check(json!({"multiPoint": {"disabled": every(), "enabled": few}}), "NodeResourcesFit", "NodeResourcesFit=5");
        let anew = json!({"multiPoint": {"enabled": [{"name": "NodeAffinity", "weight": 9}]}});
        check(anew, all, &scores.replace("NodeAffinity=2", "NodeAffinity=9"));
        let less = json!({"multiPoint": {"disabled": [{"name": "NodePorts"}, {"name": "DynamicResources"}]}});
        check(less, &all.replace("NodePorts ", "").replace(" DynamicResources", ""), scores);
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
        check(json!({"profiles": [{"schedulerName": "a"}, {}]}), "profiles[1].schedulerName: Required value");
        check(
            json!({"profiles": [{"schedulerName": "a"}, {"schedulerName": "a"}]}),
            "profiles[1].schedulerName: Duplicate value: \"profiles[0].schedulerName\"",
        );
        let plugins = |plugins: Value, expect: &str| check(json!({"profiles": [{"plugins": plugins}]}), expect);
        plugins(
            json!({"filter": {"enabled": [{"name": "Mine"}]}}),
            "profiles[0].plugins.filter.enabled: Invalid value: \"Mine\": there is no such plugin",
        );
        plugins(
            json!({"multiPoint": {"enabled": [{"name": "Own"}]}}),
            "profiles[0].plugins.multiPoint.enabled: Invalid value: \"Own\": there is no such plugin",
        );
        plugins(
            json!({"filter": {"enabled": [{"name": "ImageLocality"}]}}),
            "profiles[0].plugins.filter: Invalid value: \"ImageLocality\": the plugin does not extend this point",
        );
        plugins(
            json!({"score": {"enabled": [{"name": "NodeAffinity"}, {"name": "NodeAffinity"}]}}),
            "profiles[0].plugins.score.enabled: Duplicate value: \"NodeAffinity\"",
        );
        plugins(
            json!({"preFilter": {"disabled": [{"name": "NodePorts"}]}}),
            "profiles[0].plugins: not supported: a plugin filters with its preFilter and scores with its preScore, or does neither; disable both",
        );
        plugins(
            json!({"bind": {"disabled": [{"name": "*"}]}}),
            "profiles[0].plugins.bind: Invalid value: \"\": at least one plugin is needed",
        );
        assert!(Config::from_file(&json!({"kind": "Pod", "apiVersion": "v1"}), "me").is_err());
    }
}
