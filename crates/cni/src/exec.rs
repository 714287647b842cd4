//! Calling one plugin: built in, or an executable with the specification's environment and standard streams.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use serde_json::Value;

use crate::CniError;
use crate::builtin;
use crate::error::{PluginError, code};

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
}

impl Command {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Del => "delete",
            Self::Check => "check",
        }
    }
}

/// Everything that one call of a plugin depends on, besides its configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) command: Command,
    pub(crate) container_id: &'a str,
    pub(crate) netns: &'a Path,
    pub(crate) if_name: &'a str,
    pub(crate) args: &'a [(String, String)],
    pub(crate) bin_dirs: &'a [PathBuf],
}

impl Call<'_> {
    /// Calls the plugin `plugin`; a result only comes from an addition.
    pub(crate) fn run(&self, plugin: &str, input: &Value) -> Result<Option<Value>, CniError> {
        if let Some(built_in) = builtin::find(plugin) {
            return built_in(self, input).map_err(|error| self.failed(plugin, error));
        }
        let path = self.bin_dirs.iter().map(|dir| dir.join(plugin)).find(|path| path.is_file());
        let path = path
            .filter(|_| !plugin.contains('/'))
            .ok_or_else(|| CniError::PluginNotFound { plugin: plugin.to_owned(), path: self.bin_dirs.to_vec() })?;
        self.execute(&path, input).map_err(|error| self.failed(plugin, error))
    }

    fn failed(&self, plugin: &str, error: PluginError) -> CniError {
        CniError::Plugin { plugin: plugin.to_owned(), command: self.command.word(), error }
    }

    fn execute(&self, path: &Path, input: &Value) -> Result<Option<Value>, PluginError> {
        let args: Vec<String> = self.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let bin_path: Vec<_> = self.bin_dirs.iter().map(|dir| dir.to_string_lossy()).collect();
        let mut child = Process::new(path)
            .env("CNI_COMMAND", self.command.name())
            .env("CNI_CONTAINERID", self.container_id)
            .env("CNI_NETNS", self.netns)
            .env("CNI_IFNAME", self.if_name)
            .env("CNI_ARGS", args.join(";"))
            .env("CNI_PATH", bin_path.join(":"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().expect("piped above");
        let bytes = input.to_string().into_bytes();
        // On a thread, as a plugin may write before it has read everything.
        let writer = std::thread::spawn(move || stdin.write_all(&bytes));
        let output = child.wait_with_output()?;
        // A plugin need not read its input to the end.
        let _ = writer.join();
        if output.status.success() {
            if output.stdout.iter().all(u8::is_ascii_whitespace) {
                return Ok(None);
            }
            return serde_json::from_slice(&output.stdout).map(Some).map_err(|error| {
                PluginError::new(code::DECODING_FAILURE, format!("cannot decode the plugin's result: {error}"))
            });
        }
        Err(serde_json::from_slice::<PluginError>(&output.stdout).ok().filter(|e| !e.msg.is_empty()).unwrap_or_else(
            || {
                let text = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
                let text = String::from_utf8_lossy(text);
                PluginError::new(code::INTERNAL, format!("netplugin failed with {}: {:?}", output.status, text.trim()))
            },
        ))
    }
}
