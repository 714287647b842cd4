//! The configuration, what goes over the wire, and the core with extenders.

use std::time::Duration;

use kybern_apimachinery::{Value, json};

use super::wire::{BindingResult, FilterResult, HostPriority, Nodes, PreemptionResult};
use super::*;
use crate::config::Config;
use crate::core::{Core, Decision};
use crate::fixture;
use crate::stores::Stores;

fn config(extenders: Value) -> Result<Config, String> {
    let file = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration", "extenders": extenders});
    Config::from_file(&file, "me").map_err(|e| e.to_string())
}

const URL: &str = "http://127.0.0.1:1/scheduler/";

#[test]
fn configurations() {
    let read = config(json!([
        {"urlPrefix": URL, "filterVerb": "filter", "ignorable": true, "httpTimeout": "100ms", "managedResources": [{"name": "example.com/gpu", "ignoredByScheduler": true}]},
        {"urlPrefix": "https://127.0.0.1:1", "enableHTTPS": true, "prioritizeVerb": "p", "weight": 3, "bindVerb": "b", "preemptVerb": "e", "nodeCacheCapable": true},
    ]))
    .unwrap();
    let extenders = &read.profiles.extenders;
    let shown: Vec<(&str, bool, bool, bool)> =
        extenders.0.iter().map(|e| (&*e.url, e.places(), e.binds(), e.is_ignorable)).collect();
    assert_eq!(shown, [("https://127.0.0.1:1", true, true, false), (URL, true, false, true)], "the ignorable is last");
    assert_eq!(extenders.0[1].filter.as_ref().unwrap().client.url(), "http://127.0.0.1:1/scheduler/filter");
    let gpu = json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]});
    assert_eq!(extenders.interested(&fixture::pod(gpu.clone())), 0b11);
    assert_eq!(extenders.interested(&fixture::pod(json!({}))), 0b01);
    // What the extender counts itself, the scheduler does not.
    let mut core = Core::new(read.profiles, Stores::default());
    core.set_node(Arc::new(fixture::sized("n", "1", "1Gi")), Duration::ZERO);
    core.set_pod(Arc::new(fixture::pod_named("p", gpu)), Duration::ZERO);
    assert!(matches!(core.schedule_next(Duration::ZERO), Some(Decision::Ask { .. })));
}

#[test]
fn bad_configurations() {
    let check = |extenders: Value, expect: &str| {
        assert_eq!(config(extenders.clone()).unwrap_err(), expect, "{extenders}");
    };
    let one = |more: Value| {
        let mut extender = json!({"urlPrefix": URL});
        extender.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        extender
    };
    check(
        json!([one(json!({"prioritizeVerb": "p"}))]),
        "extenders[0].weight: Invalid value: 0: must have a positive weight applied to it",
    );
    check(
        json!([one(json!({"bindVerb": "b"})), one(json!({"bindVerb": "b"}))]),
        "extenders: Invalid value: \"found 2 extenders implementing bind\": only one extender can implement bind",
    );
    let managed = |names: &[&str]| {
        let names: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        json!([one(json!({"managedResources": names}))])
    };
    let invalid = |at: usize, name: &str, why: &str| {
        format!("extenders[0].managedResources[{at}].name: Invalid value: {name:?}: {why}")
    };
    check(managed(&["cpu"]), &invalid(0, "cpu", "is an invalid extended resource name"));
    check(managed(&["a.io/b", "a.io/b"]), &invalid(1, "a.io/b", "duplicate extender managed resource name"));
    assert!(config(managed(&["a b"])).unwrap_err().starts_with(&invalid(0, "a b", "")));
    check(
        json!([{"urlPrefix": "ftp://a"}]),
        "extenders[0]: urlPrefix: \"ftp://a\" must begin with http:// or https:// and a host",
    );
    check(json!([one(json!({"httpTimeout": "soon"}))]), "extenders[0]: httpTimeout: \"soon\" is no duration");
    check(
        json!([one(json!({"filterVerb": "f", "tlsConfig": {"certFile": "/nowhere"}}))]),
        "extenders[0]: cannot read /nowhere: No such file or directory (os error 2)",
    );
    check(
        json!([one(json!({"tlsConfig": {"insecure": true, "caData": "YQ=="}}))]),
        "extenders[0]: specifying a root certificates file with the insecure flag is not allowed",
    );
    assert!(config(json!([one(json!({"frob": 1}))])).unwrap_err().starts_with("extenders[0]: unknown field `frob`"));
    assert!(config(json!(vec![one(json!({})); 32])).unwrap_err().contains("more than 31"));
}

#[test]
fn questions() {
    let parsed = |body: Bytes| -> Value { serde_json::from_slice(&body).unwrap() };
    let named = wire::args(b"{\"metadata\":{}}", &Nodes::Names(vec!["a", "b\""]));
    assert_eq!(parsed(named), json!({"Pod": {"metadata": {}}, "Nodes": null, "NodeNames": ["a", "b\""]}));
    let whole = wire::args(b"{}", &Nodes::Whole(vec![b"{\"x\":1}", b"{}"]));
    assert_eq!(
        parsed(whole),
        json!({"Pod": {}, "Nodes": {"metadata": {}, "items": [{"x": 1}, {}]}, "NodeNames": null})
    );
    let pod = Arc::new(fixture::pod(json!({})));
    let expect = json!({"PodName": "pod", "PodNamespace": "default", "PodUID": "pod", "Node": "n"});
    assert_eq!(parsed(wire::binding_args(&pod, "n")), expect);
    let candidates = [Candidate { node: Arc::new(fixture::sized("n", "1", "1Gi")), victims: vec![pod], violations: 1 }];
    let victims = |pods: Value| json!({"n": {"Pods": pods, "NumPDBViolations": 1}});
    let meta = json!({"Pod": {}, "NodeNameToVictims": null, "NodeNameToMetaVictims": victims(json!([{"UID": "pod"}]))});
    assert_eq!(parsed(wire::preemption_args(b"{}", &candidates, None)), meta);
    let seen = [("pod".into(), b"{\"kind\":\"Pod\"}".to_vec())].into_iter().collect();
    let whole =
        json!({"Pod": {}, "NodeNameToMetaVictims": null, "NodeNameToVictims": victims(json!([{"kind": "Pod"}]))});
    assert_eq!(parsed(wire::preemption_args(b"{}", &candidates, Some(&seen))), whole);
}

#[test]
fn answers() {
    let filtered = |text: &str, knows_nodes: bool| {
        let read: Result<FilterResult, String> = wire::read(text.as_bytes());
        read.and_then(|read| read.verdict(knows_nodes)).map(|verdict| {
            let failed = verdict.failed.iter().map(|(name, (why, helps))| format!("{name} {why} {helps}"));
            (verdict.fit.join(" "), failed.collect::<Vec<_>>().join(", "))
        })
    };
    let fits = |names: &str| Ok((names.to_owned(), String::new()));
    for spelt in ["NodeNames", "nodeNames", "nodenames"] {
        assert_eq!(filtered(&json!({spelt: ["a", "b"]}).to_string(), true), fits("a b"), "{spelt}");
    }
    let listed = json!({"nodes": {"items": [{"metadata": {"name": "a"}, "spec": {}}]}, "nodeNames": ["b"]}).to_string();
    assert_eq!((filtered(&listed, false), filtered(&listed, true)), (fits("a"), fits("b")));
    assert_eq!(filtered("{\"Nodes\":null,\"NodeNames\":null,\"Error\":\"\"} and more", true), fits(""));
    assert_eq!(filtered("{\"Error\":\"no luck\"}", true), Err("no luck".to_owned()));
    let failed = json!({"FailedNodes": {"a": "full", "b": "busy"}, "FailedAndUnresolvableNodes": {"b": "never"}});
    assert_eq!(filtered(&failed.to_string(), true), Ok((String::new(), "a full true, b never false".to_owned())));
    for bad in ["", "hello", "{\"NodeNames\": 7}"] {
        assert!(filtered(bad, true).is_err(), "{bad}");
    }
    assert!(filtered(&json!({"Error": "x".repeat(1 << 20)}).to_string(), true).unwrap_err().len() <= REASON_MAX + 4);
    let scores: Option<Vec<HostPriority>> = wire::read(b"[{\"host\":\"a\",\"Score\":-3},{\"Host\":\"b\"}]").unwrap();
    let scores: Vec<(String, i64)> = scores.unwrap().into_iter().map(|score| (score.host, score.score)).collect();
    assert_eq!(scores, [("a".to_owned(), -3), ("b".to_owned(), 0)]);
    let bound: BindingResult = wire::read(b"{\"error\":\"taken\"}").unwrap();
    assert_eq!(bound.verdict(), Err("taken".to_owned()));
    let text = json!({"NodeNameToMetaVictims": {"n": {"Pods": [{"UID": "u"}], "NumPDBViolations": -1}, "m": null}});
    let victims: PreemptionResult = wire::read(text.to_string().as_bytes()).unwrap();
    assert_eq!(victims.proposals(), [("m".into(), vec![], 0), ("n".into(), vec!["u".to_owned()], 0)]);
}

/// A core with nodes of two cores, and an extender for pods that request `example.com/gpu`.
fn core(more: Value, nodes: &[&str]) -> Core {
    let mut extender =
        json!({"urlPrefix": URL, "managedResources": [{"name": "example.com/gpu", "ignoredByScheduler": true}]});
    extender.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut core = Core::new(config(json!([extender])).unwrap().profiles, Stores::default());
    for name in nodes {
        core.set_node(Arc::new(fixture::sized(name, "2", "4Gi")), Duration::ZERO);
    }
    core
}

fn pod(name: &str, cpu: &str, gpu: bool, priority: i64) -> Arc<PodInfo> {
    let mut requests = json!({"cpu": cpu});
    if gpu {
        requests["example.com/gpu"] = "1".into();
    }
    let spec = json!({"priority": priority, "containers": [{"name": "c", "resources": {"requests": requests}}]});
    Arc::new(fixture::pod_named(name, spec))
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn next(core: &mut Core, seconds: u64) -> String {
    core.tick(at(seconds));
    match core.schedule_next(at(seconds)) {
        None => "nothing".to_owned(),
        Some(Decision::Bind { pod, node, binding }) => {
            format!("{}@{node}{}", pod.name, if binding.binder.is_some() { " by extender" } else { "" })
        }
        Some(Decision::Ask { pod, question: Question::Places(mut nodes), .. }) => {
            nodes.sort_by(|a, b| a.name.cmp(&b.name));
            let names: Vec<&str> = nodes.iter().map(|node| &*node.name).collect();
            format!("{}? {}", pod.name, names.join(" "))
        }
        Some(Decision::Ask { pod, question: Question::Victims { candidates, .. }, .. }) => {
            let shown: Vec<String> = candidates
                .iter()
                .map(|c| {
                    format!("{}: {}", c.node.name, c.victims.iter().map(|v| &*v.name).collect::<Vec<_>>().join(" "))
                })
                .collect();
            format!("{}? {}", pod.name, shown.join(", "))
        }
        Some(Decision::Unschedulable { pod, remedy, .. }) if !remedy.victims.is_empty() => {
            format!("{} instead of {}", pod.name, remedy.victims[0].name)
        }
        Some(Decision::Unschedulable { pod, message, .. }) => {
            let message = message.split(" no new claims to deallocate").collect::<Vec<_>>();
            format!("{}: {}", pod.name, message.concat())
        }
        Some(Decision::Prepare { pod, .. }) => format!("{} is prepared", pod.name),
        Some(Decision::Failed { pod, message }) => format!("{} failed: {message}", pod.name),
    }
}

fn node(name: &str) -> Arc<Node> {
    Arc::new(fixture::sized(name, "2", "4Gi"))
}

/// Lets these pass, with what is added to their scores.
fn passes(fit: &[(&str, i64)]) -> Answer {
    Answer::Places(Places { fit: fit.iter().map(|(name, more)| (*more, node(name))).collect(), rejected: vec![] })
}

/// Lets none pass.
fn rejects(nodes: &[(&str, &'static str, bool)]) -> Answer {
    let rejected = nodes.iter().map(|(name, why, helps)| (node(name), Some((*why).into()), *helps)).collect();
    Answer::Places(Places { fit: vec![], rejected })
}

#[test]
fn the_extenders_word_counts() {
    let mut core = core(json!({"filterVerb": "f"}), &["a", "b", "c"]);
    core.set_pod(pod("gpu", "500m", true, 0), at(0));
    core.set_pod(pod("plain", "500m", false, 0), at(1));
    assert_eq!(next(&mut core, 1), "gpu? a b c");
    assert!(next(&mut core, 1).starts_with("plain@"), "nobody waits for the answer");
    assert_eq!(next(&mut core, 1), "nothing");
    core.answered("gpu", passes(&[("b", 0), ("c", 500), ("unheard-of", 1_000_000)]));
    assert!(core.has_work());
    assert_eq!(next(&mut core, 1), "gpu@c");
    // Huge scores, either way, are numbers as others.
    core.set_pod(pod("next", "500m", true, 0), at(2));
    assert_eq!(next(&mut core, 2), "next? a b c");
    core.answered("next", passes(&[("a", i64::MIN), ("b", i64::MAX), ("c", 1_000_000)]));
    assert_eq!(next(&mut core, 2), "next@b");
    core.answered("nobody", passes(&[("a", 1)]));
    assert_eq!(next(&mut core, 2), "nothing");
}

#[test]
fn answers_are_looked_at_in_the_light_of_what_changed() {
    let mut core = core(json!({"filterVerb": "f"}), &["a", "b"]);
    core.set_pod(pod("gpu", "2", true, 0), at(0));
    assert_eq!(next(&mut core, 0), "gpu? a b");
    core.set_pod(pod("plain", "2", false, 0), at(0));
    let taken = next(&mut core, 0).replace("plain@", "");
    core.answered("gpu", passes(&[(&taken, 0)]));
    let left = if taken == "a" { "b" } else { "a" };
    assert_eq!(next(&mut core, 0), format!("gpu? {left}"), "the place is gone, so it is asked again");
    core.remove_node(left, at(0));
    core.answered("gpu", passes(&[(left, 0)]));
    assert!(next(&mut core, 0).starts_with("gpu: 0/1 nodes are available: 1 Insufficient cpu."));
    core.set_node(node("c"), at(60));
    assert_eq!(next(&mut core, 60), "gpu? c");
    core.remove_pod("gpu", at(60));
    core.answered("gpu", passes(&[("c", 0)]));
    assert_eq!(next(&mut core, 60), "nothing");
    assert_eq!(core.cluster().node("c").unwrap().requested.milli_cpu, 0);
    // Its places were given back.
    for n in 0..9 {
        core.set_pod(pod(&format!("p{n}"), "100m", true, 0), at(60));
    }
    for n in 0..8 {
        assert_eq!(next(&mut core, 60), format!("p{n}? c"));
    }
    assert_eq!(next(&mut core, 60), "nothing");
}

#[test]
fn rejections_are_told_and_any_change_may_help() {
    let mut core = core(json!({"filterVerb": "f"}), &["a", "b", "c"]);
    core.set_node(Arc::new(fixture::sized("tiny", "1m", "1Gi")), at(0));
    core.set_pod(pod("gpu", "1", true, 0), at(0));
    assert_eq!(next(&mut core, 0), "gpu? a b c");
    core.answered("gpu", rejects(&[("a", "no GPU left", true), ("b", "no GPU left", true), ("c", "broken", false)]));
    assert_eq!(
        next(&mut core, 0),
        "gpu: 0/4 nodes are available: 1 Insufficient cpu, 1 broken, 2 no GPU left., preemption: 0/4 nodes are available: \
         2 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
    );
    core.set_pod(pod("other", "1", false, 0), at(60));
    assert!(next(&mut core, 60).starts_with("other@"));
    core.remove_pod("other", at(60));
    assert_eq!(next(&mut core, 60), "gpu? a b c");
    core.answered("gpu", Answer::Failed("Post \"x\": EOF".to_owned()));
    assert_eq!(next(&mut core, 60), "gpu failed: Post \"x\": EOF");
    assert_eq!(next(&mut core, 60), "nothing");
    assert_eq!(next(&mut core, 90), "gpu? a b c");
    let reasons: Vec<(Arc<Node>, Option<Reason>, bool)> =
        (0..5000).map(|n| (node("a"), Some(format!("reason {n}").into()), false)).collect();
    core.answered("gpu", Answer::Places(Places { fit: vec![], rejected: reasons }));
    let message = next(&mut core, 90);
    assert!(message.contains("4980 node(s) rejected by an extender for other reasons"), "{message}");
    assert!(message.len() < 2000);
}

#[test]
fn an_extender_that_hangs_delays_nobody_else() {
    let mut core = core(json!({"filterVerb": "f", "bindVerb": "b"}), &["a"]);
    for n in 0..20 {
        core.set_pod(pod(&format!("gpu{n:02}"), "10m", true, 5), at(n));
    }
    core.set_pod(pod("late", "10m", true, 7), at(30));
    core.set_pod(pod("plain", "10m", false, 0), at(30));
    assert_eq!(next(&mut core, 30), "late? a");
    for n in 0..7 {
        assert_eq!(next(&mut core, 30), format!("gpu{n:02}? a"));
    }
    assert_eq!(next(&mut core, 30), "plain@a", "it is the extender's places that are full");
    assert_eq!((next(&mut core, 30), core.has_work()), ("nothing".to_owned(), false));
    assert_eq!(core.queue().counts()[0], ("active", 13));
    core.answered("gpu03", passes(&[("a", 0)]));
    assert_eq!(next(&mut core, 30), "gpu03@a by extender");
    assert_eq!(next(&mut core, 30), "nothing", "binding, too, takes its place");
    core.set_pod(pod("urgent", "10m", true, 9), at(31));
    assert_eq!(next(&mut core, 31), "nothing");
    core.bound(&pod("gpu03", "10m", true, 5), "a", true, at(31));
    assert!(core.has_work());
    assert_eq!(next(&mut core, 31), "urgent? a", "the first of those that wait");
    core.answered("gpu05", Answer::Gone);
    assert_eq!(next(&mut core, 31), "gpu07? a");
    assert_eq!(next(&mut core, 40), "nothing", "the one that was gone waits behind the others");
}

#[test]
fn a_nominated_node_is_asked_about_first() {
    let mut core = core(json!({"filterVerb": "f"}), &["a", "b"]);
    let mut nominated = (*pod("gpu", "1", true, 0)).clone();
    nominated.wants.as_mut().unwrap().nominated = "b".into();
    core.set_pod(Arc::new(nominated), at(0));
    assert_eq!(next(&mut core, 0), "gpu? b");
    core.answered("gpu", rejects(&[("b", "no", false)]));
    assert_eq!(next(&mut core, 0), "gpu? a b");
    core.answered("gpu", passes(&[("a", 0)]));
    assert_eq!(next(&mut core, 0), "gpu@a");
}

/// `high` wants a node of which `low-NODE`, or on `b` the even lower `least`, may go.
fn crowded(more: Value) -> Core {
    let mut core = core(more, &["a", "b"]);
    for (name, node, priority) in [("low-a", "a", 5), ("least", "b", 1), ("peer", "b", 10)] {
        let mut running = (*pod(name, if node == "a" { "2" } else { "1" }, false, priority)).clone();
        running.node = node.into();
        core.set_pod(Arc::new(running), at(0));
    }
    core.set_pod(pod("high", "1", true, 10), at(0));
    core
}

fn victims(list: &[(&str, &[&str])]) -> Answer {
    let named = list
        .iter()
        .map(|(node, uids)| ((*node).to_owned(), uids.iter().map(|uid| (*uid).to_owned()).collect::<Vec<_>>(), 0));
    Answer::Victims(named.collect())
}

#[test]
fn extenders_choose_whose_place_a_pod_gets() {
    let preempts = json!({"preemptVerb": "p"});
    let mut core = crowded(preempts.clone());
    assert_eq!(next(&mut core, 0), "high? a: low-a, b: least");
    core.answered("high", victims(&[("a", &["low-a"])]));
    assert_eq!(next(&mut core, 0), "high instead of low-a");
    assert_eq!(core.cluster().nomination("high"), Some("a"));
    let why = |answer: Answer, more: &Value| {
        let mut core = crowded(more.clone());
        next(&mut core, 0);
        core.answered("high", answer);
        next(&mut core, 0)
    };
    let told = "high: 0/2 nodes are available: 2 Insufficient cpu., preemption: ";
    let url = format!("extender: {URL}");
    for (answer, expect) in [
        (victims(&[]), "no candidate node for preemption".to_owned()),
        (victims(&[("a", &[])]), "expected at least one victim pod on node \"a\"".to_owned()),
        (victims(&[("z", &["low-a"])]), "nodeinfo not found for node name \"z\"".to_owned()),
        (
            victims(&[("b", &["peer"])]),
            format!("{url} claims to preempt pod peer on node: b, but its priority is not lower"),
        ),
        (
            victims(&[("b", &["low-a"])]),
            format!("{url} claims to preempt pod (UID: low-a) on node: b, but the pod is not found on that node"),
        ),
        (Answer::Failed("EOF".to_owned()), "EOF".to_owned()),
    ] {
        assert_eq!(why(answer, &preempts), format!("{told}{expect}"));
    }
    let ignorable = json!({"preemptVerb": "p", "ignorable": true});
    assert_eq!(why(Answer::Gone, &ignorable), "nothing", "nobody goes for a pod that is no more");
    assert_eq!(why(Answer::Failed("EOF".to_owned()), &ignorable), "high instead of least");
    assert_eq!(why(victims(&[("a", &["low-a"]), ("b", &[])]), &ignorable), "high instead of low-a");
}
