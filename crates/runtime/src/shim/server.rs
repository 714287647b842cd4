//! The shim's event loop: requests, streams and exits, one at a time.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use kybern_linux::cgroup::Cgroups;
use kybern_linux::process;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, Signal, pidfd_open};

use super::launch::{self, Birth, ChildStreams};
use super::log::LogFile;
use super::protocol::{Inbox, Reply, Request, send_message};
use super::streams::{Source, Streams};
use super::{CONTAINERS, LAUNCH_SPEC, RUN_STATE};
use crate::disk;
use crate::spec::{ExitState, LaunchSpec, PidNamespace, ProcessSpec, RunState, now_ns};

/// A client.
struct Connection {
    id: u64,
    socket: OwnedFd,
    inbox: Inbox,
    subscribed: bool,
    /// The process whose exit this connection waits for.
    exec: Option<i32>,
    /// The container this connection is attached to.
    attached: Option<String>,
    closed: bool,
}

struct Container {
    cgroup: String,
    pid_namespace: PidNamespace,
    oom_score_adj: Option<i64>,
    stdin_once: bool,
    pidfd: OwnedFd,
    state: RunState,
    streams: Streams,
}

pub(super) struct Server {
    dir: PathBuf,
    listener: OwnedFd,
    signals: OwnedFd,
    /// Process 1 of the shared pid namespace.
    pause: Option<(i32, OwnedFd)>,
    own_pidfd: OwnedFd,
    cgroups: Cgroups,
    connections: Vec<Connection>,
    next_connection: u64,
    containers: BTreeMap<String, Container>,
    stopping: bool,
}

/// What a descriptor in the poll set stands for.
enum Token {
    Listener,
    Signals,
    Connection(u64),
    Output(String, Source),
    Attached(String),
}

fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

impl Server {
    pub(super) fn new(dir: PathBuf, listener: OwnedFd, signals: OwnedFd, pause: Option<i32>) -> io::Result<Server> {
        Ok(Server {
            dir,
            listener,
            signals,
            pause: pause.map(|pid| pidfd(pid).map(|fd| (pid, fd))).transpose()?,
            own_pidfd: pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?,
            cgroups: Cgroups::detect()?,
            connections: Vec::new(),
            next_connection: 0,
            containers: BTreeMap::new(),
            stopping: false,
        })
    }

    pub(super) fn run(mut self) -> io::Result<()> {
        while !self.stopping {
            for token in self.wait()? {
                match token {
                    Token::Listener => self.accept(),
                    Token::Signals => self.reap(),
                    Token::Connection(id) => self.serve(id),
                    Token::Output(name, source) => {
                        if let Some(container) = self.containers.get_mut(&name) {
                            container.streams.read(source);
                        }
                    }
                    Token::Attached(name) => {
                        if let Some(container) = self.containers.get_mut(&name) {
                            container.streams.flush();
                        }
                    }
                }
            }
            self.close_connections();
        }
        self.shut_down()
    }

    fn wait(&self) -> io::Result<Vec<Token>> {
        let mut tokens = vec![Token::Listener, Token::Signals];
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        for connection in &self.connections {
            tokens.push(Token::Connection(connection.id));
            fds.push(PollFd::new(&connection.socket, PollFlags::IN));
        }
        for (name, container) in &self.containers {
            for source in [Source::Stdout, Source::Stderr] {
                if let Some(fd) = container.streams.readable(source) {
                    tokens.push(Token::Output(name.clone(), source));
                    fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
                }
            }
            for fd in container.streams.writable() {
                tokens.push(Token::Attached(name.clone()));
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::OUT));
            }
        }
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        Ok(tokens.into_iter().zip(ready).filter(|(_, ready)| *ready).map(|(token, _)| token).collect())
    }

    fn accept(&mut self) {
        use rustix::net::{SocketFlags, accept_with};
        while let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            let id = self.next_connection;
            self.next_connection += 1;
            self.connections.push(Connection {
                id,
                socket,
                inbox: Inbox::default(),
                subscribed: false,
                exec: None,
                attached: None,
                closed: false,
            });
        }
    }

    /// Reads a connection's requests and answers them.
    fn serve(&mut self, id: u64) {
        let Some(connection) = self.connections.iter_mut().find(|c| c.id == id) else { return };
        match connection.inbox.receive(connection.socket.as_fd()) {
            Ok(true) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Ok(false) | Err(_) => connection.closed = true,
        }
        loop {
            let Some(connection) = self.connections.iter_mut().find(|c| c.id == id) else { return };
            match connection.inbox.next::<Request>() {
                Ok(Some(request)) => self.answer(id, request),
                Ok(None) => return,
                Err(_) => {
                    connection.closed = true;
                    return;
                }
            }
        }
    }

    fn answer(&mut self, id: u64, request: Request) {
        let mut fds: Vec<OwnedFd> = Vec::new();
        let reply = match request {
            Request::Start { container } => self.start(container),
            Request::Kill { container, signal, all } => self.kill(&container, signal, all),
            Request::Exec { container, process, tty, stdin } => {
                self.exec(id, &container, &process, tty, stdin, &mut fds)
            }
            Request::Attach { container, stdin, stdout, stderr } => {
                self.attach(id, &container, [stdin, stdout, stderr], &mut fds)
            }
            Request::CloseStdin => {
                self.close_stdin(id);
                Reply::Done
            }
            Request::ReopenLog { container } => match self.containers.get_mut(&container) {
                None => Reply::NotRunning,
                Some(container) => match container.streams.reopen_log() {
                    Ok(()) => Reply::Done,
                    Err(error) => Reply::Failed { message: error.to_string() },
                },
            },
            Request::Forget { container } => {
                if self.containers.get(&container).is_some_and(|c| c.state.exit.is_some()) {
                    self.containers.remove(&container);
                }
                Reply::Done
            }
            Request::Subscribe => {
                if let Some(connection) = self.connections.iter_mut().find(|c| c.id == id) {
                    connection.subscribed = true;
                }
                Reply::Done
            }
            Request::Shutdown => {
                self.stopping = true;
                Reply::Done
            }
        };
        self.send(id, &reply, &fds);
    }

    fn send(&mut self, id: u64, reply: &Reply, fds: &[OwnedFd]) {
        if let Some(connection) = self.connections.iter_mut().find(|c| c.id == id) {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            if send_message(connection.socket.as_fd(), reply, &fds).is_err() {
                connection.closed = true;
            }
        }
    }

    fn start(&mut self, name: String) -> Reply {
        if let Some(container) = self.containers.get(&name) {
            // Asked again, by a Kybern that was restarted in between.
            return Reply::Started { state: container.state.clone() };
        }
        match self.try_start(&name) {
            Ok(container) => {
                let state = container.state.clone();
                self.containers.insert(name, container);
                Reply::Started { state }
            }
            Err(message) => Reply::Failed { message },
        }
    }

    fn try_start(&mut self, name: &str) -> Result<Container, String> {
        let text = |error: io::Error| error.to_string();
        let dir = self.dir.join(CONTAINERS).join(name);
        let spec: LaunchSpec = disk::read_json(&dir.join(LAUNCH_SPEC)).map_err(text)?;
        let log = spec.log_path.clone().map(|path| LogFile::open(path, spec.log_rotation));
        let log = log.transpose().map_err(text)?;
        let (ours, theirs) = make_streams(spec.tty, spec.stdin).map_err(text)?;
        let pid_namespace_of = match spec.pid {
            PidNamespace::Pod => Some(&self.pause.as_ref().ok_or("the sandbox shares no pid namespace")?.1),
            PidNamespace::Target => {
                let target = self.containers.get(&spec.pid_target).filter(|c| c.state.exit.is_none());
                Some(&target.ok_or_else(|| format!("the target container {:?} is not running", spec.pid_target))?.pidfd)
            }
            PidNamespace::Private | PidNamespace::Host => None,
        };
        let launched = launch::start(
            &spec,
            Birth {
                flags: launch::namespace_flags(spec.pid),
                pid_namespace_of,
                own_pidfd: &self.own_pidfd,
                cgroups: &self.cgroups,
                cgroup: &spec.cgroup,
                oom_score_adj: spec.oom_score_adj,
            },
            theirs,
        )?;
        let (pid, cgroup) = (launched.pid, spec.cgroup.clone());
        take_on(spec, launched, ours, log, &dir).map_err(|error| {
            // Nobody would answer for it.
            let _ = process::kill(pid, Signal::KILL.as_raw());
            let _ = self.cgroups.kill(&cgroup, Signal::KILL.as_raw());
            error.to_string()
        })
    }

    fn kill(&mut self, name: &str, signal: i32, all: bool) -> Reply {
        let Some(container) = self.containers.get(name) else { return Reply::NotRunning };
        if container.state.exit.is_some() {
            return Reply::NotRunning;
        }
        let result = if all {
            self.cgroups.kill(&container.cgroup, signal)
        } else {
            process::kill(container.state.pid, signal).map(|_| ())
        };
        match result {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Failed { message: error.to_string() },
        }
    }

    fn exec(
        &mut self,
        id: u64,
        name: &str,
        process: &ProcessSpec,
        tty: bool,
        stdin: bool,
        fds: &mut Vec<OwnedFd>,
    ) -> Reply {
        let Some(container) = self.containers.get(name).filter(|c| c.state.exit.is_none()) else {
            return Reply::NotRunning;
        };
        let (ours, theirs) = match make_streams(tty, stdin) {
            Ok(pair) => pair,
            Err(error) => return Reply::Failed { message: error.to_string() },
        };
        let birth = Birth {
            flags: 0,
            pid_namespace_of: (container.pid_namespace != PidNamespace::Host).then_some(&container.pidfd),
            own_pidfd: &self.own_pidfd,
            cgroups: &self.cgroups,
            cgroup: &container.cgroup,
            oom_score_adj: container.oom_score_adj,
        };
        match launch::exec(process, &container.pidfd, birth, theirs) {
            Err(message) => Reply::Failed { message },
            Ok(launched) => {
                if let Some(connection) = self.connections.iter_mut().find(|c| c.id == id) {
                    connection.exec = Some(launched.pid);
                }
                match launched.terminal {
                    Some(terminal) => {
                        fds.push(terminal);
                        Reply::Streams { stdin: false, stdout: true, stderr: false }
                    }
                    None => {
                        let has_stdin = ours.stdin.is_some();
                        fds.extend([ours.stdin, ours.stdout, ours.stderr].into_iter().flatten());
                        Reply::Streams { stdin: has_stdin, stdout: true, stderr: true }
                    }
                }
            }
        }
    }

    fn attach(&mut self, id: u64, name: &str, [stdin, stdout, stderr]: [bool; 3], fds: &mut Vec<OwnedFd>) -> Reply {
        let Some(container) = self.containers.get_mut(name).filter(|c| c.state.exit.is_none()) else {
            return Reply::NotRunning;
        };
        let streams = &mut container.streams;
        let mut given = [false; 3];
        let mut collect = || -> io::Result<()> {
            if stdin && let Some(fd) = &streams.stdin {
                fds.push(fd.try_clone()?);
                given[0] = true;
            }
            if stdout {
                fds.push(streams.attach(id, Source::Stdout)?);
                given[1] = true;
            }
            if stderr && !streams.tty {
                fds.push(streams.attach(id, Source::Stderr)?);
                given[2] = true;
            }
            Ok(())
        };
        match collect() {
            Err(error) => Reply::Failed { message: error.to_string() },
            Ok(()) => {
                if let Some(connection) = self.connections.iter_mut().find(|c| c.id == id) {
                    connection.attached = Some(name.to_owned());
                }
                Reply::Streams { stdin: given[0], stdout: given[1], stderr: given[2] }
            }
        }
    }

    /// The input of an attached client has ended; with `stdinOnce` so has the container's.
    fn close_stdin(&mut self, id: u64) {
        let attached = self.connections.iter().find(|c| c.id == id).and_then(|c| c.attached.as_ref());
        if let Some(container) = attached.and_then(|name| self.containers.get_mut(name))
            && container.stdin_once
            && !container.streams.tty
        {
            container.streams.stdin = None;
        }
    }

    fn reap(&mut self) {
        // Signals merge: the descriptor is emptied, then every child asked for.
        let mut buffer = [0; 1024];
        while rustix::io::read(&self.signals, &mut buffer).is_ok_and(|n| n > 0) {}
        while let Some(exited) = process::reap() {
            if let Some(name) = self
                .containers
                .iter()
                .find(|(_, c)| c.state.exit.is_none() && c.state.pid == exited.pid)
                .map(|(n, _)| n.clone())
            {
                self.container_exited(&name, exited.code);
            } else if let Some(connection) = self.connections.iter_mut().find(|c| c.exec == Some(exited.pid)) {
                connection.exec = None;
                let id = connection.id;
                self.send(id, &Reply::Exited { code: exited.code }, &[]);
            } else if self.pause.as_ref().is_some_and(|(pid, _)| *pid == exited.pid) {
                // Every container of a shared pid namespace ends with its process 1.
                self.stopping = true;
            }
        }
    }

    fn container_exited(&mut self, name: &str, code: i32) {
        let path = self.dir.join(CONTAINERS).join(name).join(RUN_STATE);
        let Some(container) = self.containers.get_mut(name) else { return };
        if container.pid_namespace != PidNamespace::Private {
            // No namespace of its own ends with it, so its other processes must be ended by name.
            let _ = self.cgroups.kill(&container.cgroup, Signal::KILL.as_raw());
        }
        container.streams.drain();
        let out_of_memory = code != 0 && self.cgroups.oom_kills(&container.cgroup) > 0;
        let reason = match (out_of_memory, code) {
            (true, _) => "OOMKilled",
            (false, 0) => "Completed",
            (false, _) => "Error",
        };
        container.state.exit =
            Some(ExitState { code, finished_at: now_ns(), reason: reason.to_owned(), message: String::new() });
        container.streams.stdin = None;
        let state = container.state.clone();
        if let Err(error) = disk::replace_json(&path, &state) {
            super::say(format_args!("{error}"));
        }
        let event = Reply::Exit { container: name.to_owned(), state };
        let subscribers: Vec<u64> = self.connections.iter().filter(|c| c.subscribed).map(|c| c.id).collect();
        for id in subscribers {
            self.send(id, &event, &[]);
        }
    }

    fn close_connections(&mut self) {
        for connection in self.connections.iter().filter(|c| c.closed) {
            if let Some(pid) = connection.exec {
                let _ = process::kill(pid, Signal::KILL.as_raw());
            }
            if let Some(container) = connection.attached.as_ref().and_then(|name| self.containers.get_mut(name)) {
                container.streams.detach(connection.id);
                if container.stdin_once && !container.streams.tty {
                    container.streams.stdin = None;
                }
            }
        }
        self.connections.retain(|c| !c.closed);
        for container in self.containers.values_mut().filter(|c| c.state.exit.is_some() && !c.streams.is_finished()) {
            container.streams.flush();
        }
    }

    /// Kills what still runs and records how it ended.
    fn shut_down(mut self) -> io::Result<()> {
        let running: Vec<String> =
            self.containers.iter().filter(|(_, c)| c.state.exit.is_none()).map(|(name, _)| name.clone()).collect();
        for name in running {
            if let Some(container) = self.containers.get(&name) {
                let _ = self.cgroups.kill(&container.cgroup, Signal::KILL.as_raw());
                let _ = process::kill(container.state.pid, Signal::KILL.as_raw());
            }
            self.container_exited(&name, 128 + Signal::KILL.as_raw());
        }
        if let Some((pid, _)) = &self.pause {
            let _ = process::kill(*pid, Signal::KILL.as_raw());
        }
        Ok(())
    }
}

/// Puts a launched container on record, in the directory and for the loop.
fn take_on(
    spec: LaunchSpec,
    launched: launch::Launched,
    ours: ChildStreams,
    log: Option<LogFile>,
    dir: &Path,
) -> io::Result<Container> {
    let (stdin, stdout, stderr) = match launched.terminal {
        Some(terminal) => {
            let stdin = spec.stdin.then(|| terminal.try_clone()).transpose()?;
            (stdin, terminal, None)
        }
        None => (ours.stdin, ours.stdout.ok_or_else(|| io::Error::other("no stdout"))?, ours.stderr),
    };
    let pidfd = pidfd(launched.pid)?;
    let state = RunState { pid: launched.pid, started_at: now_ns(), exit: None, uid: launched.uid, gid: launched.gid };
    disk::replace_json(&dir.join(RUN_STATE), &state)?;
    Ok(Container {
        cgroup: spec.cgroup,
        pid_namespace: spec.pid,
        oom_score_adj: spec.oom_score_adj,
        stdin_once: spec.stdin_once,
        pidfd,
        state,
        streams: Streams::new(stdin, stdout, stderr, spec.tty, log),
    })
}

/// Both ends of a process's streams, the shim's first. A terminal is made by the child instead.
fn make_streams(tty: bool, stdin: bool) -> io::Result<(ChildStreams, ChildStreams)> {
    let mut ours = ChildStreams { stdin: None, stdout: None, stderr: None, tty };
    let mut theirs = ChildStreams { stdin: None, stdout: None, stderr: None, tty };
    if !tty {
        if stdin {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            (theirs.stdin, ours.stdin) = (Some(reader), Some(writer));
        }
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        (ours.stdout, theirs.stdout) = (Some(reader), Some(writer));
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        (ours.stderr, theirs.stderr) = (Some(reader), Some(writer));
    }
    Ok((ours, theirs))
}
