//! The kubelet with the real runtime on the real kernel, against the fake API server. Needs root and busybox-static;
//! without them it says so and passes. The test program is its own shim and its own built-in image.

#[path = "../node/fake_api.rs"]
mod fake_api;
mod fixture;
mod pods;

use std::pin::Pin;

type Test = (&'static str, fn() -> Pin<Box<dyn Future<Output = ()>>>);

macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        &[$((stringify!($name), || Box::pin(pods::$name()))),*]
    };
}

const TESTS: &[Test] = tests![
    volumes_and_environment,
    limits_and_memory,
    security,
    init_containers_and_exit_codes,
    a_restart_takes_over,
    deletion_leaves_nothing,
    streams,
];

fn main() {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|a| a == kybern_runtime::SHIM_COMMAND) {
        kybern_runtime::shim_main(&args[2..]);
    }
    if !rustix::process::geteuid().is_root() || !std::path::Path::new(fixture::BUSYBOX).exists() {
        println!("SKIPPED: machine tests need root and {} (package busybox-static)", fixture::BUSYBOX);
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
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({} ms)", started.elapsed().as_millis());
        if result.is_err() {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        println!("failed: {failed:?}");
        std::process::exit(1);
    }
}
