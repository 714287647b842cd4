//! The processes of a simulation other than API servers and nodes, and how any of them is killed.

use std::sync::Arc;
use std::time::Duration;

use kybern_apimachinery::time::Clock;
use kybern_client::{Client, LeaseConfig};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::host::{Host, Life};
use super::network::Network;

/// Until what has ended is started again.
pub(super) const RESTART: Duration = Duration::from_secs(1);
/// What they stand for election to, in `kube-system`.
pub(super) const MANAGERS_LEASE: &str = "kube-controller-manager";
pub(super) const SCHEDULERS_LEASE: &str = "kube-scheduler";

/// A process that can be killed, and that can stand still.
pub(super) struct Process {
    life: watch::Sender<Life>,
    task: JoinHandle<()>,
}

impl Process {
    pub(super) fn start<F: Future<Output = ()> + Send + 'static>(
        clock: Arc<dyn Clock>,
        body: impl FnOnce(Host) -> F,
    ) -> Self {
        let (life, host) = Host::start(clock);
        Self { task: tokio::spawn(body(host)), life }
    }

    /// One that does nothing by itself.
    pub(super) fn of(life: watch::Sender<Life>) -> Self {
        Self { life, task: tokio::spawn(std::future::ready(())) }
    }

    /// Stands still for a while, and calls something when it goes on.
    pub(super) fn stand_for(&self, time: Duration, goes_on: impl FnOnce() + Send + 'static) {
        self.stand();
        let life = self.life.clone();
        tokio::spawn(async move {
            sleep(time).await;
            let is_on = life.send_if_modified(|life| {
                let stood = *life == Life::Stands;
                if stood {
                    *life = Life::Runs;
                }
                stood
            });
            if is_on {
                goes_on();
            }
        });
    }

    /// What it has to send from now on is sent when it runs again, whether it still wants that or not.
    pub(super) fn stand(&self) {
        self.life.send_replace(Life::Stands);
    }

    /// Whether it had stood still.
    pub(super) fn go_on(&self) -> bool {
        self.life.send_replace(Life::Runs) == Life::Stands
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.life.send_replace(Life::Dead);
        self.task.abort();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Server(usize),
    Manager(usize),
    Scheduler(usize),
    Node(usize),
}

/// kube-controller-manager, each controller with its own account. What loses its lease is started again.
pub(super) async fn manager(network: Arc<Network>, host: Host, identity: String) {
    let clock = host.clock.clone();
    let accounts = (network.clone(), host.clone());
    let client_for = move |account: &str| -> Client {
        let name = format!("system:serviceaccount:kube-system:{account}");
        accounts.0.client(&name, &["system:serviceaccounts", "system:serviceaccounts:kube-system"], &accounts.1)
    };
    let config = kybern_controller_manager::Config {
        root_ca: Some("PEM".to_owned()),
        lease: Some(LeaseConfig::new("kube-system", MANAGERS_LEASE, &identity)),
        client_for: Some(Arc::new(client_for)),
        clock,
        ..kybern_controller_manager::Config::default()
    };
    loop {
        let client = network.client("system:kube-controller-manager", &[], &host);
        kybern_controller_manager::run(config.clone(), client, std::future::pending()).await;
        sleep(RESTART).await;
    }
}

pub(super) async fn scheduler(network: Arc<Network>, host: Host, identity: String) {
    loop {
        let lease = Some(LeaseConfig::new("kube-system", SCHEDULERS_LEASE, &identity));
        let config = kybern_scheduler::Config { lease, ..Default::default() };
        let client = network.client("system:kube-scheduler", &[], &host);
        kybern_scheduler::run(config, client, std::future::pending()).await;
        sleep(RESTART).await;
    }
}
