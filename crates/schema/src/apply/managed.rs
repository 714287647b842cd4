//! `metadata.managedFields`: who owns which fields.

use std::collections::BTreeMap;

use kybern_apimachinery::{Map, Value, object};

use super::set::FieldSet;

/// Upstream's limit of entries of operation `Update`; the oldest beyond it are merged.
const MAX_UPDATE_MANAGERS: usize = 10;
const ANCIENT_CHANGES: &str = "ancient-changes";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// What tells one entry from the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    pub manager: String,
    pub operation: Operation,
    pub subresource: String,
    /// Empty for appliers, who keep their entry when they turn to another version.
    pub update_version: String,
}

impl Identity {
    pub fn new(manager: &str, operation: Operation, subresource: &str, api_version: &str) -> Self {
        Self {
            manager: if manager.is_empty() { "unknown" } else { manager }.to_owned(),
            operation,
            subresource: subresource.to_owned(),
            update_version: if operation == Operation::Update { api_version } else { "" }.to_owned(),
        }
    }
}

/// As conflicts name a manager: `"kubectl" using apps/v1`, `"kube-controller-manager" with subresource "status" using v1`.
impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.manager)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        if self.operation == Operation::Update {
            write!(f, " using {}", self.update_version)?;
        }
        Ok(())
    }
}

/// What one manager owns, in the version it last wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Owned {
    pub api_version: String,
    /// RFC 3339, in UTC.
    pub time: Option<String>,
    pub fields: FieldSet,
}

/// All entries of one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ManagedFields(pub BTreeMap<Identity, Owned>);

impl ManagedFields {
    /// Reads an object's `metadata.managedFields`; none are none.
    pub fn of(object: &Value) -> Result<Self, String> {
        let entries = object::at(object, &["metadata", "managedFields"]).unwrap_or(&Value::Null);
        Self::decode(entries)
    }

    fn decode(entries: &Value) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for (index, entry) in entries.as_array().into_iter().flatten().enumerate() {
            let text = |field: &str| entry[field].as_str().unwrap_or("");
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err("operation must be `Apply` or `Update`".to_owned()),
            };
            let api_version = text("apiVersion");
            if api_version.is_empty() {
                return Err("apiVersion must not be empty".to_owned());
            }
            match text("fieldsType") {
                "FieldsV1" => {}
                "" => return Err(format!("missing fieldsType in managed fields entry {index}")),
                other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {index}")),
            }
            let fields = match &entry["fieldsV1"] {
                Value::Null => FieldSet::default(),
                fields => FieldSet::from_fields_v1(fields).map_err(|e| format!("error decoding set: {e}"))?,
            };
            // An entry for no manager at all keeps its empty name.
            let mut identity = Identity::new(text("manager"), operation, text("subresource"), api_version);
            text("manager").clone_into(&mut identity.manager);
            let time = entry["time"].as_str().map(str::to_owned);
            all.insert(identity, Owned { api_version: api_version.to_owned(), time, fields });
        }
        Ok(Self(all))
    }

    /// Writes `metadata.managedFields`, sorted as upstream does; leaves it out when there are none.
    pub fn store(&self, object: &mut Value) {
        if self.0.is_empty() {
            object::remove(object, &["metadata", "managedFields"]);
            return;
        }
        let mut entries: Vec<(&Identity, &Owned)> = self.0.iter().collect();
        entries.sort_by(|(a, x), (b, y)| {
            (a.operation, &x.time, &a.manager, &x.api_version, &a.subresource).cmp(&(
                b.operation,
                &y.time,
                &b.manager,
                &y.api_version,
                &b.subresource,
            ))
        });
        let entries = entries.into_iter().map(|(identity, owned)| {
            entry(identity, &owned.api_version, owned.time.as_deref(), owned.fields.to_fields_v1())
        });
        let entries = entries.collect();
        object::set(object, &["metadata", "managedFields"], Value::Array(entries));
    }

    /// Merges the oldest entries of updaters into one per version until there are no more than the limit.
    pub(super) fn cap(&mut self) {
        let mut updaters: Vec<(Option<String>, Identity)> = self
            .0
            .iter()
            .filter(|(identity, _)| identity.operation == Operation::Update)
            .map(|(identity, owned)| (owned.time.clone(), identity.clone()))
            .collect();
        let mut count = updaters.len();
        if count <= MAX_UPDATE_MANAGERS {
            return;
        }
        updaters.sort();
        let mut first_of: BTreeMap<String, Identity> = BTreeMap::new();
        for (time, identity) in updaters {
            if count <= MAX_UPDATE_MANAGERS {
                return;
            }
            let version = identity.update_version.clone();
            let bucket = Identity::new(ANCIENT_CHANGES, Operation::Update, "", &version);
            let Some(first) = first_of.get(&version) else {
                first_of.insert(version, identity);
                continue;
            };
            if !self.0.contains_key(&bucket)
                && let Some(owned) = self.0.remove(first)
            {
                self.0.insert(bucket.clone(), owned);
            }
            let merged = (identity != bucket).then(|| self.0.remove(&identity)).flatten();
            if let (Some(merged), Some(into)) = (merged, self.0.get_mut(&bucket)) {
                into.fields.extend(&merged.fields);
                into.time = time;
                count -= 1;
            }
        }
    }

    pub(super) fn drop_empty(&mut self) {
        self.0.retain(|_, owned| !owned.fields.is_empty());
    }
}

/// One entry of `metadata.managedFields`, given what it owns as `FieldsV1`.
pub(super) fn entry(identity: &Identity, api_version: &str, time: Option<&str>, fields: Value) -> Value {
    let mut entry = Map::new();
    let mut put = |key: &str, value: Value| entry.insert(key.to_owned(), value);
    put("apiVersion", api_version.into());
    put("fieldsType", "FieldsV1".into());
    put("fieldsV1", fields);
    if !identity.manager.is_empty() {
        put("manager", identity.manager.as_str().into());
    }
    put("operation", identity.operation.as_str().into());
    if !identity.subresource.is_empty() {
        put("subresource", identity.subresource.as_str().into());
    }
    if let Some(time) = time {
        put("time", time.into());
    }
    Value::Object(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn entry(manager: &str, operation: &str, time: &str) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "v1", "time": time, "fieldsType": "FieldsV1", "fieldsV1": {"f:x": {}}})
    }

    #[test]
    fn entries_are_sorted_and_survive() {
        let entries = json!([
            entry("z", "Apply", "2026-01-02T00:00:00Z"),
            entry("b", "Update", "2026-01-01T00:00:00Z"),
            entry("a", "Update", "2026-01-02T00:00:00Z")
        ]);
        let mut object = json!({"metadata": {"managedFields": [entries[2], entries[1], entries[0]]}});
        ManagedFields::of(&object).unwrap().store(&mut object);
        assert_eq!(object["metadata"]["managedFields"], entries);
    }

    #[test]
    fn malformed_entries() {
        let check = |field: &str, value: Value, expect: &str| {
            let mut entry = entry("a", "Update", "2026-01-01T00:00:00Z");
            entry[field] = value;
            assert_eq!(ManagedFields::decode(&json!([entry])).unwrap_err(), expect);
        };
        check("operation", json!("Frob"), "operation must be `Apply` or `Update`");
        check("apiVersion", json!(""), "apiVersion must not be empty");
        check("fieldsType", Value::Null, "missing fieldsType in managed fields entry 0");
        check("fieldsType", json!("V2"), "invalid fieldsType \"V2\" in managed fields entry 0");
        check("fieldsV1", json!({"f:a": 1}), "error decoding set: FieldsV1 must hold an object at \"f:a\"");
    }

    #[test]
    fn old_updaters_are_merged() {
        let mut all = ManagedFields::default();
        for n in 0..13 {
            let owned = Owned {
                api_version: "v1".to_owned(),
                time: Some(format!("2026-01-01T00:00:{n:02}Z")),
                fields: FieldSet::of_fields(&[&[&format!("field{n}")]]),
            };
            all.0.insert(Identity::new(&format!("m{n}"), Operation::Update, "", "v1"), owned);
        }
        let everything =
            |all: &ManagedFields| all.0.values().fold(FieldSet::default(), |set, owned| set.union(&owned.fields));
        let before = everything(&all);
        all.cap();
        assert_eq!(all.0.len(), MAX_UPDATE_MANAGERS);
        assert_eq!(everything(&all), before);
        let ancient = &all.0[&Identity::new(ANCIENT_CHANGES, Operation::Update, "", "v1")];
        assert_eq!(ancient.fields, FieldSet::of_fields(&[&["field0"], &["field1"], &["field2"], &["field3"]]));
        assert_eq!(ancient.time.as_deref(), Some("2026-01-01T00:00:03Z"));
        let again = all.clone();
        all.cap();
        assert_eq!(all, again);
    }
}
