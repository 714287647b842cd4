//! Who may hold a connection.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Limits, metrics};

pub(super) struct Slots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    name: &'static str,
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    proven: usize,
    /// By age.
    unproven: BTreeMap<u64, Unproven>,
}

#[derive(Debug)]
struct Unproven {
    from: IpAddr,
    evicted: Arc<Notify>,
}

impl Slots {
    pub(super) fn new(name: &'static str, limits: Limits) -> Self {
        Self(Arc::new(Shared { name, limits, state: Mutex::default() }))
    }

    /// A place for a connection; none when too many proven ones are there.
    pub(super) fn admit(&self, address: IpAddr) -> Option<Slot> {
        let Shared { name, limits, state } = &*self.0;
        let from = network(address);
        let mut state = state.lock();
        if limits.proven > 0 && state.proven >= limits.proven {
            metrics::count(name, "full");
            return None;
        }
        if !from.is_loopback() {
            let own: Vec<u64> = state.unproven.iter().filter(|(_, u)| u.from == from).map(|(id, _)| *id).collect();
            if own.len() >= limits.per_address {
                state.evict(own[0]);
                metrics::count(name, "address");
            }
        }
        if state.unproven.len() >= limits.unproven
            && let Some(oldest) = state.unproven.keys().next().copied()
        {
            state.evict(oldest);
            metrics::count(name, "unproven");
        }
        let (id, evicted) = (state.next, Arc::new(Notify::new()));
        state.next += 1;
        state.unproven.insert(id, Unproven { from, evicted: evicted.clone() });
        Some(Slot(Arc::new(Inner { shared: self.0.clone(), id, evicted, proven: AtomicBool::new(false) })))
    }
}

impl State {
    fn evict(&mut self, id: u64) {
        if let Some(unproven) = self.unproven.remove(&id) {
            unproven.evicted.notify_one();
        }
    }
}

/// Who gets an IPv6 address gets a /64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        other => other,
    }
}

/// A connection's place. It is free again when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Slot(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    id: u64,
    evicted: Arc<Notify>,
    proven: AtomicBool,
}

impl Slot {
    pub fn limits(&self) -> &Limits {
        &self.0.shared.limits
    }

    /// Somebody is known to be at the other end.
    pub fn prove(&self) {
        if self.is_proven() {
            return;
        }
        let mut state = self.0.shared.state.lock();
        // One that was evicted a moment ago stays so.
        if state.unproven.remove(&self.0.id).is_some() {
            state.proven += 1;
            self.0.proven.store(true, Ordering::Release);
        }
    }

    pub fn is_proven(&self) -> bool {
        self.0.proven.load(Ordering::Acquire)
    }

    /// Waits until the connection has to give way. Only one task may wait.
    pub async fn evicted(&self) {
        self.0.evicted.notified().await;
    }

    /// Counts that the connection is cut.
    pub fn cut(&self, reason: &'static str) {
        metrics::count(self.0.shared.name, reason);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        if self.proven.load(Ordering::Acquire) {
            state.proven -= 1;
        } else {
            state.unproven.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(proven: usize) -> Slots {
        Slots::new("test", Limits { proven, unproven: 4, per_address: 2, ..Limits::SERVER })
    }

    fn is_evicted(slot: &Slot) -> bool {
        !slot.0.shared.state.lock().unproven.contains_key(&slot.0.id) && !slot.is_proven()
    }

    #[test]
    fn one_address_cannot_take_the_place_of_others() {
        let slots = slots(10);
        let other = slots.admit("192.0.2.1".parse().unwrap()).unwrap();
        let many: Vec<Slot> = (0..20).map(|_| slots.admit("192.0.2.2".parse().unwrap()).unwrap()).collect();
        assert!(!is_evicted(&other));
        assert_eq!(many.iter().filter(|s| !is_evicted(s)).count(), 2);
        let of_one_network: Vec<Slot> =
            (0..9).map(|n| slots.admit(format!("2001:db8::{n}").parse().unwrap()).unwrap()).collect();
        assert_eq!(of_one_network.iter().filter(|s| !is_evicted(s)).count(), 2);
    }

    #[test]
    fn the_oldest_of_which_nothing_is_known_goes_first() {
        let slots = slots(2);
        let all: Vec<Slot> = (0..4).map(|_| slots.admit("127.0.0.1".parse().unwrap()).unwrap()).collect();
        all[0].prove();
        let more: Vec<Slot> = (0..2).map(|_| slots.admit("::ffff:127.0.0.1".parse().unwrap()).unwrap()).collect();
        assert_eq!(all.iter().map(is_evicted).collect::<Vec<_>>(), [false, true, false, false]);
        all[1].prove();
        assert!(!all[1].is_proven(), "it has been cut");
        all[2].prove();
        assert!(slots.admit("127.0.0.1".parse().unwrap()).is_none(), "two are proven");
        drop((all, more));
        assert!(slots.admit("127.0.0.1".parse().unwrap()).is_some());
        let state = slots.0.state.lock();
        assert_eq!((state.proven, state.unproven.len()), (0, 0));
    }
}
