//! What groups and versions add to `/openapi/v2`, each written and compressed once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress};
use kybern_apimachinery::{Map, Value};
use kybern_schema::openapi::{self, Served, V2Part};

/// Text that was compressed on its own, so that it may stand anywhere in a stream.
pub(crate) struct Piece {
    pub(crate) deflated: Bytes,
    pub(crate) crc: Crc,
}

impl Piece {
    fn new(text: &[u8]) -> Self {
        let mut crc = Crc::new();
        crc.update(text);
        let mut compress = Compress::new(Compression::new(1), false);
        let mut deflated = Vec::with_capacity(text.len() / 4 + 256);
        // Flushed, it ends at a whole byte, and nothing later refers to what was before it. While there was no room left,
        // the flush has not ended.
        while let Ok(read) = usize::try_from(compress.total_in()) {
            if compress.compress_vec(&text[read..], &mut deflated, FlushCompress::Sync).is_err() {
                break;
            }
            if deflated.len() < deflated.capacity() {
                break;
            }
            deflated.reserve(deflated.len());
        }
        deflated.shrink_to_fit();
        Self { deflated: deflated.into(), crc }
    }
}

/// What a part adds, in one notation: the members of `definitions`, `parameters` and `paths` in JSON, one message in protobuf.
pub(crate) struct Added(pub(crate) Vec<Piece>);

impl Added {
    pub(crate) fn new(part: V2Part, protobuf: bool) -> Self {
        let V2Part { paths, definitions, parameters } = part;
        if protobuf {
            // Messages that stand one after the other are one.
            let members = [("definitions", definitions), ("parameters", parameters), ("paths", paths)];
            let members: Map<String, Value> =
                members.map(|(name, map)| (name.to_owned(), map.into())).into_iter().collect();
            return Self(vec![Piece::new(&openapi::proto::v2(&members.into()))]);
        }
        let members = |map: Map<String, Value>| {
            let text = Value::from(map).to_string();
            Piece::new(&text.as_bytes()[1..text.len() - 1])
        };
        Self([definitions, parameters, paths].map(members).into())
    }

    /// Of custom resources.
    pub(crate) fn custom(served: &[Served], protobuf: bool) -> Self {
        Self::new(openapi::v2_custom(served), protobuf)
    }
}

/// In JSON and in protobuf.
#[derive(Default)]
pub(crate) struct Kept([OnceLock<Added>; 2]);

impl Kept {
    pub(crate) fn custom(&self, served: &[Served], protobuf: bool) -> &Added {
        self.0[usize::from(protobuf)].get_or_init(|| Added::custom(served, protobuf))
    }

    #[cfg(test)]
    pub(crate) fn is_made(&self, protobuf: bool) -> bool {
        self.0[usize::from(protobuf)].get().is_some()
    }
}

/// Documents by their path: the hash of each, and the document in JSON and in protobuf, compressed.
pub(crate) type Others = BTreeMap<String, (String, [Bytes; 2])>;

/// The part of built-in kinds.
pub(crate) struct Base {
    pub(crate) added: Added,
    /// Its definitions, each with its hash, and its parameters.
    pub(crate) definitions: HashMap<String, u64>,
    pub(crate) parameters: HashSet<String>,
}

impl Base {
    pub(crate) fn new<'a>(served: impl Iterator<Item = &'a Served>, protobuf: bool) -> Self {
        let part = openapi::v2_base(served);
        Self {
            definitions: part.definitions.iter().map(|(name, said)| (name.clone(), hash(said))).collect(),
            parameters: part.parameters.keys().cloned().collect(),
            added: Added::new(part, protobuf),
        }
    }
}

/// The hash of a definition, by which one that says the same is known.
pub(crate) fn hash(definition: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    definition.to_string().hash(&mut hasher);
    hasher.finish()
}
