//! Which node ports are taken: one object in the store, in upstream's form, that every server sharing the store changes in
//! the transaction of the Service.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kybern_apimachinery::{Value, json};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::transaction::{CommitStep, StepError};
use kybern_storage::{Guard, Txn, Write};
use tokio::sync::OwnedMutexGuard;

use super::ServiceAllocators;

const KEY: &str = "/registry/ranges/servicenodeports";

/// Ports as offsets into the range.
type Taken = BTreeSet<u32>;

/// `RangeAllocation`: a number whose bit `n` says that the port at offset `n` is taken, highest byte first.
fn encode(range: &RangeInclusive<u16>, taken: &Taken) -> Vec<u8> {
    let length = taken.last().map_or(0, |last| *last as usize / 8 + 1);
    let mut bytes = vec![0u8; length];
    for offset in taken {
        bytes[length - 1 - *offset as usize / 8] |= 1 << (offset % 8);
    }
    let object = json!({
        "kind": "RangeAllocation", "apiVersion": "v1", "metadata": {},
        "range": text(range), "data": BASE64_STANDARD.encode(bytes),
    });
    object.to_string().into_bytes()
}

/// `None` for what is of another range or form; then the Services say what is taken.
fn decode(range: &RangeInclusive<u16>, bytes: &[u8]) -> Option<Taken> {
    let object: Value = serde_json::from_slice(bytes).ok()?;
    if object["range"] != text(range).as_str() {
        return None;
    }
    let bytes = BASE64_STANDARD.decode(object["data"].as_str()?).ok()?;
    let bits = |(i, byte): (usize, &u8)| {
        let byte = *byte;
        (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| i as u32 * 8 + bit)
    };
    Some(bytes.iter().rev().enumerate().flat_map(bits).collect())
}

fn text(range: &RangeInclusive<u16>) -> String {
    format!("{}-{}", range.start(), range.end())
}

/// Takes and frees ports.
pub(super) struct PortStep {
    pub(super) allocators: Arc<ServiceAllocators>,
    pub(super) take: Vec<u16>,
    pub(super) free: Vec<u16>,
    /// Held until the commit has ended: in one server, one at a time.
    pub(super) turn: Option<OwnedMutexGuard<()>>,
}

impl CommitStep for PortStep {
    fn run<'a>(&'a mut self, txn: &'a mut Txn) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async move {
            let allocators = &self.allocators;
            self.turn = Some(allocators.turn.clone().lock_owned().await);
            let objects = allocators.objects.get()?;
            let stored = objects.raw(KEY).await?;
            let mut taken = match stored.as_ref().and_then(|s| decode(&allocators.ports, &s.value)) {
                Some(taken) => taken,
                None => {
                    objects.caught_up().await?;
                    allocators.ports_of_services()
                }
            };
            let offset = |port: &u16| u32::from(*port).wrapping_sub(u32::from(*allocators.ports.start()));
            for port in &self.take {
                if !taken.insert(offset(port)) {
                    // Claims are stored with their Services: where none has it, nobody has.
                    objects.caught_up().await?;
                    if allocators.ports_of_services().contains(&offset(port)) {
                        return Err(StepError::Contended);
                    }
                }
            }
            for port in &self.free {
                taken.remove(&offset(port));
            }
            txn.guards.push(match &stored {
                Some(stored) => Guard::At(stored.key.clone(), stored.revision),
                None => Guard::Absent(KEY.into()),
            });
            txn.writes.push(Write::Put(KEY.into(), encode(&allocators.ports, &taken).into()));
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_stored_as_upstream_stores_it() {
        let range = 30000..=32767;
        let taken: Taken = [0, 1, 8, 2767].into();
        let bytes = encode(&range, &taken);
        let object: Value = serde_json::from_slice(&bytes).unwrap();
        let data = BASE64_STANDARD.decode(object["data"].as_str().unwrap()).unwrap();
        assert_eq!((data.len(), data[0], &data[344..]), (346, 0x80, &[1, 3][..]));
        assert_eq!(decode(&range, &bytes), Some(taken));
        assert_eq!(decode(&(30000..=30001), &bytes), None);
        assert_eq!(decode(&range, &encode(&range, &Taken::new())), Some(Taken::new()));
        assert_eq!(decode(&range, b"k8s\0"), None);
    }
}
