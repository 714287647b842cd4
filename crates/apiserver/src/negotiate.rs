//! In which form the client wants its answer.

use http::HeaderMap;
use http::header::{ACCEPT, USER_AGENT};
use kybern_apimachinery::{ApiError, Reason};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

impl Encoding {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// The object itself, or what is shown of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Object,
    Table,
    Metadata,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) encoding: Encoding,
    pub(crate) shape: Shape,
    /// The version of `meta.k8s.io` that shapes are in: `v1` or `v1beta1`.
    pub(crate) version: &'static str,
    pub(crate) pretty: bool,
}

impl Format {
    pub(crate) const JSON: Self = Self { encoding: Encoding::Json, shape: Shape::Object, version: "v1", pretty: false };
}

/// The media types of `Accept`, the most wanted first: by their quality, and those without a star before the others.
fn wanted(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let mut all: Vec<&str> = values.flat_map(|v| v.split(',')).map(str::trim).filter(|m| !m.is_empty()).collect();
    let rank = |media: &str| {
        let quality = media.split(';').filter_map(|p| p.trim().strip_prefix("q=")?.parse::<f64>().ok()).next();
        let name = media.split(';').next().unwrap_or("").trim();
        (quality.unwrap_or(1.0), name.starts_with("*/"), name.ends_with("/*"))
    };
    all.sort_by(|a, b| {
        let (a, b) = (rank(a), rank(b));
        b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2))
    });
    all
}

/// What can be made of most objects.
pub(crate) const SHAPES: &[Shape] = &[Shape::Table, Shape::Metadata];

/// The form of a refusal: as the client asked for objects, and JSON where that cannot be.
pub(crate) fn of_refusal(headers: &HeaderMap) -> Format {
    negotiate(headers, None, true, &[]).unwrap_or(Format::JSON)
}

/// Programs behind which a person reads, by the beginnings of their `User-Agent`.
const READ_BY_PEOPLE: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];

/// Whether JSON is to be indented: as the request says, otherwise by who asks.
fn is_indented(headers: &HeaderMap, asked: Option<bool>) -> bool {
    asked.unwrap_or_else(|| {
        let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or("");
        READ_BY_PEOPLE.iter().any(|program| agent.starts_with(program))
    })
}

/// The first media type in `Accept` that can be served. `pretty`: what the request's parameter of this name says; `protobuf`:
/// whether the kind has such a form; `shapes`: what can be made of it.
pub(crate) fn negotiate(
    headers: &HeaderMap,
    pretty: Option<bool>,
    protobuf: bool,
    shapes: &[Shape],
) -> Result<Format, ApiError> {
    let (wanted, pretty) = (wanted(headers), is_indented(headers, pretty));
    if wanted.is_empty() {
        return Ok(Format { pretty, ..Format::JSON });
    }
    if let Some(format) = wanted.into_iter().find_map(|media| parse(media, protobuf, shapes)) {
        return Ok(Format { pretty: pretty || format.pretty, ..format });
    }
    let protobuf = if protobuf { ", application/vnd.kubernetes.protobuf" } else { "" };
    Err(ApiError::new(
        Reason::NotAcceptable,
        format!("only the following media types are accepted: application/json, application/yaml{protobuf}"),
    ))
}

/// The refusal of a watch in a form that is none of events.
pub(crate) fn not_streamed(protobuf: bool) -> ApiError {
    let protobuf = if protobuf { ", application/vnd.kubernetes.protobuf;stream=watch" } else { "" };
    ApiError::new(
        Reason::NotAcceptable,
        format!("only the following media types are accepted: application/json;stream=watch{protobuf}"),
    )
}

fn parse(media: &str, protobuf: bool, shapes: &[Shape]) -> Option<Format> {
    let mut parts = media.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "*/*" | "application/*" | "application/json" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        "application/vnd.kubernetes.protobuf" => Encoding::Protobuf,
        _ => return None,
    };
    let (mut shape, mut version, mut group, mut stream, mut pretty) = ("", "", "", "", false);
    for (key, value) in parts.filter_map(|p| p.split_once('=')) {
        match key {
            "as" => shape = value,
            "v" => version = value,
            "g" => group = value,
            "stream" => stream = value,
            "pretty" => pretty = value == "1",
            _ => {}
        }
    }
    let shape = match shape {
        "" => Shape::Object,
        "Table" if shapes.contains(&Shape::Table) => Shape::Table,
        "PartialObjectMetadata" | "PartialObjectMetadataList" if shapes.contains(&Shape::Metadata) => Shape::Metadata,
        _ => return None,
    };
    // Events are the only stream that there is, and YAML has none of them.
    if !stream.is_empty() && (stream != "watch" || encoding == Encoding::Yaml) {
        return None;
    }
    // Every kind's metadata has a protobuf form, a table has none.
    match shape {
        Shape::Object if encoding == Encoding::Protobuf && !protobuf => return None,
        Shape::Table if encoding == Encoding::Protobuf => return None,
        _ => {}
    }
    let version = match (shape, group, version) {
        (Shape::Object, ..) | (_, "meta.k8s.io", "v1") => "v1",
        (_, "meta.k8s.io", "v1beta1") => "v1beta1",
        _ => return None,
    };
    Some(Format { encoding, shape, version, pretty })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_can_be_served() {
        let check = |accept: &str, expect: Option<(Encoding, Shape, &str)>| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            let got = negotiate(&headers, None, true, SHAPES).ok().map(|f| (f.encoding, f.shape, f.version));
            assert_eq!(got, expect, "{accept}");
        };
        check("*/*", Some((Encoding::Json, Shape::Object, "v1")));
        check(
            "application/vnd.kubernetes.protobuf;stream=watch,application/json",
            Some((Encoding::Protobuf, Shape::Object, "v1")),
        );
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            Some((Encoding::Json, Shape::Table, "v1")),
        );
        check(
            "application/json;as=Table;v=v2;g=meta.k8s.io,application/yaml",
            Some((Encoding::Yaml, Shape::Object, "v1")),
        );
        check(
            "application/json;as=PartialObjectMetadataList;v=v1beta1;g=meta.k8s.io",
            Some((Encoding::Json, Shape::Metadata, "v1beta1")),
        );
        check("text/html", None);
        check(
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1;g=meta.k8s.io",
            Some((Encoding::Json, Shape::Table, "v1")),
        );
        check("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", None);
        check("application/cbor", None);
        check(
            "application/yaml;stream=watch,application/json;stream=watch",
            Some((Encoding::Json, Shape::Object, "v1")),
        );
        check("application/json;stream=other", None);
        check("application/yaml;q=0.5,application/json;q=0.9", Some((Encoding::Json, Shape::Object, "v1")));
        check("*/*,application/yaml", Some((Encoding::Yaml, Shape::Object, "v1")));
        let mut headers = HeaderMap::new();
        assert_eq!(negotiate(&headers, None, true, SHAPES).unwrap(), Format::JSON);
        headers.insert(ACCEPT, "application/vnd.kubernetes.protobuf".parse().unwrap());
        assert_eq!(negotiate(&headers, None, false, SHAPES).unwrap_err().code(), 406);
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        headers.insert(ACCEPT, table.parse().unwrap());
        assert_eq!(negotiate(&headers, None, true, &[Shape::Metadata]).unwrap(), Format::JSON);
        let partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
        headers.insert(ACCEPT, partial.parse().unwrap());
        let format = negotiate(&headers, None, false, SHAPES).unwrap();
        assert_eq!((format.encoding, format.shape), (Encoding::Protobuf, Shape::Metadata));
    }

    #[test]
    fn people_get_their_json_indented() {
        let is_pretty = |agent: &'static str, asked, accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(USER_AGENT, agent.parse().unwrap());
            headers.insert(ACCEPT, accept.parse().unwrap());
            negotiate(&headers, asked, true, SHAPES).unwrap().pretty
        };
        for agent in ["curl/7.88.1", "Wget/1.21", "Mozilla/5.0 (X11; Linux x86_64)"] {
            assert!(is_pretty(agent, None, "*/*"), "{agent}");
            assert!(!is_pretty(agent, Some(false), "*/*"), "{agent}");
        }
        for agent in ["kubectl/v1.35.0 (linux/amd64)", "pycurl", "Mozilla/4.0", ""] {
            assert!(!is_pretty(agent, None, "*/*"), "{agent}");
            assert!(is_pretty(agent, Some(true), "*/*"), "{agent}");
        }
        assert!(is_pretty("kubectl", Some(false), "application/json;pretty=1"));
    }
}
