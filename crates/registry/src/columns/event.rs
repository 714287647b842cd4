//! Events.

use super::cell::{Column, Printer};
use kybern_apimachinery::{Value, object};

use super::cell::{name, object_name, since, string, wide};
use crate::tree::{has, int, text};

pub(super) const EVENTS: Printer = Printer {
    definitions: &[
        string("Last Seen"),
        string("Type"),
        string("Reason"),
        string("Object"),
        wide("Subobject"),
        wide("Source"),
        string("Message"),
        wide("First Seen"),
        wide("Count"),
        Column { priority: 1, ..name() },
    ],
    cells,
};

fn cells(event: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let or_event_time = |field: &str| if has(event, field) { text(event, field) } else { text(event, "eventTime") };
    let first = since(or_event_time("firstTimestamp"), now);
    let (last, count) = if has(event, "series") {
        (
            since(object::str_at(event, &["series", "lastObservedTime"]), now),
            int(&event["series"], "count").unwrap_or(0),
        )
    } else {
        (since(or_event_time("lastTimestamp"), now), int(event, "count").unwrap_or(0))
    };
    let about = &event["involvedObject"];
    let target = if text(about, "name").is_empty() {
        text(about, "kind").to_lowercase()
    } else {
        format!("{}/{}", text(about, "kind").to_lowercase(), text(about, "name"))
    };
    let source = &event["source"];
    let (component, host) = match text(source, "component") {
        "" => (text(event, "reportingComponent"), text(event, "reportingInstance")),
        component => (component, text(source, "host")),
    };
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    vec![
        last.into(),
        text(event, "type").into(),
        text(event, "reason").into(),
        target.into(),
        text(about, "fieldPath").into(),
        source.into(),
        text(event, "message").trim().into(),
        first.into(),
        // One that was not counted happened once.
        count.max(1).into(),
        object_name(event),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn both_generations_of_events_show() {
        let now = "2026-11-20T00:10:00Z".parse().unwrap();
        let old = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "type": "Normal", "reason": "Pulled",
            "message": "m\n", "firstTimestamp": "2026-11-20T00:00:00Z", "lastTimestamp": "2026-11-20T00:09:00Z", "count": 4,
            "source": {"component": "kubelet", "host": "n"}});
        let expect = json!(["60s", "Normal", "Pulled", "pod/p", "", "kubelet, n", "m", "10m", 4, "e"]);
        assert_eq!(Value::from(cells(&old, now)), expect);
        let new = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "eventTime": "2026-11-20T00:08:00.000001Z",
            "reportingComponent": "scheduler"});
        assert_eq!(cells(&new, now)[0], "2m");
    }
}
