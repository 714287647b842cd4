use kybern_api::resource::v1::DeviceClass;

use super::*;
use crate::fixture;
use crate::framework::Nomination;
use crate::plugins::check;
use crate::stores::DeviceTaints;

fn object<K: Object>(value: Value) -> K {
    K::from_json(value.to_string().as_bytes()).unwrap()
}

const DRIVER: &str = "gpu.example.com";

/// Devices of a node, each with its model and the bus it is at; none of a node that all reach.
fn slice(name: &str, node: Option<&str>, devices: &[(&str, &str, i64)]) -> Value {
    let devices: Vec<Value> = devices
        .iter()
        .map(|(name, model, bus)| {
            let attributes = json!({"model": {"string": model}, "bus": {"int": bus}});
            json!({"name": name, "attributes": attributes, "capacity": {"memory": {"value": "8Gi"}}})
        })
        .collect();
    let pool = json!({"name": name, "generation": 1, "resourceSliceCount": 1});
    let mut spec = json!({"driver": DRIVER, "pool": pool, "devices": devices});
    match node {
        Some(node) => spec["nodeName"] = node.into(),
        None => spec["allNodes"] = true.into(),
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

fn exactly(name: &str, change: Value) -> Value {
    let mut exactly = json!({"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1});
    change.as_object().unwrap().iter().for_each(|(key, value)| exactly[key] = value.clone());
    json!({"name": name, "exactly": exactly})
}

fn cel(expression: &str) -> Value {
    json!([{"cel": {"expression": expression}}])
}

fn claim(name: &str, devices: Value, status: Value) -> Value {
    let metadata = json!({
        "name": name, "namespace": "default", "uid": name, "resourceVersion": "5", "finalizers": [FINALIZER],
    });
    json!({"metadata": metadata, "spec": {"devices": devices}, "status": status})
}

/// What a claim has that has the devices of node `a`.
fn allocated(devices: &[&str]) -> Value {
    let results = devices.iter().map(|d| json!({"request": "r", "driver": DRIVER, "pool": "a", "device": d}));
    let own = json!([{"key": "metadata.name", "operator": "In", "values": ["a"]}]);
    let selector = json!({"nodeSelectorTerms": [{"matchFields": own}]});
    json!({"devices": {"results": results.collect::<Vec<_>>()}, "nodeSelector": selector})
}

/// Nodes a and b.
fn cluster(claims: Vec<Value>, slices: Vec<Value>) -> Cluster {
    let (resource_claims, writer) = Store::new([(DEVICE, devices_of as fn(&ResourceClaim) -> Vec<String>)]);
    claims.into_iter().for_each(|claim| writer.upsert(object::<ResourceClaim>(claim)));
    let (slice_store, writer) = Store::new([(SLICE_NODE, node_of_slice as fn(&ResourceSlice) -> Vec<String>)]);
    slices.into_iter().for_each(|slice| writer.upsert(object::<ResourceSlice>(slice)));
    let (device_classes, writer) = Store::new([]);
    let selectors = cel("device.driver == 'gpu.example.com'");
    let config = json!([{"opaque": {"driver": DRIVER, "parameters": {"a": 1}}}]);
    let spec = json!({"selectors": selectors, "config": config});
    writer.upsert(object::<DeviceClass>(json!({"metadata": {"name": "gpu"}, "spec": spec})));
    let mut cluster =
        Cluster::new(Stores { resource_claims, slices: slice_store, device_classes, ..Stores::default() });
    for node in ["a", "b"] {
        cluster.set_node(Arc::new(fixture::node(json!({"metadata": {"name": node, "labels": {"zone": node}}}))));
    }
    cluster
}

fn user(name: &str, claims: &[&str]) -> PodInfo {
    let claims: Vec<Value> = claims.iter().map(|claim| json!({"name": claim, "resourceClaimName": claim})).collect();
    let mut pod = fixture::pod(json!({"containers": [], "resourceClaims": claims}));
    (pod.name, pod.uid) = (name.into(), name.into());
    pod
}

/// The devices that a claim with these requests gets on node a, or why there are none.
fn given(devices: Value, slices: Vec<Value>, taken: &[&str]) -> Result<String, String> {
    let other = json!({"allocation": allocated(taken)});
    let cluster = cluster(vec![claim("c", devices, json!({})), claim("other", json!({}), other)], slices);
    let pod = user("p", &["c"]);
    let stores = cluster.stores();
    let claims = claims(&pod, stores)?;
    let found = super::devices(&claims, &pod, &cluster.node("a").unwrap().node, stores)?;
    let found = found.ok_or("none")?;
    let results = found[0]["devices"]["results"].as_array().unwrap();
    let text =
        |result: &Value| format!("{}={}", result["request"].as_str().unwrap(), result["device"].as_str().unwrap());
    Ok(results.iter().map(text).collect::<Vec<_>>().join(" "))
}

#[test]
fn which_devices_a_claim_gets() {
    let four = || vec![slice("a", Some("a"), &[("d1", "x", 1), ("d2", "x", 2), ("d3", "y", 1), ("d4", "y", 2)])];
    let check = |requests: Value, taken: &[&str], expect: Result<&str, &str>| {
        let got = given(requests.clone(), four(), taken);
        match (&got, expect) {
            (Ok(got), Ok(expect)) => assert_eq!(got, expect, "{requests}"),
            (Err(got), Err(expect)) => assert!(got.contains(expect), "{requests}: {got}"),
            _ => panic!("{requests}: {got:?}, not {expect:?}"),
        }
    };
    let model = |model: &str| json!({"selectors": cel(&format!("device.attributes['{DRIVER}'].model == '{model}'"))});
    check(json!({"requests": [exactly("r", json!({}))]}), &[], Ok("r=d1"));
    check(json!({"requests": [exactly("r", json!({"count": 2}))]}), &["d1"], Ok("r=d2 r=d3"));
    check(json!({"requests": [exactly("r", json!({"count": 5}))]}), &[], Err("none"));
    check(json!({"requests": [exactly("r", model("y"))]}), &["d3"], Ok("r=d4"));
    check(json!({"requests": [exactly("r", model("z"))]}), &[], Err("none"));
    // What is administered is not taken.
    check(json!({"requests": [exactly("r", json!({"adminAccess": true}))]}), &["d1"], Ok("r=d1"));
    let all = |more: Value| json!({"requests": [exactly("r", json!({"allocationMode": "All"}))], "constraints": more});
    check(all(json!([])), &[], Ok("r=d1 r=d2 r=d3 r=d4"));
    check(all(json!([])), &["d2"], Err("none"));
    let same_bus = json!([{"matchAttribute": format!("{DRIVER}/bus")}]);
    check(all(same_bus.clone()), &[], Err("cannot add device gpu.example.com/a/d2 because a claim constraint"));
    // The first choice is taken back where the second has none that goes with it.
    let pair = json!({"requests": [exactly("x", model("x")), exactly("y", model("y"))], "constraints": same_bus});
    check(pair.clone(), &[], Ok("x=d1 y=d3"));
    check(pair, &["d3"], Ok("x=d2 y=d4"));
    let other = json!({"requests": [exactly("r", json!({}))], "constraints": [{"matchAttribute": "other.com/a"}]});
    check(other, &[], Err("none"));
    let alternative = |name: &str, class: &str, count: i64| json!({"name": name, "deviceClassName": class, "allocationMode": "ExactCount", "count": count});
    let first = json!({"requests": [{"name": "r", "firstAvailable": [alternative("many", "gpu", 4), alternative("one", "gpu", 1)]}]});
    check(first.clone(), &[], Ok("r/many=d1 r/many=d2 r/many=d3 r/many=d4"));
    check(first, &["d1"], Ok("r/one=d2"));
    let unknown = json!({"requests": [{"name": "r", "firstAvailable": [alternative("a", "nope", 1)]}]});
    check(unknown, &[], Err("request r/a: device class nope does not exist"));
    let broken = json!({"requests": [exactly("r", json!({"selectors": cel("device.attributes['x'].y == 1")}))]});
    check(broken, &[], Err("claim default/c: selector #0: CEL runtime error: no such key: y"));
}

#[test]
fn slices_are_read_as_a_whole() {
    let request = || json!({"requests": [exactly("r", json!({}))]});
    let with = |change: &dyn Fn(&mut Value)| {
        let mut slice = slice("a", Some("a"), &[("d1", "x", 1)]);
        change(&mut slice);
        slice
    };
    let of = |slices: Vec<Value>| given(request(), slices, &[]);
    assert_eq!(of(vec![with(&|s| s["spec"]["nodeName"] = "b".into())]), Err("none".into()));
    assert_eq!(of(vec![slice("net", None, &[("d9", "x", 1)])]), Ok("r=d9".into()));
    // A newer generation replaces what was said before.
    let newer = slice("a2", Some("a"), &[("d2", "x", 1)]);
    let newer = |pool: &str| {
        let mut newer = newer.clone();
        newer["spec"]["pool"] = json!({"name": pool, "generation": 2, "resourceSliceCount": 1});
        newer
    };
    assert_eq!(of(vec![with(&|_| {}), newer("a")]), Ok("r=d2".into()));
    assert_eq!(of(vec![newer("a"), with(&|_| {})]), Ok("r=d2".into()));
    let twice = slice("a", Some("a"), &[("d1", "x", 1), ("d1", "x", 1)]);
    assert_eq!(of(vec![twice]), Err("pool a is invalid: duplicate device name d1".into()));
    let half = with(&|s| s["spec"]["pool"]["resourceSliceCount"] = 2.into());
    assert_eq!(of(vec![half.clone()]), Ok("r=d1".into()));
    let all = json!({"requests": [exactly("r", json!({"allocationMode": "All"}))]});
    assert!(
        given(all, vec![half], &[])
            .unwrap_err()
            .ends_with("resource pool gpu.example.com/a is currently being updated")
    );
}

/// Behind its gate: a device goes to who bears all its taints, those of its driver and those of rules.
#[test]
fn taints_keep_devices_from_who_does_not_bear_them() {
    let tainted = |taints: &[(&str, &str)]| {
        let mut slice = slice("a", Some("a"), &[("d1", "x", 1), ("d2", "x", 2)]);
        let taint = |(key, effect): &(&str, &str)| json!({"key": key, "value": "v", "effect": effect});
        slice["spec"]["devices"][0]["taints"] = taints.iter().map(taint).collect();
        slice
    };
    let all = json!([{"operator": "Exists"}]);
    let bears = |key: &str, effect: &str| json!({"key": key, "operator": "Exists", "effect": effect});
    let both = json!([bears("k", "NoSchedule"), bears("l", "")]);
    let named =
        json!([{"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule", "tolerationSeconds": 5}]);
    let none = || json!([]);
    // Is the gate open, taints of d1, the device that a rule taints, what is borne, what is got.
    type Row = (bool, &'static [(&'static str, &'static str)], &'static str, Value, &'static str);
    let table: &[Row] = &[
        (false, &[("k", "NoSchedule")], "", none(), "d1"),
        (true, &[], "", none(), "d1"),
        (true, &[("k", "NoSchedule")], "", none(), "d2"),
        (true, &[("k", "NoExecute")], "", none(), "d2"),
        (true, &[("k", "None")], "", none(), "d1"),
        (true, &[("k", "NoSchedule")], "", named.clone(), "d1"),
        (true, &[("k", "NoExecute")], "", named.clone(), "d2"),
        (true, &[("k", "NoSchedule"), ("l", "NoExecute")], "", named.clone(), "d2"),
        (true, &[("k", "NoSchedule"), ("l", "NoExecute")], "", both, "d1"),
        (true, &[], "d1", none(), "d2"),
        (true, &[], "d1", all.clone(), "d1"),
        (true, &[("k", "NoSchedule")], "d2", none(), ""),
        (true, &[("k", "NoSchedule")], "d2", named.clone(), "d1"),
    ];
    for (open, taints, ruled, tolerations, expect) in table {
        let requests = json!({"requests": [exactly("r", json!({"tolerations": tolerations}))]});
        let (rules, writer) = Store::new([]);
        if !ruled.is_empty() {
            writer.upsert(object::<kybern_api::resource::v1alpha3::DeviceTaintRule>(json!({
                "metadata": {"name": "rule"},
                "spec": {"deviceSelector": {"device": ruled}, "taint": {"key": "r", "effect": "NoSchedule"}},
            })));
        }
        let cluster = cluster(vec![claim("c", requests, json!({}))], vec![tainted(taints)]);
        let device_taints = open.then(|| DeviceTaints { rules: Some(rules) });
        let (stores, pod) = (Stores { device_taints, ..cluster.stores().clone() }, user("p", &["c"]));
        let claims = claims(&pod, &stores).unwrap();
        let found = devices(&claims, &pod, &cluster.node("a").unwrap().node, &stores).unwrap();
        let what = format!("{open} {taints:?} {ruled} {tolerations}");
        let result = found.map(|found| found[0]["devices"]["results"][0].clone()).unwrap_or_default();
        assert_eq!(result["device"].as_str().unwrap_or(""), *expect, "{what}");
        let copied = if *open && !expect.is_empty() && *tolerations != none() { tolerations } else { &Value::Null };
        assert_eq!(result["tolerations"], *copied, "{what}");
    }
}

/// A claim that is written so that every choice is in vain ends all the same.
#[test]
fn a_search_ends() {
    let names: Vec<String> = (0..40).map(|n| format!("d{n}")).collect();
    let devices: Vec<(&str, &str, i64)> = names.iter().zip(0..).map(|(name, n)| (name.as_str(), "x", n % 2)).collect();
    let requests: Vec<Value> = (0..30).map(|n| exactly(&format!("r{n}"), json!({}))).collect();
    let constraints = json!([{"matchAttribute": format!("{DRIVER}/bus")}]);
    let hard = json!({"requests": requests, "constraints": constraints});
    let got = given(hard, vec![slice("a", Some("a"), &devices)], &[]);
    assert_eq!(got, Err("timed out trying to allocate devices".into()));
}

/// Nor do many nodes make it long: what is left of the search is for all of them together.
#[test]
fn a_search_on_many_nodes_ends() {
    let names: Vec<String> = (0..40).map(|n| format!("d{n}")).collect();
    let devices: Vec<(&str, &str, i64)> = names.iter().zip(0..).map(|(name, n)| (name.as_str(), "x", n % 2)).collect();
    let requests: Vec<Value> = (0..30).map(|n| exactly(&format!("r{n}"), json!({}))).collect();
    let hard = json!({"requests": requests, "constraints": [{"matchAttribute": format!("{DRIVER}/bus")}]});
    let cluster = cluster(vec![claim("c", hard, json!({}))], vec![slice("net", None, &devices)]);
    let (stores, node) = (cluster.stores(), &cluster.node("a").unwrap().node);
    let claims = claims(&user("p", &["c"]), stores).unwrap();
    let slices = stores.slices.by_index(SLICE_NODE, "");
    let looked = std::cell::Cell::new(0);
    let search = |_: usize| {
        let in_use = |_: &str| {
            looked.set(looked.get() + 1);
            false
        };
        looked.set(0);
        let found = allocate(&claims.wanted, &slices, node, &in_use, None, &stores.devices.programs, &claims.patience);
        assert_eq!(found, Err("timed out trying to allocate devices".to_owned()));
        looked.get()
    };
    let looks: Vec<usize> = (0..12).map(search).collect();
    assert_eq!((looks[0], looks[11]), (40, 0), "{looks:?}");
}

fn verdict(cluster: &Cluster, pod: &PodInfo, node: &str) -> Result<(), String> {
    match DynamicResources.pre_filter(pod, cluster) {
        PreFilter::Reject(reason) => Err(reason.into_owned()),
        PreFilter::Filter(filter) => match filter.check(cluster.node(node).unwrap()) {
            Verdict::Fits => Ok(()),
            Verdict::Unresolvable(reasons) | Verdict::Unschedulable(reasons) => Err(reasons.join(", ")),
        },
        _ => Ok(()),
    }
}

#[test]
fn a_pod_goes_where_its_devices_are() {
    let one = || vec![slice("a", Some("a"), &[("d1", "x", 1)])];
    let request = || json!({"requests": [exactly("r", json!({}))]});
    let cluster = cluster(
        vec![
            claim("new", request(), json!({})),
            claim("had", request(), json!({"allocation": allocated(&["d7"])})),
            claim(
                "full",
                request(),
                json!({"allocation": {}, "reservedFor": vec![json!({"resource": "pods", "name": "x", "uid": "x"}); 256]}),
            ),
        ],
        one(),
    );
    let check = |claims: &[&str], node: &str, expect: Result<(), &str>| {
        assert_eq!(verdict(&cluster, &user("p", claims), node), expect.map_err(str::to_owned), "{claims:?} {node}");
    };
    check(&[], "b", Ok(()));
    check(&["new"], "a", Ok(()));
    check(&["new"], "b", Err("cannot allocate all claims"));
    check(&["had"], "a", Ok(()));
    check(&["had"], "b", Err(ELSEWHERE));
    check(&["full"], "a", Err("resourceclaim in use"));
    check(&["none"], "a", Err("could not find ResourceClaim \"default/none\""));
    let mut waiting = user("p", &[]);
    let wish = crate::pod::DeviceWish { claim: None, is_made: true };
    waiting.wants.as_mut().unwrap().devices = vec![wish];
    assert_eq!(verdict(&cluster, &waiting, "a"), Err("pod \"default/p\": ResourceClaim not created yet".into()));
    waiting.wants.as_mut().unwrap().devices[0].claim = Some("new".into());
    let stranger = "ResourceClaim default/new was not created for pod default/p (pod is not owner)";
    assert_eq!(verdict(&cluster, &waiting, "a"), Err(stranger.into()));
    let _ = check::filter(&DynamicResources, &user("p", &[]), cluster.node("a").unwrap());
}

fn patch_of(call: &ApiCall) -> (&Option<&'static str>, &Value) {
    match &call.verb {
        Verb::Patch { subresource, patch: Patch::Merge(patch) } => (subresource, patch),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_given_is_written_before_the_pod_is_bound() {
    let request = || json!({"requests": [exactly("r", json!({}))]});
    let bare = |mut claim: Value| {
        claim["metadata"]["finalizers"] = Value::Null;
        claim
    };
    let slices = || vec![slice("a", Some("a"), &[("d1", "x", 1)])];
    let pod = user("p", &["c"]);
    // First the finalizer, and the pod waits for it.
    let cluster_before = cluster(vec![bare(claim("c", request(), json!({})))], slices());
    let calls = DynamicResources.pre_bind(&pod, "a", &cluster_before);
    let (subresource, patch) = patch_of(&calls[0]);
    assert_eq!((*subresource, &patch["metadata"]["finalizers"]), (None, &json!([FINALIZER])));
    assert!(DynamicResources.waits(&pod, &cluster_before));

    let cluster = cluster(vec![claim("c", request(), json!({})), claim("d", request(), json!({}))], slices());
    let calls = DynamicResources.pre_bind(&pod, "a", &cluster);
    assert!(!DynamicResources.waits(&pod, &cluster));
    let (subresource, patch) = patch_of(&calls[0]);
    assert_eq!((*subresource, &patch["metadata"]["resourceVersion"]), (Some("status"), &json!("5")));
    let status = &patch["status"];
    assert_eq!(status["reservedFor"], json!([{"resource": "pods", "name": "p", "uid": "p"}]));
    let expect = json!({"request": "r", "driver": DRIVER, "pool": "a", "device": "d1"});
    assert_eq!(status["allocation"]["devices"]["results"], json!([expect]));
    let config = json!([{"source": "FromClass", "opaque": {"driver": DRIVER, "parameters": {"a": 1}}}]);
    assert_eq!(status["allocation"]["devices"]["config"], config);
    assert_eq!(status["allocation"]["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"][0]["values"], json!(["a"]));
    // Nobody else gets the device meanwhile, nor the claim.
    let (other, same) = (user("q", &["d"]), user("q", &["c"]));
    assert_eq!(verdict(&cluster, &other, "a"), Err("cannot allocate all claims".into()));
    let pending = "resource claim default/c is in the process of being allocated";
    assert_eq!(verdict(&cluster, &same, "a"), Err(pending.into()));
    // It could not be written.
    DynamicResources.unreserve(&pod, "a", &cluster);
    assert_eq!(verdict(&cluster, &other, "a"), Ok(()));
}

#[test]
fn devices_that_keep_a_pod_from_all_nodes_are_taken_back() {
    let mine = json!([{"resource": "pods", "name": "p", "uid": "p"}]);
    let remedy = |reserved: Value, claims: &[&str]| {
        let status = json!({"allocation": allocated(&["d1"]), "reservedFor": reserved});
        let cluster = cluster(vec![claim("c", json!({}), status)], vec![]);
        let pod = user("p", claims);
        let mut filters = Filters::new(&pod, &cluster);
        let mut diagnosis = Diagnosis::default();
        diagnosis.reasons.insert(ELSEWHERE.into(), 2);
        let remedy = DynamicResources.post_filter(&mut filters, &diagnosis);
        assert_eq!(remedy.nomination, Nomination::Keep);
        (remedy.message, remedy.calls.iter().map(|call| patch_of(call).1["status"].clone()).collect::<Vec<_>>())
    };
    let (message, calls) = remedy(mine, &["c"]);
    assert_eq!(message, "deallocation of ResourceClaim completed");
    assert_eq!(calls, [json!({"allocation": null, "reservedFor": null, "devices": null})]);
    let others = json!([{"resource": "pods", "name": "x", "uid": "x"}]);
    assert_eq!(remedy(others, &["c"]), ("still not schedulable".into(), vec![]));
    assert_eq!(remedy(json!([]), &[]), ("no new claims to deallocate".into(), vec![]));
}
