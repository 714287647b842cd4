//! The processes of a simulation: starts, crashes and restarts them, and watches the rules.

mod troubles;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kybern_apimachinery::time::Clock;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::clock::SimClock;
use super::disk::{Disk, Mount};
use super::faults::Faults;
use super::host::Host;
use super::load::Load;
use super::model::Model;
use super::network::{Network, SERVERS, Up};
use super::processes::{Part, Process, manager, scheduler};
use super::random::Random;
use super::scenario::User;
use super::settled::unsettled;
use super::{Failure, Report, evictor, node, servers};

/// Nodes for which users ask for as much as for a few.
const FEW_NODES: usize = 40;
/// What the user does in one simulation.
pub const STEPS: usize = 40;
/// kube-controller-managers, and as many schedulers: one of each leads.
const CANDIDATES: usize = 2;
/// The longest pause between two steps.
const PAUSE: Duration = Duration::from_secs(20);
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
    nodes: usize,
    start: Instant,
    /// One that is right, and by part those of the machines.
    clock: SimClock,
    clocks: BTreeMap<Part, SimClock>,
    model: Arc<Mutex<Model>>,
    disk: Arc<Disk>,
    network: Arc<Network>,
    load: Arc<Load>,
    mounts: [Option<Arc<Mount>>; SERVERS],
    /// Those that run, and those that stand still.
    processes: BTreeMap<Part, Process>,
    /// By part: under what name it stands for election.
    identities: BTreeMap<Part, String>,
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
    nodes: usize,
) -> Result<Report, Failure> {
    let start = Instant::now();
    let clock = SimClock::start();
    let model = Arc::new(Mutex::new(Model::new(faults.clone())));
    let committed = model.clone();
    let disk = Disk::new(
        random.fork(),
        faults.clone(),
        Arc::new(move |revision, writes| committed.lock().commit(revision, writes, start.elapsed())),
    );
    let load = Arc::new(Load::new(model.clone(), Arc::new(clock)));
    let network = Network::new(random.fork(), faults.clone(), load.clone());
    let mut world = World {
        seed,
        history: vec![format!("{faults:?}")],
        random,
        faults,
        nodes,
        start,
        clock,
        clocks: BTreeMap::new(),
        model,
        disk,
        network,
        load,
        mounts: Default::default(),
        processes: BTreeMap::new(),
        identities: BTreeMap::new(),
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
        for part in deciders.chain((0..self.nodes).map(Part::Node)) {
            self.start_part(part).await?;
        }
        let (_life, host) = Host::start(Arc::new(self.clock));
        let client = self.network.client("admin", &["system:masters"], &host);
        let mut user = User::new(client, self.random.fork(), self.faults.overload, self.load.clone());
        user.scale = (self.nodes / FEW_NODES).max(1) as u64;
        user.prepare().await;
        if self.faults.evictions {
            let (network, random, nodes) = (self.network.clone(), self.random.fork(), self.node_names());
            self.evictor = Some(Process::start(Arc::new(self.clock), |host| {
                evictor::run(network.client("admin", &["system:masters"], &host), nodes, random)
            }));
        }
        for n in 0..STEPS {
            let pause = self.random.delay(PAUSE);
            self.pass(pause).await?;
            self.disturb();
            self.trouble_store().await?;
            let done = user.step(left_out.contains(&n)).await;
            if let Some(done) = done {
                self.note(format!("[{n}] {done}"));
            }
            self.stall().await?;
        }
        self.settle(&user).await
    }

    fn node_names(&self) -> Vec<String> {
        (0..self.nodes).map(node_name).collect()
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
                    self.bring_back(part).await?;
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

    /// What was dead starts, and what stood still goes on.
    async fn bring_back(&mut self, part: Part) -> Result<(), Failure> {
        if self.processes.get(&part).is_some_and(Process::go_on) {
            self.note(format!("{part:?} goes on"));
            self.model.lock().goes_on(self.start.elapsed());
            return Ok(());
        }
        self.start_part(part).await
    }

    async fn start_part(&mut self, part: Part) -> Result<(), Failure> {
        self.starts += 1;
        self.note(format!("{part:?} starts"));
        let network = self.network.clone();
        let identity = self.starts.to_string();
        let clock = self.clock_of(part);
        let process = match part {
            Part::Server(n) => return self.start_servers(n..n + 1).await,
            Part::Manager(_) => {
                self.identities.insert(part, identity.clone());
                Process::start(clock, |host| manager(network, host, identity))
            }
            Part::Scheduler(_) => {
                self.identities.insert(part, identity.clone());
                Process::start(clock, |host| scheduler(network, host, identity))
            }
            Part::Node(n) => {
                let random = self.random.fork();
                network.set_silent(&node_name(n), false);
                Process::start(clock, |host| {
                    let name = node_name(n);
                    let client = network.client(&format!("system:node:{name}"), &["system:nodes"], &host);
                    let folders = network.folders.clone();
                    node::run(node::Config { name, number: n as u32 + 1, folders }, client, random)
                })
            }
        };
        self.processes.insert(part, process);
        Ok(())
    }

    async fn start_servers(&mut self, places: Range<usize>) -> Result<(), Failure> {
        let clocks: Vec<_> = places.clone().map(|place| self.clock_of(Part::Server(place))).collect();
        let (lives, hosts): (Vec<_>, Vec<_>) = clocks.into_iter().map(Host::start).unzip();
        let starting = hosts.iter().map(|host| servers::start(self.disk.clone(), host.clone()));
        let started = join_all(starting).await;
        for (place, ((life, host), started)) in places.zip(lives.into_iter().zip(hosts).zip(started)) {
            let servers::Running { server, mount, failures } = started.map_err(|rule| self.fail(rule))?;
            for error in failures {
                self.note(format!("server {place} ends: {error}"));
            }
            self.processes.insert(Part::Server(place), Process::of(life));
            self.network.set_server(place, Some(Up { server, host }));
            self.mounts[place] = Some(mount);
        }
        self.model.lock().is_away(self.start.elapsed());
        self.check_acknowledged()
    }

    /// That of the machine, which outlives what runs there.
    fn clock_of(&mut self, part: Part) -> Arc<dyn Clock> {
        let Self { clocks, clock, random, faults, .. } = self;
        // A node whose clock is set back renews no lease until that time is there again, here as upstream.
        let is_set = !matches!(part, Part::Node(_));
        Arc::new(*clocks.entry(part).or_insert_with(|| clock.skewed(random, faults.clock_skew, is_set)))
    }

    fn check_acknowledged(&mut self) -> Result<(), Failure> {
        let acknowledged = self.network.take_acknowledged();
        servers::check_acknowledged(acknowledged, &self.disk).map_err(|rule| self.fail(rule))
    }

    /// Ends the faults, brings everything back, and waits until all is as wanted.
    async fn settle(&mut self, user: &User) -> Result<Report, Failure> {
        let calm = self.faults.none();
        self.disk.set_faults(calm.clone());
        self.network.set_faults(calm);
        self.note("faults end".to_owned());
        for (_, part) in std::mem::take(&mut self.returns) {
            self.bring_back(part).await?;
        }
        for process in self.processes.values() {
            process.go_on();
        }
        self.mounts.iter().flatten().for_each(|mount| mount.find());
        self.evictor = None;
        user.end(&self.node_names()).await;
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
        self.processes.retain(|part, _| matches!(part, Part::Node(_) | Part::Server(_)));
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
        self.check_acknowledged()?;
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
