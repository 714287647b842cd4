//! The OpenAPI documents that the server publishes, made from the shape table and the resources that are served:
//! `/openapi/v2` ([`v2`]) and `/openapi/v3` ([`v3`]), each as JSON and, through [`proto`], as protobuf.
//!
//! A document is built when it is asked for; callers keep the bytes, keyed by [`fingerprint`].

mod definitions;
mod descriptions;
mod operations;
mod plain;
pub mod proto;
mod v2;
mod v3;

use kybern_apimachinery::{GroupVersion, Gvk, Value};

use crate::builtin;
use crate::builtin::ResourceRow;

pub use v2::{Part as V2Part, base as v2_base, custom as v2_custom, document as v2, head as v2_head};
pub use v3::{address as v3_address, document as v3, index as v3_index, others as v3_others, path as v3_path};

/// A resource, as documents describe it.
#[derive(Clone, Debug)]
pub struct Served {
    pub gvk: Gvk,
    /// The plural.
    pub resource: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub subresources: Vec<ServedSubresource>,
    /// The name of the kind's definition: `io.k8s.api.core.v1.Pod`, `com.example.v1.Widget`.
    pub definition: String,
    /// The name of the list's definition; empty where there are no lists.
    pub list_definition: String,
    /// A custom resource's `openAPIV3Schema`, its type and metadata included or not.
    pub schema: Option<Value>,
}

#[derive(Clone, Debug)]
pub struct ServedSubresource {
    pub name: String,
    pub gvk: Gvk,
    /// The definition of the body, or of the options of a connection.
    pub definition: String,
    pub verbs: Vec<String>,
}

impl Served {
    /// A resource of a built-in kind, with its subresources' names, kinds and verbs.
    pub fn new<'a>(
        gvk: Gvk,
        resource: &str,
        namespaced: bool,
        verbs: Vec<String>,
        subresources: impl IntoIterator<Item = (&'a str, &'a Gvk, Vec<String>)>,
    ) -> Self {
        let list = Gvk { kind: format!("{}List", gvk.kind), ..gvk.clone() };
        let lists = verbs.iter().any(|v| v == "list");
        let subresource = |(name, gvk, verbs): (&str, &Gvk, _)| ServedSubresource {
            name: name.to_owned(),
            gvk: gvk.clone(),
            definition: builtin_definition(gvk),
            verbs,
        };
        Self {
            definition: builtin_definition(&gvk),
            list_definition: if lists { builtin_definition(&list) } else { String::new() },
            gvk,
            resource: resource.to_owned(),
            namespaced,
            verbs,
            subresources: subresources.into_iter().map(subresource).collect(),
            schema: None,
        }
    }

    /// A row of the built-in table.
    pub fn builtin(row: &ResourceRow) -> Self {
        let owned = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let subresources = row.subresources.iter().map(|s| (s.name, &s.kind, owned(&s.verbs)));
        Self::new(row.gvk(), row.resource, row.namespaced, owned(&row.verbs), subresources)
    }

    /// A custom resource. `subresources` are names of `status` and `scale`.
    pub fn custom(gvk: Gvk, resource: &str, namespaced: bool, subresources: &[&str], schema: Value) -> Self {
        // Upstream turns the group's labels around: `com.example.v1.Widget`.
        let group: Vec<&str> = gvk.group.rsplit('.').collect();
        let definition = format!("{}.{}.{}", group.join("."), gvk.version, gvk.kind);
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let subresource = |name: &&str| {
            let own = if *name == "scale" { Gvk::new("autoscaling", "v1", "Scale") } else { gvk.clone() };
            ServedSubresource {
                name: (*name).to_owned(),
                definition: if *name == "scale" { builtin_definition(&own) } else { definition.clone() },
                gvk: own,
                verbs: words(&["get", "patch", "update"]),
            }
        };
        Self {
            subresources: subresources.iter().map(subresource).collect(),
            list_definition: format!("{definition}List"),
            definition,
            resource: resource.to_owned(),
            namespaced,
            verbs: words(&["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]),
            schema: Some(schema),
            gvk,
        }
    }

    fn group_version(&self) -> GroupVersion {
        self.gvk.group_version()
    }
}

/// The name of a built-in kind's definition; empty for a kind that is not built in.
fn builtin_definition(gvk: &Gvk) -> String {
    builtin().kind(gvk).map(|k| k.root().name.to_string()).unwrap_or_default()
}

/// Changes whenever a document of these resources does. Sixteen hexadecimal digits.
pub fn fingerprint(served: &[Served]) -> String {
    hash(served.iter().map(|resource| format!("{resource:?}")))
}

/// The fingerprint of a document that never changes.
pub fn fingerprint_of(document: &Value) -> String {
    hash(std::iter::once(document.to_string()))
}

/// The fingerprint of a document that is about all that these are of.
pub fn joined(fingerprints: &[&str]) -> String {
    hash(fingerprints.iter().map(|f| (*f).to_owned()))
}

fn hash(parts: impl Iterator<Item = String>) -> String {
    // FNV-1a: the same in every process, and no secret depends on it.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |bytes: &[u8]| {
        for byte in bytes.iter().chain(b"\0") {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    add(env!("CARGO_PKG_VERSION").as_bytes());
    add(&descriptions::FINGERPRINT.to_le_bytes());
    parts.for_each(|part| add(part.as_bytes()));
    format!("{hash:016X}")
}

/// Which of the two notations a document is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flavor {
    V2,
    V3,
}

impl Flavor {
    /// A reference to a definition.
    fn reference(self, name: &str) -> String {
        match self {
            Self::V2 => format!("#/definitions/{name}"),
            Self::V3 => format!("#/components/schemas/{name}"),
        }
    }
}

#[cfg(test)]
mod tests;
