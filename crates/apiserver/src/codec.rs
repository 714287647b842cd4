//! Bodies to trees and trees to bodies, by media type.

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use kybern_apimachinery::{ApiError, GroupVersion, Gvk, Reason, Value, object};
use kybern_schema::types::KindType;
use kybern_schema::{DecodeError, Strictness, decode, decode_yaml, proto};

use crate::negotiate::{Encoding, Format};
use crate::options::FieldValidation;

impl From<FieldValidation> for Strictness {
    fn from(validation: FieldValidation) -> Self {
        match validation {
            FieldValidation::Ignore => Self::Ignore,
            FieldValidation::Warn => Self::Warn,
            FieldValidation::Strict => Self::Strict,
        }
    }
}

/// The media type of a request's body, without parameters; JSON when none is given.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    match value.split(';').next().unwrap_or("").trim() {
        "" => "application/json",
        media => media,
    }
}

/// Upstream's refusal of a body in a form that is not read.
pub(crate) fn unsupported(accepted: &[&str]) -> ApiError {
    let text = "the body of the request was in an unknown format - accepted media types include: ";
    ApiError::new(Reason::UnsupportedMediaType, format!("{text}{}", accepted.join(", ")))
}

/// Decodes a body that is to be an object of a kind, and answers it with the warnings.
pub(crate) fn read_object(
    media: &str,
    body: &[u8],
    kind: &KindType,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), ApiError> {
    if body.is_empty() {
        return Err(refusal(DecodeError::Syntax("unexpected end of JSON input".to_owned()), &kind.gvk, body));
    }
    let decoded = match media {
        "application/json" => match decode(kind, body, validation.into()) {
            // What is wrong may be that it is of another kind.
            Err(error) => {
                check_claimed_kind(body, kind)?;
                Err(error)
            }
            decoded => decoded,
        },
        "application/yaml" | "application/x-yaml" | "text/yaml" => decode_yaml(kind, body, validation.into()),
        proto::MEDIA_TYPE => {
            let envelope = proto::Envelope::open(body).map_err(|e| ApiError::bad_request(e.to_string()))?;
            if let Some(gvk) = envelope.gvk() {
                check_claim(&gvk.api_version(), &gvk.kind, kind)?;
            }
            proto::decode(kind, body).map(|object| (object, Vec::new())).map_err(DecodeError::from)
        }
        _ => return Err(unsupported(&["application/json", "application/yaml", proto::MEDIA_TYPE])),
    };
    let (object, warnings) = decoded.map_err(|e| refusal(e, &kind.gvk, body))?;
    check_claim(object::api_version(&object), object::kind(&object), kind)?;
    Ok((object, warnings))
}

/// Of what cannot be parsed, the refusal shows the beginning.
fn refusal(error: DecodeError, gvk: &Gvk, body: &[u8]) -> ApiError {
    let unreadable = matches!(error, DecodeError::Syntax(_));
    let error = error.into_api_error(gvk);
    if !unreadable {
        return error;
    }
    ApiError::bad_request(format!("{} ({})", error.message(), beginning(body)))
}

fn beginning(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let (start, more) = (&body[..body.len().min(SHOWN)], if body.len() > SHOWN { " ..." } else { "" });
    let summary = match start {
        [] => "<empty>".to_owned(),
        [b'{', ..] => String::from_utf8_lossy(start).into_owned(),
        _ => start.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    format!("{summary}{more}")
}

/// What a body says of itself, before all of it is checked against a shape that it may not have.
#[derive(serde::Deserialize)]
struct Claim {
    #[serde(default, rename = "apiVersion")]
    api_version: Option<String>,
    #[serde(default)]
    kind: Option<String>,
}

fn check_claimed_kind(body: &[u8], kind: &KindType) -> Result<(), ApiError> {
    let Ok(Claim { api_version, kind: name }) = serde_json::from_slice(body) else {
        return match misshapen_claim(body) {
            Some(problem) => Err(ApiError::bad_request(format!(
                "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: {problem} ({})",
                kind.gvk.kind,
                beginning(body)
            ))),
            None => Ok(()),
        };
    };
    check_claim(api_version.as_deref().unwrap_or(""), name.as_deref().unwrap_or(""), kind)
}

/// What is wrong with a kind or version that is no text; `None` where something else is wrong.
fn misshapen_claim(body: &[u8]) -> Option<String> {
    let whole: Value = serde_json::from_slice(body).ok()?;
    let (field, value) = ["kind", "apiVersion"].into_iter().find_map(|field| {
        whole.get(field).filter(|value| !value.is_string() && !value.is_null()).map(|value| (field, value))
    })?;
    let found = kybern_apimachinery::go::json_name(value);
    Some(format!("json: cannot unmarshal {found} into Go struct field .{field} of type string"))
}

/// Older versions of kinds that are read, too, as they look the same: upstream's `AcceptsGroupVersion`.
const ACCEPTED: &[(&str, &str, &str)] = &[("policy", "Eviction", "v1beta1")];

/// The kind in the version that a body names, if that is one of those that are read.
pub(crate) fn in_claimed_version(mut kind: KindType, media: &str, body: &[u8]) -> KindType {
    let Gvk { group, kind: name, .. } = &kind.gvk;
    let Some((_, _, version)) = ACCEPTED.iter().find(|(g, k, _)| g == group && k == name) else { return kind };
    let claimed = match media {
        proto::MEDIA_TYPE => proto::Envelope::open(body).ok().map(|envelope| envelope.api_version.to_owned()),
        "application/json" => serde_json::from_slice::<Claim>(body).ok().and_then(|claim| claim.api_version),
        _ => {
            let tree = kybern_schema::decode::yaml_to_value(body).ok();
            tree.map(|tree| object::api_version(&tree).to_owned())
        }
    };
    if claimed.is_some_and(|claimed| claimed == format!("{group}/{version}")) {
        kind.gvk.version = (*version).into();
    }
    kind
}

/// The Go file of the scheme that upstream looks a kind up in, as its refusals name it.
fn scheme(group: &str) -> &'static str {
    match group {
        "apiextensions.k8s.io" => "k8s.io/apiextensions-apiserver/pkg/apiserver/apiserver.go:55",
        "apiregistration.k8s.io" => "k8s.io/kube-aggregator/pkg/apiserver/scheme/scheme.go:28",
        _ => "pkg/api/legacyscheme/scheme.go:30",
    }
}

/// Whether the kind is one of the built-in ones.
fn is_registered(api_version: &str, name: &str) -> bool {
    GroupVersion::parse(api_version)
        .is_some_and(|gv| kybern_schema::builtin().kind(&Gvk::new(gv.group, gv.version, name)).is_some())
}

/// An object may leave out its kind and version, but not name others.
fn check_claim(api_version: &str, name: &str, kind: &KindType) -> Result<(), ApiError> {
    let expected = kind.gvk.api_version();
    let named = if name.is_empty() { kind.gvk.kind.as_str() } else { name };
    let version = if api_version.is_empty() { expected.as_str() } else { api_version };
    if named == kind.gvk.kind && version == expected {
        return Ok(());
    }
    let text = if !is_registered(version, named) {
        format!(
            "{named} in version {:?} cannot be handled as a {}: no kind {named:?} is registered for version {version:?} in scheme {:?}",
            version.rsplit('/').next().unwrap_or(""),
            kind.gvk.kind,
            scheme(&kind.gvk.group)
        )
    } else if named != kind.gvk.kind {
        format!(
            "{named} in version {:?} cannot be handled as a {}: converting ({version}.{named}) to ({expected}.{}): unknown conversion",
            version.rsplit('/').next().unwrap_or(""),
            kind.gvk.kind,
            kind.gvk.kind
        )
    } else {
        format!("the API version in the data ({version}) does not match the expected API version ({expected})")
    };
    Err(ApiError::bad_request(text))
}

/// Writes a tree in the form the client wants. `kind` is needed for protobuf; where it has no such form, JSON is sent,
/// as upstream does for its meta kinds.
pub(crate) fn write(
    format: Format,
    kind: Option<&KindType>,
    object: &Value,
) -> Result<(&'static str, Bytes), ApiError> {
    match (format.encoding, kind) {
        (Encoding::Yaml, _) => {
            let text = serde_saphyr::to_string(object).map_err(ApiError::internal)?;
            Ok((Encoding::Yaml.media_type(), text.into()))
        }
        (Encoding::Protobuf, Some(kind)) if proto::has_form(kind) => {
            Ok((Encoding::Protobuf.media_type(), proto::encode(kind, object).map_err(ApiError::internal)?.into()))
        }
        _ => {
            let mut bytes = Vec::with_capacity(512);
            let written = if format.pretty {
                serde_json::to_writer_pretty(&mut bytes, object)
            } else {
                serde_json::to_writer(&mut bytes, object)
            };
            written.map_err(ApiError::internal)?;
            bytes.push(b'\n');
            Ok((Encoding::Json.media_type(), bytes.into()))
        }
    }
}

/// Whether objects of a kind can be sent as protobuf.
pub(crate) fn has_protobuf(kind: &KindType) -> bool {
    proto::has_form(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn an_eviction_may_be_of_both_versions_in_every_form() {
        let kind = kybern_schema::builtin().kind(&Gvk::new("policy", "v1", "Eviction")).unwrap();
        let read = |media: &str, version: &str, body: &[u8]| {
            let kind = in_claimed_version(kind.clone(), media, body);
            let read = read_object(media, body, &kind, FieldValidation::Strict);
            let (eviction, _) = read.map_err(|error| format!("{media} {version}: {}", error.message()))?;
            assert_eq!(object::name(&eviction), "p", "{media} {version}");
            assert_eq!(eviction["deleteOptions"]["gracePeriodSeconds"], 3, "{media} {version}");
            Ok::<_, String>(())
        };
        for (version, good) in [("policy/v1", true), ("policy/v1beta1", true), ("policy/v2", false), ("apps/v1", false)]
        {
            let eviction = json!({"apiVersion": version, "kind": "Eviction", "metadata": {"name": "p"},
                "deleteOptions": {"gracePeriodSeconds": 3}});
            let text = eviction.to_string();
            let bytes = proto::encode(&kind, &eviction).unwrap();
            for (media, body) in [
                ("application/json", text.as_bytes()),
                ("application/yaml", text.as_bytes()),
                (proto::MEDIA_TYPE, &bytes),
            ] {
                let read = read(media, version, body);
                assert_eq!(read.is_ok(), good, "{read:?}");
                assert!(good || read.unwrap_err().contains("is registered for version"), "{media} {version}");
            }
        }
        let binding = kybern_schema::builtin().kind(&Gvk::new("", "v1", "Binding")).unwrap();
        let other = br#"{"apiVersion": "v2", "kind": "Binding"}"#;
        assert_eq!(in_claimed_version(binding, "application/json", other).gvk.version, "v1");
    }
}
