//! `/healthz`, `/livez` and `/readyz`, with upstream's text form.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use kybern_storage::Storage;
use parking_lot::RwLock;

use crate::options::Query;
use crate::{Body, body};

/// Named checks; all are good until something says otherwise.
#[derive(Clone, Default)]
pub struct Checks(Arc<RwLock<BTreeMap<String, Option<String>>>>, Arc<RwLock<BTreeMap<(String, String), Results>>>);

/// What came of a check so far, for `/metrics/slis`.
#[derive(Default)]
struct Results {
    last_passed: bool,
    passed: u64,
    failed: u64,
}

impl Checks {
    /// Marks a check as failing; the reason is logged, and told to nobody who may not see it.
    pub fn fail(&self, name: &str, reason: String) {
        tracing::warn!(check = name, reason, "a health check fails");
        self.0.write().insert(name.to_owned(), Some(reason));
    }

    /// Marks a check as good, or good again.
    pub fn pass(&self, name: &str) {
        self.0.write().insert(name.to_owned(), None);
    }

    /// Marks what upstream calls hooks after the start as done.
    pub fn started(&self, hooks: &[&str]) {
        let mut all = self.0.write();
        all.extend(hooks.iter().map(|hook| (format!("poststarthook/{hook}"), None)));
    }
}

/// Whether the store answers in time, as a check's state.
pub(crate) async fn of_store(storage: &dyn Storage, patience: Duration) -> Option<String> {
    match tokio::time::timeout(patience, storage.revision()).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("the store did not answer within {} s", patience.as_secs_f32())),
    }
}

/// Answers a probe; `store` is what [`of_store`] found.
pub(crate) fn serve(known: &Checks, store: Option<String>, parts: &[&str], query: &Query) -> Response<Body> {
    let endpoint = parts[0];
    let mut checks = BTreeMap::from([("ping".to_owned(), None), ("log".to_owned(), None), ("etcd".to_owned(), None)]);
    if endpoint == "readyz" {
        checks.insert("etcd-readiness".to_owned(), None);
    }
    checks.extend(known.0.read().clone());
    if let Some(reason) = store {
        tracing::warn!(reason, "the store does not answer a health check");
        checks
            .iter_mut()
            .filter(|(name, _)| name.starts_with("etcd"))
            .for_each(|(_, state)| *state = Some(reason.clone()));
    }
    if endpoint == "livez" {
        // A server that waits for something is alive.
        checks.iter_mut().filter(|(name, _)| name.starts_with("poststarthook/")).for_each(|(_, state)| *state = None);
    }
    if endpoint != "readyz" {
        checks.remove("informer-sync");
    }
    if let Some(name) = parts.get(1..).filter(|rest| !rest.is_empty()).map(|rest| rest.join("/")) {
        checks.retain(|check, _| *check == name);
        if checks.is_empty() {
            return body::text(StatusCode::NOT_FOUND, "404 page not found\n");
        }
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let mut text = String::new();
    let mut failed = false;
    for (name, state) in checks.iter().filter(|(name, _)| !excluded.contains(&name.as_str())) {
        let mut all = known.1.write();
        let results = all.entry((name.clone(), endpoint.to_owned())).or_default();
        results.last_passed = state.is_none();
        *(if state.is_none() { &mut results.passed } else { &mut results.failed }) += 1;
    }
    for (name, state) in &checks {
        if excluded.contains(&name.as_str()) {
            text.push_str(&format!("[+]{name} excluded: ok\n"));
        } else if state.is_some() {
            failed = true;
            text.push_str(&format!("[-]{name} failed: reason withheld\n"));
        } else {
            text.push_str(&format!("[+]{name} ok\n"));
        }
    }
    if failed {
        return body::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{text}{endpoint} check failed\n"));
    }
    if query.has("verbose") {
        return body::text(StatusCode::OK, format!("{text}{endpoint} check passed\n"));
    }
    body::text(StatusCode::OK, "ok")
}

/// `/metrics/slis`: how each check that was asked for ended, and how often so far.
pub(crate) fn indicators(checks: &Checks) -> Response<Body> {
    let results = checks.1.read();
    let mut text = "# HELP kubernetes_healthcheck [STABLE] This metric records the result of a single healthcheck.\n\
                    # TYPE kubernetes_healthcheck gauge\n"
        .to_owned();
    for ((name, kind), found) in results.iter() {
        let value = u8::from(found.last_passed);
        text.push_str(&format!("kubernetes_healthcheck{{name=\"{name}\",type=\"{kind}\"}} {value}\n"));
    }
    text.push_str(
        "# HELP kubernetes_healthchecks_total [STABLE] This metric records the results of all healthcheck.\n\
         # TYPE kubernetes_healthchecks_total counter\n",
    );
    for ((name, kind), found) in results.iter() {
        for (status, count) in [("error", found.failed), ("success", found.passed)].into_iter().filter(|(_, n)| *n > 0)
        {
            let labels = format!("name=\"{name}\",status=\"{status}\",type=\"{kind}\"");
            text.push_str(&format!("kubernetes_healthchecks_total{{{labels}}} {count}\n"));
        }
    }
    body::text(StatusCode::OK, text)
}
