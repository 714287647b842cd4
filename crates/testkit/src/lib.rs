//! What tests of several components together need.

pub mod api_server;
pub mod entropy;
pub mod sim;
