//! Sets under every order in which their pods start, fail and end.

use kybern_api::IntOrString;
use kybern_api::apps::v1::StatefulSetOrdinals;
use proptest::prelude::*;

use super::tests::{Fate, apply, befall, change, images, rolling, run, settle, status_now, world};
use super::*;
use crate::controller::Op;
use crate::testing::{World, created, flat, template};

/// Each pod starts, fails, ends, or stays what it is.
fn pods_come_and_go(world: &World, luck: &mut impl Iterator<Item = u8>) {
    for pod in world.snapshot.pods.list() {
        let luck = luck.next().unwrap_or(1) % 8;
        let fate = match (pod.is_deleting(), luck) {
            (true, 0..4) => Fate::Gone,
            (false, _) if crate::pods::is_finished(&pod) => continue,
            (false, 0..4) => Fate::Ready,
            (false, 4) => Fate::Unready,
            (false, 5) => Fate::Failed,
            _ => continue,
        };
        befall(world, pod.name(), fate);
    }
}

/// What a plan may do, whatever comes.
fn check(world: &World, plan: &Plan, in_order: bool, limit: i32) -> Result<(), TestCaseError> {
    let up = |name: &str| {
        let pod = world.snapshot.pods.get_in("default", name);
        pod.is_some_and(|pod| super::status::is_running_and_ready(&pod) && !pod.is_deleting())
    };
    let set = world.snapshot.stateful_sets.get(super::tests::KEY).unwrap();
    let spec = set.spec.as_ref().unwrap();
    let start = i64::from(spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0));
    let end = start + i64::from(spec.replicas.unwrap());
    let mut claims: Vec<String> = world.snapshot.claims.list().iter().map(|c| c.name().to_owned()).collect();
    let (mut deletions, mut voluntary) = (Vec::new(), 0);
    for op in flat(plan) {
        match op {
            Op::Create { gvr, body, .. } if *gvr == PersistentVolumeClaim::gvr() => {
                claims.push(PersistentVolumeClaim::from_json(body).unwrap().name().to_owned());
            }
            Op::Create { gvr, body, .. } if *gvr == Pod::gvr() => {
                let pod = Pod::from_json(body).unwrap();
                let has_claim = claims.contains(&format!("www-{}", pod.name()));
                prop_assert!(has_claim, "a pod before its claim");
                let ordinal = identity::ordinal("web", &pod).unwrap();
                prop_assert!((start..end).contains(&ordinal));
                let before = (start..ordinal).all(|ordinal| up(&identity::pod_name(&set, ordinal)));
                prop_assert!(!in_order || before, "{} before those before it", pod.name());
            }
            Op::Delete { gvr, name, .. } if *gvr == Pod::gvr() => {
                prop_assert!(!deletions.contains(name), "twice: {}", name);
                let ordinal = identity::parse(name).unwrap().1;
                let last = world.snapshot.pods.list().iter().filter_map(|p| identity::ordinal("web", p)).max();
                // One too many goes from the end, when all that stay are up.
                if in_order && ordinal >= end {
                    prop_assert_eq!(Some(ordinal), last);
                    let all = (start..end).all(|ordinal| up(&identity::pod_name(&set, ordinal)));
                    prop_assert!(all, "{} goes before all that stay are up", name);
                }
                voluntary += i32::from((start..end).contains(&ordinal) && up(name));
                deletions.push(name.clone());
            }
            _ => {}
        }
    }
    prop_assert!(voluntary <= limit, "{} pods that serve go", voluntary);
    prop_assert!(!in_order || created::<Pod>(plan).len() <= 1);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_pod_of_each_ordinal_in_order_and_in_the_end_all(
        sizes in prop::collection::vec(0..6_i32, 2),
        (start, moved_to) in (0..3_i32, 0..3_i32),
        in_order in any::<bool>(),
        partition in 0..4_i32,
        limit in prop::option::of(1..4_i32),
        luck in prop::collection::vec(any::<u8>(), 0..240),
        (update_at, scale_at) in (0..20_usize, 0..20_usize),
    ) {
        let world = world(sizes[0], |spec| {
            spec.pod_management_policy = Some(if in_order { "OrderedReady" } else { "Parallel" }.into());
            spec.ordinals = Some(StatefulSetOrdinals { start: Some(start) });
            rolling(spec).max_unavailable = limit.map(IntOrString::Int);
        });
        let mut luck = luck.into_iter();
        for step in 0..30 {
            if step == update_at {
                change(&world, |spec| {
                    spec.template = template("web", "i:2");
                    rolling(spec).partition = Some(partition);
                });
            }
            if step == scale_at {
                change(&world, |spec| {
                    spec.replicas = Some(sizes[1]);
                    spec.ordinals = Some(StatefulSetOrdinals { start: Some(moved_to) });
                });
            }
            let plan = run(&world);
            check(&world, &plan, in_order, limit.unwrap_or(1))?;
            apply(&world, &plan);
            pods_come_and_go(&world, &mut luck);
        }
        settle(&world);
        let range = moved_to..moved_to + sizes[1];
        prop_assert_eq!(images(&world).len(), range.len());
        for (have, ordinal) in images(&world).into_iter().zip(range) {
            // Below the partition a pod keeps what it has; one that an update reached before stays updated.
            let is_it = have.starts_with(&format!("web-{ordinal} "));
            prop_assert!(is_it, "{}", have);
            prop_assert!(ordinal < moved_to + partition || have.ends_with("i:2"), "{}", have);
        }
        prop_assert_eq!(status_now(&world).replicas, sizes[1]);
        prop_assert!(run(&world).ops.is_empty(), "planned after convergence");
    }
}
