//! PATCH of an object or of a part of it: JSON patch, merge patch, strategic merge patch, server-side apply.

use http::{Response, StatusCode};
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{ApiError, GroupKind, OverBudget, Reason, Value, object};
use kybern_schema::types::KindType;
use kybern_schema::{DecodeError, decode_value};

use super::{Exchange, check_name, check_namespace};
use crate::convert;
use crate::options::{WriteOptions, invalid, parse_revision};
use crate::write::{Failure, TRIES, Writer};
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
    pub(super) async fn read(exchange: &Exchange, body: Body) -> Result<Self, ApiError> {
        let bytes = body::read(body).await?;
        let refuse = |error: DecodeError| match error {
            DecodeError::OverBudget(over @ OverBudget::Nodes(_)) => ApiError::from(over),
            error => ApiError::bad_request(format!("error decoding patch: {error}")),
        };
        let json = || kybern_schema::decode::json_to_value(&bytes).map_err(refuse);
        Ok(match codec::content_type(&exchange.parts.headers) {
            JSON => Self::Json(json()?),
            MERGE => Self::Merge(json()?),
            // Custom resources know no strategies.
            STRATEGIC if exchange.resource.schema.is_none() => Self::Strategic(json()?),
            APPLY => Self::Apply(kybern_schema::decode::yaml_to_value(&bytes).map_err(refuse)?),
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

pub(super) async fn patch(exchange: &Exchange, body: Body) -> Result<Response<Body>, ApiError> {
    let presentation = exchange.presentation()?;
    let options = exchange.write_options("PatchOptions")?;
    let patch = Patch::read(exchange, body).await?;
    let (Patch::Json(sent) | Patch::Merge(sent) | Patch::Strategic(sent) | Patch::Apply(sent)) = &patch;
    exchange.audit.request_patch(sent);
    check_options(exchange, &patch, &options)?;
    let mut writer = Writer::new(exchange, &options);
    writer.applies = matches!(patch, Patch::Apply(_));
    let kind = exchange.server.kind(&exchange.resource)?;
    let mut attempt = 1;
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
            Err(Failure::Changed) if attempt < TRIES => attempt += 1,
            // Made by someone else meanwhile: now it is an update.
            Err(Failure::Refused(error))
                if old.is_none() && error.reason() == Reason::AlreadyExists && attempt < TRIES =>
            {
                attempt += 1;
            }
            Err(failure) => return Err(failure.into_api_error(&exchange.group_resource(), &exchange.info.name)),
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
            let mut config = config.clone();
            if object::kind(&config) != resource.kind {
                return Err(ApiError::bad_request(format!(
                    "the kind of the applied configuration ({}) does not match the resource's ({})",
                    object::kind(&config),
                    resource.kind
                )));
            }
            // Of unknown fields the merge would see nothing.
            let decoded = decode_value(&resource.ty, config.clone(), options.field_validation.into());
            exchange.warnings.extend(decoded.map_err(refuse)?.1);
            check_namespace(exchange, &mut config)?;
            if object::name(&config).is_empty() {
                object::set(&mut config, &["metadata", "name"], exchange.info.name.as_str());
            }
            check_name(exchange, &config)?;
            managed::apply(exchange, options, live.as_ref(), &config).await?
        }
        _ => patch.apply(&resource.ty, live.unwrap_or_default())?,
    };
    let spoilt = |error: DecodeError| match patch {
        Patch::Apply(_) => refuse(error),
        // The object was good before the patch.
        _ => {
            let shown = match patch {
                Patch::Strategic(patch) => kybern_schema::patch::strategic::go_value(patch),
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
