//! The guest's memory image, and what the guest says.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use anyhow::{Context, Result};

use super::Parts;
use crate::process::{command, run_command};

const INIT: &str = include_str!("init.sh");

/// Packs Kybern, kubectl, busybox and the modules into an initial memory file system.
pub(super) fn build(folder: &Path, parts: &Parts) -> Result<PathBuf> {
    let root = folder.join("guest");
    let _ = fs::remove_dir_all(&root);
    for directory in ["bin", "sbin"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).context("cannot copy busybox")?;
    fs::copy(&parts.kybern, root.join("kybern")).context("cannot copy kybern")?;
    fs::copy(&parts.kubectl, root.join("kubectl")).context("cannot copy kubectl")?;
    // Where the kernel looks when something needs a module.
    symlink("/bin/busybox", root.join("sbin/modprobe"))?;
    fs::write(root.join("init"), INIT)?;
    for program in ["bin/busybox", "kybern", "kubectl", "init"] {
        fs::set_permissions(root.join(program), fs::Permissions::from_mode(0o755))?;
    }
    parts.kernel.install_modules(&root)?;
    let image = folder.join("guest.cpio");
    let mut pack = command(&["sh", "-c", "find . | busybox cpio -o -H newc > \"$0\""]);
    run_command(pack.arg(&image).current_dir(&root).stderr(Stdio::null()))?;
    Ok(image)
}

/// Runs the machine to its end, but no longer than `limit`; answers the lines of its console, the last being `end` where the
/// guest came to it.
pub(super) fn listen(mut machine: Command, limit: Duration) -> Result<Vec<String>> {
    let mut child = machine.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start the emulator")?;
    let console = BufReader::new(child.stdout.take().context("the console is a pipe")?);
    let child = Arc::new(Mutex::new(child));
    let (ended, end) = mpsc::channel::<()>();
    let watchdog = {
        let child = child.clone();
        std::thread::spawn(move || {
            if end.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = child.lock().expect("nobody panics with it").kill();
            }
        })
    };
    let mut said = Vec::new();
    for line in console.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
        said.push(line);
        if said.last().is_some_and(|line| line == "end") {
            break;
        }
    }
    drop(ended);
    watchdog.join().ok().context("the watchdog panicked")?;
    let mut child = child.lock().expect("nobody panics with it");
    let _ = child.kill();
    child.wait()?;
    Ok(said)
}
