//! The command line. Names and flags of the components are upstream's.

use clap::{Parser, Subcommand};

use crate::commands::{
    backup, completion, coredns, down, image, kube_apiserver, kube_controller_manager, kube_proxy, kube_scheduler,
    kubelet, server, store, up,
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
    Up(up::Up),
    /// Stops the local cluster and removes everything it made.
    Down(down::Down),
    /// Runs control plane and node in the foreground.
    Server(server::Server),
    /// Copies the store to a file, also while a server uses it.
    Backup(Box<backup::Backup>),
    /// Puts a copy in the place of the store, while no server uses it.
    Restore(backup::Restore),
    /// Looks into the store.
    Store(store::Store),
    /// Works on the node's images.
    Image(image::Image),
    /// Runs the API server alone.
    KubeApiserver(Box<kube_apiserver::KubeApiserver>),
    /// Runs the controllers alone.
    KubeControllerManager(Box<kube_controller_manager::KubeControllerManager>),
    /// Runs the scheduler alone.
    KubeScheduler(Box<kube_scheduler::KubeScheduler>),
    /// Runs the kubelet and the container runtime alone.
    Kubelet(Box<kubelet::Kubelet>),
    /// Runs the service proxy.
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
                | Self::Image(_)
                | Self::Completion(_)
                | Self::Testapp(_)
        )
    }
}
