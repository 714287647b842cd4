//! How violations are worded.

use std::collections::BTreeSet;

use kybern_apimachinery::Value;
use kybern_apimachinery::tree::text;

pub(super) fn plural(one: &str, more: &str, count: usize) -> String {
    if count == 1 { one } else { more }.to_owned()
}

pub(super) fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect::<Vec<_>>().join(", ")
}

/// `container "a"`, `containers "a", "b"`.
pub(super) fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// Who sets something that is not allowed.
#[derive(Default)]
pub(super) struct Setters<'a> {
    pub(super) pod: bool,
    pub(super) containers: Vec<&'a str>,
    pub(super) values: BTreeSet<String>,
}

impl<'a> Setters<'a> {
    pub(super) fn is_empty(&self) -> bool {
        !self.pod && self.containers.is_empty()
    }

    pub(super) fn container(&mut self, container: &'a Value) {
        self.containers.push(text(container, "name"));
    }

    /// `pod`, `containers "a", "b"`, both.
    pub(super) fn shown(&self) -> Vec<String> {
        let mut shown = Vec::new();
        if self.pod {
            shown.push("pod".to_owned());
        }
        if !self.containers.is_empty() {
            shown.push(containers(&self.containers));
        }
        shown
    }
}
