//! The parameters of calls, and how they are written into a request.

use kybern_apimachinery::{Map, Value, json, percent};

/// `metav1.ListOptions`. Empty strings and `None` are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    pub label_selector: String,
    pub field_selector: String,
    pub resource_version: String,
    /// `Exact` or `NotOlderThan`.
    pub resource_version_match: String,
    pub limit: Option<u32>,
    pub continue_token: String,
    /// Seconds after which the server ends a watch.
    pub timeout_seconds: Option<u32>,
    pub allow_watch_bookmarks: bool,
    pub send_initial_events: bool,
}

impl ListOptions {
    pub fn labels(selector: impl Into<String>) -> Self {
        Self { label_selector: selector.into(), ..Self::default() }
    }

    pub fn fields(selector: impl Into<String>) -> Self {
        Self { field_selector: selector.into(), ..Self::default() }
    }

    pub(crate) fn query(&self, watch: bool) -> String {
        let mut query = Query::default();
        if watch {
            query.add("watch", "true");
        }
        query.add("labelSelector", &self.label_selector);
        query.add("fieldSelector", &self.field_selector);
        query.add("resourceVersion", &self.resource_version);
        query.add("resourceVersionMatch", &self.resource_version_match);
        query.add("limit", &self.limit.map(|n| n.to_string()).unwrap_or_default());
        query.add("continue", &self.continue_token);
        query.add("timeoutSeconds", &self.timeout_seconds.map(|n| n.to_string()).unwrap_or_default());
        query.add("allowWatchBookmarks", if self.allow_watch_bookmarks { "true" } else { "" });
        query.add("sendInitialEvents", if self.send_initial_events { "true" } else { "" });
        query.0
    }
}

/// What happens to the dependents of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
    /// Refuse (409) unless the object has this uid.
    pub uid: Option<String>,
    /// Refuse (409) unless the object has this resourceVersion.
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    /// Deletes only the object with this uid.
    pub fn of_uid(uid: impl Into<String>) -> Self {
        Self { uid: Some(uid.into()), ..Self::default() }
    }

    pub(crate) fn to_value(&self) -> Value {
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(seconds) = self.grace_period_seconds {
            options["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(propagation) = self.propagation {
            options["propagationPolicy"] = format!("{propagation:?}").into();
        }
        let mut preconditions = Map::new();
        for (key, value) in [("uid", &self.uid), ("resourceVersion", &self.resource_version)] {
            if let Some(value) = value {
                preconditions.insert(key.to_owned(), value.as_str().into());
            }
        }
        if !preconditions.is_empty() {
            options["preconditions"] = Value::Object(preconditions);
        }
        options
    }
}

/// The four kinds of patch.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// RFC 6902: a list of operations.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    Strategic(Value),
    /// Server-side apply of `object` by the field manager `manager`.
    Apply {
        manager: String,
        force: bool,
        object: Value,
    },
}

impl Patch {
    pub(crate) fn content_type(&self) -> &'static str {
        match self {
            Self::Json(_) => "application/json-patch+json",
            Self::Merge(_) => "application/merge-patch+json",
            Self::Strategic(_) => "application/strategic-merge-patch+json",
            Self::Apply { .. } => "application/apply-patch+yaml",
        }
    }

    pub(crate) fn body(&self) -> &Value {
        match self {
            Self::Json(value) | Self::Merge(value) | Self::Strategic(value) => value,
            Self::Apply { object, .. } => object,
        }
    }

    pub(crate) fn query(&self) -> String {
        let mut query = Query::default();
        if let Self::Apply { manager, force, .. } = self {
            query.add("fieldManager", manager);
            query.add("force", if *force { "true" } else { "" });
        }
        query.0
    }
}

/// Builds `?a=b&c=d`, percent-encoded; empty values are left out.
#[derive(Default)]
struct Query(String);

impl Query {
    fn add(&mut self, key: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(key);
        self.0.push('=');
        self.0.push_str(&percent::encode(value, b""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        let options = ListOptions { limit: Some(5), ..ListOptions::labels("a in (b,c)") };
        assert_eq!(options.query(true), "?watch=true&labelSelector=a%20in%20%28b%2Cc%29&limit=5");
        assert_eq!(ListOptions::default().query(false), "");
        let apply = Patch::Apply { manager: "me".into(), force: true, object: Value::Null };
        assert_eq!(apply.query(), "?fieldManager=me&force=true");
    }

    #[test]
    fn delete_options_carry_preconditions() {
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            propagation: Some(Propagation::Orphan),
            ..DeleteOptions::of_uid("u")
        };
        let expect = json!({
            "kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "propagationPolicy": "Orphan",
            "preconditions": {"uid": "u"},
        });
        assert_eq!(options.to_value(), expect);
    }
}
