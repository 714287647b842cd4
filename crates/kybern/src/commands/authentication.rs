//! Whose tokens `kube-apiserver` believes beside the cluster's own, and whether anybody need say who he is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use kybern_apimachinery::{Value, json};
use kybern_auth::authn::oidc::SIGNING_ALGORITHMS;

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct AuthenticationFlags {
    /// Issuers of tokens, and anonymous requests, as a file has them, in place of the flags of OpenID Connect; read again when
    /// it changes.
    #[arg(long)]
    authentication_config: Option<PathBuf>,
    /// The URL of an issuer of OpenID Connect, whose tokens are believed.
    #[arg(long)]
    oidc_issuer_url: Option<String>,
    /// The audience that its tokens must be for.
    #[arg(long)]
    oidc_client_id: Option<String>,
    /// PEM file of the authorities of the issuer's server [default: the system's].
    #[arg(long)]
    oidc_ca_file: Option<PathBuf>,
    /// The claim that holds the user's name [default: sub].
    #[arg(long)]
    oidc_username_claim: Option<String>,
    /// Goes before names of users; - for nothing [default: the issuer's URL and #, or nothing before addresses of email].
    #[arg(long)]
    oidc_username_prefix: Option<String>,
    /// The claim that holds the user's groups, a string or a list of them.
    #[arg(long)]
    oidc_groups_claim: Option<String>,
    /// Goes before groups.
    #[arg(long)]
    oidc_groups_prefix: Option<String>,
    /// By which tokens may be signed [default: RS256].
    #[arg(long, value_delimiter = ',')]
    oidc_signing_algs: Vec<String>,
    /// A claim and its value, as key=value, that tokens must have; may be repeated.
    #[arg(long, value_delimiter = ',')]
    oidc_required_claim: Vec<String>,
    /// Lets requests without credentials pass as system:anonymous [default: true].
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    anonymous_auth: Option<bool>,
}

/// Where issuers are told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Issuers {
    Nowhere,
    File(PathBuf),
    /// As such a file would have them, and the algorithms that are allowed.
    Flags(Value, Vec<String>),
}

impl AuthenticationFlags {
    /// Whether anonymous requests pass; `None` if no flag says so.
    pub(crate) fn anonymous(&self) -> Option<bool> {
        self.anonymous_auth
    }

    pub(crate) fn issuers(&self) -> Result<Issuers> {
        if let Some(file) = &self.authentication_config {
            if self.any_oidc() {
                bail!("authentication-config file and oidc-* flags are mutually exclusive");
            }
            return Ok(Issuers::File(file.clone()));
        }
        if !self.any_oidc() {
            return Ok(Issuers::Nowhere);
        }
        let set = |flag: &Option<String>| flag.clone().filter(|value| !value.is_empty());
        let (Some(url), Some(client)) = (set(&self.oidc_issuer_url), set(&self.oidc_client_id)) else {
            bail!("oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set");
        };
        let algorithms = match self.oidc_signing_algs.as_slice() {
            [] => vec!["RS256".to_owned()],
            some => some.to_vec(),
        };
        if let Some(unknown) = algorithms.iter().find(|one| !SIGNING_ALGORITHMS.contains(&one.as_str())) {
            bail!("oidc: unsupported signing alg: {unknown:?}");
        }
        let claim = set(&self.oidc_username_claim).unwrap_or_else(|| "sub".to_owned());
        let prefix = match set(&self.oidc_username_prefix).as_deref() {
            Some("-") => String::new(),
            Some(prefix) => prefix.to_owned(),
            None if claim == "email" => String::new(),
            None => format!("{url}#"),
        };
        let mut jwt = json!({
            "issuer": {"url": url, "audiences": [client]},
            "claimMappings": {"username": {"claim": claim, "prefix": prefix}},
        });
        if let Some(claim) = set(&self.oidc_groups_claim) {
            let prefix = self.oidc_groups_prefix.clone().unwrap_or_default();
            jwt["claimMappings"]["groups"] = json!({"claim": claim, "prefix": prefix});
        }
        if let Some(file) = &self.oidc_ca_file {
            jwt["issuer"]["certificateAuthority"] = read(file)?.into();
        }
        let rules = self.oidc_required_claim.iter().map(|rule| {
            let (claim, value) = rule
                .split_once('=')
                .with_context(|| format!("--oidc-required-claim={rule} is not of the form key=value"))?;
            Ok(json!({"claim": claim.trim(), "requiredValue": value.trim()}))
        });
        let rules: Vec<Value> = rules.collect::<Result<_>>()?;
        if !rules.is_empty() {
            jwt["claimValidationRules"] = rules.into();
        }
        Ok(Issuers::Flags(json!({"jwt": [jwt]}), algorithms))
    }

    fn any_oidc(&self) -> bool {
        let texts = [
            &self.oidc_issuer_url,
            &self.oidc_client_id,
            &self.oidc_username_claim,
            &self.oidc_username_prefix,
            &self.oidc_groups_claim,
            &self.oidc_groups_prefix,
        ];
        texts.iter().any(|flag| flag.is_some())
            || self.oidc_ca_file.is_some()
            || !self.oidc_signing_algs.is_empty()
            || !self.oidc_required_claim.is_empty()
    }
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read --oidc-ca-file {}", file.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        authentication: AuthenticationFlags,
    }

    fn issuers(words: &[&str]) -> Result<Issuers, String> {
        Line::parse_from([&["kybern"], words].concat()).authentication.issuers().map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn flags_make_one_issuer() {
        assert_eq!(issuers(&[]), Ok(Issuers::Nowhere));
        assert_eq!(issuers(&["--authentication-config=f"]), Ok(Issuers::File("f".into())));
        let (url, client) = ("--oidc-issuer-url=https://i", "--oidc-client-id=c");
        let Ok(Issuers::Flags(file, algorithms)) = issuers(&[url, client]) else { panic!() };
        assert_eq!(algorithms, ["RS256"]);
        assert_eq!(
            file["jwt"][0],
            json!({
                "issuer": {"url": "https://i", "audiences": ["c"]},
                "claimMappings": {"username": {"claim": "sub", "prefix": "https://i#"}},
            })
        );
        let more = [
            url,
            client,
            "--oidc-username-claim=email",
            "--oidc-groups-claim=groups",
            "--oidc-groups-prefix=oidc:",
            "--oidc-required-claim=a=b,c=d=e",
            "--oidc-signing-algs=ES256,PS512",
        ];
        let Ok(Issuers::Flags(file, algorithms)) = issuers(&more) else { panic!() };
        assert_eq!(algorithms, ["ES256", "PS512"]);
        let jwt = &file["jwt"][0];
        assert_eq!(jwt["claimMappings"]["username"]["prefix"], "", "addresses bear no prefix");
        assert_eq!(jwt["claimMappings"]["groups"], json!({"claim": "groups", "prefix": "oidc:"}));
        assert_eq!(jwt["claimValidationRules"][1], json!({"claim": "c", "requiredValue": "d=e"}));
        let dash = issuers(&[url, client, "--oidc-username-prefix=-"]).unwrap();
        assert!(matches!(dash, Issuers::Flags(file, _) if file["jwt"][0]["claimMappings"]["username"]["prefix"] == ""));
    }

    #[test]
    fn what_cannot_be_is_said() {
        let (url, client) = ("--oidc-issuer-url=https://i", "--oidc-client-id=c");
        let together = "oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set";
        assert_eq!(issuers(&[url]), Err(together.to_owned()));
        assert_eq!(issuers(&["--oidc-groups-claim=g"]), Err(together.to_owned()));
        let both = issuers(&["--authentication-config=f", client]).unwrap_err();
        assert_eq!(both, "authentication-config file and oidc-* flags are mutually exclusive");
        let none = issuers(&[url, client, "--oidc-signing-algs=none"]).unwrap_err();
        assert_eq!(none, "oidc: unsupported signing alg: \"none\"");
        assert!(issuers(&[url, client, "--oidc-required-claim=a"]).is_err());
        assert!(issuers(&[url, client, "--oidc-ca-file=/no/file"]).unwrap_err().contains("/no/file"));
    }
}
