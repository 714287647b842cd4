//! Starting one container: image, environment, mounts, create, start, post-start hook.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kybern_api::core::v1::{Container, Pod};
use kybern_cri::{ContainerConfig, PodSandboxConfig, PodSandboxStatus};
use kybern_linux::files;

use super::whole::Whole;
use super::{Worker, hooks, image, sandbox};
use crate::pod::config::{self, ContainerInputs};
use crate::pod::memory::{StepKey, crash_key};
use crate::pod::plan::backs_off_since;
use crate::pod::{env, resources, spec};
use crate::references::PodReferences;
use crate::shared::Shared;
use crate::volume::claims::Claims;
use crate::volume::mounts;

pub const CONFIG_ERROR: &str = "CreateContainerConfigError";
const CREATE_ERROR: &str = "CreateContainerError";
const RUN_ERROR: &str = "RunContainerError";
pub const POST_START_ERROR: &str = "PostStartHookError";

/// Why a container was not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    /// As the container's `waiting.reason` shows it.
    pub reason: &'static str,
    pub message: String,
    /// The container, where it got as far as being made.
    pub id: Option<String>,
}

impl StartError {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), id: None }
    }

    fn of(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }
}

/// One start of a container, as a step.
struct Start {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    container: Container,
    attempt: u32,
    references: PodReferences,
    sandbox: PodSandboxStatus,
    /// The container whose processes it shares, by name and, where it runs, by id.
    target: Option<(String, Option<String>)>,
    claims: Arc<Claims>,
    whole: Whole,
}

impl Worker {
    pub(super) fn start(&mut self, name: String, attempt: u32) {
        let now = Timestamp::now();
        let Some(sandbox) = self.observed.ready_sandbox().cloned() else { return };
        let Some((_, container)) = spec::container(&self.pod, &name) else { return };
        let ended = backs_off_since(&self.observed, &self.memory, &name);
        if let Some(ended) = ended {
            self.memory.crash.entry(crash_key(&container)).or_default().advance(ended, now);
        }
        let (shared, pod, references) = (self.shared.clone(), self.pod.clone(), self.references.clone());
        let target = spec::target(&pod, &name).map(|target| {
            let running = self.observed.running().find(|s| s.container.metadata.name == target);
            (target.to_owned(), running.map(|s| s.container.id.clone()))
        });
        let (claims, whole) = (self.claims.lock().clone(), self.whole.clone());
        let start = Start { shared, pod, container, attempt, references, sandbox, target, claims, whole };
        self.step(StepKey::Start(name), async move { super::steps::Done::Start(start.run().await) });
    }
}

impl Start {
    async fn run(self) -> Result<String, StartError> {
        let (shared, pod, name) = (&self.shared, &self.pod, self.container.name.as_str());
        let image = image::ensure(shared, pod, &self.container, &self.references).await?;
        self.references.synced().await.map_err(|e| StartError::new(CONFIG_ERROR, e))?;
        let ips = if spec::host_network(pod) { shared.view.host_ips.clone() } else { self.sandbox.ips.clone() };
        let facts = shared.downward(ips.clone());
        let config_error = |message: String| StartError::new(CONFIG_ERROR, message);
        if !shared.services.is_synced() {
            let synced = tokio::time::timeout(Duration::from_secs(10), shared.services.synced()).await;
            synced.map_err(|_| {
                config_error("services have not yet been read at least once, cannot construct envvars".into())
            })?;
        }
        let services = shared.services.list();
        let envs = env::environment(pod, &self.container, &self.references, &services, &facts).map_err(config_error)?;
        let mounts = self.prepare_files(&ips, &envs).await.map_err(config_error)?;
        let target = match self.target.clone() {
            Some((target, None)) => return Err(config_error(format!("unable to find target container {target}"))),
            target => target.and_then(|(_, id)| id),
        };
        let inputs = ContainerInputs { image: &image, attempt: self.attempt, envs, mounts, target };
        let config = config::container(pod, &self.container, &shared.facts, inputs).map_err(config_error)?;
        let of_pod = sandbox::configuration(shared, pod, self.sandbox.sandbox.metadata.attempt)
            .map_err(|e| StartError::new(CREATE_ERROR, e))?;
        let log_path = config.log_path.clone();
        let log_directory = of_pod.log_directory.clone();
        let launch = Launch {
            shared: shared.clone(),
            pod: pod.clone(),
            name: name.to_owned(),
            sandbox: self.sandbox.sandbox.id.clone(),
            log: format!("{log_directory}/{log_path}"),
            whole: self.whole.clone(),
        };
        let launched = self.whole.run(launch.run(config, of_pod)).await;
        let id = launched.map_err(|e| StartError::new(CREATE_ERROR, e))??;
        self.post_start(&id, &ips).await?;
        Ok(id)
    }

    /// The container's directory of logs, its hosts file and its mounts.
    async fn prepare_files(&self, ips: &[String], envs: &[(String, String)]) -> Result<Vec<kybern_cri::Mount>, String> {
        let hosts = sandbox::hosts(&self.shared, &self.pod, ips)?;
        let (root, pod, container) = (self.shared.config.root_dir.clone(), self.pod.clone(), self.container.clone());
        let logs = config::log_directory(&self.shared.facts.pod_logs, &self.pod);
        let (attempt, envs, claims) = (self.attempt, envs.to_vec(), self.claims.clone());
        let work = self.whole.blocking(move || {
            let logs = std::path::Path::new(&logs).join(&container.name);
            files::make_dirs(&logs, 0o755).map_err(|e| format!("cannot make {}: {e}", logs.display()))?;
            let path = mounts::hosts_path(&root, spec::uid(&pod));
            files::write(&path, hosts, 0o644).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
            mounts::container_mounts(&root, &pod, &container, attempt, &envs, &claims)
        });
        work.await?
    }

    async fn post_start(&self, id: &str, ips: &[String]) -> Result<(), StartError> {
        let hook = self.container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
        let Some(hook) = hook else { return Ok(()) };
        let ip = ips.first().map(String::as_str).unwrap_or("");
        let Err(cause) = hooks::run(&self.shared, hook, &self.container, id, ip).await else { return Ok(()) };
        let (shared, pod, name) = (&self.shared, &self.pod, self.container.name.as_str());
        tracing::info!(pod = %spec::full_name(pod), container = name, cause, "post-start hook failed");
        shared.events.warning(pod, Some(name), "FailedPostStartHook", "PostStartHook failed");
        shared.events.normal(pod, Some(name), "Killing", "FailedPostStartHook");
        if let Err(error) = shared.runtime.stop_container(id, spec::grace_period(pod)).await {
            tracing::warn!(%error, container = id, "cannot stop a container after its post-start hook failed");
        }
        Err(StartError::new(POST_START_ERROR, "PostStartHook failed").of(id))
    }
}

/// The part of a start that makes something.
struct Launch {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    name: String,
    sandbox: String,
    log: String,
    whole: Whole,
}

impl Launch {
    async fn run(self, config: ContainerConfig, of_pod: PodSandboxConfig) -> Result<String, StartError> {
        let (shared, pod, name) = (&self.shared, &self.pod, self.name.as_str());
        let created = shared.runtime.create_container(&self.sandbox, config, of_pod).await;
        let id = created.map_err(|e| StartError::new(CREATE_ERROR, e.to_string()))?;
        shared.events.normal(pod, Some(name), "Created", "Container created");
        if self.whole.is_leaving() {
            return Err(StartError::new(RUN_ERROR, "the pod is being deleted").of(&id));
        }
        shared.runtime.start_container(&id).await.map_err(|e| StartError::new(RUN_ERROR, e.to_string()).of(&id))?;
        shared.events.normal(pod, Some(name), "Started", "Container started");
        self.link_log(&id);
        Ok(id)
    }

    /// `/var/log/containers/<pod>_<namespace>_<container>-<id>.log`, by which log collectors find the file.
    fn link_log(&self, id: &str) {
        let (pod, dir) = (&self.pod, &self.shared.config.container_logs_dir);
        let file = format!("{}_{}_{}-{id}.log", spec::name(pod), spec::namespace(pod), self.name);
        let link = dir.join(file);
        let linked = files::make_dirs(dir, 0o755).and_then(|()| std::os::unix::fs::symlink(&self.log, &link));
        if let Err(error) = linked {
            tracing::warn!(%error, link = %link.display(), "cannot link a container's log");
        }
    }
}

/// The pod's cgroup values in the terms of the kernel's interface.
pub fn cgroup_resources(pod: &Pod) -> kybern_linux::cgroup::Resources {
    let wanted = resources::pod_resources(spec::spec(pod));
    let set = |value: i64| (value != 0).then_some(value);
    kybern_linux::cgroup::Resources {
        cpu_shares: u64::try_from(wanted.cpu_shares).ok().filter(|n| *n != 0),
        cpu_quota: set(wanted.cpu_quota),
        cpu_period: set(wanted.cpu_quota).and(u64::try_from(wanted.cpu_period).ok()),
        memory_limit: set(wanted.memory_limit_in_bytes),
        ..Default::default()
    }
}
