//! The streams of one container: read, written to the log, and copied to those attached. An attached client that does not
//! read holds the stream back, as a terminal would; its buffer here is one read long.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use super::log::{Lines, LogFile, timestamp};

/// The most that is read at once, in bytes.
const READ_MAX: usize = 32 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Stdout,
    Stderr,
}

/// One end of a stream handed to an attached client.
struct Attached {
    /// The connection that asked for it.
    connection: u64,
    source: Source,
    pipe: OwnedFd,
    pending: Vec<u8>,
}

pub(super) struct Streams {
    /// The read end of a pipe, or the terminal, which stands for both outputs.
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    /// The write end of a pipe, or the terminal.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) tty: bool,
    stdout_lines: Lines,
    stderr_lines: Lines,
    log: Option<LogFile>,
    attached: Vec<Attached>,
}

impl Streams {
    pub(super) fn new(
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: Option<OwnedFd>,
        tty: bool,
        log: Option<LogFile>,
    ) -> Streams {
        for fd in [Some(&stdout), stderr.as_ref()].into_iter().flatten() {
            let _ = rustix::io::ioctl_fionbio(fd, true);
        }
        Streams {
            stdout: Some(stdout),
            stderr,
            stdin,
            tty,
            stdout_lines: Lines::new(Source::Stdout),
            stderr_lines: Lines::new(Source::Stderr),
            log,
            attached: Vec::new(),
        }
    }

    /// The descriptor to wait for, unless the stream has ended or a client holds it back.
    pub(super) fn readable(&self, source: Source) -> Option<BorrowedFd<'_>> {
        let held = self.attached.iter().any(|a| a.source == source && !a.pending.is_empty());
        let fd = match source {
            Source::Stdout => &self.stdout,
            Source::Stderr => &self.stderr,
        };
        fd.as_ref().filter(|_| !held).map(AsFd::as_fd)
    }

    /// The descriptors of clients that have something waiting to be written.
    pub(super) fn writable(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.attached.iter().filter(|a| !a.pending.is_empty()).map(|a| a.pipe.as_fd())
    }

    /// Reads once. Answers whether there was something.
    pub(super) fn read(&mut self, source: Source) -> bool {
        let mut buffer = vec![0; READ_MAX];
        let (slot, lines) = match source {
            Source::Stdout => (&mut self.stdout, &mut self.stdout_lines),
            Source::Stderr => (&mut self.stderr, &mut self.stderr_lines),
        };
        let Some(fd) = slot.as_ref() else { return false };
        let mut out = Vec::new();
        let length = match rustix::io::read(fd, &mut buffer) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return false,
            // A terminal whose other side is closed fails with EIO.
            Ok(0) | Err(_) => {
                lines.finish(&timestamp(), &mut out);
                *slot = None;
                0
            }
            Ok(length) => {
                lines.push(&buffer[..length], &timestamp(), &mut out);
                length
            }
        };
        if let Some(log) = &mut self.log
            && !out.is_empty()
        {
            log.append(&out);
        }
        for client in self.attached.iter_mut().filter(|a| a.source == source) {
            client.pending.extend_from_slice(&buffer[..length]);
        }
        self.flush();
        length > 0
    }

    /// Reads what is there at this moment, so that the log is whole when the exit is reported. Bounded, since a process
    /// that outlives the container's first may go on writing.
    pub(super) fn drain(&mut self) {
        for source in [Source::Stdout, Source::Stderr] {
            for _ in 0..64 {
                if self.readable(source).is_none() || !self.read(source) {
                    break;
                }
            }
        }
    }

    /// Writes what clients can take; lets those go that have left, or whose stream has ended and been written.
    pub(super) fn flush(&mut self) {
        for client in &mut self.attached {
            while !client.pending.is_empty() {
                match rustix::io::write(&client.pipe, &client.pending) {
                    Ok(length) => drop(client.pending.drain(..length)),
                    Err(rustix::io::Errno::INTR) => {}
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(_) => {
                        client.connection = u64::MAX;
                        client.pending = Vec::new();
                    }
                }
            }
        }
        let (stdout, stderr) = (self.stdout.is_some(), self.stderr.is_some());
        self.attached.retain(|a| {
            let open = match a.source {
                Source::Stdout => stdout,
                Source::Stderr => stderr,
            };
            a.connection != u64::MAX && (open || !a.pending.is_empty())
        });
    }

    /// Makes a pipe that carries the stream from now on, for an attached client. Answers its read end.
    pub(super) fn attach(&mut self, connection: u64, source: Source) -> io::Result<OwnedFd> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&writer, true)?;
        let open = match source {
            Source::Stdout => self.stdout.is_some(),
            Source::Stderr => self.stderr.is_some(),
        };
        // Of a stream that has ended the client sees the end at once.
        if open {
            self.attached.push(Attached { connection, source, pipe: writer, pending: Vec::new() });
        }
        Ok(reader)
    }

    /// The client of a connection has gone.
    pub(super) fn detach(&mut self, connection: u64) {
        self.attached.retain(|a| a.connection != connection);
    }

    /// Both outputs have ended and been passed on.
    pub(super) fn is_finished(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none() && self.attached.is_empty()
    }

    pub(super) fn reopen_log(&mut self) -> io::Result<()> {
        self.log.as_mut().map_or(Ok(()), LogFile::reopen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attached_client_gets_everything_and_holds_back_when_slow() {
        let (stdout, container) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut streams = Streams::new(None, stdout, None, false, None);
        let client = streams.attach(7, Source::Stdout).unwrap();
        let chunk = vec![b'x'; 60_000];
        let mut written = 0;
        // The pipe to the client holds 64 KiB: then its backlog must stop the reading.
        for _ in 0..2 {
            rustix::io::write(&container, &chunk).unwrap();
            written += chunk.len();
            while streams.readable(Source::Stdout).is_some() && streams.read(Source::Stdout) {}
        }
        assert!(streams.readable(Source::Stdout).is_none(), "held back");
        drop(container);
        let mut got = 0;
        let mut buffer = vec![0; 70_000];
        while got < written {
            got += rustix::io::read(&client, &mut buffer).unwrap();
            streams.flush();
            while streams.readable(Source::Stdout).is_some() && streams.read(Source::Stdout) {}
        }
        assert_eq!(got, written);
        streams.drain();
        assert!(streams.is_finished());
        assert_eq!(rustix::io::read(&client, &mut buffer).unwrap(), 0, "the end is passed on");
    }
}
