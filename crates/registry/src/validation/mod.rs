//! Checks shared by several kinds, with upstream's texts (`pkg/apis/core/validation`). Each adds what is wrong to a list.

pub(crate) mod annotations;
pub(crate) mod claim;
pub(crate) mod conditions;
pub(crate) mod container;
pub(crate) mod env;
pub(crate) mod format;
pub(crate) mod ip;
pub(crate) mod key_pair;
pub(crate) mod meta;
pub(crate) mod names;
pub(crate) mod node_labels;
mod overlap;
pub(crate) mod pod_spec;
pub(crate) mod probe;
pub(crate) mod resources;
pub(crate) mod scheduling;
pub(crate) mod security;
pub(crate) mod spread;
pub(crate) mod update;
pub(crate) mod volume;
pub(crate) mod warnings;
pub(crate) mod windows;

pub(crate) use format::Errors;
