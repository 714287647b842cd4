//! What is to be done about one election. All state is in the Lease and its candidates; nothing is remembered.

use jiff::{SignedDuration, Timestamp};
use kybern_apimachinery::Value;

use crate::tree::{int, text};

/// How long candidates have to answer when they are asked, and for how long an answer counts.
const ROUND: SignedDuration = SignedDuration::from_secs(5);
/// So long after its last renewal a candidate counts for nothing.
const VALID: SignedDuration = SignedDuration::from_secs(30 * 60);
/// The only strategy that is decided here; others are somebody else's.
pub(super) const OLDEST_EMULATION_VERSION: &str = "OldestEmulationVersion";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) name: String,
    created: Option<Timestamp>,
    /// `None`: no version.
    binary: Option<Version>,
    emulation: Option<Version>,
    strategy: String,
    pinged: Option<Timestamp>,
    renewed: Option<Timestamp>,
}

type Version = [u64; 3];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    holder: String,
    renewed: Option<Timestamp>,
    seconds: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing before this time, unless something changes.
    Wait(Timestamp),
    /// These candidates are asked whether they are there.
    Ping(Vec<String>),
    /// The Lease is this candidate's, or nobody's where a strategy is not decided here.
    Elect { holder: Option<String>, strategy: String },
}

impl Candidate {
    pub(super) fn of(object: &Value) -> Self {
        let (metadata, spec) = (&object["metadata"], &object["spec"]);
        Self {
            name: text(metadata, "name").to_owned(),
            created: time(metadata, "creationTimestamp"),
            binary: version(text(spec, "binaryVersion")),
            emulation: version(text(spec, "emulationVersion")),
            strategy: text(spec, "strategy").to_owned(),
            pinged: time(spec, "pingTime"),
            renewed: time(spec, "renewTime"),
        }
    }

    /// Asked, and silent since.
    fn is_asked(&self) -> bool {
        self.pinged.is_some() && self.pinged > self.renewed
    }
}

impl Held {
    pub(super) fn of(lease: &Value) -> Self {
        let spec = &lease["spec"];
        Self {
            holder: text(spec, "holderIdentity").to_owned(),
            renewed: time(spec, "renewTime"),
            seconds: int(spec, "leaseDurationSeconds"),
        }
    }

    pub(super) fn ends(&self) -> Option<Timestamp> {
        self.renewed?.checked_add(SignedDuration::from_secs(self.seconds?)).ok()
    }
}

fn time(object: &Value, field: &str) -> Option<Timestamp> {
    text(object, field).parse().ok()
}

/// `1.35`, `v1.35.0`.
fn version(text: &str) -> Option<Version> {
    let text = text.trim().trim_start_matches('v');
    let plain = text.split(['-', '+']).next().unwrap_or("");
    let numbers: Option<Vec<u64>> = plain.split('.').map(|part| part.parse().ok()).collect();
    let numbers = numbers.filter(|numbers| (1..=3).contains(&numbers.len()))?;
    let at = |index: usize| numbers.get(index).copied().unwrap_or(0);
    Some([at(0), at(1), at(2)])
}

fn after(time: Option<Timestamp>, duration: SignedDuration, now: Timestamp) -> bool {
    time.and_then(|time| time.checked_add(duration).ok()).is_some_and(|end| end > now)
}

/// That of the candidates with the newest program.
fn strategy(candidates: &[&Candidate]) -> Result<String, String> {
    let newest = candidates.iter().map(|candidate| candidate.binary).max().flatten();
    let mut of_newest = candidates.iter().filter(|candidate| candidate.binary == newest);
    let Some(first) = of_newest.next() else { return Err("there are no candidates".to_owned()) };
    match of_newest.find(|other| other.strategy != first.strategy) {
        None => Ok(first.strategy.clone()),
        Some(other) => Err(format!(
            "candidates {:?} and {:?} have one version and different strategies, {} and {}",
            first.name, other.name, first.strategy, other.strategy
        )),
    }
}

/// Who emulates the oldest version, with the oldest program, the first of them.
fn best<'a>(candidates: &[&'a Candidate]) -> Option<&'a Candidate> {
    let valid = candidates.iter().filter(|candidate| candidate.emulation.is_some() && candidate.binary.is_some());
    valid.min_by_key(|c| (c.emulation, c.binary, c.created, &c.name)).copied()
}

/// Decides. An error is what keeps the election from going on.
pub(super) fn step(candidates: &[Candidate], lease: Option<&Held>, now: Timestamp) -> Result<Option<Step>, String> {
    let candidates: Vec<&Candidate> = candidates.iter().filter(|c| after(c.renewed, VALID, now)).collect();
    if candidates.is_empty() {
        return Ok(None);
    }
    let end = now.checked_add(ROUND).unwrap_or(now);
    if let Some(lease) = lease
        && !is_needed(&candidates, lease, now)?
    {
        return Ok(Some(Step::Wait(lease.ends().unwrap_or(end))));
    }
    let is_silent = |c: &&&Candidate| c.is_asked() && after(c.pinged, ROUND, now);
    let answered = |c: &Candidate| after(c.renewed, ROUND, now);
    let asked = candidates.iter().filter(|c| !answered(c) && !c.is_asked());
    let asked: Vec<String> = asked.map(|candidate| candidate.name.clone()).collect();
    if !asked.is_empty() {
        return Ok(Some(Step::Ping(asked)));
    }
    if let Some(last) = candidates.iter().filter(is_silent).filter_map(|c| c.pinged?.checked_add(ROUND).ok()).max() {
        return Ok(Some(Step::Wait(last)));
    }
    let there: Vec<&Candidate> = candidates.into_iter().filter(|c| answered(c)).collect();
    if there.is_empty() {
        return Err("no candidate answers".to_owned());
    }
    let strategy = strategy(&there)?;
    let holder = if strategy == OLDEST_EMULATION_VERSION {
        Some(best(&there).ok_or("no candidate tells its versions")?.name.clone())
    } else {
        None
    };
    Ok(Some(Step::Elect { holder, strategy }))
}

fn is_needed(candidates: &[&Candidate], lease: &Held, now: Timestamp) -> Result<bool, String> {
    if lease.holder.is_empty() || lease.ends().is_none_or(|end| end < now) {
        return Ok(true);
    }
    // Candidates are asked before they would count for nothing.
    if candidates.iter().any(|candidate| !after(candidate.renewed, VALID / 2, now)) {
        return Ok(true);
    }
    if strategy(candidates)? != OLDEST_EMULATION_VERSION {
        return Ok(false);
    }
    Ok(best(candidates).is_some_and(|best| best.name != lease.holder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(10_000 + second).unwrap()
    }

    /// Name, versions of program and emulation, when it was asked and when it answered.
    fn candidate(name: &str, versions: (&str, &str), pinged: Option<i64>, renewed: i64) -> Candidate {
        Candidate::of(&json!({
            "metadata": {"name": name, "creationTimestamp": at(-100).to_string()},
            "spec": {
                "binaryVersion": versions.0, "emulationVersion": versions.1, "strategy": OLDEST_EMULATION_VERSION,
                "renewTime": at(renewed).to_string(), "pingTime": pinged.map(|second| at(second).to_string()),
            },
        }))
    }

    fn held(holder: &str, renewed: i64) -> Held {
        let spec = json!({"holderIdentity": holder, "renewTime": at(renewed).to_string(), "leaseDurationSeconds": 15});
        Held::of(&json!({"spec": spec}))
    }

    fn elect(holder: &str) -> Step {
        Step::Elect { holder: Some(holder.into()), strategy: OLDEST_EMULATION_VERSION.into() }
    }

    #[test]
    fn an_election_goes_by_versions_among_those_who_answer() {
        let (old, new) = (("1.34.0", "1.34"), ("v1.35.0", "1.35.0"));
        let table: Vec<(Vec<Candidate>, Option<Held>, Option<Step>)> = vec![
            (vec![], None, None),
            (vec![candidate("a", new, None, -2000)], None, None),
            // Nobody is elected who has not answered within the last seconds.
            (vec![candidate("a", new, None, -60)], None, Some(Step::Ping(vec!["a".into()]))),
            (vec![candidate("a", new, Some(-1), -60)], None, Some(Step::Wait(at(4)))),
            (vec![candidate("a", new, Some(-1), 0)], None, Some(elect("a"))),
            (vec![candidate("a", new, None, -1), candidate("b", old, None, -2)], None, Some(elect("b"))),
            // The silent one is out after a round.
            (vec![candidate("a", new, None, -1), candidate("b", old, Some(-6), -60)], None, Some(elect("a"))),
            (
                vec![candidate("a", new, None, -1), candidate("b", old, None, -60)],
                None,
                Some(Step::Ping(vec!["b".into()])),
            ),
            // A leader stays while none is better and the lease is renewed.
            (vec![candidate("a", new, None, -60)], Some(held("a", -5)), Some(Step::Wait(at(10)))),
            (vec![candidate("a", new, None, -1)], Some(held("a", -20)), Some(elect("a"))),
            (vec![candidate("a", new, None, -1)], Some(held("", -1)), Some(elect("a"))),
            (vec![candidate("a", new, None, -1), candidate("b", old, None, -1)], Some(held("a", -5)), Some(elect("b"))),
            // Of equals the first by name, as long as they are as old.
            (vec![candidate("b", new, None, -1), candidate("a", new, None, -1)], None, Some(elect("a"))),
            // Whoever was last heard of a quarter of an hour ago is asked.
            (vec![candidate("a", new, None, -1000)], Some(held("a", -5)), Some(Step::Ping(vec!["a".into()]))),
        ];
        for (candidates, lease, expect) in table {
            assert_eq!(step(&candidates, lease.as_ref(), at(0)), Ok(expect), "{candidates:?} {lease:?}");
        }
    }

    #[test]
    fn strategies_of_others_are_left_to_them() {
        let mut foreign = candidate("a", ("1.36", "1.36"), None, -1);
        foreign.strategy = "example.com/own".into();
        let ours = candidate("b", ("1.35", "1.35"), None, -1);
        let expect = Step::Elect { holder: None, strategy: "example.com/own".into() };
        assert_eq!(step(&[foreign.clone(), ours.clone()], None, at(0)), Ok(Some(expect)));
        assert_eq!(step(&[foreign.clone(), ours.clone()], Some(&held("x", -1)), at(0)), Ok(Some(Step::Wait(at(14)))));
        foreign.binary = ours.binary;
        assert!(step(&[foreign, ours], None, at(0)).unwrap_err().contains("different strategies"));
        let nameless = candidate("a", ("", ""), None, -1);
        assert!(step(&[nameless], None, at(0)).is_err());
    }
}
