//! Warnings of files of a volume that lie in each other's way.

use kybern_apimachinery::Value;

use crate::tree::{has, list, text};

struct Place {
    path: String,
    source: String,
}

impl Place {
    fn new(path: &str, source: String) -> Self {
        Self { path: path.trim_end_matches('/').to_owned(), source }
    }

    fn show(&self) -> String {
        if self.source.is_empty() { format!("{:?}", self.path) } else { format!("{:?} ({})", self.path, self.source) }
    }

    fn meets(&self, other: &Self) -> bool {
        let inside = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
        let named = !self.path.is_empty() && !other.path.is_empty();
        named && (self.path == other.path || inside(&self.path, &other.path) || inside(&other.path, &self.path))
    }
}

/// The pairs of places that meet, each told by the later one.
fn collisions(places: &[Place]) -> Vec<String> {
    let mut out = Vec::new();
    for (i, place) in places.iter().enumerate() {
        let met = places[..i].iter().filter(|earlier| earlier.meets(place));
        out.extend(met.map(|earlier| format!("{} with {}", place.show(), earlier.show())));
    }
    out
}

fn items(owner: &Value, source: &str) -> Vec<Place> {
    list(owner, "items").iter().map(|item| Place::new(text(item, "path"), source.to_owned())).collect()
}

/// The files of one source of a projected volume.
fn projected(source: &Value) -> Vec<Place> {
    let token = &source["serviceAccountToken"];
    for (kind, what) in [("configMap", "ConfigMap"), ("secret", "Secret")] {
        if !list(&source[kind], "items").is_empty() {
            return items(&source[kind], &format!("{what} {:?}", text(&source[kind], "name")));
        }
    }
    if !list(&source["downwardAPI"], "items").is_empty() {
        return items(&source["downwardAPI"], "DownwardAPI");
    }
    if has(source, "serviceAccountToken") {
        return vec![Place::new(text(token, "path"), "ServiceAccountToken".to_owned())];
    }
    Vec::new()
}

pub(super) fn volumes(out: &mut Vec<String>, spec: &Value) {
    for volume in list(spec, "volumes") {
        let name = text(volume, "name");
        let mut tell = |what: &str, places: &[Place]| {
            let found = collisions(places).into_iter();
            out.extend(found.map(|pair| format!("volume {name:?} ({what}): overlapping paths: {pair}")));
        };
        let (config_map, secret) = (&volume["configMap"], &volume["secret"]);
        tell(&format!("ConfigMap {:?}", text(config_map, "name")), &items(config_map, ""));
        tell(&format!("Secret {:?}", text(secret, "secretName")), &items(secret, ""));
        tell("DownwardAPI", &items(&volume["downwardAPI"], ""));
        let sources = list(&volume["projected"], "sources");
        tell("Projected", &sources.iter().flat_map(projected).collect::<Vec<_>>());
        for source in sources {
            if source.as_object().is_none_or(|s| s.values().all(Value::is_null)) {
                out.push(format!("volume {name:?} (Projected) has no sources provided"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn files_in_files() {
        let spec = json!({"volumes": [{"name": "v", "configMap": {"name": "c", "items": [{"path": "a"}, {"path": "a/b"}, {"path": "ab"}]}}]});
        let mut out = Vec::new();
        volumes(&mut out, &spec);
        assert_eq!(out, ["volume \"v\" (ConfigMap \"c\"): overlapping paths: \"a/b\" with \"a\""]);
    }
}
