//! CRI's calls, each led to where it is done.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use kybern_cri::*;
use tokio::sync::mpsc;

use crate::Config;
use crate::engine::{Engine, blocking, internal};
use crate::image::{Reference, StoredImage, is_digest};
use crate::operations::Operations;
use crate::spec::now_ns;

/// What a RuntimeClass may name: the one way that pods run here, also under the name that containerd and CRI-O give theirs.
const HANDLERS: [&str; 2] = ["", "runc"];

fn handler(name: &str) -> RuntimeHandler {
    RuntimeHandler { name: name.to_owned(), recursive_read_only_mounts: true, user_namespaces: false }
}

/// The container runtime, as the kubelet calls it. It lives as long as it is held; its pods live on.
pub struct Runtime {
    engine: Arc<Engine>,
    operations: Operations,
}

impl Runtime {
    /// Opens the runtime: makes its directories, connects to the shims of a previous run and goes on with their pods. What was
    /// left half-made is removed beside what comes. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When a directory cannot be made, another runtime uses the state directory, or no cgroup hierarchy is mounted.
    pub async fn open(config: Config) -> io::Result<Arc<Runtime>> {
        let (engine, remains) = Engine::open(config).await?;
        let operations = Operations::default();
        operations.spawn(engine.clone().remove_remains(remains));
        Ok(Arc::new(Runtime { engine, operations }))
    }
}

impl RuntimeService for Runtime {
    fn version(&self) -> CriFuture<'_, Version> {
        let runtime_version = self.engine.config.version.clone();
        Box::pin(async move {
            Ok(Version {
                version: "0.1.0".into(),
                runtime_name: "kybern".into(),
                runtime_version,
                runtime_api_version: "v1".into(),
            })
        })
    }

    fn status(&self) -> CriFuture<'_, RuntimeStatus> {
        Box::pin(async move {
            let network = match &self.engine.config.network {
                Some(network) => network.ready(),
                None => Err("no pod network is configured".into()),
            };
            let (reason, message) = match &network {
                Ok(()) => (String::new(), String::new()),
                Err(why) => ("NetworkPluginNotReady".into(), format!("Network plugin returns error: {why}")),
            };
            Ok(RuntimeStatus {
                conditions: vec![
                    RuntimeCondition { kind: "RuntimeReady".into(), status: true, ..Default::default() },
                    RuntimeCondition { kind: "NetworkReady".into(), status: network.is_ok(), reason, message },
                ],
                runtime_handlers: HANDLERS.map(handler).into(),
            })
        })
    }

    fn run_pod_sandbox(&self, config: PodSandboxConfig, runtime_handler: &str) -> CriFuture<'_, String> {
        if !HANDLERS.contains(&runtime_handler) {
            let text = format!("failed to get sandbox runtime: no runtime for {runtime_handler:?} is configured");
            return Box::pin(async { Err(CriError::Internal(text)) });
        }
        let runtime = self.engine.clone();
        Box::pin(self.operations.whole(async move { runtime.run_sandbox(config).await }))
    }

    fn stop_pod_sandbox(&self, id: &str) -> CriFuture<'_, ()> {
        let (runtime, id) = (self.engine.clone(), id.to_owned());
        Box::pin(self.operations.whole(async move { runtime.stop_sandbox(&id).await }))
    }

    fn remove_pod_sandbox(&self, id: &str) -> CriFuture<'_, ()> {
        let (runtime, id) = (self.engine.clone(), id.to_owned());
        Box::pin(self.operations.whole(async move { runtime.remove_sandbox(&id).await }))
    }

    fn pod_sandbox_status(&self, id: &str) -> CriFuture<'_, PodSandboxStatus> {
        let status = self.engine.sandbox(id).map(|sandbox| sandbox.status());
        Box::pin(async move { status })
    }

    fn list_pod_sandbox(&self) -> CriFuture<'_, Vec<PodSandbox>> {
        Box::pin(async move { Ok(self.engine.sandboxes.read().values().map(|s| s.summary()).collect()) })
    }

    fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        _pod: PodSandboxConfig,
    ) -> CriFuture<'_, String> {
        let (runtime, sandbox) = (self.engine.clone(), sandbox.to_owned());
        Box::pin(self.operations.whole(async move { runtime.create(&sandbox, config).await }))
    }

    fn start_container(&self, id: &str) -> CriFuture<'_, ()> {
        let (runtime, id) = (self.engine.clone(), id.to_owned());
        Box::pin(self.operations.whole(async move { runtime.start(&id).await }))
    }

    fn stop_container(&self, id: &str, timeout: Duration) -> CriFuture<'_, ()> {
        let container = self.engine.container(id);
        Box::pin(async move {
            match container {
                Ok(container) => self.engine.stop(&container, timeout).await,
                Err(_) => Ok(()),
            }
        })
    }

    fn remove_container(&self, id: &str) -> CriFuture<'_, ()> {
        let (runtime, id) = (self.engine.clone(), id.to_owned());
        Box::pin(self.operations.whole(async move { runtime.remove(&id).await }))
    }

    fn list_containers(&self) -> CriFuture<'_, Vec<Container>> {
        Box::pin(async move { Ok(self.engine.containers.read().values().map(|c| c.summary()).collect()) })
    }

    fn container_status(&self, id: &str) -> CriFuture<'_, ContainerStatus> {
        let status = self.engine.container(id).map(|container| container.status());
        Box::pin(async move { status })
    }

    fn update_container_resources(&self, id: &str, resources: LinuxContainerResources) -> CriFuture<'_, ()> {
        let id = id.to_owned();
        Box::pin(async move { self.engine.update(&id, resources).await })
    }

    fn reopen_container_log(&self, id: &str) -> CriFuture<'_, ()> {
        let id = id.to_owned();
        Box::pin(async move { self.engine.reopen_log(&id).await })
    }

    fn exec_sync(&self, id: &str, command: Vec<String>, timeout: Option<Duration>) -> CriFuture<'_, ExecSyncResult> {
        let id = id.to_owned();
        Box::pin(async move { self.engine.run_exec_sync(&id, command, timeout).await })
    }

    fn exec(&self, id: &str, command: Vec<String>, tty: bool, io: ExecIo) -> CriFuture<'_, i32> {
        let id = id.to_owned();
        Box::pin(async move { self.engine.run_exec(&id, command, tty, io).await })
    }

    fn attach(&self, id: &str, io: ExecIo) -> CriFuture<'_, ()> {
        let id = id.to_owned();
        Box::pin(async move { self.engine.run_attach(&id, io).await })
    }

    fn port_forward(&self, sandbox: &str, port: u16) -> CriFuture<'_, tokio::net::TcpStream> {
        let sandbox = sandbox.to_owned();
        Box::pin(async move { self.engine.forward_port(&sandbox, port).await })
    }

    fn list_container_stats(&self) -> CriFuture<'_, Vec<ContainerStats>> {
        Box::pin(async move {
            let runtime = self.engine.clone();
            blocking(move || {
                let containers: Vec<_> = runtime.containers.read().values().cloned().collect();
                let running = containers.iter().filter(|c| c.state() == ContainerState::Running);
                // A container that ends in between has no group any more and is left out.
                running
                    .filter_map(|c| Some((c, runtime.cgroups.usage(c.cgroup()).ok()?)))
                    .map(|(c, usage)| ContainerStats {
                        container_id: c.id.clone(),
                        pod_sandbox_id: c.sandbox.id.clone(),
                        name: c.metadata().name.clone(),
                        labels: c.labels().clone(),
                        cpu_usage_ns: usage.cpu_ns,
                        memory_working_set_bytes: usage.working_set_bytes,
                        memory_rss_bytes: usage.rss_bytes,
                        timestamp: now_ns(),
                    })
                    .collect()
            })
            .await
        })
    }

    fn container_events(&self) -> mpsc::Receiver<ContainerEvent> {
        self.engine.listen()
    }
}

impl From<StoredImage> for Image {
    fn from(image: StoredImage) -> Image {
        let user = image.config.user.split(':').next().unwrap_or_default();
        let uid = user.parse::<i64>().ok();
        Image {
            id: image.id,
            repo_tags: image.tags.into_iter().collect(),
            repo_digests: image.digests.into_iter().collect(),
            size_bytes: image.size,
            // An image that names no user runs as root.
            uid: if user.is_empty() { Some(0) } else { uid },
            username: if uid.is_some() { String::new() } else { user.to_owned() },
            pinned: image.pinned,
        }
    }
}

impl ImageService for Runtime {
    fn list_images(&self) -> CriFuture<'_, Vec<Image>> {
        Box::pin(async move { Ok(self.engine.images.list()?.into_iter().map(Image::from).collect()) })
    }

    fn image_status(&self, image: &ImageSpec) -> CriFuture<'_, Option<Image>> {
        let known = check_name(&image.image).and_then(|()| Ok(self.engine.images.find(&image.image)?));
        Box::pin(async move { Ok(known?.map(Image::from)) })
    }

    fn pull_image(&self, image: &ImageSpec, auth: Option<AuthConfig>) -> CriFuture<'_, String> {
        let name = image.image.clone();
        Box::pin(async move { self.engine.puller.pull(&name, auth).await })
    }

    fn remove_image(&self, image: &ImageSpec) -> CriFuture<'_, ()> {
        let (name, runtime) = (image.image.clone(), self.engine.clone());
        Box::pin(async move { Ok(blocking(move || runtime.images.remove(&name)).await??) })
    }

    fn image_fs_info(&self) -> CriFuture<'_, FilesystemUsage> {
        Box::pin(async move {
            let (used_bytes, inodes_used) =
                self.engine.images.usage().map_err(|error| internal("image store", error))?;
            Ok(FilesystemUsage { mountpoint: self.engine.images.dir().display().to_string(), used_bytes, inodes_used })
        })
    }
}

/// Whether this names an image at all: by its id, or by a reference.
fn check_name(image: &str) -> Result<(), CriError> {
    if is_digest(image) {
        return Ok(());
    }
    Reference::parse(image).map(drop).map_err(|error| CriError::InvalidArgument(error.to_string()))
}
