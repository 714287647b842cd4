//! The key space in memory, for tests and the simulator: every version of every key since the last compaction.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::hub::Hub;
use crate::{
    BoxFuture, Event, Guard, KeyValue, Page, RangeRequest, Revision, Scan, Size, Storage, StorageError, Txn, Watch,
    Write,
};

/// See the module.
#[derive(Default)]
pub struct Memory {
    state: Mutex<State>,
    hub: Hub,
}

struct State {
    revision: Revision,
    oldest: Revision,
    /// Versions in revision order.
    keys: BTreeMap<Arc<str>, Vec<Version>>,
}

#[derive(Clone)]
struct Version {
    revision: Revision,
    create_revision: Revision,
    value: Option<Bytes>,
}

impl Default for State {
    fn default() -> Self {
        Self { revision: 1, oldest: 1, keys: BTreeMap::new() }
    }
}

impl State {
    fn live(&self, key: &str) -> Option<&Version> {
        self.keys.get(key)?.last().filter(|v| v.value.is_some())
    }

    fn commit(&mut self, txn: Txn) -> Result<(Revision, Vec<Event>), StorageError> {
        txn.check()?;
        for guard in &txn.guards {
            let current = self.live(guard.key()).map(|v| v.revision);
            let wanted = match guard {
                Guard::Absent(_) => None,
                Guard::At(_, revision) => Some(*revision),
            };
            if current != wanted {
                return Err(StorageError::Conflict { key: guard.key().clone(), current });
            }
        }
        let revision = self.revision + 1;
        let mut events = Vec::new();
        for write in txn.writes {
            let (key, value) = match write {
                Write::Put(key, value) => (key, Some(value)),
                Write::Delete(key) => (key, None),
            };
            let made = self.live(&key).map(|v| v.create_revision);
            if made.is_none() && value.is_none() {
                continue;
            }
            let create_revision = made.unwrap_or(revision);
            let version = Version { revision, create_revision, value: value.clone() };
            self.keys.entry(key.clone()).or_default().push(version);
            events.push(Event { revision, key, value });
        }
        if !events.is_empty() {
            self.revision = revision;
        }
        Ok((self.revision, events))
    }

    fn check(&self, revision: Revision) -> Result<(), StorageError> {
        if revision < self.oldest {
            return Err(StorageError::Compacted { requested: revision, oldest: self.oldest });
        }
        if revision > self.revision {
            return Err(StorageError::Future { requested: revision, current: self.revision });
        }
        Ok(())
    }

    fn range(&self, request: &RangeRequest) -> Result<Page, StorageError> {
        let revision = request.at.unwrap_or(self.revision);
        self.check(revision)?;
        let start = if request.after >= request.prefix {
            Bound::Excluded(request.after)
        } else {
            Bound::Included(request.prefix)
        };
        let mut items = Vec::new();
        let mut more = false;
        for (key, versions) in self.keys.range::<str, _>((start, Bound::Unbounded)) {
            if !key.starts_with(request.prefix) {
                break;
            }
            let Some(version) = versions.iter().rev().find(|v| v.revision <= revision) else { continue };
            let Some(value) = &version.value else { continue };
            if items.len() == request.limit {
                more = true;
                break;
            }
            items.push(KeyValue {
                key: key.clone(),
                value: value.clone(),
                create_revision: version.create_revision,
                mod_revision: version.revision,
            });
        }
        Ok(Page { revision, items, more })
    }

    fn events_after(&self, prefix: &str, from: Revision) -> VecDeque<Event> {
        let mut events: Vec<Event> = self
            .keys
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .flat_map(|(key, versions)| versions.iter().map(move |v| (key, v)))
            .filter(|(_, v)| v.revision > from)
            .map(|(key, v)| Event { revision: v.revision, key: key.clone(), value: v.value.clone() })
            .collect();
        events.sort_by_key(|e| e.revision);
        events.into()
    }

    fn compact(&mut self, revision: Revision) {
        self.oldest = self.oldest.max(revision);
        self.keys.retain(|_, versions| {
            let keep = versions.iter().rposition(|v| v.revision <= revision).unwrap_or(0);
            versions.drain(..keep);
            !(versions.len() == 1 && versions[0].value.is_none() && versions[0].revision <= revision)
        });
    }
}

impl Memory {
    /// Ends all watches, as a store does that loses its leader, or forgets what they have not been told yet.
    pub fn end_watches(&self, error: &StorageError) {
        self.hub.end(error);
    }
}

impl Storage for Memory {
    fn revision(&self) -> BoxFuture<'_, Result<Revision, StorageError>> {
        Box::pin(async { Ok(self.state.lock().revision) })
    }

    fn range<'a>(&'a self, request: RangeRequest<'a>) -> BoxFuture<'a, Result<Page, StorageError>> {
        Box::pin(async move { self.state.lock().range(&request) })
    }

    fn scan<'a>(&'a self, prefix: &'a str, at: Revision) -> BoxFuture<'a, Result<Scan, StorageError>> {
        Box::pin(async move {
            let request = RangeRequest { prefix, after: "", limit: usize::MAX, at: Some(at) };
            let items = self.state.lock().range(&request)?.items;
            // What is in memory anyway may go in one piece.
            let (sender, pieces) = tokio::sync::mpsc::channel(1);
            let _ = sender.try_send(Ok(items));
            Ok(Scan::of_pieces(pieces))
        })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StorageError>> {
        Box::pin(async move {
            let mut state = self.state.lock();
            let (revision, events) = state.commit(txn)?;
            // Published under the lock, so that events leave in revision order.
            self.hub.publish(revision, events);
            Ok(revision)
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str, from: Revision) -> BoxFuture<'a, Result<Watch, StorageError>> {
        Box::pin(async move {
            let state = self.state.lock();
            state.check(from)?;
            Ok(Watch::new(from, state.events_after(prefix, from), state.revision, self.hub.register(prefix)))
        })
    }

    fn request_progress(&self) {
        self.hub.report_progress();
    }

    fn oldest(&self) -> BoxFuture<'_, Result<Revision, StorageError>> {
        Box::pin(async { Ok(self.state.lock().oldest) })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move {
            let mut state = self.state.lock();
            state.check(revision)?;
            state.compact(revision);
            Ok(())
        })
    }

    fn size(&self) -> BoxFuture<'_, Result<Size, StorageError>> {
        Box::pin(async {
            let state = self.state.lock();
            let value = |v: &Version| v.value.as_ref().map_or(0, Bytes::len);
            let bytes = state
                .keys
                .iter()
                .map(|(key, versions)| key.len() + versions.iter().map(value).sum::<usize>())
                .sum::<usize>();
            Ok(Size { bytes: bytes as u64 })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watch_that_was_ended_goes_on_where_it_was() {
        let memory = Memory::default();
        let put = |key: &str| memory.txn(Txn::create(key.into(), Bytes::new()));
        let mut watch = memory.watch("/", 1).await.unwrap();
        put("/a").await.unwrap();
        memory.end_watches(&StorageError::Unavailable("no leader".to_owned()));
        put("/b").await.unwrap();
        assert_eq!(watch.next().await.unwrap().revision, 2);
        assert!(matches!(watch.next().await, Err(StorageError::Unavailable(_))));
        let mut again = memory.watch("/", watch.reached()).await.unwrap();
        assert_eq!(again.next().await.unwrap().events[0].key, "/b".into());
        put("/c").await.unwrap();
        assert_eq!(again.next().await.unwrap().revision, 4);
    }
}
