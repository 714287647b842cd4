//! Containers: made from an image and a config, started by the sandbox's shim, stopped, removed.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kybern_cri::{
    Container as CriContainer, ContainerConfig, ContainerEventType, ContainerMetadata, ContainerState, ContainerStatus,
    CriError, ImageSpec, Labels, LinuxContainerResources, NamespaceMode, SecurityProfile,
};
use kybern_linux::process;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::device;
use crate::disk;
use crate::engine::{Engine, blocking, internal, new_id};
use crate::image::{LAYERS, Reference, is_digest, snapshot_files};
use crate::launch_spec::{self, Surroundings};
use crate::sandbox::Sandbox;
use crate::seccomp_profile;
use crate::shim::protocol::{Reply, Request};
use crate::shim::{LAUNCH_SPEC, RUN_STATE};
use crate::spec::{ExitState, LaunchSpec, Rootfs, RunState, now_ns};

const RECORD: &str = "container.json";

/// How long a killed container may take to end: it may be in an uninterruptible wait.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The exit code of a container that could not be started, as upstream's.
const START_ERROR_CODE: i32 = 128;

pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) sandbox: Arc<Sandbox>,
    record: Record,
    run: watch::Sender<RunState>,
}

/// A container on disk, beside what the shim reads and writes.
#[derive(Clone, Serialize, Deserialize)]
struct Record {
    metadata: ContainerMetadata,
    labels: Labels,
    annotations: Labels,
    /// As the pod names it.
    image: String,
    image_ref: String,
    created_at: i64,
    log_path: String,
    stop_signal: i32,
    cgroup: String,
}

impl Container {
    pub(crate) fn load(sandbox: &Arc<Sandbox>, id: &str) -> io::Result<Container> {
        let dir = sandbox.containers_dir().join(id);
        let record: Record = disk::read_json(&dir.join(RECORD))?;
        let state = match disk::read_json(&dir.join(RUN_STATE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => RunState::default(),
            other => other?,
        };
        Ok(Container { id: id.to_owned(), sandbox: sandbox.clone(), record, run: watch::Sender::new(state) })
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.sandbox.containers_dir().join(&self.id)
    }

    pub(crate) fn read_state(&self) -> io::Result<RunState> {
        disk::read_json(&self.dir().join(RUN_STATE))
    }

    pub(crate) fn launch_spec(&self) -> Result<LaunchSpec, CriError> {
        disk::read_json(&self.dir().join(LAUNCH_SPEC)).map_err(|error| internal("read container", error))
    }

    pub(crate) fn cgroup(&self) -> &str {
        &self.record.cgroup
    }

    pub(crate) fn metadata(&self) -> &ContainerMetadata {
        &self.record.metadata
    }

    pub(crate) fn labels(&self) -> &Labels {
        &self.record.labels
    }

    pub(crate) fn state(&self) -> ContainerState {
        let run = self.run.borrow();
        match (&run.exit, run.started_at) {
            (Some(_), _) => ContainerState::Exited,
            (None, 0) => ContainerState::Created,
            (None, _) => ContainerState::Running,
        }
    }

    /// The container must run, for an exec or an attach.
    pub(crate) fn must_run(&self) -> Result<(), CriError> {
        match self.state() {
            ContainerState::Running => Ok(()),
            state => Err(CriError::FailedPrecondition(format!(
                "container {:?} is in {} state, must be in CONTAINER_RUNNING",
                self.id,
                match state {
                    ContainerState::Created => "CONTAINER_CREATED",
                    ContainerState::Exited => "CONTAINER_EXITED",
                    _ => "CONTAINER_UNKNOWN",
                }
            ))),
        }
    }

    pub(crate) fn summary(&self) -> CriContainer {
        CriContainer {
            id: self.id.clone(),
            pod_sandbox_id: self.sandbox.id.clone(),
            metadata: self.record.metadata.clone(),
            image: self.record.image.clone(),
            image_ref: self.record.image_ref.clone(),
            state: self.state(),
            created_at: self.record.created_at,
            labels: self.record.labels.clone(),
            annotations: self.record.annotations.clone(),
        }
    }

    pub(crate) fn status(&self) -> ContainerStatus {
        let run = self.run.borrow().clone();
        let exit = run.exit.clone().unwrap_or_default();
        ContainerStatus {
            container: self.summary(),
            started_at: run.started_at,
            finished_at: exit.finished_at,
            exit_code: exit.code,
            reason: exit.reason,
            message: exit.message,
            log_path: self.record.log_path.clone(),
            uid: run.uid.into(),
            gid: run.gid.into(),
        }
    }

    /// Waits for the exit.
    async fn ended(&self) {
        // The sender lives in self, so the wait cannot fail.
        let _ = self.run.subscribe().wait_for(|run| run.exit.is_some()).await;
    }
}

impl Engine {
    pub(crate) async fn create(
        self: &Arc<Self>,
        sandbox_id: &str,
        config: ContainerConfig,
    ) -> Result<String, CriError> {
        let sandbox = self.sandbox(sandbox_id)?;
        let gate = sandbox.gate.read().await;
        if *gate || !sandbox.is_ready() {
            return Err(CriError::FailedPrecondition(format!("sandbox {sandbox_id:?} is not running")));
        }
        let id = new_id()?;
        let (runtime, making) = (self.clone(), sandbox.clone());
        let made = blocking(move || {
            runtime.try_make(&making, &id, &config).inspect_err(|_| {
                // What is left goes with the sandbox.
                if let Err(error) = runtime.discard(&id, &making) {
                    tracing::warn!(container = id, %error, "cannot remove a container that was not made");
                }
            })
        });
        let container = Arc::new(made.await??);
        self.containers.write().insert(container.id.clone(), container.clone());
        self.announce(ContainerEventType::Created, &container.sandbox, &container.id);
        Ok(container.id.clone())
    }

    /// Writes all that a start needs.
    fn try_make(&self, sandbox: &Arc<Sandbox>, id: &str, config: &ContainerConfig) -> Result<Container, CriError> {
        // Between finding the image and listing what of it is used here, nobody may collect its snapshots.
        let ingest = self.images.ingest().map_err(|error| internal("image store", error))?;
        let image = self.images.find(&config.image.image)?.ok_or_else(|| {
            CriError::NotFound(format!("failed to resolve image {:?}: not found", config.image.image))
        })?;
        let dir = sandbox.containers_dir().join(id);
        let own = self.config.containers_dir().join(id);
        let rootfs = Rootfs {
            layers_dir: self.images.snapshots_dir(),
            layers: image.snapshots.iter().map(|name| snapshot_files(name)).collect(),
            upper: own.join("upper"),
            work: own.join("work"),
            mount_point: dir.join("rootfs"),
        };
        let failed = |error: io::Error| internal("failed to create container", error);
        for (path, mode) in [(&rootfs.mount_point, 0o711), (&rootfs.work, 0o711), (&rootfs.upper, 0o755)] {
            disk::make_dirs(path, mode).map_err(failed)?;
        }
        // From here on the image's removal leaves its snapshots in place.
        disk::replace_json(&own.join(LAYERS), &image.snapshots).map_err(failed)?;
        drop(ingest);

        let security = &config.security;
        let signal = [&config.stop_signal, &image.config.stop_signal].into_iter().find(|s| !s.is_empty());
        let stop_signal = match signal {
            None => Signal::TERM.as_raw(),
            Some(name) => process::signal_number(name)
                .ok_or_else(|| CriError::InvalidArgument(format!("unknown stop signal {name:?}")))?,
        };
        let log_dir = &sandbox.config.log_directory;
        let log_path =
            (!log_dir.is_empty() && !config.log_path.is_empty()).then(|| PathBuf::from(log_dir).join(&config.log_path));
        let record = Record {
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            image: name_in_full(&config.image),
            image_ref: image.digests.first().cloned().unwrap_or_else(|| image.id.clone()),
            created_at: now_ns(),
            log_path: log_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            stop_signal,
            cgroup: sandbox.container_group(id),
        };
        let devices = device::resolve(&config.devices, security.privileged).map_err(failed)?;
        let localhost_seccomp = match &security.seccomp {
            SecurityProfile::Localhost(path) if !security.privileged => {
                Some(seccomp_profile::read(path.as_ref()).map_err(CriError::InvalidArgument)?)
            }
            _ => None,
        };
        if let Some(dir) = log_path.as_deref().and_then(std::path::Path::parent) {
            disk::make_dirs(dir, 0o755).map_err(failed)?;
        }
        let mut limits = launch_spec::resources(&config.resources);
        limits.devices = Some(launch_spec::device_rules(security.privileged, &devices));
        let around = Surroundings {
            rootfs,
            cgroup: record.cgroup.clone(),
            hostname: sandbox.hostname(),
            default_mounts: sandbox
                .default_mounts(security.namespaces.ipc == NamespaceMode::Node, security.readonly_rootfs),
            devices,
            log_path,
            localhost_seccomp,
        };
        let spec = launch_spec::build(config, &image.config, around).map_err(CriError::InvalidArgument)?;
        self.cgroups.create(&record.cgroup, &limits).map_err(failed)?;
        disk::replace_json(&dir.join(LAUNCH_SPEC), &spec).map_err(failed)?;
        disk::replace_json(&dir.join(RECORD), &record).map_err(failed)?;
        Ok(Container { id: id.to_owned(), sandbox: sandbox.clone(), record, run: watch::Sender::default() })
    }

    pub(crate) async fn start(&self, id: &str) -> Result<(), CriError> {
        let container = self.container(id)?;
        let gate = container.sandbox.gate.read().await;
        if *gate {
            return Err(CriError::FailedPrecondition(format!("the sandbox of container {id:?} is not running")));
        }
        if container.state() != ContainerState::Created {
            return Err(CriError::FailedPrecondition(format!("container {id:?} has been started before")));
        }
        let answer = container.sandbox.shim.call(&Request::Start { container: id.to_owned() }).await;
        let message = match answer.map_err(|error| internal(format_args!("failed to start container {id:?}"), error))? {
            Reply::Started { state } => {
                self.advance(&container, state);
                return Ok(());
            }
            Reply::Failed { message } => {
                format!("unable to start container process: error during container init: {message}")
            }
            other => format!("unexpected answer of the shim: {other:?}"),
        };
        let exit = ExitState {
            code: START_ERROR_CODE,
            finished_at: now_ns(),
            reason: "StartError".into(),
            message: message.clone(),
        };
        let state = RunState { exit: Some(exit), ..Default::default() };
        disk::replace_json(&container.dir().join(RUN_STATE), &state)
            .map_err(|error| internal("record failed start", error))?;
        self.exited(&container, state).await;
        Err(CriError::Internal(format!("failed to start container {id:?}: {message}")))
    }

    /// A container has ended: by its shim's word, or because its start failed.
    pub(crate) async fn exited(&self, container: &Arc<Container>, state: RunState) {
        if self.advance(container, state) {
            self.remove_cgroup(container).await;
        }
    }

    /// Takes a newer state and tells of it. An exit is final: a start's answer that arrives after it changes nothing. A start
    /// is told of before the exit, whichever of the two is heard first.
    fn advance(&self, container: &Container, state: RunState) -> bool {
        container.run.send_if_modified(|known| {
            let newer = known.exit.is_none() && *known != state;
            if newer {
                if known.started_at == 0 && state.started_at != 0 {
                    self.announce(ContainerEventType::Started, &container.sandbox, &container.id);
                }
                if state.exit.is_some() {
                    self.announce(ContainerEventType::Stopped, &container.sandbox, &container.id);
                }
                *known = state;
            }
            newer
        })
    }

    /// Removes the group of an ended container. What holds it up now is gone when the container is removed.
    pub(crate) async fn remove_cgroup(&self, container: &Container) {
        let (cgroups, group) = (self.cgroups.clone(), container.record.cgroup.clone());
        if let Ok(Err(error)) = blocking(move || cgroups.remove(&group)).await {
            tracing::warn!(container = container.id, %error, "cannot remove the control group of an ended container");
        }
    }

    /// Ends a container whose shim is gone.
    pub(crate) async fn lost(&self, container: &Arc<Container>) {
        let mut state = container.read_state().unwrap_or_default();
        // Also where no start is on record: the shim may have ended between the start and the record.
        let (cgroups, group) = (self.cgroups.clone(), container.record.cgroup.clone());
        let _ = blocking(move || cgroups.kill(&group, Signal::KILL.as_raw())).await;
        if state.started_at == 0 && state.exit.is_none() {
            return;
        }
        if state.exit.is_none() {
            state.exit = Some(ExitState {
                code: 128 + Signal::KILL.as_raw(),
                finished_at: now_ns(),
                reason: "Error".into(),
                message: "the container's shim has ended; its processes were killed".into(),
            });
            let _ = disk::replace_json(&container.dir().join(RUN_STATE), &state);
        }
        self.exited(container, state).await;
    }

    pub(crate) async fn stop(&self, container: &Arc<Container>, timeout: Duration) -> Result<(), CriError> {
        if container.state() != ContainerState::Running {
            return Ok(());
        }
        let signal = |signal, all| {
            let request = Request::Kill { container: container.id.clone(), signal, all };
            async move {
                match tokio::time::timeout(KILL_TIMEOUT, container.sandbox.shim.call(&request)).await {
                    Ok(Ok(Reply::Failed { message })) => {
                        Err(internal(format_args!("failed to kill container {:?}", container.id), message))
                    }
                    // A shim that is gone takes its containers along, which is reported in its own way.
                    Ok(_) => Ok(()),
                    Err(_) => Err(CriError::DeadlineExceeded(format!(
                        "the shim of container {:?} has not answered within {} s",
                        container.id,
                        KILL_TIMEOUT.as_secs()
                    ))),
                }
            }
        };
        if !timeout.is_zero() {
            signal(container.record.stop_signal, false).await?;
            if tokio::time::timeout(timeout, container.ended()).await.is_ok() {
                return Ok(());
            }
        }
        signal(Signal::KILL.as_raw(), true).await?;
        tokio::time::timeout(KILL_TIMEOUT, container.ended()).await.map_err(|_| {
            CriError::DeadlineExceeded(format!(
                "container {:?} was killed but has not ended within {} s: a process of it waits in the kernel",
                container.id,
                KILL_TIMEOUT.as_secs()
            ))
        })
    }

    pub(crate) async fn remove(self: &Arc<Self>, id: &str) -> Result<(), CriError> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        self.stop(&container, Duration::ZERO).await?;
        let _alone = container.sandbox.gate.write().await;
        let forget = Request::Forget { container: id.to_owned() };
        let _ = tokio::time::timeout(KILL_TIMEOUT, container.sandbox.shim.call(&forget)).await;
        self.remove_closed(&container).await
    }

    /// Removes what there is of a container that does not run, while nobody else works on its sandbox.
    pub(crate) async fn remove_closed(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), CriError> {
        let (runtime, removed) = (self.clone(), container.clone());
        let files = blocking(move || {
            runtime.cgroups.remove(&removed.record.cgroup)?;
            runtime.remove_files(&removed.id, &removed.sandbox)
        });
        files.await?.map_err(|error| internal("failed to remove container", error))?;
        self.containers.write().remove(&container.id);
        self.announce(ContainerEventType::Deleted, &container.sandbox, &container.id);
        Ok(())
    }

    /// Removes what there is of a container that was interrupted while it was made.
    pub(crate) fn discard(&self, id: &str, sandbox: &Sandbox) -> io::Result<()> {
        self.cgroups.remove(&sandbox.container_group(id))?;
        self.remove_files(id, sandbox)
    }

    fn remove_files(&self, id: &str, sandbox: &Sandbox) -> io::Result<()> {
        // The sandbox's own part is the last: by it the rest is found again.
        disk::remove_all(&self.config.containers_dir().join(id))?;
        disk::remove_all(&sandbox.containers_dir().join(id))
    }

    pub(crate) async fn update(&self, id: &str, resources: LinuxContainerResources) -> Result<(), CriError> {
        let container = self.container(id)?;
        if container.state() == ContainerState::Exited {
            return Err(CriError::FailedPrecondition(format!("container {id:?} has exited")));
        }
        let (cgroups, group) = (self.cgroups.clone(), container.record.cgroup.clone());
        blocking(move || cgroups.update(&group, &launch_spec::resources(&resources)))
            .await?
            .map_err(|error| internal(format_args!("failed to update resources of container {id:?}"), error))
    }

    pub(crate) async fn reopen_log(&self, id: &str) -> Result<(), CriError> {
        let container = self.container(id)?;
        container.must_run()?;
        match container.sandbox.shim.call(&Request::ReopenLog { container: id.to_owned() }).await {
            Ok(Reply::Done | Reply::NotRunning) => Ok(()),
            Ok(Reply::Failed { message }) => Err(internal("failed to reopen container log", message)),
            Ok(other) => Err(internal("failed to reopen container log", format_args!("{other:?}"))),
            Err(error) => Err(internal("failed to reopen container log", error)),
        }
    }
}

/// The control group of the container recorded in a directory.
pub(crate) fn cgroup_of(dir: &std::path::Path) -> Option<String> {
    disk::read_json::<Record>(&dir.join(RECORD)).ok().map(|record| record.cgroup)
}

/// The image as the pod names it, with what the name leaves out: `docker.io/library/nginx:latest`.
fn name_in_full(image: &ImageSpec) -> String {
    let given = [&image.user_specified_image, &image.image].into_iter().find(|name| !name.is_empty());
    let given = given.map(String::as_str).unwrap_or_default();
    match Reference::parse(given) {
        Ok(reference) if !is_digest(given) => reference.to_string(),
        _ => given.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_in_full() {
        let check = |given: &str, image: &str, expect: &str| {
            let image =
                ImageSpec { user_specified_image: given.to_owned(), image: image.to_owned(), ..ImageSpec::default() };
            assert_eq!(name_in_full(&image), expect);
        };
        let id = format!("sha256:{}", "0".repeat(64));
        check("nginx:1.14", &id, "docker.io/library/nginx:1.14");
        check("", "registry.example:5000/a/b", "registry.example:5000/a/b:latest");
        check("", &id, &id);
    }
}
