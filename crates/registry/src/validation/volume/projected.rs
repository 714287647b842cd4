//! Volumes that show the pod's own data, and those that are put together from several sources.

use std::collections::BTreeSet;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};

use super::source::{items, mode};
use crate::tree::{has, int, list, text};
use crate::validation::env;
use crate::validation::format::{self, Errors};

/// The fields that downward API volumes may show.
const FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// `path` is the volume's: upstream does not count the files.
fn downward_file(out: &mut Errors, path: &FieldPath, file: &Value) {
    let name = text(file, "path");
    if name.is_empty() {
        out.push(FieldError::required(&path.child("path"), ""));
    }
    format::local_unreserved_path(out, &path.child("path"), name);
    if has(file, "fieldRef") {
        env::field_reference(out, &path.child("fieldRef"), &file["fieldRef"], &FIELDS);
        if has(file, "resourceFieldRef") {
            let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
            out.push(FieldError::invalid(path, "resource", detail));
        }
    } else if has(file, "resourceFieldRef") {
        env::resource_reference(out, &path.child("resourceFieldRef"), &file["resourceFieldRef"], true);
    } else {
        out.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required"));
    }
    mode(out, path, file, "mode");
}

pub(super) fn downward_api(out: &mut Errors, path: &FieldPath, value: &Value) {
    mode(out, path, value, "defaultMode");
    for file in list(value, "items") {
        downward_file(out, path, file);
    }
}

pub(super) fn projected(out: &mut Errors, path: &FieldPath, value: &Value) {
    mode(out, path, value, "defaultMode");
    let mut paths = BTreeSet::new();
    for (i, source) in list(value, "sources").iter().enumerate() {
        let at = path.child("sources").index(i);
        let mut kinds = 0;
        // A path that is taken is told of with the name of what would be put there.
        let mut place = |out: &mut Errors, file: &Value, name: &str| {
            let file = text(file, "path");
            if !file.is_empty() && !paths.insert(file.to_owned()) {
                out.push(FieldError::invalid(path, name, "conflicting duplicate paths"));
            }
        };
        for kind in ["secret", "configMap"] {
            let Some(source) = source.get(kind).filter(|s| !s.is_null()) else { continue };
            kinds += 1;
            if text(source, "name").is_empty() {
                out.push(FieldError::required(&at.child(kind).child("name"), ""));
            }
            items(out, &at.child(kind), source);
            for item in list(source, "items") {
                place(out, item, text(source, "name"));
            }
        }
        if has(source, "downwardAPI") {
            kinds += 1;
            for file in list(&source["downwardAPI"], "items") {
                downward_file(out, &at.child("downwardAPI"), file);
                place(out, file, text(file, "path"));
            }
        }
        if has(source, "serviceAccountToken") {
            kinds += 1;
            token(out, path, &at.child("serviceAccountToken"), &source["serviceAccountToken"]);
        }
        if kinds > 1 {
            out.push(FieldError::forbidden(&at, "may not specify more than 1 volume type per source"));
        }
    }
}

/// `path` is the source's, `volume` the volume's, which upstream has in the path of the file.
fn token(out: &mut Errors, volume: &FieldPath, path: &FieldPath, token: &Value) {
    let seconds = int(token, "expirationSeconds").unwrap_or(3600);
    let wrong = match seconds {
        ..600 => Some("may not specify a duration less than 10 minutes"),
        4_294_967_297.. => Some("may not specify a duration larger than 2^32 seconds"),
        _ => None,
    };
    out.extend(wrong.map(|detail| FieldError::invalid(&path.child("expirationSeconds"), seconds, detail)));
    match text(token, "path") {
        "" => out.push(FieldError::required(&volume.child("path"), "")),
        file => format::local_unreserved_path(out, &volume.child("path"), file),
    }
}
