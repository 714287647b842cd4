//! A process of a container, from the fork to `exec`.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use kybern_linux::cgroup::Cgroups;
use kybern_linux::{capability, mount, process, seccomp};
use rustix::fs::{Mode, OFlags};

use super::creds::{self, Credentials};
use super::protocol::{Inbox, send_message};
use super::rootfs;
use crate::spec::{LaunchSpec, PidNamespace, ProcessSpec};

/// How long a child may take from its fork to `exec`: a mount of a dead server must not block the pod for ever.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(120);

/// The container's ends of its streams; none of them with a terminal.
pub(super) struct ChildStreams {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    pub(super) tty: bool,
}

pub(super) struct Launched {
    pub(super) pid: i32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The terminal's controlling side.
    pub(super) terminal: Option<OwnedFd>,
}

/// What a child tells its parent before it becomes the program; the end of the stream means that it has.
#[derive(serde::Serialize, serde::Deserialize)]
enum Report {
    User {
        uid: u32,
        gid: u32,
    },
    /// Comes with a descriptor.
    Terminal,
    Failed {
        message: String,
    },
}

/// Where a child is born.
pub(super) struct Birth<'a> {
    /// New namespaces, `CLONE_NEW*`.
    pub(super) flags: i32,
    /// A process whose pid namespace the child joins.
    pub(super) pid_namespace_of: Option<&'a OwnedFd>,
    pub(super) own_pidfd: &'a OwnedFd,
    pub(super) cgroups: &'a Cgroups,
    pub(super) cgroup: &'a str,
    pub(super) oom_score_adj: Option<i64>,
}

/// Starts a container's first process.
pub(super) fn start(spec: &LaunchSpec, birth: Birth<'_>, streams: ChildStreams) -> Result<Launched, String> {
    let cgroups = birth.cgroups;
    fork(birth, |report| {
        prepare_streams(&streams)?;
        if matches!(cgroups, Cgroups::V2(_)) {
            process::unshare(process::CLONE_NEWCGROUP).map_err(|error| format!("new cgroup namespace: {error}"))?;
        }
        rootfs::enter(spec, cgroups)?;
        if streams.tty {
            open_terminal(report, true, spec.process.terminal_size)?;
        }
        become_program(&spec.process, report)
    })
}

/// Starts a further process in a running container. `pidfd` is the container's first process.
pub(super) fn exec(
    spec: &ProcessSpec,
    pidfd: &OwnedFd,
    birth: Birth<'_>,
    streams: ChildStreams,
) -> Result<Launched, String> {
    let mut namespaces = process::CLONE_NEWNS;
    if matches!(birth.cgroups, Cgroups::V2(_)) {
        namespaces |= process::CLONE_NEWCGROUP;
    }
    fork(birth, |report| {
        prepare_streams(&streams)?;
        process::join_namespaces(pidfd, namespaces)
            .map_err(|error| format!("join the container's namespaces: {error}"))?;
        std::env::set_current_dir("/").map_err(|error| format!("chdir to the container's root: {error}"))?;
        if streams.tty {
            open_terminal(report, false, spec.terminal_size)?;
        }
        become_program(spec, report)
    })
}

/// The parts of a launch that are the same for all: the fork, the wait for the parent, and the parent's side.
fn fork(birth: Birth<'_>, child: impl FnOnce(BorrowedFd<'_>) -> Result<(), String>) -> Result<Launched, String> {
    let wrap = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let (parent_end, child_end) = UnixStream::pair().map_err(wrap("socketpair"))?;
    if let Some(pidfd) = birth.pid_namespace_of {
        process::join_namespaces(pidfd, process::CLONE_NEWPID).map_err(wrap("join the pid namespace"))?;
    }
    let forked = process::fork(birth.flags, || {
        // The parent puts this process into its groups first.
        if !matches!((&child_end).read(&mut [0]), Ok(1)) {
            return 1;
        }
        process::reset_signals();
        process::allow_huge_pages(true);
        let _ = rustix::process::setsid();
        if let Err(message) = child(child_end.as_fd()) {
            let _ = send_message(child_end.as_fd(), &Report::Failed { message }, &[]);
        }
        1
    });
    if birth.pid_namespace_of.is_some() {
        process::join_namespaces(birth.own_pidfd, process::CLONE_NEWPID)
            .map_err(wrap("return to the own pid namespace"))?;
    }
    drop(child_end);
    let pid = forked.map_err(wrap("fork"))?;
    let mut launched = Launched { pid, uid: 0, gid: 0, terminal: None };
    let result = birth
        .cgroups
        .add_process(birth.cgroup, pid)
        .map_err(wrap("enter the control group"))
        .map(|()| set_oom_score(pid, birth.oom_score_adj))
        .and_then(|()| io::Write::write_all(&mut (&parent_end), &[1]).map_err(wrap("release the child")))
        .and_then(|()| follow(&parent_end, &mut launched));
    match result {
        Ok(()) => Ok(launched),
        Err(message) => {
            let _ = process::kill(pid, sigkill());
            // Reaped by the server's loop as an unknown child.
            Err(message)
        }
    }
}

fn sigkill() -> i32 {
    rustix::process::Signal::KILL.as_raw()
}

/// Without the privilege to lower it, the value stays: said once, since it would be so for every container.
fn set_oom_score(pid: i32, value: Option<i64>) {
    static SAID: std::sync::Once = std::sync::Once::new();
    if let Some(value) = value
        && let Err(error) = std::fs::write(format!("/proc/{pid}/oom_score_adj"), value.to_string())
    {
        SAID.call_once(|| super::say(format_args!("cannot set oom_score_adj to {value}: {error}")));
    }
}

/// Reads the child's reports until it has become its program or failed.
fn follow(socket: &UnixStream, launched: &mut Launched) -> Result<(), String> {
    let wrap = |error: io::Error| format!("follow the start: {error}");
    socket.set_read_timeout(Some(LAUNCH_TIMEOUT)).map_err(wrap)?;
    let mut inbox = Inbox::default();
    loop {
        let more = match inbox.receive(socket.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(format!("the process did not start within {} s", LAUNCH_TIMEOUT.as_secs()));
            }
            other => other.map_err(wrap)?,
        };
        while let Some(report) = inbox.next::<Report>().map_err(wrap)? {
            match report {
                Report::User { uid, gid } => (launched.uid, launched.gid) = (uid, gid),
                Report::Terminal => launched.terminal = inbox.fds.pop(),
                Report::Failed { message } => return Err(message),
            }
        }
        if !more {
            return Ok(());
        }
    }
}

fn prepare_streams(streams: &ChildStreams) -> Result<(), String> {
    if streams.tty {
        return Ok(());
    }
    let set = || -> io::Result<()> {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
        for (stream, number) in [(&streams.stdin, 0), (&streams.stdout, 1), (&streams.stderr, 2)] {
            match stream {
                Some(fd) => process::redirect(fd, number)?,
                None => process::redirect(&null, number)?,
            }
        }
        Ok(())
    };
    set().map_err(|error| format!("set up the standard streams: {error}"))
}

/// Makes a terminal in the container's own `/dev/pts`, takes it as the controlling one and hands its other side to the
/// parent. The first process's terminal is also `/dev/console`.
fn open_terminal(report: BorrowedFd<'_>, console: bool, size: Option<(u16, u16)>) -> Result<(), String> {
    let open = || -> io::Result<()> {
        let controller =
            rustix::fs::open("/dev/pts/ptmx", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::pty::unlockpt(&controller)?;
        let flags =
            rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
        let terminal = rustix::pty::ioctl_tiocgptpeer(&controller, flags)?;
        if console {
            let name = rustix::pty::ptsname(&controller, Vec::new())?;
            let tree = mount::open_tree(Path::new(name.to_str().unwrap_or_default()), false)?;
            let root = std::fs::File::open("/")?;
            let target = mount::create_in_root(root.as_fd(), Path::new("/dev/console"), false)?;
            mount::attach(tree.as_fd(), target.as_fd())?;
        }
        if let Some((ws_row, ws_col)) = size {
            let size = rustix::termios::Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
            rustix::termios::tcsetwinsize(&controller, size)?;
        }
        rustix::process::ioctl_tiocsctty(&terminal)?;
        for number in 0..3 {
            process::redirect(&terminal, number)?;
        }
        send_message(report, &Report::Terminal, &[controller.as_fd()])
    };
    open().map_err(|error| format!("open a terminal: {error}"))
}

/// The last steps, inside the container's root: from root with every capability to the program's user with its own.
fn become_program(spec: &ProcessSpec, report: BorrowedFd<'_>) -> Result<(), String> {
    let wrap = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let who = creds::resolve(&spec.user, &creds::read_file("/etc/passwd"), &creds::read_file("/etc/group"))?;
    send_message(report, &Report::User { uid: who.uid, gid: who.gid }, &[]).map_err(wrap("report the user"))?;
    for (name, soft, hard) in &spec.rlimits {
        process::set_rlimit(name, *soft, *hard).map_err(|error| format!("set the limit {name}: {error}"))?;
    }
    let cwd = if spec.cwd.is_empty() { "/" } else { &spec.cwd };
    give_streams(&who);

    let program: Vec<seccomp::Instruction> = spec
        .seccomp
        .iter()
        .map(|&(code, jump_true, jump_false, value)| seccomp::Instruction { code, jump_true, jump_false, value })
        .collect();
    let filter = || if program.is_empty() { Ok(()) } else { seccomp::install(&program) };
    let permitted = capability::permitted().map_err(wrap("read capabilities"))?;
    let mask = spec.capabilities & permitted;
    capability::limit_bounding(mask).map_err(wrap("limit the bounding set"))?;
    if !spec.no_new_privs {
        // Installing a filter without no-new-privileges takes CAP_SYS_ADMIN, which is about to go.
        filter().map_err(wrap("install the seccomp filter"))?;
    }
    take_identity(&who, mask).map_err(wrap("change the user"))?;
    if spec.no_new_privs {
        rustix::thread::set_no_new_privs(true).map_err(|error| format!("set no_new_privs: {error}"))?;
        filter().map_err(wrap("install the seccomp filter"))?;
    }
    std::env::set_current_dir(cwd)
        .map_err(|error| format!("chdir to cwd ({cwd:?}) set in config.json failed: {error}"))?;

    let mut env = spec.env.clone();
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={}", who.home));
    }
    let name = spec.args.first().ok_or("no command specified")?;
    let path = find_program(name, &env, cwd)?;
    let program = process::Program::new(&path, &spec.args, &env)
        .map_err(|_| format!("exec {name:?}: an argument contains a NUL byte"))?;
    Err(format!("exec {path}: {}", os_text(&program.exec())))
}

/// The standard streams belong to the user, so that `/dev/stdout` can be opened anew.
fn give_streams(who: &Credentials) {
    if who.uid != 0 {
        for stream in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
            let owned = rustix::fs::fstat(stream)
                .is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode) == rustix::fs::FileType::Fifo);
            if owned || rustix::termios::isatty(stream) {
                let _ = rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(who.uid)), None);
            }
        }
    }
}

fn take_identity(who: &Credentials, mask: u64) -> io::Result<()> {
    use rustix::thread::{Gid, Uid};
    rustix::thread::set_keep_capabilities(true)?;
    let groups: Vec<Gid> = who.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    let (uid, gid) = (Uid::from_raw(who.uid), Gid::from_raw(who.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    rustix::thread::set_keep_capabilities(false)?;
    capability::apply(mask)
}

/// Finds a command the way Go's `exec.LookPath` does, with its error texts, which users know.
fn find_program(name: &str, env: &[String], cwd: &str) -> Result<String, String> {
    let fail = |reason: &str| format!("exec: {name:?}: {reason}");
    let path = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
    if name.contains('/') {
        return match runnable(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(fail(&format!("stat {name}: no such file or directory")))
            }
            Err(error) => Err(fail(&os_text(&error))),
        };
    }
    let mut denied = false;
    for dir in path.split(':') {
        let dir = if dir.is_empty() { cwd } else { dir };
        let candidate = format!("{}/{name}", dir.trim_end_matches('/'));
        match runnable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => denied = true,
            Err(_) => {}
        }
    }
    Err(fail(if denied { "permission denied" } else { "executable file not found in $PATH" }))
}

fn runnable(path: &str) -> io::Result<()> {
    if std::fs::metadata(path)?.is_dir() {
        return Err(rustix::io::Errno::ISDIR.into());
    }
    Ok(rustix::fs::access(path, rustix::fs::Access::EXEC_OK)?)
}

/// The system's text for an error, in the form Go prints it: lower case, without the number.
fn os_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// The `CLONE_NEW*` flags of a container's first process.
pub(super) fn namespace_flags(pid: PidNamespace) -> i32 {
    process::CLONE_NEWNS | if pid == PidNamespace::Private { process::CLONE_NEWPID } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_as_go_finds_them() {
        let env = vec!["PATH=/nowhere:/bin".to_owned()];
        assert_eq!(find_program("sh", &env, "/").as_deref(), Ok("/bin/sh"));
        assert_eq!(find_program("/bin/sh", &env, "/").as_deref(), Ok("/bin/sh"));
        for (name, text) in [
            ("no-such", "exec: \"no-such\": executable file not found in $PATH"),
            ("/no-such", "exec: \"/no-such\": stat /no-such: no such file or directory"),
            ("/etc", "exec: \"/etc\": is a directory"),
            ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
        ] {
            assert_eq!(find_program(name, &env, "/"), Err(text.to_owned()));
        }
    }
}
