//! Leases: keys that go by themselves when their time is over. Many keys share one, as upstream's do
//! (`storage/etcd3/lease_manager.go`): a lease that ends costs etcd more than a key that goes with it.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::calls::Calls;
use super::messages as pb;
use crate::StorageError;

/// Keys that are to go, and when.
#[derive(Clone, Debug)]
pub struct TimeToLive {
    /// What they begin with, as the program knows them.
    pub prefix: String,
    /// How long after its last write a key stays at least.
    pub ttl: Duration,
    /// For how long a lease takes further keys; at most a twentieth of the time that they stay.
    pub reuse: Duration,
}

/// Upstream's bound of the keys of one lease.
const MAX_KEYS: u32 = 1000;

#[derive(Default)]
struct Current {
    id: i64,
    /// When the lease ends.
    end: Option<Instant>,
    keys: u32,
}

/// The lease that keys are given now.
pub(super) struct Leases {
    keys: TimeToLive,
    current: Mutex<Current>,
}

impl Leases {
    pub(super) fn new(keys: TimeToLive) -> Self {
        Self { keys, current: Mutex::default() }
    }

    pub(super) fn covers(&self, key: &str) -> bool {
        key.starts_with(&self.keys.prefix)
    }

    fn reuse(&self) -> Duration {
        self.keys.reuse.min(self.keys.ttl / 20)
    }

    /// The lease for one more key. Who comes while one is being granted waits for it.
    pub(super) async fn lease(&self, calls: &Calls) -> Result<i64, StorageError> {
        let mut current = self.current.lock().await;
        let now = Instant::now();
        current.keys += 1;
        let (ttl, whole) = (self.keys.ttl, self.keys.ttl + self.reuse());
        if current.keys <= MAX_KEYS && current.end.is_some_and(|end| now + ttl <= end) {
            return Ok(current.id);
        }
        let seconds = i64::try_from(whole.as_secs()).unwrap_or(i64::MAX).max(1);
        let request = pb::LeaseGrantRequest { ttl: seconds, id: 0 };
        let granted: pb::LeaseGrantResponse = calls.write("/etcdserverpb.Lease/LeaseGrant", request).await?;
        *current = Current { id: granted.id, end: Some(now + Duration::from_secs(seconds as u64)), keys: 1 };
        Ok(current.id)
    }

    /// The etcd does not know a lease that was given out: no other key gets it.
    pub(super) async fn forget(&self, id: i64) {
        let mut current = self.current.lock().await;
        if current.id == id {
            current.end = None;
        }
    }
}
