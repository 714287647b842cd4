//! Volumes, claims and classes.

use super::cell::Printer;
use kybern_apimachinery::{Value, object};

use super::cell::{age, boolean, integer, name, object_name, or_none, string, wide};
use crate::tree::{flag, has, list, text};

/// `RWO,ROX`.
fn modes(modes: &[Value]) -> String {
    let short =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    short.iter().filter(|(long, _)| modes.iter().any(|m| m == long)).map(|(_, s)| *s).collect::<Vec<_>>().join(",")
}

/// The class, by its field or the older annotation.
fn class(object: &Value) -> &str {
    object::annotation(object, "volume.beta.kubernetes.io/storage-class")
        .unwrap_or_else(|| object::str_at(object, &["spec", "storageClassName"]))
}

fn attributes_class(object: &Value) -> Value {
    match object::at(object, &["spec", "volumeAttributesClassName"]).and_then(Value::as_str) {
        Some(class) => class.into(),
        None => "<unset>".into(),
    }
}

fn or_unset(text: &str) -> Value {
    if text.is_empty() { "<unset>".into() } else { text.into() }
}

pub(super) const VOLUMES: Printer = Printer {
    definitions: &[
        name(),
        string("Capacity"),
        string("Access Modes"),
        string("Reclaim Policy"),
        string("Status"),
        string("Claim"),
        string("StorageClass"),
        string("VolumeAttributesClass"),
        string("Reason"),
        string("Age"),
        wide("VolumeMode"),
    ],
    cells: |v, now| {
        let (spec, status) = (&v["spec"], &v["status"]);
        let claim = &spec["claimRef"];
        let claim = if claim.is_object() {
            format!("{}/{}", text(claim, "namespace"), text(claim, "name"))
        } else {
            String::new()
        };
        let phase = if object::is_deleting(v) { "Terminating" } else { text(status, "phase") };
        vec![
            object_name(v),
            text(&spec["capacity"], "storage").into(),
            modes(list(spec, "accessModes")).into(),
            text(spec, "persistentVolumeReclaimPolicy").into(),
            phase.into(),
            claim.into(),
            class(v).into(),
            attributes_class(v),
            text(status, "reason").into(),
            age(v, now),
            or_unset(text(spec, "volumeMode")),
        ]
    },
};

pub(super) const CLAIMS: Printer = Printer {
    definitions: &[
        name(),
        string("Status"),
        string("Volume"),
        string("Capacity"),
        string("Access Modes"),
        string("StorageClass"),
        string("VolumeAttributesClass"),
        string("Age"),
        wide("VolumeMode"),
    ],
    cells: |c, now| {
        let (spec, status) = (&c["spec"], &c["status"]);
        let phase = if object::is_deleting(c) { "Terminating" } else { text(status, "phase") };
        let bound = !text(spec, "volumeName").is_empty();
        let (capacity, modes) = if bound {
            // No amount is the amount of nothing.
            let capacity = Some(text(&status["capacity"], "storage")).filter(|capacity| !capacity.is_empty());
            (capacity.unwrap_or("0"), modes(list(status, "accessModes")))
        } else {
            ("", String::new())
        };
        vec![
            object_name(c),
            phase.into(),
            text(spec, "volumeName").into(),
            capacity.into(),
            modes.into(),
            class(c).into(),
            attributes_class(c),
            age(c, now),
            or_unset(text(spec, "volumeMode")),
        ]
    },
};

pub(super) const CLASSES: Printer = Printer {
    definitions: &[
        name(),
        string("Provisioner"),
        string("ReclaimPolicy"),
        string("VolumeBindingMode"),
        string("AllowVolumeExpansion"),
        string("Age"),
    ],
    cells: |c, now| {
        let default =
            ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
                .iter()
                .any(|key| object::annotation(c, key) == Some("true"));
        let name = if default { format!("{} (default)", object::name(c)).into() } else { object_name(c) };
        let or = |field: &str, unset: &'static str| match text(c, field) {
            "" => unset.into(),
            given => Value::from(given),
        };
        let expansion = flag(c, "allowVolumeExpansion").into();
        vec![
            name,
            text(c, "provisioner").into(),
            or("reclaimPolicy", "Delete"),
            or("volumeBindingMode", "Immediate"),
            expansion,
            age(c, now),
        ]
    },
};

pub(super) const ATTACHMENTS: Printer = Printer {
    definitions: &[name(), string("Attacher"), string("PV"), string("Node"), string("Attached"), string("Age")],
    cells: |a, now| {
        let spec = &a["spec"];
        let attached = flag(&a["status"], "attached");
        let volume = text(&spec["source"], "persistentVolumeName");
        vec![
            object_name(a),
            text(spec, "attacher").into(),
            volume.into(),
            text(spec, "nodeName").into(),
            attached.into(),
            age(a, now),
        ]
    },
};

pub(super) const ATTRIBUTES_CLASSES: Printer = Printer {
    definitions: &[name(), string("DriverName"), string("Age")],
    cells: |c, now| vec![object_name(c), text(c, "driverName").into(), age(c, now)],
};

pub(super) const DRIVERS: Printer = Printer {
    definitions: &[
        name(),
        boolean("AttachRequired"),
        boolean("PodInfoOnMount"),
        boolean("StorageCapacity"),
        string("TokenRequests"),
        boolean("RequiresRepublish"),
        string("Modes"),
        string("Age"),
    ],
    cells: |d, now| {
        let spec = &d["spec"];
        let audiences: Vec<&str> = list(spec, "tokenRequests").iter().map(|t| text(t, "audience")).collect();
        let audiences = if has(spec, "tokenRequests") { audiences.join(",") } else { "<unset>".to_owned() };
        let modes: Vec<&str> = list(spec, "volumeLifecycleModes").iter().filter_map(Value::as_str).collect();
        let yes = |field: &str| Value::from(flag(spec, field));
        let modes = or_none(modes.join(","));
        vec![
            object_name(d),
            spec.get("attachRequired").and_then(Value::as_bool).unwrap_or(true).into(),
            yes("podInfoOnMount"),
            yes("storageCapacity"),
            audiences.into(),
            yes("requiresRepublish"),
            modes,
            age(d, now),
        ]
    },
};

pub(super) const CSI_NODES: Printer = Printer {
    definitions: &[name(), integer("Drivers"), string("Age")],
    cells: |n, now| vec![object_name(n), list(&n["spec"], "drivers").len().into(), age(n, now)],
};
