//! The workloads of a tutorial besides Deployments: Jobs, CronJobs, limits, and two versions behind one Service.

use std::collections::BTreeSet;
use std::time::Duration;

use kybern_e2e::{Cluster, Namespace, eventually, eventually_within};

const INDEXED: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: shards}
spec:
  completions: 3
  parallelism: 2
  completionMode: Indexed
  backoffLimit: 3
  template:
    spec:
      restartPolicy: Never
      containers:
      - {name: main, image: busybox, command: [sh, -c, 'echo shard $JOB_COMPLETION_INDEX']}
";

/// Fails on its first two pods, and has what they leave on the node counted.
const FAILING: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: hopeless}
spec:
  backoffLimit: 1
  template:
    spec:
      restartPolicy: Never
      containers:
      - {name: main, image: busybox, command: [sh, -c, 'exit 3']}
";

#[test]
fn jobs_end_and_say_how() {
    let namespace = Cluster::get().namespace("jobs");
    namespace.apply(INDEXED);
    namespace.apply(FAILING);
    namespace.run(&["wait", "--for=condition=Complete", "--timeout=60s", "job/shards"]).ok();
    let status = namespace.jsonpath(&["job", "shards"], "{.status.succeeded} {.status.completedIndexes}");
    assert_eq!(status, "3 0-2");
    let logs = namespace.run(&["logs", "-l", "job-name=shards", "--prefix=false"]).ok();
    let shards: BTreeSet<&str> = logs.lines().collect();
    assert_eq!(shards, BTreeSet::from(["shard 0", "shard 1", "shard 2"]));
    namespace.run(&["wait", "--for=condition=Failed", "--timeout=90s", "job/hopeless"]).ok();
    let failed = "{.status.failed} {.status.conditions[?(@.type=='Failed')].reason}";
    assert_eq!(namespace.jsonpath(&["job", "hopeless"], failed), "2 BackoffLimitExceeded");
}

#[test]
fn a_cron_job_runs_when_asked_and_when_it_is_time() {
    let namespace = Cluster::get().namespace("cron");
    let schedule = ["--schedule=* * * * *", "--image=busybox", "--", "sh", "-c", "date"];
    namespace.run(&[&["create", "cronjob", "tick"][..], &schedule].concat()).ok();
    namespace.run(&["create", "job", "by-hand", "--from=cronjob/tick"]).ok();
    namespace.run(&["wait", "--for=condition=Complete", "--timeout=60s", "job/by-hand"]).ok();
    // A job made by hand from a CronJob is owned by it, too.
    eventually_within(Duration::from_secs(90), "its time comes", || {
        let done =
            "{range .items[?(@.status.succeeded==1)]}{.metadata.name} {.metadata.ownerReferences[0].name}{'\\n'}{end}";
        let done = namespace.jsonpath(&["job"], done);
        let by_time = done.lines().any(|job| job.starts_with("tick-") && job.ends_with(" tick"));
        if by_time { Ok(()) } else { Err(namespace.run(&["get", "cronjob,job", "-o", "wide"]).to_string()) }
    });
    assert!(!namespace.jsonpath(&["cronjob", "tick"], "{.status.lastScheduleTime}").is_empty());
}

#[test]
fn limits_fill_in_and_hold_back() {
    let namespace = Cluster::get().namespace("limits");
    namespace.run(&["create", "quota", "few", "--hard=pods=2,requests.cpu=50m"]).ok();
    namespace.apply(
        "
apiVersion: v1
kind: LimitRange
metadata: {name: usual}
spec:
  limits: [{type: Container, defaultRequest: {cpu: 20m}, default: {cpu: 100m}, max: {cpu: 200m}}]
",
    );
    eventually("the quota is counted", || {
        let used = namespace.jsonpath(&["quota", "few"], "{.status.used.pods}");
        if used == "0" { Ok(()) } else { Err(used) }
    });
    namespace.run(&["create", "deployment", "web", "--image=nginx:1.14", "--replicas=3"]).ok();
    let condition = "{.status.conditions[?(@.type=='ReplicaFailure')].message}";
    let message = eventually("the third is refused", || {
        let message = namespace.jsonpath(&["deployment", "web"], condition);
        if message.is_empty() { Err(namespace.run(&["get", "all"]).to_string()) } else { Ok(message) }
    });
    assert!(message.contains("exceeded quota: few, requested: pods=1,requests.cpu=20m, used: pods=2"), "{message}");
    let requests = namespace.jsonpath(&["pods"], "{.items[*].spec.containers[0].resources.requests.cpu}");
    assert_eq!(requests, "20m 20m");
    namespace.run(&["delete", "quota", "few"]).ok();
    namespace.run(&["rollout", "status", "deployment/web", "--timeout=120s"]).ok();
    let refused = namespace.run_with_input(
        &["create", "-f", "-"],
        "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: busybox, resources: {limits: {cpu: 1}}}]}}",
    );
    let refused = refused.fails();
    assert!(refused.contains("maximum cpu usage per Container is 200m, but limit is 1"), "{refused}");
}

/// Pods that say their names, of one version.
fn version(namespace: &Namespace, name: &str, replicas: u32) {
    let image = format!("kybern.local/kybern:{}", env!("CARGO_PKG_VERSION"));
    namespace.apply(&format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: shop, version: {name}}}}}
  template:
    metadata: {{labels: {{app: shop, version: {name}}}}}
    spec:
      containers:
      - name: shop
        image: {image}
        command: [/kybern, testapp, serve]
        ports: [{{containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}
"
    ));
    namespace.run(&["rollout", "status", &format!("deployment/{name}"), "--timeout=60s"]).ok();
}

/// Which versions answer at an address, of sixty requests of which none may fail.
fn versions(cluster: &Cluster, address: &str) -> BTreeSet<String> {
    let ask = |_| cluster.fetch(&format!("http://{address}/hostname")).unwrap_or_else(|error| panic!("{error}"));
    let hosts = (0..60).map(ask);
    hosts.map(|host| host.split('-').next().unwrap_or_default().to_owned()).collect()
}

/// Waits until exactly these versions answer.
fn until(cluster: &Cluster, address: &str, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|version| (*version).to_owned()).collect();
    eventually("the traffic follows", || {
        let found = versions(cluster, address);
        if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn canary_and_blue_green() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("releases");
    version(&namespace, "blue", 3);
    namespace.run(&["create", "service", "clusterip", "shop", "--tcp=80:8080"]).ok();
    let select = |selector: &str| {
        let patch = format!(r#"[{{"op": "replace", "path": "/spec/selector", "value": {selector}}}]"#);
        namespace.run(&["patch", "service", "shop", "--type=json", "-p", &patch]).ok();
    };
    select(r#"{"app": "shop"}"#);
    let address = namespace.jsonpath(&["service", "shop"], "{.spec.clusterIP}");
    eventually("the Service answers", || cluster.fetch(&format!("http://{address}/hostname")));
    until(cluster, &address, &["blue"]);
    // A canary: one pod of the new version gets a part of the traffic, and none once it is taken back.
    version(&namespace, "green", 1);
    until(cluster, &address, &["blue", "green"]);
    namespace.run(&["scale", "deployment/green", "--replicas=0"]).ok();
    until(cluster, &address, &["blue"]);
    // Blue-green: both run, and the selector says who serves.
    select(r#"{"app": "shop", "version": "blue"}"#);
    version(&namespace, "green", 3);
    until(cluster, &address, &["blue"]);
    select(r#"{"app": "shop", "version": "green"}"#);
    until(cluster, &address, &["green"]);
}
