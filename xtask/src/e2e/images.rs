//! Images made of Debian's packages: a static busybox, and the real nginx with the libraries it needs.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::process::{output, run};

/// An image's parts, ready to be pushed.
pub(super) struct Built {
    pub(super) config: Vec<u8>,
    pub(super) layer: PathBuf,
    pub(super) manifest: Vec<u8>,
    pub(super) config_digest: String,
    pub(super) layer_digest: String,
}

pub(super) fn busybox(folder: &Path) -> Result<Built> {
    let rootfs = folder.join("busybox");
    add_busybox(&rootfs)?;
    build(folder, "busybox", json!({"Cmd": ["sh"], "Env": ["PATH=/bin:/usr/bin:/sbin:/usr/sbin"]}))
}

/// A busybox with a file beside it that does not shrink, so that its layer is its own and has at least this size.
pub(super) fn padded(folder: &Path, name: &str, bytes: usize) -> Result<Built> {
    let rootfs = folder.join(name);
    add_busybox(&rootfs)?;
    let mut padding = Vec::new();
    fs::File::open("/dev/urandom")?.take(bytes as u64).read_to_end(&mut padding)?;
    fs::write(rootfs.join("padding"), padding)?;
    build(folder, name, json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]}))
}

/// The same nginx under each tag; the page it serves tells the tag.
pub(super) fn nginx(folder: &Path, tag: &str) -> Result<Built> {
    let name = format!("nginx-{tag}");
    let rootfs = folder.join(&name);
    add_busybox(&rootfs)?;
    add_with_libraries(&rootfs, "/usr/sbin/nginx")?;
    for made in ["etc/nginx", "usr/share/nginx/html", "var/log/nginx", "var/lib/nginx", "run"] {
        fs::create_dir_all(rootfs.join(made))?;
    }
    fs::write(rootfs.join("etc/nginx/nginx.conf"), NGINX_CONF)?;
    fs::write(rootfs.join("usr/share/nginx/html/index.html"), format!("Welcome to nginx {tag}!\n"))?;
    let config = json!({
        "Cmd": ["nginx", "-g", "daemon off;"],
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", format!("NGINX_VERSION={tag}")],
        "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGQUIT",
    });
    build(folder, &name, config)
}

const NGINX_CONF: &str = "\
user www-data;
worker_processes 1;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events { worker_connections 256; }
http {
  access_log /dev/stdout;
  server {
    listen 80;
    root /usr/share/nginx/html;
  }
}
";

fn add_busybox(rootfs: &Path) -> Result<()> {
    for made in ["bin", "etc", "tmp", "root", "var", "home", "proc", "sys", "dev"] {
        fs::create_dir_all(rootfs.join(made))?;
    }
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).context("/bin/busybox comes from busybox-static")?;
    for applet in output(&["/bin/busybox", "--list"])?.lines().filter(|a| *a != "busybox") {
        let link = rootfs.join("bin").join(applet);
        if !link.exists() {
            symlink("busybox", link)?;
        }
    }
    fs::write(
        rootfs.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n",
    )?;
    fs::write(rootfs.join("etc/group"), "root:x:0:\nwww-data:x:33:\n")?;
    Ok(())
}

/// Copies a program and the shared libraries that it names.
fn add_with_libraries(rootfs: &Path, program: &str) -> Result<()> {
    let listing = output(&["ldd", program])?;
    let libraries = listing.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    for file in libraries.chain([program]) {
        let to = rootfs.join(file.trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("an absolute path has a parent")?)?;
        fs::copy(file, &to).with_context(|| format!("cannot copy {file}"))?;
    }
    Ok(())
}

fn build(folder: &Path, name: &str, config: Value) -> Result<Built> {
    let text = |path: &Path| path.display().to_string();
    let tar = folder.join(format!("{name}.tar"));
    let rootfs = folder.join(name);
    run(&[
        "tar",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--sort=name",
        "-C",
        &text(&rootfs),
        "-cf",
        &text(&tar),
        ".",
    ])?;
    let diff_id = sha256(&tar)?;
    run(&["gzip", "-n", "-f", "-1", &text(&tar)])?;
    let layer = folder.join(format!("{name}.tar.gz"));
    let layer_digest = sha256(&layer)?;
    let config = json!({
        "architecture": architecture(), "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created_by": "made of Debian packages"}],
    });
    let config = serde_json::to_vec(&config)?;
    let config_path = folder.join(format!("{name}.config.json"));
    fs::write(&config_path, &config)?;
    let config_digest = sha256(&config_path)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json", "size": config.len(), "digest": config_digest,
        },
        "layers": [{
            "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "size": fs::metadata(&layer)?.len(), "digest": layer_digest,
        }],
    });
    Ok(Built { config, layer, manifest: serde_json::to_vec(&manifest)?, config_digest, layer_digest })
}

/// Go's name of this machine's architecture, as images use it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(super) fn sha256(path: &Path) -> Result<String> {
    let printed = output(&["sha256sum", &path.display().to_string()])?;
    let hex = printed.split_whitespace().next().context("sha256sum prints a digest")?;
    Ok(format!("sha256:{hex}"))
}
