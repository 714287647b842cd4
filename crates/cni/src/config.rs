//! Network configurations: `*.conflist`, and single plugins as `*.conf` or `*.json` (specification, "Network configuration").

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::CniError;

/// The versions of the specification that are spoken.
pub const SUPPORTED_VERSIONS: [&str; 6] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "1.1"];

/// A network: a chain of plugins.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkConfig {
    pub name: String,
    pub cni_version: String,
    pub disable_check: bool,
    /// The plugins' configurations as written.
    pub plugins: Vec<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfList {
    #[serde(default)]
    name: String,
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    disable_check: Value,
    #[serde(default)]
    plugins: Vec<Map<String, Value>>,
}

/// Loads the network of a directory: that of the file whose name is lexically first.
pub fn load_dir(dir: &Path) -> Result<NetworkConfig, CniError> {
    let mut files: Vec<PathBuf> = match std::fs::read_dir(dir) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_config(path)).collect(),
        Err(_) => Vec::new(),
    };
    files.sort();
    let file = files.first().ok_or_else(|| CniError::NoNetwork(dir.to_owned()))?;
    load_file(file)
}

fn is_config(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "conflist" || e == "conf" || e == "json")
}

fn load_file(file: &Path) -> Result<NetworkConfig, CniError> {
    let error = |cause: String| CniError::Config { file: file.to_owned(), cause };
    let bytes = std::fs::read(file).map_err(|e| error(e.to_string()))?;
    parse(&bytes, file.extension().is_some_and(|e| e == "conflist")).map_err(error)
}

/// Reads a configuration list, or a single plugin's configuration as a list of one.
pub fn parse(bytes: &[u8], is_list: bool) -> Result<NetworkConfig, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let list = is_list || value.get("plugins").is_some();
    let parsed: ConfList = serde_json::from_value(value.clone()).map_err(|e| e.to_string())?;
    let plugins = match value {
        _ if list => parsed.plugins,
        Value::Object(plugin) => vec![plugin],
        _ => return Err("not a JSON object".into()),
    };
    if parsed.name.is_empty() {
        return Err("no \"name\": every network has one".into());
    }
    if plugins.is_empty() {
        return Err("no plugins in list".into());
    }
    if let Some(i) = plugins.iter().position(|p| p.get("type").and_then(Value::as_str).is_none_or(str::is_empty)) {
        return Err(format!("plugin {i} has no \"type\""));
    }
    let version = if parsed.cni_version.is_empty() { "0.3.1".to_owned() } else { parsed.cni_version };
    if !SUPPORTED_VERSIONS.contains(&version.as_str()) {
        return Err(format!(
            "incompatible CNI versions; config is {version:?}, plugin supports {SUPPORTED_VERSIONS:?}"
        ));
    }
    let disable_check = parsed.disable_check == json!(true) || parsed.disable_check == json!("true");
    Ok(NetworkConfig { name: parsed.name, cni_version: version, disable_check, plugins })
}

/// What one plugin of a chain gets on its standard input.
pub fn plugin_input(
    network: &NetworkConfig,
    plugin: &Map<String, Value>,
    capability_args: &Map<String, Value>,
    prev: Option<&Value>,
) -> Value {
    let mut input = plugin.clone();
    input.insert("name".into(), json!(network.name));
    input.insert("cniVersion".into(), json!(network.cni_version));
    let wanted = plugin.get("capabilities").and_then(Value::as_object);
    let runtime: Map<String, Value> = capability_args
        .iter()
        .filter(|(name, _)| wanted.and_then(|w| w.get(*name)) == Some(&json!(true)))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    input.remove("capabilities");
    if !runtime.is_empty() {
        input.insert("runtimeConfig".into(), Value::Object(runtime));
    }
    if let Some(prev) = prev {
        input.insert("prevResult".into(), prev.clone());
    }
    Value::Object(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_configuration_says_what_is_wrong() {
        for (text, expect) in [
            ("{", "EOF"),
            (r#"{"cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}"#, "no \"name\""),
            (r#"{"cniVersion":"1.0.0","name":"a","plugins":[]}"#, "no plugins in list"),
            (r#"{"cniVersion":"1.0.0","name":"a","plugins":[{}]}"#, "plugin 0 has no \"type\""),
            (r#"{"cniVersion":"9.0.0","name":"a","plugins":[{"type":"bridge"}]}"#, "incompatible CNI versions"),
        ] {
            let error = parse(text.as_bytes(), true).unwrap_err();
            assert!(error.contains(expect), "{text}: {error}");
        }
    }

    #[test]
    fn the_lexically_first_file_wins_and_a_single_plugin_is_a_list_of_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(load_dir(dir.path()), Err(CniError::NoNetwork(_))));
        std::fs::write(dir.path().join("20-b.conflist"), r#"{"name":"b","plugins":[{"type":"x"}]}"#).unwrap();
        std::fs::write(dir.path().join("10-a.conf"), r#"{"name":"a","type":"y","cniVersion":"0.4.0"}"#).unwrap();
        std::fs::write(dir.path().join("00-readme.txt"), "not one").unwrap();
        let network = load_dir(dir.path()).unwrap();
        assert_eq!((network.name.as_str(), network.plugins.len()), ("a", 1));
    }

    #[test]
    fn a_plugin_gets_only_the_capabilities_it_asks_for() {
        let network = parse(br#"{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"a"},{"type":"b","capabilities":{"portMappings":true}}]}"#, true).unwrap();
        let args = json!({"portMappings": [1]});
        let args = args.as_object().unwrap();
        let first = plugin_input(&network, &network.plugins[0], args, None);
        assert_eq!(first, json!({"type": "a", "name": "n", "cniVersion": "1.0.0"}));
        let second = plugin_input(&network, &network.plugins[1], args, Some(&json!({})));
        assert_eq!(second["runtimeConfig"], json!({"portMappings": [1]}));
        assert_eq!(second["prevResult"], json!({}));
    }
}
