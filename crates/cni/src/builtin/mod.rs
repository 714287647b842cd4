//! The plugins that need no executable. Each is a function from a call and its configuration to a result, exactly what an
//! executable would be.

mod bridge;
pub(crate) mod host_local;
mod loopback;
pub(crate) mod masquerade;
pub(crate) mod portmap;
mod tables;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{PluginError, code};
use crate::exec::Call;

/// A built-in plugin.
pub(crate) type Plugin = fn(&Call<'_>, &Value) -> Result<Option<Value>, PluginError>;

/// The built-in plugin of a type.
pub(crate) fn find(plugin: &str) -> Option<Plugin> {
    match plugin {
        "bridge" => Some(bridge::run),
        "host-local" => Some(host_local::run),
        "loopback" => Some(loopback::run),
        "portmap" => Some(portmap::run),
        _ => None,
    }
}

/// Reads a plugin's configuration.
fn parse<T: DeserializeOwned>(input: &Value) -> Result<T, PluginError> {
    T::deserialize(input)
        .map_err(|error| PluginError::new(code::DECODING_FAILURE, format!("failed to load netconf: {error}")))
}

/// A namespace that must be there.
fn open_netns(call: &Call<'_>) -> Result<kybern_linux::netns::NetNs, PluginError> {
    kybern_linux::netns::NetNs::open(call.netns).map_err(|error| {
        PluginError::new(
            code::IO_FAILURE,
            format!("failed to open netns {:?}: {error}", call.netns.display().to_string()),
        )
    })
}

/// Runs netlink work inside the container's namespace.
fn in_netns<T: Send>(
    netns: &kybern_linux::netns::NetNs,
    work: impl FnOnce() -> Result<T, PluginError> + Send,
) -> Result<T, PluginError> {
    netns.run(|| Ok(work()))?
}
