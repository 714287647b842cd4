//! `kybern`: a complete Kubernetes in one program. This crate is the command line and the wiring; what the parts do lies in
//! their own crates.

mod addons;
mod cli;
mod commands;
mod component_flags;
mod logging;
mod node_address;
mod notify;
mod ownership;
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
    kybern_linux::files::set_umask();
    kybern_linux::process::allow_huge_pages(false);
    // A shim must stay a single small thread, so it parts before anything else begins.
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|a| a == kybern_runtime::SHIM_COMMAND) {
        kybern_runtime::shim_main(&arguments[2..]);
    }
    if arguments.get(1).is_some_and(|a| a == "pause") {
        kybern_runtime::pause_main();
    }
    let prepared = component_flags::prepare(arguments);
    if let (Some(component), true) = (prepared.component, prepared.version) {
        println!("{}", component_flags::version(component));
        return ExitCode::SUCCESS;
    }
    let cli = match Cli::try_parse_from(&prepared.arguments) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, prepared.component),
    };
    logging::init(&cli.command, prepared.level);
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

/// A component says what is wrong with its flags as upstream's does.
fn refuse(error: &clap::Error, component: Option<&str>) -> ExitCode {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let flag = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(flag))) => Some(flag),
        _ => None,
    };
    match (component, flag) {
        (Some(component), Some(flag)) => {
            eprintln!("Error: {}", component_flags::unknown(component, flag));
            ExitCode::FAILURE
        }
        _ => error.exit(),
    }
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
