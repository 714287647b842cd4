//! Nobody may grant what they do not have (`pkg/registry/rbac/escalation_check.go`).

use kybern_apiserver::access::UserInfo;

use super::rules::Rule;

/// Breaks a rule down to one verb, group, resource and name each.
fn breakdown(rule: &Rule) -> Vec<Rule> {
    let mut out = Vec::new();
    for verb in &rule.verbs {
        let verbs = vec![verb.clone()];
        out.extend(rule.non_resource_urls.iter().map(|url| Rule {
            verbs: verbs.clone(),
            non_resource_urls: vec![url.clone()],
            ..Rule::default()
        }));
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let base = Rule {
                    verbs: verbs.clone(),
                    api_groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    ..Rule::default()
                };
                if rule.resource_names.is_empty() {
                    out.push(base);
                } else {
                    out.extend(
                        rule.resource_names
                            .iter()
                            .map(|name| Rule { resource_names: vec![name.clone()], ..base.clone() }),
                    );
                }
            }
        }
    }
    out
}

/// What of `wanted` the `owned` rules do not allow, broken down and without repeats.
pub fn uncovered(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let mut missing: Vec<Rule> = Vec::new();
    for rule in wanted.iter().flat_map(breakdown) {
        if !owned.iter().any(|o| o.covers(&rule)) && !missing.contains(&rule) {
            missing.push(rule);
        }
    }
    missing
}

/// Upstream's refusal of an escalation.
pub fn escalation_refusal(user: &UserInfo, missing: &[Rule]) -> String {
    let list = |items: &[String]| format!("[{}]", items.iter().map(|i| format!("{i:?}")).collect::<Vec<_>>().join(" "));
    // Upstream's texts join verbs of resources only.
    let mut compact: Vec<Rule> = Vec::new();
    for rule in missing {
        let same = |c: &&mut Rule| {
            c.api_groups == rule.api_groups
                && c.resources == rule.resources
                && c.resource_names == rule.resource_names
                && c.non_resource_urls.is_empty()
                && rule.non_resource_urls.is_empty()
        };
        match compact.iter_mut().find(same) {
            Some(found) => found.verbs.extend(rule.verbs.iter().cloned()),
            None => compact.push(rule.clone()),
        }
    }
    let mut lines: Vec<String> = compact
        .iter()
        .map(|rule| {
            let mut parts = Vec::new();
            for (name, items) in [
                ("APIGroups", &rule.api_groups),
                ("Resources", &rule.resources),
                ("ResourceNames", &rule.resource_names),
                ("NonResourceURLs", &rule.non_resource_urls),
                ("Verbs", &rule.verbs),
            ] {
                if !items.is_empty() {
                    parts.push(format!("{name}:{}", list(items)));
                }
            }
            format!("{{{}}}", parts.join(", "))
        })
        .collect();
    lines.sort();
    format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        list(&user.groups),
        lines.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn rule(groups: &[&str], resources: &[&str], names: &[&str], verbs: &[&str]) -> Rule {
        Rule::from_value(&json!({"apiGroups": groups, "resources": resources, "resourceNames": names, "verbs": verbs}))
    }

    #[test]
    fn grants_must_be_held() {
        let owned = [rule(&[""], &["pods"], &[], &["get", "list"]), rule(&["apps"], &["*"], &[], &["*"])];
        let missing = |wanted: Rule| uncovered(&owned, &[wanted]).len();
        assert_eq!(missing(rule(&[""], &["pods"], &["a"], &["get"])), 0);
        assert_eq!(missing(rule(&[""], &["pods", "secrets"], &[], &["get", "delete"])), 3);
        assert_eq!(missing(rule(&["apps"], &["deployments", "deployments/scale"], &[], &["patch"])), 0);
        assert_eq!(missing(rule(&["*"], &["*"], &[], &["*"])), 1);
        let named = [rule(&[""], &["secrets"], &["a"], &["get"])];
        assert_eq!(uncovered(&named, &[rule(&[""], &["secrets"], &[], &["get"])]).len(), 1);
    }

    #[test]
    fn the_refusal_lists_what_is_missing() {
        let user = UserInfo { name: "joe".into(), groups: vec!["dev".into()], ..UserInfo::default() };
        let missing = uncovered(&[], &[rule(&[""], &["pods"], &[], &["get", "list"])]);
        assert_eq!(
            escalation_refusal(&user, &missing),
            "user \"joe\" (groups=[\"dev\"]) is attempting to grant RBAC permissions not currently held:\n\
             {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\" \"list\"]}"
        );
    }
}
