//! Calling one plugin: built in, or an executable with the specification's environment and standard streams.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::Duration;

use kybern_linux::process::{self, ProcessHandle};

use serde_json::Value;

use crate::CniError;
use crate::builtin;
use crate::error::{PluginError, code};

/// How long a plugin may take. One that hangs would hold up the end of its pod for ever.
const TIMEOUT: Duration = Duration::from_secs(120);

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
        self.execute(&path, input, TIMEOUT).map_err(|error| self.failed(plugin, error))
    }

    fn failed(&self, plugin: &str, error: PluginError) -> CniError {
        CniError::Plugin { plugin: plugin.to_owned(), command: self.command.word(), error }
    }

    fn execute(&self, path: &Path, input: &Value, timeout: Duration) -> Result<Option<Value>, PluginError> {
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
            // A group of its own, so that it can be ended with what it has started.
            .process_group(0)
            .spawn()?;
        let pid = child.id();
        let watched = ProcessHandle::open(pid)?;
        // It is not reaped before this thread has ended: its group is still its own.
        let watch = std::thread::spawn(move || {
            let hangs = watched.is_some_and(|plugin| matches!(plugin.ends_within(timeout), Ok(false)));
            if hangs {
                let _ = process::kill_group(pid);
            }
            hangs
        });
        let mut stdin = child.stdin.take().expect("piped above");
        let bytes = input.to_string().into_bytes();
        // Each stream on a thread, as a plugin may write before it has read everything.
        let writer = std::thread::spawn(move || stdin.write_all(&bytes));
        let (stdout, stderr) = (read_all(child.stdout.take()), read_all(child.stderr.take()));
        let hung = watch.join().unwrap_or(false);
        let status = child.wait()?;
        if hung {
            let msg = format!("it has not ended within {} s and was killed", timeout.as_secs_f32());
            return Err(PluginError::new(code::INTERNAL, msg));
        }
        // A plugin need not read its input to the end.
        let _ = writer.join();
        let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
        if status.success() {
            if stdout.iter().all(u8::is_ascii_whitespace) {
                return Ok(None);
            }
            return serde_json::from_slice(&stdout).map(Some).map_err(|error| {
                PluginError::new(code::DECODING_FAILURE, format!("cannot decode the plugin's result: {error}"))
            });
        }
        Err(serde_json::from_slice::<PluginError>(&stdout).ok().filter(|e| !e.msg.is_empty()).unwrap_or_else(|| {
            let text = if stderr.is_empty() { &stdout } else { &stderr };
            let text = String::from_utf8_lossy(text);
            PluginError::new(code::INTERNAL, format!("netplugin failed with {}: {:?}", status, text.trim()))
        }))
    }
}

/// Reads a stream to its end.
fn read_all(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_plugin_that_hangs_is_killed_with_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let plugin = dir.path().join("hangs");
        std::fs::write(&plugin, "#!/bin/sh\nsleep 600 &\necho $! > \"$CNI_ARGS\"\nsleep 600\n").unwrap();
        std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
        let pid_file = dir.path().join("pid=");
        let args = [(dir.path().join("pid").display().to_string(), String::new())];
        let call = Call {
            command: Command::Add,
            container_id: "c",
            netns: Path::new("/none"),
            if_name: "eth0",
            args: &args,
            bin_dirs: &[],
        };
        let error = call.execute(&plugin, &Value::Null, Duration::from_millis(500)).unwrap_err().to_string();
        assert!(error.contains("has not ended within 0.5 s and was killed"), "{error}");
        let started: u32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
        let gone =
            ProcessHandle::open(started).unwrap().is_none_or(|it| it.ends_within(Duration::from_secs(5)).unwrap());
        assert!(gone, "what the plugin started goes on");
    }
}
