//! What may go wrong in one simulation, and how often.

use std::time::Duration;

use super::random::Random;

/// Probabilities are per occasion, delays the longest.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Of a request to be lost before it reaches the server.
    pub lost_request: f64,
    /// Of a response to be lost after the server has acted.
    pub lost_response: f64,
    pub network_delay: Duration,
    /// Of a watch to break off some time after it started.
    pub broken_watch: f64,
    pub disk_delay: Duration,
    /// Until a server is told of a commit, its own ones included.
    pub watch_lag: Duration,
    /// Of a commit to fail without having happened.
    pub failed_commit: f64,
    /// Of a commit to happen, and to be answered as if nobody knew.
    pub unanswered_commit: f64,
    /// The store has no leader for a while, or one server does not reach it: it refuses all, and ends watches.
    pub store_outages: bool,
    /// The store forgets its history: a server that was told of less begins anew.
    pub compactions: bool,
    /// Two API servers share the store.
    pub two_servers: bool,
    /// Of a request to go to the other server from now on, where there are two.
    pub moves: f64,
    /// Processes crash and restart.
    pub crashes: bool,
    /// Who leads stands still until another leads, and then goes on with what it had planned.
    pub pauses: bool,
    /// API servers stand still for a while, and then go on with what they were doing.
    pub server_pauses: bool,
    /// By which the clock of a machine may be wrong, before and after it.
    pub clock_skew: Duration,
    /// Nodes die, and some come back.
    pub node_deaths: bool,
    /// Users ask for more than the nodes have: what is urgent displaces what is not.
    pub overload: bool,
    /// Nodes are drained: their pods are evicted, as far as budgets allow.
    pub evictions: bool,
    /// A defect, to show that it is found: a crash of the disk forgets the last commits although they were acknowledged.
    pub forgets_on_crash: usize,
}

impl Faults {
    /// A mixture: each seed has some kinds of faults and lacks others, so that rules that hold only without a kind of
    /// fault are checked too.
    pub fn drawn(random: &mut Random) -> Self {
        let skew = 1 + random.below(120);
        let mut some = |value: f64| if random.chance(0.5) { value } else { 0.0 };
        Self {
            lost_request: some(0.03),
            lost_response: some(0.03),
            broken_watch: some(0.5),
            failed_commit: some(0.02),
            unanswered_commit: some(0.02),
            store_outages: some(1.0) > 0.0,
            compactions: some(1.0) > 0.0,
            network_delay: Duration::from_millis(some(1.0).mul_add(495.0, 5.0) as u64),
            disk_delay: Duration::from_millis(some(1.0).mul_add(195.0, 5.0) as u64),
            watch_lag: Duration::from_millis(some(300.0) as u64),
            two_servers: some(1.0) > 0.0,
            moves: some(0.02),
            crashes: some(1.0) > 0.0,
            pauses: some(1.0) > 0.0,
            server_pauses: some(1.0) > 0.0,
            clock_skew: Duration::from_secs(if some(1.0) > 0.0 { skew } else { 0 }),
            node_deaths: some(1.0) > 0.0,
            overload: some(1.0) > 0.0,
            evictions: some(1.0) > 0.0,
            forgets_on_crash: 0,
        }
    }

    /// The kinds by name, so that a failure can be tried without them.
    pub const KINDS: [&str; 19] = [
        "lost_request",
        "lost_response",
        "network_delay",
        "broken_watch",
        "disk_delay",
        "failed_commit",
        "unanswered_commit",
        "store_outages",
        "compactions",
        "watch_lag",
        "two_servers",
        "moves",
        "crashes",
        "pauses",
        "server_pauses",
        "clock_skew",
        "node_deaths",
        "overload",
        "evictions",
    ];

    /// Leaves out a kind; says whether there is one of that name.
    pub fn leave_out(&mut self, kind: &str) -> bool {
        match kind {
            "lost_request" => self.lost_request = 0.0,
            "lost_response" => self.lost_response = 0.0,
            "network_delay" => self.network_delay = Duration::from_millis(5),
            "broken_watch" => self.broken_watch = 0.0,
            "disk_delay" => self.disk_delay = Duration::from_millis(5),
            "failed_commit" => self.failed_commit = 0.0,
            "unanswered_commit" => self.unanswered_commit = 0.0,
            "store_outages" => self.store_outages = false,
            "compactions" => self.compactions = false,
            "watch_lag" => self.watch_lag = Duration::ZERO,
            "two_servers" => self.two_servers = false,
            "moves" => self.moves = 0.0,
            "crashes" => self.crashes = false,
            "pauses" => self.pauses = false,
            "server_pauses" => self.server_pauses = false,
            "clock_skew" => self.clock_skew = Duration::ZERO,
            "node_deaths" => self.node_deaths = false,
            "overload" => self.overload = false,
            "evictions" => self.evictions = false,
            _ => return false,
        }
        true
    }

    /// Whether pods that serve may end without their controller's doing.
    pub fn take_pods(&self) -> bool {
        self.node_deaths || self.overload || self.evictions
    }

    /// Whether a write may happen at any time whose sender is not told that it did.
    pub fn loses_answers(&self) -> bool {
        self.lost_response > 0.0 || self.unanswered_commit > 0.0
    }

    /// Whether a pod may be made that its maker does not know of, or leads no more to look after.
    pub fn make_too_many(&self) -> bool {
        self.loses_answers() || self.crashes || self.pauses || self.server_pauses || self.store_outages
    }

    /// Only the delays are left: what was disturbed can now settle.
    #[must_use]
    pub fn none(&self) -> Self {
        let five = Duration::from_millis(5);
        Self {
            network_delay: five,
            disk_delay: five,
            overload: self.overload,
            two_servers: self.two_servers,
            ..Self::default()
        }
    }
}
