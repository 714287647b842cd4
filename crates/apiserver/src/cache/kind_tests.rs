use std::collections::BTreeMap;

use kybern_apimachinery::Gvk;
use kybern_apimachinery::selector::{FieldSelector, LabelSelector};
use proptest::prelude::*;

use super::*;
use crate::resource::SelectableField;

fn cache() -> KindCache {
    let kind = StoredKind {
        prefix: "pods".into(),
        gvk: Gvk::new("", "v1", "Pod"),
        resource: "pods".into(),
        namespaced: true,
        selectable: Vec::new(),
        refusal: None,
    };
    KindCache::new(Arc::new(kind), 1)
}

fn put(cache: &KindCache, name: &str, label: &str, revision: Revision) {
    let key = cache.key("ns", name);
    let value =
        format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","labels":{{"l":"{label}"}}}}}}"#);
    let entry = Entry::new(&cache.kind, cache.prefix.len(), key.clone(), value.as_bytes(), revision).unwrap();
    cache.apply(vec![(key, Some(entry), revision)], Instant::now());
}

fn delete(cache: &KindCache, name: &str, revision: Revision) {
    cache.apply(vec![(cache.key("ns", name), None, revision)], Instant::now());
}

fn selection(cache: &KindCache, labels: &str) -> Arc<Selection> {
    let labels = LabelSelector::parse(labels).unwrap();
    Arc::new(Selection::new(&cache.kind, "", labels, &FieldSelector::default()).unwrap())
}

type Seen = BTreeMap<String, Revision>;

fn listed(cache: &KindCache, selection: &Selection, at: Option<Revision>) -> Seen {
    let listing = cache.list(selection, None, 0, at, || 0).unwrap();
    listing.items.iter().map(|e| (e.name().to_owned(), e.revision)).collect()
}

/// Applies events as a client's cache would, checking that they make sense.
fn replay(mut seen: Seen, events: &[WatchEvent]) -> Seen {
    for event in events {
        let name = event.entry.name().to_owned();
        match event.kind {
            EventKind::Added => assert!(seen.insert(name, event.entry.revision).is_none(), "added twice"),
            EventKind::Modified => assert!(seen.insert(name, event.entry.revision).is_some(), "modified before added"),
            EventKind::Deleted => assert!(seen.remove(&name).is_some(), "deleted before added"),
        }
    }
    seen
}

#[test]
fn crossing_a_selector_adds_and_deletes() {
    let cache = cache();
    let mut watch = cache.watch(selection(&cache, "l=a"), 1).unwrap();
    put(&cache, "x", "a", 2);
    put(&cache, "x", "b", 3);
    put(&cache, "x", "a", 4);
    put(&cache, "x", "a", 5);
    delete(&cache, "x", 6);
    let mut seen = Vec::new();
    while let Ok(event) = watch.queue.try_recv() {
        seen.push((event.kind, event.entry.revision, event.entry.label("l").unwrap().to_owned()));
    }
    use EventKind::*;
    let expect = [(Added, 2, "a"), (Deleted, 3, "a"), (Added, 4, "a"), (Modified, 5, "a"), (Deleted, 6, "a")];
    assert_eq!(seen, expect.map(|(k, r, l)| (k, r, l.to_owned())));
}

#[test]
fn pages_are_of_one_revision() {
    let cache = cache();
    for (i, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        put(&cache, name, "x", i as u64 + 2);
    }
    let all = Selection::default();
    let first = cache.list(&all, None, 2, None, || 0).unwrap();
    assert_eq!((first.revision, first.items.len(), first.remaining), (5, 2, Some(2)));
    delete(&cache, "c", 6);
    put(&cache, "d", "y", 7);
    put(&cache, "e", "y", 8);
    let rest = cache.list(&all, first.next.as_deref(), 2, Some(5), || 0).unwrap();
    let names: Vec<_> = rest.items.iter().map(|e| (e.name().to_owned(), e.revision)).collect();
    assert_eq!(names, [("c".to_owned(), 4), ("d".to_owned(), 5)]);
    assert!(rest.next.is_none());
}

#[test]
fn a_watcher_that_does_not_read_is_dropped_but_can_catch_up() {
    let cache = cache();
    let mut watch = cache.watch(selection(&cache, ""), 1).unwrap();
    for i in 0..1000 {
        put(&cache, &format!("p{i}"), "x", i + 2);
    }
    let mut seen = Vec::new();
    while let Ok(event) = watch.queue.try_recv() {
        seen.push(event);
    }
    assert_eq!(seen.len(), super::super::watchers::QUEUE);
    assert_eq!(watch.queue.try_recv().err(), Some(mpsc::error::TryRecvError::Disconnected));
    let resumed = cache.watch(selection(&cache, ""), seen.last().unwrap().entry.revision).unwrap();
    assert_eq!(replay(replay(Seen::new(), &seen), &resumed.backlog), listed(&cache, &Selection::default(), None));
}

#[test]
fn pinned_watchers_see_what_comes_and_goes() {
    let kind = StoredKind {
        prefix: "pods".into(),
        gvk: Gvk::new("", "v1", "Pod"),
        resource: "pods".into(),
        namespaced: true,
        selectable: vec![SelectableField::at("spec.nodeName")],
        refusal: None,
    };
    let cache = KindCache::new(Arc::new(kind), 1);
    let node = |name: &str, node: &str, revision| {
        let key = cache.key("ns", name);
        let value = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"nodeName":"{node}"}}}}"#
        );
        let entry = Entry::new(&cache.kind, cache.prefix.len(), key.clone(), value.as_bytes(), revision).unwrap();
        cache.apply(vec![(key, Some(entry), revision)], Instant::now());
    };
    let watch = |fields: &str| {
        let fields = FieldSelector::parse(fields).unwrap();
        let selection = Selection::new(&cache.kind, "", LabelSelector::everything(), &fields).unwrap();
        cache.watch(Arc::new(selection), 1).unwrap().queue
    };
    let mut watches = ["spec.nodeName=n1", "spec.nodeName=n2", "metadata.name=x", "spec.nodeName!=n1"].map(watch);
    assert_eq!(cache.watchers(), 4);
    node("x", "n1", 2);
    node("x", "n2", 3);
    node("y", "n1", 4);
    delete(&cache, "y", 5);
    let mut seen = |i: usize| {
        let mut seen = String::new();
        while let Ok(event) = watches[i].try_recv() {
            seen.push_str(&format!("{:?} {} ", event.kind, event.entry.revision));
        }
        seen
    };
    assert_eq!(seen(0), "Added 2 Deleted 3 Added 4 Deleted 5 ");
    assert_eq!(seen(1), "Added 3 ");
    assert_eq!(seen(2), "Added 2 Modified 3 ");
    assert_eq!(seen(3), "Added 3 ");
    drop(watches);
    assert_eq!(cache.watchers(), 0);
}

#[test]
fn the_window_is_bounded_and_says_so() {
    let cache = cache();
    for i in 0..(WINDOW_MAX as u64 + 10) {
        put(&cache, "a", "x", i + 2);
    }
    let error = cache.watch(selection(&cache, ""), 5).err().unwrap();
    assert_eq!(error.oldest, 11);
    assert!(cache.list(&Selection::default(), None, 0, Some(5), || 0).is_err());
    assert!(cache.watch(selection(&cache, ""), 11).is_ok());
}

proptest! {
    /// From any revision on, the state then plus the events since is the state now, whatever the selector.
    #[test]
    fn any_watch_replays_to_the_same_state(
        steps in proptest::collection::vec((0..4u8, 0..3u8), 1..60),
        from in 0..60usize,
        labels in prop::sample::select(vec!["", "l=0", "l!=1"]),
    ) {
        let cache = cache();
        for (i, (name, action)) in steps.iter().enumerate() {
            let (name, revision) = (format!("p{name}"), i as u64 + 2);
            match action {
                2 => delete(&cache, &name, revision),
                label => put(&cache, &name, &label.to_string(), revision),
            }
        }
        let from = from.min(steps.len()) as u64 + 1;
        let selection = selection(&cache, labels);
        let then = listed(&cache, &selection, Some(from));
        let backlog = cache.watch(selection.clone(), from).unwrap().backlog;
        prop_assert!(backlog.iter().all(|e| e.entry.revision > from));
        prop_assert_eq!(replay(then, &backlog), listed(&cache, &selection, None));
    }
}
