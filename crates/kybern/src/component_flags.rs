//! What all components' command lines have in common with upstream's and clap does not: `--version`, `-v LEVEL`, flags of
//! one dash, links named like a component, and the text about a flag that is not known.

use std::ffi::OsString;
use std::path::Path;

use tracing::Level;

use crate::version;

const COMPONENTS: &[&str] =
    &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns"];

/// A command line, made fit for clap.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Prepared {
    pub(crate) arguments: Vec<OsString>,
    /// The component that is to run, if it is one.
    pub(crate) component: Option<&'static str>,
    /// What `-v LEVEL` asks for.
    pub(crate) level: Option<Level>,
    /// `--version` was asked for.
    pub(crate) version: bool,
}

pub(crate) fn prepare(arguments: Vec<OsString>) -> Prepared {
    let arguments = with_applet_name(arguments);
    let named = arguments.get(1).and_then(|a| a.to_str());
    let component = COMPONENTS.iter().copied().find(|component| named == Some(component));
    if component.is_none() {
        return Prepared { arguments, component, level: None, version: false };
    }
    let mut prepared = Prepared { arguments: Vec::new(), component, level: None, version: false };
    let mut left = arguments.into_iter();
    while let Some(argument) = left.next() {
        match argument.to_str() {
            Some("--version" | "--version=true" | "-version") => prepared.version = true,
            Some("-v" | "--v") => {
                prepared.level = left.next().and_then(|value| level(value.to_str()?));
            }
            Some(text) if text.starts_with("--v=") || text.starts_with("-v=") => {
                prepared.level = text.split_once('=').and_then(|(_, value)| level(value));
            }
            // CoreDNS' flags have one dash; clap's long ones have two.
            Some(text) if text.starts_with("-conf") || text.starts_with("-dns.port") => {
                prepared.arguments.push(format!("-{text}").into());
            }
            _ => prepared.arguments.push(argument),
        }
    }
    prepared
}

/// A link named like a component behaves like it: `kube-proxy` is `kybern kube-proxy`.
fn with_applet_name(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let called = arguments.first().and_then(|a| Path::new(a).file_name()).map(|n| n.to_owned());
    if let Some(name) = called.filter(|name| COMPONENTS.iter().any(|component| name == component)) {
        arguments.insert(1, name);
    }
    arguments
}

/// klog's levels: 4 is for debugging, 6 shows every request.
fn level(text: &str) -> Option<Level> {
    Some(match text.parse::<i32>().ok()? {
        ..4 => Level::INFO,
        4..6 => Level::DEBUG,
        6.. => Level::TRACE,
    })
}

/// What `--version` prints.
pub(crate) fn version(component: &str) -> String {
    match component {
        "coredns" => format!("CoreDNS of Kybern {}", version::KYBERN),
        _ => format!("Kubernetes {}", version::KUBERNETES),
    }
}

/// The flag in clap's complaint, as it was given.
pub(crate) fn unknown(component: &str, flag: &str) -> String {
    let name = flag.split('=').next().unwrap_or(flag);
    let why = match name {
        _ if name.starts_with("--etcd-") => ": the store is Kybern's own and lies in --data-dir; leave the flag out",
        "--storage-backend" => ": the store is Kybern's own and lies in --data-dir; leave the flag out",
        "--container-runtime-endpoint" => ": the container runtime is built in; leave the flag out",
        _ => "",
    };
    let spelt = if name.starts_with("--") { "flag" } else { "shorthand flag" };
    format!("unknown {spelt}: {name}{why}\nSee `kybern {component} --help` for the flags that there are.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expect: &str, level: Option<Level>, version: bool) {
        let prepared = prepare(line.split(' ').map(OsString::from).collect());
        let arguments: Vec<&str> = prepared.arguments.iter().map(|a| a.to_str().unwrap()).collect();
        assert_eq!(
            (arguments.join(" ").as_str(), prepared.level, prepared.version),
            (expect, level, version),
            "{line}"
        );
    }

    #[test]
    fn command_lines() {
        check("kybern coredns -conf /etc/Corefile", "kybern coredns --conf /etc/Corefile", None, false);
        check(
            "/usr/bin/kube-proxy --config=c -v=2",
            "/usr/bin/kube-proxy kube-proxy --config=c",
            Some(Level::INFO),
            false,
        );
        check("kybern kubelet --v 5 --port 1", "kybern kubelet --port 1", Some(Level::DEBUG), false);
        check("kybern kubelet --v=8", "kybern kubelet", Some(Level::TRACE), false);
        check("kybern kubelet --version", "kybern kubelet", None, true);
        // What is no component's is left as it is.
        check("kybern --version", "kybern --version", None, false);
        check("kybern up -v", "kybern up -v", None, false);
    }

    #[test]
    fn unknown_flags() {
        assert!(unknown("kubelet", "--nonsense=1").starts_with("unknown flag: --nonsense\n"));
        let etcd = unknown("kube-apiserver", "--etcd-servers");
        assert!(etcd.starts_with("unknown flag: --etcd-servers: ") && etcd.contains("--data-dir"), "{etcd}");
        assert_eq!(version("kubelet"), format!("Kubernetes {}", version::KUBERNETES));
    }
}
