//! An etcd of one or more members on the loopback, for one test: Debian's `etcd-server`, or what `$KYBERN_ETCD` names.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Where an etcd is; `None`, and said so, where there is none.
fn binary(test: &str) -> Option<PathBuf> {
    let candidates = std::env::var_os("KYBERN_ETCD").map(PathBuf::from).into_iter().chain(["/usr/bin/etcd".into()]);
    let found = candidates.into_iter().find(|path| path.exists());
    if found.is_none() {
        crate::not_run(test, "no /usr/bin/etcd (Debian: etcd-server)");
    }
    found
}

/// Members with their data in a folder of their own. They end with the value.
pub struct EtcdServer {
    binary: PathBuf,
    folder: tempfile::TempDir,
    members: Vec<Member>,
    tls: bool,
}

struct Member {
    client: u16,
    peer: u16,
    child: Option<Child>,
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        for member in 0..self.members.len() {
            self.kill(member);
        }
    }
}

/// A port that nobody listens on now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("an etcd for the test").local_addr().expect("an etcd for the test").port()
}

impl EtcdServer {
    /// With TLS or without; `None`, and said so, where there is no etcd.
    pub fn start(test: &str, members: usize, tls: bool) -> Option<Self> {
        let binary = binary(test)?;
        let folder = tempfile::tempdir().expect("an etcd for the test");
        if tls {
            make_certificates(folder.path());
        }
        let members = (0..members).map(|_| Member { client: free_port(), peer: free_port(), child: None }).collect();
        let mut server = Self { binary, folder, members, tls };
        for member in 0..server.members.len() {
            server.run(member);
        }
        Some(server)
    }

    /// Starts a member that does not run, with the data that it had.
    pub fn run(&mut self, member: usize) {
        let scheme = if self.tls { "https" } else { "http" };
        let Member { client, peer, .. } = self.members[member];
        let cluster: Vec<String> =
            self.members.iter().enumerate().map(|(n, m)| format!("m{n}=http://127.0.0.1:{}", m.peer)).collect();
        let log =
            std::fs::File::create(self.folder.path().join(format!("m{member}.log"))).expect("an etcd for the test");
        let mut command = Command::new(&self.binary);
        command
            .arg(format!("--name=m{member}"))
            .arg(format!("--data-dir={}", self.folder.path().join(format!("m{member}")).display()))
            .arg(format!("--listen-client-urls={scheme}://127.0.0.1:{client}"))
            .arg(format!("--advertise-client-urls={scheme}://127.0.0.1:{client}"))
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!("--initial-cluster={}", cluster.join(",")))
            .arg("--logger=zap")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("an etcd for the test"))
            .stderr(log);
        if self.tls {
            let file = |name: &str| self.folder.path().join(name).display().to_string();
            command
                .arg(format!("--cert-file={}", file("server.pem")))
                .arg(format!("--key-file={}", file("server.key")))
                .arg(format!("--trusted-ca-file={}", file("ca.pem")))
                .arg("--client-cert-auth");
        }
        self.members[member].child = Some(command.spawn().expect("an etcd for the test"));
    }

    /// Ends a member at once.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops or continues a member without ending it: it hangs.
    pub fn signal(&self, member: usize, name: &str) {
        let pid = self.members[member].child.as_ref().expect("an etcd for the test").id();
        assert!(
            Command::new("kill")
                .arg(format!("-{name}"))
                .arg(pid.to_string())
                .status()
                .expect("an etcd for the test")
                .success()
        );
    }

    /// Where its members are.
    pub fn urls(&self) -> Vec<String> {
        let scheme = if self.tls { "https" } else { "http" };
        self.members.iter().map(|m| format!("{scheme}://127.0.0.1:{}", m.client)).collect()
    }

    /// What `etcdctl` says of an etcd without TLS.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(self.binary.with_file_name("etcdctl"));
        let output = command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.urls()[0])).args(arguments);
        let output = output.output().unwrap_or_else(|error| panic!("etcdctl (Debian: etcd-client): {error}"));
        assert!(output.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// One of its files: certificates, logs.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Whether clients must show the certificate `client.pem`, with its key `client.key`, to a server of the authority `ca.pem`.
    pub fn is_tls(&self) -> bool {
        self.tls
    }
}

/// An authority, a server's certificate and a client's; and those of a stranger.
fn make_certificates(folder: &Path) {
    let write = |name: &str, pem: String| std::fs::write(folder.join(name), pem).expect("an etcd for the test");
    for (authority, leaves) in [("ca", &["server", "client"][..]), ("other-ca", &["other"][..])] {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, authority);
        let key = KeyPair::generate().expect("an etcd for the test");
        write(&format!("{authority}.pem"), params.self_signed(&key).expect("an etcd for the test").pem());
        let issuer = Issuer::new(params, key);
        for leaf in leaves {
            let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])
                .expect("an etcd for the test");
            params.distinguished_name.push(DnType::CommonName, *leaf);
            let key = KeyPair::generate().expect("an etcd for the test");
            write(&format!("{leaf}.pem"), params.signed_by(&key, &issuer).expect("an etcd for the test").pem());
            write(&format!("{leaf}.key"), key.serialize_pem());
        }
    }
}
