//! One synchronous netlink socket. The kernel answers a netlink request within `sendmsg`, so nothing here waits for long;
//! a caller on an async thread may call it directly for single requests and should wrap big batches in a blocking task.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

use super::wire::{Attributes, Buffer, Messages, NLMSG_DONE, NLMSG_ERROR, Received, flags, u32_ne};

const SOL_NETLINK: i32 = 270;
const NETLINK_ADD_MEMBERSHIP: i32 = 1;
const NETLINK_EXT_ACK: i32 = 11;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLM_F_CAPPED: u16 = 0x100;
/// The kernel makes dump datagrams of at most 32 KiB.
const RECEIVE_LEN: usize = 32 * 1024;
/// How often an interrupted dump is taken again before giving up.
const DUMP_ATTEMPTS: usize = 8;

/// What a netlink request failed with.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {}{}", extended.as_deref().map(|m| format!("{m}: ")).unwrap_or_default(), io::Error::from(*errno))]
pub struct NetlinkError {
    /// What was asked, in words.
    pub operation: String,
    pub errno: Errno,
    /// The kernel's own explanation (extended ACK), where it gives one.
    pub extended: Option<String>,
}

impl NetlinkError {
    pub fn new(operation: impl Into<String>, errno: Errno) -> Self {
        Self { operation: operation.into(), errno, extended: None }
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self.errno, Errno::NOENT | Errno::NODEV | Errno::SRCH | Errno::ADDRNOTAVAIL)
    }

    pub fn is_exists(&self) -> bool {
        self.errno == Errno::EXIST
    }
}

/// The netlink families in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Route,
    Netfilter,
}

/// An error the kernel sent for one message of a batch.
#[derive(Debug)]
pub struct Rejected {
    /// Sequence number of the message that failed.
    pub seq: u32,
    pub errno: Errno,
    pub extended: Option<String>,
}

/// A netlink socket of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    seq: u32,
    receive: Box<[u8]>,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open(protocol: Protocol) -> Result<Self, NetlinkError> {
        let fail = |errno| NetlinkError::new("open netlink socket", errno);
        let protocol = match protocol {
            Protocol::Route => None,
            Protocol::Netfilter => Some(netlink::NETFILTER),
        };
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(fail)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0)).map_err(fail)?;
        // Extended error texts are a courtesy of newer kernels; without them only the errno is told.
        let _ = set_option(&fd, NETLINK_EXT_ACK, 1);
        Ok(Self { fd, seq: 0, receive: vec![0; RECEIVE_LEN].into_boxed_slice() })
    }

    /// The port by which the kernel names this socket's requests in notifications.
    pub fn port(&self) -> Result<u32, NetlinkError> {
        let address =
            rustix::net::getsockname(&self.fd).map_err(|errno| NetlinkError::new("name netlink socket", errno))?;
        SocketAddrNetlink::try_from(address)
            .map(|a| a.pid())
            .map_err(|errno| NetlinkError::new("name netlink socket", errno))
    }

    /// Joins a multicast group: its notifications make the socket readable; [`Socket::drain`] takes them.
    pub fn join(&self, group: i32) -> Result<(), NetlinkError> {
        set_option(&self.fd, NETLINK_ADD_MEMBERSHIP, group)
            .map_err(|errno| NetlinkError::new(format!("join netlink group {group}"), errno))
    }

    /// Hands all waiting notifications to `each`. Answers whether none were lost.
    pub fn drain(&mut self, mut each: impl FnMut(Received<'_>)) -> Result<bool, NetlinkError> {
        let mut complete = true;
        loop {
            match rustix::net::recv(&self.fd, &mut self.receive[..], RecvFlags::DONTWAIT) {
                Ok((len, _)) => Messages(&self.receive[..len]).for_each(&mut each),
                Err(Errno::AGAIN) => return Ok(complete),
                Err(Errno::NOBUFS) => complete = false,
                Err(errno) => return Err(NetlinkError::new("receive notifications", errno)),
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        rustix::net::sendto(&self.fd, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).map(drop)
    }

    /// Sends one request and waits for its acknowledgement.
    pub fn request(
        &mut self,
        operation: &str,
        kind: u16,
        flags: u16,
        header: &[u8],
        body: impl FnOnce(&mut Buffer),
    ) -> Result<(), NetlinkError> {
        self.ask(operation, kind, flags, header, body, |_| {})
    }

    /// The same, where the kernel's answer holds something before the acknowledgement.
    pub fn ask(
        &mut self,
        operation: &str,
        kind: u16,
        flags: u16,
        header: &[u8],
        body: impl FnOnce(&mut Buffer),
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), NetlinkError> {
        self.seq += 1;
        let seq = self.seq;
        let mut buffer = Buffer::new();
        buffer.message(kind, flags | flags::REQUEST | flags::ACK, seq, header, body);
        let fail = |errno| NetlinkError::new(operation, errno);
        self.send(buffer.as_bytes()).map_err(fail)?;
        loop {
            let (len, _) = rustix::net::recv(&self.fd, &mut self.receive[..], RecvFlags::empty()).map_err(fail)?;
            for message in Messages(&self.receive[..len]).filter(|m| m.seq == seq) {
                if message.kind != NLMSG_ERROR {
                    each(message.payload);
                } else {
                    return match rejection(message.flags, message.payload) {
                        None => Ok(()),
                        Some((errno, extended)) => {
                            Err(NetlinkError { operation: operation.to_owned(), errno, extended })
                        }
                    };
                }
            }
        }
    }

    /// Asks for a list and hands every message (type, payload) to `each`. A list that changed meanwhile is taken again, so
    /// `each` gets `None` first, at every new start.
    pub fn dump(
        &mut self,
        operation: &str,
        kind: u16,
        header: &[u8],
        body: impl Fn(&mut Buffer),
        mut each: impl FnMut(Option<(u16, &[u8])>),
    ) -> Result<(), NetlinkError> {
        let fail = |errno| NetlinkError::new(operation, errno);
        for _ in 0..DUMP_ATTEMPTS {
            each(None);
            self.seq += 1;
            let seq = self.seq;
            let mut buffer = Buffer::new();
            buffer.message(kind, flags::REQUEST | flags::DUMP, seq, header, &body);
            self.send(buffer.as_bytes()).map_err(fail)?;
            let mut interrupted = false;
            let mut done = false;
            while !done {
                let (len, _) = rustix::net::recv(&self.fd, &mut self.receive[..], RecvFlags::empty()).map_err(fail)?;
                for message in Messages(&self.receive[..len]).filter(|m| m.seq == seq) {
                    interrupted |= message.flags & flags::DUMP_INTERRUPTED != 0;
                    match message.kind {
                        NLMSG_DONE => done = true,
                        NLMSG_ERROR => {
                            let (errno, extended) =
                                rejection(message.flags, message.payload).unwrap_or((Errno::PROTO, None));
                            return Err(NetlinkError { operation: operation.to_owned(), errno, extended });
                        }
                        kind => each(Some((kind, message.payload))),
                    }
                }
            }
            if !interrupted {
                return Ok(());
            }
        }
        Err(fail(Errno::INTR))
    }

    /// Sends a ready-made batch as one datagram and collects what the kernel rejected of it; nothing means all was done.
    pub fn batch(&mut self, operation: &str, bytes: &[u8]) -> Result<Vec<Rejected>, NetlinkError> {
        let fail = |errno| NetlinkError::new(operation, errno);
        if bytes.len() > 64 * 1024 {
            // Needs CAP_NET_ADMIN, as the batch itself does; without it the send fails and says so.
            let _ = sockopt::set_socket_send_buffer_size_force(&self.fd, bytes.len() * 2);
        }
        self.send(bytes).map_err(fail)?;
        let mut rejected = Vec::new();
        loop {
            match rustix::net::recv(&self.fd, &mut self.receive[..], RecvFlags::DONTWAIT) {
                Ok((len, _)) => {
                    for message in Messages(&self.receive[..len]).filter(|m| m.kind == NLMSG_ERROR) {
                        if let Some((errno, extended)) = rejection(message.flags, message.payload) {
                            rejected.push(Rejected { seq: message.seq, errno, extended });
                        }
                    }
                }
                Err(Errno::AGAIN) => return Ok(rejected),
                Err(errno) => return Err(fail(errno)),
            }
        }
    }
}

/// Reads an `nlmsgerr`: `None` is an acknowledgement.
fn rejection(message_flags: u16, payload: &[u8]) -> Option<(Errno, Option<String>)> {
    let code = u32_ne(payload).map_or(libc::EPROTO, |code| (code as i32).wrapping_neg());
    if code == 0 {
        return None;
    }
    // The original message follows, whole unless capped; then the attributes.
    let original = payload.get(4..).and_then(u32_ne).unwrap_or(16) as usize;
    let original = if message_flags & NLM_F_CAPPED != 0 { 16 } else { original.next_multiple_of(4) };
    let attributes = Attributes(payload.get(4 + original..).unwrap_or(&[]));
    Some((Errno::from_raw_os_error(code), attributes.find_str(NLMSGERR_ATTR_MSG).map(str::to_owned)))
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[allow(unsafe_code)]
fn set_option(fd: &OwnedFd, option: i32, value: libc::c_int) -> Result<(), Errno> {
    // SAFETY: the pointer and length describe a local integer that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            SOL_NETLINK,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_errno_and_text() {
        let mut payload = (-22i32).to_ne_bytes().to_vec();
        payload.extend_from_slice(&16u32.to_ne_bytes());
        payload.extend_from_slice(&[0; 12]);
        let mut text = Buffer::new();
        text.attr_str(NLMSGERR_ATTR_MSG, "Unknown device type");
        payload.extend_from_slice(text.as_bytes());
        assert_eq!(rejection(0, &payload), Some((Errno::INVAL, Some("Unknown device type".into()))));
        assert_eq!(rejection(0, &[0; 20]), None);
    }

    #[test]
    fn an_unknown_request_is_refused_by_the_kernel() {
        let mut socket = Socket::open(Protocol::Route).expect("a netlink socket needs no privilege");
        let error = socket.request("frobnicate", 18, 0, &[0; 16], |_| {}).unwrap_err();
        assert!(error.to_string().starts_with("frobnicate: "), "{error}");
    }
}
