//! Devices and claims to them.

use super::cell::Printer;
use kybern_apimachinery::{Value, object};

use super::cell::{age, name, object_name, since, string};
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
        let [node, driver, pool] = cells.map(Value::from);
        vec![object_name(s), node, driver, pool, age(s, now)]
    },
};

/// What is selected could be long; whoever makes a rule may say it in its name.
pub(super) const TAINT_RULES: Printer = Printer {
    definitions: &[name(), string("Key"), string("Value"), string("Effect"), string("TimeAdded"), string("Age")],
    cells: |r, now| {
        let taint = &r["spec"]["taint"];
        let [key, value, effect] = ["key", "value", "effect"].map(|field| Value::from(text(taint, field)));
        let added = if has(taint, "timeAdded") { since(text(taint, "timeAdded"), now) } else { String::new() };
        vec![object_name(r), key, value, effect, added.into(), age(r, now)]
    },
};
