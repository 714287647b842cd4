//! `hosts`: names from a file in the format of `/etc/hosts`, and from lines of the Corefile.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{Fallthrough, Outcome, Plugin, find_zone};
use crate::message::{Answer, Owner, Query, RData, Record, rcode, rtype};
use crate::name::{Name, parse_reverse};

pub struct Hosts {
    pub zones: Vec<Name>,
    pub ttl: u32,
    pub fallthrough: Fallthrough,
    pub entries: Entries,
}

#[derive(Default, Debug)]
pub struct Entries {
    addresses: HashMap<Name, Vec<IpAddr>>,
    names: HashMap<IpAddr, Vec<Name>>,
}

impl Entries {
    /// Adds the lines of a file; what is no entry is passed over, as resolvers do.
    pub fn add_text(&mut self, text: &str, reverse: bool) {
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(ip) = words.next().and_then(|ip| ip.parse().ok()) else { continue };
            for name in words.filter_map(Name::parse) {
                if reverse {
                    self.names.entry(ip).or_default().push(name.clone());
                }
                self.addresses.entry(name).or_default().push(ip);
            }
        }
    }
}

impl Plugin for Hosts {
    fn name(&self) -> &'static str {
        "hosts"
    }

    fn handle(&self, query: &Query) -> Outcome {
        let name = query.name();
        if find_zone(&self.zones, name).is_none() {
            return Outcome::Next;
        }
        let record = |data| Record { owner: Owner::Question, ttl: self.ttl, data };
        let answers: Vec<Record> = if query.qtype == rtype::PTR {
            let names = parse_reverse(name).and_then(|ip| self.entries.names.get(&ip));
            names.into_iter().flatten().map(|name| record(RData::Ptr(name.clone()))).collect()
        } else {
            match self.entries.addresses.get(&Name::from_wire(name)) {
                Some(ips) => {
                    let all = ips.iter().map(|ip| record(RData::Ip(*ip)));
                    let answers: Vec<_> = all.filter(|record| record.data.kind() == query.qtype).collect();
                    if answers.is_empty() {
                        // The name is known, but has no such record.
                        return Outcome::Answer(Answer { authoritative: true, ..Answer::default() });
                    }
                    answers
                }
                None => Vec::new(),
            }
        };
        if answers.is_empty() {
            let covered = self.fallthrough.covers(name);
            return if covered { Outcome::Next } else { Outcome::Answer(Answer::code(rcode::NXDOMAIN)) };
        }
        Outcome::Answer(Answer { authoritative: true, answers, ..Answer::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_both_ways() {
        let mut entries = Entries::default();
        entries.add_text("# comment\n10.0.0.1 a.test b.test # more\nfd00::1 a.test\nnonsense\n", true);
        let hosts = Hosts { zones: vec![Name::root()], ttl: 60, fallthrough: Fallthrough::new(Vec::new()), entries };
        let ask = |text: &str, qtype| match hosts.handle(&Query::new(1, &Name::parse(text).unwrap(), qtype)) {
            Outcome::Next => None,
            Outcome::Answer(answer) => Some(answer.answers.into_iter().map(|r| r.data).collect::<Vec<_>>()),
        };
        assert_eq!(ask("A.test", rtype::A), Some(vec![RData::Ip([10, 0, 0, 1].into())]));
        assert_eq!(ask("b.test", rtype::AAAA), Some(vec![]));
        assert_eq!(ask("1.0.0.10.in-addr.arpa", rtype::PTR).unwrap().len(), 2);
        assert_eq!(ask("c.test", rtype::A), None);
    }
}
