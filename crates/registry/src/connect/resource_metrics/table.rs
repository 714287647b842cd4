//! Metrics in columns, as metrics-server shows them to `kubectl get podmetrics`.

use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::ACCEPT;
use kybern_apimachinery::quantity::Quantity;
use kybern_apimachinery::{Value, json, object};

/// Whether what a client likes best is a table.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let best: Vec<&str> = accepted.split(',').next().unwrap_or("").split(';').map(str::trim).collect();
    best[0] == "application/json" && ["as=Table", "v=v1", "g=meta.k8s.io"].iter().all(|wanted| best.contains(wanted))
}

/// The table of a list, or of one object.
pub(super) fn of(shown: &Value) -> Value {
    let items = shown["items"].as_array().map_or_else(|| vec![shown], |items| items.iter().collect());
    let usages: Vec<BTreeMap<&str, Quantity>> = items.iter().map(|item| usage(item)).collect();
    let resources: Vec<&str> = usages.first().into_iter().flat_map(|usage| usage.keys().copied()).collect();
    let column = |name: &str, format: &str| json!({"name": name, "type": "string", "format": format, "description": "", "priority": 0});
    let mut columns = vec![column("Name", "name")];
    columns.extend(resources.iter().map(|resource| column(resource, "quantity")));
    columns.push(column("Window", "duration"));
    let rows = items.iter().zip(&usages).map(|(item, usage)| {
        let mut cells = vec![json!(object::name(item))];
        cells.extend(resources.iter().map(|resource| json!(usage.get(resource).map(Quantity::to_string))));
        cells.push(item["window"].clone());
        json!({
            "cells": cells,
            "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"]},
        })
    });
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": shown.get("items").map_or(json!({}), |_| shown["metadata"].clone()),
        "columnDefinitions": columns, "rows": rows.collect::<Vec<_>>(),
    })
}

/// A node's usage, or that of a pod's containers together.
fn usage(item: &Value) -> BTreeMap<&str, Quantity> {
    let mut sum: BTreeMap<&str, Quantity> = BTreeMap::new();
    let containers = item["containers"].as_array().into_iter().flatten().map(|container| &container["usage"]);
    let amounts = containers.chain(item.get("usage")).filter_map(Value::as_object).flatten();
    for (resource, amount) in amounts {
        let Some(amount) = Quantity::of(amount) else { continue };
        let total = sum.remove(resource.as_str()).map_or(amount, |before| before.plus(amount));
        sum.insert(resource, total);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_shown_together() {
        let usage = |cpu: &str, memory: &str| json!({"usage": {"cpu": cpu, "memory": memory}});
        let pod = json!({
            "metadata": {"name": "p", "namespace": "n"}, "window": "10s",
            "containers": [usage("100m", "1Mi"), usage("250m", "3Mi")],
        });
        let table = of(&json!({"items": [pod], "metadata": {}}));
        assert_eq!(table["rows"][0]["cells"], json!(["p", "350m", "4Mi", "10s"]));
        let names: Vec<&Value> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
        assert_eq!(names, ["Name", "cpu", "memory", "Window"]);
        let node = json!({"metadata": {"name": "a"}, "window": "10s", "usage": {"cpu": "2", "memory": "5Gi"}});
        assert_eq!(of(&node)["rows"][0]["cells"], json!(["a", "2", "5Gi", "10s"]));
        assert_eq!(of(&json!({"items": [], "metadata": {}}))["rows"], json!([]));
    }

    #[test]
    fn who_likes_a_table_best_gets_one() {
        let asked = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, http::HeaderValue::from_static(accept));
            is_asked_for(&headers)
        };
        assert!(asked(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
        ));
        assert!(!asked("application/json"));
        assert!(!asked("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"));
        assert!(!asked("*/*"));
    }
}
