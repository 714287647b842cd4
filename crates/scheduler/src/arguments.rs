//! Plugins' arguments: `pluginConfig` of a profile, with upstream's defaults.

use kybern_api::core::v1::{NodeAffinity as Affinity, TopologySpreadConstraint};
use kybern_api::node_affinity::PreferredTerm;
use kybern_apimachinery::Value;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::config::ConfigError;
use crate::plugins::balanced_allocation::NodeResourcesBalancedAllocation;
use crate::plugins::default_preemption::DefaultPreemption;
use crate::plugins::inter_pod_affinity::InterPodAffinity;
use crate::plugins::node_affinity::NodeAffinity;
use crate::plugins::node_resources_fit::{NodeResourcesFit, Strategy};
use crate::plugins::pod_topology_spread::PodTopologySpread;
use crate::resources::Kind;

/// The plugins that take arguments, as they are configured.
#[derive(Clone, Default)]
pub struct Arguments {
    pub preemption: DefaultPreemption,
    pub inter_pod_affinity: InterPodAffinity,
    pub node_affinity: NodeAffinity,
    pub fit: NodeResourcesFit,
    pub balanced: NodeResourcesBalancedAllocation,
    pub spread: PodTopologySpread,
}

/// The highest score of a point of a shape: a tenth of a node's.
const MAX_POINT_SCORE: i64 = 10;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct PreemptionArgs {
    min_candidate_nodes_percentage: i64,
    min_candidate_nodes_absolute: i64,
}

impl Default for PreemptionArgs {
    fn default() -> Self {
        Self { min_candidate_nodes_percentage: 10, min_candidate_nodes_absolute: 100 }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct AffinityArgs {
    hard_pod_affinity_weight: i64,
    ignore_preferred_terms_of_existing_pods: bool,
}

impl Default for AffinityArgs {
    fn default() -> Self {
        Self { hard_pod_affinity_weight: 1, ignore_preferred_terms_of_existing_pods: false }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct NodeAffinityArgs {
    added_affinity: Option<Affinity>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct FitArgs {
    ignored_resources: Vec<String>,
    ignored_resource_groups: Vec<String>,
    scoring_strategy: StrategyArgs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct StrategyArgs {
    r#type: Option<String>,
    resources: Vec<Weighted>,
    requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weighted {
    name: String,
    #[serde(default)]
    weight: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratio {
    shape: Vec<Point>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    utilization: i64,
    score: i64,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BalancedArgs {
    resources: Vec<Weighted>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct SpreadArgs {
    default_constraints: Vec<TopologySpreadConstraint>,
    defaulting_type: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct VolumeBindingArgs {
    bind_timeout_seconds: Option<i64>,
}

impl Arguments {
    /// Reads a profile's `pluginConfig`, which is at `path`.
    pub fn of(listed: &Value, path: &str) -> Result<Self, ConfigError> {
        let mut found = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        for (n, entry) in listed.as_array().into_iter().flatten().enumerate() {
            let name = entry["name"].as_str().unwrap_or("");
            let path = format!("{path}[{n}]");
            if seen.contains(&name) {
                return Err(ConfigError::Duplicate { path, value: name.into() });
            }
            seen.push(name);
            found.take(name, &entry["args"], &Reader { path: format!("{path}.args") })?;
        }
        Ok(found)
    }

    fn take(&mut self, name: &str, args: &Value, reader: &Reader) -> Result<(), ConfigError> {
        match name {
            "DefaultPreemption" => self.preemption = reader.preemption(args)?,
            "InterPodAffinity" => {
                let AffinityArgs { hard_pod_affinity_weight: weight, ignore_preferred_terms_of_existing_pods: ignores } =
                    reader.read(name, args)?;
                reader.within("hardPodAffinityWeight", weight, 0, 100)?;
                self.inter_pod_affinity = InterPodAffinity { hard_weight: weight, ignores_preferred: ignores };
            }
            "NodeAffinity" => {
                let added = reader.read::<NodeAffinityArgs>(name, args)?.added_affinity.unwrap_or_default();
                let required = added.required_during_scheduling_ignored_during_execution;
                let preferred = added.preferred_during_scheduling_ignored_during_execution;
                self.node_affinity = NodeAffinity {
                    required: required.map(|selector| kybern_api::node_affinity::terms(&selector)),
                    preferred: preferred.iter().flatten().map(PreferredTerm::of).collect(),
                };
            }
            "NodeResourcesFit" => self.fit = reader.fit(args)?,
            "NodeResourcesBalancedAllocation" => {
                let listed = reader.read::<BalancedArgs>(name, args)?.resources;
                if let Some((n, resource)) =
                    listed.iter().enumerate().find(|(_, resource)| !matches!(resource.weight, 0 | 1))
                {
                    return Err(reader.invalid(&format!("resources[{n}].weight"), resource.weight, "must be 1"));
                }
                if !listed.is_empty() {
                    self.balanced.resources = listed.iter().map(|resource| Kind::of(&resource.name)).collect();
                }
            }
            "PodTopologySpread" => self.spread = reader.spread(args)?,
            "VolumeBinding" => {
                let limit = reader.read::<VolumeBindingArgs>(name, args)?.bind_timeout_seconds;
                if limit.is_some_and(|limit| limit != 600) {
                    let cure = "a pod waits for its volumes as long as it takes; leave it out";
                    return Err(ConfigError::Unsupported { path: reader.at("bindTimeoutSeconds"), cure });
                }
            }
            // Arguments of others are theirs to read.
            _ => {}
        }
        Ok(())
    }
}

struct Reader {
    path: String,
}

impl Reader {
    fn at(&self, field: &str) -> String {
        format!("{}.{field}", self.path)
    }

    fn invalid(&self, field: &str, value: impl Into<Value>, expected: &'static str) -> ConfigError {
        ConfigError::Invalid { path: self.at(field), value: value.into(), expected }
    }

    fn within(&self, field: &str, value: i64, least: i64, most: i64) -> Result<(), ConfigError> {
        let expected = match (least, most) {
            (1, _) => "not in valid range (0, 100]",
            (_, MAX_POINT_SCORE) => "not in valid range [0, 10]",
            (_, 100) => "not in valid range [0, 100]",
            _ => "not in valid range [0, inf)",
        };
        if (least..=most).contains(&value) { Ok(()) } else { Err(self.invalid(field, value, expected)) }
    }

    fn read<T: DeserializeOwned + Default>(&self, name: &str, args: &Value) -> Result<T, ConfigError> {
        let Value::Object(fields) = args else { return Ok(T::default()) };
        let mut fields = fields.clone();
        if let Some(kind) = fields.remove("kind").filter(|kind| kind.as_str() != Some(format!("{name}Args").as_str())) {
            return Err(self.invalid("kind", kind, "has to match plugin args"));
        }
        fields.remove("apiVersion");
        serde_json::from_value(Value::Object(fields))
            .map_err(|error| ConfigError::Malformed { path: self.path.clone(), error: error.to_string() })
    }

    fn preemption(&self, args: &Value) -> Result<DefaultPreemption, ConfigError> {
        let PreemptionArgs { min_candidate_nodes_percentage: percentage, min_candidate_nodes_absolute: absolute } =
            self.read("DefaultPreemption", args)?;
        self.within("minCandidateNodesPercentage", percentage, 0, 100)?;
        self.within("minCandidateNodesAbsolute", absolute, 0, i64::from(i32::MAX))?;
        if percentage == 0 && absolute == 0 {
            let expected = "cannot be zero at the same time as minCandidateNodesAbsolute";
            return Err(self.invalid("minCandidateNodesPercentage", 0, expected));
        }
        Ok(DefaultPreemption { min_candidates_percent: percentage as usize, min_candidates: absolute as usize })
    }

    fn fit(&self, args: &Value) -> Result<NodeResourcesFit, ConfigError> {
        let FitArgs { ignored_resources: ignored, ignored_resource_groups: ignored_groups, scoring_strategy } =
            self.read("NodeResourcesFit", args)?;
        if let Some((n, group)) = ignored_groups.iter().enumerate().find(|(_, group)| group.contains('/')) {
            let expected = "resource group name can't contain '/'";
            return Err(self.invalid(&format!("ignoredResourceGroups[{n}]"), group.as_str(), expected));
        }
        let mut found = NodeResourcesFit { ignored, ignored_groups, ..NodeResourcesFit::default() };
        let StrategyArgs { r#type: kind, resources, requested_to_capacity_ratio } = scoring_strategy;
        for (n, resource) in resources.iter().enumerate() {
            let weight = if resource.weight == 0 { 1 } else { resource.weight };
            self.within(&format!("scoringStrategy.resources[{n}].weight"), weight, 1, 100)?;
        }
        if !resources.is_empty() {
            let one = |resource: &Weighted| (Kind::of(&resource.name), resource.weight.max(1));
            found.resources = resources.iter().map(one).collect();
        }
        found.strategy = match kind.as_deref().unwrap_or("LeastAllocated") {
            "LeastAllocated" => Strategy::LeastAllocated,
            "MostAllocated" => Strategy::MostAllocated,
            "RequestedToCapacityRatio" => {
                let shape = requested_to_capacity_ratio.map(|ratio| ratio.shape).unwrap_or_default();
                Strategy::RequestedToCapacityRatio(self.shape(&shape)?)
            }
            other => {
                let expected = "supported values: \"LeastAllocated\", \"MostAllocated\", \"RequestedToCapacityRatio\"";
                return Err(self.invalid("scoringStrategy.type", other, expected));
            }
        };
        Ok(found)
    }

    fn shape(&self, shape: &[Point]) -> Result<Vec<(i64, i64)>, ConfigError> {
        if shape.is_empty() {
            let expected = "at least one point must be specified";
            return Err(self.invalid("scoringStrategy.shape", Value::Null, expected));
        }
        let mut before = -1;
        for (n, point) in shape.iter().enumerate() {
            let field = format!("scoringStrategy.shape[{n}]");
            if point.utilization <= before {
                let expected = "values must be sorted in increasing order";
                return Err(self.invalid(&format!("{field}.utilization"), point.utilization, expected));
            }
            before = point.utilization;
            self.within(&format!("{field}.utilization"), point.utilization, 0, 100)?;
            self.within(&format!("{field}.score"), point.score, 0, MAX_POINT_SCORE)?;
        }
        let scale = crate::framework::MAX_NODE_SCORE / MAX_POINT_SCORE;
        Ok(shape.iter().map(|point| (point.utilization, point.score * scale)).collect())
    }

    fn spread(&self, args: &Value) -> Result<PodTopologySpread, ConfigError> {
        let SpreadArgs { default_constraints: listed, defaulting_type } = self.read("PodTopologySpread", args)?;
        match (defaulting_type.as_str(), listed.is_empty()) {
            ("" | "System", true) => return Ok(PodTopologySpread::default()),
            ("List", _) => {}
            ("" | "System", false) => {
                let expected = "when .defaultConstraints are not empty";
                return Err(self.invalid("defaultingType", "System", expected));
            }
            (other, _) => {
                return Err(self.invalid("defaultingType", other, "supported values: \"System\", \"List\""));
            }
        }
        for (n, constraint) in listed.iter().enumerate() {
            let field = |name: &str| format!("defaultConstraints[{n}].{name}");
            if constraint.max_skew <= 0 {
                return Err(self.invalid(&field("maxSkew"), constraint.max_skew, "not in valid range (0, inf)"));
            }
            if constraint.topology_key.is_empty() {
                return Err(self.invalid(&field("topologyKey"), "", "can not be empty"));
            }
            if !matches!(constraint.when_unsatisfiable.as_str(), "DoNotSchedule" | "ScheduleAnyway") {
                let value = constraint.when_unsatisfiable.as_str();
                let expected = "supported values: \"DoNotSchedule\", \"ScheduleAnyway\"";
                return Err(self.invalid(&field("whenUnsatisfiable"), value, expected));
            }
            if constraint.label_selector.is_some() {
                let expected = "constraint must not define a selector, as they deduced for each pod";
                return Err(self.invalid(&field("labelSelector"), Value::Null, expected));
            }
            let same = |other: &TopologySpreadConstraint| {
                (&other.topology_key, &other.when_unsatisfiable)
                    == (&constraint.topology_key, &constraint.when_unsatisfiable)
            };
            if listed[..n].iter().any(same) {
                let value = format!("{{{}, {}}}", constraint.topology_key, constraint.when_unsatisfiable);
                return Err(ConfigError::Duplicate { path: self.at(&format!("defaultConstraints[{n}]")), value });
            }
        }
        Ok(PodTopologySpread { defaults: Some(listed) })
    }
}

#[cfg(test)]
#[path = "arguments_tests.rs"]
mod tests;
