//! Processes: a fork with namespaces, waiting, and the last steps before `exec`.

use std::ffi::{CString, NulError};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

pub use libc::{CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS};

/// Forks, with the namespaces in `flags` (`CLONE_NEW*`) made anew for the child, and runs `child` in it; what `child`
/// returns is the exit status. Answers the child's pid.
///
/// # Errors
/// `Unsupported` when the calling process has more than one thread: only a single-threaded process can go on running
/// ordinary code after a fork, because no other thread can have held a lock.
pub fn fork(flags: libc::c_int, child: impl FnOnce() -> i32) -> io::Result<i32> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "fork needs a single-threaded process"));
    }
    // SAFETY: clone_args is plain data; all zeroes is its documented default.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM and with no stack given, clone3 behaves like fork; the process is single-threaded.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone3, &args as *const libc::clone_args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(1);
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(status) }
        }
        pid => Ok(pid as i32),
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exited {
    pub pid: i32,
    /// The exit status, or 128 plus the number of the signal that killed it.
    pub code: i32,
}

/// Reaps one child that has ended, if there is one.
pub fn reap() -> Option<Exited> {
    loop {
        match rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let code = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => code,
                    (None, Some(signal)) => 128 + signal,
                    (None, None) => continue,
                };
                return Some(Exited { pid: pid.as_raw_nonzero().get(), code });
            }
            Err(rustix::io::Errno::INTR) => continue,
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Blocks `SIGCHLD` for the process and answers a descriptor that is readable whenever one is pending.
pub fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before use; the descriptor returned is new and owned by nobody else.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Gives every signal its default action and unblocks all: what a program expects to start with.
pub fn reset_signals() {
    // SAFETY: SIG_DFL is a valid disposition; failures (SIGKILL, SIGSTOP, the C library's own) are harmless.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

/// Lets a program that prints end quietly when nobody reads on, as the others in a pipe do. Rust ignores SIGPIPE.
pub fn end_with_the_reader() {
    // SAFETY: SIG_DFL is a valid disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Whether this process, and what it starts, may get huge pages unasked, as many kernels give them. Small programs only hold
/// more memory with them.
pub fn allow_huge_pages(allow: bool) {
    // A kernel that knows no huge pages refuses: it gives none.
    let _ = rustix::thread::disable_transparent_huge_pages(!allow);
}

/// The duty of process 1 of a pid namespace that does nothing else: reap orphans until told to end (`SIGTERM`, `SIGINT`).
pub fn pause() -> ! {
    // SAFETY: the set is initialised before use; sigwaitinfo may be given a null info.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT] {
            libc::sigaddset(&mut set, signal);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
        loop {
            while reap().is_some() {}
            if matches!(libc::sigwaitinfo(&set, std::ptr::null_mut()), libc::SIGTERM | libc::SIGINT) {
                libc::_exit(0);
            }
        }
    }
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: u32) {
    // SAFETY: only ever called in a forked child that uses no descriptor above `first` any more.
    unsafe {
        libc::close_range(first, libc::c_uint::MAX, 0);
    }
}

/// Makes `from` the descriptor `to` (0, 1 or 2), open across `exec`.
pub fn redirect(from: &impl AsRawFd, to: RawFd) -> io::Result<()> {
    // SAFETY: both are plain descriptor numbers; the standard streams are not owned by any Rust object.
    if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Strings made ready for `execve`.
pub struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    pub fn new(path: &str, args: &[String], env: &[String]) -> Result<Program, NulError> {
        let owned = |list: &[String]| list.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>();
        Ok(Program { path: CString::new(path)?, args: owned(args)?, env: owned(env)? })
    }

    /// Replaces this process; comes back only with the reason it could not.
    pub fn exec(&self) -> io::Error {
        let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
            list.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
        };
        let (args, env) = (pointers(&self.args), pointers(&self.env));
        // SAFETY: both arrays end in a null pointer and their strings outlive the call.
        unsafe { libc::execve(self.path.as_ptr(), args.as_ptr(), env.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// The number of a signal by its name (`SIGTERM`, `TERM`, `SIGRTMIN+3`) or number.
pub fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.trim().to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = short.strip_prefix("RTMIN") {
        let offset: i32 = if rest.is_empty() { 0 } else { rest.strip_prefix('+')?.parse().ok()? };
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    if let Some(rest) = short.strip_prefix("RTMAX") {
        let offset: i32 = if rest.is_empty() { 0 } else { rest.strip_prefix('-')?.parse().ok()? };
        return (0..=30).contains(&offset).then_some(64 - offset);
    }
    SIGNALS.iter().find(|(n, _)| *n == short).map(|(_, number)| *number)
}

/// signal(7), without the prefix.
const SIGNALS: [(&str, i32); 34] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("IOT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// Sends a signal by number. `Ok(false)` when there is no such process any more.
pub fn kill(pid: i32, signal: i32) -> io::Result<bool> {
    // SAFETY: kill takes plain numbers.
    if unsafe { libc::kill(pid, signal) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) { Ok(false) } else { Err(error) }
}

/// Kills the process group of a child that has not been waited for.
pub fn kill_group(leader: u32) -> io::Result<bool> {
    let group = i32::try_from(leader).map_err(io::Error::other)?;
    kill(-group, libc::SIGKILL)
}

/// A process that need not be a child. It is the same one for as long as this lives, even when its number goes to another.
/// The descriptor is readable once the process has ended.
#[derive(Debug)]
pub struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    /// `None` when there is no such process.
    pub fn open(pid: u32) -> io::Result<Option<Self>> {
        use rustix::process::{Pid, PidfdFlags, pidfd_open};
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => Ok(None),
            opened => Ok(Some(Self(opened?))),
        }
    }

    /// Whether the process has ended within this time.
    pub fn ends_within(&self, patience: std::time::Duration) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let wait = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
        Ok(poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&wait))? > 0)
    }
}

impl AsRawFd for ProcessHandle {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Ends a process that need not be a child: SIGTERM, and SIGKILL if it is still there after `patience`. Succeeds when there
/// is no such process.
pub fn terminate(pid: u32, patience: std::time::Duration) -> io::Result<()> {
    use rustix::process::{Signal, pidfd_send_signal};
    let Some(process) = ProcessHandle::open(pid)? else { return Ok(()) };
    for (signal, wait) in [(Signal::TERM, patience), (Signal::KILL, std::time::Duration::from_secs(10))] {
        match pidfd_send_signal(&process.0, signal) {
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            sent => sent?,
        }
        if process.ends_within(wait)? {
            return Ok(());
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "it does not end, even by SIGKILL"))
}

/// Lets the program run in a session of its own (`setsid(2)`), so that it outlives the terminal it is started from.
pub fn in_own_session(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let leave = || rustix::process::setsid().map(drop).map_err(io::Error::from);
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(leave) };
}

/// Sets soft and hard limit of a resource by its name without prefix (`NOFILE`). `InvalidInput` for an unknown name.
pub fn set_rlimit(name: &str, soft: u64, hard: u64) -> io::Result<()> {
    let short = name.trim_start_matches("RLIMIT_");
    let resource = match short {
        "CPU" => libc::RLIMIT_CPU,
        "FSIZE" => libc::RLIMIT_FSIZE,
        "DATA" => libc::RLIMIT_DATA,
        "STACK" => libc::RLIMIT_STACK,
        "CORE" => libc::RLIMIT_CORE,
        "RSS" => libc::RLIMIT_RSS,
        "NPROC" => libc::RLIMIT_NPROC,
        "NOFILE" => libc::RLIMIT_NOFILE,
        "MEMLOCK" => libc::RLIMIT_MEMLOCK,
        "AS" => libc::RLIMIT_AS,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("unknown resource limit {name:?}"))),
    };
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` outlives the call.
    if unsafe { libc::setrlimit(resource, &limit) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Joins namespaces of the process behind `pidfd` (`setns(2)` with several `CLONE_NEW*` flags, Linux 5.8).
/// `CLONE_NEWPID` takes effect for children only.
pub fn join_namespaces(pidfd: &OwnedFd, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: setns takes a descriptor and flags.
    if unsafe { libc::setns(pidfd.as_raw_fd(), flags) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes namespaces anew for the calling thread (`unshare(2)` with `CLONE_NEW*` or `CLONE_FS` flags).
pub fn unshare(flags: libc::c_int) -> io::Result<()> {
    if flags & (libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_SIGHAND) != 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: namespace flags and CLONE_FS change what names mean for this thread, not memory or descriptors.
    if unsafe { libc::unshare(flags) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the calling thread a root and working directory of its own (`CLONE_FS`), which it can then change alone.
pub fn unshare_directory() -> io::Result<()> {
    unshare(libc::CLONE_FS)
}

/// Joins the namespace behind an open `/proc/<pid>/ns/*` file or bind mount of one.
pub fn join_namespace(file: &File, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: setns takes a descriptor and flags.
    if unsafe { libc::setns(file.as_raw_fd(), kind) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_tells_when_its_process_has_ended() {
        use std::time::Duration;
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let handle = ProcessHandle::open(child.id()).unwrap().unwrap();
        assert!(!handle.ends_within(Duration::ZERO).unwrap());
        drop(child.stdin.take());
        assert!(handle.ends_within(Duration::from_secs(60)).unwrap(), "cat ends with its input");
        child.wait().unwrap();
        assert!(ProcessHandle::open(child.id()).unwrap().is_none());
    }

    #[test]
    fn a_program_in_a_session_of_its_own() {
        let mut command = std::process::Command::new("sh");
        in_own_session(command.args(["-c", "cut -d' ' -f6 /proc/$$/stat; echo $$"]));
        let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let (session, pid) = text.trim().split_once('\n').unwrap();
        assert_eq!(session, pid);
    }

    #[test]
    fn signals_by_name() {
        for (name, expect) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("SIGNONE", None),
            ("0", None),
            ("65", None),
        ] {
            assert_eq!(signal_number(name), expect, "{name}");
        }
    }

    #[test]
    fn a_threaded_process_cannot_fork() {
        // Tests run on threads of their own.
        assert_eq!(fork(0, || 0).unwrap_err().kind(), io::ErrorKind::Unsupported);
    }
}
