//! `cargo xtask vm`: Kybern on a distribution's kernel in an emulator, where features can be missing and cgroup v2 is the
//! only one. The guest (`init.sh`) has Kybern, kubectl and busybox in its memory, no disk and no network card.

mod guest;
mod kernel;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::packages;
use crate::process::{root, step, step_value};

/// All checks take about a minute; the emulator is slow on a slow machine.
const BOOT_MAX: Duration = Duration::from_secs(600);

/// What the guest is made of.
struct Parts {
    kybern: PathBuf,
    kubectl: PathBuf,
    kernel: kernel::Kernel,
}

/// Answers what this machine lacks for it, if it does.
pub(crate) fn run_all() -> Result<Option<String>> {
    if std::env::consts::ARCH != "x86_64" {
        return Ok(Some(format!("the emulated machine is an x86_64 one, this is {}", std::env::consts::ARCH)));
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        return Ok(Some("the kernel comes from Debian's archive, and there is no apt-get".to_owned()));
    }
    let folder = folder();
    fs::create_dir_all(&folder)?;
    step("packages", packages::for_the_emulator)?;
    let parts = Parts {
        kernel: step_value("kernel", || kernel::fetch(&folder))?,
        kybern: step_value("build", crate::e2e::build)?,
        kubectl: crate::e2e::kubectls()?.pop().context("no kubectl")?,
    };
    let image = step_value("guest", || guest::build(&folder, &parts))?;
    step("boot: a controller is turned off", || {
        boot(&parts, &image, "kybern.scenario=controllers cgroup_disable=memory")
    })?;
    step("boot: cgroup v2, missing and present features", || boot(&parts, &image, "kybern.scenario=node"))?;
    Ok(None)
}

fn folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from).join("vm")
}

/// Boots the guest; fails with all that it says unless every check is well and it came to its end.
fn boot(parts: &Parts, image: &Path, parameters: &str) -> Result<()> {
    let mut machine = Command::new("qemu-system-x86_64");
    machine.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048", "-nographic", "-no-reboot"]);
    machine.args(["-nodefaults", "-serial", "stdio", "-kernel"]).arg(&parts.kernel.image).arg("-initrd").arg(image);
    machine.args(["-append", &format!("console=ttyS0 quiet panic=-1 {parameters}")]);
    let said = guest::listen(machine, BOOT_MAX)?;
    let failed = said.iter().filter(|line| line.starts_with("FAILED: ")).count();
    let well = said.iter().filter(|line| line.starts_with("ok: ")).count();
    let ended = said.last().is_some_and(|line| line == "end");
    if ended && failed == 0 && well > 0 {
        println!("    {well} checks");
        return Ok(());
    }
    said.iter().for_each(|line| println!("    {line}"));
    bail!(
        "{failed} of {} checks failed in the guest{}",
        failed + well,
        if ended { "" } else { ", and it came to no end" }
    )
}
