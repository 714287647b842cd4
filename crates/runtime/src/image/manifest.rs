//! The documents of the OCI image spec and of Docker's schema 2, as far as the runtime reads them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::store::StoreError;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    #[serde(default)]
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// A manifest or an index: which one shows in what it has.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document {
    #[serde(default)]
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<Descriptor>,
}

impl Document {
    /// Reads a manifest or index, and refuses what is neither or both.
    pub(crate) fn read(digest: &str, bytes: &[u8]) -> Result<Document, StoreError> {
        let document: Document = parse(digest, bytes)?;
        let is_index = !document.manifests.is_empty();
        let is_manifest = document.config.is_some();
        let fault = match (is_manifest, is_index) {
            (true, false) | (false, true) => return Ok(document),
            // Two readers could take it for two different images.
            (true, true) => "is both a manifest and an index",
            (false, false) if document.schema_version == 1 => {
                "is of Docker's schema 1, which nobody supports any more: push the image again with a current client"
            }
            (false, false) => "is neither an image manifest nor an index",
        };
        Err(StoreError::Invalid(format!("{digest} {fault}")))
    }
}

/// Reads a document; the error names it.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(digest: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes)
        .map_err(|error| StoreError::Invalid(format!("{digest} is not a manifest or config: {error}")))
}

/// The image's config blob: what to run, and the digests of the unpacked layers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ConfigBlob {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub config: ImageConfig,
    #[serde(default)]
    pub rootfs: RootFs,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default)]
    pub diff_ids: Vec<String>,
}

/// How an image wants to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ImageConfig {
    pub user: String,
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    pub working_dir: String,
    pub stop_signal: String,
    /// A set, as Go writes one.
    #[serde(deserialize_with = "or_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
}

/// Go writes an absent list as `null`.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// This machine's architecture, as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Whether an entry of an index says that it is for other machines.
pub(crate) fn is_foreign(descriptor: &Descriptor) -> bool {
    descriptor.platform.as_ref().is_some_and(|p| p.os != "linux" || p.architecture != architecture())
}

/// The entry of an index for this machine.
pub(crate) fn choose(index: &Document) -> Result<&Descriptor, StoreError> {
    choose_platform(&index.manifests).ok_or_else(|| {
        let platforms = index.manifests.iter().filter_map(|d| d.platform.as_ref()).filter(|p| p.os != "unknown");
        let mut listed: Vec<String> = platforms.map(|p| format!("{}/{}", p.os, p.architecture)).collect();
        listed.dedup();
        let listed = if listed.is_empty() { "none".to_owned() } else { listed.join(", ") };
        let own = architecture();
        StoreError::Invalid(format!(
            "no match for platform in manifest: this machine is linux/{own}, the image is for {listed}"
        ))
    })
}

fn choose_platform(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let architecture = architecture();
    let fits = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == architecture);
    // The plainest variant first: `v2` of amd64 may use instructions that this machine lacks.
    let plain = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| matches!(p.variant.as_str(), "" | "v8" | "v1"));
    let only = (manifests.len() == 1 && manifests[0].platform.is_none()).then(|| &manifests[0]);
    manifests.iter().filter(fits).find(plain).or_else(|| manifests.iter().find(fits)).or(only)
}

/// The chain ids of layers from their diff ids, bottom first (OCI image spec, "Layer ChainID").
pub(crate) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chains: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chains.push(match chains.last() {
            None => diff_id.clone(),
            Some(parent) => sha256(format!("{parent} {diff_id}").as_bytes()),
        });
    }
    chains
}

/// `sha256:…` of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    digest_text(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

/// `sha256:…` from a finished hash.
pub(crate) fn digest_text(hash: &[u8]) -> String {
    use std::fmt::Write;
    hash.iter().fold(String::from("sha256:"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_nulls_and_missing_parts() {
        let blob: ConfigBlob = serde_json::from_str(
            r#"{"config":{"Env":null,"Cmd":["a"],"Volumes":{"/x":{}}},"rootfs":{"type":"layers"}}"#,
        )
        .unwrap();
        assert_eq!(blob.config.cmd, ["a"]);
        assert!(blob.config.volumes.contains_key("/x"));
        assert!(blob.config.env.is_empty() && blob.rootfs.diff_ids.is_empty());
    }

    #[test]
    fn platforms() {
        let own = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let make = |digest: &str, platform: Option<(&str, &str, &str)>| Descriptor {
            digest: digest.into(),
            platform: platform.map(|(os, arch, variant)| Platform {
                os: os.into(),
                architecture: arch.into(),
                variant: variant.into(),
            }),
            ..Default::default()
        };
        let list = [
            make("a", Some(("windows", own, ""))),
            make("b", Some(("linux", "s390x", ""))),
            make("c", Some(("linux", own, "v3"))),
            make("d", Some(("linux", own, ""))),
        ];
        assert_eq!(choose_platform(&list).unwrap().digest, "d");
        assert_eq!(choose_platform(&list[..3]).unwrap().digest, "c");
        assert!(choose_platform(&list[..2]).is_none());
        let index = Document { manifests: list[..2].to_vec(), ..Default::default() };
        let error = choose(&index).unwrap_err().to_string();
        let end = format!("this machine is linux/{own}, the image is for windows/{own}, linux/s390x");
        assert!(error.ends_with(&end), "{error}");
        assert_eq!(list.iter().map(is_foreign).collect::<Vec<_>>(), [true, true, false, false]);
        assert!(!is_foreign(&make("e", None)));
        assert_eq!(choose_platform(&[make("e", None)]).unwrap().digest, "e");
    }

    #[test]
    fn documents() {
        let check = |text: &str, expect: Option<&str>| {
            let error = Document::read("sha256:x", text.as_bytes()).err().map(|error| error.to_string());
            assert!(
                expect == error.as_deref() || error.as_deref().is_some_and(|e| e.contains(expect.unwrap_or("-"))),
                "{error:?}"
            );
        };
        check(r#"{"config":{"digest":"a"},"layers":[]}"#, None);
        check(r#"{"manifests":[{"digest":"a"}]}"#, None);
        check(r#"{"manifests":[{"digest":"a"}],"config":{"digest":"a"}}"#, Some("both"));
        check(r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#, Some("schema 1"));
        check("{}", Some("neither"));
        check("<html>", Some("is not a manifest or config"));
        check(r#"{"manifests":3}"#, Some("is not a manifest or config"));
    }

    #[test]
    fn chains() {
        let (a, b) = (sha256(b"a"), sha256(b"b"));
        assert_eq!(a, "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb");
        let chains = chain_ids(&[a.clone(), b.clone()]);
        assert_eq!(chains, [a.clone(), sha256(format!("{a} {b}").as_bytes())]);
    }
}
