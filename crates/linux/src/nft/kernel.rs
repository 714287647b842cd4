//! Reading and changing the kernel's tables.

use std::collections::BTreeMap;

use super::encode::{SUBSYSTEM, encode, msg, nfgenmsg};
use super::model::*;
use super::{Op, decode, diff};
use crate::netlink::{NetlinkError, Protocol, Socket};

/// nftables of one network namespace.
pub struct Nftables(Socket);

impl Nftables {
    /// Opens nftables in the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        Socket::open(Protocol::Netfilter).map(Self)
    }

    /// The port by which a [`super::Monitor`] tells this socket's changes from others'.
    pub fn port(&self) -> Result<u32, NetlinkError> {
        self.0.port()
    }

    /// Whether a table exists.
    pub fn has_table(&mut self, family: Family, name: &str) -> Result<bool, NetlinkError> {
        let mut found = false;
        let header = nfgenmsg(family.number(), 0);
        self.0.dump(
            "list tables",
            SUBSYSTEM | msg::GETTABLE,
            &header,
            |_| {},
            |message| match message {
                None => found = false,
                Some((_, payload)) => {
                    let attributes = crate::netlink::Attributes(payload.get(4..).unwrap_or(&[]));
                    found |= attributes.find_str(1) == Some(name);
                }
            },
        )?;
        Ok(found)
    }

    /// Reads a table with all in it; `None` if there is no such table. The elements of sets that packets fill are left out.
    pub fn read(&mut self, family: Family, name: &str) -> Result<Option<Table>, NetlinkError> {
        if !self.has_table(family, name)? {
            return Ok(None);
        }
        let mut table = Table::new(family, name);
        let header = nfgenmsg(family.number(), 0);
        self.0.dump(
            "list chains",
            SUBSYSTEM | msg::GETCHAIN,
            &header,
            |_| {},
            |message| match message {
                None => table.chains.clear(),
                Some((_, payload)) => {
                    if let Some((of, chain_name, chain)) = decode::chain(payload).filter(|(of, ..)| *of == name) {
                        let _ = of;
                        table.chains.insert(chain_name.to_owned(), chain);
                    }
                }
            },
        )?;
        let mut sets: BTreeMap<String, (Set, bool)> = BTreeMap::new();
        let of_table = |b: &mut crate::netlink::Buffer| b.attr_str(1, name);
        self.0.dump("list sets", SUBSYSTEM | msg::GETSET, &header, of_table, |message| match message {
            None => sets.clear(),
            Some((_, payload)) => {
                sets.extend(decode::set(payload).map(|(name, set, anonymous)| (name.to_owned(), (set, anonymous))));
            }
        })?;
        let mut anonymous = BTreeMap::new();
        for (set_name, (mut set, is_anonymous)) in sets {
            if set.timeout.is_none() {
                let of_set = |b: &mut crate::netlink::Buffer| {
                    b.attr_str(1, name);
                    b.attr_str(2, &set_name);
                };
                let mut elements = BTreeMap::new();
                self.0.dump(
                    "list elements",
                    SUBSYSTEM | msg::GETSETELEM,
                    &header,
                    of_set,
                    |message| match message {
                        None => elements.clear(),
                        Some((_, payload)) => elements.extend(decode::elements(payload)),
                    },
                )?;
                set.elements = elements;
            }
            if is_anonymous {
                anonymous.insert(set_name, set)
            } else {
                table.sets.insert(set_name, set)
            };
        }
        let mut rules: Vec<(String, Rule)> = Vec::new();
        self.0.dump("list rules", SUBSYSTEM | msg::GETRULE, &header, of_table, |message| match message {
            None => rules.clear(),
            Some((_, payload)) => {
                rules.extend(decode::rule(payload, &anonymous).map(|(chain, rule)| (chain.to_owned(), rule)));
            }
        })?;
        for (chain, rule) in rules {
            table.chain(chain).rules.push(rule);
        }
        Ok(Some(table))
    }

    /// Applies operations on one table as one transaction: all or nothing.
    pub fn apply(&mut self, family: Family, table: &str, ops: &[Op<'_>]) -> Result<(), NetlinkError> {
        if ops.is_empty() {
            return Ok(());
        }
        let batch = encode(family, table, ops);
        let operation = format!("change nftables table {table}");
        let rejected = self.0.batch(&operation, batch.buffer.as_bytes())?;
        match rejected.into_iter().next() {
            None => Ok(()),
            Some(first) => {
                let step = (first.seq as usize).checked_sub(1).and_then(|i| batch.operations.get(i));
                Err(NetlinkError {
                    operation: format!("{operation}: {}", step.map_or("unknown step", String::as_str)),
                    errno: first.errno,
                    extended: first.extended,
                })
            }
        }
    }

    /// Makes the kernel's table what `desired` is; answers how many operations it took.
    pub fn reconcile(&mut self, desired: &Table) -> Result<usize, NetlinkError> {
        let actual = self.read(desired.family, &desired.name)?;
        let ops = diff(desired, actual.as_ref());
        self.apply(desired.family, &desired.name, &ops)?;
        Ok(ops.len())
    }

    /// Deletes a table and all in it. Succeeds if there is none.
    pub fn delete_table(&mut self, family: Family, name: &str) -> Result<(), NetlinkError> {
        if self.has_table(family, name)? { self.apply(family, name, &[Op::DeleteTable]) } else { Ok(()) }
    }
}
