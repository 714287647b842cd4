//! A whole kubelet against a fake API server and a fake runtime.

mod endings;
mod fake_api;
mod fake_cri;
mod http_api;

use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fake_api::{FakeApi, Wire};
use fake_cri::FakeCri;
use kybern_apimachinery::{Value, json};
use kybern_client::Client;
use kybern_kubelet::Config;
use tokio::task::JoinHandle;

/// A node whose files lie in a temporary directory.
struct TestNode {
    api: Arc<FakeApi>,
    cri: Arc<FakeCri>,
    dir: tempfile::TempDir,
    task: Option<JoinHandle<()>>,
}

impl TestNode {
    fn config(&self) -> Config {
        let mut config = Config::new("n1", "127.0.0.1".parse().unwrap(), self.dir.path());
        config.pod_logs_dir = self.dir.path().join("pod-logs");
        config.container_logs_dir = self.dir.path().join("container-logs");
        config.manage_cgroups = false;
        config
    }

    fn prepare() -> Self {
        Self { api: FakeApi::new(), cri: FakeCri::new(), dir: tempfile::tempdir().unwrap(), task: None }
    }

    fn start(&mut self, config: Config) {
        let client = Client::new(Arc::new(endings::HeldWire(Wire(self.api.clone()), self.cri.clone())));
        let (runtime, images) = (self.cri.clone(), self.cri.clone());
        self.task = Some(tokio::spawn(async move {
            kybern_kubelet::run(config, client, runtime, images, std::future::pending()).await.unwrap();
        }));
    }

    fn new() -> Self {
        let mut node = Self::prepare();
        node.start(node.config());
        node
    }

    async fn kill(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// Creates a pod on the node, changed by `change`, and waits until it runs.
    async fn running(&self, name: &str, change: impl FnOnce(&mut Value)) {
        self.create(name, change);
        self.until(name, |pod| pod["status"]["phase"] == "Running").await;
    }

    fn create(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "default", "uid": format!("{name}-uid"), "generation": 1},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "img:1"}]},
        });
        change(&mut pod);
        self.api.put("pods", pod);
    }

    async fn until(&self, name: &str, reached: impl Fn(&Value) -> bool) {
        self.api.until("pods", &format!("default/{name}"), |pod| pod.is_some_and(&reached)).await;
    }

    async fn until_gone(&self, name: &str) {
        self.api.until("pods", &format!("default/{name}"), |pod| pod.is_none()).await;
    }

    fn pod(&self, name: &str) -> Value {
        self.api.get("pods", &format!("default/{name}")).unwrap()
    }

    fn volume(&self, pod: &str, plugin: &str, name: &str) -> std::path::PathBuf {
        self.dir.path().join(format!("kubelet/pods/{pod}-uid/volumes/kubernetes.io~{plugin}/{name}"))
    }
}

fn condition(object: &Value, kind: &str) -> String {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|c| c["type"] == kind);
    found.map(|c| c["status"].as_str().unwrap().to_owned()).unwrap_or_default()
}

/// Waits until a file has a content that links may bring and take.
async fn until_file(path: &Path, expect: &str) {
    for _ in 0..500 {
        if std::fs::read_to_string(path).is_ok_and(|text| text == expect) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{} is {:?}, not {expect:?}", path.display(), std::fs::read_to_string(path));
}

#[tokio::test]
async fn the_node_registers_and_keeps_its_lease() {
    let node = TestNode::new();
    node.api.until("nodes", "/n1", |n| n.is_some_and(|n| condition(n, "Ready") == "True")).await;
    let object = node.api.get("nodes", "/n1").unwrap();
    assert_eq!(object["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
    assert_eq!(object["status"]["nodeInfo"]["containerRuntimeVersion"], "fake://1");
    node.api
        .until("leases", "kube-node-lease/n1", |lease| lease.is_some_and(|l| l["spec"]["holderIdentity"] == "n1"))
        .await;
}

#[tokio::test]
async fn a_pod_runs_and_goes() {
    let node = TestNode::new();
    node.running("p", |_| {}).await;
    node.until("p", |pod| condition(pod, "Ready") == "True").await;
    let pod = node.pod("p");
    let container = &pod["status"]["containerStatuses"][0];
    assert_eq!((&pod["status"]["podIP"], &container["restartCount"]), (&"127.0.0.1".into(), &0.into()));
    assert!(container["containerID"].as_str().unwrap().starts_with("fake://"));
    for event in ["Pulled: ", "Created: Container created", "Started: Container started"] {
        node.api.until_event(event).await;
    }
    let config = node.cri.config("c");
    assert_eq!(config.labels["io.kubernetes.pod.name"], "p");
    let hosts = config.mounts.iter().find(|m| m.container_path == "/etc/hosts").unwrap();
    assert!(std::fs::read_to_string(&hosts.host_path).unwrap().contains("127.0.0.1\tp\n"));
    assert_eq!(node.cri.sandbox_config().dns_config.servers, ["10.96.0.10"]);

    node.api.delete_gracefully("default/p", 7);
    node.until_gone("p").await;
    node.api.until_event("Killing: Stopping container c").await;
    assert!(node.cri.calls().contains(&"stop c 7s".to_owned()));
    for _ in 0..500 {
        if node.cri.is_empty() && !node.dir.path().join("kubelet/pods/p-uid").exists() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("traces are left");
}

#[tokio::test]
async fn a_crash_is_restarted_at_once_and_the_next_one_waits() {
    let node = TestNode::new();
    node.running("p", |_| {}).await;
    node.cri.exit("c", 1);
    node.until("p", |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        status["restartCount"] == 1 && !status["state"]["running"].is_null()
    })
    .await;
    let last = node.pod("p")["status"]["containerStatuses"][0]["lastState"]["terminated"].clone();
    assert_eq!((&last["exitCode"], &last["reason"]), (&1.into(), &"Error".into()));
    node.cri.exit("c", 1);
    let waiting = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    node.until("p", |pod| waiting(pod)["reason"] == "CrashLoopBackOff").await;
    assert_eq!(waiting(&node.pod("p"))["message"], "back-off 10s restarting failed container=c pod=p_default(p-uid)");
    assert_eq!(condition(&node.pod("p"), "Ready"), "False");
    node.api.until_event("BackOff: Back-off restarting failed container c in pod p_default(p-uid)").await;
}

#[tokio::test]
async fn a_job_ends() {
    let node = TestNode::new();
    node.running("p", |pod| pod["spec"]["restartPolicy"] = "Never".into()).await;
    let log = node
        .cri
        .config("c")
        .mounts
        .iter()
        .find(|m| m.container_path == "/dev/termination-log")
        .unwrap()
        .host_path
        .clone();
    std::fs::write(log, "last words").unwrap();
    node.cri.exit("c", 0);
    node.until("p", |pod| pod["status"]["phase"] == "Succeeded").await;
    let ended = &node.pod("p")["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["reason"], &ended["message"]), (&"Completed".into(), &"last words".into()));
}

#[tokio::test]
async fn a_restarted_kubelet_takes_over() {
    let mut node = TestNode::new();
    let probed = |pod: &mut Value| {
        pod["spec"]["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["ready"]}, "periodSeconds": 1});
    };
    node.running("p", probed).await;
    node.until("p", |pod| condition(pod, "Ready") == "True").await;
    node.kill().await;
    node.cri.add_orphan();
    let before = node.pod("p");
    node.start(node.config());
    node.create("q", |_| {});
    node.until("q", |pod| pod["status"]["phase"] == "Running").await;
    let creations: Vec<String> = node.cri.calls().into_iter().filter(|call| call.starts_with("create")).collect();
    assert_eq!(creations, ["create c 0", "create c 0"]);
    assert!(node.cri.calls().contains(&"stop-sandbox".to_owned()));
    // What is unchanged is not written again, and a pod that was ready stays so.
    assert_eq!(node.pod("p"), before);
}

#[tokio::test]
async fn a_failed_pull_says_why() {
    let node = TestNode::new();
    node.create("p", |pod| pod["spec"]["containers"][0]["image"] = "missing:1".into());
    let waiting = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    node.until("p", |pod| waiting(pod)["reason"] == "ErrImagePull").await;
    assert_eq!(waiting(&node.pod("p"))["message"], "missing:1: manifest unknown");
    node.until("p", |pod| waiting(pod)["reason"] == "ImagePullBackOff").await;
    node.api.until_event("Failed: Failed to pull image \"missing:1\": missing:1: manifest unknown").await;
    node.api.until_event("BackOff: Back-off pulling image \"missing:1\"").await;
    assert_eq!(node.pod("p")["status"]["phase"], "Pending");
}

/// Another image need not wait for what the first one is waiting for. A busy machine may be slow to notice; a back-off that is
/// waited for delays every attempt.
#[tokio::test]
async fn another_image_is_pulled_at_once() {
    let node = TestNode::new();
    let mut took = Vec::new();
    for attempt in 0..4 {
        let name = format!("p{attempt}");
        node.create(&name, |pod| pod["spec"]["containers"][0]["image"] = format!("missing:{attempt}").into());
        let waiting = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        node.until(&name, |pod| waiting(pod)["reason"] == "ErrImagePull").await;
        let failed = std::time::Instant::now();
        let mut pod = node.pod(&name);
        pod["spec"]["containers"][0]["image"] = "img:1".into();
        node.api.put("pods", pod);
        node.until(&name, |pod| pod["status"]["phase"] == "Running").await;
        if failed.elapsed().as_secs() < 8 {
            return;
        }
        took.push(failed.elapsed());
    }
    panic!("it waited for the other image's back-off of 10 s: {took:?}");
}

#[tokio::test]
async fn a_private_image_is_for_those_who_can_pull_it() {
    let mut node = TestNode::new();
    let secret = |name: &str, password: &str| {
        let config = json!({"auths": {"docker.io": {"username": "u", "password": password}}}).to_string();
        node.api.put(
            "secrets",
            json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "type": "kubernetes.io/dockerconfigjson",
                "data": {".dockerconfigjson": STANDARD.encode(config)}}),
        );
    };
    secret("right", "right");
    secret("copy", "right");
    secret("wrong", "guess");
    let uses = |secrets: &[&str], policy: &str| {
        let secrets: Vec<Value> = secrets.iter().map(|name| json!({"name": name})).collect();
        let policy = policy.to_owned();
        move |pod: &mut Value| {
            pod["spec"]["imagePullSecrets"] = json!(secrets);
            pod["spec"]["containers"][0]["image"] = "private/app:1".into();
            pod["spec"]["containers"][0]["imagePullPolicy"] = policy.into();
        }
    };
    let waiting = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    let pulls = |node: &TestNode| node.cri.calls().iter().filter(|call| call.starts_with("pulled")).count();
    node.running("first", uses(&["wrong", "right"], "IfNotPresent")).await;
    node.running("second", uses(&["right"], "Never")).await;
    node.running("copy", uses(&["copy"], "IfNotPresent")).await;
    assert_eq!(pulls(&node), 1, "there already");
    node.create("none", uses(&["absent"], "IfNotPresent"));
    node.until("none", |pod| waiting(pod)["reason"] == "ErrImagePull").await;
    assert!(waiting(&node.pod("none"))["message"].as_str().unwrap().contains("401 Unauthorized"));
    let missing = "FailedToRetrieveImagePullSecret: Unable to retrieve some image pull secrets (absent);";
    node.api.until_event(missing).await;
    node.kill().await;
    node.start(node.config());
    node.running("after", uses(&["right"], "IfNotPresent")).await;
    assert_eq!(pulls(&node), 1, "known after a restart");
    node.create("never", uses(&["wrong"], "Never"));
    node.until("never", |pod| waiting(pod)["reason"] == "ErrImageNeverPull").await;
    let message = waiting(&node.pod("never"))["message"].clone();
    let expect =
        "Container image \"private/app:1\" is not present with pull policy of Never: it was pulled for other pods";
    assert!(message.as_str().unwrap().starts_with(expect), "{message}");
    node.running("always", uses(&["right"], "Always")).await;
    assert_eq!(pulls(&node), 2);
}

#[tokio::test]
async fn changes_of_a_config_map_reach_the_volume() {
    let node = TestNode::new();
    node.create("p", |pod| {
        pod["spec"]["volumes"] = json!([
            {"name": "cm", "configMap": {"name": "settings"}},
            {"name": "all", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            ]}},
        ]);
    });
    node.api
        .until_event("FailedMount: MountVolume.SetUp failed for volume \"cm\" : configmap \"settings\" not found")
        .await;
    let settings =
        |value: &str| json!({"metadata": {"name": "settings", "namespace": "default"}, "data": {"a": value}});
    node.api.put("configmaps", settings("1"));
    node.until("p", |pod| pod["status"]["phase"] == "Running").await;
    until_file(&node.volume("p", "configmap", "cm").join("a"), "1").await;
    until_file(&node.volume("p", "projected", "all").join("token"), "token-default-0").await;
    node.api.put("configmaps", settings("2"));
    until_file(&node.volume("p", "configmap", "cm").join("a"), "2").await;
    let mut pod = node.pod("p");
    pod["metadata"]["labels"] = json!({"x": "y"});
    node.api.put("pods", pod);
    until_file(&node.volume("p", "projected", "all").join("labels"), "x=\"y\"").await;
}

#[tokio::test]
async fn tokens_are_renewed_before_they_expire() {
    let node = TestNode::new();
    node.running("p", |pod| {
        let token = json!({"serviceAccountToken": {"path": "token", "expirationSeconds": 2}});
        pod["spec"]["volumes"] = json!([{"name": "all", "projected": {"sources": [token]}}]);
    })
    .await;
    let file = node.volume("p", "projected", "all").join("token");
    let first = std::fs::read_to_string(&file).unwrap();
    assert!(first.starts_with("token-default-"), "{first}");
    let mut changes = 0;
    let mut last = first;
    for _ in 0..6000 {
        // A reader that was on its way to the old set may find it gone.
        if let Ok(now) = std::fs::read_to_string(&file) {
            changes += u32::from(now != last);
            last = now;
        }
        if changes == 2 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the token was not renewed: {last}");
}

#[tokio::test]
async fn probes_decide_readiness_and_restarts() {
    let node = TestNode::new();
    node.cri.command("ready", 1);
    node.running("p", |pod| {
        let probe = |command: &str| json!({"exec": {"command": [command]}, "periodSeconds": 1, "failureThreshold": 1});
        pod["spec"]["containers"][0]["readinessProbe"] = probe("ready");
        pod["spec"]["containers"][0]["livenessProbe"] = probe("alive");
    })
    .await;
    node.api.until_event("Unhealthy: Readiness probe failed: ready").await;
    assert_eq!(condition(&node.pod("p"), "Ready"), "False");
    node.cri.command("ready", 0);
    node.until("p", |pod| condition(pod, "Ready") == "True").await;
    node.cri.command("alive", 1);
    node.api.until_event("Killing: Container c failed liveness probe, will be restarted").await;
    node.until("p", |pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1).await;
}

/// A container may be seen to run before its pod's address is: what cannot be asked has not failed.
#[tokio::test]
async fn no_probe_fails_for_want_of_an_address() {
    let node = TestNode::new();
    node.cri.addresses(false);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    node.running("p", |pod| {
        let probe = json!({"tcpSocket": {"port": port}, "periodSeconds": 1, "failureThreshold": 1});
        pod["spec"]["containers"][0]["livenessProbe"] = probe.clone();
        pod["spec"]["containers"][0]["readinessProbe"] = probe;
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    node.cri.addresses(true);
    node.until("p", |pod| condition(pod, "Ready") == "True").await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(node.pod("p")["status"]["containerStatuses"][0]["restartCount"], 0);
}

#[tokio::test]
async fn hooks_run() {
    let node = TestNode::new();
    node.running("p", |pod| {
        let exec = |command: &str| json!({"exec": {"command": [command]}});
        pod["spec"]["containers"][0]["lifecycle"] = json!({"postStart": exec("hello"), "preStop": exec("goodbye")});
    })
    .await;
    node.api.delete_gracefully("default/p", 30);
    node.until_gone("p").await;
    let calls: Vec<String> =
        node.cri.calls().into_iter().filter(|c| c.starts_with("exec") || c.starts_with("stop c")).collect();
    assert_eq!(calls[..2], ["exec hello", "exec goodbye"]);
    assert!(calls[2].starts_with("stop c "));
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let node = TestNode::new();
    node.api.until("nodes", "/n1", |n| n.is_some()).await;
    node.running("first", |_| {}).await;
    node.create("p", |pod| pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "10000"}}));
    node.until("p", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(node.pod("p")["status"]["reason"], "OutOfcpu");
    let message = node.pod("p")["status"]["message"].as_str().unwrap().to_owned();
    assert!(
        message.starts_with("Pod was rejected: Node didn't have enough resource: cpu, requested: 10000000"),
        "{message}"
    );
    node.api.until_event("OutOfcpu: Node didn't have enough resource: cpu").await;
}

#[tokio::test]
async fn a_runtime_class_names_a_handler() {
    let node = TestNode::new();
    let class = |name: &str, handler: &str| {
        node.api.put("runtimeclasses", json!({"metadata": {"name": name}, "handler": handler}));
    };
    class("sandboxed", "gvisor");
    for (pod, class) in [("p", "sandboxed"), ("q", "gone")] {
        node.create(pod, |pod| pod["spec"]["runtimeClassName"] = class.into());
    }
    let failed = "FailedCreatePodSandBox: Failed to create pod sandbox: ";
    node.api.until_event(&format!("{failed}no runtime for \"gvisor\" is configured")).await;
    node.api.until_event(&format!("{failed}runtimeclass.node.k8s.io \"gone\" not found")).await;
    assert_eq!(node.pod("p")["status"]["phase"], "Pending");
    // What was missing may come.
    class("sandboxed", "");
    node.until("p", |pod| pod["status"]["phase"] == "Running").await;
}

#[tokio::test]
async fn the_node_has_a_csi_node() {
    let node = TestNode::new();
    let owned_by = |uid: Value| {
        let api = node.api.clone();
        async move {
            api.until("csinodes", "/n1", |c| c.is_some_and(|c| c["metadata"]["ownerReferences"][0]["uid"] == uid)).await
        }
    };
    node.api.until("nodes", "/n1", |n| n.is_some()).await;
    owned_by(node.api.get("nodes", "/n1").unwrap()["metadata"]["uid"].clone()).await;
    let csi = node.api.get("csinodes", "/n1").unwrap();
    let owner = &csi["metadata"]["ownerReferences"];
    assert_eq!(
        (&owner[0]["apiVersion"], &owner[0]["kind"], &owner[0]["name"]),
        (&"v1".into(), &"Node".into(), &"n1".into())
    );
    assert_eq!(csi["spec"]["drivers"], json!([]));
    let migrated = csi["metadata"]["annotations"]["storage.alpha.kubernetes.io/migrated-plugins"].as_str().unwrap();
    assert!(migrated.contains("kubernetes.io/aws-ebs,kubernetes.io/azure-disk,"), "{migrated}");
    // A node that was deleted and comes back is another object.
    node.api.remove("nodes", "/n1");
    node.api.put("nodes", json!({"metadata": {"name": "n1", "uid": "another"}, "status": {}}));
    owned_by("another".into()).await;
}
