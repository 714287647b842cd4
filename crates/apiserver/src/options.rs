//! Query parameters: `ListOptions`, `CreateOptions`, `DeleteOptions` and their kin.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::selector::{FieldSelector, LabelSelector};
use kybern_apimachinery::{ApiError, GroupKind, Map, Value, json, percent};
use kybern_storage::Revision;

/// A decoded query string.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|p| !p.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(k, v)| (percent::decode_query(k), percent::decode_query(v)))
                .collect(),
        )
    }

    /// The first value of a parameter; empty when absent.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v)
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(k, _)| k == name)
    }

    /// A flag, where it has a value.
    pub(crate) fn given_flag(&self, name: &str) -> Option<bool> {
        (!self.get(name).is_empty()).then(|| self.flag(name))
    }

    /// Go's boolean parameters: anything but `0` and `false`, when present and not empty, is true.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.has(name) && !matches!(self.get(name), "0" | "false" | "False" | "FALSE" | "f" | "F")
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        match self.get(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
        }
    }
}

/// How `resourceVersion` of a list is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VersionMatch {
    /// Everything committed before the request.
    MostRecent,
    NotOlderThan(Revision),
    Exact(Revision),
}

/// `metav1.ListOptions`.
#[derive(Clone, Debug)]
pub(crate) struct ListOptions {
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
    pub(crate) limit: usize,
    pub(crate) continue_token: String,
    pub(crate) resource_version: String,
    pub(crate) resource_version_match: String,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) allow_bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
}

impl ListOptions {
    pub(crate) fn parse(query: &Query) -> Result<Self, ApiError> {
        let limit = query.number::<i64>("limit")?.unwrap_or(0);
        Ok(Self {
            labels: LabelSelector::parse(query.get("labelSelector")).map_err(ApiError::bad_request)?,
            fields: FieldSelector::parse(query.get("fieldSelector")).map_err(ApiError::bad_request)?,
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token: query.get("continue").to_owned(),
            resource_version: query.get("resourceVersion").to_owned(),
            resource_version_match: query.get("resourceVersionMatch").to_owned(),
            timeout_seconds: query.number("timeoutSeconds")?,
            allow_bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: match query.get("sendInitialEvents") {
                "" => None,
                _ => Some(query.flag("sendInitialEvents")),
            },
        })
    }

    /// The revision that a list is to be of. The rules are upstream's (`ValidateListOptions`).
    pub(crate) fn version_match(&self) -> Result<VersionMatch, ApiError> {
        let forbidden = |field: &str, detail: &str| {
            Err(invalid("ListOptions", FieldError::forbidden(&FieldPath::new(field), detail)))
        };
        if self.send_initial_events.is_some() {
            return forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
        if !self.resource_version_match.is_empty() {
            if self.resource_version.is_empty() {
                return forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                );
            }
            if !self.continue_token.is_empty() {
                return forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden when continue is provided",
                );
            }
        }
        let revision = self.revision()?;
        match (self.resource_version_match.as_str(), revision) {
            ("", None) => Ok(VersionMatch::MostRecent),
            // A limit asks for the exact revision unless it is 0: upstream's legacy rule.
            ("", Some(revision)) if self.limit > 0 && revision > 0 => Ok(VersionMatch::Exact(revision)),
            ("" | "NotOlderThan", Some(revision)) => Ok(VersionMatch::NotOlderThan(revision)),
            ("Exact", Some(0)) => forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ),
            ("Exact", Some(revision)) => Ok(VersionMatch::Exact(revision)),
            (other, _) => {
                let supported = ["Exact", "NotOlderThan", ""];
                let path = FieldPath::new("resourceVersionMatch");
                Err(invalid("ListOptions", FieldError::not_supported(&path, other, &supported)))
            }
        }
    }

    /// Checks what only a watch may say.
    pub(crate) fn validate_watch(&self) -> Result<(), ApiError> {
        let detail = match self.send_initial_events {
            Some(_) if self.resource_version_match != "NotOlderThan" => {
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            }
            None if !self.resource_version_match.is_empty() => {
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            }
            _ => return Ok(()),
        };
        Err(invalid("ListOptions", FieldError::forbidden(&FieldPath::new("resourceVersionMatch"), detail)))
    }

    pub(crate) fn revision(&self) -> Result<Option<Revision>, ApiError> {
        parse_revision(&self.resource_version)
    }
}

/// A `resourceVersion` parameter; `None` when unset.
pub(crate) fn parse_revision(text: &str) -> Result<Option<Revision>, ApiError> {
    match text {
        "" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| {
            ApiError::bad_request(format!(
                "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))
        }),
    }
}

/// The refusal of options of a kind.
pub(crate) fn invalid(kind: &str, error: FieldError) -> ApiError {
    ApiError::invalid(&GroupKind::new("meta.k8s.io", kind), "", &[error])
}

/// `fieldValidation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// `CreateOptions`, `UpdateOptions` and `PatchOptions`.
#[derive(Clone, Debug)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_manager: String,
    pub(crate) field_validation: FieldValidation,
    pub(crate) force: Option<bool>,
    /// The options object, for admission.
    pub(crate) object: Value,
}

impl WriteOptions {
    /// `kind` is the options' kind; `user_agent` names the manager where none is given.
    pub(crate) fn parse(query: &Query, kind: &str, user_agent: &str) -> Result<Self, ApiError> {
        let refuse = |error: FieldError| invalid(kind, error);
        let dry_run = dry_run(query.all("dryRun").map(str::to_owned).collect()).map_err(refuse)?;
        let field_validation = match query.get("fieldValidation") {
            "Ignore" => FieldValidation::Ignore,
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            other => {
                let (path, supported) = (FieldPath::new("fieldValidation"), ["Ignore", "Strict", "Warn"]);
                return Err(refuse(FieldError::not_supported(&path, other, &supported)));
            }
        };
        let given = query.get("fieldManager");
        if given.len() > 128 {
            return Err(refuse(FieldError::too_long(&FieldPath::new("fieldManager"), 128)));
        }
        // Upstream takes the user agent up to the first slash.
        let agent =
            || user_agent.split('/').next().unwrap_or("").chars().filter(|c| !c.is_control()).take(128).collect();
        let field_manager: String = if given.is_empty() { agent() } else { given.to_owned() };
        let mut object = Map::new();
        object.insert("apiVersion".into(), "meta.k8s.io/v1".into());
        object.insert("kind".into(), kind.into());
        if dry_run {
            object.insert("dryRun".into(), json!(["All"]));
        }
        for name in ["fieldManager", "fieldValidation"] {
            if query.has(name) {
                object.insert(name.into(), query.get(name).into());
            }
        }
        Ok(Self {
            dry_run,
            field_manager: if field_manager.is_empty() { "unknown".to_owned() } else { field_manager },
            field_validation,
            force: query.has("force").then(|| query.flag("force")),
            object: Value::Object(object),
        })
    }
}

fn dry_run(values: Vec<String>) -> Result<bool, FieldError> {
    match values.as_slice() {
        [] => Ok(false),
        all if all.iter().all(|v| v == "All") => Ok(true),
        all if all.iter().all(String::is_empty) => Ok(false),
        all => Err(FieldError::not_supported(&FieldPath::new("dryRun"), json!(all), &["All"])),
    }
}

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) propagation: Option<Propagation>,
    /// The legacy form of `propagation`.
    pub(crate) orphan_dependents: Option<bool>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) dry_run: bool,
    /// The options object, for admission.
    pub(crate) object: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Orphan,
    Background,
    Foreground,
}

impl DeleteOptions {
    /// From a body (`Null` where there was none) or else from the query.
    pub(crate) fn parse(query: &Query, body: Value) -> Result<Self, ApiError> {
        let refuse = |error: FieldError| invalid("DeleteOptions", error);
        let policy = FieldPath::new("propagationPolicy");
        let mut object = match body {
            Value::Object(map) => map,
            Value::Null => {
                let mut map = Map::new();
                if let Some(seconds) = query.number::<i64>("gracePeriodSeconds")? {
                    map.insert("gracePeriodSeconds".into(), seconds.into());
                }
                if query.has("propagationPolicy") {
                    map.insert("propagationPolicy".into(), query.get("propagationPolicy").into());
                }
                if query.has("orphanDependents") {
                    map.insert("orphanDependents".into(), query.flag("orphanDependents").into());
                }
                let dry: Vec<Value> = query.all("dryRun").map(Value::from).collect();
                if !dry.is_empty() {
                    map.insert("dryRun".into(), dry.into());
                }
                map
            }
            _ => return Err(ApiError::bad_request("the body of a delete request must be DeleteOptions")),
        };
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let propagation = match text(object.get("propagationPolicy")).as_deref() {
            None | Some("") => None,
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                return Err(refuse(FieldError::not_supported(&policy, other, &supported)));
            }
        };
        let orphan_dependents = object.get("orphanDependents").and_then(Value::as_bool);
        if propagation.is_some() && orphan_dependents.is_some() {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            return Err(refuse(FieldError::invalid(&policy, policy.as_str(), detail)));
        }
        let values = object.get("dryRun").and_then(Value::as_array).into_iter().flatten();
        let dry = dry_run(values.filter_map(Value::as_str).map(str::to_owned).collect()).map_err(refuse)?;
        let preconditions = object.get("preconditions").cloned().unwrap_or_default();
        object.insert("apiVersion".into(), "meta.k8s.io/v1".into());
        object.insert("kind".into(), "DeleteOptions".into());
        let legacy = orphan_dependents.map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background });
        Ok(Self {
            // A negative period is taken as one second.
            grace_period_seconds: object
                .get("gracePeriodSeconds")
                .and_then(Value::as_i64)
                .map(|s| if s < 0 { 1 } else { s }),
            propagation: propagation.or(legacy),
            orphan_dependents,
            uid: text(preconditions.get("uid")),
            resource_version: text(preconditions.get("resourceVersion")),
            dry_run: dry,
            object: Value::Object(object),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("a=1%202&b&labelSelector=x+in+(a%2Cb)&a=z&bad=%zz");
        assert_eq!(query.get("a"), "1 2");
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1 2", "z"]);
        assert!(query.flag("b") && query.has("b") && !query.has("c"));
        assert_eq!(query.get("labelSelector"), "x in (a,b)");
        assert_eq!(query.get("bad"), "%zz");
    }

    #[test]
    fn what_revision_a_list_is_of() {
        use VersionMatch::*;
        let check = |query: &str, expect: Option<VersionMatch>| {
            let got = ListOptions::parse(&Query::parse(query)).and_then(|o| o.version_match());
            assert_eq!(got.ok(), expect, "{query}");
        };
        check("", Some(MostRecent));
        check("resourceVersion=0", Some(NotOlderThan(0)));
        check("resourceVersion=5", Some(NotOlderThan(5)));
        check("resourceVersion=5&limit=3", Some(Exact(5)));
        check("resourceVersion=5&limit=3&resourceVersionMatch=NotOlderThan", Some(NotOlderThan(5)));
        check("resourceVersion=5&resourceVersionMatch=Exact", Some(Exact(5)));
        for bad in [
            "resourceVersion=x",
            "resourceVersion=0&resourceVersionMatch=Exact",
            "resourceVersionMatch=Exact",
            "resourceVersion=5&resourceVersionMatch=Other",
            "resourceVersion=5&resourceVersionMatch=Exact&continue=abc",
            "sendInitialEvents=true",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn delete_options_come_from_body_or_query() {
        let query = Query::parse("gracePeriodSeconds=5&propagationPolicy=Foreground");
        let options = DeleteOptions::parse(&query, Value::Null).unwrap();
        assert_eq!((options.grace_period_seconds, options.propagation), (Some(5), Some(Propagation::Foreground)));
        let body = json!({"preconditions": {"uid": "u"}, "orphanDependents": true, "dryRun": ["All"], "gracePeriodSeconds": -3});
        let options = DeleteOptions::parse(&query, body).unwrap();
        assert_eq!((options.grace_period_seconds, options.propagation), (Some(1), Some(Propagation::Orphan)));
        assert!(options.dry_run && options.uid.as_deref() == Some("u"));
        assert!(DeleteOptions::parse(&query, json!({"propagationPolicy": "Nope"})).is_err());
    }

    #[test]
    fn the_manager_is_named_after_the_user_agent() {
        let query = Query::parse("");
        assert_eq!(
            WriteOptions::parse(&query, "CreateOptions", "kubectl/v1.35 (linux)").unwrap().field_manager,
            "kubectl"
        );
        let query = Query::parse("fieldManager=me&dryRun=All&fieldValidation=Strict");
        let options = WriteOptions::parse(&query, "CreateOptions", "kubectl/v1.35").unwrap();
        assert_eq!(
            (options.field_manager.as_str(), options.dry_run, options.field_validation),
            ("me", true, FieldValidation::Strict)
        );
        assert!(WriteOptions::parse(&Query::parse("dryRun=Some"), "CreateOptions", "").is_err());
    }
}
