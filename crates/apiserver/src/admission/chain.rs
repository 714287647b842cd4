//! The plugins in their order: who takes part in which step, and how long each of them takes.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use kybern_apimachinery::{ApiError, Value};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{AdmissionPlugin, AdmissionRequest, Operation, Step};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    r#type: &'static str,
    operation: &'static str,
    rejected: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ControllerLabels {
    name: &'static str,
    r#type: &'static str,
    operation: &'static str,
    rejected: &'static str,
}

const BUCKETS: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Times of what was let through and of what was refused: looked up once, since every write counts in twenty of them.
#[derive(Default)]
struct Times([OnceLock<Histogram>; 2]);

impl Times {
    /// `of` finds the histogram of what was rejected or was not.
    fn observe(&self, started: Instant, rejected: bool, of: impl FnOnce(&'static str) -> Histogram) {
        let times = self.0[usize::from(rejected)].get_or_init(|| of(if rejected { "true" } else { "false" }));
        times.observe(started.elapsed().as_secs_f64());
    }
}

/// A plugin in a step of an operation.
struct Part {
    plugin: Arc<dyn AdmissionPlugin>,
    times: Times,
}

/// What a step of an operation consists of.
#[derive(Default)]
struct Parts {
    plugins: Vec<Part>,
    times: Times,
}

/// See the module.
pub(crate) struct AdmissionChain {
    /// By step and operation.
    parts: [[Parts; Operation::ALL.len()]; 2],
    steps: Histograms<StepLabels>,
    controllers: Histograms<ControllerLabels>,
}

impl AdmissionChain {
    pub(crate) fn new(plugins: &[Arc<dyn AdmissionPlugin>]) -> Self {
        let of = |step| {
            Operation::ALL.map(|operation| {
                let plugins = plugins.iter().filter(|plugin| plugin.handles(step, operation));
                let plugins = plugins.map(|plugin| Part { plugin: plugin.clone(), times: Times::default() });
                Parts { plugins: plugins.collect(), times: Times::default() }
            })
        };
        let new: fn() -> Histogram = || Histogram::new(BUCKETS);
        Self {
            parts: [of(Step::Admit), of(Step::Validate)],
            steps: Family::new_with_constructor(new),
            controllers: Family::new_with_constructor(new),
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "apiserver_admission_step_admission_duration_seconds",
            "Time that the steps of admission took, by step and operation",
            self.steps.clone(),
        );
        registry.register(
            "apiserver_admission_controller_admission_duration_seconds",
            "Time that admission plugins took, by name, step and operation",
            self.controllers.clone(),
        );
    }

    fn parts(&self, step: Step, operation: Operation) -> &Parts {
        &self.parts[step as usize][operation as usize]
    }

    /// Whether nobody would look at it.
    pub(crate) fn is_idle(&self, step: Step, operation: Operation) -> bool {
        self.parts(step, operation).plugins.is_empty()
    }

    fn observe(&self, part: &Part, step: Step, operation: Operation, started: Instant, rejected: bool) {
        let (name, r#type, operation) = (part.plugin.name(), step.as_str(), operation.as_str());
        let of =
            |rejected| self.controllers.get_or_create(&ControllerLabels { name, r#type, operation, rejected }).clone();
        part.times.observe(started, rejected, of);
    }

    fn observe_step(&self, step: Step, operation: Operation, started: Instant, rejected: bool) {
        let (r#type, times) = (step.as_str(), &self.parts(step, operation).times);
        let operation = operation.as_str();
        let of = |rejected| self.steps.get_or_create(&StepLabels { r#type, operation, rejected }).clone();
        times.observe(started, rejected, of);
    }

    /// Runs the mutating chain.
    pub(crate) async fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&mut Value>,
    ) -> Result<(), ApiError> {
        let started = Instant::now();
        let result = self.admit_all(request, object).await;
        self.observe_step(Step::Admit, request.operation, started, result.is_err());
        result
    }

    async fn admit_all(&self, request: &AdmissionRequest<'_>, mut object: Option<&mut Value>) -> Result<(), ApiError> {
        let (step, operation) = (Step::Admit, request.operation);
        loop {
            for part in &self.parts(step, operation).plugins {
                let started = Instant::now();
                let result = part.plugin.admit(request, object.as_deref_mut()).await;
                self.observe(part, step, operation, started, result.is_err());
                result?;
            }
            if !request.reinvocation.begin_again() {
                return Ok(());
            }
        }
    }

    /// Runs the validating chain.
    pub(crate) async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
    ) -> Result<(), ApiError> {
        let began = Instant::now();
        let (step, operation) = (Step::Validate, request.operation);
        let mut result = Ok(());
        for part in &self.parts(step, operation).plugins {
            let started = Instant::now();
            result = part.plugin.validate(request, object).await;
            self.observe(part, step, operation, started, result.is_err());
            if result.is_err() {
                break;
            }
        }
        self.observe_step(step, operation, began, result.is_err());
        result
    }
}
