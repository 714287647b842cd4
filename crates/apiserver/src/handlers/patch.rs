//! PATCH of an object or of a part of it: JSON patch, merge patch, strategic merge patch, server-side apply.

use http::{Response, StatusCode};
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{ApiError, GroupKind, OverBudget, Reason, Value, object};
use kybern_schema::types::KindType;
use kybern_schema::{DecodeError, decode_value};

use super::{Exchange, check_name, check_namespace};
use crate::convert;
use crate::options::{FieldValidation, WriteOptions, invalid, parse_revision};
use crate::write::{Failure, Writer};
use crate::{Body, authorization, body, codec, managed, respond};

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// A patch as it came.
pub(super) enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    /// An applied configuration.
    Apply(Value),
}

impl Patch {
    pub(super) async fn read(exchange: &Exchange, body: Body, options: &WriteOptions) -> Result<Self, ApiError> {
        let bytes = body::read(body).await?;
        let json = || kybern_schema::decode::json_to_value(&bytes).map_err(|error| refuse("patch", error));
        Ok(match codec::content_type(&exchange.parts.headers) {
            JSON => Self::Json(json()?),
            MERGE => Self::Merge(json()?),
            // Custom resources know no strategies.
            STRATEGIC if exchange.resource.schema.is_none() => Self::Strategic(json()?),
            APPLY => Self::Apply(configuration(exchange, &bytes, options.field_validation)?),
            _ if exchange.resource.schema.is_some() => return Err(codec::unsupported(&[JSON, MERGE, APPLY])),
            _ => return Err(codec::unsupported(&[JSON, MERGE, STRATEGIC, APPLY])),
        })
    }

    /// Applies a patch to an object of a kind. A configuration is taken as a merge patch.
    pub(super) fn apply(&self, kind: &KindType, object: Value) -> Result<Value, ApiError> {
        use kybern_schema::patch::{json, merge, strategic};
        Ok(match self {
            Self::Json(patch) => json::apply(object, patch)?,
            Self::Merge(patch) | Self::Apply(patch) => merge::apply(object, patch.clone())?,
            Self::Strategic(patch) => strategic::apply(kind, object, patch.clone())?,
        })
    }
}

fn refuse(what: &str, error: DecodeError) -> ApiError {
    match error {
        DecodeError::OverBudget(over @ OverBudget::Nodes(_)) => ApiError::from(over),
        error => ApiError::bad_request(format!("error decoding {what}: {error}")),
    }
}

/// An applied configuration. Whether its fields are known is asked when it is applied, whatever `fieldValidation` says.
fn configuration(exchange: &Exchange, bytes: &[u8], validation: FieldValidation) -> Result<Value, ApiError> {
    if validation == FieldValidation::Ignore {
        return kybern_schema::decode::yaml_to_value(bytes).map_err(|error| refuse("YAML", error));
    }
    let (config, duplicates) = kybern_schema::decode::yaml_strictly(bytes).map_err(|error| refuse("YAML", error))?;
    if validation == FieldValidation::Strict && !duplicates.is_empty() {
        return Err(ApiError::bad_request(format!(
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {}",
            duplicates.join("\n  ")
        )));
    }
    exchange.warnings.extend(duplicates);
    Ok(config)
}

pub(super) async fn patch(exchange: &Exchange, body: Body) -> Result<Response<Body>, ApiError> {
    let presentation = exchange.presentation()?;
    let options = exchange.write_options("PatchOptions")?;
    let patch = Patch::read(exchange, body, &options).await?;
    let (Patch::Json(sent) | Patch::Merge(sent) | Patch::Strategic(sent) | Patch::Apply(sent)) = &patch;
    exchange.audit.request_patch(sent);
    check_options(exchange, &patch, &options)?;
    let mut writer = Writer::new(exchange, &options);
    writer.applies = matches!(patch, Patch::Apply(_));
    let kind = exchange.server.kind(&exchange.resource)?;
    let mut tries = exchange.server.turns.tries();
    loop {
        exchange.server.catch_up().await?;
        kind.check_readable(&exchange.info.namespace, &exchange.info.name)?;
        let old = kind.get(&exchange.info.namespace, &exchange.info.name);
        if old.is_none() && !(writer.applies && exchange.info.subresource.is_empty()) {
            return Err(exchange.not_found());
        }
        let live = match &old {
            Some(old) => Some(convert::served(&exchange.resource, old).await?),
            None => None,
        };
        let object = patched(exchange, &patch, live, &options).await?;
        let uid = object::uid(&object);
        if old.is_none() && !uid.is_empty() {
            let cause =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(ApiError::conflict(&exchange.group_resource(), &exchange.info.name, &cause));
        }
        if old.is_none() {
            authorization::check_creation(&exchange.server, &exchange.info, &exchange.user).await?;
        }
        let written = match &old {
            None => writer.create(object).await.map_err(Failure::Refused),
            Some(old) => {
                // A patch may say which revision it is of.
                let expected = parse_revision(object::resource_version(&object))?;
                if expected.is_some_and(|revision| revision != old.revision) {
                    return Err(ApiError::stale(&exchange.group_resource(), &exchange.info.name));
                }
                writer.update(old, object).await
            }
        };
        match written {
            Ok(entry) => {
                let code = if old.is_some() { StatusCode::OK } else { StatusCode::CREATED };
                return respond::entry(&exchange.resource, &entry, presentation, code).await;
            }
            Err(failure) => {
                let failure = match failure {
                    // Made by someone else meanwhile: now it is an update.
                    Failure::Refused(error) if old.is_none() && error.reason() == Reason::AlreadyExists => {
                        Failure::Changed
                    }
                    failure => failure,
                };
                let key = kind.key(&exchange.info.namespace, &exchange.info.name);
                let again = failure.retry(&mut tries, &key).await;
                again.map_err(|f| f.into_api_error(&exchange.group_resource(), &exchange.info.name))?;
            }
        }
    }
}

pub(super) fn check_options(exchange: &Exchange, patch: &Patch, options: &WriteOptions) -> Result<(), ApiError> {
    let problem = match patch {
        Patch::Apply(_) if exchange.query.get("fieldManager").is_empty() => {
            FieldError::required(&FieldPath::new("fieldManager"), "is required for apply patch")
        }
        Patch::Apply(_) => return Ok(()),
        _ if options.force.is_some() => {
            FieldError::forbidden(&FieldPath::new("force"), "may not be specified for non-apply patch")
        }
        _ => return Ok(()),
    };
    Err(invalid("PatchOptions", problem))
}

/// The patched object in the served version, checked and with its defaults.
async fn patched(
    exchange: &Exchange,
    patch: &Patch,
    live: Option<Value>,
    options: &WriteOptions,
) -> Result<Value, ApiError> {
    let resource = &exchange.resource;
    let refuse = |error: DecodeError| error.into_api_error(&resource.ty.gvk);
    let patched = match patch {
        Patch::Apply(config) => {
            if !config.is_object() && !config.is_null() {
                let found = kybern_apimachinery::go::json_name(config);
                return Err(ApiError::bad_request(format!(
                    "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go \
                     value of type map[string]interface {{}}"
                )));
            }
            if object::kind(config) != resource.kind {
                let version = object::api_version(config);
                let version = if version.contains('/') { version.to_owned() } else { format!("/{version}") };
                return Err(ApiError::bad_request(format!(
                    "invalid object type: {version}, Kind={}",
                    object::kind(config)
                )));
            }
            let mut applied = managed::apply(exchange, options, live.as_ref(), config).await?;
            if object::name(&applied).is_empty() {
                object::set(&mut applied, &["metadata", "name"], exchange.info.name.as_str());
            }
            check_name(exchange, &applied)?;
            applied
        }
        _ => patch.apply(&resource.ty, live.unwrap_or_default())?,
    };
    let spoilt = |error: DecodeError| match patch {
        Patch::Apply(_) => refuse(error),
        // The object was good before the patch.
        _ => {
            let shown = match patch {
                Patch::Strategic(patch) => kybern_apimachinery::go::value(patch),
                _ => patched.to_string(),
            };
            let error = FieldError::invalid(&FieldPath::new("patch"), shown, error.to_string());
            ApiError::invalid(&GroupKind::new("", ""), "", &[error])
        }
    };
    let decoded = decode_value(&resource.ty, patched.clone(), options.field_validation.into());
    let (mut object, found) = decoded.map_err(spoilt)?;
    if !matches!(patch, Patch::Apply(_)) {
        exchange.warnings.extend(found);
    }
    if object::kind(&object) != resource.kind || object::api_version(&object) != resource.api_version() {
        return Err(ApiError::bad_request(format!(
            "the patch changes the object's type to {} {}, expected {} {}",
            object::api_version(&object),
            object::kind(&object),
            resource.api_version(),
            resource.kind
        )));
    }
    check_namespace(exchange, &mut object)?;
    kybern_schema::apply_defaults(&resource.ty, &mut object);
    Ok(object)
}
