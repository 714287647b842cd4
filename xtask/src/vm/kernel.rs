//! Debian's kernel for virtual machines: downloaded and unpacked, never installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::{command, output, run, run_command};

/// The package that depends on the newest one.
const NEWEST: &str = "linux-image-cloud-amd64";
/// What a node needs of what Debian builds as modules; `dummy` is the guest's network card.
const MODULES: &[&str] = &[
    "br_netfilter",
    "bridge",
    "dummy",
    "nf_conntrack_netlink",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_masq",
    "nft_nat",
    "nft_numgen",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "overlay",
    "veth",
];

/// An unpacked kernel.
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    modules: PathBuf,
    release: String,
}

/// The kernel in `folder`, downloaded where it is not yet there.
pub(super) fn fetch(folder: &Path) -> Result<Kernel> {
    let unpacked = folder.join("linux");
    if !unpacked.join("boot").exists() {
        run(&["apt-get", "update", "-qq"])?;
        // What apt knows may be old, or nothing: versions go as new ones come.
        run(&["apt-get", "update", "-qq"])?;
        let depends = output(&["apt-cache", "depends", "--important", NEWEST])?;
        let package = depends.lines().find_map(|l| l.trim().strip_prefix("Depends: "));
        let package = package.with_context(|| format!("apt-cache knows no {NEWEST}"))?.to_owned();
        println!("    downloading {package}");
        run_command(command(&["apt-get", "download", "-qq", &package]).current_dir(folder))?;
        let archive = only(folder, |name| name.starts_with(&package) && name.ends_with(".deb"))?;
        let partial = folder.join("linux.new");
        run(&["dpkg-deb", "-x", &archive.display().to_string(), &partial.display().to_string()])?;
        fs::remove_file(archive)?;
        fs::rename(partial, &unpacked)?;
    }
    let image = only(&unpacked.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    let modules = only(&unpacked.join("lib/modules"), |_| true)?;
    let release = modules.file_name().and_then(|n| n.to_str()).context("a release has a name")?.to_owned();
    run(&["busybox", "depmod", "-b", &unpacked.display().to_string(), &release])?;
    Ok(Kernel { image, modules, release })
}

fn only(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let found = entries.find_map(|entry| {
        let path = entry.ok()?.path();
        wanted(path.file_name()?.to_str()?).then_some(path)
    });
    found.with_context(|| format!("what is looked for is not in {}", folder.display()))
}

impl Kernel {
    /// Puts the modules that are needed, and those that they need, below `root`.
    pub(super) fn install_modules(&self, root: &Path) -> Result<()> {
        let list = fs::read_to_string(self.modules.join("modules.dep"))?;
        let target = root.join("lib/modules").join(&self.release);
        for module in closure(&list, MODULES)? {
            let (from, to) = (self.modules.join(&module), target.join(&module));
            fs::create_dir_all(to.parent().context("a module lies in a folder")?)?;
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        run(&["busybox", "depmod", "-b", &root.display().to_string(), &self.release])
    }
}

/// The paths of modules with all that they depend on; `list` has lines `path: path path…`.
fn closure(list: &str, names: &[&str]) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for name in names {
        let file = format!("/{name}.ko");
        let line = list.lines().find(|l| l.split(':').next().is_some_and(|path| path.ends_with(&file)));
        let (path, needs) = line.and_then(|l| l.split_once(':')).with_context(|| format!("no module {name}"))?;
        found.extend([path].into_iter().chain(needs.split_whitespace()).map(str::to_owned));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_with_what_they_need() {
        let list =
            "kernel/a/nft_nat.ko: kernel/a/nf_nat.ko kernel/b/nf_tables.ko\nkernel/a/nf_nat.ko:\nkernel/c/veth.ko:\n";
        let found: Vec<String> = closure(list, &["nft_nat", "veth"]).unwrap().into_iter().collect();
        assert_eq!(found, ["kernel/a/nf_nat.ko", "kernel/a/nft_nat.ko", "kernel/b/nf_tables.ko", "kernel/c/veth.ko"]);
        assert!(closure(list, &["nat"]).is_err());
    }
}
