//! Upstream's typed structs (k8s-openapi, v1.35) for the code that wants them: `kybern_api::core::v1::Pod`. This crate is
//! the only one that instantiates their JSON codecs, because that is what makes them dear to compile; everyone else
//! reads and writes them through [`Object`].
//!
//! The structs drop fields they do not know, so a typed object read from the API must not be written back whole: change
//! it with a patch, or write its status subresource.

pub use k8s_openapi::api::{
    admissionregistration, apps, authentication, authorization, autoscaling, batch, certificates, coordination, core,
    discovery, events, networking, node, policy, rbac, resource, scheduling, storage,
};
pub use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
pub use k8s_openapi::apimachinery::pkg::apis::meta;
pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
pub use k8s_openapi::{ByteString, Metadata};

pub use condition::Condition;
pub use selector::label_selector;
pub use typed::{DecodeError, Object};

pub mod condition;
pub mod device_taints;
pub mod encode;
pub mod node_affinity;
pub mod owner;
pub mod scaled;
pub mod selector;
pub mod typed;

mod lenient;
mod object;
