//! What goes wrong in a simulation besides what the network and the disk do by themselves: crashes, processes that stand
//! still, and a store that is away or forgets.

use std::time::Duration;

use tokio::time::Instant;

use super::super::Failure;
use super::super::network::SERVERS;
use super::super::processes::{MANAGERS_LEASE, Part, SCHEDULERS_LEASE};
use super::{CANDIDATES, World, node_name};

/// The longest that a crashed process stays down.
const DOWN: Duration = Duration::from_secs(30);
/// A node may stay dead until its pods are evicted, and longer.
const NODE_DOWN: Duration = Duration::from_secs(600);
/// A leader stands still within so long after a step of the user, and for longer than its lease lasts, or not.
const BUSY: Duration = Duration::from_secs(3);
const LEAST_STILL: Duration = Duration::from_secs(8);
const MOST_STILL: Duration = Duration::from_secs(60);
/// The longest that an API server stands still, or is without the store. Less than what a node may be silent.
const AWAY: Duration = Duration::from_secs(25);

impl World {
    /// Perhaps kills something; it comes back later.
    pub(super) fn disturb(&mut self) {
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
            let node = self.random.below(self.nodes as u64) as usize;
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
                self.model.lock().is_away(self.start.elapsed());
                if let Some(mount) = self.mounts[n].take() {
                    mount.crash();
                }
            }
            Part::Node(n) => self.network.set_silent(&node_name(n), true),
            Part::Manager(_) | Part::Scheduler(_) => {}
        }
        self.processes.remove(&part);
        self.crashes += 1;
        let down = self.random.delay(longest);
        self.note(format!("{part:?} dies for {:.3} s", down.as_secs_f64()));
        self.returns.push((Instant::now() + down, part));
    }

    /// Perhaps takes the store away from servers, or its history, and perhaps stops a server.
    pub(super) async fn trouble_store(&mut self) -> Result<(), Failure> {
        if self.faults.compactions && self.random.chance(0.1) {
            self.note("the store forgets its history".to_owned());
            self.disk.compact().await.map_err(|e| self.fail(format!("the store cannot forget: {e}")))?;
        }
        let one = self.random.below(SERVERS as u64) as usize;
        if self.faults.store_outages && self.random.chance(0.1) {
            let away = self.random.delay(AWAY);
            let all = self.random.chance(0.5);
            let who = if all { "all servers".to_owned() } else { format!("server {one}") };
            self.note(format!("the store is away from {who} for {:.3} s", away.as_secs_f64()));
            self.model.lock().is_away(self.start.elapsed() + away);
            let mounts = self.mounts.iter().enumerate().filter(|(n, _)| all || *n == one);
            mounts.filter_map(|(_, mount)| mount.as_ref()).for_each(|mount| mount.lose(away));
        }
        if self.faults.server_pauses
            && self.random.chance(0.1)
            && let Some(process) = self.processes.get(&Part::Server(one))
        {
            let still = self.random.delay(AWAY);
            let (model, start) = (self.model.clone(), self.start);
            model.lock().is_away(start.elapsed() + still);
            process.stand_for(still, move || model.lock().goes_on(start.elapsed()));
            self.note(format!("server {one} stands still for {:.3} s", still.as_secs_f64()));
        }
        Ok(())
    }

    /// Perhaps stops who leads, amid what the last step has made it do.
    pub(super) async fn stall(&mut self) -> Result<(), Failure> {
        if !self.faults.pauses || !self.random.chance(0.2) {
            return Ok(());
        }
        let kind = if self.random.chance(0.5) { Part::Manager } else { Part::Scheduler };
        let busy = self.random.delay(BUSY);
        self.pass(busy).await?;
        let leader = self.leader(kind(0)).filter(|part| self.returns.iter().all(|(_, other)| other != part));
        if let Some((part, process)) = leader.and_then(|part| Some((part, self.processes.get(&part)?))) {
            process.stand();
            let still = LEAST_STILL + self.random.delay(MOST_STILL);
            self.note(format!("{part:?}, which leads, stands still for {:.3} s", still.as_secs_f64()));
            self.returns.push((Instant::now() + still, part));
        }
        Ok(())
    }

    /// Of those that stand for election together with a part.
    fn leader(&self, part: Part) -> Option<Part> {
        let model = self.model.lock();
        let is_manager = matches!(part, Part::Manager(_));
        let lease = if is_manager { MANAGERS_LEASE } else { SCHEDULERS_LEASE };
        let holder = &model.objects.get(&format!("/registry/leases/kube-system/{lease}"))?["spec"]["holderIdentity"];
        let mut candidates = self.identities.iter().filter(|(part, _)| matches!(part, Part::Manager(_)) == is_manager);
        candidates.find(|(_, identity)| *holder == **identity).map(|(part, _)| *part)
    }
}
