//! kybern-proxy
