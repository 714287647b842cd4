//! `EventRateLimit`: so many Events a second, of the server, a namespace, a user, or one source about one object. Off by
//! default.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::time::Clock;
use kybern_apimachinery::{ApiError, Reason, Value};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};
use parking_lot::Mutex;

use crate::tree::{int, list, text};

const DEFAULT_CACHE: usize = 4096;
const TYPES: [&str; 4] = ["Namespace", "Server", "SourceAndObject", "User"];

/// One of the limits that are configured.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct EventLimit {
    kind: String,
    per_second: f64,
    burst: f64,
    /// For how many keys it is known what is left.
    cache: usize,
}

impl EventLimit {
    /// Those of a configuration.
    pub(super) fn parse(configuration: &Value) -> Result<Vec<Self>, Vec<FieldError>> {
        let (path, mut errors) = (FieldPath::new("limits"), Vec::new());
        let limits = list(configuration, "limits");
        if limits.is_empty() {
            errors.push(FieldError::invalid(&path, Value::Null, "must not be empty"));
        }
        let parsed = limits.iter().enumerate().map(|(i, limit)| {
            let (path, kind) = (path.index(i), text(limit, "type"));
            if !TYPES.contains(&kind) {
                errors.push(FieldError::not_supported(&path.child("type"), kind, &TYPES));
            }
            let mut positive = |field: &str| {
                let number = int(limit, field).unwrap_or(0);
                if number <= 0 {
                    errors.push(FieldError::invalid(&path.child(field), number, "must be positive"));
                }
                u32::try_from(number).unwrap_or(u32::MAX).into()
            };
            let (burst, per_second) = (positive("burst"), positive("qps"));
            let cache = int(limit, "cacheSize").unwrap_or(0);
            if cache < 0 && kind != "Server" {
                errors.push(FieldError::invalid(&path.child("cacheSize"), cache, "must not be negative"));
            }
            let cache = usize::try_from(cache).ok().filter(|size| *size > 0).unwrap_or(DEFAULT_CACHE);
            Self { kind: kind.to_owned(), per_second, burst, cache }
        });
        let parsed = parsed.collect();
        if errors.is_empty() { Ok(parsed) } else { Err(errors) }
    }

    fn key(&self, request: &AdmissionRequest<'_>, event: &Value) -> String {
        match self.kind.as_str() {
            "Namespace" => request.namespace.to_owned(),
            "User" => request.user.name.clone(),
            "SourceAndObject" => {
                let (source, object) = (&event["source"], &event["involvedObject"]);
                let of_object = ["kind", "namespace", "name", "uid", "apiVersion"].map(|field| text(object, field));
                [[text(source, "component"), text(source, "host")].concat(), of_object.concat()].concat()
            }
            _ => String::new(),
        }
    }
}

/// What is left, when it was last asked, and how long ago in questions.
struct Bucket {
    left: f64,
    at: Timestamp,
    used: u64,
}

#[derive(Default)]
struct Buckets {
    by_key: HashMap<String, Bucket>,
    questions: u64,
}

impl Buckets {
    /// Takes one, if one is left.
    fn take(&mut self, limit: &EventLimit, key: &str, now: Timestamp) -> bool {
        self.questions += 1;
        if !self.by_key.contains_key(key) {
            if self.by_key.len() >= limit.cache
                && let Some(oldest) = self.by_key.iter().min_by_key(|(_, bucket)| bucket.used).map(|(k, _)| k.clone())
            {
                self.by_key.remove(&oldest);
            }
            self.by_key.insert(key.to_owned(), Bucket { left: limit.burst, at: now, used: 0 });
        }
        let Some(bucket) = self.by_key.get_mut(key) else { return false };
        let passed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.left = (bucket.left + passed * limit.per_second).min(limit.burst);
        (bucket.at, bucket.used) = (now, self.questions);
        let enough = bucket.left >= 1.0;
        if enough {
            bucket.left -= 1.0;
        }
        enough
    }
}

pub(super) struct EventRateLimit {
    limits: Vec<(EventLimit, Mutex<Buckets>)>,
    clock: Arc<dyn Clock>,
}

impl EventRateLimit {
    pub(super) fn new(limits: &[EventLimit], clock: Arc<dyn Clock>) -> Self {
        Self { limits: limits.iter().map(|limit| (limit.clone(), Mutex::default())).collect(), clock }
    }

    fn check(&self, request: &AdmissionRequest<'_>, event: &Value) -> Result<(), ApiError> {
        let now = self.clock.now();
        let reached = self.limits.iter().filter_map(|(limit, buckets)| {
            let key = limit.key(request, event);
            let taken = buckets.lock().take(limit, &key, now);
            (!taken).then(|| format!("limit reached on type {} for key {key}", limit.kind))
        });
        // All of them are asked.
        let texts: Vec<String> = reached.collect();
        let text = match texts.as_slice() {
            [] => return Ok(()),
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        Err(ApiError::new(Reason::TooManyRequests, format!("Too many requests: {text}")))
    }
}

impl AdmissionPlugin for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Validate && matches!(operation, Operation::Create | Operation::Update)
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        // That of the group `events.k8s.io` is another kind upstream, and is not counted.
        let is_event = request.kind.group.is_empty() && request.kind.kind == "Event";
        let checked =
            object.filter(|_| is_event && !request.dry_run).map_or(Ok(()), |event| self.check(request, event));
        Box::pin(async move { checked })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn limits_are_read() {
        let limit = json!({"type": "User", "qps": 5, "burst": 10});
        let limits = EventLimit::parse(&json!({"limits": [limit]})).unwrap();
        assert_eq!(limits, [EventLimit { kind: "User".into(), per_second: 5.0, burst: 10.0, cache: DEFAULT_CACHE }]);
        assert_eq!(EventLimit::parse(&json!({})).unwrap_err().len(), 1);
        let bad = json!({"type": "Pod", "qps": 0, "cacheSize": -1});
        assert_eq!(EventLimit::parse(&json!({"limits": [bad]})).unwrap_err().len(), 4);
    }

    #[test]
    fn buckets_fill_and_are_forgotten() {
        let limit = EventLimit { kind: "User".into(), per_second: 2.0, burst: 3.0, cache: 2 };
        let (mut buckets, start) = (Buckets::default(), Timestamp::UNIX_EPOCH);
        let at = |millis: i64| start + jiff::SignedDuration::from_millis(millis);
        let taken = (0..5).filter(|_| buckets.take(&limit, "a", start)).count();
        assert_eq!(taken, 3);
        assert!(!buckets.take(&limit, "a", at(400)) && buckets.take(&limit, "a", at(500)));
        assert!(!buckets.take(&limit, "a", at(500)));
        for key in ["b", "a", "c"] {
            buckets.take(&limit, key, at(500));
        }
        assert_eq!(buckets.by_key.len(), 2);
        assert!(buckets.by_key.contains_key("a"), "b was not asked for so long");
        assert!(!buckets.take(&limit, "a", at(100)), "a clock that goes back gives nothing");
    }
}
