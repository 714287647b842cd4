//! The Debian packages that tests use, installed where they are missing.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::process::{command, run, run_command};

/// A file that shows that a package is there, and the package.
pub(crate) type Package = (&'static str, &'static str);

/// What the crates' own tests and the end-to-end tests use.
const TESTS: &[Package] = &[
    ("/usr/sbin/nginx", "nginx-light"),
    ("/bin/busybox", "busybox-static"),
    ("/usr/bin/docker-registry", "docker-registry"),
    ("/usr/bin/etcd", "etcd-server"),
    ("/usr/bin/etcdctl", "etcd-client"),
    ("/usr/bin/curl", "curl"),
    ("/usr/bin/htpasswd", "apache2-utils"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/bin/nsenter", "util-linux"),
    ("/usr/bin/openssl", "openssl"),
    ("/usr/bin/script", "bsdutils"),
    ("/bin/ip", "iproute2"),
    ("/usr/bin/pip3", "python3-pip"),
];

/// What the emulator needs.
const EMULATOR: &[Package] = &[("/usr/bin/qemu-system-x86_64", "qemu-system-x86"), ("/bin/busybox", "busybox-static")];

/// What the measurements need.
const BENCH: &[Package] = &[
    ("/usr/bin/wrk", "wrk"),
    ("/usr/sbin/nginx", "nginx-light"),
    ("/usr/bin/etcd", "etcd-server"),
    ("/usr/bin/openssl", "openssl"),
    ("/usr/bin/nsenter", "util-linux"),
    ("/bin/ip", "iproute2"),
];

pub(crate) fn for_bench() -> Result<()> {
    ensure(BENCH)
}

pub(crate) fn for_tests() -> Result<()> {
    ensure(TESTS)
}

pub(crate) fn for_the_emulator() -> Result<()> {
    ensure(EMULATOR)
}

fn ensure(packages: &[Package]) -> Result<()> {
    let wanted: Vec<&str> = packages.iter().filter(|(path, _)| !is_there(path)).map(|(_, package)| *package).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    if !is_there("/usr/bin/apt-get") {
        bail!("missing here: {}; install them with this machine's package manager", wanted.join(", "));
    }
    println!("    installing {}", wanted.join(" "));
    run(&["apt-get", "update", "-qq"])?;
    let mut install = command(&["apt-get", "install", "-y", "-qq", "--no-install-recommends"]);
    install.args(&wanted).env("DEBIAN_FRONTEND", "noninteractive");
    // Installing a server must not start it.
    install.env("RUNLEVEL", "1");
    run_command(&mut install).with_context(|| format!("cannot install {}", wanted.join(" ")))
}

/// Machines differ in whether `/bin` and `/sbin` are links into `/usr`.
fn is_there(path: &str) -> bool {
    let path = Path::new(path);
    let name = path.file_name().unwrap_or_default();
    path.exists()
        || ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().any(|folder| Path::new(folder).join(name).exists())
}
