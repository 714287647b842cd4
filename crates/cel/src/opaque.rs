//! Values of Kubernetes' own types.

use std::net::IpAddr;

use kybern_apimachinery::quantity::Quantity;

use crate::functions::authorizer::{Authorization, Decision, PathCheck, ResourceCheck};
use crate::functions::formats::Format;
use crate::functions::semver::Semver;
use crate::functions::url::Url;

#[derive(Debug)]
pub enum Opaque {
    Quantity(Quantity),
    Ip(IpAddr),
    Cidr(IpAddr, u8),
    Url(Url),
    Format(&'static Format),
    Semver(Semver),
    Authorizer(Authorization),
    PathCheck(PathCheck),
    GroupCheck(ResourceCheck),
    ResourceCheck(ResourceCheck),
    Decision(Decision),
}

impl Opaque {
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Ip(_) => "net.IP",
            Self::Cidr(..) => "net.CIDR",
            Self::Url(_) => "kubernetes.URL",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Self::PathCheck(_) => "kubernetes.authorization.PathCheck",
            Self::GroupCheck(_) => "kubernetes.authorization.GroupCheck",
            Self::ResourceCheck(_) => "kubernetes.authorization.ResourceCheck",
            Self::Decision(_) => "kubernetes.authorization.Decision",
        }
    }

    /// What costs are computed from.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Ip(IpAddr::V4(_)) => 4,
            Self::Ip(IpAddr::V6(_)) => 16,
            Self::Cidr(_, bits) => u64::from(bits.div_ceil(8)),
            _ => 1,
        }
    }

    /// None where values of the two kinds are not compared.
    pub(crate) fn equals(&self, other: &Self) -> Option<bool> {
        Some(match (self, other) {
            (Self::Quantity(a), Self::Quantity(b)) => a.partial_cmp(b) == Some(std::cmp::Ordering::Equal),
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a, n), Self::Cidr(b, m)) => a == b && n == m,
            (Self::Url(a), Self::Url(b)) => a.text() == b.text(),
            (Self::Format(a), Self::Format(b)) => a.name == b.name,
            (Self::Semver(a), Self::Semver(b)) => a.compare(b) == std::cmp::Ordering::Equal,
            _ => return None,
        })
    }
}
