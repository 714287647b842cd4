//! The built-in images: the running executable as `/kybern`, so that a node's own pods need no registry.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use kybern_linux::files;

use super::manifest::{ImageConfig, sha256};
use super::reference::Reference;
use super::store::{ImageStore, LAYERS, StoredImage, names};
use crate::{Config, disk};

/// How the names of built-in snapshots begin.
pub(crate) const PREFIX: &str = "builtin-";

const FILES: [(&str, &str); 4] = [
    ("etc/passwd", "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"),
    ("etc/group", "root:x:0:\nnobody:x:65534:\n"),
    ("etc/nsswitch.conf", "hosts: files dns\n"),
    ("etc/os-release", "NAME=\"Kybern\"\nID=kybern\n"),
];

impl ImageStore {
    /// Makes the built-in images' snapshot from the executable, anew when that has changed, and lists them.
    pub(crate) fn install_builtin(&mut self, config: &Config) -> io::Result<()> {
        let executable = fs::metadata(&config.executable).map_err(|error| disk::named(error, &config.executable))?;
        let identity = format!(
            "{}:{}:{}:{}.{}",
            executable.dev(),
            executable.ino(),
            executable.size(),
            executable.mtime(),
            executable.mtime_nsec()
        );
        let identity = sha256(identity.as_bytes());
        let name = format!("{PREFIX}{}", &identity[7..23]);
        let target = self.snapshots_dir().join(&name);
        if !target.exists() {
            let _ingest = self.ingest()?;
            let fresh = self.ingest_dir().join(&name);
            disk::remove_all(&fresh)?;
            fill(&fresh.join("fs"), &config.executable)?;
            fs::rename(&fresh, &target)?;
        }
        self.remove_older_builtin(&name, &config.containers_dir())?;
        let image = |reference: String, entrypoint: &[&str]| StoredImage {
            id: sha256(format!("{identity} {reference}").as_bytes()),
            tags: Reference::parse(&reference).ok().and_then(|r| r.tagged()).into_iter().collect(),
            size: executable.size(),
            snapshots: vec![name.clone()],
            config: ImageConfig {
                env: vec!["PATH=/".to_owned()],
                entrypoint: entrypoint.iter().map(|s| s.to_string()).collect(),
                working_dir: "/".to_owned(),
                ..Default::default()
            },
            pinned: true,
            ..Default::default()
        };
        let images =
            vec![image(config.builtin_image(), &["/kybern"]), image(config.pause_image(), &["/kybern", "pause"])];
        self.set_builtin(images);
        Ok(())
    }

    fn remove_older_builtin(&self, current: &str, containers: &Path) -> io::Result<()> {
        let mut used = Vec::new();
        for container in names(containers)? {
            used.extend(disk::read_json::<Vec<String>>(&containers.join(container).join(LAYERS)).unwrap_or_default());
        }
        for name in names(&self.snapshots_dir())? {
            if name.starts_with(PREFIX) && name != current && !used.contains(&name) {
                disk::remove_all(&self.snapshots_dir().join(name))?;
            }
        }
        Ok(())
    }
}

fn fill(root: &Path, executable: &Path) -> io::Result<()> {
    for (dir, mode) in
        [("", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("var", 0o755), ("var/run", 0o755)]
    {
        let path = root.join(dir);
        files::make_dirs(&path, 0o755)?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
    }
    for (name, text) in FILES {
        let path = root.join(name);
        files::write(&path, text, 0o644)?;
    }
    let target = root.join("kybern");
    // A link costs nothing; across file systems, or with an executable that others may not run, it must be a copy.
    let runnable = fs::metadata(executable)?.mode() & 0o055 == 0o055;
    if !runnable || fs::hard_link(executable, &target).is_err() {
        fs::copy(executable, &target)?;
        fs::set_permissions(&target, Permissions::from_mode(0o755))?;
        File::open(&target)?.sync_all()?;
    }
    Ok(())
}
