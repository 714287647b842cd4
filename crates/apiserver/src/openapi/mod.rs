//! `/openapi/v2` and `/openapi/v3`: documents are made when first asked for and kept compressed, each as long as what it is
//! about stays as it is.

mod merge;
mod whole;

use std::collections::HashSet;
use std::io::Read;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, ETAG, IF_NONE_MATCH, LOCATION, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use kybern_apimachinery::{ApiError, GroupVersion, Gvk, Value, json};
use kybern_schema::openapi::{self, Served};

use crate::openapi_parts::{Base, Others};
use crate::options::Query;
use crate::registrations::{Kept, Listed, Registrations, Remote};
use crate::resource::Resource;
use crate::resources::{Part, ResourceTable, Version};
use crate::{Body, body, gzip};
pub use merge::part_of;

/// The document that is about everything, compressed: JSON and protobuf, and its hash. Those about a group and version stay
/// with it.
#[derive(Default)]
pub(crate) struct Documents {
    v2: [Kept<Bytes>; 2],
    hash: Kept<String>,
}

/// What the documents are about.
pub(crate) struct Known<'a> {
    pub(crate) table: &'a ResourceTable,
    pub(crate) registrations: &'a Registrations,
    /// The server's own version.
    pub(crate) version: &'a str,
}

fn describe(row: &Resource) -> Served {
    if let Some(schema) = &row.schema {
        let subresources: Vec<&str> = row.subresources.iter().map(|s| s.name.as_str()).collect();
        let gvk = Gvk::new(&row.gvr.group, &row.gvr.version, &row.kind);
        return Served::custom(gvk, &row.gvr.resource, row.namespaced, &subresources, (**schema).clone());
    }
    let subresources = row.subresources.iter().map(|s| (s.name.as_str(), &s.kind, s.verbs.clone()));
    Served::new(row.ty.gvk.clone(), &row.gvr.resource, row.namespaced, row.verbs.clone(), subresources)
}

/// What OpenAPI says of a group's version.
fn part(version: &Version) -> &Part {
    version.openapi.get_or_init(|| {
        let served: Vec<Served> = version.rows.iter().map(|row| describe(row)).collect();
        let served: Vec<Served> = served.into_iter().filter(|s| !s.definition.is_empty()).collect();
        Part { hash: openapi::fingerprint(&served), served, documents: Default::default(), whole: Default::default() }
    })
}

/// All parts, with the group and version of each.
fn parts(table: &ResourceTable) -> impl Iterator<Item = (GroupVersion, &Part)> {
    let versions = table.groups().iter().flat_map(|g| g.versions.iter().map(move |v| (g, v)));
    versions.map(|(g, v)| (GroupVersion::new(&*g.name, &v.name), part(v))).filter(|(_, part)| !part.served.is_empty())
}

fn compressed(document: Vec<u8>) -> Bytes {
    gzip::compress(std::iter::once(Bytes::from(document))).flatten().collect::<Vec<u8>>().into()
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
    known: &Known<'_>,
    documents: &Documents,
    rest: &[&str],
    query: &Query,
    headers: &HeaderMap,
) -> Option<Response<Body>> {
    let Known { table, version, .. } = *known;
    match rest {
        ["v2"] => Some(v2(known, documents, headers)),
        ["v3"] => Some(body::json(StatusCode::OK, &v3_index(known))),
        ["v3", "api", name] => v3(table, &GroupVersion::new("", *name), version, query, headers),
        ["v3", "apis", group, name] => v3(table, &GroupVersion::new(*group, *name), version, query, headers),
        ["v3", rest @ ..] => {
            let (hash, documents) = others(known).get(&rest.join("/"))?;
            v3_answer(&rest.join("/"), hash, query, headers, |protobuf| documents[usize::from(protobuf)].clone())
        }
        _ => None,
    }
}

fn text(document: &Value) -> Vec<u8> {
    document.to_string().into_bytes()
}

/// Versions of other servers with their parts, the highest ranked group first.
fn remote_parts(registrations: &Registrations) -> Vec<(GroupVersion, Remote)> {
    let groups = registrations.groups().into_iter();
    let all = groups.flat_map(|(group, versions)| versions.into_iter().map(move |listed| (group.clone(), listed)));
    let remote = |(group, listed): (String, Listed)| {
        Some((GroupVersion::new(group, listed.version), listed.registration.remote.clone()?))
    };
    all.filter_map(remote).collect()
}

/// Documents of paths that are no resources, by their path: each one's hash, and the document in JSON and in protobuf.
fn others<'a>(known: &Known<'a>) -> &'a Others {
    known.table.openapi_others.get_or_init(|| {
        let groups = known.table.groups().iter().filter(|group| group.is_built_in()).map(|group| &*group.name);
        let made = |(path, document): (String, Value)| {
            let forms = [text(&document), openapi::proto::v3(&document)].map(compressed);
            (path, (openapi::fingerprint_of(&document), forms))
        };
        openapi::v3_others(groups, known.version).into_iter().map(made).collect()
    })
}

fn v3_index(known: &Known<'_>) -> Value {
    let own = parts(known.table).map(|(group_version, part)| (group_version, part.hash.as_str()));
    let mut index = openapi::v3_index(own);
    for (path, (hash, _)) in others(known) {
        index["paths"][path] = json!({"serverRelativeURL": openapi::v3_address(path, hash)});
    }
    for (group_version, remote) in remote_parts(known.registrations) {
        let path = openapi::v3_path(&group_version);
        match remote.openapi_v3 {
            Some(url) => index["paths"][path] = json!({"serverRelativeURL": url}),
            None => drop(index["paths"].as_object_mut().map(|paths| paths.remove(&path))),
        }
    }
    index
}

fn v2(known: &Known<'_>, documents: &Documents, headers: &HeaderMap) -> Response<Body> {
    let Known { table, registrations, version } = *known;
    let protobuf = wants_protobuf(headers, &openapi::proto::V2_MEDIA_TYPES);
    let remotes = || -> Vec<_> {
        remote_parts(registrations).into_iter().filter_map(|(gv, r)| Some((gv, r.openapi_v2?))).collect()
    };
    let hash = documents.hash.get(registrations, || {
        let remotes = remotes();
        let own = parts(table).filter(|(of, _)| remotes.iter().all(|(remote, _)| remote != of));
        let mut hashes: Vec<&str> = own.map(|(_, part)| part.hash.as_str()).collect();
        hashes.extend(remotes.iter().map(|(_, part)| part.hash.as_str()));
        openapi::joined(&hashes)
    });
    let media = if protobuf { openapi::proto::V2_MEDIA_TYPES[1] } else { "application/json" };
    if is_known(&hash, headers) {
        return answer(Bytes::new(), media, &hash, headers);
    }
    let bytes = documents.v2[usize::from(protobuf)].get(registrations, || {
        let remotes = remotes();
        let others: HashSet<&GroupVersion> = remotes.iter().map(|(of, _)| of).collect();
        let (custom, built_in): (Vec<_>, Vec<_>) = parts(table).partition(|(_, part)| is_custom(part));
        let is_own = |(of, _): &&(GroupVersion, &Part)| !others.contains(of);
        let make = || Base::new(built_in.iter().filter(is_own).flat_map(|(_, part)| &part.served), protobuf);
        let made;
        let base = if built_in.iter().all(|part| is_own(&part)) {
            table.openapi_base[usize::from(protobuf)].get_or_init(make)
        } else {
            made = make();
            &made
        };
        let custom: Vec<&Part> = custom.iter().filter(is_own).map(|(_, part)| *part).collect();
        let added: Vec<_> = custom.iter().map(|part| part.whole.custom(&part.served, protobuf)).collect();
        let served = custom.iter().flat_map(|part| &part.served);
        let taken = served.flat_map(|s| [s.definition.as_str(), s.list_definition.as_str()]);
        let remotes: Vec<&Value> = remotes.iter().map(|(_, part)| &part.document).collect();
        whole::document(base, &added, taken, &remotes, version, protobuf)
    });
    answer(Bytes::clone(&bytes), media, &hash, headers)
}

/// Whether it is of custom resources: those of built-in kinds never change.
fn is_custom(part: &Part) -> bool {
    part.served.iter().all(|served| served.schema.is_some())
}

fn v3(
    table: &ResourceTable,
    group_version: &GroupVersion,
    version: &str,
    query: &Query,
    headers: &HeaderMap,
) -> Option<Response<Body>> {
    let found = table.group(&group_version.group)?.versions.iter().find(|v| v.name == group_version.version)?;
    let part = part(found);
    if part.served.is_empty() {
        return None;
    }
    v3_answer(&openapi::v3_path(group_version), &part.hash, query, headers, |protobuf| {
        let make = || {
            let document = openapi::v3(group_version, &part.served, version).unwrap_or_default();
            compressed(if protobuf { openapi::proto::v3(&document) } else { text(&document) })
        };
        part.documents[usize::from(protobuf)].get_or_init(make).clone()
    })
}

/// A document by its path and hash.
fn v3_answer(
    path: &str,
    hash: &str,
    query: &Query,
    headers: &HeaderMap,
    bytes: impl FnOnce(bool) -> Bytes,
) -> Option<Response<Body>> {
    let asked = query.get("hash");
    if !asked.is_empty() && asked != hash {
        // The client knows an older document: upstream sends it to the one there is.
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        let location = HeaderValue::from_str(&openapi::v3_address(path, hash)).ok()?;
        response.headers_mut().insert(LOCATION, location);
        return Some(response);
    }
    let protobuf = wants_protobuf(headers, &openapi::proto::V3_MEDIA_TYPES);
    let media = if protobuf { openapi::proto::V3_MEDIA_TYPES[1] } else { "application/json" };
    let mut response = answer(bytes(protobuf), media, hash, headers);
    if !asked.is_empty() {
        // What is named by its hash never changes.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    Some(response)
}

/// Whether the client has the document of this hash.
fn is_known(hash: &str, headers: &HeaderMap) -> bool {
    let named = |etag: &HeaderValue| etag.to_str().is_ok_and(|etag| etag.trim_matches('"') == hash);
    headers.get(IF_NONE_MATCH).is_some_and(named)
}

fn answer(compressed: Bytes, media: &'static str, hash: &str, headers: &HeaderMap) -> Response<Body> {
    let etag = format!("\"{hash}\"");
    let mut response = if is_known(hash, headers) {
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
    use std::sync::Arc;

    use super::*;
    use crate::resource::tests::row;

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
        let table = ResourceTable::new([row("apps", "v1", "Deployment"), row("", "v1", "Pod")]);
        let apps = GroupVersion::new("apps", "v1");
        let get = |query: &str, headers: &HeaderMap| v3(&table, &apps, "v1.35.0", &Query::parse(query), headers);
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
        let none = GroupVersion::new("none", "v1");
        assert!(v3(&table, &none, "v1.35.0", &Query::parse(""), &HeaderMap::new()).is_none());

        let accept: HeaderMap =
            [(ACCEPT, HeaderValue::from_static(openapi::proto::V2_MEDIA_TYPES[0]))].into_iter().collect();
        let registrations = Registrations::default();
        let v2 = |table: &ResourceTable| {
            let known = Known { table, registrations: &registrations, version: "v1.35.0" };
            v2(&known, &Documents::default(), &accept)
        };
        let protobuf = v2(&table);
        assert_eq!(protobuf.headers()[http::header::CONTENT_TYPE], openapi::proto::V2_MEDIA_TYPES[1]);
        // What stays, stays made; what changes has another name, and so has the whole.
        let more = |table: &ResourceTable, group: &str, rows| table.with(&[(group.to_owned(), rows)]);
        let with = more(&table, "example.com", vec![Arc::new(custom("example.com"))]);
        let made = |table: &ResourceTable| {
            let version = &table.group("apps").unwrap().versions[0];
            version.openapi.get().is_some_and(|part| part.documents[0].get().is_some())
        };
        assert!(made(&with) && made(&table));
        let whole = |table: &ResourceTable| v2(table).headers()[ETAG].clone();
        assert_ne!(whole(&with), whole(&table));
        assert_eq!(whole(&more(&table, "example.com", Vec::new())), whole(&table));
        // Of the next group only its own part is missing.
        let is_made = |table: &ResourceTable, group: &str| {
            table.group(group).unwrap().versions[0].openapi.get().is_some_and(|part| part.whole.is_made(true))
        };
        let next = more(&with, "example.org", vec![Arc::new(custom("example.org"))]);
        assert!(next.openapi_base[1].get().is_some(), "what is built in");
        assert_eq!((is_made(&next, "example.com"), is_made(&next, "example.org")), (true, false));
        v2(&next);
        assert!(is_made(&next, "example.org"));
        assert!(next.openapi_base[0].get().is_none(), "nobody asked for JSON");
    }

    fn custom(group: &str) -> Resource {
        let mut row = row(group, "v1", "Pod");
        row.schema = Some(Arc::new(json!({"type": "object"})));
        row
    }
}
