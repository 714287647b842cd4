//! `--authentication-config`: whose tokens are believed, and on which paths nobody need say who he is
//! (`apiserver.config.k8s.io/v1` AuthenticationConfiguration).

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};

use super::validation::{JwtIssuer, Reader};
use crate::config_file::{self, Shape, aggregate, list, text};

const ISSUERS_MAX: usize = 64;

const FIELDS: &[(&str, Shape)] = &[
    ("jwt", Shape::List(&Shape::Object(JWT))),
    (
        "anonymous",
        Shape::Object(&[
            ("enabled", Shape::Bool),
            ("conditions", Shape::List(&Shape::Object(&[("path", Shape::Text)]))),
        ]),
    ),
];
const JWT: &[(&str, Shape)] = &[
    (
        "issuer",
        Shape::Object(&[
            ("url", Shape::Text),
            ("discoveryURL", Shape::Text),
            ("certificateAuthority", Shape::Text),
            ("audiences", Shape::List(&Shape::Text)),
            ("audienceMatchPolicy", Shape::Text),
            ("egressSelectorType", Shape::Text),
        ]),
    ),
    (
        "claimValidationRules",
        Shape::List(&Shape::Object(&[
            ("claim", Shape::Text),
            ("requiredValue", Shape::Text),
            ("expression", Shape::Text),
            ("message", Shape::Text),
        ])),
    ),
    (
        "claimMappings",
        Shape::Object(&[
            ("username", PREFIXED),
            ("groups", PREFIXED),
            ("uid", Shape::Object(&[("claim", Shape::Text), ("expression", Shape::Text)])),
            ("extra", Shape::List(&Shape::Object(&[("key", Shape::Text), ("valueExpression", Shape::Text)]))),
        ]),
    ),
    ("userValidationRules", Shape::List(&Shape::Object(&[("expression", Shape::Text), ("message", Shape::Text)]))),
];
const PREFIXED: Shape = Shape::Object(&[("claim", Shape::Text), ("prefix", Shape::Text), ("expression", Shape::Text)]);

pub struct AuthenticationConfiguration {
    pub issuers: Vec<JwtIssuer>,
    /// `None`: the flag decides.
    pub anonymous: Option<AnonymousConfiguration>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnonymousConfiguration {
    pub enabled: bool,
    /// On these paths only; empty: everywhere.
    pub paths: Vec<String>,
}

/// Reads a file, which must be wholly valid. `disallowed`: issuers of tokens that others judge, the service accounts'.
pub fn parse_configuration(text: &str, disallowed: &[String]) -> Result<AuthenticationConfiguration, String> {
    let file = config_file::read(text, "AuthenticationConfiguration", FIELDS)?;
    let configuration = configuration_of(&file, disallowed);
    configuration.map_err(|error| format!("invalid authentication configuration: {error}"))
}

/// The same of an object that has the form of such a file.
pub fn configuration_of(file: &Value, disallowed: &[String]) -> Result<AuthenticationConfiguration, String> {
    let mut reader = Reader { errors: Vec::new(), disallowed };
    let path = FieldPath::new("jwt");
    let listed = list(file, "jwt");
    let mut issuers = Vec::new();
    if listed.len() > ISSUERS_MAX {
        reader.errors.push(FieldError::too_many(&path, listed.len(), ISSUERS_MAX));
    } else {
        let (mut urls, mut documents) = (Vec::new(), Vec::new());
        for (index, one) in listed.iter().enumerate() {
            let path = path.index(index);
            issuers.extend(reader.authenticator(&path, one));
            let (url, document) = (text(&one["issuer"], "url"), text(&one["issuer"], "discoveryURL"));
            if urls.contains(&url) {
                reader.errors.push(FieldError::duplicate(&path.child("issuer").child("url"), url));
            }
            if !document.is_empty() && documents.contains(&document) {
                reader.errors.push(FieldError::duplicate(&path.child("issuer").child("discoveryURL"), document));
            }
            urls.push(url);
            documents.push(document);
        }
    }
    let anonymous = file["anonymous"].as_object().map(|_| {
        let anonymous = &file["anonymous"];
        let (enabled, conditions) = (anonymous["enabled"] == true, list(anonymous, "conditions"));
        if !enabled && !conditions.is_empty() {
            let path = FieldPath::new("anonymous").child("conditions");
            let shown: Vec<Value> = conditions.to_vec();
            let detail = "enabled should be set to true when conditions are defined";
            reader.errors.push(FieldError::invalid(&path, Value::Array(shown), detail));
        }
        let paths = conditions.iter().map(|condition| text(condition, "path").to_owned()).collect();
        AnonymousConfiguration { enabled, paths }
    });
    aggregate(reader.errors.iter().map(ToString::to_string))?;
    Ok(AuthenticationConfiguration { issuers, anonymous })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer:
    url: https://one.example
    audiences: [a]
  claimMappings:
    username: {claim: sub, prefix: 'one:'}
- issuer:
    url: https://two.example/path
    discoveryURL: https://inside.example/.well-known/openid-configuration
    audiences: [a, b]
    audienceMatchPolicy: MatchAny
  claimValidationRules:
  - {claim: hd, requiredValue: example.org}
  - {expression: claims.email_verified == true, message: unverified}
  claimMappings:
    username: {expression: claims.email}
    groups: {claim: groups, prefix: ''}
    uid: {claim: oid}
    extra: [{key: example.org/x, valueExpression: claims.x}]
  userValidationRules:
  - {expression: \"user.username != 'root'\"}
anonymous:
  enabled: true
  conditions: [{path: /livez}]
";

    #[test]
    fn a_file_lists_issuers() {
        let own = ["https://own.example".to_owned()];
        let configuration = parse_configuration(FILE, &own).map_err(|e| panic!("{e}")).unwrap();
        let urls: Vec<&str> = configuration.issuers.iter().map(JwtIssuer::url).collect();
        assert_eq!(urls, ["https://one.example", "https://two.example/path"]);
        let anonymous = AnonymousConfiguration { enabled: true, paths: vec!["/livez".to_owned()] };
        assert_eq!(configuration.anonymous, Some(anonymous));
        let none = "{apiVersion: apiserver.config.k8s.io/v1, kind: AuthenticationConfiguration}";
        let none = parse_configuration(none, &own).map_err(|e| panic!("{e}")).unwrap();
        assert!(none.issuers.is_empty() && none.anonymous.is_none());
    }

    #[test]
    fn what_is_wrong_is_told_where_it_is() {
        let one = "url: https://one.example";
        let own = ["https://own.example".to_owned(), "https://other.example".to_owned()];
        for (from, to, expect) in [
            (one, "x: y", "strict decoding error: unknown field \"jwt[0].issuer.x\""),
            ("audiences: [a]", "audiences: a", "cannot read the string at jwt[0].issuer.audiences as a list"),
            ("    url: https://one.example\n", "", "jwt[0].issuer.url: Required value"),
            (
                one,
                "url: http://one.example",
                "jwt[0].issuer.url: Invalid value: \"http://one.example\": URL scheme must be https",
            ),
            (one, "url: https://u:p@one.example", "URL must not contain a username or password"),
            (one, "url: https://one.example?a=b", "URL must not contain a query"),
            (one, "url: 'https://one.example#a'", "URL must not contain a fragment"),
            (one, "url: https://two.example/path", "jwt[1].issuer.url: Duplicate value: \"https://two.example/path\""),
            (
                one,
                "url: https://own.example",
                "jwt[0].issuer.url: Invalid value: \"https://own.example\": URL must not overlap with disallowed issuers: \
                 [https://other.example https://own.example]",
            ),
            (
                "https://inside.example/.well-known/openid-configuration",
                "https://two.example/path/",
                "jwt[1].issuer.discoveryURL: Invalid value: \"https://two.example/path/\": discoveryURL must be different from URL",
            ),
            (
                "audiences: [a]",
                "audiences: []",
                "jwt[0].issuer.audiences: Required value: at least one jwt[0].issuer.audiences is required",
            ),
            ("audiences: [a]", "audiences: ['']", "jwt[0].issuer.audiences[0]: Required value"),
            ("[a, b]", "[a, a]", "jwt[1].issuer.audiences[1]: Duplicate value: \"a\""),
            ("MatchAny", "MatchAll", "audienceMatchPolicy must be MatchAny for multiple audiences"),
            (
                "audiences: [a]",
                "audiences: [a]\n    audienceMatchPolicy: All",
                "audienceMatchPolicy must be empty or MatchAny for single audience",
            ),
            (
                "audiences: [a]",
                "audiences: [a]\n    certificateAuthority: nonsense",
                "jwt[0].issuer.certificateAuthority: Invalid value: \"<omitted>\": data does not contain any valid RSA or ECDSA",
            ),
            (
                "audiences: [a]",
                "audiences: [a]\n    egressSelectorType: cluster",
                "jwt[0].issuer.egressSelectorType: Invalid value: \"cluster\"",
            ),
            (
                "audiences: [a]",
                "audiences: [a]\n    egressSelectorType: moon",
                "egress selector must be either controlplane or cluster",
            ),
            (
                ", prefix: 'one:'",
                "",
                "jwt[0].claimMappings.username.prefix: Required value: prefix is required when claim is set",
            ),
            (
                "{claim: sub, prefix: 'one:'}",
                "{}",
                "jwt[0].claimMappings.username: Required value: claim or expression is required",
            ),
            (
                "claim: sub, prefix",
                "claim: sub, expression: claims.sub, prefix",
                "claim and expression can't both be set",
            ),
            (
                "{claim: sub, prefix: 'one:'}",
                "{expression: claims.sub, prefix: x}",
                "may not be specified when expression is set",
            ),
            (
                "{claim: oid}",
                "{claim: oid, expression: claims.oid}",
                "jwt[1].claimMappings.uid: Invalid value: \"\": claim and",
            ),
            (
                "claims.email}",
                "claims.email ++}",
                "jwt[1].claimMappings.username.expression: Invalid value: \"claims.email ++\": compilation failed: ERROR",
            ),
            (
                "claims.email_verified == true",
                "claims.verified == true",
                "claims.email_verified must be used in claimMappings.username.expression or",
            ),
            ("claims.email_verified == true", "claims.email_verified", "must evaluate to bool"),
            (
                "{claim: hd, ",
                "{claim: hd, message: m, ",
                "jwt[1].claimValidationRules[0].message: Invalid value: \"m\": may not be",
            ),
            (
                "{claim: hd, requiredValue: example.org}",
                "{message: m}",
                "claimValidationRules[0]: Required value: claim or expression",
            ),
            ("example.org/x", "x", "must be a domain-prefixed path (such as \"acme.io/foo\")"),
            (
                "example.org/x",
                "example.org/X",
                "jwt[1].claimMappings.extra[0].key: Invalid value: \"example.org/X\": must be lowercase",
            ),
            (
                "example.org/x",
                "sub.k8s.io/x",
                "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use",
            ),
            (
                "valueExpression: claims.x",
                "valueExpression: ''",
                "jwt[1].claimMappings.extra[0].valueExpression: Required value",
            ),
            (
                "user.username != 'root'",
                "user.name != 'root'",
                "jwt[1].userValidationRules[0].expression: Invalid value",
            ),
            ("user.username != 'root'", "", "jwt[1].userValidationRules[0].expression: Required value"),
            ("enabled: true", "enabled: false", "anonymous.conditions: Invalid value: "),
        ] {
            assert!(FILE.contains(from), "{from}");
            let error = parse_configuration(&FILE.replacen(from, to, 1), &own).err().unwrap_or_else(|| panic!("{to}"));
            assert!(error.contains(expect), "{to}\n{error}\n{expect}");
        }
        // What a claim of another says of its verification says nothing of this one.
        let hidden = FILE.replacen("claims.email_verified == true", "claims.other.email_verified == true", 1);
        assert!(parse_configuration(&hidden, &own).is_err());
    }
}
