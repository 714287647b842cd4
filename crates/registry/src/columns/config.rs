//! Configuration and limits.

use super::cell::Printer;
use kybern_apimachinery::Value;

use super::cell::{age, date, name, object_name, string};
use crate::tree::{map, text};

fn entries(object: &Value, field: &str) -> usize {
    map(object, field).count()
}

pub(super) const CONFIG_MAPS: Printer = Printer {
    definitions: &[name(), string("Data"), string("Age")],
    cells: |c, now| vec![object_name(c), (entries(c, "data") + entries(c, "binaryData")).into(), age(c, now)],
};

pub(super) const SECRETS: Printer = Printer {
    definitions: &[name(), string("Type"), string("Data"), string("Age")],
    cells: |s, now| vec![object_name(s), text(s, "type").into(), entries(s, "data").into(), age(s, now)],
};

pub(super) const RESOURCE_QUOTAS: Printer = Printer {
    definitions: &[name(), string("Request"), string("Limit"), string("Age")],
    cells: |q, now| {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, hard) in map(&q["status"], "hard") {
            let used = q["status"]["used"][name].as_str().unwrap_or("0");
            let text = format!("{name}: {used}/{}", hard.as_str().unwrap_or(""));
            if name.starts_with("limits.") { &mut limits } else { &mut requests }.push(text);
        }
        vec![object_name(q), requests.join(", ").into(), limits.join(", ").into(), age(q, now)]
    },
};

pub(super) const LIMIT_RANGES: Printer = Printer {
    definitions: &[name(), date("Created At")],
    cells: |r, _| {
        vec![object_name(r), kybern_apimachinery::object::str_at(r, &["metadata", "creationTimestamp"]).into()]
    },
};
