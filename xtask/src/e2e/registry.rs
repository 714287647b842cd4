//! A real registry on the node's loopback: Debian's `docker-registry`, once open and once with a password.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::images::{self, Built};

use crate::network::Network;
use crate::process::output;

/// The node's `registries.yaml`: Docker Hub's names come from the open registry.
pub(super) const MIRRORS: &str = "\
mirrors:
  docker.io:
    endpoint:
    - http://127.0.0.1:5000
";

const OPEN: &str = "127.0.0.1:5000";
const PRIVATE: &str = "127.0.0.1:5001";
const USER: &str = "user:word";

/// Running registries; they end when this is dropped.
pub(super) struct Registries(Vec<Child>);

impl Drop for Registries {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts both registries and fills them.
pub(super) fn start(network: &Network, folder: &Path) -> Result<Registries> {
    let work = folder.join("registry");
    fs::create_dir_all(&work)?;
    let password = work.join("htpasswd");
    fs::write(&password, output(&["htpasswd", "-Bbn", "user", "word"])?)?;
    let mut running = Registries(Vec::new());
    running.0.push(spawn(network, &work, "open", OPEN, None)?);
    running.0.push(spawn(network, &work, "private", PRIVATE, Some(&password))?);
    for address in [OPEN, PRIVATE] {
        wait_for(network, address)?;
    }
    let pusher = Pusher { network, work: &work };
    let busybox = images::busybox(&work)?;
    for tag in ["archive", "1"] {
        pusher.push(OPEN, "library/busybox", tag, &busybox)?;
    }
    pusher.push_index(OPEN, "library/busybox", "latest", &busybox, &["s390x", images::architecture()])?;
    // Images that tests do something to: one for other machines, one to be damaged, one that a small disk has no room for.
    pusher.push_index(OPEN, "library/foreign", "1", &busybox, &["s390x", "riscv64"])?;
    pusher.push(OPEN, "library/damaged", "1", &images::padded(&work, "damaged", 100_000)?)?;
    pusher.push(OPEN, "library/large", "1", &images::padded(&work, "large", 48 << 20)?)?;
    pusher.push(PRIVATE, "private", "1", &busybox)?;
    for tag in ["1.14", "1.15", "latest"] {
        pusher.push(OPEN, "library/nginx", tag, &images::nginx(&work, tag)?)?;
    }
    Ok(running)
}

fn spawn(network: &Network, work: &Path, name: &str, address: &str, htpasswd: Option<&Path>) -> Result<Child> {
    let auth =
        htpasswd.map(|p| format!("auth: {{htpasswd: {{realm: e2e, path: {}}}}}\n", p.display())).unwrap_or_default();
    let storage = work.join(name);
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
         http: {{addr: '{address}'}}\n{auth}",
        storage.display()
    );
    let config = work.join(format!("{name}.yaml"));
    fs::write(&config, text)?;
    let log = fs::File::create(work.join(format!("{name}.log")))?;
    let mut command = network.on_node(Path::new("/usr/bin/docker-registry"));
    command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(log);
    command.spawn().context("cannot start docker-registry")
}

fn wait_for(network: &Network, address: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut curl = network.on_node(Path::new("/usr/bin/curl"));
        let reached = curl.args(["-s", "-o", "/dev/null", &format!("http://{address}/v2/")]).status()?.success();
        if reached {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the registry at {address} does not answer");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

struct Pusher<'a> {
    network: &'a Network,
    work: &'a Path,
}

impl Pusher<'_> {
    fn push(&self, registry: &str, repository: &str, tag: &str, image: &Built) -> Result<()> {
        let config = self.file("config", &image.config)?;
        self.blob(registry, repository, &config, &image.config_digest)?;
        self.blob(registry, repository, &image.layer, &image.layer_digest)?;
        self.manifest(registry, repository, tag, &image.manifest)
    }

    /// An index that lists the image under these architectures.
    fn push_index(
        &self,
        registry: &str,
        repository: &str,
        tag: &str,
        image: &Built,
        architectures: &[&str],
    ) -> Result<()> {
        self.push(registry, repository, tag, image)?;
        let manifest = self.file("manifest", &image.manifest)?;
        let digest = images::sha256(&manifest)?;
        self.manifest(registry, repository, &digest, &image.manifest)?;
        let entry = |architecture: &str| {
            json!({
                "mediaType": media_type(&image.manifest), "size": image.manifest.len(), "digest": digest,
                "platform": {"architecture": architecture, "os": "linux"},
            })
        };
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
            "manifests": architectures.iter().map(|name| entry(name)).collect::<Vec<_>>(),
        });
        self.manifest(registry, repository, tag, &serde_json::to_vec(&index)?)
    }

    fn blob(&self, registry: &str, repository: &str, file: &Path, digest: &str) -> Result<()> {
        let start = format!("http://{registry}/v2/{repository}/blobs/uploads/");
        let headers = self.curl(&["-X", "POST", "-D", "-", "-o", "/dev/null", &start])?;
        let location =
            headers.lines().find_map(|l| l.to_lowercase().starts_with("location:").then(|| l[9..].trim().to_owned()));
        let location = location.with_context(|| format!("the registry started no upload: {headers}"))?;
        let joint = if location.contains('?') { '&' } else { '?' };
        let data = format!("@{}", file.display());
        let to = format!("{location}{joint}digest={digest}");
        self.curl(&["-X", "PUT", "-H", "Content-Type: application/octet-stream", "--data-binary", &data, &to]).map(drop)
    }

    fn manifest(&self, registry: &str, repository: &str, reference: &str, manifest: &[u8]) -> Result<()> {
        let data = format!("@{}", self.file("manifest", manifest)?.display());
        let kind = format!("Content-Type: {}", media_type(manifest));
        let to = format!("http://{registry}/v2/{repository}/manifests/{reference}");
        self.curl(&["-X", "PUT", "-H", &kind, "--data-binary", &data, &to]).map(drop)
    }

    fn file(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.work.join(format!("push-{name}"));
        fs::write(&path, content)?;
        Ok(path)
    }

    fn curl(&self, arguments: &[&str]) -> Result<String> {
        let mut curl: Command = self.network.on_node(Path::new("/usr/bin/curl"));
        let output = curl.args(["-sS", "--fail", "--noproxy", "*", "-u", USER]).args(arguments).output()?;
        if !output.status.success() {
            bail!("curl {arguments:?} failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

fn media_type(manifest: &[u8]) -> String {
    let manifest: Value = serde_json::from_slice(manifest).unwrap_or_default();
    manifest["mediaType"].as_str().unwrap_or_default().to_owned()
}
