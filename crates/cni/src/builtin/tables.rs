//! Changing a table that several containers share.

use std::sync::{Mutex, PoisonError};

use kybern_linux::netlink::NetlinkError;
use kybern_linux::nft::{Family, Nftables, Table, diff};

/// Containers are attached at the same time by threads of one process; each change is a reading and a writing.
static CHANGING: Mutex<()> = Mutex::new(());

/// Replaces a table by what `change` makes of it (`None`: there is none); `change` answers `None` to leave it.
pub(super) fn change(
    family: Family,
    name: &str,
    change: impl FnOnce(Option<&Table>) -> Option<Table>,
) -> Result<(), NetlinkError> {
    let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut nft = Nftables::open()?;
    let actual = nft.read(family, name)?;
    match change(actual.as_ref()) {
        None => Ok(()),
        Some(desired) => nft.apply(family, name, &diff(&desired, actual.as_ref())),
    }
}
