//! The processes of a simulation other than API servers and nodes, and how any of them is killed.

use std::sync::Arc;
use std::time::Duration;

use kybern_client::{Client, LeaseConfig};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::network::Network;

/// Until what has ended is started again.
pub(super) const RESTART: Duration = Duration::from_secs(1);

/// A process that can be killed.
pub(super) struct Process {
    alive: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Process {
    pub(super) fn start<F: Future<Output = ()> + Send + 'static>(
        body: impl FnOnce(&watch::Receiver<bool>) -> F,
    ) -> Self {
        let (alive, receiver) = watch::channel(true);
        Self { task: tokio::spawn(body(&receiver)), alive }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.alive.send_replace(false);
        self.task.abort();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Server(usize),
    Manager(usize),
    Scheduler(usize),
    Node(usize),
}

/// kube-controller-manager, each controller with its own account. What loses its lease is started again.
pub(super) async fn manager(network: Arc<Network>, alive: watch::Receiver<bool>, identity: String) {
    let clock = network.client("", &[], &alive).clock().clone();
    let accounts = (network.clone(), alive.clone());
    let client_for = move |account: &str| -> Client {
        let name = format!("system:serviceaccount:kube-system:{account}");
        accounts.0.client(&name, &["system:serviceaccounts", "system:serviceaccounts:kube-system"], &accounts.1)
    };
    let config = kybern_controller_manager::Config {
        root_ca: Some("PEM".to_owned()),
        lease: Some(LeaseConfig::new("kube-system", "kube-controller-manager", &identity)),
        client_for: Some(Arc::new(client_for)),
        clock,
        ..kybern_controller_manager::Config::default()
    };
    loop {
        let client = network.client("system:kube-controller-manager", &[], &alive);
        kybern_controller_manager::run(config.clone(), client, std::future::pending()).await;
        sleep(RESTART).await;
    }
}

pub(super) async fn scheduler(network: Arc<Network>, alive: watch::Receiver<bool>, identity: String) {
    loop {
        let lease = Some(LeaseConfig::new("kube-system", "kube-scheduler", &identity));
        let config = kybern_scheduler::Config { lease, ..Default::default() };
        let client = network.client("system:kube-scheduler", &[], &alive);
        kybern_scheduler::run(config, client, std::future::pending()).await;
        sleep(RESTART).await;
    }
}
