//! What can go wrong, in the words of libcni where users know them from events.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Error codes of the CNI specification.
pub(crate) mod code {
    pub(crate) const IO_FAILURE: u32 = 5;
    pub(crate) const DECODING_FAILURE: u32 = 6;
    pub(crate) const INVALID_NETWORK_CONFIG: u32 = 7;
    pub(crate) const INTERNAL: u32 = 999;
}

/// A failed CNI call.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    #[error("no networks found in {}: put a CNI configuration there, or let Kybern write its own", .0.display())]
    NoNetwork(PathBuf),
    #[error("error loading CNI configuration {}: {cause}", file.display())]
    Config { file: PathBuf, cause: String },
    #[error("failed to find plugin {plugin:?} in path {path:?}")]
    PluginNotFound { plugin: String, path: Vec<PathBuf> },
    #[error("plugin type={plugin:?} failed ({command}): {error}")]
    Plugin { plugin: String, command: &'static str, error: PluginError },
    #[error("{what} {}: {cause}", path.display())]
    Io { what: &'static str, path: PathBuf, cause: io::Error },
}

/// What a plugin answers when it fails (specification, "Error").
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
#[error("{msg}{}", if details.is_empty() { String::new() } else { format!(": {details}") })]
pub struct PluginError {
    #[serde(default)]
    pub code: u32,
    #[serde(default)]
    pub msg: String,
    #[serde(default)]
    pub details: String,
}

impl PluginError {
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }
}

impl From<kybern_linux::netlink::NetlinkError> for PluginError {
    fn from(error: kybern_linux::netlink::NetlinkError) -> Self {
        Self::new(code::INTERNAL, error.to_string())
    }
}

impl From<kybern_linux::sysctl::SysctlError> for PluginError {
    fn from(error: kybern_linux::sysctl::SysctlError) -> Self {
        Self::new(code::INTERNAL, error.to_string())
    }
}

impl From<io::Error> for PluginError {
    fn from(error: io::Error) -> Self {
        Self::new(code::IO_FAILURE, error.to_string())
    }
}
