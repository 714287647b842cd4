//! `/api`, `/apis` and below: what is served, as one document (aggregated) or many (legacy). Made once per resource table.

mod aggregated;
mod legacy;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use http::header::{ACCEPT, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use kybern_apimachinery::{ApiError, GroupVersion, Gvk, Value, json};

use crate::negotiate::{Encoding, negotiate};
use crate::resources::ResourceTable;
use crate::{Body, body, codec};

/// A document and its hash.
struct Document {
    bytes: Bytes,
    etag: String,
}

impl Document {
    fn new(value: &Value) -> Self {
        let bytes = Bytes::from(value.to_string());
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let etag = format!("\"{:016X}\"", hasher.finish());
        Self { bytes, etag }
    }
}

/// All discovery documents of a resource table.
pub(crate) struct Discovery {
    versions: Value,
    groups: Value,
    group: HashMap<String, Value>,
    resources: HashMap<GroupVersion, Value>,
    /// By whether it is the core group's, and whether it is of the older version.
    aggregated: HashMap<(bool, bool), Document>,
}

impl Discovery {
    pub(crate) fn new(table: &ResourceTable) -> Self {
        let named = || table.groups().iter().filter(|g| !g.name.is_empty());
        let versions = table.groups().iter().flat_map(|g| g.versions.iter().map(move |(v, rows)| (g, v, rows)));
        Self {
            versions: legacy::api_versions(table),
            groups: legacy::group_list(table),
            group: named().map(|g| (g.name.clone(), legacy::group(g))).collect(),
            resources: versions
                .map(|(g, v, rows)| (GroupVersion::new(&g.name, v), legacy::resource_list(&g.name, v, rows)))
                .collect(),
            aggregated: [(true, true), (true, false), (false, true), (false, false)]
                .map(|(core, beta)| ((core, beta), Document::new(&aggregated::document(table, core, beta))))
                .into(),
        }
    }
}

/// The versions of `apidiscovery.k8s.io` that `Accept` may name, in the order it names them; `true` for the older one.
fn aggregated_version(headers: &HeaderMap) -> Option<bool> {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    for media in accept {
        let parts: Vec<&str> = media.split(';').map(str::trim).collect();
        if !parts.contains(&"as=APIGroupDiscoveryList") || !parts.contains(&"g=apidiscovery.k8s.io") {
            // A plain type that comes first wins.
            if matches!(parts[0], "application/json" | "application/vnd.kubernetes.protobuf" | "*/*")
                && parts.len() == 1
            {
                return None;
            }
            continue;
        }
        if parts[0] != "application/json" {
            continue;
        }
        if parts.contains(&"v=v2") {
            return Some(false);
        }
        if parts.contains(&"v=v2beta1") {
            return Some(true);
        }
    }
    None
}

/// `None` when there is no such path. `/` lists `paths`.
pub(crate) fn serve(
    discovery: &Discovery,
    paths: impl FnOnce() -> Vec<String>,
    parts: &[&str],
    headers: &HeaderMap,
) -> Result<Option<Response<Body>>, ApiError> {
    if let ([root @ ("api" | "apis")], Some(beta)) = (parts, aggregated_version(headers)) {
        return Ok(Some(aggregated(&discovery.aggregated[&(*root == "api", beta)], beta, headers)));
    }
    let (kind, document) = match parts {
        [""] => ("", Some(json!({"paths": paths()}))),
        ["api"] => ("APIVersions", Some(discovery.versions.clone())),
        ["apis"] => ("APIGroupList", Some(discovery.groups.clone())),
        ["apis", group] => ("APIGroup", discovery.group.get(*group).cloned()),
        ["api", version] => ("APIResourceList", discovery.resources.get(&GroupVersion::new("", *version)).cloned()),
        ["apis", group, version] => {
            ("APIResourceList", discovery.resources.get(&GroupVersion::new(*group, *version)).cloned())
        }
        _ => return Ok(None),
    };
    let Some(document) = document else { return Ok(None) };
    let format = negotiate(headers, false, true, false)?;
    let kind =
        kybern_schema::builtin().kind(&Gvk::new("", "v1", kind)).filter(|_| format.encoding == Encoding::Protobuf);
    let (media, bytes) = codec::write(format, kind.as_ref(), &document)?;
    let mut response = body::response(StatusCode::OK, media, bytes);
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    Ok(Some(response))
}

fn aggregated(document: &Document, beta: bool, headers: &HeaderMap) -> Response<Body> {
    let media = if beta {
        "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
    } else {
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    };
    let known = headers.get(IF_NONE_MATCH).is_some_and(|etag| etag.as_bytes() == document.etag.as_bytes());
    let mut response = if known {
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        body::response(StatusCode::OK, media, document.bytes.clone())
    };
    if let Ok(etag) = HeaderValue::from_str(&document.etag) {
        response.headers_mut().insert(ETAG, etag);
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}
