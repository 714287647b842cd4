//! Kernel parameters under `/proc/sys`.

use std::io;
use std::path::{Path, PathBuf};

/// A parameter that could not be set.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {key}={value} ({}): {cause}", path.display())]
pub struct SysctlError {
    pub key: String,
    pub value: String,
    pub path: PathBuf,
    #[source]
    pub cause: io::Error,
}

/// Sets a parameter, named as `sysctl(8)` names it with slashes (`net/ipv4/ip_forward`), unless it has that value already:
/// in a container `/proc/sys` may be read-only and yet hold what is needed.
pub fn set(key: &str, value: &str) -> Result<(), SysctlError> {
    let path = Path::new("/proc/sys").join(key);
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|cause| SysctlError {
        key: key.replace('/', "."),
        value: value.to_owned(),
        path,
        cause,
    })
}

/// Reads a parameter.
pub fn get(key: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(Path::new("/proc/sys").join(key))?.trim().to_owned())
}
