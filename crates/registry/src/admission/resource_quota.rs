//! `ResourceQuota`: a write is charged to the quotas of its namespace in its own transaction, so that what they hold is never
//! exceeded, however many servers share a store. What is given back is counted by the quota controller.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use kybern_apimachinery::time::Clock;
use kybern_apimachinery::{ApiError, Reason, Value, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};
use kybern_apiserver::connect::{ObjectsSlot, Observer};
use kybern_apiserver::transaction::{CommitStep, StepError};
use kybern_quota::{Amounts, Evaluator, Limited, Refusal, Request, charge, to_json};
use kybern_storage::{Guard, Txn, Write};
use parking_lot::RwLock;
use tokio::sync::{Mutex, OwnedMutexGuard};

const RESOURCE: (&str, &str) = ("", "resourcequotas");
/// Locks that namespaces share: within one server, a namespace's charges come one after the other.
const TURNS: usize = 64;

type OfNamespace = BTreeMap<String, Arc<Value>>;

/// The quotas by namespace.
#[derive(Default)]
pub(super) struct Quotas(RwLock<HashMap<String, OfNamespace>>);

impl Observer for Quotas {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[RESOURCE]
    }

    fn changed(&self, _group: &str, _resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        let mut all = self.0.write();
        match object {
            Some(quota) => {
                all.entry(namespace.to_owned()).or_default().insert(name.to_owned(), Arc::new(quota.clone()));
            }
            None => {
                if let Some(quotas) = all.get_mut(namespace) {
                    quotas.remove(name);
                    if quotas.is_empty() {
                        all.remove(namespace);
                    }
                }
            }
        }
    }
}

impl Quotas {
    fn of(&self, namespace: &str) -> Vec<Arc<Value>> {
        self.0.read().get(namespace).map(|quotas| quotas.values().cloned().collect()).unwrap_or_default()
    }
}

pub(super) struct ResourceQuota {
    quotas: Arc<Quotas>,
    objects: ObjectsSlot,
    clock: Arc<dyn Clock>,
    limited: Arc<[Limited]>,
    turns: Vec<Arc<Mutex<()>>>,
}

impl ResourceQuota {
    pub(super) fn new(quotas: Arc<Quotas>, objects: ObjectsSlot, clock: Arc<dyn Clock>, limited: Vec<Limited>) -> Self {
        Self { quotas, objects, clock, limited: limited.into(), turns: (0..TURNS).map(|_| Arc::default()).collect() }
    }

    fn turn(&self, namespace: &str) -> Arc<Mutex<()>> {
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        let index = hasher.finish() % self.turns.len() as u64;
        self.turns[usize::try_from(index).unwrap_or(0)].clone()
    }

    /// Refuses what there is no room for, and adds the charge of what changes a quota.
    fn check(&self, request: &AdmissionRequest<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        let gvr = &request.resource.gvr;
        let is_namespace = gvr.group.is_empty() && gvr.resource == "namespaces";
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        let Some(object) = object.filter(|_| writes && !request.namespace.is_empty() && !is_namespace) else {
            return Ok(());
        };
        let quotas = self.quotas.of(request.namespace);
        if quotas.is_empty() && self.limited.is_empty() {
            return Ok(());
        }
        let old = request.old.filter(|_| request.operation == Operation::Update);
        let evaluator =
            Evaluator::of(&gvr.group, &gvr.resource).filter(|e| e.handles(request.subresource, object, old));
        let Some(evaluator) = evaluator else { return Ok(()) };
        let question = Question {
            evaluator,
            group: gvr.group.clone(),
            resource: gvr.resource.clone(),
            subresource: request.subresource.to_owned(),
            named: request.named(Some(object)).to_owned(),
            object: object.clone(),
            old: old.cloned(),
            limited: self.limited.clone(),
        };
        let quotas: Vec<&Value> = quotas.iter().map(|quota| &**quota).collect();
        let charged = question.ask(&quotas, &*self.clock)?;
        if request.dry_run || charged.iter().all(Option::is_none) {
            return Ok(());
        }
        request.transaction.at_commit(Charge {
            question,
            namespace: request.namespace.to_owned(),
            quotas: self.quotas.clone(),
            objects: self.objects.clone(),
            clock: self.clock.clone(),
            turn: self.turn(request.namespace),
            held: None,
        });
        Ok(())
    }
}

/// What is asked of the quotas as they are.
struct Question {
    evaluator: Evaluator,
    group: String,
    resource: String,
    subresource: String,
    named: String,
    object: Value,
    old: Option<Value>,
    limited: Arc<[Limited]>,
}

impl Question {
    fn ask(&self, quotas: &[&Value], clock: &dyn Clock) -> Result<Vec<Option<Amounts>>, ApiError> {
        let request = Request {
            evaluator: &self.evaluator,
            group: &self.group,
            resource: &self.resource,
            subresource: &self.subresource,
            object: &self.object,
            old: self.old.as_ref(),
            now: clock.now(),
        };
        charge(quotas, &request, &self.limited).map_err(|refusal| match refusal {
            Refusal::Forbidden(cause) => {
                let resource = kybern_apimachinery::GroupResource::new(self.group.as_str(), self.resource.as_str());
                ApiError::forbidden(&resource, &self.named, &cause)
            }
            Refusal::Fault(text) => ApiError::new(Reason::Unknown, text),
        })
    }
}

/// Charges the quotas as they are when the write is committed.
struct Charge {
    question: Question,
    namespace: String,
    quotas: Arc<Quotas>,
    objects: ObjectsSlot,
    clock: Arc<dyn Clock>,
    turn: Arc<Mutex<()>>,
    held: Option<OwnedMutexGuard<()>>,
}

impl CommitStep for Charge {
    fn run<'a>(&'a mut self, txn: &'a mut Txn) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async move {
            self.held = Some(self.turn.clone().lock_owned().await);
            let (group, resource) = RESOURCE;
            let objects = self.objects.get()?;
            let mut found = Vec::new();
            for quota in self.quotas.of(&self.namespace) {
                found.extend(objects.current(group, resource, &self.namespace, object::name(&quota)).await?);
            }
            let quotas: Vec<&Value> = found.iter().map(|(quota, _)| quota).collect();
            let charged = self.question.ask(&quotas, &*self.clock)?;
            for ((quota, stored), used) in found.iter().zip(charged) {
                let Some(used) = used else { continue };
                let mut after = quota.clone();
                object::set(&mut after, &["status", "used"], to_json(&used));
                let value = objects.with_status(group, resource, quota, after).await?;
                txn.guards.push(Guard::At(stored.key.clone(), stored.revision));
                txn.writes.push(Write::Put(stored.key.clone(), value));
            }
            Ok(())
        })
    }
}

impl AdmissionPlugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Validate && matches!(operation, Operation::Create | Operation::Update)
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let checked = self.check(request, object);
        Box::pin(async move { checked })
    }
}
