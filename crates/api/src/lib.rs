//! kybern-api
