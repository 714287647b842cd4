//! A container runtime that runs nothing: containers are entries of a table, ended by the test.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kybern_cri::*;
use parking_lot::Mutex;
use tokio::sync::mpsc;

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, (PodSandboxStatus, PodSandboxConfig)>,
    containers: BTreeMap<String, (ContainerStatus, ContainerConfig)>,
    next: u32,
    listeners: Vec<mpsc::Sender<ContainerEvent>>,
    /// What was asked of it, in short.
    calls: Vec<String>,
    /// Exit codes of `exec_sync` by command.
    commands: BTreeMap<String, i32>,
    /// Sandboxes have no addresses yet.
    no_addresses: bool,
}

#[derive(Default)]
pub(crate) struct FakeCri {
    state: Mutex<State>,
    /// The step that is held up, and the gate before it.
    held: Mutex<Option<String>>,
    pub(crate) reached: tokio::sync::Notify,
    release: tokio::sync::Notify,
    /// So many stops of sandboxes fail.
    failing_stops: AtomicU32,
}

fn now() -> i64 {
    jiff::Timestamp::now().as_nanosecond() as i64
}

impl State {
    fn id(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}{}", self.next)
    }

    fn tell(&mut self, kind: ContainerEventType, container: &str, sandbox: &str) {
        let pod_uid = self.sandboxes.get(sandbox).map(|(s, _)| s.sandbox.metadata.uid.clone()).unwrap_or_default();
        let event = ContainerEvent { kind, container_id: container.into(), pod_sandbox_id: sandbox.into(), pod_uid };
        self.listeners.retain(|listener| listener.try_send(event.clone()).is_ok());
    }

    fn end(&mut self, id: &str, code: i32) {
        let Some((status, _)) = self.containers.get_mut(id) else { return };
        if status.container.state != ContainerState::Running {
            return;
        }
        status.container.state = ContainerState::Exited;
        status.exit_code = code;
        status.finished_at = now();
        let sandbox = status.container.pod_sandbox_id.clone();
        self.tell(ContainerEventType::Stopped, id, &sandbox);
    }
}

impl FakeCri {
    /// Whether sandboxes have their addresses, which they tell of when they get them.
    pub(crate) fn addresses(&self, known: bool) {
        let mut state = self.state.lock();
        state.no_addresses = !known;
        for id in state.sandboxes.keys().cloned().collect::<Vec<_>>() {
            state.tell(ContainerEventType::Started, "", &id);
        }
    }

    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The next call that comes to this step waits there.
    pub(crate) fn hold(&self, step: &str) {
        *self.held.lock() = Some(step.to_owned());
    }

    pub(crate) fn release(&self) {
        *self.held.lock() = None;
        self.release.notify_one();
    }

    pub(crate) fn fail_stops(&self, count: u32) {
        self.failing_stops.store(count, Ordering::Relaxed);
    }

    pub(crate) async fn at(&self, step: &str) {
        if self.held.lock().as_deref() == Some(step) {
            self.reached.notify_one();
            self.release.notified().await;
        }
    }

    /// Ends the running start of a container.
    pub(crate) fn exit(&self, name: &str, code: i32) {
        let mut state = self.state.lock();
        let is_it = |(status, _): &&(ContainerStatus, ContainerConfig)| {
            status.container.metadata.name == name && status.container.state == ContainerState::Running
        };
        let id = state.containers.values().find(is_it).unwrap().0.container.id.clone();
        state.end(&id, code);
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    pub(crate) fn command(&self, command: &str, code: i32) {
        self.state.lock().commands.insert(command.into(), code);
    }

    /// The configuration of the newest start of a container.
    pub(crate) fn config(&self, name: &str) -> ContainerConfig {
        let state = self.state.lock();
        let starts = state.containers.values().filter(|(_, config)| config.metadata.name == name);
        starts.max_by_key(|(_, config)| config.metadata.attempt).unwrap().1.clone()
    }

    pub(crate) fn sandbox_config(&self) -> PodSandboxConfig {
        self.state.lock().sandboxes.values().next().unwrap().1.clone()
    }

    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.sandboxes.is_empty() && state.containers.is_empty()
    }

    /// A sandbox of a pod that no API server knows.
    pub(crate) fn add_orphan(&self) {
        let mut state = self.state.lock();
        let mut status = PodSandboxStatus::default();
        status.sandbox.id = "orphan".into();
        status.sandbox.metadata.uid = "unknown".into();
        status.sandbox.state = PodSandboxState::Ready;
        state.sandboxes.insert("orphan".into(), (status, PodSandboxConfig::default()));
    }
}

macro_rules! answer {
    ($self:ident, |$state:ident| $body:block) => {{
        let mut guard = $self.state.lock();
        let $state = &mut *guard;
        #[allow(clippy::redundant_closure_call, reason = "so that a body may return early")]
        let done = (|| $body)();
        Box::pin(std::future::ready(done))
    }};
}

fn missing(id: &str) -> CriError {
    CriError::NotFound(format!("{id} not found"))
}

impl RuntimeService for FakeCri {
    fn version(&self) -> CriFuture<'_, Version> {
        let version = Version { runtime_name: "fake".into(), runtime_version: "1".into(), ..Default::default() };
        Box::pin(async { Ok(version) })
    }

    fn status(&self) -> CriFuture<'_, RuntimeStatus> {
        let condition = |kind: &str| RuntimeCondition { kind: kind.into(), status: true, ..Default::default() };
        Box::pin(std::future::ready(Ok(RuntimeStatus {
            conditions: vec![condition("RuntimeReady"), condition("NetworkReady")],
            runtime_handlers: vec![],
        })))
    }

    fn run_pod_sandbox(&self, config: PodSandboxConfig, handler: &str) -> CriFuture<'_, String> {
        let handler = handler.to_owned();
        Box::pin(async move {
            self.at("before sandbox").await;
            if !handler.is_empty() {
                return Err(CriError::Internal(format!("no runtime for {handler:?} is configured")));
            }
            let done: CriFuture<'_, _> = answer!(self, |state| {
                let id = state.id("s");
                state.calls.push(format!("sandbox {}", config.metadata.name));
                let sandbox = PodSandbox {
                    id: id.clone(),
                    metadata: config.metadata.clone(),
                    state: PodSandboxState::Ready,
                    created_at: now(),
                    ..Default::default()
                };
                let status = PodSandboxStatus { sandbox, ips: vec!["127.0.0.1".into()], ..Default::default() };
                state.sandboxes.insert(id.clone(), (status, config));
                state.tell(ContainerEventType::Started, "", &id);
                Ok(id)
            });
            let done = done.await;
            self.at("after sandbox").await;
            done
        })
    }

    fn stop_pod_sandbox(&self, id: &str) -> CriFuture<'_, ()> {
        answer!(self, |state| {
            state.calls.push("stop-sandbox".into());
            let failing = |count: u32| count.checked_sub(1);
            if self.failing_stops.fetch_update(Ordering::Relaxed, Ordering::Relaxed, failing).is_ok() {
                return Err(CriError::Internal("the network does not let go".into()));
            }
            let inside: Vec<String> = state
                .containers
                .values()
                .filter(|(s, _)| s.container.pod_sandbox_id == id)
                .map(|(s, _)| s.container.id.clone())
                .collect();
            inside.iter().for_each(|container| state.end(container, 137));
            if let Some((status, _)) = state.sandboxes.get_mut(id) {
                status.sandbox.state = PodSandboxState::NotReady;
            }
            Ok(())
        })
    }

    fn remove_pod_sandbox(&self, id: &str) -> CriFuture<'_, ()> {
        answer!(self, |state| {
            state.sandboxes.remove(id);
            state.containers.retain(|_, (s, _)| s.container.pod_sandbox_id != id);
            Ok(())
        })
    }

    fn pod_sandbox_status(&self, id: &str) -> CriFuture<'_, PodSandboxStatus> {
        answer!(self, |state| {
            let mut status = state.sandboxes.get(id).map(|(s, _)| s.clone()).ok_or_else(|| missing(id))?;
            if state.no_addresses {
                status.ips.clear();
            }
            Ok(status)
        })
    }

    fn list_pod_sandbox(&self) -> CriFuture<'_, Vec<PodSandbox>> {
        answer!(self, |state| { Ok(state.sandboxes.values().map(|(s, _)| s.sandbox.clone()).collect()) })
    }

    fn create_container(&self, sandbox: &str, config: ContainerConfig, pod: PodSandboxConfig) -> CriFuture<'_, String> {
        let sandbox = sandbox.to_owned();
        Box::pin(async move {
            self.at("before create").await;
            let done: CriFuture<'_, _> = answer!(self, |state| {
                if !state.sandboxes.contains_key(&sandbox) {
                    return Err(missing(&sandbox));
                }
                let id = state.id("c");
                state.calls.push(format!("create {} {}", config.metadata.name, config.metadata.attempt));
                let container = Container {
                    id: id.clone(),
                    pod_sandbox_id: sandbox.clone(),
                    metadata: config.metadata.clone(),
                    image: config.image.user_specified_image.clone(),
                    image_ref: config.image.image.clone(),
                    state: ContainerState::Created,
                    created_at: now(),
                    labels: config.labels.clone(),
                    annotations: config.annotations.clone(),
                };
                let log = PathBuf::from(&pod.log_directory).join(&config.log_path);
                std::fs::write(&log, "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stdout F two\n").unwrap();
                let status =
                    ContainerStatus { container, log_path: log.to_string_lossy().into_owned(), ..Default::default() };
                state.containers.insert(id.clone(), (status, config));
                Ok(id)
            });
            let done = done.await;
            self.at("after create").await;
            done
        })
    }

    fn start_container(&self, id: &str) -> CriFuture<'_, ()> {
        let id = id.to_owned();
        Box::pin(async move {
            self.at("before start").await;
            let done: CriFuture<'_, _> = answer!(self, |state| {
                let (status, _) = state.containers.get_mut(&id).ok_or_else(|| missing(&id))?;
                status.container.state = ContainerState::Running;
                status.started_at = now();
                let sandbox = status.container.pod_sandbox_id.clone();
                state.tell(ContainerEventType::Started, &id, &sandbox);
                Ok(())
            });
            let done = done.await;
            self.at("after start").await;
            done
        })
    }

    fn stop_container(&self, id: &str, timeout: Duration) -> CriFuture<'_, ()> {
        answer!(self, |state| {
            let name = state.containers.get(id).map(|(s, _)| s.container.metadata.name.clone()).unwrap_or_default();
            state.calls.push(format!("stop {name} {}s", timeout.as_secs()));
            state.end(id, 0);
            Ok(())
        })
    }

    fn remove_container(&self, id: &str) -> CriFuture<'_, ()> {
        answer!(self, |state| {
            state.containers.remove(id);
            Ok(())
        })
    }

    fn list_containers(&self) -> CriFuture<'_, Vec<Container>> {
        answer!(self, |state| { Ok(state.containers.values().map(|(s, _)| s.container.clone()).collect()) })
    }

    fn container_status(&self, id: &str) -> CriFuture<'_, ContainerStatus> {
        answer!(self, |state| { state.containers.get(id).map(|(s, _)| s.clone()).ok_or_else(|| missing(id)) })
    }

    fn update_container_resources(&self, _: &str, _: LinuxContainerResources) -> CriFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn reopen_container_log(&self, _: &str) -> CriFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn exec_sync(&self, _: &str, command: Vec<String>, _: Option<Duration>) -> CriFuture<'_, ExecSyncResult> {
        Box::pin(async move {
            let command = command.join(" ");
            self.at(&command).await;
            let done: CriFuture<'_, _> = answer!(self, |state| {
                state.calls.push(format!("exec {command}"));
                let exit_code = state.commands.get(&command).copied().unwrap_or(0);
                Ok(ExecSyncResult { stdout: command.into_bytes(), stderr: vec![], exit_code })
            });
            done.await
        })
    }

    fn exec(&self, _: &str, command: Vec<String>, _: bool, mut io: ExecIo) -> CriFuture<'_, i32> {
        Box::pin(async move {
            use tokio::io::AsyncWriteExt;
            if let Some(mut stdout) = io.stdout.take() {
                let _ = stdout.write_all(command.join(" ").as_bytes()).await;
            }
            Ok(3)
        })
    }

    fn attach(&self, _: &str, _: ExecIo) -> CriFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn port_forward(&self, _: &str, port: u16) -> CriFuture<'_, tokio::net::TcpStream> {
        Box::pin(async move {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| CriError::Internal(e.to_string()))
        })
    }

    fn list_container_stats(&self) -> CriFuture<'_, Vec<ContainerStats>> {
        Box::pin(std::future::ready(Ok(vec![])))
    }

    fn container_events(&self) -> mpsc::Receiver<ContainerEvent> {
        let (sender, receiver) = mpsc::channel(256);
        self.state.lock().listeners.push(sender);
        receiver
    }
}

/// Has every image but those that begin with `missing`.
impl ImageService for FakeCri {
    fn list_images(&self) -> CriFuture<'_, Vec<Image>> {
        answer!(self, |state| {
            let pulled = state.calls.iter().filter_map(|call| call.strip_prefix("pulled "));
            Ok(pulled.map(|name| Image { id: format!("sha256:{name}"), ..Default::default() }).collect())
        })
    }

    fn image_status(&self, image: &ImageSpec) -> CriFuture<'_, Option<Image>> {
        let name = image.image.clone();
        answer!(self, |state| {
            let there = match name.split('/').next() {
                Some("private" | "public") => state.calls.contains(&format!("pulled {name}")),
                _ => !name.starts_with("missing"),
            };
            Ok(there.then(|| Image { id: format!("sha256:{name}"), ..Default::default() }))
        })
    }

    /// Images of `private/…` are for those who know the password, those of `public/…` for everyone.
    fn pull_image(&self, image: &ImageSpec, auth: Option<AuthConfig>) -> CriFuture<'_, String> {
        let name = image.image.clone();
        Box::pin(async move {
            self.at("before pull").await;
            let done: CriFuture<'_, _> = answer!(self, |state| {
                match name.split('/').next() {
                    Some("public") => {}
                    Some("private") if auth.is_some_and(|auth| auth.password == "right") => {}
                    Some("private") => return Err(CriError::Internal(format!("{name}: 401 Unauthorized"))),
                    _ => return Err(CriError::NotFound(format!("{name}: manifest unknown"))),
                }
                state.calls.push(format!("pulled {name}"));
                Ok(name)
            });
            let done = done.await;
            self.at("after pull").await;
            done
        })
    }

    fn remove_image(&self, _: &ImageSpec) -> CriFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn image_fs_info(&self) -> CriFuture<'_, FilesystemUsage> {
        Box::pin(std::future::ready(Ok(FilesystemUsage::default())))
    }
}
