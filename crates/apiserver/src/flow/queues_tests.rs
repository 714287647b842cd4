//! Simulated time: what a level's queues do over seconds, in milliseconds.

use std::collections::BTreeMap;

use super::*;

const ONE: Work = Work { seats: 1, final_seats: 0, after: Duration::ZERO };
const QUEUING: Queuing = Queuing { queues: 64, hand: 6, length: 50 };

fn set(limit: u32, queuing: Option<Queuing>) -> QueueSet {
    let mut set = QueueSet::new(Duration::ZERO);
    set.configure(queuing);
    set.set_limit(Duration::ZERO, Some(limit));
    set
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Flows that keep so many requests on their way, each of which is served for some time.
struct World {
    set: QueueSet,
    flows: BTreeMap<u64, Flow>,
    next: Id,
    of: HashMap<Id, u64>,
    ends: BTreeMap<(Duration, Id), ()>,
}

struct Flow {
    /// On their way at once.
    pressure: usize,
    work: Work,
    lasts: Duration,
    pending: usize,
    done: usize,
    refused: usize,
    longest: Duration,
    since: HashMap<Id, Duration>,
}

impl Flow {
    fn new(pressure: usize, lasts: Duration) -> Self {
        let since = HashMap::new();
        Self { pressure, work: ONE, lasts, pending: 0, done: 0, refused: 0, longest: Duration::ZERO, since }
    }
}

impl World {
    fn new(set: QueueSet) -> Self {
        Self { set, flows: BTreeMap::new(), next: 0, of: HashMap::new(), ends: BTreeMap::new() }
    }

    fn started(&mut self, now: Duration, id: Id) {
        let flow = self.flows.get_mut(&self.of[&id]).unwrap();
        let waited = now - flow.since.remove(&id).unwrap();
        flow.longest = flow.longest.max(waited);
        self.ends.insert((now + flow.lasts, id), ());
    }

    /// Runs from one millisecond to the next.
    fn run(&mut self, until: Duration) {
        let mut now = Duration::ZERO;
        while now < until {
            while let Some(((at, id), ())) =
                self.ends.first_key_value().map(|(k, v)| (*k, *v)).filter(|((at, _), ())| *at <= now)
            {
                self.ends.remove(&(at, id));
                self.set.finish(now, id);
                let flow = self.flows.get_mut(&self.of[&id]).unwrap();
                flow.pending -= 1;
                flow.done += 1;
                for started in self.set.dispatch(now) {
                    self.started(now, started);
                }
            }
            let hashes: Vec<u64> = self.flows.keys().copied().collect();
            for hash in hashes {
                // Some of those who are refused come again at the next step.
                let most = if now.is_zero() { usize::MAX } else { 200 };
                for _ in (self.flows[&hash].pending..self.flows[&hash].pressure).take(most) {
                    let (id, work) = (self.next, self.flows[&hash].work);
                    self.next += 1;
                    self.of.insert(id, hash);
                    let flow = self.flows.get_mut(&hash).unwrap();
                    flow.since.insert(id, now);
                    match self.set.arrive(now, id, hash, work) {
                        Arrival::Execute => {
                            flow.pending += 1;
                            self.started(now, id);
                        }
                        Arrival::Wait => flow.pending += 1,
                        Arrival::Refuse(_) => {
                            flow.refused += 1;
                            flow.since.remove(&id);
                        }
                    }
                }
            }
            let limit = self.set.limit().unwrap();
            assert!(self.set.seats() <= limit, "{} seats of {limit} are taken", self.set.seats());
            now += millis(1);
        }
    }
}

#[test]
fn hands_have_different_cards() {
    for hash in [0, 1, 63, 64, 1 << 40, u64::MAX, 0x1234_5678_9abc_def0] {
        for (deck, hand) in [(64, 6), (128, 6), (8, 8), (1, 1), (3, 9)] {
            let mut cards = deal(hash, deck, hand);
            assert_eq!(cards.len(), hand.min(deck));
            cards.sort_unstable();
            cards.dedup();
            assert!(cards.len() == hand.min(deck) && cards.iter().all(|card| *card < deck), "{cards:?}");
        }
    }
    assert_ne!(deal(1, 64, 6), deal(2, 64, 6));
}

#[test]
fn ten_thousand_requests_of_one_starve_nobody() {
    let mut world = World::new(set(20, Some(QUEUING)));
    let noisy = 0x9e37_79b9_7f4a_7c15;
    world.flows.insert(noisy, Flow::new(10_000, millis(10)));
    let quiet: Vec<u64> = (1..=10).map(|i: u64| i.wrapping_mul(0xd134_2543_de82_ef95)).collect();
    for hash in &quiet {
        world.flows.insert(*hash, Flow::new(1, millis(10)));
    }
    world.run(millis(300));
    for hash in &quiet {
        let flow = &world.flows[hash];
        // Alone it would be served 30 times.
        assert!(flow.done >= 9, "only {} were served", flow.done);
        assert!(flow.longest <= millis(60), "one waited {:?}", flow.longest);
        assert_eq!(flow.refused, 0);
    }
    let noisy = &world.flows[&noisy];
    assert!(noisy.refused > 10_000, "what is too much is refused");
    // What the others leave is its: 600 are served in all.
    let all: usize = world.flows.values().map(|flow| flow.done).sum();
    assert!(all >= 560, "{all}");
}

#[test]
fn equal_flows_get_alike_whatever_their_pressure() {
    let mut world = World::new(set(10, Some(Queuing { queues: 128, hand: 1, length: 200 })));
    for (hash, pressure) in [(3, 20), (77, 150)] {
        world.flows.insert(hash, Flow::new(pressure, millis(5)));
    }
    world.run(Duration::from_secs(2));
    let done: Vec<usize> = world.flows.values().map(|flow| flow.done).collect();
    let difference = done[0].abs_diff(done[1]);
    assert!(difference * 20 < done[0], "{done:?}");
}

#[test]
fn long_requests_pay_for_their_length() {
    let mut world = World::new(set(10, Some(Queuing { queues: 128, hand: 1, length: 200 })));
    world.flows.insert(3, Flow::new(50, millis(50)));
    world.flows.insert(77, Flow::new(50, millis(5)));
    world.run(Duration::from_secs(4));
    let [long, short] = [3, 77].map(|hash| world.flows[&hash].done as f64);
    let ratio = short / long;
    assert!((7.0..13.0).contains(&ratio), "each has half of the seats' time: {ratio}");
}

#[test]
fn wide_requests_come_to_their_turn() {
    let mut world = World::new(set(10, Some(QUEUING)));
    world.flows.insert(3, Flow::new(100, millis(5)));
    world.flows.insert(77, Flow { work: Work { seats: 10, ..ONE }, ..Flow::new(1, millis(5)) });
    world.run(Duration::from_secs(1));
    assert!(
        world.flows[&77].done > 20 && world.flows[&3].done > 200,
        "{} {}",
        world.flows[&77].done,
        world.flows[&3].done
    );
}

#[test]
fn without_queues_what_finds_no_seat_is_refused() {
    let mut set = set(2, None);
    assert_eq!(set.arrive(millis(0), 1, 0, ONE), Arrival::Execute);
    assert_eq!(set.arrive(millis(0), 2, 0, ONE), Arrival::Execute);
    assert_eq!(set.arrive(millis(0), 3, 0, ONE), Arrival::Refuse("concurrency-limit"));
    set.finish(millis(1), 1);
    assert_eq!(set.arrive(millis(1), 4, 0, ONE), Arrival::Execute);
    // What is wider than the level is served alone.
    set.finish(millis(2), 2);
    set.finish(millis(2), 4);
    assert_eq!(set.arrive(millis(2), 5, 0, Work { seats: 9, ..ONE }), Arrival::Execute);
    assert_eq!(set.arrive(millis(2), 6, 0, ONE), Arrival::Refuse("concurrency-limit"));
    set.set_limit(millis(3), None);
    assert_eq!(set.arrive(millis(3), 7, 0, ONE), Arrival::Execute);
}

#[test]
fn places_are_given_up_and_seats_held_on() {
    let mut set = set(1, Some(Queuing { queues: 1, hand: 1, length: 2 }));
    let watched = Work { seats: 1, final_seats: 1, after: millis(50) };
    assert_eq!(set.arrive(millis(0), 1, 0, watched), Arrival::Execute);
    assert_eq!(set.arrive(millis(0), 2, 0, ONE), Arrival::Wait);
    assert_eq!(set.arrive(millis(0), 3, 0, ONE), Arrival::Wait);
    assert_eq!(set.arrive(millis(0), 4, 0, ONE), Arrival::Refuse("queue-full"));
    assert!(set.leave(millis(1), 2, true) && !set.leave(millis(1), 2, true));
    assert_eq!(set.finish(millis(2), 1), Some(millis(50)));
    assert_eq!(set.dispatch(millis(2)), [0; 0], "its watchers are at work");
    set.release(millis(52), 1);
    assert_eq!(set.dispatch(millis(52)), [3]);
    assert_eq!(set.finish(millis(53), 3), None);
    assert!(set.is_idle() && set.seats() == 0 && set.waiting() == 0);
    assert_eq!((set.counts.dispatched, set.counts.rejected, set.counts.timed_out), (2, 1, 1));
}

#[test]
fn fewer_queues_lose_nothing() {
    let mut set = set(1, Some(QUEUING));
    set.arrive(millis(0), 1, 1, ONE);
    for id in 2..40 {
        assert_eq!(set.arrive(millis(0), id, id * 7919, ONE), Arrival::Wait);
    }
    set.configure(None);
    let mut served = vec![1];
    let mut at = 1;
    while let Some(id) = served.last().copied().filter(|_| at < 1000) {
        set.finish(millis(at), id);
        at += 1;
        let started = set.dispatch(millis(at));
        if started.is_empty() {
            break;
        }
        served.extend(started);
    }
    assert_eq!(served.len(), 39);
    assert!(set.is_idle());
}
