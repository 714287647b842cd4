//! The seam between the kubelet and a container runtime: the calls and messages of CRI v1
//! (`k8s.io/cri-api/pkg/apis/runtime/v1`) as plain Rust, so that the built-in runtime is called in-process and a CRI
//! socket can stand in its place. Names are CRI's; a field that Kybern does not use yet is left out, not renamed.

pub mod image;
mod logs;
pub mod service;
pub mod stream;
pub mod types;

pub use image::{AuthConfig, FilesystemUsage, Image, ImageService, ImageSpec};
pub use logs::rotated_logs;
pub use service::{CriError, RuntimeService};
pub use stream::{ExecIo, TermSize};
pub use types::*;

use std::future::Future;
use std::pin::Pin;

/// A boxed future, so that the service traits are object safe.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A call's answer.
pub type CriFuture<'a, T> = BoxFuture<'a, Result<T, CriError>>;
