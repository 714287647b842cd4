//! What Kybern and a shim say to each other over the shim's socket: frames of a length (four bytes, little endian) and
//! JSON; descriptors travel with a frame's first byte. One connection carries one request, its answer and, for an exec
//! or a subscription, what follows. Shims of an older Kybern stay in service after an upgrade, so fields are only added.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::spec::{ProcessSpec, RunState};

/// The largest frame taken.
const FRAME_MAX: usize = 4 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Starts the container whose directory holds its launch spec.
    Start {
        container: String,
    },
    /// Sends a signal to the container's first process, or to all of its processes.
    Kill {
        container: String,
        signal: i32,
        all: bool,
    },
    /// Runs a process in the container. Its streams come with the answer; [`Reply::Exited`] follows. Closing the
    /// connection before kills it.
    Exec {
        container: String,
        process: Box<ProcessSpec>,
        tty: bool,
        stdin: bool,
    },
    /// Asks for ends of the container's own streams.
    Attach {
        container: String,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    /// On an attach connection: the client's input has ended.
    CloseStdin,
    ReopenLog {
        container: String,
    },
    /// Drops what the shim remembers of an exited container.
    Forget {
        container: String,
    },
    /// Asks for a [`Reply::Exit`] of every container that exits from now on.
    Subscribe,
    /// Ends the shim and whatever still runs in it.
    Shutdown,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub(crate) enum Reply {
    Done,
    Started {
        state: RunState,
    },
    /// Which of stdin, stdout, stderr come as descriptors, in that order; with a terminal a single one for all (exec) or
    /// the terminal as stdin and a pipe as stdout (attach).
    Streams {
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    Exited {
        code: i32,
    },
    Exit {
        container: String,
        state: RunState,
    },
    Failed {
        message: String,
    },
    NotRunning,
}

/// A name for the socket in a directory that fits `sun_path` however long the directory's own path is.
pub(crate) fn socket_path(dir: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), super::SOCKET)
}

pub(crate) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; 4];
    serde_json::to_writer(&mut out, message)?;
    let length = u32::try_from(out.len() - 4).ok().filter(|n| *n as usize <= FRAME_MAX);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "message too large for the shim"))?;
    out[..4].copy_from_slice(&length.to_le_bytes());
    Ok(out)
}

/// Collects what a connection receives and takes it apart into frames.
#[derive(Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Inbox {
    /// Receives once. `Ok(false)` at the end of the stream; `WouldBlock` when nothing is there.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffer = [0; 4096];
        let received = recvmsg(socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        self.bytes.extend_from_slice(&buffer[..received.bytes]);
        Ok(received.bytes > 0)
    }

    /// The next whole frame, if it is there.
    pub(crate) fn next<T: for<'de> Deserialize<'de>>(&mut self) -> io::Result<Option<T>> {
        let Some(head) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*head) as usize;
        if length > FRAME_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too large"));
        }
        if self.bytes.len() < 4 + length {
            return Ok(None);
        }
        let message = serde_json::from_slice(&self.bytes[4..4 + length])?;
        self.bytes.drain(..4 + length);
        Ok(Some(message))
    }
}

/// Sends bytes, descriptors with the first of them; answers how many bytes went.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Sends a whole message on a socket whose buffer has room for it; a peer that does not read gets `WouldBlock`.
pub(crate) fn send_message(socket: BorrowedFd<'_>, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = encode(message)?;
    let mut sent = send(socket, &bytes, fds)?;
    while sent < bytes.len() {
        sent += send(socket, &bytes[sent..], &[])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn frames_and_descriptors_cross_a_socket() {
        let (a, b) = UnixStream::pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        send_message(a.as_fd(), &Reply::Exited { code: 3 }, &[]).unwrap();
        send_message(a.as_fd(), &Reply::Streams { stdin: false, stdout: true, stderr: false }, &[reader.as_fd()])
            .unwrap();
        drop(a);
        let mut inbox = Inbox::default();
        while inbox.receive(b.as_fd()).unwrap() {}
        assert!(matches!(inbox.next().unwrap(), Some(Reply::Exited { code: 3 })));
        assert!(matches!(inbox.next().unwrap(), Some(Reply::Streams { stdout: true, .. })));
        assert!(inbox.next::<Reply>().unwrap().is_none());
        rustix::io::write(&writer, b"x").unwrap();
        let mut byte = [0];
        rustix::io::read(&inbox.fds[0], &mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }

    #[test]
    fn a_huge_frame_is_refused() {
        let (a, b) = UnixStream::pair().unwrap();
        send(a.as_fd(), &u32::MAX.to_le_bytes(), &[]).unwrap();
        let mut inbox = Inbox::default();
        inbox.receive(b.as_fd()).unwrap();
        assert!(inbox.next::<Request>().is_err());
    }
}
