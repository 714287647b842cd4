use kybern_apimachinery::json;

use super::super::workloads::TRACKED;
use super::*;

/// Commits objects one by one and answers the first complaint.
fn check(objects: &[(&str, Value)], expect: Option<&str>) {
    let mut model = Model::new(Faults::default());
    for (n, (key, object)) in objects.iter().enumerate() {
        let write = match object {
            Value::Null => Write::Delete((*key).into()),
            object => Write::Put((*key).into(), object.to_string().into()),
        };
        model.commit(n as u64 + 2, &[write], Duration::from_secs(n as u64));
    }
    assert_eq!(model.violation(), expect);
}

fn pod(name: &str, node: &str, cpu: &str) -> (String, Value) {
    let spec = json!({"nodeName": node, "containers": [{"resources": {"requests": {"cpu": cpu}}}]});
    let metadata = json!({"name": name, "namespace": "d", "uid": name});
    (format!("/registry/pods/d/{name}"), json!({"metadata": metadata, "spec": spec}))
}

fn node() -> (&'static str, Value) {
    let size = json!({"cpu": "1", "pods": "2"});
    ("/registry/minions/n", json!({"metadata": {"name": "n"}, "status": {"allocatable": size}}))
}

#[test]
fn bindings() {
    let ((a, small), (_, elsewhere), (b, large)) = (pod("a", "n", "500m"), pod("a", "m", "1"), pod("b", "n", "600m"));
    check(&[node(), (&a, small.clone())], None);
    check(&[(&a, small.clone())], Some("pod /registry/pods/d/a was bound to \"n\", which does not exist"));
    check(
        &[node(), (&a, small.clone()), (&a, elsewhere)],
        Some("pod /registry/pods/d/a was bound to n and then to \"m\""),
    );
    let gone = format!("pod {a} went while it ran on n, which was not asked to end it");
    check(&[node(), (&a, small.clone()), (&a, Value::Null)], Some(&gone));
    let text = "binding pod /registry/pods/d/b to n made it hold 2 pods with 1100m CPU; it has 2 and 1000m";
    check(&[node(), (&a, small), (&b, large)], Some(text));
}

#[test]
fn services() {
    let service = |name: &str, ip: &str, port: i64| {
        let spec = json!({"clusterIPs": [ip], "ports": [{"nodePort": port}]});
        json!({"metadata": {"name": name, "namespace": "d"}, "spec": spec})
    };
    let (a, b) = ("/registry/services/specs/d/a", "/registry/services/specs/d/b");
    check(&[(a, service("a", "10.0.0.1", 30000)), (b, service("b", "10.0.0.2", 30001))], None);
    check(
        &[(a, service("a", "10.0.0.1", 30000)), (b, service("b", "10.0.0.1", 30001))],
        Some("services d/a and d/b both have 10.0.0.1"),
    );
    check(
        &[(a, service("a", "None", 30000)), (b, service("b", "None", 30000))],
        Some("services d/a and d/b both have node port 30000"),
    );
}

#[test]
fn sizes() {
    let deployment = |replicas: i64| {
        let strategy = json!({"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}});
        let spec = json!({"replicas": replicas, "strategy": strategy});
        json!({"metadata": {"name": "web", "namespace": "d", "uid": "web"}, "spec": spec})
    };
    let set = |name: &str, replicas: i64| {
        let metadata = json!({"name": name, "namespace": "d", "uid": name,
            "ownerReferences": [{"uid": "web", "controller": true}]});
        json!({"metadata": metadata, "spec": {"replicas": replicas}})
    };
    let (web, one, two) = ("/registry/deployments/d/web", "/registry/replicasets/d/1", "/registry/replicasets/d/2");
    check(&[(web, deployment(4)), (one, set("1", 4)), (two, set("2", 1))], None);
    check(
        &[(web, deployment(4)), (one, set("1", 4)), (two, set("2", 2))],
        Some("the ReplicaSets of d/web were sized 6 together, more than 5"),
    );
}

#[test]
fn revisions() {
    let mut model = Model::new(Faults::default());
    model.commit(2, &[], Duration::ZERO);
    model.commit(2, &[], Duration::ZERO);
    assert_eq!(model.violation(), Some("revision 2 was given out after 2"));
}

fn object(key: &str, owner: Option<(&str, &str)>, mut body: Value) -> (String, Value) {
    let name = key.rsplit('/').next().unwrap();
    body["metadata"]["name"] = name.into();
    body["metadata"]["namespace"] = "d".into();
    if body["metadata"]["uid"].is_null() {
        body["metadata"]["uid"] = name.into();
    }
    if let Some((kind, uid)) = owner {
        body["metadata"]["ownerReferences"] = json!([{"kind": kind, "uid": uid, "controller": true}]);
    }
    (format!("/registry/{key}"), body)
}

/// As [`check`], in a namespace that is there.
fn check_all(objects: &[(String, Value)], expect: Option<&str>) {
    let namespace = ("/registry/namespaces/d", json!({"metadata": {"name": "d", "uid": "d"}}));
    let objects = objects.iter().map(|(key, object)| (key.as_str(), object.clone()));
    check(&[namespace].into_iter().chain(objects).collect::<Vec<_>>(), expect);
}

#[test]
fn stateful_sets() {
    let set = |policy: &str| {
        object("statefulsets/d/s", None, json!({"spec": {"replicas": 3, "podManagementPolicy": policy}}))
    };
    let pod = |n: u32, body: Value| object(&format!("pods/d/s-{n}"), Some(("StatefulSet", "s")), body);
    let serves = || json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let ends = || json!({"metadata": {"deletionTimestamp": "now"}});
    check_all(&[set("OrderedReady"), pod(0, serves()), pod(1, serves()), pod(1, ends())], None);
    check_all(&[set("Parallel"), pod(1, json!({})), pod(0, ends()), pod(1, ends())], None);
    let early = "pod s-1 was made while number 0 of its StatefulSet did not serve";
    check_all(&[set("OrderedReady"), pod(0, json!({})), pod(1, json!({}))], Some(early));
    let pods = [set("OrderedReady"), pod(0, serves()), pod(1, serves()), pod(1, ends()), pod(0, ends())];
    check_all(&pods, Some("pod s-0 of a StatefulSet was deleted while s-1 was ending"));
}

#[test]
fn jobs() {
    let job = |status: Value| {
        let spec = json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed"});
        object("jobs/d/j", None, json!({"spec": spec, "status": status}))
    };
    let pod = |name: &str, phase: &str, finalizers: &[&str]| {
        let parts = json!({"metadata": {"finalizers": finalizers}, "status": {"phase": phase}});
        object(&format!("pods/d/{name}"), Some(("Job", "j")), parts)
    };
    let tracked = |name, phase| pod(name, phase, &[TRACKED]);
    let succeeds = |name| tracked(name, "Succeeded");
    // The Job has let the last one go before.
    let too_many = || pod("f", "Succeeded", &[]);
    let ended = || [succeeds("a"), tracked("b", "Failed"), succeeds("c"), succeeds("e"), too_many()];
    let with = |statuses: &[Value]| [&ended()[..], &statuses.iter().cloned().map(job).collect::<Vec<_>>()].concat();
    let uncounted = json!({"succeeded": 1, "uncountedTerminatedPods": {"succeeded": ["c"]}, "failed": 1});
    check_all(&with(&[uncounted, json!({"succeeded": 2, "failed": 1})]), None);
    let twice = json!({"succeeded": 3, "uncountedTerminatedPods": {"succeeded": ["a"]}});
    check_all(&with(&[twice]), Some("job /registry/jobs/d/j counts 4 successes of 3"));
    check_all(&with(&[json!({"failed": 2})]), Some("job /registry/jobs/d/j counts 2 failures of 1"));
    check_all(
        &with(&[json!({"succeeded": 2}), json!({"succeeded": 1})]),
        Some("job /registry/jobs/d/j takes back what it counted as succeeded: {\"succeeded\":1}"),
    );
    check_all(
        &with(&[json!({"succeeded": 3})]),
        Some("job /registry/jobs/d/j has completed more indexes than it has: {\"succeeded\":3}"),
    );
}

#[test]
fn cron_jobs() {
    let cron_job = || object("cronjobs/d/c", None, json!({"spec": {"concurrencyPolicy": "Forbid"}}));
    let job = |name: &str, time: &str, status: Value| {
        let metadata = json!({"annotations": {"batch.kubernetes.io/cronjob-scheduled-timestamp": time}});
        object(&format!("jobs/d/{name}"), Some(("CronJob", "c")), json!({"metadata": metadata, "status": status}))
    };
    let done = || json!({"conditions": [{"type": "Complete", "status": "True"}]});
    check_all(&[cron_job(), job("1", "1", done()), job("2", "2", json!({}))], None);
    check_all(
        &[cron_job(), job("1", "1", json!({})), job("2", "2", json!({}))],
        Some("job /registry/jobs/d/2 was made while another of its CronJob ran"),
    );
    check_all(
        &[cron_job(), job("1", "1", done()), job("2", "1", json!({}))],
        Some("job /registry/jobs/d/2 serves 1, which was served before"),
    );
}

#[test]
fn quotas() {
    let quota = || object("resourcequotas/d/q", None, json!({"status": {"hard": {"pods": "1"}}}));
    let pod = |name: &str, phase: &str| object(&format!("pods/d/{name}"), None, json!({"status": {"phase": phase}}));
    check_all(&[quota(), pod("a", "Failed"), pod("b", "Running")], None);
    let text = "pod b is number 2 in d, where a quota allows 1";
    let known = vec![object("configmaps/d/x", None, json!({})); 60];
    check_all(&[&[quota()][..], &known, &[pod("a", "Running"), pod("b", "Running")]].concat(), Some(text));
    check_all(&[quota(), pod("a", "Running"), pod("b", "Running")], None);
}

#[test]
fn budgets() {
    let budget = || {
        let spec = json!({"minAvailable": 2, "selector": {"matchLabels": {"app": "guarded"}}});
        object("poddisruptionbudgets/d/guard", None, json!({"spec": spec}))
    };
    let pod = |name: &str, more: Value| {
        let mut pod = json!({"metadata": {"labels": {"app": "guarded"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        if more == "evicted" || more == "gone" {
            let reason = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"});
            pod["status"]["conditions"].as_array_mut().unwrap().push(reason);
        }
        if more == "gone" {
            pod["metadata"]["deletionTimestamp"] = "now".into();
        }
        object(&format!("pods/d/{name}"), None, pod)
    };
    let evicted = |name: &str| [pod(name, json!("evicted")), pod(name, json!("gone"))];
    let there = [pod("a", json!("")), pod("b", json!("")), pod("c", json!(""))];
    // Each commit takes a second: a budget is believed to be known after two minutes.
    let time = vec![object("configmaps/d/x", None, json!({})); STALENESS.as_secs() as usize];
    let known = [&[budget()][..], &there, &time, &evicted("a")].concat();
    check_all(&known, None);
    let text = "evicting pod b left 1 healthy pods, where budget d/guard promises 2";
    check_all(&[&known[..], &evicted("b")].concat(), Some(text));
    check_all(&[&[budget()][..], &there, &evicted("a"), &evicted("b")].concat(), None);
}

#[test]
fn placement() {
    let node = |name: &str, zone: &str| {
        let metadata = json!({"labels": {"zone": zone, "host": name}});
        object(
            &format!("minions/{name}"),
            None,
            json!({"metadata": metadata, "status": {"allocatable": {"cpu": "9", "pods": "9"}}}),
        )
    };
    let pod = |name: &str, on: &str, more: Value| {
        let mut pod = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"nodeName": on}});
        pod["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object(&format!("pods/d/{name}"), None, pod)
    };
    let own = || json!({"matchLabels": {"app": "a"}});
    let shuns = || {
        let term = json!([{"topologyKey": "host", "labelSelector": own()}]);
        json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}})
    };
    let nodes = [node("1", "x"), node("2", "y")];
    check_all(&[&nodes[..], &[pod("a", "1", shuns()), pod("b", "2", shuns())]].concat(), None);
    let text = "pod /registry/pods/d/b was bound to 1, but pod a, which it shuns, is in 1";
    check_all(&[&nodes[..], &[pod("a", "1", shuns()), pod("b", "1", shuns())]].concat(), Some(text));

    let spreads = || {
        json!({"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1, "labelSelector": own(),
            "whenUnsatisfiable": "DoNotSchedule"}]})
    };
    let pods = [pod("a", "1", spreads()), pod("b", "1", spreads())];
    let time = |seconds: u64| vec![object("configmaps/d/x", None, json!({})); seconds as usize];
    let long = time(STALENESS.as_secs());
    let text =
        "pod /registry/pods/d/b was bound to 1, but 2 pods would be in x, where another has 0: {\"x\": 1, \"y\": 0}";
    check_all(&[&nodes[..], &long, &pods, &time(60)].concat(), Some(text));
    check_all(&[&nodes[..], &long, &pods, &[pod("c", "2", spreads())], &time(60)].concat(), None);
    check_all(&[&nodes[..], &pods, &time(60)].concat(), None);
}

#[test]
fn volumes() {
    let claim = |name: &str, volume: &str| {
        object(&format!("persistentvolumeclaims/d/{name}"), None, json!({"spec": {"volumeName": volume}}))
    };
    let volume = |name: &str, claim: &str| {
        let terms = json!([{"matchExpressions": [{"key": "h", "operator": "In", "values": ["n"]}]}]);
        let spec = json!({"claimRef": {"uid": claim}, "nodeAffinity": {"required": {"nodeSelectorTerms": terms}}});
        object(&format!("persistentvolumes/{name}"), None, json!({"spec": spec}))
    };
    let pod = |node: &str| {
        let volumes = json!([{"persistentVolumeClaim": {"claimName": "c"}}]);
        object("pods/d/p", None, json!({"spec": {"nodeName": node, "volumes": volumes}}))
    };
    let nodes = ["n", "m"].map(|name| {
        object(&format!("minions/{name}"), None, json!({"status": {"allocatable": {"cpu": "9", "pods": "9"}}}))
    });
    let bound = [&nodes[..], &[claim("c", ""), volume("v", "c"), claim("c", "v")]].concat();
    let check_then = |more: &[(String, Value)], expect| check_all(&[&bound[..], more].concat(), expect);
    check_then(&[pod("n")], None);
    check_then(&[pod("m")], Some("pod /registry/pods/d/p was bound to m, but its volume v is on n"));
    let text = "/registry/persistentvolumeclaims/d/other was bound to v, which d/c has";
    check_then(&[claim("other", "v")], Some(text));
    check_then(&[volume("v", "e")], Some("/registry/persistentvolumes/v was claimed by c and then by e"));
    check_then(&[claim("c", "w")], Some("/registry/persistentvolumeclaims/d/c was bound to v and then to \"w\""));
}
