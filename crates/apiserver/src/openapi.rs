//! `/openapi/v2` and `/openapi/v3`: documents are made when first asked for and kept compressed.

use std::collections::HashMap;
use std::io::Read;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, ETAG, IF_NONE_MATCH, LOCATION, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use kybern_apimachinery::{ApiError, Value, object};
use kybern_schema::openapi::{self, Served};
use parking_lot::Mutex;

use crate::options::Query;
use crate::resource::Resource;
use crate::resources::ResourceTable;
use crate::{Body, body, gzip};

/// The documents of a resource table.
pub(crate) struct Documents {
    served: Vec<Served>,
    /// Compressed, by path below `/openapi/`, and whether it is protobuf.
    made: Mutex<HashMap<(String, bool), Bytes>>,
}

impl Documents {
    pub(crate) fn new(table: &ResourceTable) -> Self {
        let rows = table.groups().iter().flat_map(|g| &g.versions).flat_map(|(_, rows)| rows);
        let served = rows.map(|row| describe(row)).filter(|s| !s.definition.is_empty()).collect();
        Self { served, made: Mutex::default() }
    }

    /// The compressed bytes of a document; `None` where `make` finds none.
    fn get(&self, path: &str, protobuf: bool, make: impl FnOnce() -> Option<Vec<u8>>) -> Option<Bytes> {
        let mut made = self.made.lock();
        let key = (path.to_owned(), protobuf);
        if let Some(bytes) = made.get(&key) {
            return Some(bytes.clone());
        }
        let bytes = std::iter::once(Bytes::from(make()?));
        let bytes: Bytes = gzip::compress(bytes).flatten().collect::<Vec<u8>>().into();
        made.insert(key, bytes.clone());
        Some(bytes)
    }

    /// What a group and version, given as its path, serves.
    fn part(&self, path: &str) -> Vec<Served> {
        self.served.iter().filter(|s| openapi::v3_path(&s.gvk.group_version()) == path).cloned().collect()
    }
}

fn describe(row: &Resource) -> Served {
    let subresources = row.subresources.iter().map(|s| (s.name.as_str(), &s.kind, s.verbs.clone()));
    Served::new(row.ty.gvk.clone(), &row.gvr.resource, row.namespaced, row.verbs.clone(), subresources)
}

/// Whether the client wants protobuf, by the order of what it accepts.
fn wants_protobuf(headers: &HeaderMap, protobuf: &[&str]) -> bool {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let mut media = accept.map(|m| m.split(';').next().unwrap_or("").trim());
    media.find_map(|m| match m {
        "application/json" | "application/*" | "*/*" => Some(false),
        m => protobuf.contains(&m).then_some(true),
    }) == Some(true)
}

/// `rest` is the path after `openapi`; `None` when there is no such document.
pub(crate) fn serve(
    documents: &Documents,
    version: &Value,
    rest: &[&str],
    query: &Query,
    headers: &HeaderMap,
) -> Result<Option<Response<Body>>, ApiError> {
    let version = object::str_at(version, &["gitVersion"]);
    match rest {
        ["v2"] => Ok(v2(documents, version, headers)),
        ["v3"] => Ok(Some(body::json(StatusCode::OK, &openapi::v3_index(&documents.served)))),
        ["v3", path @ ..] => Ok(v3(documents, &path.join("/"), version, query, headers)),
        _ => Ok(None),
    }
}

fn json(document: &Value) -> Vec<u8> {
    document.to_string().into_bytes()
}

fn v2(documents: &Documents, version: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let protobuf = wants_protobuf(headers, &openapi::proto::V2_MEDIA_TYPES);
    let bytes = documents.get("v2", protobuf, || {
        let document = openapi::v2(&documents.served, version);
        Some(if protobuf { openapi::proto::v2(&document) } else { json(&document) })
    })?;
    let media = if protobuf { openapi::proto::V2_MEDIA_TYPES[1] } else { "application/json" };
    Some(answer(bytes, media, &openapi::fingerprint(&documents.served), headers))
}

fn v3(documents: &Documents, path: &str, version: &str, query: &Query, headers: &HeaderMap) -> Option<Response<Body>> {
    let part = documents.part(path);
    let group_version = part.first()?.gvk.group_version();
    let hash = openapi::fingerprint(&part);
    let asked = query.get("hash");
    if !asked.is_empty() && asked != hash {
        // The client knows an older document: upstream sends it to the one there is.
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        let location = HeaderValue::from_str(&format!("/openapi/v3/{path}?hash={hash}")).ok()?;
        response.headers_mut().insert(LOCATION, location);
        return Some(response);
    }
    let protobuf = wants_protobuf(headers, &openapi::proto::V3_MEDIA_TYPES);
    let bytes = documents.get(path, protobuf, || {
        let document = openapi::v3(&group_version, &part, version)?;
        Some(if protobuf { openapi::proto::v3(&document) } else { json(&document) })
    })?;
    let media = if protobuf { openapi::proto::V3_MEDIA_TYPES[1] } else { "application/json" };
    let mut response = answer(bytes, media, &hash, headers);
    if !asked.is_empty() {
        // What is named by its hash never changes.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    Some(response)
}

fn answer(compressed: Bytes, media: &'static str, hash: &str, headers: &HeaderMap) -> Response<Body> {
    let etag = format!("\"{hash}\"");
    let known = headers.get(IF_NONE_MATCH).is_some_and(|e| e.as_bytes() == etag.as_bytes());
    let mut response = if known {
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else if gzip::accepted(headers) {
        let mut response = body::response(StatusCode::OK, media, compressed);
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        let mut plain = Vec::new();
        match GzDecoder::new(&*compressed).read_to_end(&mut plain) {
            Ok(_) => body::response(StatusCode::OK, media, plain),
            Err(error) => body::error(&ApiError::internal(error)),
        }
    };
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(ETAG, etag);
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_media_type_wins() {
        let wants = |accept: &'static str| {
            let headers = [(ACCEPT, HeaderValue::from_static(accept))].into_iter().collect();
            wants_protobuf(&headers, &openapi::proto::V2_MEDIA_TYPES)
        };
        assert!(wants("application/com.github.proto-openapi.spec.v2@v1.0+protobuf"));
        assert!(wants("text/html, application/com.github.proto-openapi.spec.v2.v1.0+protobuf;q=1, application/json"));
        assert!(!wants("application/json, application/com.github.proto-openapi.spec.v2@v1.0+protobuf"));
        assert!(!wants("*/*") && !wants("") && !wants("application/yaml"));
    }

    #[test]
    fn documents_are_named_by_their_hash() {
        let served: Vec<Served> = kybern_schema::builtin().resources().iter().map(Served::builtin).collect();
        let documents = Documents { served, made: Mutex::default() };
        let get =
            |query: &str, headers: &HeaderMap| v3(&documents, "apis/apps/v1", "v1.35.0", &Query::parse(query), headers);
        let plain = get("", &HeaderMap::new()).unwrap();
        assert_eq!(plain.status(), StatusCode::OK);
        assert!(plain.headers().get(CACHE_CONTROL).is_none());
        let etag = plain.headers()[ETAG].clone();
        let hash = etag.to_str().unwrap().trim_matches('"').to_owned();

        let named = get(&format!("hash={hash}"), &HeaderMap::new()).unwrap();
        assert_eq!(
            (named.status(), &named.headers()[CACHE_CONTROL]),
            (StatusCode::OK, &"public, immutable".parse().unwrap())
        );
        let moved = get("hash=old", &HeaderMap::new()).unwrap();
        assert_eq!(moved.status(), StatusCode::MOVED_PERMANENTLY);
        assert_eq!(moved.headers()[LOCATION], format!("/openapi/v3/apis/apps/v1?hash={hash}"));
        let known: HeaderMap = [(IF_NONE_MATCH, etag)].into_iter().collect();
        assert_eq!(get("", &known).unwrap().status(), StatusCode::NOT_MODIFIED);
        assert!(v3(&documents, "apis/none/v1", "v1.35.0", &Query::parse(""), &HeaderMap::new()).is_none());

        let accept: HeaderMap =
            [(ACCEPT, HeaderValue::from_static(openapi::proto::V2_MEDIA_TYPES[0]))].into_iter().collect();
        let protobuf = v2(&documents, "v1.35.0", &accept).unwrap();
        assert_eq!(protobuf.headers()[http::header::CONTENT_TYPE], openapi::proto::V2_MEDIA_TYPES[1]);
        assert_eq!(documents.made.lock().len(), 2, "one form of one part of v3, and one of v2");
    }
}
