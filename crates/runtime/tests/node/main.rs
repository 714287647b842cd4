//! Tests on the real kernel: namespaces, control groups, overlay mounts, processes. They need root and busybox-static;
//! without them they say so. The test program is its own shim and its own built-in image.

mod containers;
mod fake_registry;
mod fixture;
mod images;
mod network;
mod registry_protocol;
mod restart;
mod sandboxes;
mod streams;

use kybern_testbed::harness::{self, Test};
use kybern_testbed::tests;

const TESTS: &[Test] = tests![
    sandboxes::the_life_of_a_pod,
    sandboxes::pods_share_what_they_should,
    sandboxes::a_container_joins_the_processes_of_another,
    sandboxes::nothing_is_left,
    sandboxes::cancelled_at_any_time,
    sandboxes::removed_while_it_is_made,
    network::an_end_overtakes_the_network,
    network::a_network_that_does_not_let_go_is_asked_again,
    sandboxes::handlers,
    containers::what_a_process_sees,
    containers::confinement,
    containers::users_and_groups,
    containers::any_user_listens_and_pings,
    containers::mounts,
    containers::mount_propagation,
    containers::resources,
    containers::device_filter_of_cgroup_v2,
    containers::start_errors_are_upstreams,
    containers::stopping,
    containers::out_of_memory,
    containers::many_at_once,
    streams::logs,
    streams::a_fast_log_is_rotated,
    streams::exec,
    streams::exec_with_a_terminal,
    streams::attach,
    streams::port_forward,
    images::layers_and_archives,
    images::hostile_layers,
    images::pull_from_a_registry,
    images::archives_that_lie,
    registry_protocol::credentials,
    registry_protocol::broken_connections,
    registry_protocol::a_pull_that_nobody_waits_for,
    registry_protocol::lies,
    registry_protocol::busy_registries_and_other_endpoints,
    registry_protocol::encrypted_registries,
    registry_protocol::a_full_disk,
    restart::purge_removes_everything,
    restart::kybern_dies_and_comes_back,
    restart::a_container_that_was_being_made_is_removed,
    restart::a_start_under_way_is_taken_over,
    restart::a_shim_dies,
];

fn main() {
    // As the program does: containers must not inherit it.
    kybern_linux::process::allow_huge_pages(false);
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();

    if args.get(1).is_some_and(|a| a == kybern_runtime::SHIM_COMMAND) {
        kybern_runtime::shim_main(&args[2..]);
    }
    harness::run("runtime: node", TESTS);
}
