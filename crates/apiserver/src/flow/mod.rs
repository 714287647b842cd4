//! API Priority and Fairness: every request belongs to a flow, every flow to a level, and levels share the server's seats. One
//! that sends more than its share waits for itself.

mod config;
mod demand;
mod dropped;
mod dump;
mod queues;
mod stats;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use kybern_apimachinery::Value;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::access::UserInfo;
use crate::connect::Observer;
use crate::request_info::RequestInfo;
use config::{Level, Schema, Uid};
use demand::{Claim, divide};
use dropped::Dropped;
use queues::{Arrival, Id, QueueSet, Work};
use stats::Stats;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";
/// How often levels borrow and give back.
const PERIOD: Duration = Duration::from_secs(10);
/// How slowly a level's wants of the past are forgotten.
const DECAY: f64 = 0.977;
/// No request takes more of its level.
const MAX_SHARE: f64 = 0.15;
const MAX_SEATS: u32 = 10;
const BYTES_PER_SEAT: usize = 100_000;
const WATCHES_PER_SEAT: usize = 10;
const TIME_PER_EVENT: Duration = Duration::from_millis(5);

/// See the module.
pub(crate) struct Flow {
    began: Instant,
    /// Seats in all.
    capacity: u32,
    /// The longest that a request waits for its seats.
    patience: Duration,
    /// In the order in which they are asked.
    schemas: ArcSwap<Vec<Arc<Schema>>>,
    state: Mutex<State>,
    next: AtomicU64,
    /// Told when a schema's condition may have to change.
    changed: Notify,
    stats: Stats,
}

#[derive(Default)]
struct State {
    levels: BTreeMap<String, Share>,
    waiters: HashMap<Id, oneshot::Sender<()>>,
    /// What is shown of requests, besides what their queue knows.
    requests: HashMap<Id, Shown>,
    adjusted: Duration,
    schema_objects: BTreeMap<String, Schema>,
    level_objects: BTreeMap<String, Level>,
}

struct Shown {
    schema: Arc<Schema>,
    user: String,
    info: Arc<RequestInfo>,
}

impl Shown {
    /// The name of its flow.
    fn flow(&self) -> &str {
        self.schema.flow(&self.user, &self.info)
    }
}

/// A level and what it has of the seats.
struct Share {
    level: Arc<Level>,
    set: QueueSet,
    /// What counts the requests of each schema that are served here.
    dispatched: Vec<(Arc<Schema>, Counter)>,
    nominal: u32,
    smooth: f64,
    dropped: Dropped,
    /// Nothing leads to it any more; it goes when its requests have.
    quiescing: bool,
}

impl Share {
    fn dispatched(&mut self, schema: &Arc<Schema>, stats: &Stats) -> &Counter {
        let known = self.dispatched.iter().position(|(known, _)| Arc::ptr_eq(known, schema));
        let at = known.unwrap_or_else(|| {
            self.dispatched.push((schema.clone(), stats.dispatched(&self.level.name, &schema.name)));
            self.dispatched.len() - 1
        });
        &self.dispatched[at].1
    }

    fn least(&self) -> f64 {
        f64::from(self.nominal) * (1.0 - f64::from(self.level.lendable) / 100.0)
    }

    fn most(&self, capacity: u32) -> f64 {
        let nominal = f64::from(self.nominal);
        match self.level.borrowing {
            Some(percent) => (nominal + nominal * f64::from(percent) / 100.0).round(),
            None => nominal + f64::from(capacity),
        }
    }
}

/// What the estimate of a request is made of.
pub(crate) enum Size {
    /// Of a list, or of a watch that begins with one: what it has in memory at once.
    Bytes(usize),
    /// Of a write: who watches what is written.
    Watchers(usize),
    One,
}

impl Size {
    fn work(&self, most: u32) -> Work {
        let whole = |n: usize, per: usize| u32::try_from(n.div_ceil(per)).unwrap_or(u32::MAX);
        let one = Work { seats: 1, final_seats: 0, after: Duration::ZERO };
        match self {
            Self::Bytes(bytes) => Work { seats: whole(*bytes, BYTES_PER_SEAT).clamp(1, most), ..one },
            Self::Watchers(watchers) if *watchers >= WATCHES_PER_SEAT => {
                let seats = whole(*watchers, WATCHES_PER_SEAT);
                let final_seats = seats.min(most);
                Work { final_seats, after: TIME_PER_EVENT * seats / final_seats, ..one }
            }
            Self::Watchers(_) | Self::One => one,
        }
    }
}

/// A request's seats; given back when it is dropped.
pub(crate) struct Seat {
    flow: Arc<Flow>,
    level: Arc<Level>,
    id: Id,
}

impl Drop for Seat {
    fn drop(&mut self) {
        Flow::leave(&self.flow, &self.level.name, self.id, false);
    }
}

/// How a request was judged, and whether it may go on.
pub(crate) struct Entry {
    pub(crate) schema_uid: Uid,
    pub(crate) level_uid: Uid,
    /// `None`: it is refused.
    pub(crate) seat: Option<Seat>,
    /// Seconds after which one that is refused may try again.
    pub(crate) retry_after: u32,
}

impl Flow {
    pub(crate) fn new(capacity: usize, request_timeout: Duration) -> Arc<Self> {
        let flow = Arc::new(Self {
            began: Instant::now(),
            capacity: u32::try_from(capacity).unwrap_or(u32::MAX).max(1),
            patience: request_timeout / 4,
            schemas: ArcSwap::default(),
            state: Mutex::default(),
            next: AtomicU64::new(0),
            changed: Notify::new(),
            stats: Stats::default(),
        });
        flow.digest(&mut flow.state.lock());
        flow
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        self.stats.register(registry);
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Takes over what the objects say.
    fn digest(&self, state: &mut State) {
        let now = self.now();
        let mut wanted = state.level_objects.clone();
        for name in ["exempt", "catch-all"] {
            wanted.entry(name.to_owned()).or_insert_with(|| Level::mandatory(name));
        }
        let shares: f64 = wanted.values().map(|level| f64::from(level.shares)).sum();
        for (name, level) in &wanted {
            let nominal = (f64::from(self.capacity) * f64::from(level.shares) / shares.max(1.0)).ceil() as u32;
            let level = Arc::new(level.clone());
            let share = state.levels.entry(name.clone()).or_insert_with(|| Share {
                level: level.clone(),
                set: QueueSet::new(now),
                dispatched: Vec::new(),
                nominal,
                smooth: 0.0,
                dropped: Dropped::default(),
                quiescing: false,
            });
            share.nominal = nominal;
            share.quiescing = false;
            share.set.configure(level.queuing.filter(|_| !level.exempt));
            share.set.set_limit(now, (!level.exempt).then_some(nominal));
            share.level = level;
        }
        // The schemas are others now.
        state.levels.values_mut().for_each(|share| share.dispatched.clear());
        for (_, share) in state.levels.iter_mut().filter(|(name, _)| !wanted.contains_key(*name)) {
            share.quiescing = true;
        }
        state.levels.retain(|_, share| !share.quiescing || !share.set.is_idle());
        let mut schemas: Vec<Arc<Schema>> = state.schema_objects.values().cloned().map(Arc::new).collect();
        schemas.retain(|schema| wanted.contains_key(&schema.level));
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        if !schemas.iter().any(|schema| schema.name == "exempt") {
            schemas.insert(0, Arc::new(Schema::mandatory("exempt", 1, &["system:masters"])));
        }
        if !schemas.iter().any(|schema| schema.name == "catch-all") {
            schemas.push(Arc::new(Schema::mandatory("catch-all", 10_000, &["*"])));
        }
        self.schemas.store(Arc::new(schemas));
        self.adjust(state, now);
        self.changed.notify_one();
    }

    /// Lets levels borrow from each other by what they wanted lately, and begins what then can.
    fn adjust(&self, state: &mut State, now: Duration) {
        state.adjusted = now;
        let mut claims = Vec::new();
        let mut exempt = 0.0;
        for share in state.levels.values_mut() {
            let (high, usual) = share.set.demand.take(now);
            share.smooth = usual.max(DECAY * share.smooth + (1.0 - DECAY) * usual);
            let least = share.least().max(f64::from(share.nominal).min(high));
            if share.level.exempt {
                // It takes what it wants; the others have the rest.
                exempt += least;
            } else {
                let most = share.most(self.capacity).max(least);
                claims.push(Claim { least, most, target: least.max(share.smooth) });
            }
        }
        let parts = divide((f64::from(self.capacity) - exempt).max(0.0), &claims);
        let limited = state.levels.values_mut().filter(|share| !share.level.exempt);
        for (share, part) in limited.zip(parts) {
            share.set.set_limit(now, Some(part.round() as u32));
        }
        let names: Vec<String> = state.levels.keys().cloned().collect();
        for name in names {
            Self::dispatch(state, &name, now);
        }
    }

    fn dispatch(state: &mut State, level: &str, now: Duration) {
        let Some(share) = state.levels.get_mut(level) else { return };
        for id in share.set.dispatch(now) {
            if let Some(waiter) = state.waiters.remove(&id) {
                // One that has gone gives its seats back itself.
                let _ = waiter.send(());
            }
        }
    }

    /// Brings the metrics of levels up to date.
    pub(crate) fn measure(&self) {
        for (name, share) in &self.state.lock().levels {
            self.stats.level(name, &share.set, share.nominal);
        }
    }

    /// Judges a request and waits until it may go on.
    pub(crate) async fn enter(self: &Arc<Self>, user: &UserInfo, info: &Arc<RequestInfo>, size: &Size) -> Entry {
        let (schema, hash) = self.judge(user, info);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (level, arrival, turn) = {
            let mut state = self.state.lock();
            let now = self.now();
            if now.saturating_sub(state.adjusted) >= PERIOD {
                self.adjust(&mut state, now);
            }
            // One that has gone in this moment is made up for by the last of all.
            let name = if state.levels.contains_key(&schema.level) { schema.level.as_str() } else { "catch-all" };
            let share = state.levels.get_mut(name);
            let Some(share) = share else {
                return Entry { schema_uid: schema.uid.clone(), level_uid: None, seat: None, retry_after: 1 };
            };
            let most = ((f64::from(share.nominal) * MAX_SHARE).ceil() as u32).clamp(1, MAX_SEATS);
            let arrival = share.set.arrive(now, id, hash, size.work(most));
            let level = share.level.clone();
            match arrival {
                Arrival::Execute => drop(share.dispatched(&schema, &self.stats).inc()),
                Arrival::Wait => {}
                Arrival::Refuse(reason) => self.stats.rejected(&level.name, &schema.name, reason),
            }
            let turn = (arrival == Arrival::Wait).then(|| {
                let (sender, turn) = oneshot::channel();
                state.waiters.insert(id, sender);
                turn
            });
            if !matches!(arrival, Arrival::Refuse(_)) {
                let shown = Shown { schema: schema.clone(), user: user.name.clone(), info: info.clone() };
                state.requests.insert(id, shown);
            }
            (level, arrival, turn)
        };
        let (schema_uid, level_uid) = (schema.uid.clone(), level.uid.clone());
        let mut entry = Entry { schema_uid, level_uid, seat: None, retry_after: 1 };
        if matches!(arrival, Arrival::Refuse(_)) {
            entry.retry_after = self.drop_one(&level.name);
            return entry;
        }
        // From here on whoever drops it gives up the place, too.
        let seat = Seat { flow: self.clone(), level, id };
        if let Some(turn) = turn {
            let waited = Instant::now();
            let came = tokio::time::timeout(self.patience, turn).await;
            self.stats.waited(&seat.level.name, &schema.name, waited.elapsed());
            if !matches!(came, Ok(Ok(()))) {
                self.stats.rejected(&seat.level.name, &schema.name, "time-out");
                Self::leave(self, &seat.level.name, id, true);
                entry.retry_after = self.drop_one(&seat.level.name);
                return entry;
            }
            self.stats.dispatched(&seat.level.name, &schema.name).inc();
        }
        entry.seat = Some(seat);
        entry
    }

    /// Counts a request of a level that is refused; answers after how many seconds it may be tried again.
    fn drop_one(&self, level: &str) -> u32 {
        let second = self.now().as_secs();
        self.state.lock().levels.get_mut(level).map_or(1, |share| share.dropped.one(second))
    }

    /// The first schema that covers a request, and the hash of its flow.
    fn judge(&self, user: &UserInfo, info: &RequestInfo) -> (Arc<Schema>, u64) {
        let schemas = self.schemas.load();
        let found = schemas.iter().find(|schema| schema.matches(user, info));
        // The last covers everything, whatever its object says.
        let schema = found.or(schemas.last()).cloned().unwrap_or_default();
        let hash = hash(&schema.name, schema.flow(&user.name, info));
        (schema, hash)
    }

    /// Ends a request, or gives up its place in a queue.
    fn leave(flow: &Arc<Self>, level: &str, id: Id, timed_out: bool) {
        let mut state = flow.state.lock();
        let now = flow.now();
        state.waiters.remove(&id);
        let Some(shown) = state.requests.remove(&id) else { return };
        let Some(share) = state.levels.get_mut(level) else { return };
        if !share.set.leave(now, id, timed_out)
            && let Some(after) = share.set.finish(now, id)
        {
            state.requests.insert(id, shown);
            flow.release_later(level, id, after);
        }
        Self::dispatch(&mut state, level, now);
        if now.saturating_sub(state.adjusted) >= PERIOD {
            flow.adjust(&mut state, now);
        }
        if state.levels.get(level).is_some_and(|share| share.quiescing && share.set.is_idle()) {
            state.levels.remove(level);
        }
    }

    fn release_later(self: &Arc<Self>, level: &str, id: Id, after: Duration) {
        let (flow, level) = (self.clone(), level.to_owned());
        let release = move || {
            let mut state = flow.state.lock();
            let now = flow.now();
            state.requests.remove(&id);
            if let Some(share) = state.levels.get_mut(&level) {
                share.set.release(now, id);
            }
            Self::dispatch(&mut state, &level, now);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                tokio::time::sleep(after).await;
                release();
            })),
            // The program ends.
            Err(_) => std::mem::drop(release),
        }
    }

    /// Waits until a schema's condition may have to change.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The schemas whose condition `Dangling` is not what it should be: status, reason and message.
    pub(crate) fn conditions(&self) -> Vec<(String, [String; 3])> {
        let state = self.state.lock();
        let schemas = state.schema_objects.values();
        let wanted = schemas.map(|schema| {
            let level = &schema.level;
            let known = state.levels.get(level).is_some_and(|share| !share.quiescing);
            let text = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
            let condition = match known {
                true => ["False".to_owned(), "Found".to_owned(), format!("{text} and it exists")],
                false => ["True".to_owned(), "NotFound".to_owned(), format!("{text} but there is no such object")],
            };
            (schema, condition)
        });
        let differing = wanted.filter(|(schema, condition)| schema.dangling.as_ref() != Some(condition));
        differing.map(|(schema, condition)| (schema.name.clone(), condition)).collect()
    }
}

/// Of a flow. Nobody can work out which flows share queues.
fn hash(schema: &str, flow: &str) -> u64 {
    use std::hash::Hasher;
    static KEYS: std::sync::LazyLock<std::hash::RandomState> = std::sync::LazyLock::new(Default::default);
    let mut hasher = std::hash::BuildHasher::build_hasher(&*KEYS);
    hasher.write(schema.as_bytes());
    hasher.write_u8(0);
    hasher.write(flow.as_bytes());
    hasher.finish()
}

impl Observer for Flow {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[(GROUP, SCHEMAS), (GROUP, LEVELS)]
    }

    fn changed(&self, _: &str, resource: &str, _: &str, name: &str, object: Option<&Value>) {
        let mut state = self.state.lock();
        if resource == SCHEMAS {
            match object.map(Schema::parse) {
                Some(schema) => {
                    let before = state.schema_objects.insert(name.to_owned(), schema.clone());
                    // Its own condition is no news.
                    if before.is_some_and(|before| Schema { dangling: schema.dangling.clone(), ..before } == schema) {
                        return;
                    }
                }
                None => drop(state.schema_objects.remove(name)),
            }
        } else {
            match object.map(Level::parse) {
                Some(level) => drop(state.level_objects.insert(name.to_owned(), level)),
                None => drop(state.level_objects.remove(name)),
            }
        }
        self.digest(&mut state);
    }
}
