//! The Debian packages that the end-to-end tests use.

use anyhow::{Context, Result, bail};

use crate::process::{command, run};

/// A program that shows that the package is there, and the package.
const PACKAGES: &[(&str, &str)] = &[
    ("/usr/sbin/nginx", "nginx-light"),
    ("/bin/busybox", "busybox-static"),
    ("/usr/bin/docker-registry", "docker-registry"),
    ("/usr/bin/curl", "curl"),
    ("/usr/bin/htpasswd", "apache2-utils"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/bin/nsenter", "util-linux"),
    ("/usr/bin/openssl", "openssl"),
    ("/usr/bin/script", "bsdutils"),
];

/// Installs what is missing.
pub(super) fn ensure() -> Result<()> {
    let missing = |path: &str| !std::path::Path::new(path).exists();
    let mut wanted: Vec<&str> =
        PACKAGES.iter().filter(|(path, _)| missing(path)).map(|(_, package)| *package).collect();
    if ["/usr/sbin/ip", "/sbin/ip", "/bin/ip"].into_iter().all(missing) {
        wanted.push("iproute2");
    }
    if wanted.is_empty() {
        return Ok(());
    }
    if missing("/usr/bin/apt-get") {
        bail!("missing here: {}; install them with this machine's package manager", wanted.join(", "));
    }
    println!("    installing {}", wanted.join(" "));
    run(&["apt-get", "update", "-qq"])?;
    let mut install = command(&["apt-get", "install", "-y", "-qq", "--no-install-recommends"]);
    install.args(&wanted).env("DEBIAN_FRONTEND", "noninteractive");
    // Installing a server must not start it.
    install.env("RUNLEVEL", "1");
    crate::process::run_command(&mut install).with_context(|| format!("cannot install {}", wanted.join(" ")))
}
