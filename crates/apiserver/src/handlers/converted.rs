//! Field selectors of kinds whose versions a webhook converts: they mean the version that is asked for, and what the cache
//! knows is the version that is stored. Nothing but the conversion can tell; so these objects are selected after it.

use std::sync::Arc;

use kybern_apimachinery::selector::FieldSelector;
use kybern_apimachinery::{ApiError, Value, object};

use crate::cache::{Entry, EventKind, WatchEvent};
use crate::convert;
use crate::resource::Resource;

/// What the cache cannot decide.
pub(super) struct Converted {
    row: Arc<Resource>,
    terms: Vec<Term>,
}

struct Term {
    path: Vec<String>,
    value: String,
    equal: bool,
}

/// Takes those terms of a selector that are about fields of a version, and leaves those that every version answers alike.
pub(super) fn split(row: &Arc<Resource>, fields: &mut FieldSelector) -> Option<Converted> {
    if row.schema.is_none() || row.conversion.is_none() {
        return None;
    }
    let mut terms = Vec::new();
    fields.terms.retain(|(path, value, equal)| {
        let known = row.stored.selectable.iter().find(|field| field.path == *path);
        let Some(field) = known else { return true };
        terms.push(Term { path: field.json_path.clone(), value: value.clone(), equal: *equal });
        false
    });
    (!terms.is_empty()).then(|| Converted { row: row.clone(), terms })
}

impl Converted {
    /// The selected ones of stored objects, by one conversion of all.
    pub(super) async fn select(&self, entries: Vec<Arc<Entry>>) -> Result<Vec<Arc<Entry>>, ApiError> {
        let stored = entries.iter().map(|entry| entry.value()).collect::<Result<Vec<Value>, _>>()?;
        let served = convert::convert_all(&self.row, stored, &self.row.api_version()).await?;
        Ok(entries.into_iter().zip(served).filter(|(_, served)| self.matches(served)).map(|(entry, _)| entry).collect())
    }

    /// What a watcher sees of an event: none where neither the state before nor the one after is selected.
    pub(super) async fn seen(&self, event: WatchEvent) -> Result<Option<WatchEvent>, ApiError> {
        // Who is told of an addition has not seen the object, whatever it was.
        let previous = event.previous().filter(|_| event.kind != EventKind::Added);
        let (has_previous, gone) = (previous.is_some(), event.kind == EventKind::Deleted);
        let both: Vec<Arc<Entry>> = previous.into_iter().chain((!gone).then(|| event.entry.clone())).collect();
        let selected = self.select(both.clone()).await?;
        let has = |entry: Option<&Arc<Entry>>| entry.is_some_and(|e| selected.iter().any(|s| Arc::ptr_eq(s, e)));
        let was = has_previous && has(both.first());
        let is = !gone && has(both.last());
        Ok(match (was, is) {
            (false, false) => None,
            (true, true) => Some(event.shown_as(EventKind::Modified)),
            (false, true) => Some(event.shown_as(EventKind::Added)),
            (true, false) => Some(event.gone()),
        })
    }

    fn matches(&self, served: &Value) -> bool {
        self.terms.iter().all(|term| {
            let path: Vec<&str> = term.path.iter().map(String::as_str).collect();
            let found = match object::at(served, &path) {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            (found == term.value) == term.equal
        })
    }
}
