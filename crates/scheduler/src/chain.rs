//! The plugins, their order and weights: which of them run at each extension point of a profile.

use std::collections::BTreeSet;
use std::sync::Arc;

use kybern_apimachinery::Value;

use crate::arguments::Arguments;
use crate::config::ConfigError;
use crate::framework::{Bind, Filter, Permit, PostFilter, PreBind, PreEnqueue, QueueSort, Reserve, Score};
use crate::plugins::default_binder::DefaultBinder;
use crate::plugins::dynamic_resources::DynamicResources;
use crate::plugins::gang_scheduling::{self, GangScheduling};
use crate::plugins::image_locality::ImageLocality;
use crate::plugins::node_name::NodeName;
use crate::plugins::node_ports::NodePorts;
use crate::plugins::node_unschedulable::NodeUnschedulable;
use crate::plugins::node_volume_limits::NodeVolumeLimits;
use crate::plugins::priority_sort::PrioritySort;
use crate::plugins::scheduling_gates::SchedulingGates;
use crate::plugins::taint_toleration::TaintToleration;
use crate::plugins::volume_binding::VolumeBinding;
use crate::plugins::volume_restrictions::VolumeRestrictions;
use crate::plugins::volume_zone::VolumeZone;

/// Upstream's plugins, in its order, with the weights of their scores.
const PLUGINS: [(&str, i64); 20] = [
    ("SchedulingGates", 0),
    ("PrioritySort", 0),
    ("NodeUnschedulable", 0),
    ("NodeName", 0),
    ("TaintToleration", 3),
    ("NodeAffinity", 2),
    ("NodePorts", 0),
    ("NodeResourcesFit", 1),
    ("VolumeRestrictions", 0),
    ("NodeVolumeLimits", 0),
    ("VolumeBinding", 0),
    ("VolumeZone", 0),
    ("PodTopologySpread", 2),
    ("InterPodAffinity", 2),
    ("DynamicResources", 0),
    ("DefaultPreemption", 0),
    ("NodeResourcesBalancedAllocation", 1),
    ("ImageLocality", 1),
    ("DefaultBinder", 0),
    // Behind its gate, without which it does nothing.
    (gang_scheduling::NAME, 0),
];

/// What runs at each extension point.
pub struct Chain {
    pub queue_sort: Arc<dyn QueueSort>,
    pub pre_enqueue: Vec<Box<dyn PreEnqueue>>,
    /// At most 32: their verdicts are kept as bits.
    pub filter: Vec<Box<dyn Filter>>,
    pub post_filter: Vec<Box<dyn PostFilter>>,
    /// With their weights.
    pub score: Vec<(Box<dyn Score>, i64)>,
    pub reserve: Vec<Box<dyn Reserve>>,
    pub permit: Vec<Box<dyn Permit>>,
    pub pre_bind: Vec<Box<dyn PreBind>>,
    pub bind: Vec<Box<dyn Bind>>,
}

impl Default for Chain {
    /// Upstream's default plugins and weights.
    fn default() -> Self {
        Self::of(&Value::Null, &Arguments::default(), "").unwrap_or_else(|error| unreachable!("the defaults: {error}"))
    }
}

fn pre_enqueue(name: &str) -> Option<Box<dyn PreEnqueue>> {
    Some(match name {
        "SchedulingGates" => Box::new(SchedulingGates),
        gang_scheduling::NAME => Box::new(GangScheduling),
        _ => return None,
    })
}

fn post_filter(name: &str, args: &Arguments) -> Option<Box<dyn PostFilter>> {
    Some(match name {
        "DynamicResources" => Box::new(DynamicResources),
        "DefaultPreemption" => Box::new(args.preemption.clone()),
        _ => return None,
    })
}

fn pre_bind(name: &str) -> Option<Box<dyn PreBind>> {
    Some(match name {
        "VolumeBinding" => Box::new(VolumeBinding),
        "DynamicResources" => Box::new(DynamicResources),
        _ => return None,
    })
}

fn bind(name: &str) -> Option<Box<dyn Bind>> {
    (name == "DefaultBinder").then(|| Box::new(DefaultBinder) as Box<dyn Bind>)
}

fn plain<T>(weighted: Vec<(T, i64)>) -> Vec<T> {
    weighted.into_iter().map(|(plugin, _)| plugin).collect()
}

fn filter(name: &str, args: &Arguments) -> Option<Box<dyn Filter>> {
    Some(match name {
        "NodeUnschedulable" => Box::new(NodeUnschedulable),
        "NodeName" => Box::new(NodeName),
        "TaintToleration" => Box::new(TaintToleration),
        "NodeAffinity" => Box::new(args.node_affinity.clone()),
        "NodePorts" => Box::new(NodePorts),
        "NodeResourcesFit" => Box::new(args.fit.clone()),
        "VolumeRestrictions" => Box::new(VolumeRestrictions),
        "NodeVolumeLimits" => Box::new(NodeVolumeLimits),
        "VolumeBinding" => Box::new(VolumeBinding),
        "VolumeZone" => Box::new(VolumeZone),
        "PodTopologySpread" => Box::new(args.spread.clone()),
        "InterPodAffinity" => Box::new(args.inter_pod_affinity.clone()),
        "DynamicResources" => Box::new(DynamicResources),
        _ => return None,
    })
}

fn score(name: &str, args: &Arguments) -> Option<Box<dyn Score>> {
    Some(match name {
        "TaintToleration" => Box::new(TaintToleration),
        "NodeAffinity" => Box::new(args.node_affinity.clone()),
        "NodeResourcesFit" => Box::new(args.fit.clone()),
        "PodTopologySpread" => Box::new(args.spread.clone()),
        "InterPodAffinity" => Box::new(args.inter_pod_affinity.clone()),
        "NodeResourcesBalancedAllocation" => Box::new(args.balanced.clone()),
        "ImageLocality" => Box::new(ImageLocality),
        _ => return None,
    })
}

impl Chain {
    /// What a profile's `plugins`, which are at `path`, make of the defaults.
    pub fn of(plugins: &Value, args: &Arguments, path: &str) -> Result<Self, ConfigError> {
        let sets = Sets { plugins, path, defaults: Sets::defaults(plugins, path)? };
        let queue_sort = sets.point("queueSort", |name| (name == "PrioritySort").then_some(PrioritySort))?;
        let bind = sets.point("bind", bind)?;
        let filters = sets.point("filter", |name| filter(name, args))?;
        let scores = sets.point("score", |name| score(name, args))?;
        // What a plugin computes beforehand belongs to its filter or score here.
        let names = sets.point("preFilter", |name| filter(name, args).map(|plugin| plugin.name()))?;
        let computes = |plugin: &str, names: &[(&str, i64)]| names.iter().any(|(name, _)| *name == plugin);
        let is_whole = filters.iter().all(|(plugin, _)| computes(plugin.name(), &names));
        let names = sets.point("preScore", |name| score(name, args).map(|plugin| plugin.name()))?;
        if !is_whole || !scores.iter().all(|(plugin, _)| computes(plugin.name(), &names)) {
            let cure =
                "a plugin filters with its preFilter and scores with its preScore, or does neither; disable both";
            return Err(ConfigError::Unsupported { path: path.to_owned(), cure });
        }
        for (found, point) in [(queue_sort.len(), "queueSort"), (bind.len(), "bind")] {
            if found == 0 {
                return Err(sets.invalid(point, "", "at least one plugin is needed"));
            }
        }
        // What volume binding reserves it reads from the cluster.
        let reserve = sets.point("reserve", |name| match name {
            "VolumeBinding" => Some(None),
            "DynamicResources" => Some(Some(Box::new(DynamicResources) as Box<dyn Reserve>)),
            gang_scheduling::NAME => Some(Some(Box::new(GangScheduling))),
            _ => None,
        })?;
        let permit = |name: &str| (name == gang_scheduling::NAME).then(|| Box::new(GangScheduling) as Box<dyn Permit>);
        sets.point("postBind", |_| None::<()>)?;
        Ok(Self {
            queue_sort: Arc::new(PrioritySort),
            pre_enqueue: plain(sets.point("preEnqueue", pre_enqueue)?),
            filter: plain(filters),
            post_filter: plain(sets.point("postFilter", |name| post_filter(name, args))?),
            score: scores,
            reserve: plain(reserve).into_iter().flatten().collect(),
            permit: plain(sets.point("permit", permit)?),
            pre_bind: plain(sets.point("preBind", pre_bind)?),
            bind: plain(bind),
        })
    }
}

/// `plugins` of a profile, by extension point.
struct Sets<'a> {
    plugins: &'a Value,
    path: &'a str,
    /// Those of `multiPoint`.
    defaults: Vec<(&'a str, i64)>,
}

fn is_named(list: &Value, wanted: &str) -> bool {
    list.as_array().into_iter().flatten().any(|entry| entry["name"] == wanted)
}

fn listed(list: &Value) -> impl Iterator<Item = (&str, i64)> {
    list.as_array()
        .into_iter()
        .flatten()
        .map(|entry| (entry["name"].as_str().unwrap_or(""), entry["weight"].as_i64().unwrap_or(0)))
}

impl<'a> Sets<'a> {
    /// The default plugins, those that are configured anew in their old places, and then others.
    fn defaults(plugins: &'a Value, path: &str) -> Result<Vec<(&'a str, i64)>, ConfigError> {
        let (enabled, disabled) = (&plugins["multiPoint"]["enabled"], &plugins["multiPoint"]["disabled"]);
        let mut found: Vec<(&str, i64)> = Vec::new();
        if !is_named(disabled, "*") {
            for &(name, weight) in PLUGINS.iter().filter(|(name, _)| !is_named(disabled, name)) {
                let anew = listed(enabled).find(|(other, _)| *other == name);
                found.push((name, anew.map_or(weight, |(_, weight)| weight)));
            }
        }
        for (name, weight) in listed(enabled) {
            if !PLUGINS.iter().any(|(known, _)| *known == name) {
                return Err(unknown(&format!("{path}.multiPoint.enabled"), name));
            }
            if !found.iter().any(|(other, _)| *other == name) {
                found.push((name, weight));
            }
        }
        Ok(found)
    }

    fn invalid(&self, point: &str, value: &str, expected: &'static str) -> ConfigError {
        ConfigError::Invalid { path: format!("{}.{point}", self.path), value: value.into(), expected }
    }

    /// The plugins of an extension point, with weights: those that are named there in place of defaults, the other defaults,
    /// and what else is named there.
    fn point<T>(&self, point: &str, make: impl Fn(&str) -> Option<T>) -> Result<Vec<(T, i64)>, ConfigError> {
        let (enabled, disabled) = (&self.plugins[point]["enabled"], &self.plugins[point]["disabled"]);
        let defaults: Vec<(&str, i64)> = match is_named(disabled, "*") {
            true => Vec::new(),
            false => self.defaults.iter().copied().filter(|(name, _)| !is_named(disabled, name)).collect(),
        };
        let mut seen = BTreeSet::new();
        if let Some((name, _)) = listed(enabled).find(|(name, _)| !seen.insert(*name)) {
            return Err(ConfigError::Duplicate {
                path: format!("{}.{point}.enabled", self.path),
                value: name.to_owned(),
            });
        }
        let is_default = |name: &str| defaults.iter().any(|(other, _)| *other == name);
        let (instead, others): (Vec<_>, Vec<_>) = listed(enabled).partition(|(name, _)| is_default(name));
        let kept = defaults.iter().copied().filter(|(name, _)| !is_named(enabled, name));
        let mut found = Vec::new();
        for (name, weight) in instead.iter().copied().chain(kept).chain(others) {
            match make(name) {
                Some(plugin) => found.push((plugin, weight.max(1))),
                None if !is_named(enabled, name) => {}
                None if PLUGINS.iter().any(|(known, _)| *known == name) => {
                    return Err(self.invalid(point, name, "the plugin does not extend this point"));
                }
                None => return Err(unknown(&format!("{}.{point}.enabled", self.path), name)),
            }
        }
        Ok(found)
    }
}

fn unknown(path: &str, name: &str) -> ConfigError {
    ConfigError::Invalid { path: path.to_owned(), value: name.into(), expected: "there is no such plugin" }
}
