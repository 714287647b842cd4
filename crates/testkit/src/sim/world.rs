//! The processes of a simulation: starts, crashes and restarts them, and watches the rules.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kybern_apimachinery::time::Clock;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::clock::SimClock;
use super::disk::{Disk, Mount};
use super::faults::Faults;
use super::load::Load;
use super::model::Model;
use super::network::{Network, SERVERS};
use super::processes::{Part, Process, manager, scheduler};
use super::random::Random;
use super::scenario::User;
use super::settled::unsettled;
use super::{Failure, Report, evictor, node, servers};

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
    mounts: [Option<Arc<Mount>>; SERVERS],
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
        mounts: Default::default(),
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
        // At once, on an empty store.
        self.start_servers(if self.faults.two_servers { 0..SERVERS } else { 0..1 }).await?;
        for part in deciders.chain((0..NODES).map(Part::Node)) {
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
                0 if self.faults.two_servers => Part::Server(self.random.below(SERVERS as u64) as usize),
                0 => Part::Server(0),
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
            Part::Server(n) => {
                self.network.set_server(n, None);
                if let Some(mount) = self.mounts[n].take() {
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
            Part::Server(n) => self.start_servers(n..n + 1).await?,
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

    async fn start_servers(&mut self, places: Range<usize>) -> Result<(), Failure> {
        let starting = places.clone().map(|_| servers::start(self.disk.clone(), self.clock.clone()));
        for (place, started) in places.clone().zip(join_all(starting).await) {
            let servers::Running { server, mount, failures } = started.map_err(|rule| self.fail(rule))?;
            for error in failures {
                self.note(format!("server {place} ends: {error}"));
            }
            self.network.set_server(place, Some(server));
            self.mounts[place] = Some(mount);
        }
        self.check_acknowledged().await
    }

    async fn check_acknowledged(&mut self) -> Result<(), Failure> {
        let acknowledged = self.network.take_acknowledged();
        let store = self.mounts.iter().flatten().next().expect("a server is up").clone();
        servers::check_acknowledged(acknowledged, &store).await.map_err(|rule| self.fail(rule))
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
            let servers = self.network.servers();
            let complaints = unsettled(&self.model.lock(), &servers, &self.network.folders, &self.load);
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
        self.check_acknowledged().await?;
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
