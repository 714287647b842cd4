//! What is demanded of a JWT authenticator (`apiserver/pkg/apis/apiserver/validation`), and its compiled form.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::dns1123_subdomain;
use kybern_cel::selections;
use kybern_component_base::transport::CertificateAuthorities;

use super::expressions::{About, Expression};
use crate::config_file::{list, text};

/// One issuer of tokens, and what its claims become.
pub struct JwtIssuer {
    pub(super) url: String,
    pub(super) discovery_url: Option<String>,
    pub(super) authorities: CertificateAuthorities,
    pub(super) audiences: Vec<String>,
    pub(super) username: Mapping,
    pub(super) groups: Option<Mapping>,
    pub(super) uid: Option<Mapping>,
    pub(super) extra: Vec<(String, Expression)>,
    pub(super) claim_rules: Vec<Rule>,
    /// With their messages.
    pub(super) user_rules: Vec<(Expression, String)>,
}

/// Where a part of the user comes from.
pub(super) enum Mapping {
    Claim { claim: String, prefix: String },
    Expression(Expression),
}

/// What a token must claim.
pub(super) enum Rule {
    Required { claim: String, value: String },
    Expression { expression: Expression, message: String },
}

impl JwtIssuer {
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The claim that holds groups, if one does.
    pub(super) fn groups_claim(&self) -> Option<&str> {
        match &self.groups {
            Some(Mapping::Claim { claim, .. }) => Some(claim),
            _ => None,
        }
    }
}

/// Reads authenticators and gathers what is wrong with them.
pub(super) struct Reader<'a> {
    pub(super) errors: Vec<FieldError>,
    /// Issuers whose tokens are judged by others.
    pub(super) disallowed: &'a [String],
}

impl Reader<'_> {
    /// `None` where anything is wrong.
    pub(super) fn authenticator(&mut self, path: &FieldPath, value: &Value) -> Option<JwtIssuer> {
        let before = self.errors.len();
        let issuer = &value["issuer"];
        let authorities = self.issuer(&path.child("issuer"), issuer);
        let (claim_rules, mut verified) = self.claim_rules(&path.child("claimValidationRules"), value);
        let rules_path = path.child("userValidationRules");
        let (path, mappings) = (path.child("claimMappings"), &value["claimMappings"]);
        let username = self.mapping(&path.child("username"), &mappings["username"], true);
        let groups = self.mapping(&path.child("groups"), &mappings["groups"], false);
        let uid = self.uid(&path.child("uid"), &mappings["uid"]);
        let extra = self.extra(&path.child("extra"), mappings);
        let expression = text(&mappings["username"], "expression");
        verified |= uses(expression, "email_verified")
            || extra.iter().any(|(_, expression)| uses(expression.text(), "email_verified"));
        if uses(expression, "email") && !verified {
            self.errors.push(FieldError::invalid(
                &path.child("username").child("expression"),
                expression,
                "claims.email_verified must be used in claimMappings.username.expression or \
                 claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used \
                 in claimMappings.username.expression",
            ));
        }
        let user_rules = self.user_rules(&rules_path, value);
        (self.errors.len() == before).then_some(())?;
        let discovery_url = Some(text(issuer, "discoveryURL")).filter(|url| !url.is_empty());
        Some(JwtIssuer {
            url: text(issuer, "url").to_owned(),
            discovery_url: discovery_url.map(str::to_owned),
            authorities,
            audiences: list(issuer, "audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            username: username?,
            groups,
            uid,
            extra,
            claim_rules,
            user_rules,
        })
    }

    fn issuer(&mut self, path: &FieldPath, issuer: &Value) -> CertificateAuthorities {
        let (url, document) = (text(issuer, "url"), text(issuer, "discoveryURL"));
        if url.is_empty() {
            self.errors.push(FieldError::required(&path.child("url"), ""));
        } else {
            if self.disallowed.iter().any(|other| other == url) {
                let mut all = self.disallowed.to_vec();
                all.sort_unstable();
                let detail = format!("URL must not overlap with disallowed issuers: [{}]", all.join(" "));
                self.errors.push(FieldError::invalid(&path.child("url"), url, detail));
            }
            self.url(&path.child("url"), url);
        }
        if !document.is_empty() {
            let path = path.child("discoveryURL");
            if !url.is_empty() && url.trim_end_matches('/') == document.trim_end_matches('/') {
                self.errors.push(FieldError::invalid(&path, document, "discoveryURL must be different from URL"));
            }
            self.url(&path, document);
        }
        self.audiences(path, issuer);
        let authorities = match text(issuer, "certificateAuthority") {
            "" => Ok(CertificateAuthorities::System),
            pem => CertificateAuthorities::from_pem(pem.as_bytes()),
        };
        let egress = text(issuer, "egressSelectorType");
        let authorities = authorities.unwrap_or_else(|_| {
            let detail = "data does not contain any valid RSA or ECDSA certificates";
            self.errors.push(FieldError::invalid(&path.child("certificateAuthority"), "<omitted>", detail));
            CertificateAuthorities::System
        });
        if !egress.is_empty() {
            let detail = match egress {
                "controlplane" | "cluster" => "no egress selector is configured: this server has none",
                _ => "egress selector must be either controlplane or cluster",
            };
            self.errors.push(FieldError::invalid(&path.child("egressSelectorType"), egress, detail));
        }
        authorities
    }

    fn url(&mut self, path: &FieldPath, url: &str) {
        let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (scheme, rest) = rest.split_once("://").unwrap_or(("", rest));
        let authority = rest.split('/').next().unwrap_or_default();
        let mut invalid = |detail: &str| self.errors.push(FieldError::invalid(path, url, detail));
        if url.bytes().any(|byte| byte.is_ascii_control()) {
            return invalid(&format!("parse {url:?}: net/url: invalid control character in URL"));
        }
        if !scheme.eq_ignore_ascii_case("https") {
            invalid("URL scheme must be https");
        } else if url.parse::<http::Uri>().is_err() && fragment.is_empty() {
            invalid("it is no URL");
        }
        if authority.contains('@') {
            invalid("URL must not contain a username or password");
        }
        if !query.is_empty() {
            invalid("URL must not contain a query");
        }
        if !fragment.is_empty() {
            invalid("URL must not contain a fragment");
        }
    }

    fn audiences(&mut self, path: &FieldPath, issuer: &Value) {
        let (all, policy) = (list(issuer, "audiences"), text(issuer, "audienceMatchPolicy"));
        let (path, policy_path) = (path.child("audiences"), path.child("audienceMatchPolicy"));
        if all.is_empty() {
            let detail = format!("at least one {} is required", path.as_str());
            self.errors.push(FieldError::required(&path, detail));
            return;
        }
        let mut seen = Vec::new();
        for (index, audience) in all.iter().enumerate() {
            let (path, audience) = (path.index(index), audience.as_str().unwrap_or_default());
            if audience.is_empty() {
                self.errors.push(FieldError::required(&path, ""));
            }
            if seen.contains(&audience) {
                self.errors.push(FieldError::duplicate(&path, audience));
            }
            seen.push(audience);
        }
        if policy != "MatchAny" {
            if all.len() > 1 {
                let detail = "audienceMatchPolicy must be MatchAny for multiple audiences";
                self.errors.push(FieldError::invalid(&policy_path, policy, detail));
            } else if !policy.is_empty() {
                let detail = "audienceMatchPolicy must be empty or MatchAny for single audience";
                self.errors.push(FieldError::invalid(&policy_path, policy, detail));
            }
        }
    }

    /// The rules, and whether one of them looks at `email_verified`.
    fn claim_rules(&mut self, path: &FieldPath, value: &Value) -> (Vec<Rule>, bool) {
        let (mut rules, mut verified) = (Vec::new(), false);
        let (mut claims, mut expressions) = (Vec::new(), Vec::new());
        for (index, rule) in list(value, "claimValidationRules").iter().enumerate() {
            let path = path.index(index);
            let (claim, expression) = (text(rule, "claim"), text(rule, "expression"));
            let (value, message) = (text(rule, "requiredValue"), text(rule, "message"));
            match (claim, expression) {
                ("", "") => self.errors.push(FieldError::required(&path, "claim or expression is required")),
                (claim, "") => {
                    if !message.is_empty() {
                        let detail = "may not be specified when claim is set";
                        self.errors.push(FieldError::invalid(&path.child("message"), message, detail));
                    }
                    if claims.contains(&claim) {
                        self.errors.push(FieldError::duplicate(&path.child("claim"), claim));
                    }
                    claims.push(claim);
                    rules.push(Rule::Required { claim: claim.to_owned(), value: value.to_owned() });
                }
                ("", expression) => {
                    if !value.is_empty() {
                        let detail = "may not be specified when expression is set";
                        self.errors.push(FieldError::invalid(&path.child("requiredValue"), value, detail));
                    }
                    if expressions.contains(&expression) {
                        self.errors.push(FieldError::duplicate(&path.child("expression"), expression));
                        continue;
                    }
                    expressions.push(expression);
                    verified |= uses(expression, "email_verified");
                    let compiled = self.compile(&path.child("expression"), About::Claims, expression, true);
                    let message = message.to_owned();
                    rules.extend(compiled.map(|expression| Rule::Expression { expression, message }));
                }
                _ => {
                    let detail = "claim and expression can't both be set";
                    self.errors.push(FieldError::invalid(&path, claim, detail));
                }
            }
        }
        (rules, verified)
    }

    fn mapping(&mut self, path: &FieldPath, mapping: &Value, required: bool) -> Option<Mapping> {
        let (claim, expression) = (text(mapping, "claim"), text(mapping, "expression"));
        let prefix = mapping["prefix"].as_str();
        match (claim, expression) {
            ("", "") => {
                if required {
                    self.errors.push(FieldError::required(path, "claim or expression is required"));
                }
                None
            }
            (claim, "") => {
                if prefix.is_none() {
                    let detail =
                        "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                    self.errors.push(FieldError::required(&path.child("prefix"), detail));
                }
                Some(Mapping::Claim { claim: claim.to_owned(), prefix: prefix.unwrap_or_default().to_owned() })
            }
            ("", expression) => {
                if let Some(prefix) = prefix {
                    let detail = "may not be specified when expression is set";
                    self.errors.push(FieldError::invalid(&path.child("prefix"), prefix, detail));
                }
                self.compile(&path.child("expression"), About::Claims, expression, false).map(Mapping::Expression)
            }
            _ => {
                self.errors.push(FieldError::invalid(path, "", "claim and expression can't both be set"));
                None
            }
        }
    }

    fn uid(&mut self, path: &FieldPath, mapping: &Value) -> Option<Mapping> {
        match (text(mapping, "claim"), text(mapping, "expression")) {
            ("", "") => None,
            (claim, "") => Some(Mapping::Claim { claim: claim.to_owned(), prefix: String::new() }),
            ("", expression) => {
                self.compile(&path.child("expression"), About::Claims, expression, false).map(Mapping::Expression)
            }
            _ => {
                self.errors.push(FieldError::invalid(path, "", "claim and expression can't both be set"));
                None
            }
        }
    }

    fn extra(&mut self, path: &FieldPath, mappings: &Value) -> Vec<(String, Expression)> {
        let (mut extra, mut seen) = (Vec::new(), Vec::new());
        for (index, mapping) in list(mappings, "extra").iter().enumerate() {
            let path = path.index(index);
            let (key, expression) = (text(mapping, "key"), text(mapping, "valueExpression"));
            self.key(&path.child("key"), key);
            if seen.contains(&key) {
                self.errors.push(FieldError::duplicate(&path.child("key"), key));
                continue;
            }
            seen.push(key);
            let path = path.child("valueExpression");
            if expression.is_empty() {
                self.errors.push(FieldError::required(&path, ""));
                continue;
            }
            extra.extend(self.compile(&path, About::Claims, expression, false).map(|e| (key.to_owned(), e)));
        }
        extra
    }

    /// `example.org/foo`, outside of Kubernetes' own domains.
    fn key(&mut self, path: &FieldPath, key: &str) {
        let mut invalid = |value: &str, detail: String| self.errors.push(FieldError::invalid(path, value, detail));
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        match key.split_once('/') {
            _ if key.is_empty() => return self.errors.push(FieldError::required(path, "")),
            Some((host, name)) if !host.is_empty() && !name.is_empty() => {
                dns1123_subdomain(host).into_iter().for_each(|problem| invalid(host, problem));
                if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
                    let detail = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
                    invalid(name, detail.to_owned());
                }
            }
            _ => invalid(key, "must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()),
        }
        if key != key.to_lowercase() {
            invalid(key, "must be lowercase".to_owned());
        }
        if ["kubernetes.io", "k8s.io"].iter().any(|own| domain == *own || domain.ends_with(&format!(".{own}"))) {
            let detail = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
            invalid(key, detail.to_owned());
        }
    }

    fn user_rules(&mut self, path: &FieldPath, value: &Value) -> Vec<(Expression, String)> {
        let (mut rules, mut seen) = (Vec::new(), Vec::new());
        for (index, rule) in list(value, "userValidationRules").iter().enumerate() {
            let path = path.index(index).child("expression");
            let expression = text(rule, "expression");
            if expression.is_empty() {
                self.errors.push(FieldError::required(&path, ""));
                continue;
            }
            if seen.contains(&expression) {
                self.errors.push(FieldError::duplicate(&path, expression));
                continue;
            }
            seen.push(expression);
            let compiled = self.compile(&path, About::User, expression, true);
            rules.extend(compiled.map(|expression| (expression, text(rule, "message").to_owned())));
        }
        rules
    }

    fn compile(&mut self, path: &FieldPath, about: About, expression: &str, rule: bool) -> Option<Expression> {
        let compiled = Expression::compile(about, expression, rule);
        compiled.map_err(|detail| self.errors.push(FieldError::invalid(path, expression, detail))).ok()
    }
}

/// Whether an expression looks at a claim.
fn uses(expression: &str, claim: &str) -> bool {
    selections(expression).iter().any(|s| s.variable.as_deref() == Some("claims") && s.field == claim)
}
