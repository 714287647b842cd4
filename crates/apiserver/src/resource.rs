//! A kind as data: the row that makes the generic server serve it. Built-in kinds and custom resources are both this.

use std::fmt;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use kybern_apimachinery::{ApiError, Gvk, Gvr, Value};
use kybern_schema::types::KindType;

use crate::BoxFuture;
use crate::connect::Connector;
use crate::strategy::Strategy;

/// One served resource in one version.
#[derive(Clone)]
pub struct Resource {
    pub gvr: Gvr,
    pub kind: String,
    pub singular: String,
    pub namespaced: bool,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    /// As discovery lists them.
    pub verbs: Vec<String>,
    pub subresources: Vec<Subresource>,
    pub ty: KindType,
    /// A custom resource's `openAPIV3Schema`, for those who want it explained. A built-in kind's shape says it all.
    pub schema: Option<Arc<Value>>,
    /// The version that its strategy, admission and columns see: the stored one of a built-in kind, its own of a custom
    /// resource.
    pub internal: Gvk,
    /// Where and as what its objects are stored; shared by all served versions of the kind.
    pub stored: Arc<StoredKind>,
    /// Between the versions of its kind; `None` when they differ in `apiVersion` only.
    pub conversion: Option<Arc<dyn Conversion>>,
    pub strategy: Arc<dyn Strategy>,
    pub generation: Generation,
    /// Whether DELETE answers with the object instead of a `Status`, as upstream does for pods, services and some more.
    pub returns_deleted: bool,
    pub columns: Arc<Columns>,
    /// Serves every request of a resource that is never stored, such as `tokenreviews` and `bindings`: no object is read
    /// or written on its behalf, and `stored` and `strategy` are not used.
    pub unstored: Option<Arc<dyn Connector>>,
}

/// What `metadata.generation` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// Nothing: objects have none.
    None,
    /// Changes of everything outside metadata and status, from 1.
    Spec,
    /// Changes of annotations, too, unless a status is written.
    SpecAndAnnotations,
    /// Changes of labels, too.
    SpecAndLabels,
    /// Changes of status, too: of everything outside metadata, from 1.
    SpecAndStatus,
    /// As `Spec`, but a new object has none.
    Updates,
}

/// What all versions of a kind share in the store.
#[derive(Debug)]
pub struct StoredKind {
    /// Upstream's path below `/registry/`: `pods`, `services/specs`, `minions`, `leases`, `apiextensions.k8s.io/…`.
    pub prefix: String,
    pub gvk: Gvk,
    pub resource: String,
    pub namespaced: bool,
    /// Fields that field selectors may name besides `metadata.name` and `metadata.namespace`, and how to read them.
    pub selectable: Vec<SelectableField>,
    /// How a field that selectors may not name is refused, where that is not said as of most kinds.
    pub refusal: Option<fn(&str) -> String>,
    /// What brings stored objects up to date, of a kind whose schema can change.
    pub reader: Option<Reader>,
}

impl StoredKind {
    /// Whether entries that were read for this kind will do for another.
    pub(crate) fn is_read_as(&self, other: &Self) -> bool {
        let ids = [self, other].map(|kind| kind.reader.as_ref().map(|reader| reader.id));
        self.namespaced == other.namespaced && self.selectable == other.selectable && ids[0] == ids[1]
    }
}

/// Brings stored objects into the form that their schema has by now, before anybody sees them. What is written is in that
/// form, and known to be by the hash of its bytes, so that it need not be looked into again.
pub struct Reader {
    /// Of what it was made of.
    id: u64,
    refresh: Box<Refresh>,
}

pub type Refresh = dyn Fn(&mut Value) + Send + Sync;

/// Hashes of what was written last, each at its place.
static WRITTEN: LazyLock<Box<[AtomicU64]>> = LazyLock::new(|| (0..WRITTEN_PLACES).map(|_| AtomicU64::new(0)).collect());
const WRITTEN_PLACES: usize = 1 << 14;
static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Reader {
    /// Readers that are made of equal schemas do the same.
    pub fn new(made_of: impl Hash, refresh: Box<Refresh>) -> Self {
        Self { id: HASHES.hash_one(made_of), refresh }
    }

    pub(crate) fn refresh(&self, object: &mut Value) {
        (self.refresh)(object);
    }

    /// Notes that a value about to be stored is in its form.
    pub(crate) fn note(&self, value: &[u8]) {
        let hash = HASHES.hash_one((self.id, value));
        WRITTEN[hash as usize % WRITTEN_PLACES].store(hash, Ordering::Relaxed);
    }

    /// Whether it was noted of a value, as far as that is remembered.
    pub(crate) fn knows(&self, value: &[u8]) -> bool {
        let hash = HASHES.hash_one((self.id, value));
        WRITTEN[hash as usize % WRITTEN_PLACES].load(Ordering::Relaxed) == hash
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("id", &self.id).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelectableField {
    /// As the selector names it: `status.phase`, `involvedObject.name`.
    pub path: String,
    /// Other names of it, such as another version has.
    pub aliases: Vec<String>,
    /// The JSON path in the stored object.
    pub json_path: Vec<String>,
    /// What an unset field reads as, such as `default-scheduler`; usually empty.
    pub unset: String,
    /// The place, among the kind's selectable fields, of the one that an unset field reads as.
    pub instead: Option<usize>,
}

impl SelectableField {
    /// The field at the path that selectors name.
    pub fn at(path: &str) -> Self {
        let json_path = path.split('.').map(str::to_owned).collect();
        Self { path: path.to_owned(), json_path, ..Self::default() }
    }
}

/// Converts objects between the versions of a kind. It may ask someone else, who may be away or answer nonsense.
pub trait Conversion: Send + Sync + 'static {
    /// Objects, each of the version that its `apiVersion` names, in another version: as many, in the same order.
    fn convert<'a>(&'a self, objects: Vec<Value>, api_version: &'a str) -> BoxFuture<'a, Result<Vec<Value>, ApiError>>;
}

#[derive(Clone)]
pub struct Subresource {
    /// `status`, `scale`, `log`, `exec`, …
    pub name: String,
    pub verbs: Vec<String>,
    /// The kind of its request and response, as discovery lists it.
    pub kind: Gvk,
    pub handler: SubresourceHandler,
}

#[derive(Clone)]
pub enum SubresourceHandler {
    /// Reads and writes the parent object through another strategy: `status`, `ephemeralcontainers`, `resize`.
    Part(Arc<dyn Strategy>),
    /// `autoscaling/v1 Scale`.
    Scale(Arc<Scale>),
    /// A request that is neither a read nor a write of the stored object: `binding`, `eviction`, `token`, `log`, `exec`.
    Connect(Arc<dyn Connector>),
}

/// Where an object has what its scale shows.
pub struct Scale {
    /// The JSON paths of replicas in spec and status.
    pub spec_replicas: Vec<String>,
    pub status_replicas: Vec<String>,
    /// Of the selector; empty where there is none.
    pub selector: Vec<String>,
    /// Of the scale, not of what is scaled.
    pub columns: Columns,
}

/// The columns of `kubectl get`: upstream's printers, as data and one pure function per kind.
#[derive(Clone)]
pub struct Columns {
    pub definitions: Vec<Column>,
    /// The cells of one object of the internal version, one per definition. `now` serves ages.
    pub cells: Arc<Cells>,
    /// What a table of many is sorted by before their names, where it is by something else.
    pub order: Option<fn(&Value) -> i64>,
}

pub type Cells = dyn Fn(&Value, jiff::Timestamp) -> Vec<Value> + Send + Sync;

#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    /// `string`, `integer`, `date`.
    pub ty: String,
    /// `name` for the first column, else mostly empty.
    pub format: String,
    pub description: String,
    /// 0 is always shown; more only with `-o wide`.
    pub priority: i32,
}

/// What orders versions, higher first: `v2` before `v1` before `v1beta2` before `v1alpha1`: upstream's order of versions.
pub fn version_priority(version: &str) -> (u8, u64, u64) {
    let number = |text: &str| text.parse::<u64>().ok();
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    for (stage, rank) in [("beta", 2), ("alpha", 1)] {
        if let Some((major, minor)) = rest.split_once(stage) {
            return number(major).zip(number(minor)).map_or((0, 0, 0), |(major, minor)| (rank, major, minor));
        }
    }
    number(rest).map_or((0, 0, 0), |major| (3, major, 0))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::strategy::Plain;

    /// A row of a kind; of a built-in one's shape where its group has none of that name.
    pub(crate) fn row(group: &str, version: &str, kind: &str) -> Resource {
        let gvk = Gvk::new(group, version, kind);
        let plural = format!("{}s", kind.to_lowercase());
        let builtin = kybern_schema::builtin();
        let prefix = if group.contains('.') { format!("{group}/{plural}") } else { plural.clone() };
        Resource {
            gvr: Gvr::new(group, version, &plural),
            kind: kind.to_owned(),
            singular: kind.to_lowercase(),
            namespaced: true,
            short_names: Vec::new(),
            categories: Vec::new(),
            verbs: ["get", "list"].map(str::to_owned).into(),
            subresources: Vec::new(),
            ty: builtin.kind(&gvk).or_else(|| builtin.kind(&Gvk::new("", "v1", kind))).unwrap(),
            schema: group.contains('.').then(|| Arc::new(kybern_apimachinery::json!({"type": "object"}))),
            internal: gvk.clone(),
            stored: Arc::new(StoredKind {
                prefix,
                gvk,
                resource: plural,
                namespaced: true,
                selectable: Vec::new(),
                refusal: None,
                reader: None,
            }),
            conversion: None,
            strategy: Arc::new(Plain),
            generation: Generation::Spec,
            returns_deleted: false,
            columns: Arc::new(Columns { definitions: Vec::new(), cells: Arc::new(|_, _| Vec::new()), order: None }),
            unstored: None,
        }
    }
}
