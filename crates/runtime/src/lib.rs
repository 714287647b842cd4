//! kybern-runtime
