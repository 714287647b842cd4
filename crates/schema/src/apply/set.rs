//! Sets of fields, and their form `FieldsV1`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use kybern_apimachinery::{Map, Value};

use super::path::PathElement;

/// A set of paths, as a tree. A path and the paths below it are members of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    nodes: BTreeMap<PathElement, Node>,
}

/// Kept only while it is a member or has members below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    below: FieldSet,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl FieldSet {
    /// A set of paths of plain fields, such as `&[&["status"], &["metadata", "labels"]]`.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let path: Vec<PathElement> = path.iter().map(|name| PathElement::Field((*name).to_owned())).collect();
            set.insert(&path);
        }
        set
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds a path. The empty path, which is the whole object, is never a member.
    pub fn insert(&mut self, path: &[PathElement]) {
        let Some((last, parents)) = path.split_last() else { return };
        let mut set = self;
        for element in parents {
            // Looked up first: cloning an element allocates.
            if !set.nodes.contains_key(element) {
                set.nodes.insert(element.clone(), Node::default());
            }
            set = &mut set.nodes.get_mut(element).expect("inserted above").below;
        }
        match set.nodes.get_mut(last) {
            Some(node) => node.member = true,
            None => {
                set.nodes.insert(last.clone(), Node { member: true, below: Self::default() });
            }
        }
    }

    /// Whether a path of one element is a member.
    pub fn has(&self, element: &PathElement) -> bool {
        self.nodes.get(element).is_some_and(|node| node.member)
    }

    /// The members below an element, without it.
    pub fn below(&self, element: &PathElement) -> Option<&Self> {
        self.nodes.get(element).map(|node| &node.below).filter(|set| !set.is_empty())
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: &Self) {
        for (element, theirs) in &other.nodes {
            match self.nodes.get_mut(element) {
                Some(ours) => {
                    ours.member |= theirs.member;
                    ours.below.extend(&theirs.below);
                }
                None => {
                    self.nodes.insert(element.clone(), theirs.clone());
                }
            }
        }
    }

    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        self.extend(other);
        self
    }

    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let both = |(element, ours): (&PathElement, &Node)| {
            let theirs = other.nodes.get(element)?;
            let node = Node { member: ours.member && theirs.member, below: ours.below.intersection(&theirs.below) };
            (!node.is_empty()).then(|| (element.clone(), node))
        };
        Self { nodes: self.nodes.iter().filter_map(both).collect() }
    }

    /// Takes away the members of `other`, each alone: what lies below it stays.
    #[must_use]
    pub fn difference(mut self, other: &Self) -> Self {
        self.subtract(other, false);
        self
    }

    /// Takes away the members of `other` with all that lies below them.
    #[must_use]
    pub fn recursive_difference(mut self, other: &Self) -> Self {
        self.subtract(other, true);
        self
    }

    fn subtract(&mut self, other: &Self, recursive: bool) {
        for (element, theirs) in &other.nodes {
            let Entry::Occupied(mut ours) = self.nodes.entry(element.clone()) else { continue };
            if theirs.member && recursive {
                ours.remove();
                continue;
            }
            let node = ours.get_mut();
            node.member &= !theirs.member;
            node.below.subtract(&theirs.below, recursive);
            if node.is_empty() {
                ours.remove();
            }
        }
    }

    /// The elements at this level, whether each is a member, and what lies below it.
    pub(super) fn elements(&self) -> impl Iterator<Item = (&PathElement, bool, &Self)> {
        self.nodes.iter().map(|(element, node)| (element, node.member, &node.below))
    }

    /// Builds a level; elements that carry nothing are left out.
    pub(super) fn from_elements(elements: impl IntoIterator<Item = (PathElement, bool, Self)>) -> Self {
        let nodes = elements.into_iter().map(|(element, member, below)| (element, Node { member, below }));
        Self { nodes: nodes.filter(|(_, node)| !node.is_empty()).collect() }
    }

    /// Every member, in upstream's order: at each level the members, then what lies below each.
    pub fn paths(&self) -> Vec<Vec<PathElement>> {
        let mut found = Vec::new();
        self.collect_paths(&mut Vec::new(), &mut found);
        found
    }

    fn collect_paths(&self, prefix: &mut Vec<PathElement>, found: &mut Vec<Vec<PathElement>>) {
        for (element, node) in &self.nodes {
            if node.member {
                found.push(prefix.iter().cloned().chain([element.clone()]).collect());
            }
        }
        for (element, node) in &self.nodes {
            prefix.push(element.clone());
            node.below.collect_paths(prefix, found);
            prefix.pop();
        }
    }

    /// Reads `FieldsV1`.
    pub fn from_fields_v1(fields: &Value) -> Result<Self, String> {
        let Value::Object(map) = fields else { return Err("FieldsV1 must be an object".to_owned()) };
        Ok(read(map)?.1)
    }

    /// Writes `FieldsV1`.
    pub fn to_fields_v1(&self) -> Value {
        let encoded = self.nodes.iter().map(|(element, node)| {
            let mut below = node.below.to_fields_v1();
            if let (true, Value::Object(below)) = (node.member && !node.below.is_empty(), &mut below) {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            (element.encode(), below)
        });
        Value::Object(encoded.collect())
    }
}

/// Whether a `FieldsV1` object says that it is itself a member, and what lies below it.
fn read(map: &Map<String, Value>) -> Result<(bool, FieldSet), String> {
    let mut set = FieldSet::default();
    let mut member = false;
    for (key, value) in map {
        if key == "." {
            member = true;
            continue;
        }
        let Some(element) = PathElement::parse(key)? else { continue };
        let Value::Object(inner) = value else { return Err(format!("FieldsV1 must hold an object at {key:?}")) };
        let (member, below) = read(inner)?;
        set.nodes.insert(element, Node { member, below });
    }
    Ok((member || set.is_empty(), set))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;
    use proptest::prelude::*;

    fn element() -> impl Strategy<Value = PathElement> {
        prop_oneof![
            "[a-c]".prop_map(PathElement::Field),
            (0..3u32).prop_map(|n| PathElement::Key(format!("{{\"name\":{n}}}"))),
            (0..3u32).prop_map(|n| PathElement::Value(n.to_string())),
        ]
    }

    fn set() -> impl Strategy<Value = FieldSet> {
        proptest::collection::vec(proptest::collection::vec(element(), 1..4), 0..8).prop_map(|paths| {
            let mut set = FieldSet::default();
            paths.iter().for_each(|path| set.insert(path));
            set
        })
    }

    proptest! {
        #[test]
        fn laws_of_sets(a in set(), b in set(), c in set()) {
            let union = a.clone().union(&b);
            prop_assert_eq!(&union, &b.clone().union(&a));
            prop_assert_eq!(a.intersection(&b), b.intersection(&a));
            prop_assert_eq!(union.clone().union(&c), a.clone().union(&b.clone().union(&c)));
            // What is in exactly one, or in both, is all there is.
            let (only_a, only_b) = (a.clone().difference(&b), b.clone().difference(&a));
            prop_assert_eq!(only_a.clone().union(&only_b).union(&a.intersection(&b)), union.clone());
            prop_assert!(only_a.intersection(&b).is_empty());
            prop_assert!(a.clone().difference(&a).is_empty());
            prop_assert_eq!(a.intersection(&union), a.clone());
            prop_assert_eq!(a.clone().recursive_difference(&b).intersection(&a.clone().difference(&b)), a.clone().recursive_difference(&b));
            prop_assert_eq!(union.paths().len() + a.intersection(&b).paths().len(), a.paths().len() + b.paths().len());
        }

        #[test]
        fn fields_v1_round_trip(a in set()) {
            prop_assert_eq!(FieldSet::from_fields_v1(&a.to_fields_v1()), Ok(a.clone()));
        }
    }

    #[test]
    fn fields_v1_form() {
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"k:{\"name\":\"a\"}": {}}});
        let set = FieldSet::from_fields_v1(&fields).unwrap();
        assert_eq!(set.to_fields_v1(), fields);
        assert_eq!(set.paths().len(), 3);
        assert_eq!(
            FieldSet::from_fields_v1(&json!({"z:unknown": {"f:a": {}}, "f:b": {".": {}}})).unwrap().to_fields_v1(),
            json!({"f:b": {}})
        );
        for bad in [json!(1), json!({"f:a": 1}), json!({"nonsense": {}})] {
            assert!(FieldSet::from_fields_v1(&bad).is_err(), "{bad} parsed");
        }
    }

    #[test]
    fn recursive_difference_takes_the_subtree() {
        let set = FieldSet::of_fields(&[&["status"], &["status", "phase"], &["spec", "a"]]);
        assert_eq!(
            set.recursive_difference(&FieldSet::of_fields(&[&["status"]])),
            FieldSet::of_fields(&[&["spec", "a"]])
        );
    }
}
