//! Somebody with a credential, who speaks HTTP to the API server or to a kubelet.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use kybern_e2e::{Cluster, Namespace};
use serde_json::{Value, json};

pub(super) const JSON: &str = "application/json";
pub(super) const MERGE: &str = "application/merge-patch+json";

#[derive(Clone)]
enum Credential {
    Nothing,
    Token(String),
    /// Files of a certificate and its key.
    Certificate(PathBuf, PathBuf),
}

#[derive(Clone)]
pub(super) struct Caller(Credential);

/// What came back. Code 0: the connection was refused or cut.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn message(&self) -> &str {
        self.body["message"].as_str().or(self.body.as_str()).unwrap_or("")
    }
}

/// A file of the cluster's own keys and certificates.
pub(super) fn pki(name: &str) -> PathBuf {
    Cluster::get().data_dir.join("server/pki").join(name)
}

fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().expect("openssl starts");
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Caller {
    pub(super) fn nobody() -> Self {
        Self(Credential::Nothing)
    }

    /// The bearer of a token.
    pub(super) fn bearer(token: &str) -> Self {
        Self(Credential::Token(token.to_owned()))
    }

    /// Somebody with a certificate that is there already.
    pub(super) fn with_certificate(certificate: PathBuf, key: PathBuf) -> Self {
        Self(Credential::Certificate(certificate, key))
    }

    /// A user whom the cluster's authority certifies.
    pub(super) fn certified(user: &str, group: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let folder = &Cluster::get().home;
        std::fs::create_dir_all(folder).expect("a home");
        let stem = folder.join(format!("attacker-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let file = |suffix: &str| stem.with_extension(suffix);
        let text = |path: &Path| path.display().to_string();
        let (key, request, certificate) = (file("key"), file("csr"), file("crt"));
        std::fs::write(file("ext"), "extendedKeyUsage = clientAuth\n").expect("a file");
        let subject = format!("/O={group}/CN={user}");
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        openssl(
            &[&["req"], &curve[..], &["-keyout", &text(&key), "-out", &text(&request), "-subj", &subject]].concat(),
        );
        let (authority, authority_key) = (text(&pki("ca.crt")), text(&pki("ca.key")));
        openssl(&[
            "x509",
            "-req",
            "-in",
            &text(&request),
            "-CA",
            &authority,
            "-CAkey",
            &authority_key,
            "-days",
            "1",
            "-extfile",
            &text(&file("ext")),
            "-out",
            &text(&certificate),
        ]);
        Self::with_certificate(certificate, key)
    }

    pub(super) fn administrator() -> &'static Self {
        static ADMINISTRATOR: OnceLock<Caller> = OnceLock::new();
        ADMINISTRATOR.get_or_init(|| Self::certified("root-of-tests", "system:masters"))
    }

    /// A new service account of a namespace with a ClusterRole there.
    pub(super) fn with_role(namespace: &Namespace, name: &str, role: &str) -> Self {
        let account = Self::account(namespace, name);
        let of = format!("--serviceaccount={}:{name}", namespace.name);
        namespace.run(&["create", "rolebinding", name, &format!("--clusterrole={role}"), &of]).ok();
        account
    }

    /// A new service account without any rights.
    pub(super) fn account(namespace: &Namespace, name: &str) -> Self {
        namespace.run(&["create", "serviceaccount", name]).ok();
        Self::bearer(namespace.run(&["create", "token", name]).ok().trim())
    }

    /// `curl` with the credential, to a port of the node.
    fn curl(&self, mut curl: Command, port: u16, path: &str) -> Command {
        let ca = pki("ca.crt");
        curl.args(["--silent", "--show-error", "--max-time", "30", "--noproxy", "*", "--path-as-is", "--cacert"]);
        curl.arg(ca).args(["--write-out", "\n%{http_code}"]);
        match &self.0 {
            Credential::Nothing => {}
            Credential::Token(token) => {
                curl.args(["--header", &format!("Authorization: Bearer {token}")]);
            }
            Credential::Certificate(certificate, key) => {
                curl.arg("--cert").arg(certificate).arg("--key").arg(key);
            }
        }
        curl.arg(format!("https://{}:{port}{path}", Cluster::get().node_ip));
        curl
    }

    pub(super) fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[])
    }

    pub(super) fn get_with(&self, path: &str, headers: &[&str]) -> Answer {
        let mut curl = self.curl(Cluster::get().on_node("curl"), 6443, path);
        curl.args(headers.iter().flat_map(|header| ["--header", header]));
        run(curl, "")
    }

    /// From a host beside the node.
    pub(super) fn get_from_lan(&self, path: &str) -> Answer {
        run(self.curl(Cluster::get().on_lan("curl"), 6443, path), "")
    }

    /// Of the kubelet.
    pub(super) fn ask_kubelet(&self, method: &str, path: &str) -> Answer {
        let mut curl = self.curl(Cluster::get().on_node("curl"), 10250, path);
        curl.args(["--request", method]);
        run(curl, "")
    }

    pub(super) fn send(&self, method: &str, path: &str, media: &str, body: &str) -> Answer {
        self.send_with(method, path, media, body, &[])
    }

    pub(super) fn send_with(&self, method: &str, path: &str, media: &str, body: &str, headers: &[&str]) -> Answer {
        let mut curl = self.curl(Cluster::get().on_node("curl"), 6443, path);
        curl.args(["--request", method, "--header", &format!("Content-Type: {media}"), "--data-binary", "@-"]);
        curl.args(headers.iter().flat_map(|header| ["--header", header]));
        run(curl, body)
    }

    pub(super) fn create(&self, path: &str, object: &Value) -> Answer {
        self.send("POST", path, JSON, &object.to_string())
    }

    /// What must work: without it, a refusal elsewhere would prove nothing.
    #[track_caller]
    pub(super) fn makes(&self, path: &str, object: &Value) -> Value {
        let answer = self.create(path, object);
        assert_eq!(answer.code, 201, "POST {path}: {}", answer.body);
        answer.body
    }

    #[track_caller]
    pub(super) fn patches(&self, path: &str, patch: &Value) -> Value {
        let answer = self.send("PATCH", path, MERGE, &patch.to_string());
        assert_eq!(answer.code, 200, "PATCH {path}: {}", answer.body);
        answer.body
    }

    #[track_caller]
    pub(super) fn reads(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.code, 200, "GET {path}: {}", answer.body);
        answer.body
    }

    /// An attempt that must be refused with one of these codes; the text of the refusal.
    #[track_caller]
    pub(super) fn refused(&self, method: &str, path: &str, body: &Value, codes: &[u16]) -> String {
        let media = if method == "PATCH" { MERGE } else { JSON };
        let answer = self.send(method, path, media, &body.to_string());
        assert!(codes.contains(&answer.code), "{method} {path} {body}: {answer:?}");
        answer.message().to_owned()
    }
}

fn run(mut curl: Command, body: &str) -> Answer {
    let mut child =
        curl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("curl starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let body = body.to_owned();
    // It may be answered before it has sent all.
    let writing = std::thread::spawn(move || drop(stdin.write_all(body.as_bytes())));
    let output = child.wait_with_output().expect("curl ends");
    writing.join().expect("the writer does not panic");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').unwrap_or(("", "0"));
    let said = if body.is_empty() { String::from_utf8_lossy(&output.stderr).into_owned() } else { body.to_owned() };
    Answer { code: code.parse().unwrap_or(0), body: serde_json::from_str(&said).unwrap_or(json!(said)) }
}
