//! Capabilities (capabilities(7)) by name and as sets.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets};

/// Every capability, at the index that is its number.
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container gets that asks for nothing (containerd's and Docker's default list).
pub const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A set of capabilities, one bit each.
pub type Mask = u64;

/// The bit of a capability, named with or without `CAP_`, in any case.
pub fn bit(name: &str) -> Option<Mask> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|n| *n == short).map(|i| 1 << i)
}

pub const ALL: Mask = (1 << NAMES.len()) - 1;

/// The set that `add` and `drop` make of `base` (CRI's rule: `ALL` first, then single names; a drop wins over the base,
/// an added name over `drop: ALL`). Answers the unknown name on failure.
pub fn resolve(base: Mask, add: &[String], drop: &[String]) -> Result<Mask, String> {
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let mask_of = |names: &[String]| {
        names
            .iter()
            .filter(|n| !is_all(n))
            .try_fold(0, |mask, name| bit(name).map(|b| mask | b).ok_or_else(|| name.clone()))
    };
    let mut mask = base;
    if add.iter().any(is_all) {
        mask = ALL;
    }
    if drop.iter().any(is_all) {
        mask = 0;
    }
    Ok((mask | mask_of(add)?) & !mask_of(drop)?)
}

/// The default set as a mask.
pub fn default_mask() -> Mask {
    DEFAULT.iter().filter_map(|name| bit(name)).fold(0, |mask, b| mask | b)
}

/// What this process may hand on: its permitted set.
pub fn permitted() -> io::Result<Mask> {
    Ok(rustix::thread::capabilities(None)?.permitted.bits())
}

/// What this process may do now: its effective set.
pub fn effective() -> io::Result<Mask> {
    Ok(rustix::thread::capabilities(None)?.effective.bits())
}

/// Takes everything outside `mask` out of the bounding set.
pub fn limit_bounding(mask: Mask) -> io::Result<()> {
    for i in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << i);
        match rustix::thread::capability_is_in_bounding_set(one) {
            Ok(true) if mask & (1 << i) == 0 => rustix::thread::remove_capability_from_bounding_set(one)?,
            Ok(_) => {}
            // Past the last capability this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Makes `mask` the permitted and effective set, with nothing inheritable or ambient.
pub fn apply(mask: Mask) -> io::Result<()> {
    let _ = rustix::thread::clear_ambient_capability_set();
    let set = CapabilitySet::from_bits_retain(mask);
    let sets = CapabilitySets { effective: set, permitted: set, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], expect: &[&str]) {
        let owned = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let expect = expect.iter().map(|n| bit(n).unwrap()).fold(0, |a, b| a | b);
        assert_eq!(resolve(default_mask(), &owned(add), &owned(drop)).unwrap(), expect, "add {add:?} drop {drop:?}");
    }

    #[test]
    fn add_and_drop() {
        check(&[], &["ALL"], &[]);
        check(&["NET_BIND_SERVICE"], &["ALL"], &["NET_BIND_SERVICE"]);
        check(&["CAP_SYS_ADMIN"], &["all"], &["SYS_ADMIN"]);
        check(&["ALL"], &[], &NAMES);
        let without_raw: Vec<&str> = DEFAULT.iter().copied().filter(|n| *n != "NET_RAW").collect();
        check(&[], &["NET_RAW"], &without_raw);
        assert_eq!(resolve(0, &["BOGUS".into()], &[]), Err("BOGUS".into()));
        assert_eq!(default_mask(), 0xa80425fb);
    }
}
