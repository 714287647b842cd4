//! In which form the client wants its answer.

use http::HeaderMap;
use http::header::ACCEPT;
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

/// The first media type in `Accept` that can be served. `protobuf`: whether the kind has such a form; `shapes`: whether
/// a `Table` and bare metadata can be made of it.
pub(crate) fn negotiate(headers: &HeaderMap, pretty: bool, protobuf: bool, shapes: bool) -> Result<Format, ApiError> {
    let mut any = false;
    for accept in headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()) {
        for media in accept.split(',').map(str::trim).filter(|m| !m.is_empty()) {
            any = true;
            if let Some(format) = parse(media, protobuf, shapes) {
                return Ok(Format { pretty, ..format });
            }
        }
    }
    if !any {
        return Ok(Format { pretty, ..Format::JSON });
    }
    let protobuf = if protobuf { ", application/vnd.kubernetes.protobuf" } else { "" };
    Err(ApiError::new(
        Reason::NotAcceptable,
        format!("only the following media types are accepted: application/json, application/yaml{protobuf}"),
    ))
}

fn parse(media: &str, protobuf: bool, shapes: bool) -> Option<Format> {
    let mut parts = media.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "*/*" | "application/*" | "application/json" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        "application/vnd.kubernetes.protobuf" if protobuf => Encoding::Protobuf,
        _ => return None,
    };
    let (mut shape, mut version, mut group) = ("", "", "");
    for (key, value) in parts.filter_map(|p| p.split_once('=')) {
        match key {
            "as" => shape = value,
            "v" => version = value,
            "g" => group = value,
            _ => {}
        }
    }
    let shape = match shape {
        "" => Shape::Object,
        "Table" if shapes => Shape::Table,
        "PartialObjectMetadata" | "PartialObjectMetadataList" if shapes => Shape::Metadata,
        _ => return None,
    };
    let version = match (shape, group, version) {
        (Shape::Object, ..) | (_, "meta.k8s.io", "v1") => "v1",
        (_, "meta.k8s.io", "v1beta1") => "v1beta1",
        _ => return None,
    };
    Some(Format { encoding, shape, version, pretty: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_can_be_served() {
        let check = |accept: &str, expect: Option<(Encoding, Shape, &str)>| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            let got = negotiate(&headers, false, true, true).ok().map(|f| (f.encoding, f.shape, f.version));
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
        let mut headers = HeaderMap::new();
        assert_eq!(negotiate(&headers, false, true, true).unwrap(), Format::JSON);
        headers.insert(ACCEPT, "application/vnd.kubernetes.protobuf".parse().unwrap());
        assert_eq!(negotiate(&headers, false, false, true).unwrap_err().code(), 406);
    }
}
