//! A node of a real runtime and a kubelet, in directories and cgroups of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kybern_apimachinery::{Value, json};
use kybern_client::Client;
use kybern_cni::DefaultNetwork;
use kybern_cri::{BoxFuture, ContainerStatus, RuntimeService};
use kybern_runtime::{CniNetwork, PodNet, PodNetwork, Runtime};
use kybern_testbed::harness::BUSYBOX;
use tokio::task::JoinHandle;

use crate::fake_api::{FakeApi, Wire};

/// A network namespace without any link but `lo`.
struct LoopbackOnly;

impl PodNetwork for LoopbackOnly {
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn add<'a>(&'a self, _: &'a PodNet) -> BoxFuture<'a, Result<Vec<String>, String>> {
        Box::pin(async { Ok(vec!["127.0.0.1".to_owned()]) })
    }

    fn collect_garbage(&self, _: kybern_runtime::Alive) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn del<'a>(&'a self, _: &'a PodNet) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

pub(crate) struct Machine {
    pub(crate) api: Arc<FakeApi>,
    pub(crate) dir: PathBuf,
    pub(crate) runtime: Arc<Runtime>,
    kubelet: JoinHandle<()>,
}

impl Machine {
    pub(crate) async fn new() -> Self {
        Self::with_network(|_| Arc::new(LoopbackOnly)).await
    }

    /// Its pods have addresses of a bridge, in the network namespace of the tests.
    pub(crate) async fn with_addresses() -> Self {
        Self::with_network(|dir| {
            let (conf, state) = (dir.join("net.d"), dir.join("cni"));
            let data_dir = Some(state.join("networks"));
            DefaultNetwork { data_dir, ..DefaultNetwork::default() }.write(&conf).unwrap();
            Arc::new(CniNetwork::new(conf, Vec::new(), state))
        })
        .await
    }

    async fn with_network(network: impl FnOnce(&std::path::Path) -> Arc<dyn PodNetwork>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = format!("/tmp/kybern-kubelet-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = PathBuf::from(dir);
        std::fs::create_dir_all(&dir).unwrap();
        let config = kybern_runtime::Config {
            root_dir: dir.join("root"),
            state_dir: dir.join("state"),
            netns_dir: dir.join("netns"),
            executable: std::env::current_exe().unwrap(),
            version: "test".into(),
            registries_file: dir.join("registries.yaml"),
            network: Some(network(&dir)),
        };
        let runtime = Runtime::open(config).await.unwrap();
        let api = FakeApi::new();
        let kubelet = run(&api, &runtime, &dir);
        Self { api, dir, runtime, kubelet }
    }

    /// Ends the kubelet as a crash would, and starts it again.
    pub(crate) async fn restart(&mut self) {
        self.kubelet.abort();
        let _ = (&mut self.kubelet).await;
        self.kubelet = run(&self.api, &self.runtime, &self.dir);
    }

    pub(crate) fn cgroup(&self) -> String {
        format!("/{}", self.dir.file_name().unwrap().display())
    }

    /// Creates a pod of one container that runs a shell script.
    pub(crate) fn create(&self, name: &str, script: &str, change: impl FnOnce(&mut Value)) {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "default", "uid": format!("{name}-uid"), "labels": {"app": "x"}},
            "spec": {"nodeName": "n1", "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "volumes": [
                {"name": "busybox", "hostPath": {"path": BUSYBOX, "type": "File"}},
            ]},
        });
        pod["spec"]["containers"] = json!([container("c", script)]);
        change(&mut pod);
        self.api.put("pods", pod);
    }

    pub(crate) fn pod(&self, name: &str) -> Value {
        self.api.get("pods", &format!("default/{name}")).unwrap()
    }

    pub(crate) async fn until(&self, name: &str, reached: impl Fn(&Value) -> bool) {
        self.api.until("pods", &format!("default/{name}"), |pod| pod.is_some_and(&reached)).await;
    }

    /// Waits until the pod has ended, and answers what its container said.
    pub(crate) async fn output(&self, name: &str) -> String {
        self.until(name, |pod| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))).await;
        self.log(name, "c")
    }

    /// What a container has said so far.
    pub(crate) fn log(&self, name: &str, container: &str) -> String {
        let log = self.dir.join(format!("pod-logs/default_{name}_{name}-uid/{container}/0.log"));
        let log = std::fs::read_to_string(log).unwrap_or_else(|e| panic!("{e}: {:#}", self.pod(name)));
        log.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned() + "\n").collect()
    }

    pub(crate) async fn containers(&self) -> Vec<ContainerStatus> {
        let mut all = Vec::new();
        for container in self.runtime.list_containers().await.unwrap() {
            all.push(self.runtime.container_status(&container.id).await.unwrap());
        }
        all
    }

    /// Deletes every pod and waits until nothing of them is left.
    pub(crate) async fn clean_up(self) {
        for pod in self.api.list("pods") {
            let key = format!("default/{}", pod["metadata"]["name"].as_str().unwrap());
            self.api.delete_gracefully(&key, 1);
            self.api.until("pods", &key, |pod| pod.is_none()).await;
        }
        for _ in 0..500 {
            let left = self.runtime.list_pod_sandbox().await.unwrap().len();
            let dirs = std::fs::read_dir(self.dir.join("kubelet/pods")).map_or(0, Iterator::count);
            if left + dirs == 0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        self.kubelet.abort();
        let _ = self.kubelet.await;
        assert_eq!(self.runtime.list_pod_sandbox().await.unwrap().len(), 0, "sandboxes are left");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.dir.join("kubelet").display().to_string();
        let left: Vec<&str> = mounts.lines().filter(|line| line.contains(&dir)).collect();
        assert!(left.is_empty(), "mounts are left: {left:?}");
        let cgroups = kybern_linux::cgroup::Cgroups::detect().unwrap();
        let root = format!("/{}", self.dir.file_name().unwrap().display());
        for group in ["kubepods/burstable", "kubepods/besteffort", "kubepods", ""] {
            let group = format!("{root}/{group}");
            let left = cgroups.directories(group.trim_end_matches('/'));
            for dir in left.iter().filter(|dir| dir.exists()) {
                std::fs::remove_dir(dir).unwrap_or_else(|e| panic!("{} is not empty: {e}", dir.display()));
            }
        }
        drop(self.runtime);
        for mount in mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|m| m.starts_with(&*self.dir.to_string_lossy()))
        {
            let _ = kybern_linux::mount::detach_all(mount.as_ref());
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn run(api: &Arc<FakeApi>, runtime: &Arc<Runtime>, dir: &std::path::Path) -> JoinHandle<()> {
    let mut config = kybern_kubelet::Config::new("n1", "127.0.0.1".parse().unwrap(), dir);
    config.pod_logs_dir = dir.join("pod-logs");
    config.container_logs_dir = dir.join("container-logs");
    config.cgroup_root = format!("/{}", dir.file_name().unwrap().display());
    let client = Client::new(Arc::new(Wire(api.clone())));
    let (services, images) = (runtime.clone(), runtime.clone());
    tokio::spawn(async move {
        kybern_kubelet::run(config, client, services, images, std::future::pending()).await.unwrap();
    })
}

/// A container that runs a shell script with busybox' tools.
pub(crate) fn container(name: &str, script: &str) -> Value {
    json!({
        "name": name, "image": "kybern.local/kybern:test", "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/busybox", "sh", "-c", format!("export PATH=/bin; for t in cat ls id stat mount grep sleep head wc cut dd; do eval \"$t() {{ busybox $t \\\"\\$@\\\"; }}\"; done\n{script}")],
        "volumeMounts": [{"name": "busybox", "mountPath": "/bin/busybox", "readOnly": true}],
    })
}

/// Adds a volume and mounts it into the first container.
pub(crate) fn add_volume(pod: &mut Value, volume: Value, mount: Value) {
    pod["spec"]["volumes"].as_array_mut().unwrap().push(volume);
    pod["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap().push(mount);
}
