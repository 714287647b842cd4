//! What tests on the real kernel share: network namespaces, a harness for programs that are their own shim, servers
//! for clients to call, and one way to say that a machine lacks what a test needs.

mod etcd;
mod grpc;
pub mod harness;
pub mod https;
mod netns;
mod not_run;

pub use etcd::EtcdServer;
pub use grpc::{GrpcAnswer, serve_grpc};
pub use netns::TestNs;
pub use not_run::{NOT_RUN_FILE, not_run, upstream_answers, upstream_facts};
