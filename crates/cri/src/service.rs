//! `runtime.v1.RuntimeService`.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::CriFuture;
use crate::stream::ExecIo;
use crate::types::*;

/// What a runtime call can fail with. The text reaches users in events and `kubectl describe`.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CriError {
    /// The sandbox, container or image does not exist (gRPC `NotFound`).
    #[error("{0}")]
    NotFound(String),
    /// The request itself is wrong (gRPC `InvalidArgument`).
    #[error("{0}")]
    InvalidArgument(String),
    /// Not possible in the present state (gRPC `FailedPrecondition`).
    #[error("{0}")]
    FailedPrecondition(String),
    /// Took too long (gRPC `DeadlineExceeded`).
    #[error("{0}")]
    DeadlineExceeded(String),
    /// Everything else (gRPC `Unknown`).
    #[error("{0}")]
    Internal(String),
}

/// `runtime.v1.RuntimeService`. Every call is idempotent where CRI says so: stopping the stopped and removing the removed
/// succeed.
pub trait RuntimeService: Send + Sync + 'static {
    fn version(&self) -> CriFuture<'_, Version>;
    fn status(&self) -> CriFuture<'_, RuntimeStatus>;

    /// Creates and starts a sandbox: namespaces, network (through CNI), `/etc/hosts`-independent files. Answers its id. The
    /// handler is empty for the runtime's usual one.
    fn run_pod_sandbox(&self, config: PodSandboxConfig, runtime_handler: &str) -> CriFuture<'_, String>;
    /// Stops every container in it and takes down its network. Idempotent.
    fn stop_pod_sandbox(&self, id: &str) -> CriFuture<'_, ()>;
    /// Removes it and everything in it. Idempotent.
    fn remove_pod_sandbox(&self, id: &str) -> CriFuture<'_, ()>;
    fn pod_sandbox_status(&self, id: &str) -> CriFuture<'_, PodSandboxStatus>;
    fn list_pod_sandbox(&self) -> CriFuture<'_, Vec<PodSandbox>>;

    /// Creates a container in a running sandbox; nothing of it runs yet. Answers its id.
    fn create_container(&self, sandbox: &str, config: ContainerConfig, pod: PodSandboxConfig) -> CriFuture<'_, String>;
    fn start_container(&self, id: &str) -> CriFuture<'_, ()>;
    /// Sends the stop signal, waits at most `timeout`, then kills. Returns when the container has exited. Idempotent.
    fn stop_container(&self, id: &str, timeout: Duration) -> CriFuture<'_, ()>;
    /// Removes it, killing it first if it runs. Its log file stays. Idempotent.
    fn remove_container(&self, id: &str) -> CriFuture<'_, ()>;
    fn list_containers(&self) -> CriFuture<'_, Vec<Container>>;
    fn container_status(&self, id: &str) -> CriFuture<'_, ContainerStatus>;
    fn update_container_resources(&self, id: &str, resources: LinuxContainerResources) -> CriFuture<'_, ()>;
    /// Reopens the log file after the kubelet has rotated it away.
    fn reopen_container_log(&self, id: &str) -> CriFuture<'_, ()>;

    /// Runs a command to its end and collects what it prints (at most 16 MiB).
    fn exec_sync(&self, id: &str, command: Vec<String>, timeout: Option<Duration>) -> CriFuture<'_, ExecSyncResult>;
    /// Runs a command with its streams connected; resolves to its exit code when it has ended and its output is drained.
    fn exec(&self, id: &str, command: Vec<String>, tty: bool, io: ExecIo) -> CriFuture<'_, i32>;
    /// Connects to the container's own streams until it ends or the client goes.
    fn attach(&self, id: &str, io: ExecIo) -> CriFuture<'_, ()>;
    /// Opens a TCP connection to `localhost:port` in the sandbox's network namespace.
    fn port_forward(&self, sandbox: &str, port: u16) -> CriFuture<'_, tokio::net::TcpStream>;

    fn list_container_stats(&self) -> CriFuture<'_, Vec<ContainerStats>>;

    /// Every change of a container's or sandbox's state from now on: what makes the kubelet event-driven (CRI's
    /// `GetContainerEvents`). A receiver that lags loses the channel and must list again.
    fn container_events(&self) -> mpsc::Receiver<ContainerEvent>;
}
