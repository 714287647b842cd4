//! Devices and claims to them.

use super::cell::Printer;
use kybern_apimachinery::object;

use super::cell::{age, name, object_name, string};
use crate::tree::{has, list, text};

pub(super) const CLAIMS: Printer = Printer {
    definitions: &[name(), string("State"), string("Age")],
    cells: |c, now| {
        let (status, deleted) = (&c["status"], object::is_deleting(c));
        let allocated = has(status, "allocation");
        let states = [
            (deleted, "deleted"),
            (!allocated && !deleted, "pending"),
            (allocated, "allocated"),
            (allocated && !list(status, "reservedFor").is_empty(), "reserved"),
        ];
        let states: Vec<&str> = states.into_iter().filter(|(holds, _)| *holds).map(|(_, state)| state).collect();
        vec![object_name(c), states.join(",").into(), age(c, now)]
    },
};

pub(super) const SLICES: Printer = Printer {
    definitions: &[name(), string("Node"), string("Driver"), string("Pool"), string("Age")],
    cells: |s, now| {
        let spec = &s["spec"];
        let cells = [text(spec, "nodeName"), text(spec, "driver"), text(&spec["pool"], "name")];
        let [node, driver, pool] = cells.map(kybern_apimachinery::Value::from);
        vec![object_name(s), node, driver, pool, age(s, now)]
    },
};
