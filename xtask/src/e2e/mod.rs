//! `cargo xtask e2e`: a real cluster in network namespaces with no route out of the machine, the official kubectl on it,
//! and at the end the proof that nothing stays behind.

mod images;
mod leftovers;
mod registry;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::network::{self, Network};
use crate::packages;
use crate::process::{self, command, release_binary, run, run_command, step, step_value};

/// Where the end-to-end cluster keeps its things.
struct Site {
    folder: PathBuf,
    kybern: PathBuf,
    network: Network,
}

impl Site {
    fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// The home of those who use kubectl, which keeps a cache there.
    fn home(&self) -> PathBuf {
        self.folder.join("home")
    }

    /// The node's own directories: another cluster may be on this machine.
    fn directories(&self) -> Vec<String> {
        let folder = self.folder.display();
        vec![
            format!("--data-dir={}", self.data_dir().display()),
            format!("--run-dir={}", self.run_dir().display()),
            format!("--cni-conf-dir={folder}/cni/net.d"),
            format!("--pod-logs-dir={folder}/log/pods"),
            format!("--cgroup-root={}", self.cgroup_root()),
        ]
    }

    fn cgroup_root(&self) -> String {
        format!("/kybern-{}", network::id())
    }

    /// `kybern …` on the node's network.
    fn kybern(&self, command: &str) -> Command {
        let mut kybern = self.network.on_node(&self.kybern);
        kybern.arg(command).args(self.directories());
        kybern
    }

    fn up(&self, more: &[&str]) -> Result<()> {
        let mut up = self.kybern("up");
        up.args(["--node-name", "kybern-e2e", "--node-ip", network::NODE_IP]).args(more);
        run_command(&mut up)
    }

    fn down(&self) -> Result<()> {
        run_command(&mut self.kybern("down"))
    }
}

/// What no package brings.
pub(crate) fn lacking() -> Result<Option<String>> {
    let kubectl = process::output(&["sh", "-c", "command -v kubectl || true"])?;
    let lacking = "no kubectl on the PATH: they drive the cluster with the official one; install it";
    Ok(kubectl.trim().is_empty().then(|| lacking.to_owned()))
}

/// `filters` choose tests by name; without any all run.
pub(crate) fn run_all(filters: &[String]) -> Result<()> {
    if !process::is_root()? {
        bail!("the end-to-end tests make namespaces, cgroups and mounts: run them as root");
    }
    step("packages", packages::for_tests)?;
    if let Some(lacking) = lacking()? {
        bail!("cannot run the end-to-end tests: {lacking}");
    }
    let kubectls = kubectls()?;
    let kybern = step_value("build", build)?;
    let folder = PathBuf::from(format!("/tmp/kybern-e2e-{}", network::id()));
    let site = Site { kybern, network: Network::new(), folder };
    // What a broken run may have left.
    site.down().context("cannot remove the cluster of an earlier run")?;
    let _ = fs::remove_dir_all(&site.folder);
    fs::create_dir_all(site.data_dir())?;
    site.network.create()?;
    let outcome = run_in(&site, &kubectls, filters);
    let removed = step("down", || site.down()).and_then(|()| step("nothing is left", || leftovers::check(&site)));
    site.network.remove();
    outcome.and(removed)
}

fn run_in(site: &Site, kubectls: &[PathBuf], filters: &[String]) -> Result<()> {
    let registries = step_value("registry", || registry::start(&site.network, &site.folder))?;
    fs::write(site.data_dir().join("registries.yaml"), registry::MIRRORS)?;
    let outcome = step("up --demo", || site.up(&["--demo"])).and_then(|()| {
        let test = |binary: &str| {
            step(&format!("tests: {binary}"), || run_command(&mut test_command(site, kubectls, binary, filters)))
        };
        test("e2e")?;
        test("faults")
    });
    drop(registries);
    outcome
}

/// Builds what is tested, unless `KYBERN_BINARY` names it.
pub(crate) fn build() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KYBERN_BINARY") {
        return Ok(path.into());
    }
    run(&["cargo", "build", "--release", "--package", "kybern"])?;
    release_binary("kybern")
}

/// One test at a time: they share a machine of few cores, and some measure time.
fn test_command(site: &Site, kubectls: &[PathBuf], binary: &str, filters: &[String]) -> Command {
    let mut test = command(&["cargo", "test", "--quiet", "--package", "kybern-e2e", "--test", binary, "--"]);
    test.arg("--test-threads=1").args(filters).env("RUST_BACKTRACE", "0");
    let joined: Vec<String> = kubectls.iter().map(|k| k.display().to_string()).collect();
    test.env("KYBERN_E2E_KUBECTLS", joined.join(":"))
        .env("KYBERN_E2E_KUBECONFIG", site.data_dir().join("admin.kubeconfig"))
        .env("KYBERN_E2E_NODE_NETNS", site.network.node_path())
        .env("KYBERN_E2E_LAN_NETNS", site.network.lan_path())
        .env("KYBERN_E2E_NODE_IP", network::NODE_IP)
        .env("KYBERN_E2E_KYBERN", &site.kybern)
        .env("KYBERN_E2E_DATA_DIR", site.data_dir())
        .env("KYBERN_E2E_HOME", site.home())
        .env("KYBERN_E2E_DIRECTORIES", site.directories().join(" "));
    test
}

/// The official kubectl programs of this machine, oldest first: the one on the PATH, and versioned ones beside it.
pub(crate) fn kubectls() -> Result<Vec<PathBuf>> {
    let on_path = process::output(&["sh", "-c", "command -v kubectl"])?;
    let real = fs::canonicalize(on_path.trim())?;
    let mut versioned: Vec<(u32, PathBuf)> = fs::read_dir(real.parent().unwrap_or(Path::new("/")))?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let minor = path.file_name()?.to_str()?.strip_prefix("kubectl.1.")?.parse().ok()?;
            Some((minor, path))
        })
        .collect();
    versioned.sort();
    let found: Vec<PathBuf> =
        if versioned.is_empty() { vec![real] } else { versioned.into_iter().map(|(_, p)| p).collect() };
    println!("    kubectl: {} (oldest) … {} (newest)", found[0].display(), found[found.len() - 1].display());
    Ok(found)
}
