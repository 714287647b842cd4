//! `cargo xtask schema --facts DIR --go DIR`: writes the shape table of crate `schema` from published API facts.
//!
//! `--facts` holds `swagger-v1.35.json` (types, required, merge facts, verbs), `defaults-v1.35.json`,
//! `protobuf-fields-v1.35.json` (checked against), `discovery-v1.35.json` (short names, categories, group order).
//! `--go` holds the Go packages `k8s.io/{api,apimachinery,apiextensions-apiserver,kube-aggregator}` of the same release:
//! only their struct tags and field types are read (pointers, `omitempty`, inlining, field numbers, named types).
//!
//! The table's format is described where it is parsed, in `crates/schema/src/table.rs`.

mod go;
mod resources;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Kinds that are no resource but cross the wire: package suffix of the OpenAPI name, then the API group and version.
const EXTRA_KINDS: &[(&str, &str, &str, &[&str])] = &[
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1",
        "",
        "v1",
        &[
            "APIGroup",
            "APIGroupList",
            "APIResourceList",
            "APIVersions",
            "CreateOptions",
            "DeleteOptions",
            "GetOptions",
            "List",
            "ListOptions",
            "PatchOptions",
            "Status",
            "UpdateOptions",
            "WatchEvent",
        ],
    ),
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1",
        "meta.k8s.io",
        "v1",
        &["PartialObjectMetadata", "PartialObjectMetadataList", "Table", "TableOptions"],
    ),
    (
        "io.k8s.api.core.v1",
        "",
        "v1",
        &[
            "NodeProxyOptions",
            "PodAttachOptions",
            "PodExecOptions",
            "PodLogOptions",
            "PodPortForwardOptions",
            "PodProxyOptions",
            "RangeAllocation",
            "SerializedReference",
            "ServiceProxyOptions",
        ],
    ),
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1beta1",
        "meta.k8s.io",
        "v1beta1",
        &["PartialObjectMetadata", "PartialObjectMetadataList", "Table", "TableOptions"],
    ),
    ("io.k8s.api.admission.v1", "admission.k8s.io", "v1", &["AdmissionReview"]),
    ("io.k8s.api.admission.v1beta1", "admission.k8s.io", "v1beta1", &["AdmissionReview"]),
    ("io.k8s.api.apidiscovery.v2", "apidiscovery.k8s.io", "v2", &["APIGroupDiscovery", "APIGroupDiscoveryList"]),
    (
        "io.k8s.api.apidiscovery.v2beta1",
        "apidiscovery.k8s.io",
        "v2beta1",
        &["APIGroupDiscovery", "APIGroupDiscoveryList"],
    ),
    ("io.k8s.api.imagepolicy.v1alpha1", "imagepolicy.k8s.io", "v1alpha1", &["ImageReview"]),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1", "apiextensions.k8s.io", "v1", &["ConversionReview"]),
];

pub(super) fn run(arguments: &[String]) -> Result<()> {
    let option = |name: &str| -> Result<PathBuf> {
        let at = arguments.iter().position(|a| a == name).with_context(|| format!("{name} DIR is missing"))?;
        Ok(arguments.get(at + 1).with_context(|| format!("{name} needs a directory"))?.into())
    };
    let (facts, go_root) = (option("--facts")?, option("--go")?);
    let read = |name: &str| -> Result<Value> {
        let path = facts.join(name);
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))
    };
    let swagger = read("swagger-v1.35.json")?;
    let go = go::Sources::read(&go_root)?;
    let out = Path::new("crates/schema/table");
    if !out.is_dir() {
        bail!("run this at the root of the workspace: {} does not exist", out.display());
    }

    let mut writer =
        table::Writer::new(&swagger, read("defaults-v1.35.json")?, read("protobuf-fields-v1.35.json")?, &go);
    let extra = EXTRA_KINDS.iter().flat_map(|(package, group, version, kinds)| {
        kinds.iter().map(move |kind| table::Kind::new(group, version, kind, &format!("{package}.{kind}")))
    });
    let kinds: Vec<_> = table::swagger_kinds(&swagger).into_iter().chain(extra).collect();
    let text = writer.write(&kinds)?;
    std::fs::write(out.join("v1.35.txt"), text)?;

    // What fixtures of older API versions need; only the tests of crate `schema` read it.
    let served: std::collections::BTreeSet<&str> = kinds.iter().map(|k| k.definition.as_str()).collect();
    let retired: Vec<_> = fixture_kinds(&facts.join("objects-v1.35"), &go)?
        .into_iter()
        .filter(|k| !served.contains(k.definition.as_str()))
        .collect();
    let text = writer.write(&retired)?;
    std::fs::write(Path::new("crates/schema/tests").join("retired-v1.35.txt"), text)?;

    let rows = resources::write(&swagger, &read("discovery-v1.35.json")?)?;
    std::fs::write(out.join("resources-v1.35.txt"), rows)?;
    Ok(())
}

/// The kinds that the fixtures' file names (`group.version.Kind.json`) tell of, where the Go packages have them.
fn fixture_kinds(directory: &Path, go: &go::Sources) -> Result<Vec<table::Kind>> {
    let mut kinds = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        let Some(stem) = name.strip_suffix(".json").filter(|s| !s.contains("after_roundtrip")) else { continue };
        let Some((rest, kind)) = stem.rsplit_once('.') else { continue };
        let Some((group, version)) = rest.rsplit_once('.') else { continue };
        let short = group.split('.').next().unwrap_or_default();
        let definition = [
            format!("io.k8s.api.{short}.{version}.{kind}"),
            format!("io.k8s.apimachinery.pkg.apis.meta.{version}.{kind}"),
        ]
        .into_iter()
        .find(|d| go.has(d));
        if let Some(definition) = definition {
            let group = if group == "core" { "" } else { group };
            kinds.push(table::Kind::new(group, version, kind, &definition));
        } else {
            println!("no Go type for fixture {stem}");
        }
    }
    kinds.sort();
    Ok(kinds)
}
