//! The special rules of the built-in kinds, one file per kind or small family. All pure, but for the Service's claims.

mod apps;
mod batch;
mod certificates;
mod config;
mod event;
mod namespace;
mod network;
mod node;
mod pick;
pub(crate) mod pod;
mod rbac;
mod scheduling;
mod service;
mod status;
mod storage;

pub(crate) use pick::{part, strategy};
pub(crate) use service::ServiceStrategy;
pub(crate) use status::{PlainWithStatus, StatusOnly};
