//! Rolling updates under every limit and every order in which pods come and go.

use kybern_api::apps::v1::ReplicaSet;
use proptest::prelude::*;

use super::tests::{change, deployment, report, run};
use crate::testing::{World, template};

fn totals(world: &World) -> (i32, i32) {
    let sets = world.snapshot.replica_sets.list();
    let size = |set: &ReplicaSet| set.spec.as_ref().unwrap().replicas.unwrap();
    let available = |set: &ReplicaSet| set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0);
    // What a set says to be available and is no more wanted is about to go.
    (sets.iter().map(|s| size(s)).sum(), sets.iter().map(|s| available(s).min(size(s))).sum())
}

/// Removing pods is at once; making them takes as long as `luck` says. Unready pods are removed first.
fn pods_come_and_go(world: &World, luck: &mut impl Iterator<Item = u8>) {
    for set in world.snapshot.replica_sets.list() {
        let wanted = set.spec.as_ref().unwrap().replicas.unwrap();
        let available = set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0).min(wanted);
        let started = i32::from(luck.next().unwrap_or(1)) % (wanted - available + 1).max(1);
        let after = if luck.next().is_none() { wanted } else { available + started };
        report(world, &set, wanted, after);
    }
}

fn finish(world: &World) {
    for _ in 0..200 {
        let plan = run(world);
        let idle = plan.ops.is_empty();
        world.apply(&plan);
        pods_come_and_go(world, &mut std::iter::empty());
        if idle && run(world).ops.is_empty() {
            return;
        }
    }
    panic!("the deployment never settles");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_rollout_respects_its_limits_and_ends(
        replicas in 1..12_i32,
        surge in 0..4_i32,
        unavailable in 0..4_i32,
        luck in prop::collection::vec(any::<u8>(), 0..120),
        change_again_at in 0..12_usize,
    ) {
        let world = World::new();
        world.writers.deployments.upsert(deployment(replicas, "i:1", &surge.to_string(), &unavailable.to_string()));
        finish(&world);
        // Neither allowed would never end: one may then be unavailable.
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable.min(replicas) };
        change(&world, |spec| spec.template = template("web", "i:2"));
        let mut luck = luck.into_iter();
        for step in 0..24 {
            if step == change_again_at {
                change(&world, |spec| spec.template = template("web", "i:3"));
            }
            let plan = run(&world);
            world.apply(&plan);
            let (wanted, _) = totals(&world);
            prop_assert!(wanted <= replicas + surge, "{} pods wanted", wanted);
            // The sets' controller may lag: then their status says what was.
            if luck.next().is_none_or(|n| n % 3 > 0) {
                pods_come_and_go(&world, &mut luck);
            }
            let (_, available) = totals(&world);
            prop_assert!(available >= replicas - unavailable, "{} pods available", available);
        }
        finish(&world);
        let sets = world.snapshot.replica_sets.list();
        let serving: Vec<_> = sets.iter().filter(|s| s.spec.as_ref().unwrap().replicas != Some(0)).collect();
        prop_assert_eq!(serving.len(), 1);
        let image = serving[0].spec.as_ref().unwrap().template.as_ref().unwrap().spec.as_ref().unwrap().containers[0].image.clone();
        prop_assert_eq!(image.as_deref(), Some("i:3"));
    }
}
