//! A request for a resource on its way through the handlers.

use std::sync::Arc;

use http::request::Parts;
use kybern_apimachinery::{ApiError, GroupResource};

use crate::access::UserInfo;
use crate::audit::Record;
use crate::codec;
use crate::held::Held;
use crate::negotiate::{Format, SHAPES, Shape, negotiate};
use crate::options::{Query, WriteOptions};
use crate::request_info::RequestInfo;
use crate::resource::{Resource, Subresource, SubresourceHandler};
use crate::respond::Presentation;
use crate::server::Server;
use crate::table::Include;
use crate::warnings::Warnings;

/// A request for a resource, authorized.
pub(crate) struct Exchange {
    pub(crate) server: Arc<Server>,
    pub(crate) info: Arc<RequestInfo>,
    pub(crate) resource: Arc<Resource>,
    pub(crate) query: Query,
    pub(crate) user: UserInfo,
    pub(crate) parts: Parts,
    pub(crate) now: jiff::Timestamp,
    pub(crate) warnings: Arc<Warnings>,
    pub(crate) audit: Arc<Record>,
    /// Kept for as long as there is work on the request, whether or not its client waits for it.
    pub(crate) held: Held,
}

impl Exchange {
    pub(crate) fn group_resource(&self) -> GroupResource {
        self.resource.gvr.group_resource()
    }

    pub(crate) fn not_found(&self) -> ApiError {
        ApiError::not_found(&self.group_resource(), &self.info.name)
    }

    pub(crate) fn format(&self) -> Result<Format, ApiError> {
        let protobuf = codec::has_protobuf(&self.resource.ty);
        let part = self.resource.subresource(&self.info.subresource).map(|subresource| &subresource.handler);
        let shapes = match part {
            Some(SubresourceHandler::Part(strategy)) if !strategy.has_table() => &[Shape::Metadata],
            _ => SHAPES,
        };
        negotiate(&self.parts.headers, self.query.given_flag("pretty"), protobuf, shapes)
    }

    pub(crate) fn presentation(&self) -> Result<Presentation, ApiError> {
        let format = self.format()?;
        let include = match format.shape {
            Shape::Table => Include::parse(self.query.get("includeObject"))?,
            _ => Include::Metadata,
        };
        Ok(Presentation { format, include, now: self.now })
    }

    /// `kind` is the options' kind.
    pub(crate) fn write_options(&self, kind: &str) -> Result<WriteOptions, ApiError> {
        let agent = self.parts.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok());
        WriteOptions::parse(&self.query, kind, agent.unwrap_or(""))
    }

    pub(crate) fn subresource(&self) -> Option<&Subresource> {
        self.resource.subresource(&self.info.subresource)
    }
}
