//! The shim: one small single-threaded process per pod, the same executable as Kybern, that holds the pod's namespaces,
//! starts its containers, owns their streams, writes their logs and reaps them. It outlives Kybern.

pub(crate) mod client;
mod creds;
mod launch;
mod log;
pub(crate) mod protocol;
mod rootfs;
mod server;
mod streams;

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use kybern_linux::process;

use crate::disk;
use crate::spec::ShimSpec;

/// The name of the command that the executable must route to [`shim_main`].
pub const SHIM_COMMAND: &str = "shim";

pub(crate) const SOCKET: &str = "shim.sock";
pub(crate) const SHIM_SPEC: &str = "shim.json";
pub(crate) const SHIM_PID: &str = "shim.pid";
pub(crate) const CONTAINERS: &str = "containers";
pub(crate) const LAUNCH_SPEC: &str = "launch.json";
pub(crate) const RUN_STATE: &str = "run.json";

/// What a pod's network allows every user, as containerd 2 and Docker have it: ports below 1024 and pings. The pod's own
/// sysctls come after.
const NETWORK_SYSCTLS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// Says something in the shim's log. Not with `eprintln!`: that panics where the log's disk is full, and the pod would end.
fn say(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "shim: {text}");
}

/// Runs the shim of one sandbox; `args` is what follows the command: the sandbox's directory. Must be called before the
/// process has made a second thread. Says `ok` or what went wrong on standard output, which it then closes.
pub fn shim_main(args: &[std::ffi::OsString]) -> ! {
    let Some(dir) = args.first().map(PathBuf::from) else {
        eprintln!("usage: kybern shim <sandbox directory> (started by the container runtime)");
        std::process::exit(2);
    };
    match prepare(&dir) {
        Ok(server) => {
            let mut out = io::stdout();
            let said = out.write_all(b"ok").and_then(|()| out.flush());
            if said.is_err() || detach_stdout().is_err() {
                std::process::exit(1);
            }
            match server.run() {
                Ok(()) => std::process::exit(0),
                Err(error) => {
                    say(format_args!("{error}"));
                    std::process::exit(1)
                }
            }
        }
        Err(error) => {
            print!("{error}");
            let _ = io::stdout().flush();
            std::process::exit(1)
        }
    }
}

fn detach_stdout() -> io::Result<()> {
    process::redirect(&std::fs::File::options().write(true).open("/dev/null")?, 1)
}

fn prepare(dir: &Path) -> io::Result<server::Server> {
    kybern_linux::files::set_umask();
    let spec: ShimSpec = disk::read_json(&dir.join(SHIM_SPEC))?;
    // Not a member of Kybern's session any more: a signal to its process group does not reach the shim.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"kybern-shim");
    std::env::set_current_dir("/")?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let signals = process::child_signals()?;
    let mut flags = 0;
    if let Some(netns) = &spec.netns {
        let file = std::fs::File::open(netns).map_err(|error| disk::named(error, netns))?;
        process::join_namespace(&file, process::CLONE_NEWNET)?;
    }
    if !spec.host_ipc {
        flags |= process::CLONE_NEWIPC;
    }
    if spec.hostname.is_some() {
        flags |= process::CLONE_NEWUTS;
    }
    if flags != 0 {
        process::unshare(flags)?;
    }
    if let Some(hostname) = &spec.hostname {
        rustix::system::sethostname(hostname.as_bytes())?;
    }
    if spec.netns.is_some() {
        for (name, value) in NETWORK_SYSCTLS {
            if let Err(error) = set_sysctl(name, value) {
                say(format_args!("{error}"));
            }
        }
    }
    for (name, value) in &spec.sysctls {
        set_sysctl(name, value)?;
    }
    let pause = if spec.shared_pid { Some(start_pause()?) } else { None };
    let listener = listen(dir)?;
    disk::replace(&dir.join(SHIM_PID), std::process::id().to_string().as_bytes(), false)?;
    server::Server::new(dir.to_path_buf(), listener, signals, pause)
}

/// Sysctls of namespaces are seen through the opener's namespaces, so the shim writes them after entering its own.
fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    if name.contains("..") || name.starts_with('/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid sysctl name {name:?}")));
    }
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    std::fs::write(&path, value).map_err(|error| disk::named(error, &path))
}

/// Process 1 of the pid namespace that the pod's containers share. It dies with the shim.
fn start_pause() -> io::Result<i32> {
    process::fork(process::CLONE_NEWPID, || {
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        let _ = rustix::thread::set_name(c"pause");
        process::close_from(0);
        process::reset_signals();
        process::pause()
    })
}

fn listen(dir: &Path) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
    let _ = std::fs::remove_file(dir.join(SOCKET));
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let dir = std::fs::File::open(dir)?;
    bind(&socket, &SocketAddrUnix::new(protocol::socket_path(dir.as_fd()))?)?;
    listen(&socket, 64)?;
    Ok(socket)
}
