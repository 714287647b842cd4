//! Bodies of requests, and what the store holds.

use std::sync::LazyLock;

use kybern_apimachinery::{Budget, Gvk};
use kybern_apiserver::cache::Entry;
use kybern_apiserver::resource::StoredKind;
use kybern_schema::types::KindType;
use kybern_schema::{Strictness, decode, decode_yaml, proto};

pub(crate) fn kind(group: &str, version: &str, kind: &str) -> KindType {
    kybern_schema::builtin().kind(&Gvk::new(group, version, kind)).expect("a built-in kind")
}

/// A kind of many shapes, one that recurs, one that holds others.
pub(crate) static KINDS: LazyLock<[KindType; 4]> = LazyLock::new(|| {
    [
        kind("", "v1", "Pod"),
        kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
        kind("", "v1", "WatchEvent"),
        kind("meta.k8s.io", "v1", "DeleteOptions"),
    ]
});

pub(crate) fn json(data: &[u8]) {
    for kind in &*KINDS {
        for strictness in [Strictness::Ignore, Strictness::Strict] {
            if let Ok((tree, _)) = decode(kind, data, strictness) {
                Budget::STORED.check(&tree).expect("what is decoded is within the budget");
                let again = decode(kind, tree.to_string().as_bytes(), Strictness::Ignore);
                assert_eq!(again.map(|(tree, _)| tree).as_ref(), Ok(&tree), "a decoded object decodes to itself");
            }
        }
    }
    let _ = kybern_schema::decode::json_to_value(data);
}

pub(crate) fn yaml(data: &[u8]) {
    let _ = decode_yaml(&KINDS[0], data, Strictness::Strict);
    let _ = decode_yaml(&KINDS[1], data, Strictness::Ignore);
    if let Ok(tree) = kybern_schema::decode::yaml_to_value(data) {
        Budget::REQUEST.check(&tree).expect("what is read is within the budget");
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = kybern_schema::decode::yaml_documents(text);
    }
}

pub(crate) fn protobuf(data: &[u8]) {
    for kind in &*KINDS {
        if let Ok(tree) = proto::decode(kind, data) {
            Budget::REQUEST.check(&tree).expect("what is decoded is within the budget");
            if let Ok(bytes) = proto::encode(kind, &tree) {
                let again = proto::decode(kind, &bytes).expect("what was written can be read");
                assert_eq!(again, tree);
            }
        }
        let _ = proto::decode_message(kind, data);
    }
}

pub(crate) fn stored(data: &[u8]) {
    static KIND: LazyLock<StoredKind> = LazyLock::new(|| StoredKind {
        prefix: "pods".into(),
        gvk: Gvk::new("", "v1", "Pod"),
        resource: "pods".into(),
        namespaced: true,
        selectable: Vec::new(),
        refusal: None,
        reader: None,
    });
    let Ok(entry) = Entry::new(&KIND, 3, "/p/ns/a".into(), data, 7) else { return };
    let _ = (entry.value(), entry.metadata(), entry.body(), entry.label("a"));
    let _ = entry.at_revision(70_000).value();
}
