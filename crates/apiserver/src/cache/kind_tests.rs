use std::collections::BTreeMap;

use kybern_apimachinery::Gvk;
use kybern_apimachinery::selector::{FieldSelector, LabelSelector};
use proptest::prelude::*;

use bytes::Bytes;

use super::super::watchers::Behind;
use super::super::{EventKind, Form};
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
        reader: None,
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
    let mut watch = cache.watch(&selection(&cache, "l=a"), 1).unwrap();
    put(&cache, "x", "a", 2);
    put(&cache, "x", "b", 3);
    put(&cache, "x", "a", 4);
    put(&cache, "x", "a", 5);
    delete(&cache, "x", 6);
    let mut seen = Vec::new();
    for event in watch.read().unwrap() {
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
    for namespace in ["", "ns", "n", "other"] {
        let selection = Selection::in_namespace(namespace);
        let page = cache.list(&selection, None, 1, None, || 0).unwrap();
        let left = (page.next.is_some()).then(|| {
            let rest = cache.list(&selection, page.next.as_deref(), 0, None, || 0).unwrap();
            rest.items.len()
        });
        assert_eq!(page.remaining, left, "{namespace:?}");
        assert_eq!(left.is_some(), matches!(namespace, "" | "ns"), "{namespace:?}");
    }
    let beyond = cache.list(&Selection::in_namespace("ns"), Some("/registry/zzz"), 1, None, || 0).unwrap();
    assert!(beyond.items.is_empty(), "a key that sorts behind all");
}

fn before(subscription: &mut Subscription) -> Vec<WatchEvent> {
    std::iter::from_fn(|| subscription.before()).collect()
}

#[test]
fn a_watcher_that_does_not_read_falls_behind_but_can_catch_up() {
    let cache = cache();
    let mut watch = cache.watch(&selection(&cache, ""), 1).unwrap();
    for i in 0..100 {
        put(&cache, &format!("p{i}"), "x", i + 2);
    }
    let seen = replay(Seen::new(), &watch.read().unwrap());
    assert_eq!(seen.len(), 100);
    for i in 100..100 + super::super::watchers::HELD as u64 + 1 {
        put(&cache, &format!("p{i}"), "x", i + 2);
    }
    assert_eq!(watch.read().err(), Some(Behind));
    cache.resume(&mut watch).unwrap();
    assert_eq!(replay(seen, &before(&mut watch)), listed(&cache, &Selection::default(), None));
    assert!(watch.read().unwrap().is_empty());
    delete(&cache, "p5", 100_000);
    assert_eq!(watch.read().unwrap().len(), 1);
}

/// What a selective watcher has looked at counts, also where there was nothing for it.
#[test]
fn a_selective_watcher_catches_up_from_what_it_has_looked_at() {
    let cache = cache();
    let mut watch = cache.watch(&selection(&cache, "l=b"), 1).unwrap();
    let total = WINDOW_MAX as u64 + 5000;
    for i in 0..total {
        put(&cache, "a", "a", i + 2);
        if i % 1000 == 0 {
            assert!(watch.read().unwrap().is_empty());
        }
    }
    put(&cache, "a", "b", total + 2);
    for i in 0..super::super::watchers::HELD as u64 {
        put(&cache, "c", "a", total + 3 + i);
    }
    if watch.read().is_err() {
        cache.resume(&mut watch).unwrap();
    }
    let events = before(&mut watch);
    assert_eq!(events.iter().map(|e| (e.kind, e.entry.revision)).collect::<Vec<_>>(), [(EventKind::Added, total + 2)]);
}

#[test]
fn transactions_are_read_as_a_whole() {
    let cache = cache();
    let mut watch = cache.watch(&selection(&cache, ""), 1).unwrap();
    let change = |i: u64, revision| {
        let key = cache.key("ns", &format!("p{i}"));
        let value = format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"p{i}"}}}}"#);
        let entry = Entry::new(&cache.kind, cache.prefix.len(), key.clone(), value.as_bytes(), revision).unwrap();
        (key, Some(entry), revision)
    };
    cache.apply((0..200).map(|i| change(i, 2)).chain((200..400).map(|i| change(i, 3))).collect(), Instant::now());
    assert_eq!(watch.read().unwrap().len(), 400);
    cache.apply((400..800).map(|i| change(i, 4)).chain((800..900).map(|i| change(i, 5))).collect(), Instant::now());
    let sizes: Vec<usize> = (0..3).map(|_| watch.read().unwrap().len()).collect();
    assert_eq!(sizes, [400, 100, 0]);
}

/// Watches that begin together share what there is, and see what has changed meanwhile as changes.
#[test]
fn watches_from_now_share_what_there_is() {
    let cache = cache();
    for i in 0..500 {
        put(&cache, &format!("p{i:03}"), &(i % 2).to_string(), i + 2);
    }
    let mut first = cache.watch_from_now(&selection(&cache, ""), || 0);
    put(&cache, "p007", "x", 600);
    delete(&cache, "p008", 601);
    put(&cache, "new", "1", 602);
    let mut second = cache.watch_from_now(&selection(&cache, "l!=0"), || 0);
    assert_eq!(second.revision, 602);
    let seen = replay(Seen::new(), &before(&mut first));
    assert_eq!(seen.len(), 500);
    assert_eq!(replay(seen, &first.read().unwrap()), listed(&cache, &Selection::default(), None));
    let seen = replay(Seen::new(), &before(&mut second));
    assert_eq!(seen, listed(&cache, &selection(&cache, "l!=0"), None));
    assert!(second.read().unwrap().is_empty());
}

#[test]
fn bytes_are_made_once_for_all_who_watch_in_one_form() {
    let cache = cache();
    let mut watches = ["", "", "", "l=a"].map(|labels| cache.watch(&selection(&cache, labels), 1).unwrap());
    put(&cache, "x", "a", 2);
    put(&cache, "x", "b", 3);
    let row = Arc::new(crate::resource::tests::row("", "v1", "Pod"));
    let form = |number| Form { row: row.clone(), number };
    let events = watches.each_mut().map(|watch| watch.read().unwrap());
    assert_eq!((events[0].len(), events[3].len()), (2, 2));
    assert!(events[0][0].shared(&form(1)).is_none());
    events[0][0].share(&form(1), &Bytes::from_static(b"one"));
    assert!(events[1][0].shared(&form(2)).is_none(), "another form");
    let of_another_row = Form { row: Arc::new(crate::resource::tests::row("", "v1", "Pod")), number: 1 };
    assert!(events[1][0].shared(&of_another_row).is_none(), "another row");
    assert_eq!(events[1][0].shared(&form(1)).unwrap(), "one");
    assert_eq!(events[3][0].shared(&form(1)).unwrap(), "one");
    // Of the second change the fourth watcher sees a deletion.
    events[0][1].share(&form(1), &Bytes::from_static(b"changed"));
    assert!(events[3][1].shared(&form(1)).is_none());
    assert_eq!(events[2][1].shared(&form(1)).unwrap(), "changed");
    // The last one who can ask takes it along.
    assert_eq!(events[2][0].shared(&form(1)).unwrap(), "one");
    assert!(events[2][0].shared(&form(1)).is_none());
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
        reader: None,
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
        cache.watch(&Arc::new(selection), 1).unwrap()
    };
    let mut watches = ["spec.nodeName=n1", "spec.nodeName=n2", "metadata.name=x", "spec.nodeName!=n1"].map(watch);
    assert_eq!(cache.watchers(), 4);
    node("x", "n1", 2);
    node("x", "n2", 3);
    node("y", "n1", 4);
    delete(&cache, "y", 5);
    let mut seen = |i: usize| {
        let mut seen = String::new();
        for event in watches[i].read().unwrap() {
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
    // Lists find them by the value, too, now and as they were.
    let select = |fields: &str| {
        Selection::new(&cache.kind, "", LabelSelector::everything(), &FieldSelector::parse(fields).unwrap()).unwrap()
    };
    for i in 0..300 {
        node(&format!("p{i:03}"), &format!("n{}", i % 3), i + 10);
    }
    let on = select("spec.nodeName=n1");
    let then = listed(&cache, &on, None);
    assert_eq!(then.len(), 100);
    assert!(!cache.state.read().objects.lacks_index(on.pin().unwrap().0), "it is indexed");
    node("p000", "n1", 400);
    node("p001", "n2", 401);
    delete(&cache, "p004", 402);
    let now = listed(&cache, &on, None);
    assert_eq!(now.len(), 99);
    assert!(now.contains_key("p000") && !now.contains_key("p001") && !now.contains_key("p004"));
    assert_eq!(listed(&cache, &on, Some(309)), then);
    let page = cache.list(&on, Some(&cache.key("ns", "p003")), 2, Some(309), || 0).unwrap();
    assert_eq!(page.items.iter().map(|e| e.name()).collect::<Vec<_>>(), ["p004", "p007"]);
    assert!(listed(&cache, &select("spec.nodeName=none"), None).is_empty());
}

#[test]
fn the_window_is_bounded_and_says_so() {
    let cache = cache();
    for i in 0..(WINDOW_MAX as u64 + 10) {
        put(&cache, "a", "x", i + 2);
    }
    let error = cache.watch(&selection(&cache, ""), 5).err().unwrap();
    assert_eq!(error.oldest, 11);
    assert!(cache.list(&Selection::default(), None, 0, Some(5), || 0).is_err());
    assert!(cache.watch(&selection(&cache, ""), 11).is_ok());
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
        let backlog = before(&mut cache.watch(&selection, from).unwrap());
        prop_assert!(backlog.iter().all(|e| e.entry.revision > from));
        prop_assert_eq!(replay(then, &backlog), listed(&cache, &selection, None));
    }
}
