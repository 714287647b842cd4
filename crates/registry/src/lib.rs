//! kybern-registry
