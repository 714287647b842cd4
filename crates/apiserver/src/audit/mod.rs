//! The audit log: who did what, and what became of it.

mod backend;
mod event;
mod file;
mod policy;
mod stats;
mod webhook;

use std::sync::Arc;

use jiff::Timestamp;
use kybern_apimachinery::{ApiError, Value, json, object};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;

pub use backend::{Backend, Batching, Format, Mode, Sink, Truncation};
pub use event::Event;
use event::{ObjectRef, status_of, status_of_error, without_managed_fields};
pub use file::{DEFAULT_MAX_SIZE, FileOptions};
use policy::Verdict;
pub use policy::{Level, Policy, Stage};
use stats::Stats;
pub use webhook::Webhook;

use crate::access::{Attributes, UserInfo};

/// The log, with what it is to hold.
pub struct Audit {
    policy: Policy,
    backends: Vec<Backend>,
    stats: Arc<Stats>,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Audit {
    pub fn new(policy: Policy, backends: Vec<Backend>) -> Arc<Self> {
        Arc::new(Self { policy, backends, stats: Arc::default() })
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        self.stats.register(registry);
    }
}

/// What is known of a request when it is judged.
pub(crate) struct Request<'a> {
    pub(crate) attributes: &'a Attributes,
    pub(crate) uri: String,
    pub(crate) user_agent: &'a str,
    pub(crate) source_ips: Vec<String>,
    pub(crate) received: Timestamp,
}

/// One request's record, to which its stages and admission add.
#[derive(Default)]
pub struct Record(Mutex<State>);

#[derive(Default)]
struct State {
    event: Event,
    judged: Option<(Arc<Audit>, Verdict)>,
    closed: bool,
}

/// Longer ones are cut.
const MAX_USER_AGENT: usize = 1024;

impl Record {
    pub(crate) fn name(&self, id: &str) {
        id.clone_into(&mut self.0.lock().event.id);
    }

    /// The request's name, as `Audit-Id` tells it.
    pub fn id(&self) -> String {
        self.0.lock().event.id.clone()
    }

    /// Adds an annotation. The first value of a key stands; another one is logged and left out.
    pub fn annotate(&self, key: &str, value: &str) {
        let event = &mut self.0.lock().event;
        match event.annotations.get(key) {
            None => drop(event.annotations.insert(key.to_owned(), value.to_owned())),
            Some(known) if known == value => {}
            Some(known) => {
                tracing::warn!(
                    key,
                    value,
                    known,
                    id = event.id,
                    "an audit annotation was already set to something else"
                );
            }
        }
    }

    /// Asks the policy. The answer is how much is recorded.
    pub(crate) fn judge(&self, audit: &Arc<Audit>, request: &Request<'_>) -> Level {
        let verdict = audit.policy.evaluate(request.attributes).clone();
        audit.stats.judged(verdict.level);
        let level = verdict.level;
        let mut state = self.0.lock();
        if level > Level::None {
            let event = &mut state.event;
            let Attributes { user, verb, group, version, resource, subresource, namespace, name, .. } =
                request.attributes.clone();
            event.level = level;
            event.request_uri.clone_from(&request.uri);
            event.verb = verb;
            event.user = (&user).into();
            event.source_ips.clone_from(&request.source_ips);
            event.user_agent = request.user_agent.to_owned();
            if let Some((end, _)) = request.user_agent.char_indices().find(|(at, _)| *at >= MAX_USER_AGENT) {
                event.user_agent.truncate(end);
                event.user_agent.push_str("...TRUNCATED");
            }
            event.request_received_timestamp = request.received;
            event.object_ref = request.attributes.resource_request.then(|| ObjectRef {
                resource,
                namespace,
                name,
                api_group: group,
                api_version: version,
                subresource,
                ..ObjectRef::default()
            });
        }
        state.judged = Some((audit.clone(), verdict));
        level
    }

    /// How much is recorded; nothing before the policy was asked.
    pub(crate) fn level(&self) -> Level {
        self.0.lock().event.level
    }

    /// Records a stage; whether the request may go on.
    pub(crate) fn stage(&self, stage: Stage, now: Timestamp) -> bool {
        let (audit, event) = {
            let mut state = self.0.lock();
            let Some((audit, verdict)) = &state.judged else { return true };
            if verdict.level == Level::None || verdict.omit_stages.contains(&stage) {
                return true;
            }
            let audit = audit.clone();
            state.event.stage = stage;
            state.event.stage_timestamp =
                if stage == Stage::RequestReceived { state.event.request_received_timestamp } else { now };
            (audit, Arc::new(state.event.clone()))
        };
        audit.stats.events.inc();
        // Each gets it, whatever becomes of it elsewhere.
        let refusals = audit.backends.iter().filter(|backend| !backend.take(&event, &audit.stats)).count();
        let taken = refusals == 0;
        if !taken && stage == Stage::RequestReceived {
            audit.stats.rejected.inc();
        }
        taken
    }

    /// Records the end, unless that was done.
    pub(crate) fn complete(&self, long_running: bool, now: Timestamp) {
        {
            let mut state = self.0.lock();
            if std::mem::replace(&mut state.closed, true) {
                return;
            }
            if state.event.response_status.is_none() {
                let text = "Connection closed early";
                let status = json!({"metadata": {}, "status": "Success", "message": text, "code": 200});
                state.event.response_status = Some(status);
                if long_running {
                    drop(state);
                    self.stage(Stage::ResponseStarted, now);
                }
            }
        }
        self.stage(Stage::ResponseComplete, now);
    }

    pub(crate) fn panicked(&self, what: &str, now: Timestamp) {
        {
            let mut state = self.0.lock();
            state.closed = true;
            state.event.response_status = Some(json!({
                "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": format!("APIServer panic'd: {what}"),
            }));
        }
        self.stage(Stage::Panic, now);
    }

    pub(crate) fn impersonated(&self, user: &UserInfo) {
        self.0.lock().event.impersonated_user = Some(user.into());
    }

    /// How the request was answered.
    pub(crate) fn answered(&self, code: u16) {
        self.0.lock().event.response_status = Some(json!({"metadata": {}, "code": code}));
    }

    /// Why a request was not answered by any handler.
    pub(crate) fn failed(&self, text: &str, code: u16) {
        self.0.lock().event.response_status = Some(json!({"metadata": {}, "message": text, "code": code}));
    }

    /// How the request was refused.
    pub(crate) fn refused(&self, error: &ApiError) {
        let mut state = self.0.lock();
        state.event.response_status = Some(status_of_error(error));
        if state.event.level >= Level::RequestResponse {
            state.event.response_object = Some(error.to_status());
        }
    }

    /// An answer's object. A `Status` says more than its code.
    pub(crate) fn response_object(&self, object: Value) {
        let mut state = self.0.lock();
        if object::kind(&object) == "Status" && object::api_version(&object) == "v1" {
            let code = state.event.response_status.as_ref().map(|status| status["code"].clone());
            let mut status = status_of(&object);
            if let (Some(code), true) = (code, status.get("code").is_none()) {
                status["code"] = code;
            }
            state.event.response_status = Some(status);
        }
        if state.event.level >= Level::RequestResponse {
            let omit = state.judged.as_ref().is_some_and(|(_, verdict)| verdict.omit_managed_fields);
            state.event.response_object = Some(if omit { without_managed_fields(object) } else { object });
        }
    }

    /// A request's object; what it says of itself completes what the path does.
    pub(crate) fn request_object(&self, given: &Value) {
        let mut state = self.0.lock();
        if state.event.level < Level::Metadata {
            return;
        }
        if let Some(reference) = &mut state.event.object_ref {
            let fill = |field: &mut String, text: &str| {
                if field.is_empty() {
                    text.clone_into(field);
                }
            };
            fill(&mut reference.namespace, object::namespace(given));
            fill(&mut reference.name, object::name(given));
            fill(&mut reference.uid, object::uid(given));
            fill(&mut reference.resource_version, object::resource_version(given));
        }
        if state.event.level >= Level::Request {
            let omit = state.judged.as_ref().is_some_and(|(_, verdict)| verdict.omit_managed_fields);
            let given = given.clone();
            state.event.request_object = Some(if omit { without_managed_fields(given) } else { given });
        }
    }

    /// A patch, as it came.
    pub(crate) fn request_patch(&self, patch: &Value) {
        let mut state = self.0.lock();
        if state.event.level >= Level::Request {
            state.event.request_object = Some(patch.clone());
        }
    }
}
