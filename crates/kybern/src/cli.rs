//! The command line. Names and flags of the components are upstream's.

use clap::{Parser, Subcommand};

use crate::commands::{
    backup, completion, coredns, down, explain_scheduling, image, kube_apiserver, kube_controller_manager, kube_proxy,
    kube_scheduler, kubelet, server, store, up,
};
use crate::testapp;

/// A complete Kubernetes in one program.
#[derive(Debug, Parser)]
#[command(name = "kybern", version = crate::version::KYBERN, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Starts a local cluster in the background and waits until it is usable.
    #[command(next_line_help = true)]
    Up(up::Up),
    /// Stops the local cluster and removes everything it made.
    Down(down::Down),
    /// Runs control plane and node in the foreground.
    #[command(next_line_help = true)]
    Server(server::Server),
    /// Copies the store to a file, also while a server uses it.
    Backup(Box<backup::Backup>),
    /// Puts a copy in the place of the store, while no server uses it.
    Restore(backup::Restore),
    /// Looks into the store.
    Store(store::Store),
    /// Says of every node why the scheduler chose it for a pod, or did not.
    ExplainScheduling(explain_scheduling::ExplainScheduling),
    /// Works on the node's images.
    Image(image::Image),
    /// Runs the API server alone.
    #[command(next_line_help = true)]
    KubeApiserver(Box<kube_apiserver::KubeApiserver>),
    /// Runs the controllers alone.
    #[command(next_line_help = true)]
    KubeControllerManager(Box<kube_controller_manager::KubeControllerManager>),
    /// Runs the scheduler alone.
    #[command(next_line_help = true)]
    KubeScheduler(Box<kube_scheduler::KubeScheduler>),
    /// Runs the kubelet and the container runtime alone.
    #[command(next_line_help = true)]
    Kubelet(Box<kubelet::Kubelet>),
    /// Runs the service proxy.
    #[command(next_line_help = true)]
    KubeProxy(kube_proxy::KubeProxy),
    /// Runs the cluster DNS server.
    Coredns(coredns::Coredns),
    /// Prints a shell's completion script.
    Completion(completion::Completion),
    /// Sample and test application, for demos and tests.
    Testapp(testapp::TestApp),
}

impl Command {
    /// `up`, `down` and the like, unlike what runs on and on.
    pub(crate) fn is_for_people(&self) -> bool {
        matches!(
            self,
            Self::Up(_)
                | Self::Down(_)
                | Self::Backup(_)
                | Self::Restore(_)
                | Self::Store(_)
                | Self::ExplainScheduling(_)
                | Self::Image(_)
                | Self::Completion(_)
                | Self::Testapp(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn help_is_readable_beside_the_longest_flag() {
        for command in Cli::command().get_subcommands_mut() {
            let help = command.clone().term_width(100).render_long_help().to_string();
            let squeezed = help.lines().find(|line| line.starts_with(&" ".repeat(60)));
            assert_eq!(squeezed, None, "help of {}", command.get_name());
        }
    }
}
