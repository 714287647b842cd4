//! Which requests are recorded, and how much of them: `audit.k8s.io/v1` `Policy`.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Value, validation};
use serde::{Deserialize, Serialize};

use crate::access::Attributes;

/// How much of a request is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// When a request is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    #[default]
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

const STAGES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];
const LEVELS: [&str; 4] = ["None", "Metadata", "Request", "RequestResponse"];

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    rules: Vec<Rule>,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    level: String,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What a policy says of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) level: Level,
    pub(crate) omit_stages: Vec<Stage>,
    pub(crate) omit_managed_fields: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<(Rule, Verdict)>,
    otherwise: Verdict,
}

impl Policy {
    /// From the text of a policy file, YAML or JSON.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let tree = kybern_schema::decode::yaml_to_value(text).map_err(|e| format!("failed decoding: {e}"))?;
        let said = |field: &str| tree.get(field).and_then(Value::as_str).unwrap_or("");
        if (said("apiVersion"), said("kind")) != ("audit.k8s.io/v1", "Policy") {
            let text = format!("unknown group version field {}, Kind={} in policy", said("apiVersion"), said("kind"));
            return Err(format!("{text}: it must be audit.k8s.io/v1, Kind=Policy"));
        }
        for field in unknown_fields(&tree) {
            tracing::warn!("Audit policy contains errors, falling back to lenient decoding: unknown field {field:?}");
        }
        let file: File = serde_json::from_value(tree).map_err(|e| format!("failed decoding: {e}"))?;
        let errors = validate(&file);
        match errors.as_slice() {
            [] if file.rules.is_empty() => Err("loaded illegal policy with 0 rules".to_owned()),
            [] => Ok(Self::of(file)),
            [one] => Err(one.to_string()),
            all => Err(format!("[{}]", all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))),
        }
    }

    fn of(file: File) -> Self {
        let stages = |names: &[String], more: &[String]| -> Vec<Stage> {
            names.iter().chain(more).filter_map(|name| serde_json::from_value(name.as_str().into()).ok()).collect()
        };
        let otherwise = Verdict {
            level: Level::None,
            omit_stages: stages(&file.omit_stages, &[]),
            omit_managed_fields: file.omit_managed_fields,
        };
        let rules = file.rules.into_iter().map(|rule| {
            let verdict = Verdict {
                level: serde_json::from_value(rule.level.as_str().into()).unwrap_or_default(),
                omit_stages: stages(&file.omit_stages, &rule.omit_stages),
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(file.omit_managed_fields),
            };
            (rule, verdict)
        });
        Self { rules: rules.collect(), otherwise }
    }

    /// The first rule that fits counts.
    pub(crate) fn evaluate(&self, attributes: &Attributes) -> &Verdict {
        let found = self.rules.iter().find(|(rule, _)| rule.matches(attributes));
        found.map_or(&self.otherwise, |(_, verdict)| verdict)
    }
}

impl Rule {
    fn matches(&self, attributes: &Attributes) -> bool {
        let has = |list: &[String], text: &str| list.iter().any(|item| item == text);
        let user = &attributes.user;
        if !self.users.is_empty() && !has(&self.users, &user.name)
            || !self.user_groups.is_empty() && !user.groups.iter().any(|group| has(&self.user_groups, group))
            || !self.verbs.is_empty() && !has(&self.verbs, &attributes.verb)
        {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return attributes.resource_request
                && (self.namespaces.is_empty() || has(&self.namespaces, &attributes.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.matches(attributes)));
        }
        if self.non_resource_urls.is_empty() {
            return true;
        }
        let path = attributes.path.as_str();
        let fits = |spec: &String| {
            spec == "*" || spec == path || spec.ends_with('*') && path.starts_with(spec.trim_end_matches('*'))
        };
        !attributes.resource_request && self.non_resource_urls.iter().any(fits)
    }
}

impl GroupResources {
    fn matches(&self, attributes: &Attributes) -> bool {
        let Attributes { group, resource, subresource, name, .. } = attributes;
        if self.group != *group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !self.resource_names.contains(name) {
            return false;
        }
        self.resources.iter().any(|wanted| match wanted.split_once('/') {
            _ if wanted == "*" => true,
            None => subresource.is_empty() && wanted == resource,
            Some(("*", wanted)) if !subresource.is_empty() && wanted == subresource => true,
            Some((wanted, "*")) => wanted == resource,
            Some((wanted, below)) => wanted == resource && below == subresource,
        })
    }
}

fn unknown_fields(tree: &Value) -> Vec<String> {
    const FILE: &[&str] = &["apiVersion", "kind", "metadata", "rules", "omitStages", "omitManagedFields"];
    const RULE: &[&str] = &[
        "level",
        "users",
        "userGroups",
        "verbs",
        "resources",
        "namespaces",
        "nonResourceURLs",
        "omitStages",
        "omitManagedFields",
    ];
    let unknown = |value: &Value, known: &[&str], at: String| -> Vec<String> {
        let fields = value.as_object().into_iter().flatten().map(|(field, _)| field);
        fields.filter(|field| !known.contains(&field.as_str())).map(|field| format!("{at}{field}")).collect()
    };
    let rules = tree.get("rules").and_then(Value::as_array).into_iter().flatten().enumerate();
    let below = rules.flat_map(|(i, rule)| unknown(rule, RULE, format!("rules[{i}].")));
    unknown(tree, FILE, String::new()).into_iter().chain(below).collect()
}

fn validate(file: &File) -> Vec<FieldError> {
    let mut errors = Vec::new();
    validate_stages(&file.omit_stages, &FieldPath::new("omitStages"), &mut errors);
    for (i, rule) in file.rules.iter().enumerate() {
        let path = FieldPath::new("rules").index(i);
        match rule.level.as_str() {
            "" => errors.push(FieldError::required(&path.child("level"), "")),
            level if LEVELS.contains(&level) => {}
            level => errors.push(FieldError::not_supported(&path.child("level"), level, &LEVELS)),
        }
        for (j, url) in rule.non_resource_urls.iter().enumerate().filter(|(_, url)| *url != "*") {
            let path = path.child("nonResourceURLs").index(j);
            if !url.starts_with('/') {
                let detail = "non-resource URL rules must begin with a '/' character";
                errors.push(FieldError::invalid(&path, url.as_str(), detail));
            }
            if url.strip_suffix('*').unwrap_or(url).contains('*') {
                let detail = "non-resource URL wildcards '*' must be the final character of the rule";
                errors.push(FieldError::invalid(&path, url.as_str(), detail));
            }
        }
        for resources in &rule.resources {
            let path = path.child("resources");
            let problems = validation::dns1123_subdomain(&resources.group);
            if !resources.group.is_empty() && !problems.is_empty() {
                errors.push(FieldError::invalid(&path.child("group"), resources.group.as_str(), problems.join(",")));
            }
            if !resources.resource_names.is_empty() && resources.resources.is_empty() {
                let detail = "using resourceNames requires at least one resource";
                let names = resources.resource_names.clone();
                errors.push(FieldError::invalid(&path.child("resourceNames"), names, detail));
            }
        }
        validate_stages(&rule.omit_stages, &path.child("omitStages"), &mut errors);
        let of_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
        if of_resources && !rule.non_resource_urls.is_empty() {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            let urls = rule.non_resource_urls.clone();
            errors.push(FieldError::invalid(&path.child("nonResourceURLs"), urls, detail));
        }
    }
    errors
}

fn validate_stages(stages: &[String], path: &FieldPath, errors: &mut Vec<FieldError>) {
    for (i, stage) in stages.iter().enumerate().filter(|(_, stage)| !STAGES.contains(&stage.as_str())) {
        let detail = format!("allowed stages are {}", STAGES.join(","));
        errors.push(FieldError::invalid(&path.index(i), stage.as_str(), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::UserInfo;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, users: ["system:kube-proxy"], verbs: [watch], resources: [{group: "", resources: [endpoints]}]}
- {level: None, userGroups: ["system:nodes"], nonResourceURLs: ["/healthz*", "/version"]}
- {level: RequestResponse, resources: [{group: "", resources: [pods]}], omitManagedFields: false, omitStages: [Panic]}
- {level: Request, resources: [{group: apps, resources: ["*/scale", "daemonsets/*"]}]}
- {level: Request, namespaces: [""], resources: [{group: rbac.authorization.k8s.io}]}
- {level: None, resources: [{group: "", resources: [configmaps], resourceNames: [lock]}]}
- {level: Metadata, namespaces: [kube-system]}
"#;

    fn request(text: &str) -> Attributes {
        let parts: Vec<&str> = text.split(' ').collect();
        let user = UserInfo { name: parts[0].into(), groups: vec![parts[1].into()], ..UserInfo::default() };
        let verb = parts[2].to_owned();
        let Some((group, resource)) = parts[3].split_once(':') else {
            return Attributes { user, verb, path: parts[3].into(), ..Attributes::default() };
        };
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let (namespace, name) = parts[4].split_once('/').unwrap();
        Attributes {
            user,
            verb,
            resource_request: true,
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let policy = Policy::parse(POLICY.as_bytes()).unwrap();
        for (text, expect) in [
            ("system:kube-proxy g watch :endpoints default/", Level::None),
            ("u g watch :endpoints kube-system/", Level::Metadata),
            ("u system:nodes get /healthz/etcd", Level::None),
            ("u system:nodes get /version", Level::None),
            ("u g get :pods default/a", Level::RequestResponse),
            // A subresource has to be named.
            ("u g get :pods/log default/a", Level::None),
            ("u g get :pods/log kube-system/a", Level::Metadata),
            ("u g update apps:deployments/scale default/a", Level::Request),
            ("u g update apps:deployments default/a", Level::None),
            ("u g get apps:daemonsets/status default/a", Level::Request),
            ("u g get apps:daemonsets default/a", Level::Request),
            ("u g get rbac.authorization.k8s.io:clusterroles /a", Level::Request),
            ("u g get rbac.authorization.k8s.io:roles default/a", Level::None),
            ("u g get :configmaps kube-system/lock", Level::None),
            ("u g get :configmaps kube-system/other", Level::Metadata),
            ("u g get /metrics", Level::None),
        ] {
            assert_eq!(policy.evaluate(&request(text)).level, expect, "{text}");
        }
        let pods = policy.evaluate(&request("u g get :pods default/a"));
        assert_eq!(pods.omit_stages, [Stage::RequestReceived, Stage::Panic]);
        assert!(!pods.omit_managed_fields);
        assert!(policy.evaluate(&request("u g get :configmaps kube-system/other")).omit_managed_fields);
    }

    #[test]
    fn bad_policies_are_refused() {
        let check = |rules: &str, expect: &str| {
            let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}");
            assert_eq!(Policy::parse(text.as_bytes()).unwrap_err(), expect, "{rules}");
        };
        check("rules: []", "loaded illegal policy with 0 rules");
        check("rules: [{}]", "rules[0].level: Required value");
        check(
            "rules: [{level: All}]",
            r#"rules[0].level: Unsupported value: "All": supported values: "None", "Metadata", "Request", "RequestResponse""#,
        );
        check(
            "rules: [{level: None, nonResourceURLs: [a, '/a*b']}]",
            "[rules[0].nonResourceURLs[0]: Invalid value: \"a\": non-resource URL rules must begin with a '/' character, \
             rules[0].nonResourceURLs[1]: Invalid value: \"/a*b\": non-resource URL wildcards '*' must be the final character of the rule]",
        );
        check(
            "rules: [{level: None, omitStages: [Now]}]",
            "rules[0].omitStages[0]: Invalid value: \"Now\": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic",
        );
        assert!(Policy::parse(b"apiVersion: v1\nkind: Policy\nrules: [{level: None}]").is_err());
        assert!(Policy::parse(b"{").is_err());
        // As upstream, what is not known is left out with a warning.
        assert!(Policy::parse(b"apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, x: 1}]").is_ok());
    }
}
