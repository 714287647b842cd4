//! Kubeconfig files, with credentials embedded.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{CertifiedKey, PkiError, files};

/// What a kubeconfig of one cluster, one user and one context says.
pub struct Kubeconfig<'a> {
    /// `https://192.0.2.7:6443`.
    pub server: &'a str,
    pub ca_pem: &'a str,
    pub cluster: &'a str,
    pub user: &'a str,
    pub credentials: Credentials<'a>,
}

pub enum Credentials<'a> {
    Certificate(&'a CertifiedKey),
    /// Certificate and key in one file.
    File(&'a Path),
    Token(&'a str),
}

impl<'a> Kubeconfig<'a> {
    /// A kubeconfig with a client certificate, for the cluster `kubernetes`.
    pub fn with_certificate(server: &'a str, ca_pem: &'a str, user: &'a str, pair: &'a CertifiedKey) -> Self {
        Self { server, ca_pem, cluster: "kubernetes", user, credentials: Credentials::Certificate(pair) }
    }

    /// The file's text: JSON, which is YAML, in the order of kubeadm's.
    pub fn to_yaml(&self) -> String {
        let context = format!("{}@{}", self.user, self.cluster);
        let quoted = |text: &str| Value::from(text).to_string();
        let user = match &self.credentials {
            Credentials::Certificate(pair) => format!(
                "    client-certificate-data: {}\n    client-key-data: {}\n",
                STANDARD.encode(&pair.certificate_pem),
                STANDARD.encode(&pair.key_pem)
            ),
            Credentials::File(path) => {
                let path = quoted(&path.display().to_string());
                format!("    client-certificate: {path}\n    client-key: {path}\n")
            }
            Credentials::Token(token) => format!("    token: {}\n", json!(token)),
        };
        format!(
            "apiVersion: v1\nkind: Config\npreferences: {{}}\nclusters:\n- name: {cluster}\n  cluster:\n    \
             certificate-authority-data: {ca}\n    server: {server}\ncontexts:\n- name: {context}\n  context:\n    \
             cluster: {cluster}\n    user: {name}\ncurrent-context: {context}\nusers:\n- name: {name}\n  user:\n{user}",
            cluster = quoted(self.cluster),
            ca = STANDARD.encode(self.ca_pem),
            server = quoted(self.server),
            context = quoted(&context),
            name = quoted(self.user),
        )
    }

    /// A kubeconfig that says where the cluster is, and of nobody who uses it, as kubeadm's discovery reads it.
    pub fn of_cluster(server: &str, ca_pem: &str) -> String {
        format!(
            "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {ca}\n    server: {server}\n  name: \"\"\n\
             contexts: null\ncurrent-context: \"\"\nkind: Config\nusers: null\n",
            ca = STANDARD.encode(ca_pem),
        )
    }

    /// Writes the file, readable by its owner alone.
    pub fn write(&self, path: &Path) -> Result<(), PkiError> {
        files::write(path, &self.to_yaml())
    }
}
