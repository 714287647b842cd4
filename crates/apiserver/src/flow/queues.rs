//! The requests of one level: who is served now, who waits, who is refused. Pure: time comes from the caller.
//!
//! A flow is dealt a hand of queues (shuffle sharding) and waits in the one with the least work. Queues are served by fair
//! queuing: each has a point in virtual time at which its next request would be sent, and the earliest goes first. Virtual
//! time runs at the rate at which one queue of those that have work would be served.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::config::Queuing;
use super::demand::Demand;

pub(super) type Id = u64;

/// What a request is expected to take of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) seats: u32,
    /// Held on for some time when it has ended: what it has others do, such as watchers.
    pub(super) final_seats: u32,
    pub(super) after: Duration,
}

impl Work {
    fn most(self) -> u32 {
        self.seats.max(self.final_seats)
    }
}

/// How long a request is taken to last, until it is known.
const GUESS: f64 = 0.003;

#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) id: Id,
    pub(super) work: Work,
    pub(super) arrived: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) waiting: VecDeque<Item>,
    pub(super) executing: usize,
    pub(super) seats: u32,
    /// Of those that wait.
    seats_waiting: u32,
    /// In seat-seconds of virtual time.
    pub(super) next: f64,
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.executing == 0
    }
}

#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) queue: Option<usize>,
    pub(super) work: Work,
    pub(super) arrived: Duration,
    pub(super) started: Duration,
    seats: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    Execute,
    Wait,
    /// With upstream's word for the reason.
    Refuse(&'static str),
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) dispatched: u64,
    pub(super) rejected: u64,
    pub(super) timed_out: u64,
    pub(super) cancelled: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct QueueSet {
    /// `None`: every request is served at once.
    limit: Option<u32>,
    queuing: Option<Queuing>,
    /// More than are dealt, when there were more.
    pub(super) queues: Vec<Queue>,
    pub(super) running: HashMap<Id, Running>,
    seats: u32,
    seats_waiting: u32,
    /// Requests that wait, and queues that have any or serve some: what no queue need be asked for.
    waiting: usize,
    active: usize,
    virtual_now: f64,
    at: Duration,
    next_queue: usize,
    pub(super) demand: Demand,
    pub(super) counts: Counts,
}

impl QueueSet {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            limit: Some(0),
            queuing: None,
            queues: Vec::new(),
            running: HashMap::new(),
            seats: 0,
            seats_waiting: 0,
            waiting: 0,
            active: 0,
            virtual_now: 0.0,
            at: now,
            next_queue: 0,
            demand: Demand::new(now),
            counts: Counts::default(),
        }
    }

    /// What waits goes on waiting where it is. Call [`QueueSet::dispatch`] after it.
    pub(super) fn configure(&mut self, queuing: Option<Queuing>) {
        self.queuing = queuing;
        let wanted = queuing.map_or(0, |q| q.queues);
        while self.queues.len() < wanted {
            self.queues.push(Queue { next: self.virtual_now, ..Queue::default() });
        }
    }

    pub(super) fn set_limit(&mut self, now: Duration, limit: Option<u32>) {
        self.advance(now);
        self.limit = limit;
    }

    pub(super) fn limit(&self) -> Option<u32> {
        self.limit
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting == 0
    }

    pub(super) fn seats(&self) -> u32 {
        self.seats
    }

    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        if self.active > 0 {
            let served = f64::from((self.seats + self.seats_waiting).min(self.limit.unwrap_or(u32::MAX)));
            self.virtual_now += passed * served / self.active as f64;
        }
    }

    fn note_demand(&mut self, now: Duration) {
        self.demand.set(now, f64::from(self.seats + self.seats_waiting));
    }

    fn fits(&self, seats: u32) -> bool {
        match self.limit {
            None => true,
            // What needs more than there ever is, is served alone.
            Some(limit) => self.seats == 0 || self.seats.saturating_add(seats) <= limit,
        }
    }

    /// A request comes. `hash` is its flow's.
    pub(super) fn arrive(&mut self, now: Duration, id: Id, hash: u64, work: Work) -> Arrival {
        self.advance(now);
        let Some(queuing) = self.queuing.filter(|_| self.limit.is_some()) else {
            if !self.fits(work.most()) {
                self.counts.rejected += 1;
                return Arrival::Refuse("concurrency-limit");
            }
            self.start(now, id, None, work, now);
            self.note_demand(now);
            return Arrival::Execute;
        };
        let load = |at: &usize| self.queues[*at].seats_waiting + self.queues[*at].seats;
        // Of equals the first that was dealt.
        let at = deal(hash, queuing.queues, queuing.hand).into_iter().min_by_key(load).unwrap_or(0);
        let queue = &mut self.queues[at];
        if queue.waiting.len() >= queuing.length.max(1) {
            self.counts.rejected += 1;
            return Arrival::Refuse("queue-full");
        }
        if queue.is_idle() {
            // Nothing is saved up.
            queue.next = self.virtual_now;
            self.active += 1;
        }
        queue.waiting.push_back(Item { id, work, arrived: now });
        queue.seats_waiting += work.most();
        self.seats_waiting += work.most();
        self.waiting += 1;
        let started = self.dispatch(now);
        if started.contains(&id) {
            debug_assert_eq!(started, [id], "nobody else can have become able to go");
            return Arrival::Execute;
        }
        Arrival::Wait
    }

    /// Who is to be served now.
    pub(super) fn dispatch(&mut self, now: Duration) -> Vec<Id> {
        self.advance(now);
        let mut started = Vec::new();
        while let Some(at) = self.earliest() {
            let Some(item) = self.queues[at].waiting.front().cloned() else { break };
            // What is next is not overtaken by what is narrower, or it would never come to it.
            if !self.fits(item.work.most()) {
                break;
            }
            self.queues[at].waiting.pop_front();
            self.queues[at].seats_waiting -= item.work.most();
            self.seats_waiting -= item.work.most();
            self.waiting -= 1;
            self.queues[at].next += GUESS * f64::from(item.work.most());
            self.next_queue = at + 1;
            self.start(now, item.id, Some(at), item.work, item.arrived);
            started.push(item.id);
        }
        self.note_demand(now);
        started
    }

    fn start(&mut self, now: Duration, id: Id, queue: Option<usize>, work: Work, arrived: Duration) {
        let seats = work.most();
        self.seats += seats;
        if let Some(at) = queue {
            self.queues[at].executing += 1;
            self.queues[at].seats += seats;
        }
        self.counts.dispatched += 1;
        self.running.insert(id, Running { queue, work, arrived, started: now, seats });
    }

    /// The queue whose next request would be done first.
    fn earliest(&self) -> Option<usize> {
        if self.waiting == 0 {
            return None;
        }
        let all = self.queues.len();
        let in_turn = (0..all).map(|i| (self.next_queue + i) % all.max(1));
        let ends = in_turn.filter_map(|at| {
            let item = self.queues[at].waiting.front()?;
            Some((at, self.queues[at].next + GUESS * f64::from(item.work.most())))
        });
        ends.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
    }

    /// A request has ended; some of its seats are to be released after the time that is answered.
    pub(super) fn finish(&mut self, now: Duration, id: Id) -> Option<Duration> {
        self.advance(now);
        let running = self.running.get_mut(&id)?;
        if running.work.final_seats > 0 && !running.work.after.is_zero() {
            let after = running.work.after;
            let freed = running.seats - running.work.final_seats;
            running.seats = running.work.final_seats;
            running.work.final_seats = 0;
            let queue = running.queue;
            self.free(queue, freed);
            self.note_demand(now);
            return Some(after);
        }
        self.release(now, id);
        None
    }

    /// The last of a request.
    pub(super) fn release(&mut self, now: Duration, id: Id) {
        self.advance(now);
        let Some(running) = self.running.remove(&id) else { return };
        self.free(running.queue, running.seats);
        if let Some(queue) = running.queue.and_then(|at| self.queues.get_mut(at)) {
            queue.executing -= 1;
            self.active -= usize::from(queue.is_idle());
            let lasted = now.saturating_sub(running.started).as_secs_f64();
            queue.next += (lasted - GUESS) * f64::from(running.work.seats.max(1));
        }
        self.note_demand(now);
    }

    fn free(&mut self, queue: Option<usize>, seats: u32) {
        self.seats -= seats;
        if let Some(at) = queue {
            self.queues[at].seats -= seats;
        }
    }

    /// A request that waits is given up; whether it did.
    pub(super) fn leave(&mut self, now: Duration, id: Id, timed_out: bool) -> bool {
        if self.waiting == 0 {
            return false;
        }
        self.advance(now);
        let found = self.queues.iter_mut().find_map(|queue| {
            let at = queue.waiting.iter().position(|item| item.id == id)?;
            let item = queue.waiting.remove(at)?;
            queue.seats_waiting -= item.work.most();
            Some((item.work.most(), queue.is_idle()))
        });
        if let Some((seats, idle)) = found {
            self.seats_waiting -= seats;
            self.waiting -= 1;
            self.active -= usize::from(idle);
            self.counts.timed_out += u64::from(timed_out);
            self.counts.cancelled += u64::from(!timed_out);
        }
        self.note_demand(now);
        found.is_some()
    }
}

/// A hand of different cards, by the hash alone.
fn deal(mut hash: u64, deck: usize, hand: usize) -> Vec<usize> {
    let hand = hand.min(deck);
    let (mut cards, mut gone) = (Vec::with_capacity(hand), Vec::with_capacity(hand));
    for dealt in 0..hand {
        let left = (deck - dealt) as u64;
        let mut card = (hash % left) as usize;
        hash /= left;
        // Past those that are gone.
        let mut place = 0;
        for one in &gone {
            if card < *one {
                break;
            }
            card += 1;
            place += 1;
        }
        gone.insert(place, card);
        cards.push(card);
    }
    cards
}

#[cfg(test)]
#[path = "queues_tests.rs"]
mod tests;
