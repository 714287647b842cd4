//! The processes of a simulation: starts, crashes and restarts them, and watches the rules.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kybern_apimachinery::object;
use kybern_apimachinery::time::Clock;
use kybern_client::{Client, LeaseConfig};
use kybern_storage::Storage;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::clock::SimClock;
use super::disk::{Disk, Mount};
use super::faults::Faults;
use super::load::Load;
use super::model::Model;
use super::network::Network;
use super::random::Random;
use super::scenario::User;
use super::settled::unsettled;
use super::{Failure, Report, evictor, node};
use crate::api_server::ApiServer;

const NODES: usize = 4;
/// What the user does in one simulation.
pub const STEPS: usize = 40;
/// kube-controller-managers, and as many schedulers: one of each leads.
const CANDIDATES: usize = 2;
/// The longest pause between two steps.
const PAUSE: Duration = Duration::from_secs(20);
/// The longest that a crashed process stays down.
const DOWN: Duration = Duration::from_secs(30);
/// A node may stay dead until its pods are evicted, and longer.
const NODE_DOWN: Duration = Duration::from_secs(600);
/// Within this all must be as wanted once nothing goes wrong any more. Evictions take 40 + 300 seconds, the retries of
/// what failed often up to 1000.
const SETTLING: Duration = Duration::from_secs(1800);
const LOOK: Duration = Duration::from_secs(10);
/// Once all is as wanted nobody writes anything for so long, but for leases and events: new leaders take 15 seconds.
const REST: Duration = Duration::from_secs(75);
const RESTART: Duration = Duration::from_secs(1);

/// A process that can be killed.
struct Process {
    alive: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Process {
    fn start<F: Future<Output = ()> + Send + 'static>(body: impl FnOnce(&watch::Receiver<bool>) -> F) -> Self {
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

struct World {
    seed: u64,
    random: Random,
    faults: Faults,
    start: Instant,
    clock: Arc<dyn Clock>,
    model: Arc<Mutex<Model>>,
    disk: Arc<Disk>,
    network: Arc<Network>,
    load: Arc<Load>,
    mount: Option<Arc<Mount>>,
    managers: [Option<Process>; CANDIDATES],
    schedulers: [Option<Process>; CANDIDATES],
    nodes: Vec<Option<Process>>,
    evictor: Option<Process>,
    /// What comes back when.
    returns: Vec<(Instant, Part)>,
    starts: u32,
    crashes: usize,
    history: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Server,
    Manager(usize),
    Scheduler(usize),
    Node(usize),
}

pub(super) async fn simulate(
    seed: u64,
    mut random: Random,
    faults: Faults,
    left_out: BTreeSet<usize>,
) -> Result<Report, Failure> {
    let start = Instant::now();
    let clock: Arc<dyn Clock> = Arc::new(SimClock::start());
    let model = Arc::new(Mutex::new(Model::new(faults.clone())));
    let committed = model.clone();
    let disk = Disk::new(
        random.fork(),
        faults.clone(),
        Arc::new(move |revision, writes| committed.lock().commit(revision, writes, start.elapsed())),
    );
    let load = Arc::new(Load::new(model.clone(), clock.clone()));
    let network = Network::new(random.fork(), faults.clone(), clock.clone(), load.clone());
    let mut world = World {
        seed,
        history: vec![format!("{faults:?}")],
        random,
        faults,
        start,
        clock,
        model,
        disk,
        network,
        load,
        mount: None,
        managers: Default::default(),
        schedulers: Default::default(),
        nodes: (0..NODES).map(|_| None).collect(),
        evictor: None,
        returns: Vec::new(),
        starts: 0,
        crashes: 0,
    };
    world.run(&left_out).await
}

impl World {
    async fn run(&mut self, left_out: &BTreeSet<usize>) -> Result<Report, Failure> {
        let deciders = (0..CANDIDATES).flat_map(|n| [Part::Manager(n), Part::Scheduler(n)]);
        for part in [Part::Server].into_iter().chain(deciders).chain((0..NODES).map(Part::Node)) {
            self.start_part(part).await?;
        }
        let (_alive, receiver) = watch::channel(true);
        let client = self.network.client("admin", &["system:masters"], &receiver);
        let mut user = User::new(client, self.random.fork(), self.faults.overload, self.load.clone());
        user.prepare().await;
        if self.faults.evictions {
            let (network, random) = (self.network.clone(), self.random.fork());
            self.evictor = Some(Process::start(|alive| {
                evictor::run(network.client("admin", &["system:masters"], alive), node_names(), random)
            }));
        }
        for n in 0..STEPS {
            let pause = self.random.delay(PAUSE);
            self.pass(pause).await?;
            self.disturb();
            let done = user.step(left_out.contains(&n)).await;
            if let Some(done) = done {
                self.note(format!("[{n}] {done}"));
            }
        }
        self.settle(&user).await
    }

    fn note(&mut self, text: String) {
        self.history.push(format!("{:8.3} {text}", self.start.elapsed().as_secs_f64()));
    }

    fn fail(&mut self, rule: String) -> Failure {
        let at = self.start.elapsed().as_secs_f64();
        Failure {
            seed: self.seed,
            rule: format!("after {at:.3} s: {rule}"),
            history: std::mem::take(&mut self.history),
        }
    }

    /// Lets time go on, brings back what is due, and looks whether a rule was broken.
    async fn pass(&mut self, time: Duration) -> Result<(), Failure> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let due = self.returns.iter().enumerate().min_by_key(|(_, (at, _))| *at).map(|(n, (at, _))| (n, *at));
            match due.filter(|(_, at)| *at <= end) {
                Some((index, at)) => {
                    tokio::time::sleep_until(at).await;
                    let (_, part) = self.returns.remove(index);
                    self.start_part(part).await?;
                }
                None => {
                    tokio::time::sleep_until(end).await;
                    return self.check();
                }
            }
        }
    }

    fn check(&mut self) -> Result<(), Failure> {
        let violation = self.model.lock().violation().map(str::to_owned);
        violation.map_or(Ok(()), |rule| Err(self.fail(rule)))
    }

    /// Perhaps kills something; it comes back later.
    fn disturb(&mut self) {
        if self.faults.crashes && self.random.chance(0.2) {
            let candidate = self.random.below(CANDIDATES as u64) as usize;
            let part = match self.random.below(3) {
                0 => Part::Server,
                1 => Part::Manager(candidate),
                _ => Part::Scheduler(candidate),
            };
            self.kill(part, DOWN);
        }
        if self.faults.node_deaths && self.random.chance(0.1) {
            let node = self.random.below(NODES as u64) as usize;
            self.kill(Part::Node(node), NODE_DOWN);
        }
    }

    fn kill(&mut self, part: Part, longest: Duration) {
        if self.returns.iter().any(|(_, other)| *other == part) {
            return;
        }
        match part {
            Part::Server => {
                self.network.set_server(None);
                if let Some(mount) = self.mount.take() {
                    mount.crash();
                }
            }
            Part::Manager(n) => self.managers[n] = None,
            Part::Scheduler(n) => self.schedulers[n] = None,
            Part::Node(n) => {
                self.network.set_silent(&node_name(n), true);
                self.nodes[n] = None;
            }
        }
        self.crashes += 1;
        let down = self.random.delay(longest);
        self.note(format!("{part:?} dies for {:.3} s", down.as_secs_f64()));
        self.returns.push((Instant::now() + down, part));
    }

    async fn start_part(&mut self, part: Part) -> Result<(), Failure> {
        self.starts += 1;
        self.note(format!("{part:?} starts"));
        let network = self.network.clone();
        let identity = format!("{}", self.starts);
        match part {
            Part::Server => self.start_server().await?,
            Part::Manager(n) => {
                self.managers[n] = Some(Process::start(|alive| manager(network, alive.clone(), identity)));
            }
            Part::Scheduler(n) => {
                self.schedulers[n] = Some(Process::start(|alive| scheduler(network, alive.clone(), identity)));
            }
            Part::Node(n) => {
                let random = self.random.fork();
                network.set_silent(&node_name(n), false);
                self.nodes[n] = Some(Process::start(|alive| {
                    let name = node_name(n);
                    let client = network.client(&format!("system:node:{name}"), &["system:nodes"], alive);
                    let folders = network.folders.clone();
                    node::run(node::Config { name, number: n as u8 + 1, folders }, client, random)
                }));
            }
        }
        Ok(())
    }

    /// As a service manager does: until it runs.
    async fn start_server(&mut self) -> Result<(), Failure> {
        loop {
            let mount = self.disk.mount().await.map_err(|e| self.fail(format!("the store cannot be read: {e}")))?;
            self.check_acknowledged(&mount).await?;
            match ApiServer::start_on(mount.clone(), self.clock.clone()).await {
                Ok(server) => {
                    self.network.set_server(Some(server.server().clone()));
                    self.mount = Some(mount);
                    return Ok(());
                }
                Err(error) => {
                    self.note(format!("the server ends: {error}"));
                    mount.crash();
                    sleep(RESTART).await;
                }
            }
        }
    }

    /// What a client was told to be written is in the history of the store.
    async fn check_acknowledged(&mut self, store: &Mount) -> Result<(), Failure> {
        let acknowledged = self.network.take_acknowledged();
        let failed = |e: &dyn std::fmt::Display| format!("the store's history cannot be read: {e}");
        let revision = store.revision().await.map_err(|e| self.fail(failed(&e)))?;
        let mut history: HashMap<u64, Vec<String>> = HashMap::new();
        if revision > 1 {
            let mut watch = store.watch("/", 1).await.map_err(|e| self.fail(failed(&e)))?;
            for event in watch.next().await.map_err(|e| self.fail(failed(&e)))?.events {
                let object = event.value.and_then(|value| serde_json::from_slice(&value).ok()).unwrap_or_default();
                history.entry(event.revision).or_default().push(object::uid(&object).to_owned());
            }
        }
        // An update that takes the last finalizer away is a deletion, which has no value.
        let happened = |uids: &Vec<String>, uid: &str| uids.iter().any(|u| u == uid || u.is_empty());
        let lost = acknowledged.into_iter().find(|a| !history.get(&a.revision).is_some_and(|h| happened(h, &a.uid)));
        match lost {
            Some(lost) => Err(self.fail(format!("the store has lost an acknowledged write: {lost:?}"))),
            None => Ok(()),
        }
    }

    /// Ends the faults, brings everything back, and waits until all is as wanted.
    async fn settle(&mut self, user: &User) -> Result<Report, Failure> {
        let calm = self.faults.none();
        self.disk.set_faults(calm.clone());
        self.network.set_faults(calm);
        self.note("faults end".to_owned());
        for (_, part) in std::mem::take(&mut self.returns) {
            self.start_part(part).await?;
        }
        self.evictor = None;
        user.end(&node_names()).await;
        let end = Instant::now() + SETTLING;
        loop {
            self.pass(LOOK).await?;
            let server = self.network.server().expect("the server is up");
            let complaints = unsettled(&self.model.lock(), &server, &self.network.folders, &self.load);
            if complaints.is_empty() {
                break;
            }
            if Instant::now() > end {
                return Err(self.fail(format!("this does not come about:\n{}", complaints.join("\n"))));
            }
        }
        // Who starts anew decides about everything anew, and finds nothing to do.
        self.model.lock().changed.clear();
        (self.managers, self.schedulers) = Default::default();
        for n in 0..CANDIDATES {
            self.start_part(Part::Manager(n)).await?;
            self.start_part(Part::Scheduler(n)).await?;
        }
        self.pass(REST).await?;
        let changed = self.model.lock().take_decided();
        if !changed.is_empty() {
            let keys = changed.into_iter().collect::<Vec<_>>().join(", ");
            return Err(self.fail(format!("all was as wanted, and still these were written: {keys}")));
        }
        let mount = self.mount.clone().expect("the server is up");
        self.check_acknowledged(&mount).await?;
        let model = self.model.lock();
        Ok(Report {
            commits: model.revision,
            bindings: model.bindings,
            crashes: self.crashes,
            lasted: self.start.elapsed(),
            digest: model.digest,
        })
    }
}

fn node_name(number: usize) -> String {
    format!("node-{number}")
}

fn node_names() -> Vec<String> {
    (0..NODES).map(node_name).collect()
}

/// kube-controller-manager, each controller with its own account. What loses its lease is started again.
async fn manager(network: Arc<Network>, alive: watch::Receiver<bool>, identity: String) {
    let clock = network.client("", &[], &alive).clock().clone();
    let accounts = (network.clone(), alive.clone());
    let client_for = move |account: &str| -> Client {
        let name = format!("system:serviceaccount:kube-system:{account}");
        accounts.0.client(&name, &["system:serviceaccounts", "system:serviceaccounts:kube-system"], &accounts.1)
    };
    let config = kybern_controller_manager::Config {
        root_ca: Some("PEM".to_owned()),
        lease: Some(kybern_client::LeaseConfig::new("kube-system", "kube-controller-manager", &identity)),
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

async fn scheduler(network: Arc<Network>, alive: watch::Receiver<bool>, identity: String) {
    loop {
        let lease = Some(LeaseConfig::new("kube-system", "kube-scheduler", &identity));
        let config = kybern_scheduler::Config { lease, ..Default::default() };
        let client = network.client("system:kube-scheduler", &[], &alive);
        kybern_scheduler::run(config, client, std::future::pending()).await;
        sleep(RESTART).await;
    }
}
