//! Pods that want to be near other pods, or far from them: required and preferred, and what the others want of them.

use crate::cache::Cluster;
use crate::framework::{Filter, MAX_NODE_SCORE, NodeFilter, Plugin, PreFilter, PreScore, Score, Verdict};
use crate::node::{Node, NodeInfo};
use crate::pod::PodInfo;
use crate::pod_terms::{PodTerm, PodTerms};
use crate::topology::Tally;

#[derive(Clone, Debug)]
pub struct InterPodAffinity {
    /// What the required affinity of a pod that runs weighs in the score.
    pub hard_weight: i64,
    /// Whether what others would rather does not matter for a pod without preferences.
    pub ignores_preferred: bool,
}

impl Default for InterPodAffinity {
    fn default() -> Self {
        Self { hard_weight: 1, ignores_preferred: false }
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }
}

struct Rules<'a> {
    pod: &'a PodInfo,
    cluster: &'a Cluster,
    /// By term of the pod's affinity: the pods that all of the terms are about.
    near: Vec<Tally<'a>>,
    /// By term of its anti-affinity: the pods that the term is about.
    far: Vec<Tally<'a>>,
    /// By key: the pods whose anti-affinity is about the pod.
    kept_away: Vec<Tally<'a>>,
}

fn terms(pod: &PodInfo) -> &PodTerms {
    static NONE: std::sync::LazyLock<PodTerms> = std::sync::LazyLock::new(PodTerms::default);
    pod.terms.as_deref().unwrap_or(&NONE)
}

/// Counts the pods that a term is about, and with it all of `others`.
fn take<'a>(tallies: &mut [Tally<'a>], term: &PodTerm, others: &[PodTerm], weight: i64, cluster: &'a Cluster) {
    for namespace in term.reach(cluster) {
        if !others.iter().all(|other| other.covers(namespace, cluster.stores())) {
            continue;
        }
        for (labels, _, domains) in cluster.index().groups(namespace) {
            if term.selects(labels) && others.iter().all(|other| other.selects(labels)) {
                tallies.iter_mut().for_each(|tally| tally.take(domains, weight, cluster));
            }
        }
    }
}

/// The tally of a key.
fn of_key<'t, 'a>(tallies: &'t mut Vec<Tally<'a>>, key: &str) -> &'t mut Tally<'a> {
    let at = tallies.iter().position(|tally| &*tally.key == key).unwrap_or_else(|| {
        tallies.push(Tally::new(key));
        tallies.len() - 1
    });
    &mut tallies[at]
}

impl<'a> Rules<'a> {
    fn of(pod: &'a PodInfo, cluster: &'a Cluster) -> Self {
        let own = terms(pod);
        let tallies =
            |terms: &[PodTerm]| -> Vec<Tally<'a>> { terms.iter().map(|t| Tally::new(&t.topology_key)).collect() };
        let mut near = tallies(&own.affinity);
        if let Some((first, others)) = own.affinity.split_first() {
            take(&mut near, first, others, 1, cluster);
        }
        let mut far = tallies(&own.anti_affinity);
        for (term, tally) in own.anti_affinity.iter().zip(&mut far) {
            take(std::slice::from_mut(tally), term, &[], 1, cluster);
        }
        let mut kept_away = Vec::new();
        for (others, domains) in cluster.index().terms() {
            for term in others.anti_affinity.iter().filter(|term| term.is_about(pod, cluster.stores())) {
                of_key(&mut kept_away, &term.topology_key).take(domains, 1, cluster);
            }
        }
        Self { pod, cluster, near, far, kept_away }
    }

    fn is_near(&self, node: &Node) -> bool {
        let mut exist = true;
        for tally in &self.near {
            match tally.on(node) {
                Some(count) => exist &= count > 0,
                None => return false,
            }
        }
        // The first of pods that want to be near each other has none to be near to.
        exist
            || (self.near.iter().all(|tally| tally.total() == 0)
                && terms(self.pod).affinity.iter().all(|term| term.is_about(self.pod, self.cluster.stores())))
    }
}

impl NodeFilter for Rules<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        let any =
            |tallies: &[Tally<'_>]| tallies.iter().any(|tally| tally.on(&node.node).is_some_and(|count| count > 0));
        if !self.is_near(&node.node) {
            Verdict::unresolvable("node(s) didn't match pod affinity rules")
        } else if any(&self.far) {
            Verdict::unschedulable("node(s) didn't match pod anti-affinity rules")
        } else if any(&self.kept_away) {
            Verdict::unschedulable("node(s) didn't satisfy existing pods anti-affinity rules")
        } else {
            Verdict::Fits
        }
    }

    fn shift(&mut self, other: &PodInfo, node: &Node, by: i64) {
        let stores = self.cluster.stores();
        let own = terms(self.pod);
        if own.affinity.iter().all(|term| term.is_about(other, stores)) {
            self.near.iter_mut().for_each(|tally| tally.shift(node, by));
        }
        for (term, tally) in own.anti_affinity.iter().zip(&mut self.far) {
            if term.is_about(other, stores) {
                tally.shift(node, by);
            }
        }
        for term in terms(other).anti_affinity.iter().filter(|term| term.is_about(self.pod, stores)) {
            of_key(&mut self.kept_away, &term.topology_key).shift(node, by);
        }
    }
}

impl Filter for InterPodAffinity {
    fn pre_filter<'a>(&'a self, pod: &'a PodInfo, cluster: &'a Cluster) -> PreFilter<'a> {
        let rules = Rules::of(pod, cluster);
        match rules.near.is_empty() && rules.far.is_empty() && rules.kept_away.is_empty() {
            true => PreFilter::Skip,
            false => PreFilter::Filter(Box::new(rules)),
        }
    }

    fn may_fit_without(&self, pod: &PodInfo, gone: &PodInfo) -> bool {
        let about = |terms: &PodTerms, other: &PodInfo| terms.anti_affinity.iter().any(|t| t.selects(&other.labels));
        about(terms(pod), gone) || about(terms(gone), pod)
    }

    fn heeds_arrivals(&self) -> bool {
        true
    }

    fn may_fit_with(&self, pod: &PodInfo, new: &PodInfo, cluster: &Cluster) -> bool {
        let near = &terms(pod).affinity;
        !near.is_empty() && near.iter().all(|term| term.is_about(new, cluster.stores()))
    }

    fn may_fit_on(&self, pod: &PodInfo, node: &NodeInfo, _: &Cluster) -> bool {
        terms(pod).affinity.iter().all(|term| node.node.labels.contains_key(&*term.topology_key))
    }

    /// The pods of a node that changes its domain are near to others, and far from others.
    fn may_fit_after(&self, pod: &PodInfo, old: Option<&Node>, new: Option<&Node>) -> bool {
        let (Some(old), Some(new)) = (old, new) else { return false };
        let moves = |term: &PodTerm| old.labels.get(&*term.topology_key) != new.labels.get(&*term.topology_key);
        terms(pod).affinity.iter().chain(&terms(pod).anti_affinity).any(moves)
    }
}

impl Score for InterPodAffinity {
    fn pre_score<'a>(&'a self, pod: &'a PodInfo, cluster: &'a Cluster, _: &[&'a NodeInfo]) -> PreScore<'a> {
        let mut tallies: Vec<Tally<'a>> = Vec::new();
        let own = &terms(pod).preferred;
        if self.ignores_preferred && own.is_empty() {
            return PreScore::Skip;
        }
        for (weight, term) in own {
            let tally = of_key(&mut tallies, &term.topology_key);
            take(std::slice::from_mut(tally), term, &[], *weight, cluster);
        }
        for (others, domains) in cluster.index().terms() {
            let hard = others.affinity.iter().map(|term| (self.hard_weight, term));
            let soft = others.preferred.iter().map(|(weight, term)| (*weight, term));
            for (weight, term) in hard.chain(soft).filter(|(_, term)| term.is_about(pod, cluster.stores())) {
                of_key(&mut tallies, &term.topology_key).take(domains, weight, cluster);
            }
        }
        tallies.retain(|tally| !tally.is_empty());
        if tallies.is_empty() {
            return PreScore::Skip;
        }
        PreScore::Score(Box::new(move |node| tallies.iter().filter_map(|tally| tally.on(&node.node)).sum()))
    }

    fn normalize(&self, scores: &mut [i64]) {
        let (min, max) = (scores.iter().min().copied().unwrap_or(0), scores.iter().max().copied().unwrap_or(0));
        for score in scores {
            *score = if max == min { 0 } else { MAX_NODE_SCORE * (*score - min) / (max - min) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fixture;
    use crate::plugins::check;
    use crate::topology::HOSTNAME;
    use kybern_apimachinery::{Value, json};

    const PLUGIN: InterPodAffinity = InterPodAffinity { hard_weight: 1, ignores_preferred: false };
    const ZONE: &str = "topology.kubernetes.io/zone";
    const NEAR: &str = "node(s) didn't match pod affinity rules";
    const FAR: &str = "node(s) didn't match pod anti-affinity rules";
    const KEPT_AWAY: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

    /// Nodes `a1` and `a2` in zone a, `b1` in zone b, and `bare` without labels.
    fn cluster(pods: &[(&str, PodInfo)]) -> Cluster {
        let mut cluster = Cluster::default();
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("bare", "")] {
            let mut labels = json!({"topology.kubernetes.io/zone": zone, "rack": zone, "kubernetes.io/hostname": name});
            if zone.is_empty() {
                labels = json!({});
            }
            cluster.set_node(Arc::new(fixture::node(json!({"metadata": {"name": name, "labels": labels}}))));
        }
        for (node, pod) in pods {
            cluster.assume(Arc::new(pod.clone()), node);
        }
        cluster
    }

    fn term(app: &str, key: &str) -> Value {
        json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key})
    }

    fn required(kind: &str, terms: &[Value]) -> Value {
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
    }

    fn preferred(kind: &str, weight: i32, term: &Value) -> Value {
        let weighted = json!([{"weight": weight, "podAffinityTerm": term}]);
        json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": weighted}}})
    }

    fn app(name: &str, app: &str, spec: Value) -> PodInfo {
        fixture::labelled(name, json!({"app": app}), spec)
    }

    /// What is said of each node: `.` for one that fits, else `n`ot near, too `f`ar from nothing, or `k`ept away.
    fn verdicts(cluster: &Cluster, pod: &PodInfo) -> String {
        let PreFilter::Filter(filter) = PLUGIN.pre_filter(pod, cluster) else { return "skip".to_owned() };
        cluster.nodes().map(|info| letter(&*filter, info)).collect()
    }

    fn letter(filter: &dyn NodeFilter, info: &NodeInfo) -> char {
        match filter.check(info) {
            Verdict::Fits => '.',
            verdict if verdict == Verdict::unresolvable(NEAR) => 'n',
            verdict if verdict == Verdict::unschedulable(FAR) => 'f',
            verdict if verdict == Verdict::unschedulable(KEPT_AWAY) => 'k',
            verdict => panic!("{verdict:?}"),
        }
    }

    #[test]
    fn filters() {
        let check = |what: &str, pods: &[(&str, PodInfo)], pod: PodInfo, expect: &str| {
            assert_eq!(verdicts(&cluster(pods), &pod), expect, "{what}");
        };
        let (web, plain) = (|| app("web", "web", json!({})), || app("p", "p", json!({})));
        let near = |terms: &[Value]| app("p", "p", required("podAffinity", terms));
        let far = |terms: &[Value]| app("p", "p", required("podAntiAffinity", terms));
        check("nobody cares", &[("a1", web())], plain(), "skip");
        for key in [ZONE, "rack"] {
            check("near", &[("a1", web())], near(&[term("web", key)]), "..nn");
            check("far", &[("a1", web())], far(&[term("web", key)]), "ff..");
            let shy = app("shy", "shy", required("podAntiAffinity", &[term("p", key)]));
            check("kept away", &[("b1", shy)], plain(), "..k.");
        }
        check("by all terms", &[("a1", web())], near(&[term("web", ZONE), term("web", HOSTNAME)]), ".nnn");
        let both = [("a1", web()), ("a1", app("d", "db", json!({})))];
        check("one pod must match all terms", &both, near(&[term("web", ZONE), term("db", ZONE)]), "nnnn");
        let own = || near(&[term("p", ZONE)]);
        check("the first of its kind", &[], own(), "...n");
        check("the second", &[("b1", own())], own(), "nn.n");
        check("none of another kind", &[], near(&[term("web", ZONE)]), "nnnn");
        let mut elsewhere = web();
        elsewhere.namespace = "elsewhere".into();
        check("another namespace", &[("a1", elsewhere.clone())], far(&[term("web", ZONE)]), "....");
        let mut everywhere = term("web", ZONE);
        everywhere["namespaceSelector"] = json!({});
        check("all namespaces", &[("a1", elsewhere)], far(&[everywhere]), "ff..");
    }

    /// Many groups are added up, few are asked one by one: the answer is the same.
    #[test]
    fn many_groups() {
        let exists = json!({"matchExpressions": [{"key": "n", "operator": "Exists"}]});
        let term = json!({"labelSelector": exists, "topologyKey": HOSTNAME});
        let pod = app("p", "p", required("podAntiAffinity", &[term]));
        for (groups, expect) in [(1, "f..."), (4, "f.f."), (5, "f.f."), (40, "f.f.")] {
            let one = |n: usize| fixture::labelled(&format!("g{n}"), json!({"n": n.to_string()}), json!({}));
            let pods: Vec<_> = (0..groups).map(|n| (["a1", "b1"][n % 2], one(n))).collect();
            assert_eq!(verdicts(&cluster(&pods), &pod), expect, "{groups}");
        }
    }

    /// A pod thought away and added again leaves everything as it was.
    #[test]
    fn shifts() {
        let shy = app("shy", "shy", required("podAntiAffinity", &[term("p", ZONE)]));
        let mut spec = required("podAffinity", &[term("web", "rack")]);
        let far = required("podAntiAffinity", &[term("db", ZONE)]);
        spec["affinity"]["podAntiAffinity"] = far["affinity"]["podAntiAffinity"].clone();
        let pod = app("p", "p", spec);
        let (web, db) = (app("w", "web", json!({})), app("d", "db", json!({})));
        let cluster = cluster(&[("a1", shy.clone()), ("a1", web.clone()), ("a1", db.clone())]);
        let PreFilter::Filter(mut filter) = PLUGIN.pre_filter(&pod, &cluster) else { panic!("it matters") };
        let (a1, a2) = (cluster.node("a1").unwrap().node.clone(), cluster.node("a2").unwrap());
        assert_eq!(letter(&*filter, a2), 'f');
        for (other, by, expect) in
            [(&db, -1, 'k'), (&shy, -1, '.'), (&web, -1, 'n'), (&web, 1, '.'), (&shy, 1, 'k'), (&db, 1, 'f')]
        {
            filter.shift(other, &a1, by);
            assert_eq!(letter(&*filter, a2), expect, "{} {by}", other.name);
        }
    }

    #[test]
    fn scores() {
        let check = |what: &str, pods: &[(&str, PodInfo)], pod: PodInfo, expect: &[i64]| {
            assert_eq!(check::score_in(&PLUGIN, &pod, &cluster(pods)), expect, "{what}");
        };
        let (web, plain) = (|| app("web", "web", json!({})), || app("p", "p", json!({})));
        check("nothing to say", &[("a1", web())], plain(), &[]);
        let pod = app("p", "p", preferred("podAffinity", 10, &term("web", ZONE)));
        check("rather near", &[("a1", web())], pod, &[100, 100, 0, 0]);
        let pod = app("p", "p", preferred("podAntiAffinity", 10, &term("web", ZONE)));
        check("rather far", &[("a1", web())], pod, &[0, 0, 100, 100]);
        let friend = app("f", "f", preferred("podAffinity", 10, &term("p", HOSTNAME)));
        check("others would rather be near", &[("a2", friend)], plain(), &[0, 100, 0, 0]);
        let friend = app("f", "f", required("podAffinity", &[term("p", ZONE)]));
        let pods = [("b1", friend)];
        check("others had to be near", &pods, plain(), &[0, 0, 100, 0]);
        for (plugin, expect) in [
            (InterPodAffinity { hard_weight: 0, ..PLUGIN }, vec![0, 0, 0, 0]),
            (InterPodAffinity { ignores_preferred: true, ..PLUGIN }, Vec::new()),
        ] {
            assert_eq!(check::score_in(&plugin, &plain(), &cluster(&pods)), expect, "{plugin:?}");
        }
        let foe = |name: &str| app(name, "f", preferred("podAntiAffinity", 10, &term("p", ZONE)));
        let foes = [("a1", foe("f")), ("a1", foe("g")), ("b1", foe("h"))];
        check("others would rather be far", &foes, plain(), &[0, 0, 50, 100]);
    }

    #[test]
    fn what_helps() {
        let near = app("p", "p", required("podAffinity", &[term("web", "rack")]));
        let far = app("p", "p", required("podAntiAffinity", &[term("web", "rack")]));
        let (web, db) = (app("w", "web", json!({})), app("d", "db", json!({})));
        let cluster = cluster(&[]);
        let with = |pod: &PodInfo, new: &PodInfo| PLUGIN.may_fit_with(pod, new, &cluster);
        assert!(with(&near, &web) && !with(&near, &db) && !with(&far, &db));
        let without = |pod: &PodInfo, gone: &PodInfo| PLUGIN.may_fit_without(pod, gone);
        assert!(without(&far, &web) && !without(&far, &db) && without(&web, &far));
        let on = |name: &str| PLUGIN.may_fit_on(&near, cluster.node(name).unwrap(), &cluster);
        assert!(on("a1") && !on("bare"));
    }
}
