//! Objects that cannot be read: they stop nothing else, but are counted and say so themselves, by an event.

use std::sync::LazyLock;

use kybern_apimachinery::{Gvr, Value, object};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tracing::warn;

use crate::events::{EventRecorder, ObjectRef};
use crate::{Client, PartialMetadata};

type Counts = Family<[(&'static str, String); 2], Counter>;

/// Of all components of this process; the label tells them apart.
static COUNTS: LazyLock<Counts> = LazyLock::new(Counts::default);

/// Registers `informer_unreadable_objects_total`.
pub fn register_metrics(registry: &mut Registry) {
    let help = "Objects that an informer left out because it could not read them, by component and resource";
    registry.register("informer_unreadable_objects", help, COUNTS.clone());
}

/// Reports for one reflector.
pub(crate) struct Unreadable {
    client: Client,
    gvr: Gvr,
    /// Begun with the first report.
    recorder: Option<EventRecorder>,
}

impl Unreadable {
    pub(crate) fn new(client: Client, gvr: Gvr) -> Self {
        Self { client, gvr, recorder: None }
    }

    /// Counts and tells of an object, and answers with what can be read of it.
    pub(crate) fn report(&mut self, json: &[u8], cause: &dyn std::fmt::Display) -> Option<PartialMetadata> {
        let component = self.client.component().to_owned();
        COUNTS
            .get_or_create_owned(&[
                ("component", component.clone()),
                ("resource", self.gvr.group_resource().to_string()),
            ])
            .inc();
        let metadata = PartialMetadata::from_json(json).ok();
        let key = metadata.as_ref().map(PartialMetadata::key).unwrap_or_default();
        warn!(resource = %self.gvr, object = key, "leaving out an object that cannot be read: {cause}");
        let tree: Value = serde_json::from_slice(json).unwrap_or_default();
        // An event about an event could go on for ever.
        if let Some(metadata) = metadata.as_ref().filter(|m| !m.name.is_empty() && self.gvr.resource != "events") {
            let kind = object::kind(&tree);
            let about = ObjectRef {
                api_version: self.gvr.group_version().to_string(),
                kind: if kind.is_empty() { self.gvr.resource.clone() } else { kind.to_owned() },
                namespace: metadata.namespace.to_string(),
                name: metadata.name.to_string(),
                uid: metadata.uid.to_string(),
                resource_version: metadata.resource_version.to_string(),
                field_path: String::new(),
            };
            let recorder = self.recorder.get_or_insert_with(|| EventRecorder::new(self.client.clone(), &component, ""));
            recorder.warning(&about, "Unreadable", format!("{component} leaves this object out: {cause}"));
        }
        metadata
    }
}
