//! One webhook of a configuration, compiled.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kybern_apimachinery::Value;
use kybern_webhook::{Client, ClientConfig, ClientManager};

use crate::admission::matching::Criteria;
use crate::admission::policy::{Expression, Options, Returns, stateless};
use crate::tree::{list, text};

pub(super) struct Hook {
    pub(super) name: String,
    pub(super) configuration: String,
    /// Tells it from all others, as long as its configuration does not change its order.
    pub(super) id: String,
    config: Result<ClientConfig, String>,
    pub(super) criteria: Criteria,
    /// By their names.
    pub(super) conditions: Vec<(String, Expression)>,
    pub(super) reinvoke: bool,
    /// Whether a request goes on when the webhook cannot be asked.
    pub(super) ignore_failure: bool,
    pub(super) timeout: Duration,
    /// Whether it may be asked about what is not going to be written.
    pub(super) dry_run: bool,
    pub(super) review_versions: Vec<String>,
    client: OnceLock<Result<Arc<Client>, String>>,
}

impl Hook {
    /// Made when it is needed first, and kept as long as the configuration.
    pub(super) fn client(&self, clients: &ClientManager) -> Result<Arc<Client>, String> {
        self.client.get_or_init(|| clients.client(self.config.as_ref().map_err(Clone::clone)?)).clone()
    }
}

/// The webhooks of a configuration, in its order.
pub(super) fn compile(configuration: &Value) -> Vec<Arc<Hook>> {
    let of = kybern_apimachinery::object::name(configuration);
    // Names need not be unique in objects of old.
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let hooks = list(configuration, "webhooks").iter().map(|hook| {
        let name = text(hook, "name");
        let number = seen.entry(name).or_default();
        let id = format!("{of}/{name}/{number}");
        *number += 1;
        let env = stateless(Options { params: false, authorizer: true, patches: false });
        let condition = |condition: &Value| {
            let expression = Expression::new(env, text(condition, "expression"), Returns::Bool);
            (text(condition, "name").to_owned(), expression)
        };
        let ignore_failure = text(hook, "failurePolicy") == "Ignore";
        Arc::new(Hook {
            name: name.to_owned(),
            configuration: of.to_owned(),
            id,
            config: ClientConfig::from_value(&hook["clientConfig"]),
            criteria: Criteria::of_webhook(hook),
            conditions: list(hook, "matchConditions").iter().map(condition).collect(),
            reinvoke: text(hook, "reinvocationPolicy") == "IfNeeded",
            ignore_failure,
            timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(10)),
            dry_run: matches!(text(hook, "sideEffects"), "None" | "NoneOnDryRun"),
            review_versions: list(hook, "admissionReviewVersions")
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            client: OnceLock::new(),
        })
    });
    hooks.collect()
}
