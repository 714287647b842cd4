//! `kybern`: a complete Kubernetes in one program. This crate is the command line and the wiring; what the parts do lies in
//! their own crates.

mod addons;
mod cli;
mod commands;
mod logging;
mod node_address;
mod notify;
mod paths;
mod preflight;
mod testapp;
mod up;
mod version;
mod wiring;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

/// With the C library's, an API server under writes spends a third of its time in the allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    kybern_linux::process::allow_huge_pages(false);
    // A shim must stay a single small thread, so it parts before anything else begins.
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|a| a == kybern_runtime::SHIM_COMMAND) {
        kybern_runtime::shim_main(&arguments[2..]);
    }
    if arguments.get(1).is_some_and(|a| a == "pause") {
        kybern_runtime::pause_main();
    }
    let cli = Cli::parse_from(with_two_dashes(with_applet_name(arguments)));
    logging::init(&cli.command);
    if cli.command.is_for_people() {
        kybern_linux::process::end_with_the_reader();
    }
    let result = runtime(&cli.command).and_then(|runtime| runtime.block_on(run(cli.command)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A link named like a component behaves like it: `kube-proxy` is `kybern kube-proxy`.
fn with_applet_name(mut arguments: Vec<std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    const APPLETS: &[&str] =
        &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns"];
    let called = arguments.first().and_then(|a| std::path::Path::new(a).file_name()).map(|n| n.to_owned());
    if let Some(name) = called.filter(|name| APPLETS.iter().any(|applet| name == applet)) {
        arguments.insert(1, name);
    }
    arguments
}

/// CoreDNS and kube-proxy's elder flags have one dash; clap's long ones have two.
fn with_two_dashes(arguments: Vec<std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let one_dash =
        |a: &std::ffi::OsString| a.to_str().is_some_and(|a| a.starts_with("-conf") || a.starts_with("-dns.port"));
    let lengthen = |a: std::ffi::OsString| {
        if one_dash(&a) { format!("-{}", a.to_string_lossy()).into() } else { a }
    };
    arguments.into_iter().map(lengthen).collect()
}

/// The servers use every core; the rest is content with one thread.
fn runtime(command: &Command) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = match command {
        Command::Server(_) | Command::KubeApiserver(_) | Command::Coredns(_) => {
            tokio::runtime::Builder::new_multi_thread()
        }
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    Ok(builder.enable_all().build()?)
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(up) => commands::up::run(up).await,
        Command::Down(down) => commands::down::run(down),
        Command::Server(server) => commands::server::run(server).await,
        Command::Image(image) => commands::image::run(image).await,
        Command::KubeApiserver(options) => commands::kube_apiserver::run(*options).await,
        Command::KubeControllerManager(options) => commands::kube_controller_manager::run(options).await,
        Command::KubeScheduler(options) => commands::kube_scheduler::run(options).await,
        Command::Kubelet(options) => commands::kubelet::run(options).await,
        Command::KubeProxy(options) => commands::kube_proxy::run(options).await,
        Command::Coredns(options) => commands::coredns::run(options).await,
        Command::Completion(options) => commands::completion::run(&options),
        Command::Testapp(app) => testapp::run(app).await,
    }
}
