//! `/openapi/v2`: one document about everything, put together from parts. Each part is written and compressed once, for as long
//! as its group and version stay as they are: what is new costs what it says itself, whatever else is served.

use bytes::Bytes;
use flate2::Crc;
use kybern_apimachinery::Value;
use kybern_schema::openapi;

use super::merge;
use crate::openapi_parts::{Added, Base, Piece};

/// The document, compressed. `remotes` are parts of other servers; `taken` are the names of custom resources' definitions.
pub(super) fn document<'a>(
    base: &Base,
    custom: &[&Added],
    taken: impl Iterator<Item = &'a str>,
    remotes: &[&Value],
    version: &str,
    protobuf: bool,
) -> Bytes {
    let mut added = vec![&base.added];
    added.extend(custom);
    let mut of_others = Vec::new();
    if !remotes.is_empty() {
        let (mut definitions, mut parameters) = (base.definitions.clone(), base.parameters.clone());
        // What is there under such a name is another's, whatever it says.
        definitions.extend(taken.map(|name| (name.to_owned(), 0)));
        for part in remotes {
            of_others.push(Added::new(merge::beside(part, &mut definitions, &mut parameters), protobuf));
        }
    }
    added.extend(&of_others);
    let head = openapi::v2_head(version);
    let mut stream = Stream::default();
    if protobuf {
        stream.text(&openapi::proto::v2(&head));
        added.iter().flat_map(|added| &added.0).for_each(|piece| stream.piece(piece));
    } else {
        for (at, name) in ["definitions", "parameters", "paths"].into_iter().enumerate() {
            stream.text(format!("{}\"{name}\":{{", if at == 0 { "{" } else { "}," }).as_bytes());
            let pieces = added.iter().filter_map(|added| added.0.get(at)).filter(|piece| piece.crc.amount() > 0);
            for (i, piece) in pieces.enumerate() {
                if i > 0 {
                    stream.text(b",");
                }
                stream.piece(piece);
            }
        }
        stream.text(format!("}},{}", &head.to_string()[1..]).as_bytes());
    }
    stream.finish()
}

/// A gzip file (RFC 1952) made of pieces.
struct Stream {
    out: Vec<u8>,
    crc: Crc,
}

impl Default for Stream {
    fn default() -> Self {
        let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255];
        Self { out: header.to_vec(), crc: Crc::new() }
    }
}

impl Stream {
    fn piece(&mut self, piece: &Piece) {
        self.out.extend_from_slice(&piece.deflated);
        self.crc.combine(&piece.crc);
    }

    /// A few bytes, as they are: a block of its own.
    fn text(&mut self, text: &[u8]) {
        for block in text.chunks(usize::from(u16::MAX)) {
            let length = u16::try_from(block.len()).unwrap_or_default();
            self.out.push(0);
            self.out.extend_from_slice(&length.to_le_bytes());
            self.out.extend_from_slice(&(!length).to_le_bytes());
            self.out.extend_from_slice(block);
        }
        self.crc.update(text);
    }

    fn finish(mut self) -> Bytes {
        // The last block, which is empty.
        self.out.extend_from_slice(&[1, 0, 0, 255, 255]);
        self.out.extend_from_slice(&self.crc.sum().to_le_bytes());
        self.out.extend_from_slice(&self.crc.amount().to_le_bytes());
        self.out.into()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use kybern_apimachinery::{Gvk, json};
    use kybern_schema::openapi::Served;

    use super::*;

    fn custom(version: &str) -> Served {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object"}}});
        Served::custom(Gvk::new("example.com", version, "Widget"), "widgets", true, &["status", "scale"], schema)
    }

    fn unpacked(bytes: &Bytes) -> Vec<u8> {
        let mut plain = Vec::new();
        // The checksum, too, is looked at.
        GzDecoder::new(&**bytes).read_to_end(&mut plain).unwrap();
        plain
    }

    #[test]
    fn parts_make_the_document_that_is_made_at_once() {
        let served: Vec<Served> = kybern_schema::builtin().resources().iter().map(Served::builtin).collect();
        let customs = [custom("v1"), custom("v2")];
        let at_once = openapi::v2(served.iter().chain(&customs), "v1.35.0");
        let make = |protobuf| {
            let base = Base::new(served.iter(), protobuf);
            let added: Vec<Added> = customs.iter().map(|s| Added::custom(std::slice::from_ref(s), protobuf)).collect();
            let added: Vec<&Added> = added.iter().collect();
            unpacked(&document(&base, &added, std::iter::empty(), &[], "v1.35.0", protobuf))
        };
        let document: Value = serde_json::from_slice(&make(false)).unwrap();
        assert!(document == at_once, "the parts do not make the whole");
        // The same bytes of fields, in another order.
        let protobuf = make(true).len();
        let whole = openapi::proto::v2(&at_once).len();
        assert!(protobuf.abs_diff(whole) < 100, "{protobuf} and {whole} bytes");
    }

    #[test]
    fn a_base_has_all_that_custom_resources_refer_to() {
        let base = Base::new(std::iter::empty(), false);
        let own = custom("v1");
        let added = Added::custom(std::slice::from_ref(&own), false);
        let remote = json!({"definitions": {&own.definition: {"type": "string"}},
            "paths": {"/apis/o.th/v1/x": {"get": {"schema": {"$ref": format!("#/definitions/{}", own.definition)}}}}});
        let taken = [own.definition.as_str()].into_iter();
        let document: Value =
            serde_json::from_slice(&unpacked(&document(&base, &[&added], taken, &[&remote], "v1.35.0", false)))
                .unwrap();
        assert_eq!(document["definitions"][&own.definition]["type"], "object");
        let other = format!("{}_v2", own.definition);
        assert_eq!(document["definitions"][&other]["type"], "string");
        let mut found = 0;
        check(&document, &document, &mut found);
        assert!(found > 50, "{found}");
        assert!(!document.to_string().contains("None"), "nothing of what it was made with");
    }

    fn check(document: &Value, value: &Value, found: &mut usize) {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            *found += 1;
            assert!(document.pointer(&reference[1..]).is_some(), "{reference} leads nowhere");
        }
        match value {
            Value::Object(fields) => fields.values().for_each(|value| check(document, value, found)),
            Value::Array(items) => items.iter().for_each(|value| check(document, value, found)),
            _ => {}
        }
    }
}
