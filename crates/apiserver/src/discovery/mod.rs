//! `/api`, `/apis` and below: what is served, as one document (aggregated) or many (legacy). Each is made when it is first asked for.

mod aggregated;
mod legacy;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use kybern_apimachinery::{ApiError, Gvk, Value, json};

use crate::negotiate::{Encoding, Format, negotiate};
use crate::registrations::{Kept, Registrations};
use crate::resources::ResourceTable;
use crate::{Body, body, codec};

/// How groups and versions are ranked; `None` for those of custom resources.
pub(crate) type Priorities = fn(&str, &str) -> Option<(i64, i64)>;

/// What registers all others comes before them.
const FIRST: (&str, (i64, i64)) = ("apiregistration.k8s.io", (20_001, 0));
/// Where a group and its versions are that nobody ranks.
const UNRANKED: (i64, i64) = (1000, 100);

fn rank(priorities: Priorities, group: &str, version: &str) -> (i64, i64) {
    if group == FIRST.0 { FIRST.1 } else { priorities(group, version).unwrap_or(UNRANKED) }
}

/// A document and its hash.
struct Document {
    bytes: Bytes,
    etag: String,
}

impl Document {
    fn new(text: String) -> Self {
        let bytes = Bytes::from(text);
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let etag = format!("\"{:016X}\"", hasher.finish());
        Self { bytes, etag }
    }

    /// The same under the same name.
    fn in_protobuf(&self, form: Form) -> Self {
        let kind = Gvk::new("apidiscovery.k8s.io", form.version(), "APIGroupDiscoveryList");
        let kind = kybern_schema::builtin().kind(&kind);
        let format = Format { encoding: Encoding::Protobuf, ..Format::JSON };
        let document: Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        // The type is known, and the document of it.
        let bytes = codec::write(format, kind.as_ref(), &document).map(|(_, bytes)| bytes).unwrap_or_default();
        Self { bytes, etag: self.etag.clone() }
    }
}

/// The discovery documents of a resource table that are about all of it, each once it was asked for.
#[derive(Default)]
pub(crate) struct Discovery {
    groups: Kept<Value>,
    /// Of the core group and of all others, each in the newer and the older version, as JSON and as protobuf.
    aggregated: [[[Kept<Document>; 2]; 2]; 2],
}

/// What discovery tells of.
pub(crate) struct Known<'a> {
    pub(crate) table: &'a ResourceTable,
    pub(crate) registrations: &'a Registrations,
    pub(crate) priorities: Priorities,
}

/// A form of the aggregated documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    /// The older version of `apidiscovery.k8s.io`.
    beta: bool,
    protobuf: bool,
}

impl Form {
    fn version(self) -> &'static str {
        if self.beta { "v2beta1" } else { "v2" }
    }
}

/// The first aggregated form that `Accept` names, unless it names another before.
fn aggregated_form(headers: &HeaderMap) -> Option<Form> {
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
        let protobuf = parts[0] == Encoding::Protobuf.media_type();
        if !protobuf && parts[0] != Encoding::Json.media_type() {
            continue;
        }
        let version = [("v=v2", false), ("v=v2beta1", true)].into_iter().find(|(version, _)| parts.contains(version));
        if let Some((_, beta)) = version {
            return Some(Form { beta, protobuf });
        }
    }
    None
}

/// `None` when there is no such path. `/` lists `paths`.
pub(crate) fn serve(
    known: &Known<'_>,
    discovery: &Discovery,
    paths: impl FnOnce() -> Vec<String>,
    parts: &[&str],
    headers: &HeaderMap,
) -> Result<Option<Response<Body>>, ApiError> {
    let Known { table, registrations, .. } = *known;
    if let ([root @ ("api" | "apis")], Some(form)) = (parts, aggregated_form(headers)) {
        let core = *root == "api";
        let kept = &discovery.aggregated[usize::from(!core)][usize::from(form.beta)];
        let make = || Document::new(aggregated::document(table, registrations, known.priorities, core, form.beta));
        let mut document = kept[0].get(registrations, make);
        if form.protobuf {
            document = kept[1].get(registrations, || document.in_protobuf(form));
        }
        return Ok(Some(answer(&document, form, headers)));
    }
    let resources = |group: &str, version: &str| {
        let rows = &table.group(group)?.versions.iter().find(|v| v.name == version)?.rows;
        Some(legacy::resource_list(group, version, rows))
    };
    let (kind, document) = match parts {
        [""] => ("", Some(json!({"paths": paths()}))),
        ["api"] => ("APIVersions", Some(legacy::api_versions(table))),
        ["apis"] => ("APIGroupList", Some(Value::clone(&*groups(known, discovery)))),
        ["apis", group] => ("APIGroup", legacy::group(known, group)),
        ["api", version] => ("APIResourceList", resources("", version)),
        ["apis", group, version] => ("APIResourceList", resources(group, version)),
        _ => return Ok(None),
    };
    let Some(document) = document else { return Ok(None) };
    let format = negotiate(headers, None, true, &[])?;
    let kind =
        kybern_schema::builtin().kind(&Gvk::new("", "v1", kind)).filter(|_| format.encoding == Encoding::Protobuf);
    let (media, bytes) = codec::write(format, kind.as_ref(), &document)?;
    let mut response = body::response(StatusCode::OK, media, bytes);
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    Ok(Some(response))
}

fn groups(known: &Known<'_>, discovery: &Discovery) -> Arc<Value> {
    discovery.groups.get(known.registrations, || legacy::group_list(known))
}

fn answer(document: &Document, form: Form, headers: &HeaderMap) -> Response<Body> {
    let media = match (form.protobuf, form.beta) {
        (false, true) => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        (false, false) => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        (true, true) => "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        (true, false) => "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
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
