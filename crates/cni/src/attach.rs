//! Adding, checking and deleting attachments: the chain of plugins of one network.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::cache::{self, Attachment};
use crate::config::{self, NetworkConfig, plugin_input};
use crate::error::{PluginError, code};
use crate::exec::{Call, Command};
use crate::result::CniResult;
use crate::{CniError, builtin};

/// A host port that leads to a container (the capability `portMappings`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    pub host_port: u16,
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Only this address of the host; all of them when absent.
    #[serde(default, rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// One container to attach to the network.
#[derive(Clone, Debug)]
pub struct ContainerNet {
    pub container_id: String,
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// Name of the link inside, `eth0`.
    pub if_name: String,
    /// `CNI_ARGS`: `K8S_POD_NAMESPACE` and so on.
    pub args: Vec<(String, String)>,
    pub port_mappings: Vec<PortMapping>,
}

/// A loaded network.
#[derive(Clone, Debug)]
pub struct Cni {
    network: NetworkConfig,
    bin_dirs: Vec<PathBuf>,
    cache_dir: PathBuf,
}

impl Cni {
    /// Loads the network of `conf_dir`. `cache_dir` (upstream's `/var/lib/cni`) keeps results.
    pub fn load(conf_dir: &Path, bin_dirs: &[PathBuf], cache_dir: &Path) -> Result<Self, CniError> {
        let network = config::load_dir(conf_dir)?;
        Ok(Self { network, bin_dirs: bin_dirs.to_vec(), cache_dir: cache_dir.to_owned() })
    }

    pub fn network_name(&self) -> &str {
        &self.network.name
    }

    /// Attaches a container: brings up its loopback and runs the chain. A failure is undone before it is reported. Blocks.
    pub fn add(&self, container: &ContainerNet) -> Result<CniResult, CniError> {
        let mut attachment = self.attachment(container);
        attachment.save(&self.cache_dir)?;
        let added = self.add_chain(&attachment);
        match added {
            Ok(result) => {
                attachment.result = Some(result.clone());
                attachment.save(&self.cache_dir)?;
                serde_json::from_value(result).map_err(|error| self.bad_result(&error))
            }
            Err(error) => {
                // What could not be undone stays remembered, for the deletion.
                let _ = self.del_attachment(&attachment);
                Err(error)
            }
        }
    }

    fn add_chain(&self, attachment: &Attachment) -> Result<Value, CniError> {
        let call = self.call(Command::Add, attachment);
        Call { if_name: "lo", ..call }.run("loopback", &json!({"cniVersion": "1.0.0"}))?;
        let mut result: Option<Value> = None;
        for plugin in &self.network.plugins {
            let input = plugin_input(&self.network, plugin, &attachment.capability_args, result.as_ref());
            if let Some(next) = call.run(plugin_type(plugin), &input)? {
                result = Some(next);
            }
        }
        Ok(result.unwrap_or_else(|| json!({"cniVersion": self.network.cni_version})))
    }

    fn bad_result(&self, error: &serde_json::Error) -> CniError {
        let last = self.network.plugins.last().map_or("", plugin_type);
        let error = PluginError::new(code::DECODING_FAILURE, format!("cannot decode its result: {error}"));
        CniError::Plugin { plugin: last.to_owned(), command: "add", error }
    }

    /// Detaches a container. Succeeds where nothing is attached or the namespace is gone. Blocks.
    pub fn del(&self, container: &ContainerNet) -> Result<(), CniError> {
        let remembered = cache::find(&self.cache_dir, &self.network.name, &container.container_id, &container.if_name);
        self.del_attachment(&remembered.unwrap_or_else(|| self.attachment(container)))
    }

    /// Detaches every remembered container that `is_alive` does not know: what a crash has left.
    pub fn collect_garbage(&self, is_alive: impl Fn(&str) -> bool) -> Result<usize, CniError> {
        let dead: Vec<_> =
            cache::all(&self.cache_dir).into_iter().filter(|attachment| !is_alive(&attachment.container_id)).collect();
        // One that cannot be detached does not keep the others.
        let results: Vec<_> = dead.iter().map(|attachment| self.del_attachment(attachment)).collect();
        cache::sweep(&self.cache_dir, is_alive);
        results.into_iter().collect::<Result<Vec<()>, _>>().map(|done| done.len())
    }

    fn del_attachment(&self, attachment: &Attachment) -> Result<(), CniError> {
        let network = attachment.network();
        let call = self.call(Command::Del, attachment);
        for plugin in network.plugins.iter().rev() {
            let input = plugin_input(&network, plugin, &attachment.capability_args, attachment.result.as_ref());
            call.run(plugin_type(plugin), &input)?;
        }
        attachment.forget(&self.cache_dir)
    }

    /// Checks that a container is attached as its addition left it. Blocks.
    pub fn check(&self, container: &ContainerNet) -> Result<(), CniError> {
        if self.network.disable_check || matches!(self.network.cni_version.as_str(), "0.3.0" | "0.3.1") {
            return Ok(());
        }
        let remembered = cache::find(&self.cache_dir, &self.network.name, &container.container_id, &container.if_name);
        let attachment = remembered.unwrap_or_else(|| self.attachment(container));
        let network = attachment.network();
        for plugin in &network.plugins {
            let input = plugin_input(&network, plugin, &attachment.capability_args, attachment.result.as_ref());
            self.call(Command::Check, &attachment).run(plugin_type(plugin), &input)?;
        }
        Ok(())
    }

    fn call<'a>(&'a self, command: Command, attachment: &'a Attachment) -> Call<'a> {
        Call {
            command,
            container_id: &attachment.container_id,
            netns: &attachment.netns,
            if_name: &attachment.if_name,
            args: &attachment.cni_args,
            bin_dirs: &self.bin_dirs,
        }
    }

    fn attachment(&self, container: &ContainerNet) -> Attachment {
        let mut capability_args = Map::new();
        if !container.port_mappings.is_empty() {
            capability_args.insert("portMappings".into(), json!(container.port_mappings));
        }
        Attachment {
            kind: "cniCacheV1".into(),
            container_id: container.container_id.clone(),
            if_name: container.if_name.clone(),
            network_name: self.network.name.clone(),
            cni_version: self.network.cni_version.clone(),
            plugins: self.network.plugins.clone(),
            netns: container.netns.clone(),
            cni_args: container.args.clone(),
            capability_args,
            result: None,
        }
    }

    /// Whether all plugins of the chain are there: what a runtime's network readiness says.
    pub fn status(&self) -> Result<(), CniError> {
        for plugin in self.network.plugins.iter().map(plugin_type) {
            if builtin::find(plugin).is_none() && !self.bin_dirs.iter().any(|dir| dir.join(plugin).is_file()) {
                return Err(CniError::PluginNotFound { plugin: plugin.to_owned(), path: self.bin_dirs.clone() });
            }
        }
        Ok(())
    }
}

fn plugin_type(plugin: &Map<String, Value>) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}
