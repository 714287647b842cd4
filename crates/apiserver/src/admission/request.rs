//! What a plugin is shown of a request.

use std::sync::Arc;

use kybern_apimachinery::{ApiError, Gvk, Gvr, Value, object};
use kybern_schema::Strictness;
use kybern_schema::apply::ManagedFields;
use kybern_schema::types::KindType;

use super::Reinvocation;
use crate::access::UserInfo;
use crate::audit::Record;
use crate::convert;
use crate::resource::{Resource, SubresourceHandler};
use crate::transaction::Transaction;
use crate::warnings::Warnings;

const MANAGED_FIELDS: [&str; 2] = ["metadata", "managedFields"];
const INVALID_MANAGED_FIELDS: &str = ".metadata.managedFields was in an invalid state after admission; this could be caused by \
                                      an outdated mutating admission controller; please fix your requests";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    pub(super) const ALL: [Self; 4] = [Self::Create, Self::Update, Self::Delete, Self::Connect];

    /// As webhooks, policies and refusals name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// The rows that serve the same objects as a row.
pub trait Versions: Send + Sync {
    /// Itself first.
    fn versions(&self, resource: &Resource) -> Vec<Arc<Resource>>;
}

/// A resource by which the same object can be reached, and the kind that it has there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Equivalent {
    pub resource: Gvr,
    pub kind: Gvk,
}

/// What an admission plugin is shown: upstream's `admission.Attributes`.
pub struct AdmissionRequest<'a> {
    pub user: &'a UserInfo,
    /// In the request's version; of a subresource, the one that it is below.
    pub resource: &'a Resource,
    pub subresource: &'a str,
    /// What kind of object this is about, in the request's version: of `scale` a Scale, of `eviction` an Eviction, of `exec`
    /// the PodExecOptions, of `status` the object itself.
    pub kind: &'a Gvk,
    pub namespace: &'a str,
    /// As in the request: empty for the deletion of a collection, and until `validate` for a name that is to be generated.
    pub name: &'a str,
    /// CREATE of what a subresource takes (a binding, a token), CONNECT of what it leads to.
    pub operation: Operation,
    /// What there is before an UPDATE or a DELETE; in the form of the object.
    pub old: Option<&'a Value>,
    /// `CreateOptions` and the like; null on CONNECT.
    pub options: &'a Value,
    pub dry_run: bool,
    pub warnings: &'a Warnings,
    pub audit: &'a Record,
    pub reinvocation: &'a Reinvocation,
    /// What is committed together with the object: a `validate` may add to it.
    pub transaction: &'a Transaction,
    pub(crate) versions: &'a dyn Versions,
}

impl AdmissionRequest<'_> {
    /// Whether the object is what is stored, or a part of it, and not something else that a subresource takes.
    pub fn is_of_stored(&self) -> bool {
        let handler = self.resource.subresource(self.subresource).map(|s| &s.handler);
        self.resource.unstored.is_none() && matches!(handler, None | Some(SubresourceHandler::Part(_)))
    }

    /// By which resources the object can be reached, with this subresource: the request's first.
    pub fn equivalents(&self) -> Vec<Equivalent> {
        let own = Equivalent { resource: self.resource.gvr.clone(), kind: self.kind.clone() };
        let others = self.versions.versions(self.resource).into_iter().filter(|row| row.gvr != own.resource);
        let others = others.filter_map(|row| {
            let kind = match self.subresource {
                "" => row.ty.gvk.clone(),
                name => row.subresource(name)?.kind.clone(),
            };
            Some(Equivalent { resource: row.gvr.clone(), kind })
        });
        std::iter::once(own.clone()).chain(others).collect()
    }

    fn version(&self, kind: &Gvk) -> Result<Arc<Resource>, ApiError> {
        let row = self.versions.versions(self.resource).into_iter().find(|row| row.ty.gvk == *kind);
        row.ok_or_else(|| ApiError::internal(format!("{} cannot be converted to {kind:?}", self.resource.kind)))
    }

    /// The shape of a kind that plugins are shown or hand back.
    pub fn shape(&self, kind: &Gvk) -> Result<KindType, ApiError> {
        if self.is_of_stored() {
            return Ok(self.version(kind)?.ty.clone());
        }
        let known = if self.resource.ty.gvk == *kind {
            Some(self.resource.ty.clone())
        } else {
            kybern_schema::builtin().kind(kind)
        };
        known.ok_or_else(|| ApiError::internal(format!("{kind:?} is no kind that is known here")))
    }

    /// The object, or the old one, in a version: that of the request, or of an equivalent.
    pub async fn shown(&self, object: &Value, kind: &Gvk) -> Result<Value, ApiError> {
        if self.is_of_stored() {
            return convert::convert(self.resource, object.clone(), &self.version(kind)?.api_version()).await;
        }
        if object::api_version(object) == kind.api_version() && object::kind(object) == kind.kind {
            return Ok(object.clone());
        }
        Err(ApiError::internal(format!("a {} cannot be converted to {kind:?}", object::kind(object))))
    }

    /// An object in a version, as a webhook or a policy has made it of another, in the form that plugins hold: without what is
    /// unknown, with its defaults. Managed fields that nobody could read stay as they were.
    pub async fn taken(&self, mut object: Value, kind: &Gvk, before: &Value) -> Result<Value, ApiError> {
        if object::gvk(&object).as_ref() != Some(kind) {
            let found = format!("{}, Kind={}", object::api_version(&object), object::kind(&object));
            return Err(ApiError::bad_request(format!("admission made {found} of the object, which is {kind}")));
        }
        if let Err(error) = ManagedFields::of(&object) {
            self.warnings.add(format!("{INVALID_MANAGED_FIELDS}: {error}"));
            match object::at(before, &MANAGED_FIELDS) {
                Some(fields) => object::set(&mut object, &MANAGED_FIELDS, fields.clone()),
                None => drop(object::remove(&mut object, &MANAGED_FIELDS)),
            }
        }
        let shape = self.shape(kind)?;
        let decoded = kybern_schema::decode_value(&shape, object, Strictness::Ignore);
        let (mut object, _) = decoded.map_err(|error| error.into_api_error(kind))?;
        kybern_schema::apply_defaults(&shape, &mut object);
        if !self.is_of_stored() {
            return Ok(object);
        }
        let mut object = convert::to_internal(self.resource, object).await?;
        self.resource.strategy.default(&mut object);
        Ok(object)
    }

    /// Upstream's refusal. What is to be named is told by its base.
    pub fn forbidden(&self, object: Option<&Value>, cause: &str) -> ApiError {
        ApiError::forbidden(&self.resource.gvr.group_resource(), self.named(object), cause)
    }

    /// The name as refusals tell it.
    pub fn named<'o>(&'o self, object: Option<&'o Value>) -> &'o str {
        let of = |field: &str| object.map_or("", |o| object::str_at(o, &["metadata", field]));
        [self.name, of("name"), of("generateName")].into_iter().find(|name| !name.is_empty()).unwrap_or("Unknown")
    }
}
