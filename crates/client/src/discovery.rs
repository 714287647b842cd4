//! Which resources the server has.

use http::Method;
use kybern_apimachinery::{Gvr, Value};

use crate::client::Call;
use crate::{Client, ClientError};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// One resource in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiResource {
    pub gvr: Gvr,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl ApiResource {
    pub fn has_verbs(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|v| v == verb))
    }
}

impl Client {
    /// Every resource in every version, the preferred versions of each group first. Groups that are announced but not
    /// served now (`freshness: Stale`) are in the second list, as `group/version`.
    pub async fn discover(&self) -> Result<(Vec<ApiResource>, Vec<String>), ClientError> {
        let (mut resources, mut stale) = (Vec::new(), Vec::new());
        for root in ["/api", "/apis"] {
            let answer = self.json(root, AGGREGATED).await?;
            if answer["kind"] == "APIGroupDiscoveryList" {
                parse_aggregated(&answer, &mut resources, &mut stale);
            } else {
                self.discover_one_by_one(root, &answer, &mut resources, &mut stale).await;
            }
        }
        Ok((resources, stale))
    }

    /// One [`ApiResource`] per resource: that of its group's preferred version.
    pub async fn preferred_resources(&self) -> Result<(Vec<ApiResource>, Vec<String>), ClientError> {
        let (resources, stale) = self.discover().await?;
        let mut seen = std::collections::HashSet::new();
        Ok((resources.into_iter().filter(|r| seen.insert(r.gvr.group_resource())).collect(), stale))
    }

    /// Servers without aggregated discovery: a document per group and version.
    async fn discover_one_by_one(
        &self,
        root: &str,
        answer: &Value,
        resources: &mut Vec<ApiResource>,
        stale: &mut Vec<String>,
    ) {
        let mut versions: Vec<String> = strings(&answer["versions"]).collect();
        for group in answer["groups"].as_array().into_iter().flatten() {
            let preferred = group["preferredVersion"]["groupVersion"].as_str().unwrap_or("").to_owned();
            let all = group["versions"].as_array().into_iter().flatten();
            let others = all.filter_map(|v| v["groupVersion"].as_str()).filter(|v| *v != preferred).map(str::to_owned);
            versions.extend(std::iter::once(preferred.clone()).chain(others));
        }
        for version in versions {
            match self.json(&format!("{root}/{version}"), crate::client::JSON).await {
                Ok(list) => parse_resource_list(&version, &list, resources),
                Err(_) => stale.push(version),
            }
        }
    }

    async fn json(&self, path: &str, accept: &'static str) -> Result<Value, ClientError> {
        let call = Call::new(Method::GET, path.to_owned()).accept(accept);
        let bytes = self.call(call).await?;
        serde_json::from_slice(&bytes).map_err(|e| ClientError::Decode(format!("{path}: {e}")))
    }
}

fn strings(list: &Value) -> impl Iterator<Item = String> {
    list.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned))
}

fn parse_aggregated(list: &Value, resources: &mut Vec<ApiResource>, stale: &mut Vec<String>) {
    for group in list["items"].as_array().into_iter().flatten() {
        let name = group["metadata"]["name"].as_str().unwrap_or("");
        for version in group["versions"].as_array().into_iter().flatten() {
            let number = version["version"].as_str().unwrap_or("");
            if version["freshness"] == "Stale" {
                stale.push(format!("{name}/{number}"));
                continue;
            }
            for resource in version["resources"].as_array().into_iter().flatten() {
                resources.push(ApiResource {
                    gvr: Gvr::new(name, number, resource["resource"].as_str().unwrap_or("")),
                    kind: resource["responseKind"]["kind"].as_str().unwrap_or("").to_owned(),
                    namespaced: resource["scope"] == "Namespaced",
                    verbs: strings(&resource["verbs"]).collect(),
                });
            }
        }
    }
}

fn parse_resource_list(group_version: &str, list: &Value, resources: &mut Vec<ApiResource>) {
    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
    for resource in list["resources"].as_array().into_iter().flatten() {
        let name = resource["name"].as_str().unwrap_or("");
        if name.contains('/') {
            continue;
        }
        resources.push(ApiResource {
            gvr: Gvr::new(group, version, name),
            kind: resource["kind"].as_str().unwrap_or("").to_owned(),
            namespaced: resource["namespaced"] == true,
            verbs: strings(&resource["verbs"]).collect(),
        });
    }
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let aggregated = json!({"kind": "APIGroupDiscoveryList", "items": [
            {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [
                {"resource": "deployments", "responseKind": {"kind": "Deployment"}, "scope": "Namespaced", "verbs": ["get", "list"],
                 "subresources": [{"subresource": "status"}]}]}]},
            {"metadata": {"name": "gone.io"}, "versions": [{"version": "v1", "freshness": "Stale"}]}]});
        let legacy = json!({"resources": [
            {"name": "deployments", "kind": "Deployment", "namespaced": true, "verbs": ["get", "list"]},
            {"name": "deployments/status", "kind": "Deployment", "namespaced": true, "verbs": ["get"]}]});
        let (mut one, mut two, mut stale) = (Vec::new(), Vec::new(), Vec::new());
        parse_aggregated(&aggregated, &mut one, &mut stale);
        parse_resource_list("apps/v1", &legacy, &mut two);
        assert_eq!(one, two);
        assert_eq!(stale, ["gone.io/v1"]);
        assert!(one[0].has_verbs(&["list"]) && !one[0].has_verbs(&["list", "watch"]));
    }
}
