//! Notices when another program changes a table that is ours (`nft flush ruleset` is the usual way).

use std::os::fd::{AsRawFd, RawFd};

use super::encode::SUBSYSTEM;
use crate::netlink::{Attributes, NetlinkError, Protocol, Socket};

/// `NFNLGRP_NFTABLES`.
const GROUP: i32 = 7;
/// Of every message about tables, chains, rules, sets and elements: the table's name.
const TABLE_NAME: u16 = 1;

/// A subscription to the changes of this network namespace's tables. Readable when there are some.
pub struct Monitor(Socket);

impl Monitor {
    /// Subscribes in the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::open(Protocol::Netfilter)?;
        socket.join(GROUP)?;
        Ok(Self(socket))
    }

    /// Takes the pending changes: whether a table `name` was changed by any but the socket with port `own`. So it is taken
    /// where notifications were lost.
    pub fn changed_by_others(&mut self, name: &str, own: u32) -> Result<bool, NetlinkError> {
        let mut changed = false;
        let complete = self.0.drain(|message| {
            let about = Attributes(message.payload.get(4..).unwrap_or(&[])).find_str(TABLE_NAME);
            changed |= message.kind & 0xff00 == SUBSYSTEM && message.port != own && about == Some(name);
        })?;
        Ok(changed || !complete)
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
