//! What becomes of plugins' arguments, and what is refused.

use super::*;
use kybern_apimachinery::json;

fn read(name: &str, args: Value) -> Result<Arguments, String> {
    Arguments::of(&json!([{"name": name, "args": args}]), "pluginConfig").map_err(|error| error.to_string())
}

#[test]
fn arguments() {
    let ratio = json!({"shape": [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]});
    let resources = json!([{"name": "cpu", "weight": 3}, {"name": "x.io/gpu"}]);
    let strategy =
        json!({"type": "RequestedToCapacityRatio", "resources": resources, "requestedToCapacityRatio": ratio});
    let head = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "NodeResourcesFitArgs", "ignoredResources": ["x.io/y"], "ignoredResourceGroups": ["y.io"], "scoringStrategy": strategy});
    let fit = read("NodeResourcesFit", head).unwrap().fit;
    assert_eq!(fit.resources, [(Kind::Cpu, 3), (Kind::of("x.io/gpu"), 1)]);
    assert_eq!(fit.strategy, Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 100)]));
    assert_eq!((fit.ignored, fit.ignored_groups), (vec!["x.io/y".to_owned()], vec!["y.io".to_owned()]));
    let fit = read("NodeResourcesFit", json!({"scoringStrategy": {"type": "MostAllocated"}})).unwrap().fit;
    assert_eq!((fit.strategy, fit.resources.len()), (Strategy::MostAllocated, 2));
    let found = read("NodeResourcesBalancedAllocation", json!({"resources": [{"name": "cpu", "weight": 1}]}));
    assert_eq!(found.unwrap().balanced.resources, [Kind::Cpu]);
    let found = read("DefaultPreemption", json!({"minCandidateNodesAbsolute": 7})).unwrap().preemption;
    assert_eq!((found.min_candidates_percent, found.min_candidates), (10, 7));
    let found =
        read("InterPodAffinity", json!({"hardPodAffinityWeight": 0, "ignorePreferredTermsOfExistingPods": true}));
    let found = found.unwrap().inter_pod_affinity;
    assert_eq!((found.hard_weight, found.ignores_preferred), (0, true));
    let term = json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]});
    let required = json!({"nodeSelectorTerms": [term]});
    let affinity = json!({"requiredDuringSchedulingIgnoredDuringExecution": required, "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 4, "preference": term}]});
    let found = read("NodeAffinity", json!({"addedAffinity": affinity})).unwrap().node_affinity;
    assert_eq!((found.required.map(|terms| terms.len()), found.preferred[0].weight), (Some(1), 4));
    let listed = json!([{"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}]);
    let found = read("PodTopologySpread", json!({"defaultConstraints": listed, "defaultingType": "List"})).unwrap();
    assert_eq!(found.spread.defaults.unwrap().len(), 1);
    assert!(read("VolumeBinding", json!({"bindTimeoutSeconds": 600})).is_ok());
    assert!(read("Another", json!({"anything": 1})).is_ok());
}

#[test]
fn bad_arguments() {
    let check = |name: &str, args: Value, expect: &str| {
        let error = read(name, args).err().unwrap_or_default();
        assert_eq!(error, format!("pluginConfig[0].args.{expect}"));
    };
    let range = "not in valid range";
    check(
        "DefaultPreemption",
        json!({"minCandidateNodesPercentage": 101}),
        &format!("minCandidateNodesPercentage: Invalid value: 101: {range} [0, 100]"),
    );
    check(
        "DefaultPreemption",
        json!({"minCandidateNodesAbsolute": -1}),
        &format!("minCandidateNodesAbsolute: Invalid value: -1: {range} [0, inf)"),
    );
    check(
        "DefaultPreemption",
        json!({"minCandidateNodesAbsolute": 0, "minCandidateNodesPercentage": 0}),
        "minCandidateNodesPercentage: Invalid value: 0: cannot be zero at the same time as minCandidateNodesAbsolute",
    );
    check(
        "InterPodAffinity",
        json!({"hardPodAffinityWeight": 101}),
        &format!("hardPodAffinityWeight: Invalid value: 101: {range} [0, 100]"),
    );
    check(
        "InterPodAffinity",
        json!({"kind": "NodeAffinityArgs"}),
        "kind: Invalid value: \"NodeAffinityArgs\": has to match plugin args",
    );
    let strategy = |strategy: Value, expect: &str| {
        check("NodeResourcesFit", json!({"scoringStrategy": strategy}), &format!("scoringStrategy.{expect}"));
    };
    strategy(
        json!({"resources": [{"name": "cpu", "weight": 101}]}),
        &format!("resources[0].weight: Invalid value: 101: {range} (0, 100]"),
    );
    strategy(
        json!({"type": "Best"}),
        "type: Invalid value: \"Best\": supported values: \"LeastAllocated\", \"MostAllocated\", \"RequestedToCapacityRatio\"",
    );
    let shape = |shape: Value, expect: &str| {
        let ratio = json!({"shape": shape});
        strategy(
            json!({"type": "RequestedToCapacityRatio", "requestedToCapacityRatio": ratio}),
            &format!("shape{expect}"),
        );
    };
    shape(json!([]), ": Invalid value: null: at least one point must be specified");
    shape(
        json!([{"utilization": 5, "score": 1}, {"utilization": 5, "score": 1}]),
        "[1].utilization: Invalid value: 5: values must be sorted in increasing order",
    );
    shape(json!([{"utilization": 5, "score": 11}]), &format!("[0].score: Invalid value: 11: {range} [0, 10]"));
    check(
        "NodeResourcesFit",
        json!({"ignoredResourceGroups": ["a/b"]}),
        "ignoredResourceGroups[0]: Invalid value: \"a/b\": resource group name can't contain '/'",
    );
    check(
        "NodeResourcesBalancedAllocation",
        json!({"resources": [{"name": "cpu", "weight": 2}]}),
        "resources[0].weight: Invalid value: 2: must be 1",
    );
    check(
        "VolumeBinding",
        json!({"bindTimeoutSeconds": 5}),
        "bindTimeoutSeconds: not supported: a pod waits for its volumes as long as it takes; leave it out",
    );
    let spread =
        |key: &str, skew: i32, when: &str| json!({"topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": when});
    let listed = |listed: Value, expect: &str| {
        let args = json!({"defaultConstraints": listed, "defaultingType": "List"});
        check("PodTopologySpread", args, &format!("defaultConstraints{expect}"));
    };
    listed(json!([spread("k", 0, "DoNotSchedule")]), &format!("[0].maxSkew: Invalid value: 0: {range} (0, inf)"));
    listed(json!([spread("", 1, "DoNotSchedule")]), "[0].topologyKey: Invalid value: \"\": can not be empty");
    listed(
        json!([spread("k", 1, "Never")]),
        "[0].whenUnsatisfiable: Invalid value: \"Never\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
    );
    let twice = json!([spread("k", 1, "DoNotSchedule"), spread("k", 2, "DoNotSchedule")]);
    listed(twice, "[1]: Duplicate value: \"{k, DoNotSchedule}\"");
    check(
        "PodTopologySpread",
        json!({"defaultingType": "Some"}),
        "defaultingType: Invalid value: \"Some\": supported values: \"System\", \"List\"",
    );
    let unknown = read("NodeAffinity", json!({"addedAfinity": {}})).err().unwrap_or_default();
    assert!(unknown.starts_with("pluginConfig[0].args: unknown field `addedAfinity`"), "{unknown}");
    let twice = Arguments::of(&json!([{"name": "NodeAffinity"}, {"name": "NodeAffinity"}]), "pluginConfig");
    assert_eq!(
        twice.err().map(|error| error.to_string()).unwrap_or_default(),
        "pluginConfig[1]: Duplicate value: \"NodeAffinity\""
    );
}
