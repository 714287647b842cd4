//! The stages that every request passes, as a list. A stage sees the request's context, changes or adds to it, calls what
//! follows and sees how it ended. To add one, write its file and name it in [`STAGES`]; the others need not know of it.

mod audit;
mod audit_id;
mod authentication;
mod authorization;
mod deadline;
mod fairness;
mod impersonation;
mod metrics;
mod panics;
mod refusals;
mod route;

use std::sync::Arc;

use http::{HeaderMap, Request, Response};
use kybern_apimachinery::ApiError;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::access::UserInfo;
use crate::audit::Record;
use crate::held::Held;
use crate::negotiate::{Format, of_refusal};
use crate::options::Query;
use crate::request_info::RequestInfo;
use crate::server::Server;
use crate::warnings::Warnings;
use crate::{Body, BoxFuture, body};

/// Outermost first. What follows them is [`route::dispatch`].
const STAGES: &[Stage] = &[
    audit_id::stage,
    metrics::stage,
    panics::stage,
    refusals::stage,
    deadline::stage,
    authentication::stage,
    audit::stage,
    impersonation::stage,
    fairness::stage,
    authorization::stage,
];

/// How a request ends; [`refusals`] makes a response of an error.
type Outcome = Result<Response<Body>, ApiError>;
type Stage = fn(Box<Context>, Next) -> BoxFuture<'static, Outcome>;

/// A request on its way through the stages, and what they have added. In a box, as every stage hands it on.
struct Context {
    server: Arc<Server>,
    received: Instant,
    /// The same on the clock on the wall.
    now: jiff::Timestamp,
    info: Arc<RequestInfo>,
    query: Query,
    /// The form of a refusal.
    form: Format,
    /// Nobody until [`authentication`]; after [`impersonation`], whom the request is made as.
    user: UserInfo,
    warnings: Arc<Warnings>,
    /// What the answer carries, be it a refusal.
    headers: Arc<Mutex<HeaderMap>>,
    audit: Arc<Record>,
    held: Held,
    request: Request<Body>,
}

impl Context {
    fn new(server: Arc<Server>, request: Request<Body>) -> Self {
        let query = Query::parse(request.uri().query().unwrap_or(""));
        Self {
            received: Instant::now(),
            now: server.clock.now(),
            server,
            info: Arc::new(RequestInfo::parse(request.method(), request.uri().path(), &query)),
            query,
            form: of_refusal(request.headers()),
            user: UserInfo::default(),
            warnings: Arc::default(),
            headers: Arc::default(),
            audit: Arc::default(),
            held: Held::default(),
            request,
        }
    }
}

/// The stages that follow one.
#[derive(Clone, Copy)]
struct Next(&'static [Stage]);

impl Next {
    fn run(self, context: Box<Context>) -> BoxFuture<'static, Outcome> {
        match self.0 {
            [stage, rest @ ..] => stage(context, Self(rest)),
            [] => Box::pin(route::dispatch(context)),
        }
    }
}

impl Server {
    /// Serves one request: the single entry for connections and in-process callers. In-process callers put their
    /// [`UserInfo`] into the request's extensions; connections put [`crate::access::Peer`] there.
    pub async fn handle(self: &Arc<Self>, request: Request<Body>) -> Response<Body> {
        let context = Box::new(Context::new(self.clone(), request));
        let (held, form) = (context.held.clone(), context.form);
        let response = match Next(STAGES).run(context).await {
            Ok(response) => response,
            // No stage above `refusals` gives errors.
            Err(error) => crate::respond::refusal(&error, form),
        };
        if held.is_empty() {
            return response;
        }
        response.map(|body| body::holding(body, held))
    }
}
