//! `kybern`: a complete Kubernetes in one program. This crate is the command line and the wiring; what the parts do lies in
//! their own crates.

mod addons;
mod cli;
mod commands;
mod flags;
mod logging;
mod node_address;
mod notify;
mod ownership;
mod paths;
mod preflight;
mod serving;
mod testapp;
mod up;
mod version;
mod wiring;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

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
    let prepared = match flags::prepare(arguments) {
        Ok(prepared) => prepared,
        Err(refusal) => {
            eprintln!("Error: {refusal}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(answer) = &prepared.answer {
        println!("{answer}");
        return ExitCode::SUCCESS;
    }
    let cli = match parse(&prepared) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    logging::init(&cli.command, prepared.level);
    prepared.notes.iter().for_each(|note| tracing::warn!("{note}"));
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

/// A component's help goes on with what upstream's takes beyond what works here.
fn parse(prepared: &flags::Prepared) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    if let Some(component) = prepared.component {
        command = command.mut_subcommand(component, |command| command.after_help(flags::help(component)));
    }
    let matches = command.clone().try_get_matches_from(&prepared.arguments)?;
    flags::used::note(&command, &matches);
    Cli::from_arg_matches(&matches)
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
        Command::Backup(options) => commands::backup::backup(*options).await,
        Command::Restore(options) => commands::backup::restore(&options),
        Command::Store(options) => commands::store::run(&options),
        Command::ExplainScheduling(options) => commands::explain_scheduling::run(options).await,
        Command::Image(image) => commands::image::run(image).await,
        Command::KubeApiserver(options) => commands::kube_apiserver::run(*options).await,
        Command::KubeControllerManager(options) => commands::kube_controller_manager::run(*options).await,
        Command::KubeScheduler(options) => commands::kube_scheduler::run(*options).await,
        Command::Kubelet(options) => commands::kubelet::run(*options).await,
        Command::KubeProxy(options) => commands::kube_proxy::run(options).await,
        Command::Coredns(options) => commands::coredns::run(options).await,
        Command::Completion(options) => commands::completion::run(&options),
        Command::Testapp(app) => testapp::run(app).await,
    }
}
