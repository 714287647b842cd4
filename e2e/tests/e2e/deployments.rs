//! Deployments: scale, roll out, undo, and never lose a request.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use kybern_e2e::{Cluster, Namespace, Table, eventually};

use crate::manifests::nginx_deployment;

#[test]
fn create_scale_and_replace_a_pod() {
    let namespace = Cluster::get().namespace("scale");
    namespace.run(&["create", "deployment", "nginx", "--image=nginx:1.14", "--port=80", "--replicas=3"]).ok();
    namespace.run(&["rollout", "status", "deployment/nginx", "--timeout=60s"]).ok();
    let table = Table::parse(&namespace.run(&["get", "deployment", "-o", "wide"]).ok());
    assert_eq!(
        table.headers(),
        ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]
    );
    assert_eq!((table.cell(0, "READY"), table.cell(0, "AVAILABLE")), ("3/3".into(), "3".into()));
    assert_eq!((table.cell(0, "IMAGES"), table.cell(0, "SELECTOR")), ("nginx:1.14".into(), "app=nginx".into()));
    let addresses = || namespace.jsonpath(&["pods"], "{range .items[*]}{.metadata.name}={.status.podIP} {end}");
    let before = addresses();
    let victim = before.split('=').next().unwrap().to_owned();
    namespace.run(&["delete", "pod", &victim]).ok();
    eventually("a new pod takes its place", || {
        let table = Table::parse(&namespace.run(&["get", "deployment"]).ok());
        let ready = table.cell(0, "READY");
        let now = addresses();
        if ready == "3/3" && !now.contains(&victim) { Ok(()) } else { Err(format!("{ready} {now}")) }
    });
    let fresh: Vec<String> =
        addresses().split_whitespace().map(str::to_owned).filter(|p| !before.contains(p.as_str())).collect();
    assert_eq!(fresh.len(), 1, "one new pod with a new address: {before} -> {fresh:?}");
    namespace.run(&["scale", "deployment", "nginx", "--replicas=1"]).ok();
    eventually("one pod is left", || {
        let pods = namespace.run(&["get", "pods", "-o", "name"]).ok();
        if pods.lines().count() == 1 { Ok(()) } else { Err(pods) }
    });
}

#[test]
fn rollouts() {
    let namespace = Cluster::get().namespace("rollout");
    namespace.apply(&nginx_deployment("web", "nginx:1.14", 2));
    let settled = || namespace.run(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    let image = || namespace.jsonpath(&["deployment", "web"], "{.spec.template.spec.containers[0].image}");
    settled();
    namespace.run(&["set", "image", "deployment/web", "nginx=nginx:1.15"]).ok();
    assert!(settled().contains("successfully rolled out"));
    namespace.run(&["set", "env", "deployment/web", "COLOR=blue"]).ok();
    settled();
    let history =
        Table::parse(namespace.run(&["rollout", "history", "deployment/web"]).ok().split_once('\n').unwrap().1);
    assert_eq!(history.column("REVISION"), ["1", "2", "3"]);
    namespace.run(&["rollout", "undo", "deployment/web"]).ok();
    settled();
    assert_eq!(namespace.jsonpath(&["deployment", "web"], "{.spec.template.spec.containers[0].env}"), "");
    namespace.run(&["rollout", "undo", "deployment/web", "--to-revision=1"]).ok();
    settled();
    assert_eq!(image(), "nginx:1.14");
    namespace.run(&["rollout", "pause", "deployment/web"]).ok();
    namespace.run(&["set", "image", "deployment/web", "nginx=nginx:1.15"]).ok();
    let sets = namespace.jsonpath(&["rs"], "{.items[?(@.spec.replicas>0)].spec.template.spec.containers[0].image}");
    assert_eq!(sets, "nginx:1.14", "a paused Deployment rolled out");
    namespace.run(&["rollout", "resume", "deployment/web"]).ok();
    settled();
    let pods = || namespace.run(&["get", "pods", "-o", "name", "--field-selector=status.phase=Running"]).ok();
    let before = pods();
    namespace.run(&["rollout", "restart", "deployment/web"]).ok();
    settled();
    eventually("every pod was replaced", || {
        let now = pods();
        if now.lines().any(|pod| before.contains(pod)) { Err(now) } else { Ok(()) }
    });
    assert_eq!(image(), "nginx:1.15");
}

#[test]
fn a_bad_rollout_keeps_the_old_pods() {
    let namespace = Cluster::get().namespace("badroll");
    namespace.apply(&nginx_deployment("web", "nginx:1.14", 2));
    namespace.run(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    namespace.run(&["set", "image", "deployment/web", "nginx=nginx:no-such-tag"]).ok();
    eventually("the pull fails visibly", || {
        let pods = namespace.run(&["get", "pods"]).ok();
        if pods.contains("ErrImagePull") || pods.contains("ImagePullBackOff") { Ok(()) } else { Err(pods) }
    });
    let ready = namespace.jsonpath(&["deployment", "web"], "{.status.availableReplicas}");
    assert_eq!(ready, "2");
    namespace.run(&["rollout", "undo", "deployment/web"]).ok();
    namespace.run(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
}

#[test]
fn a_rolling_update_loses_no_request() {
    let namespace = Cluster::get().namespace("noloss");
    namespace.apply(&nginx_deployment("web", "nginx:1.14", 3));
    update_under_load(&namespace);
}

/// Nothing in the pods helps: no probe, no hook.
#[test]
fn a_rolling_update_of_plain_pods_loses_no_request() {
    let namespace = Cluster::get().namespace("noloss");
    namespace.run(&["create", "deployment", "web", "--image=nginx:1.14", "--port=80", "--replicas=3"]).ok();
    update_under_load(&namespace);
}

fn update_under_load(namespace: &Namespace) {
    let cluster = namespace.cluster;
    namespace.run(&["expose", "deployment", "web", "--port=80"]).ok();
    namespace.run(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    let address = namespace.jsonpath(&["service", "web"], "{.spec.clusterIP}");
    let url = format!("http://{address}/");
    eventually("the Service answers", || cluster.fetch(&url));
    let (done, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) && sent.load(Ordering::Relaxed) < 20_000 {
                sent.fetch_add(1, Ordering::Relaxed);
                cluster.fetch(&url)?;
            }
            Ok::<(), String>(())
        });
        namespace.run(&["set", "image", "deployment/web", "nginx=nginx:1.15"]).ok();
        namespace.run(&["rollout", "status", "deployment/web", "--timeout=120s"]).ok();
        eventually("the old pods are gone", || {
            let pods = namespace.run(&["get", "pods", "-o", "name"]).ok();
            if pods.lines().count() == 3 { Ok(()) } else { Err(pods) }
        });
        done.store(true, Ordering::Relaxed);
        let outcome = sender.join().expect("the sender does not panic");
        assert_eq!(outcome, Ok(()), "after {} requests", sent.load(Ordering::Relaxed));
    });
    assert!(sent.load(Ordering::Relaxed) > 20, "too few requests to tell: {}", sent.load(Ordering::Relaxed));
}
