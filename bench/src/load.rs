//! Load from `wrk` (Debian), a client that costs little beside the server it measures.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::memory::{Cores, Processor};
use crate::report::percentile;
use crate::server::{PORT, TOKEN};

/// What is loaded.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) port: u16,
    /// The process whose processor time counts.
    pub(crate) process: u32,
}

impl Target {
    /// A server of ours.
    pub(crate) fn server(process: u32) -> Self {
        Self { port: PORT, process }
    }
}

/// One run's outcome.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) requests_per_second: f64,
    pub(crate) megabytes_per_second: f64,
    /// Milliseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) cores: Cores,
}

impl Outcome {
    /// Microseconds of the server's processor time for one request.
    pub(crate) fn server_time(&self) -> f64 {
        self.cores.server / self.requests_per_second * 1e6
    }

    pub(crate) fn note(&self) -> String {
        format!("{}; {:.1} µs of the server's for each", self.cores, self.server_time())
    }
}

/// Runs of which the medians are taken.
const RUNS: usize = 3;

/// Loads one path for some seconds, several times; answers each figure's median. `script` is a wrk script that changes the
/// request.
pub(crate) fn run(
    target: Target,
    path: &str,
    connections: u32,
    seconds: u32,
    script: Option<&Path>,
) -> Result<Outcome> {
    let runs = (0..RUNS).map(|_| once(target, path, connections, seconds, script)).collect::<Result<Vec<_>>>()?;
    let median = |of: fn(&Outcome) -> f64| percentile(&mut runs.iter().map(of).collect::<Vec<_>>(), 50.0);
    Ok(Outcome {
        requests_per_second: median(|o| o.requests_per_second),
        megabytes_per_second: median(|o| o.megabytes_per_second),
        p50: median(|o| o.p50),
        p99: median(|o| o.p99),
        cores: Cores { server: median(|o| o.cores.server), load: median(|o| o.cores.load) },
    })
}

pub(crate) fn once(
    target: Target,
    path: &str,
    connections: u32,
    seconds: u32,
    script: Option<&Path>,
) -> Result<Outcome> {
    let mut wrk = Command::new("wrk");
    wrk.args(["--threads=1", &format!("--connections={connections}"), &format!("--duration={seconds}s"), "--latency"]);
    wrk.args(["--timeout=30s", "--header", &format!("Authorization: Bearer {TOKEN}")]);
    if let Some(script) = script {
        wrk.arg("--script").arg(script);
    }
    wrk.arg(format!("https://127.0.0.1:{}{path}", target.port)).stdin(Stdio::null());
    let processor = Processor::of(target.process);
    let output = wrk.output().context("cannot start wrk; it is in Debian's package wrk")?;
    let cores = processor.cores();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("wrk failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    if let Some(errors) = text.lines().find(|l| l.contains("Non-2xx") || l.contains("Socket errors")) {
        bail!("{path} under load: {}", errors.trim());
    }
    let field = |label: &str| {
        let line = text.lines().find_map(|l| l.trim().strip_prefix(label));
        line.map(|l| l.trim().to_owned()).with_context(|| format!("wrk printed no {label:?}:\n{text}"))
    };
    Ok(Outcome {
        requests_per_second: field("Requests/sec:")?.parse()?,
        megabytes_per_second: size(&field("Transfer/sec:")?)? / 1e6,
        p50: milliseconds(&field("50%")?)?,
        p99: milliseconds(&field("99%")?)?,
        cores,
    })
}

/// wrk's `1.50MB`, in bytes.
fn size(text: &str) -> Result<f64> {
    scaled(text, &[("KB", 1024.0), ("MB", 1024.0 * 1024.0), ("GB", 1024.0 * 1024.0 * 1024.0), ("B", 1.0)])
}

/// wrk's `1.50ms`, `20.00us`, `1.20s`.
fn milliseconds(text: &str) -> Result<f64> {
    scaled(text, &[("us", 0.001), ("ms", 1.0), ("s", 1000.0), ("m", 60_000.0)])
}

fn scaled(text: &str, units: &[(&str, f64)]) -> Result<f64> {
    for (unit, factor) in units {
        if let Some(number) = text.strip_suffix(unit).and_then(|n| n.parse::<f64>().ok()) {
            return Ok(number * factor);
        }
    }
    bail!("{text:?} is no figure of wrk")
}
