//! One webhook of a configuration, compiled.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kybern_apimachinery::Value;
use kybern_apimachinery::selector::LabelSelector;
use kybern_webhook::{Client, ClientConfig, ClientManager};

use super::conditions::Conditions;
use super::matching::Rule;
use crate::tree::{list, text};

pub(super) struct Hook {
    pub(super) name: String,
    pub(super) configuration: String,
    /// Tells it from all others, as long as its configuration does not change its order.
    pub(super) id: String,
    config: Result<ClientConfig, String>,
    pub(super) rules: Vec<Rule>,
    /// Whether rules about other versions of a resource count, too.
    pub(super) equivalent: bool,
    pub(super) namespace_selector: Result<LabelSelector, String>,
    pub(super) object_selector: Result<LabelSelector, String>,
    pub(super) conditions: Conditions,
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
        let selector = |field: &str| match &hook[field] {
            Value::Null => Ok(LabelSelector::everything()),
            selector => LabelSelector::from_object(selector),
        };
        let ignore_failure = text(hook, "failurePolicy") == "Ignore";
        Arc::new(Hook {
            name: name.to_owned(),
            configuration: of.to_owned(),
            id,
            config: ClientConfig::from_value(&hook["clientConfig"]),
            rules: list(hook, "rules").iter().map(Rule::compile).collect(),
            equivalent: text(hook, "matchPolicy") != "Exact",
            namespace_selector: selector("namespaceSelector"),
            object_selector: selector("objectSelector"),
            conditions: Conditions::compile(list(hook, "matchConditions"), ignore_failure),
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
