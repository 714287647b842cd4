//! Pods in which extenders are interested. Nobody waits for an answer here: the question is a decision, the core goes on with
//! other pods, and what is answered is looked at again in the light of what has changed meanwhile.

use super::*;
use crate::cycle::Found;
use crate::extender::{Answer, Bits, Extender, Extenders, Places, Question, REJECTED};
use crate::filters::Filters;
use crate::framework::{Candidate, Diagnosis};

/// Pods for which one extender is asked, or binds, at once. Others wait for their turn; pods of other extenders, and of none,
/// do not wait for them.
const PLACES_OF_EXTENDER: usize = 8;

/// Different reasons of extenders that are told one by one.
const REASONS_MAX: usize = 20;

/// The pods that are with extenders.
#[derive(Default)]
pub(super) struct Asking {
    asked: HashMap<Box<str>, Asked>,
    answers: VecDeque<(Box<str>, Answer)>,
    /// How many places are taken, by extender.
    taken: [usize; Bits::BITS as usize],
    /// A place was given back since parked pods were last looked at.
    is_freed: bool,
}

struct Asked {
    /// As it was when it was asked about.
    pod: Arc<PodInfo>,
    /// The extenders in which it takes a place.
    bits: Bits,
    stage: Stage,
    trace: Option<Trace>,
}

enum Stage {
    /// Nothing is asked now.
    Idle,
    Places {
        diagnosis: Diagnosis,
        /// As in the diagnosis, but of nodes that may move.
        resolvable: Vec<Arc<Node>>,
        is_nominated: bool,
    },
    Victims {
        extender: usize,
        diagnosis: Diagnosis,
        remedy: Remedy,
    },
}

impl Asking {
    pub(super) fn has_room(&self, bits: Bits) -> bool {
        self.taken.iter().enumerate().all(|(bit, taken)| bits & 1 << bit == 0 || *taken < PLACES_OF_EXTENDER)
    }

    pub(super) fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    pub(super) fn is_freed(&self) -> bool {
        self.is_freed
    }

    pub(super) fn looked_at_parked(&mut self) {
        self.is_freed = false;
    }

    fn take_places(&mut self, pod: &Arc<PodInfo>, bits: Bits) {
        if !self.asked.contains_key(&pod.uid) {
            self.count(bits, 1);
            let asked = Asked { pod: pod.clone(), bits, stage: Stage::Idle, trace: None };
            self.asked.insert(pod.uid.clone(), asked);
        }
    }

    fn count(&mut self, bits: Bits, by: isize) {
        for (bit, taken) in self.taken.iter_mut().enumerate().filter(|(bit, _)| bits & 1 << bit != 0) {
            debug_assert!(by > 0 || *taken > 0, "extender {bit} gets back a place that nobody took");
            *taken = taken.saturating_add_signed(by);
        }
        self.is_freed |= by < 0;
    }

    /// The pod keeps its places only in these.
    pub(super) fn keep_only(&mut self, uid: &str, bits: Bits) {
        let Some(asked) = self.asked.get_mut(uid) else { return };
        let given_back = asked.bits & !bits;
        asked.bits &= bits;
        if asked.bits == 0 {
            self.asked.remove(uid);
        }
        self.count(given_back, -1);
    }

    pub(super) fn release(&mut self, uid: &str) {
        self.keep_only(uid, 0);
    }

    fn bits(&self, uid: &str) -> Bits {
        self.asked.get(uid).map_or(0, |asked| asked.bits)
    }
}

impl Core {
    /// Tells what came of a [`Decision::Ask`].
    pub fn answered(&mut self, uid: &str, answer: Answer) {
        self.asking.answers.push_back((uid.into(), answer));
    }

    fn extenders(&self) -> &Extenders {
        &self.profiles.extenders
    }

    /// A cycle of a pod in which these extenders are interested.
    pub(super) fn attempt_with(
        &mut self,
        pod: Arc<PodInfo>,
        bits: Bits,
        heeds_nomination: bool,
        now: Duration,
    ) -> Option<Decision> {
        self.asking.take_places(&pod, bits);
        let Profile { chain, percentage_of_nodes_to_score: percentage, .. } = self.profiles.of(&pod);
        let has = |holds: fn(&Extender) -> bool| self.profiles.extenders.bits(holds) & bits != 0;
        let mut filters = Filters::new(&pod, &self.cluster);
        filters.leaves_choice = has(Extender::preempts);
        let (position, mut trace) = (&mut self.position, self.trace.as_mut());
        let found = cycle::search(chain, &mut filters, *percentage, position, heeds_nomination, trace.as_deref_mut());
        let Found { feasible, is_nominated, mut diagnosis } = found;
        if feasible.is_empty() {
            let diagnosis = cycle::with_remedy(chain, &mut filters, diagnosis, &mut self.position.meter);
            drop(filters);
            return Some(self.conclude(pod, diagnosis, now));
        }
        drop(filters);
        if !has(Extender::places) {
            let best = cycle::best(chain, &pod, &self.cluster, &feasible, &[], &mut self.position, trace);
            return self.commit(pod, best, now);
        }
        let nodes = |indexes: &[usize]| -> Vec<Arc<Node>> {
            indexes.iter().map(|index| self.cluster.node_at(*index).node.clone()).collect()
        };
        let question = Question::Places(nodes(&feasible));
        let resolvable = nodes(&std::mem::take(&mut diagnosis.resolvable));
        Some(self.ask(pod, Stage::Places { diagnosis, resolvable, is_nominated }, question))
    }

    fn ask(&mut self, pod: Arc<PodInfo>, stage: Stage, question: Question) -> Decision {
        let trace = self.trace.take();
        let interested = self.asking.bits(&pod.uid);
        if let Some(asked) = self.asking.asked.get_mut(&pod.uid) {
            (asked.pod, asked.stage, asked.trace) = (pod.clone(), stage, trace);
        }
        Decision::Ask { pod, interested, question }
    }

    /// What comes of the oldest answer that was not looked at.
    pub(super) fn take_answer(&mut self, now: Duration) -> Option<Decision> {
        let (uid, answer) = self.asking.answers.pop_front()?;
        let asked = self.asking.asked.get_mut(&uid)?;
        let stage = std::mem::replace(&mut asked.stage, Stage::Idle);
        if matches!(stage, Stage::Idle) {
            // Nobody waits for it any more.
            return None;
        }
        self.trace = asked.trace.take();
        let before = asked.pod.clone();
        let Some(pod) = self.queue.get(&uid).cloned() else {
            self.asking.release(&uid);
            return None;
        };
        if pod.asks_differently(&before) {
            return self.start_again(&uid, now);
        }
        self.position.meter.begin(self.profiles.place_of(&pod));
        match (stage, answer) {
            // The watch tells more.
            (_, Answer::Gone) => {
                self.asking.release(&uid);
                self.queue.failed(&uid, now);
                None
            }
            (Stage::Places { diagnosis, resolvable, is_nominated }, Answer::Places(places)) => {
                if !places.fit.is_empty() {
                    self.place(pod, &places, now)
                } else if is_nominated {
                    let bits = self.asking.bits(&uid);
                    self.trace = self.trace.is_some().then(Trace::default);
                    self.attempt_with(pod, bits, false, now)
                } else {
                    self.no_place(pod, diagnosis, &resolvable, places, now)
                }
            }
            (Stage::Victims { extender, diagnosis, remedy }, answer) => {
                Some(self.victims_named(pod, extender, diagnosis, remedy, answer, now))
            }
            (Stage::Places { .. }, Answer::Failed(message)) => {
                self.asking.release(&uid);
                self.queue.failed(&uid, now);
                Some(Decision::Failed { pod, message })
            }
            (Stage::Idle | Stage::Places { .. }, _) => self.start_again(&uid, now),
        }
    }

    fn start_again(&mut self, uid: &str, now: Duration) -> Option<Decision> {
        self.asking.release(uid);
        self.queue.again(uid, now);
        None
    }

    /// Gives a pod the best of the nodes that extenders let pass, if it fits there still.
    fn place(&mut self, pod: Arc<PodInfo>, places: &Places, now: Duration) -> Option<Decision> {
        let chain = &self.profiles.of(&pod).chain;
        let index = |(more, node): &(i64, Arc<Node>)| Some((self.cluster.index_of(&node.name)?, *more));
        let more: HashMap<usize, i64> = places.fit.iter().filter_map(index).collect();
        let mut passed: Vec<usize> = more.keys().copied().collect();
        passed.sort_unstable();
        let left =
            cycle::still_feasible(chain, &mut Filters::new(&pod, &self.cluster), &passed, &mut self.position.meter);
        if left.is_empty() {
            return self.start_again(&pod.uid, now);
        }
        if let Some(trace) = &mut self.trace {
            let nodes: Vec<&Arc<Node>> = left.iter().map(|index| &self.cluster.node_at(*index).node).collect();
            trace.settle(&nodes, &reasons_of(places));
        }
        let more: Vec<i64> = left.iter().map(|index| more[index]).collect();
        let best = cycle::best(chain, &pod, &self.cluster, &left, &more, &mut self.position, self.trace.as_mut());
        self.commit(pod, best, now)
    }

    /// Extenders let no node pass.
    fn no_place(
        &mut self,
        pod: Arc<PodInfo>,
        mut diagnosis: Diagnosis,
        resolvable: &[Arc<Node>],
        places: Places,
        now: Duration,
    ) -> Option<Decision> {
        if let Some(trace) = &mut self.trace {
            trace.settle(&[], &reasons_of(&places));
        }
        diagnosis.plugins |= REJECTED;
        let mut told = HashSet::new();
        let mut helped: Vec<&Arc<Node>> = resolvable.iter().collect();
        for (node, why, helps) in &places.rejected {
            helped.extend(helps.then_some(node));
            let Some(why) = why else { continue };
            let why = match told.contains(why) || told.len() < REASONS_MAX {
                true => why.clone(),
                false => "node(s) rejected by an extender for other reasons".into(),
            };
            told.insert(why.clone());
            *diagnosis.reasons.entry(why).or_insert(0) += 1;
        }
        diagnosis.resolvable = helped.into_iter().filter_map(|node| self.cluster.index_of(&node.name)).collect();
        let bits = self.asking.bits(&pod.uid);
        let mut filters = Filters::new(&pod, &self.cluster);
        filters.leaves_choice = self.extenders().bits(Extender::preempts) & bits != 0;
        let reconsidered =
            cycle::reconsider(&self.profiles.of(&pod).chain, &mut filters, diagnosis, &mut self.position.meter);
        drop(filters);
        match reconsidered {
            Some(diagnosis) => Some(self.conclude(pod, diagnosis, now)),
            None => self.start_again(&pod.uid, now),
        }
    }

    /// Asks the next extender whose place the pod may have, from the given one on; with all asked, the choice is made.
    pub(super) fn ask_for_victims(
        &mut self,
        pod: Arc<PodInfo>,
        mut diagnosis: Diagnosis,
        mut remedy: Remedy,
        from: usize,
        now: Duration,
    ) -> Decision {
        let bits = self.asking.bits(&pod.uid);
        let next = self.extenders().among(bits).find(|(at, extender)| *at >= from && extender.preempts());
        let next = next.map(|(at, _)| at).filter(|_| !remedy.candidates.is_empty());
        if let Some(extender) = next {
            let candidates = remedy.candidates.clone();
            let stage = Stage::Victims { extender, diagnosis, remedy };
            return self.ask(pod, stage, Question::Victims { extender, candidates });
        }
        let candidates = std::mem::take(&mut remedy.candidates);
        let plugins = self.profiles.of(&pod).chain.post_filter.iter();
        let mut chosen = plugins.map(|plugin| plugin.choose(&pod, &self.cluster, candidates.clone()));
        let chosen = chosen.find(|chosen| !chosen.message.is_empty() || !chosen.victims.is_empty()).unwrap_or_default();
        let message = match chosen.victims.is_empty() {
            true => and(&remedy.message, &chosen.message),
            false => String::new(),
        };
        diagnosis.remedy = Box::new(Remedy { message, calls: remedy.calls, ..chosen });
        self.conclude(pod, diagnosis, now)
    }

    fn victims_named(
        &mut self,
        pod: Arc<PodInfo>,
        extender: usize,
        mut diagnosis: Diagnosis,
        mut remedy: Remedy,
        answer: Answer,
        now: Duration,
    ) -> Decision {
        let (url, is_ignorable) = match self.extenders().among(1 << extender).next() {
            Some((_, extender)) => (extender.url().to_owned(), extender.is_ignorable()),
            None => (String::new(), true),
        };
        let named = match answer {
            Answer::Victims(list) => named(&self.cluster, &pod, &url, is_ignorable, list),
            Answer::Failed(why) => Err(why),
            Answer::Gone | Answer::Places(_) => Err("the extender was not asked for victims".to_owned()),
        };
        match named {
            Ok(candidates) => remedy.candidates = candidates,
            Err(_) if is_ignorable => {}
            Err(why) => {
                let message = and(&remedy.message, &format!("preemption: {why}"));
                diagnosis.remedy = Box::new(Remedy { message, calls: remedy.calls, ..Remedy::default() });
                return self.conclude(pod, diagnosis, now);
            }
        }
        self.ask_for_victims(pod, diagnosis, remedy, extender + 1, now)
    }
}

fn and(first: &str, second: &str) -> String {
    [first, second].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ")
}

fn reasons_of(places: &Places) -> HashMap<&str, Vec<Reason>> {
    let reasons = places.rejected.iter();
    reasons.map(|(node, why, _)| (&*node.name, why.iter().cloned().collect())).collect()
}

/// The candidates that an extender names by names and uids. Its word does not go for pods that the pod must not preempt.
fn named(
    cluster: &Cluster,
    pod: &PodInfo,
    url: &str,
    is_ignorable: bool,
    list: Vec<(String, Vec<String>, usize)>,
) -> Result<Vec<Candidate>, String> {
    let mut found = Vec::new();
    for (name, uids, violations) in list {
        let Some(info) = cluster.node(&name) else {
            return Err(format!("nodeinfo not found for node name {name:?}"));
        };
        let mut victims = Vec::new();
        for uid in &uids {
            match info.pods.iter().find(|other| *other.uid == **uid) {
                Some(victim) if victim.priority < pod.priority => victims.push(victim.clone()),
                Some(victim) => {
                    let victim = &victim.name;
                    return Err(format!(
                        "extender: {url} claims to preempt pod {victim} on node: {name}, but its priority is not lower"
                    ));
                }
                None => {
                    return Err(format!(
                        "extender: {url} claims to preempt pod (UID: {uid}) on node: {name}, but the pod is not found on that node"
                    ));
                }
            }
        }
        if victims.is_empty() {
            match is_ignorable {
                true => continue,
                false => return Err(format!("expected at least one victim pod on node {name:?}")),
            }
        }
        found.push(Candidate { node: info.node.clone(), victims, violations });
    }
    Ok(found)
}
