//! From the table that is to the table that should be, in an order the kernel accepts within one transaction. Pure.

use std::collections::BTreeSet;

use super::model::*;

/// One step of a transaction on one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    AddTable,
    DeleteTable,
    /// Makes a chain without rules.
    AddChain(&'a str, &'a Chain),
    FlushChain(&'a str),
    DeleteChain(&'a str),
    /// Makes a set without elements.
    AddSet(&'a str, &'a Set),
    DeleteSet(&'a str),
    AddElements(&'a str, Vec<(&'a [u8], &'a Element)>),
    DeleteElements(&'a str, Vec<&'a [u8]>),
    AddRule(&'a str, &'a Rule),
}

/// The least that turns `actual` (`None`: there is no such table) into `desired`. A chain whose rules differ is emptied and
/// refilled; chains, sets and elements that are right are not touched, so that affinity entries and counters stay.
pub fn diff<'a>(desired: &'a Table, actual: Option<&'a Table>) -> Vec<Op<'a>> {
    let Some(actual) = actual else { return build(desired) };
    let mut ops = Vec::new();

    // A base chain cannot change its hook in place, nor a set its declaration: such are made anew.
    let redeclared: BTreeSet<&str> = desired
        .sets
        .iter()
        .filter(|(name, set)| actual.sets.get(*name).is_some_and(|old| !old.same_declaration(set)))
        .map(|(name, _)| name.as_str())
        .collect();
    let rebased: BTreeSet<&str> = desired
        .chains
        .iter()
        .filter(|(name, chain)| actual.chains.get(*name).is_some_and(|old| old.base != chain.base))
        .map(|(name, _)| name.as_str())
        .collect();
    if !rebased.is_empty() {
        // Only a change of Kybern's own version does this; rebuilding is one transaction as well.
        return std::iter::once(Op::DeleteTable).chain(build(desired)).collect();
    }

    let missing = |name: &str| !actual.chains.contains_key(name);
    let changed: Vec<(&str, &Chain)> = desired
        .chains
        .iter()
        .filter(|(name, chain)| match actual.chains.get(*name) {
            None => !chain.rules.is_empty(),
            Some(old) => {
                !same_rules(&old.rules, &chain.rules) || chain.sets().iter().any(|set| redeclared.contains(set))
            }
        })
        .map(|(name, chain)| (name.as_str(), chain))
        .collect();
    let gone_chains: Vec<&str> =
        actual.chains.keys().filter(|name| !desired.chains.contains_key(*name)).map(String::as_str).collect();
    let gone_sets = actual.sets.keys().filter(|name| !desired.sets.contains_key(*name)).map(String::as_str);

    for (name, chain) in desired.chains.iter().filter(|(name, _)| missing(name)) {
        ops.push(Op::AddChain(name, chain));
    }
    ops.extend(changed.iter().filter(|(name, _)| !missing(name)).map(|(name, _)| Op::FlushChain(name)));
    ops.extend(gone_chains.iter().map(|name| Op::FlushChain(name)));
    for (name, set) in &desired.sets {
        let Some(old) = actual.sets.get(name).filter(|_| !redeclared.contains(name.as_str())) else { continue };
        if set.timeout.is_none() {
            let stale: Vec<&[u8]> = old
                .elements
                .iter()
                .filter(|(key, element)| set.elements.get(*key) != Some(element))
                .map(|(key, _)| key.as_slice())
                .collect();
            if !stale.is_empty() {
                ops.push(Op::DeleteElements(name, stale));
            }
        }
    }
    ops.extend(gone_sets.chain(redeclared.iter().copied()).map(Op::DeleteSet));
    for (name, set) in &desired.sets {
        if !actual.sets.contains_key(name) || redeclared.contains(name.as_str()) {
            ops.push(Op::AddSet(name, set));
        }
    }
    for (name, chain) in &changed {
        ops.extend(chain.rules.iter().map(|rule| Op::AddRule(name, rule)));
    }
    for (name, set) in &desired.sets {
        let old = actual.sets.get(name).filter(|_| !redeclared.contains(name.as_str()));
        let new: Vec<(&[u8], &Element)> = set
            .elements
            .iter()
            .filter(|(key, element)| old.is_none_or(|old| old.elements.get(*key) != Some(element)))
            .map(|(key, element)| (key.as_slice(), element))
            .collect();
        if !new.is_empty() {
            ops.push(Op::AddElements(name, new));
        }
    }
    ops.extend(gone_chains.into_iter().map(Op::DeleteChain));
    ops
}

fn same_rules(old: &[Rule], new: &[Rule]) -> bool {
    old.len() == new.len()
        && old.iter().zip(new).all(|(old, new)| {
            old.exprs == new.exprs && old.comment.as_deref() == new.comment.as_deref().map(super::encode::kept_comment)
        })
}

fn build(table: &Table) -> Vec<Op<'_>> {
    let mut ops = vec![Op::AddTable];
    ops.extend(table.chains.iter().map(|(name, chain)| Op::AddChain(name, chain)));
    ops.extend(table.sets.iter().map(|(name, set)| Op::AddSet(name, set)));
    for (name, chain) in &table.chains {
        ops.extend(chain.rules.iter().map(|rule| Op::AddRule(name, rule)));
    }
    for (name, set) in table.sets.iter().filter(|(_, set)| !set.elements.is_empty()) {
        ops.push(Op::AddElements(name, set.elements.iter().map(|(k, e)| (k.as_slice(), e)).collect()));
    }
    ops
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(vip_chain: &str, extra_rule: bool) -> Table {
        let mut table = Table::new(Family::Ip, "t");
        let mut map = Set::new(&[Datatype::Ipv4Addr], SetKind::Verdicts);
        map.elements.insert(vec![10, 0, 0, 1], Element::Verdict(Verdict::Goto(vip_chain.into())));
        map.elements.insert(vec![10, 0, 0, 2], Element::Verdict(Verdict::Drop));
        table.sets.insert("vips".into(), map);
        table.chain("main").rules.push(Rule::new().load_daddr(Family::Ip, 0).vmap("vips"));
        let chain = table.chain(vip_chain);
        if extra_rule {
            chain.rules.push(Rule::new().reject());
        }
        table
    }

    #[test]
    fn what_is_right_is_left_alone() {
        let have = table("a", true);
        assert_eq!(diff(&have, Some(&have)), []);
    }

    #[test]
    fn only_the_difference_is_touched_and_in_the_kernels_order() {
        let (have, want) = (table("a", true), table("b", true));
        let key: &[u8] = &[10, 0, 0, 1];
        assert_eq!(
            diff(&want, Some(&have)),
            [
                Op::AddChain("b", &want.chains["b"]),
                Op::FlushChain("a"),
                Op::DeleteElements("vips", vec![key]),
                Op::AddRule("b", &want.chains["b"].rules[0]),
                Op::AddElements("vips", vec![(key, &Element::Verdict(Verdict::Goto("b".into())))]),
                Op::DeleteChain("a"),
            ]
        );
        let want = table("a", false);
        assert_eq!(diff(&want, Some(&have)), [Op::FlushChain("a")]);
    }

    #[test]
    fn a_redeclared_set_takes_its_users_with_it() {
        let have = table("a", false);
        let mut want = have.clone();
        want.sets.get_mut("vips").unwrap().key = vec![Datatype::Mark];
        let ops = diff(&want, Some(&have));
        assert_eq!(ops[..3], [Op::FlushChain("main"), Op::DeleteSet("vips"), Op::AddSet("vips", &want.sets["vips"])]);
    }
}
