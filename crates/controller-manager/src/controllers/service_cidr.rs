//! `service-cidr`: ranges of Services say that they are ready, and stay while addresses of them are in use
//! (`pkg/controller/servicecidrs`).

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use kybern_api::meta::v1::{Condition, Time};
use kybern_api::networking::v1::{IPAddress, ServiceCIDR};
use kybern_api::{Object, condition};
use kybern_client::Change;

use crate::controller::{Context, Controller, Op, Plan};
use crate::protection::{self, Step};
use crate::snapshot::Snapshot;
use crate::watches::Watches;

pub const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const READY: &str = "Ready";
/// So long after its deletion a range may still be given from by a server that has not heard of it.
const GRACE: SignedDuration = SignedDuration::from_secs(10);
/// Of addresses, who made them, and of those that count.
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";

pub struct ServiceCidrController;

impl Controller for ServiceCidrController {
    fn name(&self) -> &'static str {
        "service-cidr-controller"
    }

    fn account(&self) -> &'static str {
        "service-cidrs-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.when_missed(&snapshot.service_cidrs);
        // One that comes may take over the addresses of those that go.
        watches.on(&snapshot.service_cidrs, |change, snapshot| {
            let leaving = leaving(snapshot).map(|range| range.key());
            leaving.chain([change.object().key()]).collect()
        });
        watches.on(&snapshot.ip_addresses, ranges_of);
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        let Some(range) = snapshot.service_cidrs.get(key) else { return Plan::idle() };
        let mut new = (*range).clone();
        match protection::step(&range.metadata, FINALIZER) {
            Step::Protect => protection::protect(&mut new.metadata, FINALIZER),
            Step::Nothing if range.is_deleting() => return Plan::idle(),
            Step::Nothing => return say(&range, "True", "", "Kubernetes Service CIDR is ready", context.now),
            Step::ReleaseIfUnused if is_needed(&range, snapshot) => {
                let why = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new \
                           ServiceCIDR";
                return say(&range, "False", "Terminating", why, context.now);
            }
            Step::ReleaseIfUnused => {
                let deleted = range.metadata.deletion_timestamp.as_ref().map_or(context.now, |time| time.0);
                let end = deleted.checked_add(GRACE).unwrap_or(Timestamp::MAX);
                if end > context.now {
                    let mut plan = Plan::idle();
                    plan.requeue_at(end, context.now);
                    return plan;
                }
                protection::release(&mut new.metadata, FINALIZER);
            }
        }
        Plan::of(vec![Op::update(&new)])
    }
}

fn leaving(snapshot: &Snapshot) -> impl Iterator<Item = std::sync::Arc<ServiceCIDR>> {
    snapshot.service_cidrs.list().into_iter().filter(|range| range.is_deleting())
}

/// The ranges that wait for an address to go.
fn ranges_of(change: &Change<IPAddress>, snapshot: &Snapshot) -> Vec<String> {
    let Some(ip) = counted(change.object()).filter(|_| change.old.is_none() || change.is_removal()) else {
        return Vec::new();
    };
    leaving(snapshot).filter(|range| contains(range, ip)).map(|range| range.key()).collect()
}

fn counted(address: &IPAddress) -> Option<IpAddr> {
    let is_ours = address.labels().and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == ALLOCATOR);
    address.name().parse().ok().filter(|_| is_ours)
}

fn contains(range: &ServiceCIDR, ip: IpAddr) -> bool {
    let cidrs = range.spec.as_ref().and_then(|spec| spec.cidrs.as_ref()).into_iter().flatten();
    cidrs.filter_map(|cidr| cidr.parse::<IpNet>().ok()).any(|net| net.contains(&ip))
}

/// Whether an address of the range is in none that stays.
fn is_needed(range: &ServiceCIDR, snapshot: &Snapshot) -> bool {
    let others: Vec<_> = snapshot.service_cidrs.list().into_iter().filter(|other| !other.is_deleting()).collect();
    let addresses = snapshot.ip_addresses.list();
    let mut inside = addresses.iter().filter_map(|a| counted(a)).filter(|ip| contains(range, *ip));
    inside.any(|ip| !others.iter().any(|other| contains(other, ip)))
}

fn say(range: &ServiceCIDR, status: &str, reason: &str, message: &str, now: Timestamp) -> Plan {
    let mut new = range.clone();
    let conditions = &mut new.status.get_or_insert_default().conditions;
    if condition::find(conditions, READY).is_some_and(|ready| ready.status == status) {
        return Plan::idle();
    }
    let ready = Condition {
        type_: READY.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: None,
        last_transition_time: Time(now),
    };
    condition::set(conditions, ready);
    Plan::of(vec![Op::update_status(&new)])
}

#[cfg(test)]
mod tests {
    use kybern_api::meta::v1::ObjectMeta;
    use kybern_api::networking::v1::ServiceCIDRSpec;

    use super::*;
    use crate::testing::{NOW, World, at, labels, meta, status_of, updated};

    /// A range that is protected, and was deleted so many seconds ago.
    fn range(name: &str, cidrs: &[&str], deleted: Option<i64>) -> ServiceCIDR {
        let metadata = ObjectMeta {
            namespace: None,
            finalizers: Some(vec![FINALIZER.into()]),
            deletion_timestamp: deleted.map(|ago| Time(at(NOW - ago))),
            ..meta(name)
        };
        let cidrs = Some(cidrs.iter().map(|cidr| (*cidr).to_owned()).collect());
        ServiceCIDR { metadata, spec: Some(ServiceCIDRSpec { cidrs }), status: None }
    }

    fn address(ip: &str, manager: &str) -> IPAddress {
        let metadata = ObjectMeta { namespace: None, labels: Some(labels(&[(MANAGED_BY, manager)])), ..meta(ip) };
        IPAddress { metadata, ..IPAddress::default() }
    }

    fn run(world: &World) -> Plan {
        world.reconcile(&ServiceCidrController, "extra")
    }

    fn ready(plan: &Plan) -> Option<(String, String)> {
        let conditions = status_of::<ServiceCIDR>(plan)?.status?.conditions?;
        Some((conditions[0].status.clone(), conditions[0].reason.clone()))
    }

    #[test]
    fn a_range_is_protected_and_then_ready() {
        let world = World::new();
        let mut new = range("extra", &["10.1.0.0/24"], None);
        new.metadata.finalizers = None;
        world.writers.service_cidrs.upsert(new);
        let protected = updated::<ServiceCIDR>(&run(&world)).remove(0);
        assert_eq!(protected.metadata.finalizers, Some(vec![FINALIZER.to_owned()]));
        world.writers.service_cidrs.upsert(protected);
        let plan = run(&world);
        assert_eq!(ready(&plan), Some(("True".into(), String::new())));
        world.writers.service_cidrs.upsert(status_of::<ServiceCIDR>(&plan).unwrap());
        assert!(run(&world).ops.is_empty());
    }

    #[test]
    fn a_range_stays_while_it_alone_has_addresses_in_use() {
        // Other ranges with whether they are deleted, addresses with their makers; whether it stays.
        type Ranges = &'static [(&'static str, bool)];
        type Addresses = &'static [(&'static str, &'static str)];
        let table: [(Ranges, Addresses, bool); 8] = [
            (&[], &[], false),
            (&[], &[("10.1.0.5", ALLOCATOR)], true),
            (&[], &[("10.1.1.5", ALLOCATOR)], false),
            (&[], &[("10.1.0.5", "somebody")], false),
            (&[("10.1.0.0/16", false)], &[("10.1.0.5", ALLOCATOR)], false),
            (&[("10.1.0.0/16", true)], &[("10.1.0.5", ALLOCATOR)], true),
            (&[("10.1.0.0/25", false)], &[("10.1.0.5", ALLOCATOR), ("10.1.0.200", ALLOCATOR)], true),
            (&[("10.1.0.0/16", false)], &[("fd00::5", ALLOCATOR)], true),
        ];
        for (others, addresses, stays) in table {
            let world = World::new();
            world.writers.service_cidrs.upsert(range("extra", &["10.1.0.0/24", "fd00::/112"], Some(60)));
            for (i, (cidr, is_deleted)) in others.iter().enumerate() {
                let deleted = is_deleted.then_some(60);
                world.writers.service_cidrs.upsert(range(&format!("other{i}"), &[cidr], deleted));
            }
            addresses.iter().for_each(|(ip, manager)| world.writers.ip_addresses.upsert(address(ip, manager)));
            let plan = run(&world);
            let terminating = Some(("False".to_owned(), "Terminating".to_owned()));
            assert_eq!(ready(&plan), terminating.filter(|_| stays), "{others:?} {addresses:?}");
            let released = updated::<ServiceCIDR>(&plan);
            let is_released = released.first().is_some_and(|range| range.metadata.finalizers == Some(Vec::new()));
            assert_eq!(is_released, !stays, "{others:?} {addresses:?}");
            // Addresses that come and go bring back the range that waits for them.
            for (ip, manager) in addresses {
                let change = Change { old: Some(std::sync::Arc::new(address(ip, manager))), new: None };
                let woken = ranges_of(&change, &world.snapshot).contains(&"extra".to_owned());
                assert_eq!(woken, *manager == ALLOCATOR && !ip.starts_with("10.1.1"), "{ip}");
            }
        }
    }

    #[test]
    fn servers_have_time_to_hear_of_a_deletion() {
        let world = World::new();
        world.writers.service_cidrs.upsert(range("extra", &["10.1.0.0/24"], Some(4)));
        let plan = run(&world);
        assert_eq!((plan.ops.len(), plan.requeue_after.unwrap().as_secs()), (0, 6));
    }
}
