//! Running programs and waiting for outcomes.

use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A number that this process has not used before.
pub(crate) fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    pub command: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    pub fn new(command: String, output: Output) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self { command, code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// The standard output of a command that must succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.code == Some(0), "{self}");
        self.stdout
    }

    /// The standard error of a command that must fail.
    #[track_caller]
    pub fn fails(self) -> String {
        assert!(self.code != Some(0), "should have failed: {self}");
        self.stderr
    }

    /// Fails the test unless the exit code is this one.
    #[track_caller]
    pub fn exits_with(self, code: i32) -> Self {
        assert!(self.code == Some(code), "should have exited with {code}: {self}");
        self
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "$ {}\nexit code {:?}\nstdout:\n{}stderr:\n{}", self.command, self.code, self.stdout, self.stderr)
    }
}

/// Repeats an observation of the outside world until it holds, for at most 60 s.
#[track_caller]
pub fn eventually<T>(what: &str, observe: impl FnMut() -> Result<T, String>) -> T {
    eventually_within(Duration::from_secs(60), what, observe)
}

/// Like [`eventually`], with a bound of its own. The last observation is in the failure's text.
#[track_caller]
pub fn eventually_within<T>(limit: Duration, what: &str, mut observe: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match observe() {
            Ok(value) => return value,
            Err(last) if Instant::now() > deadline => panic!("{what}: not within {limit:?}; at last: {last}"),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
