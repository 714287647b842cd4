//! What the shim needs to know to run one container: written by the runtime when the container is created, read by the
//! shim when it is started, so that a start after a crash of either finds the same.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One container, resolved: nothing in it depends on the image store or on CRI any more.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct LaunchSpec {
    pub rootfs: Rootfs,
    pub process: ProcessSpec,
    pub mounts: Vec<BindMount>,
    pub devices: Vec<DeviceNode>,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub readonly_root: bool,
    /// Directories that stay writable on a read-only root: the image's volumes.
    #[serde(default)]
    pub writable_paths: Vec<String>,
    /// Writable `/sys` and control groups.
    pub privileged: bool,
    pub pid: PidNamespace,
    /// The container whose process namespace is joined, with [`PidNamespace::Target`].
    #[serde(default)]
    pub pid_target: String,
    /// The container's group, absolute in every hierarchy; it exists when the container is started.
    pub cgroup: String,
    pub oom_score_adj: Option<i64>,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    /// `None`: output is only seen by those attached.
    pub log_path: Option<PathBuf>,
    #[serde(default)]
    pub log_rotation: kybern_cri::LogRotation,
}

/// An overlay: read-only layers below a directory of the container's own.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Rootfs {
    /// The directory that `layers` are relative to.
    pub layers_dir: PathBuf,
    /// Topmost first.
    pub layers: Vec<String>,
    pub upper: PathBuf,
    pub work: PathBuf,
    /// An empty directory to mount at, in the container's mount namespace only.
    pub mount_point: PathBuf,
}

/// Everything about a process that `exec` also gives to further processes of the container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ProcessSpec {
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub cwd: String,
    pub user: UserSpec,
    /// The bits of `kybern_linux::capability`.
    pub capabilities: u64,
    pub no_new_privs: bool,
    /// The seccomp program, `(code, jump_true, jump_false, value)` each; empty is unconfined.
    pub seccomp: Vec<(u16, u8, u8, u32)>,
    pub rlimits: Vec<(String, u64, u64)>,
    /// Rows and columns of a new terminal, where the client has said them before the start.
    #[serde(default)]
    pub terminal_size: Option<(u16, u16)>,
}

/// Who a process runs as, still to be looked up in the container's own `/etc/passwd` and `/etc/group`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UserSpec {
    /// `user`, `uid`, `user:group`, and so on, as an image's config has it; empty is root.
    pub user: String,
    /// Replaces the group that `user` implies.
    pub group: Option<u32>,
    pub supplemental_groups: Vec<u32>,
    /// The groups of the container's own files do not count.
    #[serde(default)]
    pub strict: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PidNamespace {
    #[default]
    Private,
    Pod,
    Host,
    /// Another container's.
    Target,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BindMount {
    pub source: PathBuf,
    pub destination: PathBuf,
    pub read_only: bool,
    pub recursive_read_only: bool,
    pub propagation: kybern_cri::MountPropagation,
}

/// A device to make in the container's `/dev`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceNode {
    pub path: PathBuf,
    pub block: bool,
    pub major: u32,
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// What the shim of a sandbox is told when it starts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ShimSpec {
    /// The network namespace to live in; `None` is the host's.
    pub netns: Option<PathBuf>,
    pub host_ipc: bool,
    /// `None` shares the host's name.
    pub hostname: Option<String>,
    pub shared_pid: bool,
    /// Dotted names.
    pub sysctls: Vec<(String, String)>,
}

/// How far a container has come, as the shim writes it to disk at each change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunState {
    /// Zero before the start.
    pub pid: i32,
    /// Nanoseconds since the Unix epoch, zero before the start.
    pub started_at: i64,
    pub exit: Option<ExitState>,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExitState {
    pub code: i32,
    /// Nanoseconds since the Unix epoch.
    pub finished_at: i64,
    pub reason: String,
    pub message: String,
}

/// Now, in nanoseconds since the Unix epoch.
pub(crate) fn now_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
