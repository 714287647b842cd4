//! Seccomp filters (seccomp(2)): a profile of rules compiled to classic BPF, and the `RuntimeDefault` profile.

mod compile;
mod runtime_default;
mod syscalls;

pub use compile::{Instruction, compile};
pub use runtime_default::runtime_default;
pub use syscalls::number;

use std::io;

/// What happens to a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Allow,
    /// Fails with this errno.
    Errno(u16),
    KillThread,
    KillProcess,
    Trap,
    /// Allowed, and logged by the kernel.
    Log,
    /// Hands over to a tracer.
    Trace(u16),
}

/// A test of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// 0 to 5.
    pub argument: u8,
    pub comparison: Comparison,
    pub value: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    /// The argument, masked with this, equals the value.
    MaskedEqual(u64),
}

/// A system call and what happens to it when all conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub syscall: u32,
    pub action: Action,
    pub conditions: Vec<Condition>,
}

/// Of the rules for one system call the first whose conditions hold decides; without one, `default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    pub default: Action,
    pub rules: Vec<Rule>,
}

/// Puts the filter on the calling process (of one thread), for good. Needs `CAP_SYS_ADMIN` or no-new-privileges.
pub fn install(program: &[Instruction]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr() as *mut libc::sock_filter };
    // SAFETY: Instruction has sock_filter's layout, and the kernel copies the program before the call returns.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program as *const libc::sock_fprog)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
