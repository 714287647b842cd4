//! The objects of a kind in the order of their keys, and by the values of fields that requests pin.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::Entry;
use super::selection::Pinned;

/// Kinds with fewer objects need no index.
const INDEXED: usize = 128;
/// Fields of one kind that are indexed at most.
const INDEXES: usize = 4;

/// So many objects at most are sorted by one thread.
const SORTED_ALONE: usize = 10_000;

type Sorted = BTreeMap<Arc<str>, Arc<Entry>>;

#[derive(Default)]
pub(super) struct Objects {
    all: Sorted,
    /// Of all objects' JSON.
    bytes: usize,
    /// How many are in a namespace: what is left of a list is told with its first page, and not counted one by one.
    namespaces: HashMap<Box<str>, usize>,
    /// Made when a request pins the field, and kept up to date from then on.
    indexes: Vec<(Pinned, HashMap<Box<str>, Sorted>)>,
}

impl Objects {
    pub(super) fn new(mut entries: Vec<Arc<Entry>>) -> Self {
        let (mut bytes, mut namespaces) = (0, HashMap::new());
        sort(&mut entries);
        let pair = |entry: Arc<Entry>| (entry.key.clone(), entry);
        let note = |entry: &Arc<Entry>| {
            bytes += entry.bytes.len();
            come(&mut namespaces, entry.namespace());
        };
        let all = entries.into_iter().inspect(note).map(pair).collect();
        Self { all, bytes, namespaces, indexes: Vec::new() }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        self.all.get(key)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// How many are in a namespace; of all, where it is empty.
    pub(super) fn count(&self, namespace: &str) -> usize {
        if namespace.is_empty() { self.len() } else { self.namespaces.get(namespace).copied().unwrap_or(0) }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.all.values()
    }

    pub(super) fn insert(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let previous = self.all.insert(entry.key.clone(), entry.clone());
        self.bytes += entry.bytes.len();
        self.bytes -= previous.as_ref().map_or(0, |previous| previous.bytes.len());
        if previous.is_none() {
            come(&mut self.namespaces, entry.namespace());
        }
        for (pinned, values) in &mut self.indexes {
            let value = pinned.value(&entry);
            if let Some(previous) = previous.as_deref().filter(|previous| pinned.value(previous) != value) {
                leave(values, pinned.value(previous), &previous.key);
            }
            match values.get_mut(value) {
                Some(entries) => drop(entries.insert(entry.key.clone(), entry.clone())),
                None => drop(values.insert(value.into(), Sorted::from([(entry.key.clone(), entry.clone())]))),
            }
        }
        previous
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Arc<Entry>> {
        let previous = self.all.remove(key)?;
        self.bytes -= previous.bytes.len();
        let namespace = previous.namespace();
        if let Some(count) = self.namespaces.get_mut(namespace) {
            *count -= 1;
            if *count == 0 {
                self.namespaces.remove(namespace);
            }
        }
        for (pinned, values) in &mut self.indexes {
            leave(values, pinned.value(&previous), key);
        }
        Some(previous)
    }

    /// Whether an index of a field would help, and is not there.
    pub(super) fn lacks_index(&self, pinned: Pinned) -> bool {
        self.all.len() >= INDEXED
            && self.indexes.len() < INDEXES
            && !self.indexes.iter().any(|(known, _)| *known == pinned)
    }

    pub(super) fn index(&mut self, pinned: Pinned) {
        if !self.lacks_index(pinned) {
            return;
        }
        let mut values: HashMap<Box<str>, Sorted> = HashMap::new();
        for (key, entry) in &self.all {
            let value = pinned.value(entry);
            match values.get_mut(value) {
                Some(entries) => drop(entries.insert(key.clone(), entry.clone())),
                None => drop(values.insert(value.into(), Sorted::from([(key.clone(), entry.clone())]))),
            }
        }
        self.indexes.push((pinned, values));
    }

    /// The objects whose keys begin with `scope` and sort behind `after`; where a field is pinned and indexed, only those that
    /// have the value.
    pub(super) fn range<'a>(
        &'a self,
        pin: Option<(Pinned, &str)>,
        scope: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
        let index = pin.and_then(|(pinned, value)| {
            let (_, values) = self.indexes.iter().find(|(known, _)| *known == pinned)?;
            Some(values.get(value))
        });
        let chosen = match index {
            Some(by_value) => by_value,
            None => Some(&self.all),
        };
        // A scope ends with a slash; what sorts behind all that begins with it begins with the next character.
        let end = scope.strip_suffix('/').map(|stem| format!("{stem}0"));
        let bounds = move |entries: &'a Sorted| {
            let start = after.map_or(Bound::Included(scope), Bound::Excluded);
            // A page may be asked for after a key that is in no page of the scope.
            let beyond = end.as_deref().zip(after).is_some_and(|(end, after)| after >= end);
            let end = end.as_deref().filter(|_| !beyond).map_or(Bound::Unbounded, Bound::Excluded);
            (!beyond).then(|| entries.range::<str, _>((start, end)))
        };
        chosen.and_then(bounds).into_iter().flatten().map(|(_, entry)| entry)
    }
}

fn come(namespaces: &mut HashMap<Box<str>, usize>, namespace: &str) {
    match namespaces.get_mut(namespace) {
        Some(count) => *count += 1,
        None if namespace.is_empty() => {}
        None => drop(namespaces.insert(namespace.into(), 1)),
    }
}

/// Sorts by key; what is much, in parts by all processors, and then the parts.
fn sort(entries: &mut [Arc<Entry>]) {
    if entries.len() > SORTED_ALONE {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let part = entries.len().div_ceil(threads);
        std::thread::scope(|scope| {
            for part in entries.chunks_mut(part) {
                scope.spawn(|| part.sort_unstable_by(|a, b| a.key.cmp(&b.key)));
            }
        });
    }
    // Keeps to what is in order already.
    entries.sort_by(|a, b| a.key.cmp(&b.key));
}

fn leave(values: &mut HashMap<Box<str>, Sorted>, value: &str, key: &str) {
    if let Some(entries) = values.get_mut(value) {
        entries.remove(key);
        if entries.is_empty() {
            values.remove(value);
        }
    }
}

/// Objects as they were: those of now, both sorted by key, with what changed since taken back. `None` stands for one that was
/// not there.
pub(super) fn overlaid<'a>(
    now: impl Iterator<Item = &'a Arc<Entry>>,
    then: BTreeMap<&'a str, Option<&'a Arc<Entry>>>,
) -> impl Iterator<Item = &'a Arc<Entry>> {
    let (mut now, mut then) = (now.peekable(), then.into_iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let next = match (now.peek(), then.peek()) {
                (Some(entry), Some((key, _))) if *entry.key < **key => return now.next(),
                (Some(entry), Some((key, _))) => {
                    if *entry.key == **key {
                        now.next();
                    }
                    then.next()
                }
                (Some(_), None) => return now.next(),
                (None, _) => then.next(),
            };
            // The one that was there, or go on.
            if let (_, Some(entry)) = next? {
                return Some(entry);
            }
        }
    })
}
