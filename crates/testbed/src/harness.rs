//! A test harness for programs that are their own shim and their own built-in image: `main` is theirs, so the standard
//! harness cannot be.

use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use crate::not_run;

/// A shell and its tools in one static program.
pub const BUSYBOX: &str = "/bin/busybox";

/// Far above what any test takes: a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// A name, and the test.
pub type Test = (&'static str, fn() -> Pin<Box<dyn Future<Output = ()>>>);

/// Lists async functions as tests.
#[macro_export]
macro_rules! tests {
    ($($module:ident::$name:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)), || Box::pin($module::$name()))),*]
    };
}

/// Runs the tests whose names hold the program's first argument, one after the other: they share a kernel. Ends the process
/// with 1 when one failed.
pub fn run(program: &str, tests: &[Test]) {
    if !rustix::process::geteuid().is_root() || !Path::new(BUSYBOX).exists() {
        return not_run(program, "it needs root and /bin/busybox (Debian: busybox-static)");
    }
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let chosen = tests.iter().filter(|(name, _)| filter.as_ref().is_none_or(|f| name.contains(f.as_str())));
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, test) in chosen {
        let started = Instant::now();
        let result = std::panic::catch_unwind(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(async {
                tokio::time::timeout(PATIENCE, test()).await.expect("within two minutes");
            });
        });
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({} ms)", started.elapsed().as_millis());
        match result {
            Ok(()) => passed += 1,
            Err(_) => failed.push(*name),
        }
    }
    println!("{program}: {passed} passed, {} failed", failed.len());
    if !failed.is_empty() {
        println!("failed: {failed:?}");
        std::process::exit(1);
    }
}
