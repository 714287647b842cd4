//! `cargo xtask tidy`: the rules of the house that the compiler does not know.

mod modules;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{output, root};

/// The crates, lowest layer first. A crate may depend only on crates before it.
const LAYERS: &[&str] = &[
    "kybern-apimachinery",
    "kybern-component-base",
    "kybern-webhook",
    "kybern-cel",
    "kybern-quota",
    "kybern-pod-security",
    "kybern-schema",
    "kybern-storage",
    "kybern-apiserver",
    "kybern-auth",
    "kybern-cri",
    "kybern-streaming",
    "kybern-registry",
    "kybern-api",
    "kybern-client",
    "kybern-controller-manager",
    "kybern-scheduler",
    "kybern-linux",
    "kybern-profiling",
    "kybern-cni",
    "kybern-runtime",
    "kybern-proxy",
    "kybern-dns",
    "kybern-kubelet",
    "kybern",
    "kybern-testbed",
    "kybern-testkit",
    "kybern-fuzzing",
    "kybern-bench",
    "kybern-e2e",
    "xtask",
];

/// Components meet through API objects, never through imports.
const COMPONENTS: &[&str] = &[
    "kybern-apiserver",
    "kybern-controller-manager",
    "kybern-scheduler",
    "kybern-kubelet",
    "kybern-proxy",
    "kybern-dns",
];

/// Pairs (crate, forbidden dependency) beyond the layering, each with its reason.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("kybern-apiserver", "kybern-api", "built-in kinds and custom resources take one path, without typed structs"),
    ("kybern-apiserver", "k8s-openapi", "built-in kinds and custom resources take one path, without typed structs"),
    ("kybern-registry", "kybern-api", "strategies work on trees, like the server they serve"),
    ("kybern-kubelet", "kybern-runtime", "the kubelet knows a runtime only as CRI"),
];

/// Crates whose code gets time and randomness from its caller.
const PURE: &[&str] = &["apimachinery", "schema"];
const IMPURE_WORDS: &[&str] = &["SystemTime::now", "Instant::now", "Timestamp::now", "thread::sleep", "getrandom::"];
/// The one place where a pure crate touches the machine's clock: the clock that drivers hold.
const CLOCK_FILE: &str = "apimachinery/src/time.rs";

const LINES_MAX: usize = 800;
const UNFINISHED_WORDS: &[&str] = &["todo!(", "unimplemented!(", "FIXME", "XXX"];

pub(crate) fn run() -> Result<()> {
    let mut complaints = Vec::new();
    check_dependencies(&mut complaints)?;
    for file in rust_files()? {
        check_file(&file, &mut complaints)?;
    }
    for complaint in &complaints {
        eprintln!("tidy: {complaint}");
    }
    if complaints.is_empty() { Ok(()) } else { bail!("{} complaints", complaints.len()) }
}

fn check_dependencies(complaints: &mut Vec<String>) -> Result<()> {
    let metadata: Value = serde_json::from_str(&output(&["cargo", "metadata", "--format-version", "1", "--no-deps"])?)?;
    for package in metadata["packages"].as_array().context("cargo metadata lists no packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(layer) = LAYERS.iter().position(|l| *l == name) else {
            complaints.push(format!("crate {name} has no place in the layers (xtask/src/tidy.rs)"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = dependency["name"].as_str().unwrap_or_default();
            // Tests may look up: the layering is about what is shipped.
            if dependency["kind"] == "dev" {
                continue;
            }
            if LAYERS.iter().position(|l| *l == on).is_some_and(|other| other >= layer) {
                complaints.push(format!("{name} depends on {on}, which is not below it"));
            }
            if COMPONENTS.contains(&name) && COMPONENTS.contains(&on) {
                complaints.push(format!("{name} depends on {on}: components meet through API objects"));
            }
            // The bench is shipped to nobody.
            if name != "kybern-bench" && ["kybern-testbed", "kybern-testkit"].contains(&on) {
                complaints.push(format!("{name} ships with {on}: it is for tests only"));
            }
            for (_, _, reason) in FORBIDDEN.iter().filter(|(from, to, _)| *from == name && *to == on) {
                complaints.push(format!("{name} depends on {on}: {reason}"));
            }
        }
    }
    Ok(())
}

fn rust_files() -> Result<Vec<PathBuf>> {
    let listing = output(&["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])?;
    Ok(listing.lines().map(PathBuf::from).filter(|p| root().join(p).exists()).collect())
}

fn check_file(file: &Path, complaints: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string(root().join(file)).with_context(|| format!("cannot read {}", file.display()))?;
    let shown = file.display();
    let lines = text.lines().count();
    if lines > LINES_MAX {
        complaints.push(format!("{shown} has {lines} lines, more than {LINES_MAX}: split it"));
    }
    modules::check(file, &text, complaints);
    let is_tidy = file.ends_with("xtask/src/tidy.rs");
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        for word in UNFINISHED_WORDS.iter().filter(|w| !is_tidy && line.contains(**w)) {
            complaints.push(format!("{shown}:{number}: {word} marks unfinished work"));
        }
        let in_crate = |name: &&str| file.starts_with(format!("crates/{name}/src"));
        if !file.ends_with(CLOCK_FILE) && PURE.iter().any(in_crate) {
            for word in IMPURE_WORDS.iter().filter(|w| line.contains(**w)) {
                complaints.push(format!("{shown}:{number}: {word} in a pure crate: take it as an argument"));
            }
        }
        let allows_unsafe = line.contains("allow(unsafe_code)") && !is_tidy;
        // Tests alone link it: it defines a function of the C library, to make randomness follow from a seed.
        let is_entropy = file.ends_with("testkit/src/entropy.rs");
        if allows_unsafe && !is_entropy && !file.starts_with("crates/linux") {
            complaints.push(format!("{shown}:{number}: unsafe code lives in the crate linux"));
        }
    }
    Ok(())
}
