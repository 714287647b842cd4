//! Tests on the real kernel: namespaces, control groups, overlay mounts, processes. They need root and busybox-static;
//! without them they say so and pass. The test program is its own shim and its own built-in image.

mod containers;
mod fixture;
mod images;
mod registry_protocol;
mod restart;
mod sandboxes;
mod streams;

use std::pin::Pin;

type Test = (&'static str, fn() -> Pin<Box<dyn Future<Output = ()>>>);

/// Lists async functions as tests.
macro_rules! tests {
    ($($module:ident::$name:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)), || Box::pin($module::$name()))),*]
    };
}

const TESTS: &[Test] = tests![
    sandboxes::the_life_of_a_pod,
    sandboxes::pods_share_what_they_should,
    sandboxes::nothing_is_left,
    containers::what_a_process_sees,
    containers::confinement,
    containers::users_and_groups,
    containers::mounts,
    containers::mount_propagation,
    containers::resources,
    containers::device_filter_of_cgroup_v2,
    containers::start_errors_are_upstreams,
    containers::stopping,
    containers::out_of_memory,
    containers::start_is_fast,
    streams::logs,
    streams::exec,
    streams::exec_with_a_terminal,
    streams::attach,
    streams::port_forward,
    images::layers_and_archives,
    images::hostile_layers,
    images::pull_from_a_registry,
    registry_protocol::credentials_and_broken_connections,
    restart::purge_removes_everything,
    restart::kybern_dies_and_comes_back,
    restart::a_shim_dies,
];

fn main() {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();

    if args.get(1).is_some_and(|a| a == kybern_runtime::SHIM_COMMAND) {
        kybern_runtime::shim_main(&args[2..]);
    }
    if !rustix::process::geteuid().is_root() || !std::path::Path::new(fixture::BUSYBOX).exists() {
        println!("SKIPPED: node tests need root and {} (package busybox-static)", fixture::BUSYBOX);
        return;
    }
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let mut failed = Vec::new();
    for (name, test) in TESTS.iter().filter(|(name, _)| filter.as_ref().is_none_or(|f| name.contains(f.as_str()))) {
        let started = std::time::Instant::now();
        let result = std::panic::catch_unwind(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::time::timeout(std::time::Duration::from_secs(60), test()).await.expect("within a minute")
            });
        });
        println!(
            "test {name} ... {} ({} ms)",
            if result.is_ok() { "ok" } else { "FAILED" },
            started.elapsed().as_millis()
        );
        if result.is_err() {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        println!("failed: {failed:?}");
        std::process::exit(1);
    }
}
