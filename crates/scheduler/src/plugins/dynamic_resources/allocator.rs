//! Which devices the claims of a pod get on a node (`k8s.io/dynamic-resource-allocation/structured`): the first of all possible
//! choices that fits. Pure. The search is bounded: claims can be written so that it would take for ever.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use kybern_api::core::v1::NodeSelectorRequirement;
use kybern_api::device_taints::{DeviceTaint, selects};
use kybern_api::node_affinity::terms;
use kybern_api::resource::v1::{
    Device, DeviceAttribute, DeviceClass, DeviceRequest, DeviceSelector, DeviceToleration, OpaqueDeviceConfiguration,
    ResourceClaim, ResourceSlice,
};
use kybern_api::resource::v1alpha3::DeviceTaintRule;
use kybern_api::{Object, Quantity as ApiQuantity};
use kybern_apimachinery::quantity::Quantity;
use kybern_apimachinery::{Value, json};
use kybern_cel::devices::{Attribute, Device as Seen};

use super::programs::Programs;
use crate::node::Node;

/// The most devices of one claim.
const RESULTS_MAX: usize = 32;
/// Devices that are tried for one node: upstream gives up after ten seconds. Selectors count by what they cost.
const TRIALS_MAX: u64 = 50_000;
/// The same for all nodes together: nobody else is scheduled meanwhile.
const ALL_TRIALS_MAX: u64 = 500_000;
const COST_OF_TRIAL: u64 = 20;

/// What is left of the search for one pod.
pub(super) struct Patience(Cell<u64>);

impl Default for Patience {
    fn default() -> Self {
        Self(Cell::new(ALL_TRIALS_MAX))
    }
}

/// What is asked for, with the classes that are named.
pub(super) struct Wanted {
    pub(super) claim: Arc<ResourceClaim>,
    /// Of each request its alternatives, of which one is to be met.
    requests: Vec<Vec<Request>>,
}

struct Request {
    /// With the name of the request that it is an alternative of, upstream's `request/alternative`.
    name: String,
    parent: String,
    class: Arc<DeviceClass>,
    selectors: Vec<DeviceSelector>,
    /// `None` for all that there are.
    count: Option<usize>,
    admin: bool,
    tolerations: Vec<DeviceToleration>,
}

impl Wanted {
    /// An error says what cannot be had.
    pub(super) fn of(
        claim: Arc<ResourceClaim>,
        class: &dyn Fn(&str) -> Option<Arc<DeviceClass>>,
    ) -> Result<Self, String> {
        let devices = claim.spec.devices.as_ref();
        let requests = devices.iter().flat_map(|devices| devices.requests.iter().flatten());
        let requests = requests.map(|request| alternatives(&claim, request, class)).collect::<Result<_, _>>()?;
        Ok(Self { claim, requests })
    }
}

fn alternatives(
    claim: &ResourceClaim,
    request: &DeviceRequest,
    class: &dyn Fn(&str) -> Option<Arc<DeviceClass>>,
) -> Result<Vec<Request>, String> {
    let find = |request: &str, name: &str| {
        class(name).ok_or_else(|| format!("request {request}: device class {name} does not exist"))
    };
    let count = |mode: &Option<String>, count: Option<i64>| {
        (mode.as_deref() != Some("All")).then(|| usize::try_from(count.unwrap_or(1)).unwrap_or(1).max(1))
    };
    let parent = request.name.clone();
    if let Some(exactly) = &request.exactly {
        return Ok(vec![Request {
            name: parent.clone(),
            class: find(&parent, &exactly.device_class_name)?,
            parent,
            selectors: exactly.selectors.clone().unwrap_or_default(),
            count: count(&exactly.allocation_mode, exactly.count),
            admin: exactly.admin_access == Some(true),
            tolerations: exactly.tolerations.clone().unwrap_or_default(),
        }]);
    }
    let all = request.first_available.iter().flatten();
    let all: Vec<Request> = all
        .map(|one| {
            let name = format!("{parent}/{}", one.name);
            Ok(Request {
                class: find(&name, &one.device_class_name)?,
                name,
                parent: parent.clone(),
                selectors: one.selectors.clone().unwrap_or_default(),
                count: count(&one.allocation_mode, one.count),
                admin: false,
                tolerations: one.tolerations.clone().unwrap_or_default(),
            })
        })
        .collect::<Result<_, String>>()?;
    match all.is_empty() {
        true => Err(format!("resource claim {}, request {parent}: unknown request type", claim.key())),
        false => Ok(all),
    }
}

/// What names a device everywhere.
pub(crate) fn device_key(driver: &str, pool: &str, device: &str) -> String {
    format!("{driver}/{pool}/{device}")
}

/// A device that a node reaches.
struct Candidate<'a> {
    slice: &'a ResourceSlice,
    device: &'a Device,
    /// What is wrong with its pool.
    invalid: Option<Arc<str>>,
    is_incomplete: bool,
}

impl Candidate<'_> {
    fn key(&self) -> String {
        device_key(&self.slice.spec.driver, &self.slice.spec.pool.name, &self.device.name)
    }
}

/// The devices that a node reaches: of each pool those of its newest generation.
fn candidates<'a>(slices: &'a [Arc<ResourceSlice>], node: &Node) -> Vec<Candidate<'a>> {
    let mut pools: BTreeMap<(&str, &str), Vec<&ResourceSlice>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| reaches(slice, node)) {
        let pool = pools.entry((&slice.spec.driver, &slice.spec.pool.name)).or_default();
        match pool.first().map(|known| known.spec.pool.generation.cmp(&slice.spec.pool.generation)) {
            Some(std::cmp::Ordering::Greater) => continue,
            Some(std::cmp::Ordering::Less) => pool.clear(),
            _ => {}
        }
        pool.push(slice);
    }
    let mut found = Vec::new();
    for ((_, pool), mut slices) in pools {
        slices.sort_by_key(|slice| slice.name());
        let is_incomplete = i64::try_from(slices.len()) != Ok(slices[0].spec.pool.resource_slice_count);
        let devices =
            || slices.iter().flat_map(|slice| slice.spec.devices.iter().flatten().map(|device| (*slice, device)));
        let mut names = HashSet::new();
        let twice = devices().find(|(_, device)| !names.insert(device.name.as_str()));
        let invalid =
            twice.map(|(_, d)| Arc::from(format!("pool {pool} is invalid: duplicate device name {}", d.name)));
        found.extend(devices().map(|(slice, device)| Candidate {
            slice,
            device,
            invalid: invalid.clone(),
            is_incomplete,
        }));
    }
    found
}

fn reaches(slice: &ResourceSlice, node: &Node) -> bool {
    let spec = &slice.spec;
    match (spec.node_name.as_deref().filter(|name| !name.is_empty()), spec.all_nodes, &spec.node_selector) {
        // Which nodes each device reaches is for a feature that is off.
        _ if spec.per_device_node_selection.is_some() => false,
        (Some(name), ..) => *name == *node.name,
        (None, Some(true), _) => true,
        (None, _, Some(selector)) => terms(selector).iter().any(|term| term.matches(&node.name, &node.labels)),
        (None, _, None) => false,
    }
}

/// Where the search is: the `nth` device of an alternative of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    claim: usize,
    request: usize,
    alternative: usize,
    nth: usize,
}

struct Step {
    place: Place,
    /// The candidate to be tried next.
    next: usize,
    chosen: Option<usize>,
}

/// A search for one node.
struct Search<'a> {
    wanted: &'a [Wanted],
    candidates: Vec<Candidate<'a>>,
    in_use: &'a dyn Fn(&str) -> bool,
    /// `None` where taints count for nothing, else the rules that put some on devices.
    taints: Option<&'a [Arc<DeviceTaintRule>]>,
    programs: &'a Programs,
    patience: &'a Patience,
    trials: u64,
    /// Of each candidate whether it is in use, once that was asked.
    used: Vec<Option<bool>>,
    matches: HashMap<(usize, usize, usize, usize), bool>,
    steps: Vec<Step>,
}

/// The allocations of the claims, in their order; `None` where the node has not what is asked for.
pub(super) fn allocate(
    wanted: &[Wanted],
    slices: &[Arc<ResourceSlice>],
    node: &Node,
    in_use: &dyn Fn(&str) -> bool,
    taints: Option<&[Arc<DeviceTaintRule>]>,
    programs: &Programs,
    patience: &Patience,
) -> Result<Option<Vec<Value>>, String> {
    let candidates = candidates(slices, node);
    let (matches, steps, used) = (HashMap::new(), Vec::new(), vec![None; candidates.len()]);
    let mut search = Search { wanted, candidates, in_use, taints, programs, patience, trials: 0, used, matches, steps };
    let found = search.run()?;
    Ok(found.then(|| (0..wanted.len()).map(|claim| search.result(claim)).collect()))
}

impl Search<'_> {
    fn run(&mut self) -> Result<bool, String> {
        let Some(first) = self.from(0, 0) else { return Ok(true) };
        self.steps.push(Step { place: first, next: 0, chosen: None });
        while let Some(mut step) = self.steps.pop() {
            step.chosen = None;
            let chosen = self.choose(&mut step)?;
            if chosen.is_none() {
                let alternatives = &self.wanted[step.place.claim].requests[step.place.request];
                if step.place.nth == 0 && step.place.alternative + 1 < alternatives.len() {
                    step.place.alternative += 1;
                    step.next = 0;
                    self.steps.push(step);
                }
                // Else back to the one before, which takes its next.
                continue;
            }
            step.chosen = chosen;
            let place = step.place;
            self.steps.push(step);
            let after = match place.nth + 1 < self.count(place)? {
                true => Some(Place { nth: place.nth + 1, ..place }),
                false => self.from(place.claim, place.request + 1),
            };
            let Some(place) = after else { return Ok(true) };
            self.steps.push(Step { place, next: 0, chosen: None });
        }
        Ok(false)
    }

    /// The first place at or after a request.
    fn from(&self, claim: usize, request: usize) -> Option<Place> {
        let at = |claim, request| Place { claim, request, alternative: 0, nth: 0 };
        if request < self.wanted.get(claim)?.requests.len() {
            return Some(at(claim, request));
        }
        let next = (claim + 1..self.wanted.len()).find(|claim| !self.wanted[*claim].requests.is_empty())?;
        Some(at(next, 0))
    }

    fn request(&self, place: Place) -> &Request {
        &self.wanted[place.claim].requests[place.request][place.alternative]
    }

    fn count(&mut self, place: Place) -> Result<usize, String> {
        match self.request(place).count {
            Some(count) => Ok(count),
            None => Ok(self.all(place)?.len()),
        }
    }

    /// All devices that a request selects.
    fn all(&mut self, place: Place) -> Result<Vec<usize>, String> {
        let mut all = Vec::new();
        for at in 0..self.candidates.len() {
            let (candidate, asks) = (&self.candidates[at], "asks for all devices, but resource pool");
            let pool = || format!("{}/{}", candidate.slice.spec.driver, candidate.slice.spec.pool.name);
            let cause = match (candidate.is_incomplete, &candidate.invalid) {
                (true, _) => Some("being updated"),
                (_, Some(_)) => Some("invalid"),
                _ => None,
            };
            if let Some(cause) = cause {
                let (claim, request) = (self.wanted[place.claim].claim.key(), &self.request(place).name);
                return Err(format!("claim {claim}, request {request}: {asks} {} is currently {cause}", pool()));
            }
            if self.is_selected(place, at)? {
                all.push(at);
            }
        }
        Ok(all)
    }

    /// The next device that can be had at a place.
    fn choose(&mut self, step: &mut Step) -> Result<Option<usize>, String> {
        let place = step.place;
        let count = self.count(place)?;
        let taken = self.chosen(place.claim).count();
        if taken + count - place.nth.min(count) > RESULTS_MAX || count == 0 {
            return Ok(None);
        }
        if self.request(place).count.is_none() {
            // In which order they are taken does not matter.
            let at = self.all(place)?[place.nth];
            let is_first = std::mem::replace(&mut step.next, usize::MAX) == 0;
            if !is_first || !self.is_free(place, at) || !self.is_tolerated(place, at) {
                return Ok(None);
            }
            if !self.keeps_constraints(place, at) {
                let (claim, request) = (self.wanted[place.claim].claim.key(), &self.request(place).name);
                let device = self.candidates[at].key();
                return Err(format!(
                    "claim {claim}, request {request}: cannot add device {device} because a claim constraint would not be \
                     satisfied"
                ));
            }
            return Ok(Some(at));
        }
        for at in step.next..self.candidates.len() {
            self.spend(1)?;
            if let Some(cause) = &self.candidates[at].invalid {
                return Err(cause.to_string());
            }
            if self.is_free(place, at)
                && self.is_selected(place, at)?
                && self.is_tolerated(place, at)
                && self.keeps_constraints(place, at)
            {
                step.next = at + 1;
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    fn spend(&mut self, trials: u64) -> Result<(), String> {
        self.trials += trials;
        let left = self.patience.0.get().checked_sub(trials);
        self.patience.0.set(left.unwrap_or(0));
        match left {
            Some(_) if self.trials <= TRIALS_MAX => Ok(()),
            _ => Err("timed out trying to allocate devices".to_owned()),
        }
    }

    fn chosen(&self, claim: usize) -> impl Iterator<Item = (Place, usize)> + '_ {
        let chosen = self.steps.iter().filter_map(|step| Some((step.place, step.chosen?)));
        chosen.filter(move |(place, _)| place.claim == claim)
    }

    fn is_free(&mut self, place: Place, at: usize) -> bool {
        let device = self.candidates[at].device;
        // Those that count or wait for something belong to features that are off.
        if device.consumes_counters.as_ref().is_some_and(|counters| !counters.is_empty()) {
            return false;
        }
        if self.request(place).admin {
            return self.chosen(place.claim).all(|(_, other)| other != at);
        }
        if self.steps.iter().any(|step| step.chosen == Some(at)) {
            return false;
        }
        let (candidates, in_use) = (&self.candidates, self.in_use);
        !*self.used[at].get_or_insert_with(|| in_use(&candidates[at].key()))
    }

    fn is_selected(&mut self, place: Place, at: usize) -> Result<bool, String> {
        let key = (place.claim, place.request, place.alternative, at);
        if let Some(known) = self.matches.get(&key) {
            return Ok(*known);
        }
        let (request, candidate) = (self.request(place), &self.candidates[at]);
        let seen = seen(candidate);
        let class = request.class.spec.selectors.iter().flatten().map(|selector| (true, selector));
        let mut selectors = class.chain(request.selectors.iter().map(|selector| (false, selector)));
        let mut is_selected = candidate.device.binding_conditions.as_ref().is_none_or(Vec::is_empty);
        let (mut number, mut cost) = ([0, 0], 0);
        while let Some((of_class, selector)) = selectors.next().filter(|_| is_selected) {
            let expression = selector.cel.as_ref().map_or("false", |cel| cel.expression.as_str());
            let owner = || match of_class {
                true => format!("class {}: selector #{}", request.class.name(), number[0]),
                false => format!("claim {}: selector #{}", self.wanted[place.claim].claim.key(), number[1]),
            };
            let program = self.programs.get(expression).map_err(|e| format!("{}: CEL compile error: {e}", owner()))?;
            let told = seen.is_selected_by(&program).map_err(|e| format!("{}: CEL runtime error: {e}", owner()))?;
            is_selected = told.0;
            cost += told.1;
            number[usize::from(!of_class)] += 1;
        }
        self.matches.insert(key, is_selected);
        self.spend(cost / COST_OF_TRIAL)?;
        Ok(is_selected)
    }

    /// Whether a request bears all taints of a device.
    fn is_tolerated(&self, place: Place, at: usize) -> bool {
        let Some(rules) = self.taints else { return true };
        let (candidate, tolerations) = (&self.candidates[at], &self.request(place).tolerations);
        let (spec, device) = (&candidate.slice.spec, candidate.device);
        let ruled = rules.iter().filter(|rule| selects(rule, &spec.driver, &spec.pool.name, &device.name));
        let published = device.taints.iter().flatten().map(DeviceTaint::of_driver);
        let mut taints = published.chain(ruled.map(|rule| DeviceTaint::of_rule(rule)));
        taints.all(|taint| taint.effect == "None" || tolerations.iter().any(|t| taint.is_tolerated(t)))
    }

    /// Whether all devices that a constraint is about share an attribute.
    fn keeps_constraints(&self, place: Place, at: usize) -> bool {
        let devices = self.wanted[place.claim].claim.spec.devices.as_ref();
        let mut constraints = devices.iter().flat_map(|devices| devices.constraints.iter().flatten());
        constraints.all(|constraint| {
            let Some(attribute) = &constraint.match_attribute else { return false };
            let requests = constraint.requests.as_deref().unwrap_or_default();
            let concerns = |place: Place| {
                let request = self.request(place);
                requests.is_empty() || requests.iter().any(|name| *name == request.name || *name == request.parent)
            };
            if !concerns(place) {
                return true;
            }
            let Some(own) = attribute_of(&self.candidates[at], attribute) else { return false };
            let other = self.chosen(place.claim).find(|(place, _)| concerns(*place));
            other.is_none_or(|(_, other)| attribute_of(&self.candidates[other], attribute) == Some(own))
        })
    }

    /// What is written into a claim's status.
    fn result(&self, claim: usize) -> Value {
        let chosen: Vec<(Place, usize)> = self.chosen(claim).collect();
        let results: Vec<Value> = chosen
            .iter()
            .map(|(place, at)| {
                let (request, candidate) = (self.request(*place), &self.candidates[*at]);
                let spec = &candidate.slice.spec;
                let mut result = json!({
                    "request": request.name, "driver": spec.driver, "pool": spec.pool.name, "device": candidate.device.name,
                });
                if request.admin {
                    result["adminAccess"] = true.into();
                }
                // Whoever evicts reads there what is borne.
                if self.taints.is_some() && !request.tolerations.is_empty() {
                    result["tolerations"] = request.tolerations.iter().map(toleration).collect();
                }
                result
            })
            .collect();
        let mut allocation = json!({"devices": {"results": results}});
        let config = self.config(claim, &chosen);
        if !config.is_empty() {
            allocation["devices"]["config"] = config.into();
        }
        if let Some(selector) = node_selector(chosen.iter().map(|(_, at)| self.candidates[*at].slice)) {
            allocation["nodeSelector"] = selector;
        }
        allocation
    }

    /// What the drivers are told: by the classes, then by the claim.
    fn config(&self, claim: usize, chosen: &[(Place, usize)]) -> Vec<Value> {
        let opaque = |source: &str, requests: &[String], opaque: &Option<OpaqueDeviceConfiguration>| {
            let mut config = json!({"source": source});
            if !requests.is_empty() {
                config["requests"] = requests.into();
            }
            if let Some(opaque) = opaque {
                config["opaque"] = json!({"driver": opaque.driver, "parameters": opaque.parameters.0});
            }
            config
        };
        let mut asked: Vec<&Request> = Vec::new();
        for (place, _) in chosen.iter().filter(|(place, _)| place.nth == 0) {
            asked.push(self.request(*place));
        }
        let classes = asked.iter().flat_map(|request| request.class.spec.config.iter().flatten());
        let mut all: Vec<Value> = classes.map(|config| opaque("FromClass", &[], &config.opaque)).collect();
        let devices = self.wanted[claim].claim.spec.devices.as_ref();
        for config in devices.iter().flat_map(|devices| devices.config.iter().flatten()) {
            let requests = config.requests.as_deref().unwrap_or_default();
            let concerns =
                |request: &&Request| requests.iter().any(|name| *name == request.name || *name == request.parent);
            if requests.is_empty() || asked.iter().any(concerns) {
                all.push(opaque("FromClaim", requests, &config.opaque));
            }
        }
        all
    }
}

fn toleration(toleration: &DeviceToleration) -> Value {
    let mut written = json!({});
    let texts = [
        ("effect", &toleration.effect),
        ("key", &toleration.key),
        ("operator", &toleration.operator),
        ("value", &toleration.value),
    ];
    for (field, text) in texts.into_iter().filter_map(|(field, text)| Some((field, text.as_ref()?))) {
        written[field] = text.as_str().into();
    }
    if let Some(seconds) = toleration.toleration_seconds {
        written["tolerationSeconds"] = seconds.into();
    }
    written
}

fn seen<'a>(candidate: &Candidate<'a>) -> Seen<'a> {
    let attribute = |(name, of): (&'a String, &'a DeviceAttribute)| {
        let of = of.string.as_deref().map(Attribute::String).or_else(|| {
            let version = of.version.as_deref().map(Attribute::Version);
            version.or_else(|| of.int.map(Attribute::Int)).or_else(|| of.bool.map(Attribute::Bool))
        });
        Some((name.as_str(), of?))
    };
    let quantity = |quantity: &ApiQuantity| Quantity::parse(&quantity.0).ok();
    let capacity = candidate.device.capacity.iter().flatten();
    Seen {
        driver: &candidate.slice.spec.driver,
        attributes: candidate.device.attributes.iter().flatten().filter_map(attribute).collect(),
        capacity: capacity.filter_map(|(name, of)| Some((name.as_str(), quantity(&of.value)?))).collect(),
    }
}

/// An attribute by its full name; that of the driver's own domain may be written without it.
fn attribute_of<'a>(candidate: &Candidate<'a>, name: &str) -> Option<&'a DeviceAttribute> {
    let attributes = candidate.device.attributes.as_ref()?;
    let own = || name.strip_prefix(candidate.slice.spec.driver.as_str())?.strip_prefix('/');
    attributes.get(name).or_else(|| attributes.get(own()?))
}

/// The nodes that reach all of the devices; `None` for all nodes.
fn node_selector<'a>(slices: impl Iterator<Item = &'a ResourceSlice>) -> Option<Value> {
    let written = |r: &NodeSelectorRequirement| {
        let mut requirement = json!({"key": r.key, "operator": r.operator});
        if let Some(values) = &r.values {
            requirement["values"] = values.clone().into();
        }
        requirement
    };
    let mut term: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for slice in slices {
        if let Some(name) = slice.spec.node_name.as_deref().filter(|name| !name.is_empty()) {
            let own = json!({"key": "metadata.name", "operator": "In", "values": [name]});
            return Some(json!({"nodeSelectorTerms": [{"matchFields": [own]}]}));
        }
        for part in slice.spec.node_selector.iter().flat_map(|selector| &selector.node_selector_terms) {
            for (field, requirements) in
                [("matchFields", &part.match_fields), ("matchExpressions", &part.match_expressions)]
            {
                for requirement in requirements.iter().flatten().map(written) {
                    let known = term.entry(field).or_default();
                    if !known.contains(&requirement) {
                        known.push(requirement);
                    }
                }
            }
        }
    }
    (!term.is_empty()).then(|| json!({"nodeSelectorTerms": [term]}))
}
