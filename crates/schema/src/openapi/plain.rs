//! Paths that are no resources: those of discovery, of the program's version, and of whoever checks service accounts' tokens.
//! Each has a document of `/openapi/v3` of its own, but for those of groups' versions.

use kybern_apimachinery::GroupVersion;

use super::operations::{self, Operation, Path};

/// A document of `/openapi/v3`: its path below that, and the path that it is about.
pub(super) struct Plain {
    pub(super) document: String,
    pub(super) path: Path,
}

fn get(path: String, id: String, tag: &str, answer: &str, produces: &'static [&'static str]) -> Path {
    let answer = if answer.is_empty() { String::new() } else { format!("{}.{answer}", operations::META) };
    let get = Operation {
        method: "get",
        id,
        action: "",
        gvk: None,
        tag: tag.to_owned(),
        parameters: Vec::new(),
        body: None,
        consumes: produces,
        produces,
        responses: operations::READ,
        answer,
    };
    Path { path, parameters: Vec::new(), operations: vec![get] }
}

/// Where discovery tells of a version.
pub(super) fn version(of: &GroupVersion) -> Path {
    let path = match of.group.as_str() {
        "" => format!("/api/{}/", of.version),
        group => format!("/apis/{group}/{}/", of.version),
    };
    let id = format!("get{}APIResources", operations::camel(&of.group, &of.version));
    get(path, id, &operations::tag(of), "APIResourceList", operations::BODIES)
}

/// All but those of versions; `groups` are those of built-in kinds.
pub(super) fn others<'a>(groups: impl Iterator<Item = &'a str>) -> Vec<Plain> {
    let bodies = operations::BODIES;
    let mut all = vec![
        ("api", get("/api/".into(), "getCoreAPIVersions".into(), "core", "APIVersions", bodies)),
        ("apis", get("/apis/".into(), "getAPIVersions".into(), "apis", "APIGroupList", bodies)),
        ("version", get("/version/".into(), "getCodeVersion".into(), "version", "", &["application/json"])),
        (
            "openid/v1/jwks",
            get(
                "/openid/v1/jwks/".into(),
                "getServiceAccountIssuerOpenIDKeyset".into(),
                "openid",
                "",
                &["application/jwk-set+json"],
            ),
        ),
        (
            ".well-known/openid-configuration",
            get(
                "/.well-known/openid-configuration/".into(),
                "getServiceAccountIssuerOpenIDConfiguration".into(),
                "WellKnown",
                "",
                &["application/json"],
            ),
        ),
    ]
    .into_iter()
    .map(|(document, path)| Plain { document: document.to_owned(), path })
    .collect::<Vec<_>>();
    let mut seen: Vec<&str> = Vec::new();
    for group in groups.filter(|group| !group.is_empty()) {
        if !seen.contains(&group) {
            seen.push(group);
            let id = format!("get{}APIGroup", operations::camel(group, ""));
            let tag = operations::group_tag(group);
            let path = get(format!("/apis/{group}/"), id, &tag, "APIGroup", bodies);
            all.push(Plain { document: format!("apis/{group}"), path });
        }
    }
    all
}
