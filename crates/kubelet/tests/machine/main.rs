//! The kubelet with the real runtime on the real kernel, against the fake API server. Needs root and busybox-static;
//! without them it says so. The test program is its own shim and its own built-in image.

mod churn;
#[path = "../node/fake_api.rs"]
mod fake_api;
mod fixture;
mod pods;
mod volumes;

use kybern_testbed::harness::{self, Test};
use kybern_testbed::tests;

const TESTS: &[Test] = tests![
    pods::volumes_and_environment,
    pods::limits_and_memory,
    pods::security,
    pods::init_containers_and_exit_codes,
    pods::a_restart_takes_over,
    pods::deletion_leaves_nothing,
    pods::streams,
    volumes::what_may_only_be_read_is_never_written,
    volumes::an_ephemeral_container_writes_no_more,
    volumes::secrets_stay_in_memory_over_a_restart,
    volumes::volumes_within_volumes,
    volumes::a_volume_deeper_than_any_stack,
    volumes::directories_have_the_modes_that_are_meant,
    volumes::a_busy_node_leaves_nothing_open,
    churn::pods_deleted_while_they_start_leave_nothing,
];

fn main() {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|a| a == kybern_runtime::SHIM_COMMAND) {
        kybern_runtime::shim_main(&args[2..]);
    }
    // Bridges and addresses of the tests are nobody else's.
    if let Err(error) = kybern_linux::process::unshare(kybern_linux::process::CLONE_NEWNET) {
        println!("no network namespace of its own: {error}");
    }
    harness::run("kubelet: machine", TESTS);
}
