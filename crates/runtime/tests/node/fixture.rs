//! A runtime in directories of its own, and pods made of busybox.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kybern_cri::*;
use kybern_linux::netns::NetNs;
use kybern_linux::rtnl::Rtnl;
use kybern_runtime::{Config, PodNet, PodNetwork, Runtime};
use kybern_testbed::harness::BUSYBOX;
use rustix::mount::{MountFlags, UnmountFlags};

/// A network namespace without any link but `lo`.
pub(crate) struct LoopbackOnly;

impl PodNetwork for LoopbackOnly {
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn add<'a>(&'a self, net: &'a PodNet) -> BoxFuture<'a, Result<Vec<String>, String>> {
        Box::pin(async {
            let namespace = NetNs::open(&net.netns).unwrap();
            let up = namespace.run(|| {
                let mut netlink = Rtnl::open().map_err(std::io::Error::other)?;
                let lo = netlink.require_link("lo").map_err(std::io::Error::other)?;
                netlink.set_up(lo.index).map_err(std::io::Error::other)
            });
            up.map(|()| vec!["127.0.0.1".to_owned()]).map_err(|error| error.to_string())
        })
    }

    fn collect_garbage(&self, _: kybern_runtime::Alive) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn del<'a>(&'a self, _: &'a PodNet) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

pub(crate) struct Node {
    pub(crate) dir: PathBuf,
    pub(crate) config: Config,
    service: Option<Arc<Runtime>>,
}

fn new_dir() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let unique = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = PathBuf::from(format!("/tmp/kybern-node-{}-{unique}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

impl Node {
    pub(crate) async fn new() -> Node {
        Node::below(new_dir()).await
    }

    /// A node whose disk has room for this program and a little more.
    pub(crate) async fn on_a_small_disk() -> Node {
        let dir = new_dir();
        let program = std::fs::metadata(std::env::current_exe().unwrap()).unwrap().len();
        let options = std::ffi::CString::new(format!("size={}", program + (16 << 20))).unwrap();
        rustix::mount::mount("tmpfs", &dir, "tmpfs", MountFlags::empty(), Some(options.as_c_str())).unwrap();
        Node::below(dir).await
    }

    /// Fills the small disk until only so many bytes are free.
    pub(crate) fn fill_disk(&self, free: u64) {
        self.empty_disk();
        let disk = rustix::fs::statvfs(&self.dir).unwrap();
        let filler = std::fs::File::create(self.dir.join("filler")).unwrap();
        let length = disk.f_bavail * disk.f_frsize - free;
        rustix::fs::fallocate(filler, rustix::fs::FallocateFlags::empty(), 0, length).unwrap();
    }

    pub(crate) fn empty_disk(&self) {
        let _ = std::fs::remove_file(self.dir.join("filler"));
    }

    async fn below(dir: PathBuf) -> Node {
        Node::connected(dir, Arc::new(LoopbackOnly)).await
    }

    /// A node with another network than the usual.
    pub(crate) async fn with_network(network: Arc<dyn PodNetwork>) -> Node {
        Node::connected(new_dir(), network).await
    }

    async fn connected(dir: PathBuf, network: Arc<dyn PodNetwork>) -> Node {
        let config = Config {
            root_dir: dir.join("root"),
            state_dir: dir.join("state"),
            netns_dir: dir.join("netns"),
            executable: std::env::current_exe().unwrap(),
            version: "test".into(),
            registries_file: dir.join("registries.yaml"),
            network: Some(network),
        };
        let mut node = Node { dir, config, service: None };
        node.open().await;
        node
    }

    /// Opens the runtime (again).
    pub(crate) async fn open(&mut self) {
        for _ in 0..200 {
            match Runtime::open(self.config.clone()).await {
                Ok(runtime) => return self.service = Some(runtime),
                // Calls of the one before are still being dropped.
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {}
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the runtime before does not end");
    }

    /// Forgets the runtime as a crash would: nothing is stopped.
    pub(crate) async fn crash(&mut self) {
        let runtime = Arc::downgrade(&self.service.take().unwrap());
        // The tasks that follow shims let go when their shims next speak; the lock must be free before a new start.
        for _ in 0..200 {
            if runtime.strong_count() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the runtime is still held");
    }

    pub(crate) fn service(&self) -> &Runtime {
        self.service.as_ref().unwrap()
    }

    pub(crate) fn pod(&self, name: &str) -> PodSandboxConfig {
        let log_directory = self.dir.join("logs").join(name);
        std::fs::create_dir_all(&log_directory).unwrap();
        PodSandboxConfig {
            metadata: PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            },
            hostname: name.into(),
            log_directory: log_directory.display().to_string(),
            dns_config: DnsConfig { servers: vec!["10.96.0.10".into()], ..Default::default() },
            cgroup_parent: format!("/{}/pod-{name}", self.dir.file_name().unwrap().display()),
            namespaces: NamespaceOptions { pid: NamespaceMode::Container, ..Default::default() },
            ..Default::default()
        }
    }

    /// A container that runs a shell script.
    pub(crate) fn shell(&self, name: &str, script: &str) -> ContainerConfig {
        ContainerConfig {
            metadata: ContainerMetadata { name: name.into(), attempt: 0 },
            image: ImageSpec { image: self.config.builtin_image(), ..Default::default() },
            command: vec!["/bin/busybox".into(), "sh".into(), "-c".into(), script.into()],
            envs: vec![("PATH".into(), "/bin".into())],
            mounts: vec![Mount {
                container_path: "/bin/busybox".into(),
                host_path: BUSYBOX.into(),
                readonly: true,
                ..Default::default()
            }],
            log_path: format!("{name}.log"),
            security: LinuxContainerSecurityContext {
                namespaces: NamespaceOptions { pid: NamespaceMode::Container, ..Default::default() },
                ..Default::default()
            },
            ..Default::default()
        }
    }

    pub(crate) async fn sandbox(&self, pod: &PodSandboxConfig) -> String {
        self.service().run_pod_sandbox(pod.clone(), "").await.unwrap()
    }

    pub(crate) async fn start(&self, sandbox: &str, config: ContainerConfig) -> String {
        let id = self.service().create_container(sandbox, config, PodSandboxConfig::default()).await.unwrap();
        self.service().start_container(&id).await.unwrap();
        id
    }

    pub(crate) async fn status(&self, id: &str) -> ContainerStatus {
        self.service().container_status(id).await.unwrap()
    }

    /// Waits for the end of a container.
    pub(crate) async fn ended(&self, id: &str) -> ContainerStatus {
        for _ in 0..2000 {
            let status = self.status(id).await;
            if status.container.state == ContainerState::Exited {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("container {id} has not ended");
    }

    /// The text of a container's log, without times, streams and tags.
    pub(crate) async fn output(&self, id: &str) -> String {
        let log = std::fs::read_to_string(self.status(id).await.log_path).unwrap();
        log.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned() + "\n").collect()
    }

    /// Waits until a container's log holds a text, and answers all of it.
    pub(crate) async fn until_output(&self, id: &str, text: &str) -> String {
        for _ in 0..2000 {
            let output = self.output(id).await;
            if output.contains(text) {
                return output;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("container {id} never said {text:?}: {:?}", self.output(id).await);
    }

    /// Runs a script in a pod of its own to its end, and answers its status and output.
    pub(crate) async fn run(
        &self,
        change: impl FnOnce(&mut PodSandboxConfig, &mut ContainerConfig),
        script: &str,
    ) -> (ContainerStatus, String) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut pod = self.pod(&format!("run-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let mut container = self.shell("main", script);
        change(&mut pod, &mut container);
        let sandbox = self.sandbox(&pod).await;
        let id = self.start(&sandbox, container).await;
        let result = (self.ended(&id).await, self.output(&id).await);
        self.service().remove_pod_sandbox(&sandbox).await.unwrap();
        result
    }

    /// Removes every pod and the node's directories, and checks that nothing of them is left in the kernel.
    pub(crate) async fn finish(self) {
        for sandbox in self.service().list_pod_sandbox().await.unwrap() {
            self.service().remove_pod_sandbox(&sandbox.id).await.unwrap();
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let below = format!("{}/", self.dir.display());
        let left: Vec<_> = mounts.lines().filter(|line| line.contains(&below)).collect();
        assert!(left.is_empty(), "mounts left: {left:?}");
        let cgroups = kybern_linux::cgroup::Cgroups::detect().unwrap();
        cgroups.remove(&format!("/{}", self.dir.file_name().unwrap().display())).unwrap();
    }
}

/// A failed test leaves nothing behind either.
impl Drop for Node {
    fn drop(&mut self) {
        let _ = kybern_runtime::purge(&self.config);
        if let Ok(cgroups) = kybern_linux::cgroup::Cgroups::detect() {
            let _ = cgroups.remove(&format!("/{}", self.dir.file_name().unwrap().display()));
        }
        // Of a small disk.
        let _ = rustix::mount::unmount(&self.dir, UnmountFlags::DETACH);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
