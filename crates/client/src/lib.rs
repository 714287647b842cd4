//! kybern-client
