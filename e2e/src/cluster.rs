//! The cluster under test, and kubectl on it.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::run::Finished;

/// The node's name.
pub(crate) const NODE: &str = "kybern-e2e";

/// Where the cluster is, as `cargo xtask e2e` says.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub kubeconfig: PathBuf,
    /// The node's network namespace.
    pub node_netns: PathBuf,
    /// A host beside the node, from where traffic comes from outside the cluster.
    pub lan_netns: PathBuf,
    pub node_ip: String,
    pub kybern: PathBuf,
    pub data_dir: PathBuf,
    /// kubectl's.
    pub home: PathBuf,
    /// The node's directories, as flags.
    pub directories: Vec<String>,
    /// Official kubectl programs, oldest first.
    pub kubectls: Vec<PathBuf>,
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: these tests run through `cargo xtask e2e`"))
}

impl Cluster {
    /// The cluster that all tests share.
    pub fn get() -> &'static Self {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        CLUSTER.get_or_init(|| Self {
            kubeconfig: variable("KYBERN_E2E_KUBECONFIG").into(),
            node_netns: variable("KYBERN_E2E_NODE_NETNS").into(),
            lan_netns: variable("KYBERN_E2E_LAN_NETNS").into(),
            node_ip: variable("KYBERN_E2E_NODE_IP"),
            kybern: variable("KYBERN_E2E_KYBERN").into(),
            data_dir: variable("KYBERN_E2E_DATA_DIR").into(),
            home: variable("KYBERN_E2E_HOME").into(),
            directories: variable("KYBERN_E2E_DIRECTORIES").split(' ').map(str::to_owned).collect(),
            kubectls: variable("KYBERN_E2E_KUBECTLS").split(':').map(PathBuf::from).collect(),
        })
    }

    /// Another cluster on the same node, to take this one's place while it is down: its data lies elsewhere.
    pub fn with_data_in(&self, data_dir: PathBuf) -> &'static Self {
        let data = format!("--data-dir={}", data_dir.display());
        let others = self.directories.iter().filter(|flag| !flag.starts_with("--data-dir=")).cloned();
        let directories = others.chain([data]).collect();
        let kubeconfig = data_dir.join("admin.kubeconfig");
        Box::leak(Box::new(Self { kubeconfig, data_dir, directories, ..self.clone() }))
    }

    /// The newest kubectl.
    pub fn kubectl(&'static self) -> Kubectl {
        Kubectl { cluster: self, program: self.kubectls.last().expect("at least one kubectl").clone(), namespace: None }
    }

    /// The newest and the oldest kubectl: they speak different protocols for exec, attach and port-forward.
    pub fn newest_and_oldest(&'static self) -> Vec<Kubectl> {
        let mut programs = vec![self.kubectls.last().expect("at least one kubectl").clone()];
        programs.extend(self.kubectls.first().filter(|first| **first != programs[0]).cloned());
        programs.into_iter().map(|program| Kubectl { cluster: self, program, namespace: None }).collect()
    }

    /// A directory of the node's, by its flag.
    pub fn directory(&self, flag: &str) -> &str {
        let value = self.directories.iter().find_map(|d| d.strip_prefix(flag)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("the cluster is not started with {flag}"))
    }

    /// Ids of this cluster's own processes whose command line holds all these words: those of its containers, and those that
    /// name one of its directories. Another cluster may be on the machine.
    pub fn processes(&self, words: &[&str]) -> Vec<u32> {
        let folder = self.data_dir.parent().expect("a folder").join("");
        let (folder, group) = (folder.display().to_string(), format!(":{}/", self.directory("--cgroup-root")));
        let read = |path: std::path::PathBuf| {
            String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).replace('\0', " ")
        };
        let listing = std::fs::read_dir("/proc").expect("/proc is there").flatten();
        let matching = listing.filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let line = read(entry.path().join("cmdline"));
            let own = line.contains(&folder) || read(entry.path().join("cgroup")).contains(&group);
            (own && words.iter().all(|word| line.contains(word))).then_some(pid)
        });
        matching.collect()
    }

    /// `kybern COMMAND` for this cluster, on the node's network.
    pub fn kybern(&self, command: &str) -> Command {
        let mut kybern = self.on_node(&self.kybern.display().to_string());
        kybern.arg(command).args(&self.directories);
        kybern
    }

    /// `kybern up` over what is there.
    #[track_caller]
    pub fn up(&self) {
        Finished::new("kybern up".to_owned(), self.up_command().output().expect("kybern starts")).ok();
    }

    /// The same, not yet run.
    pub fn up_command(&self) -> Command {
        let mut up = self.kybern("up");
        up.args(["--node-name", NODE, "--node-ip", &self.node_ip]);
        up
    }

    /// The running server's process id, as its lock file has it.
    pub fn server_pid(&self) -> u32 {
        let text = std::fs::read_to_string(self.data_dir.join("lock")).expect("a server has run");
        text.trim().parse().expect("the lock file holds a process id")
    }

    /// Kills the server as a crash would, and waits until the kernel has taken it away.
    pub fn crash_server(&self) {
        let pid = self.server_pid().to_string();
        assert!(Command::new("kill").args(["-9", &pid]).status().expect("kill starts").success());
        while std::path::Path::new("/proc").join(&pid).join("exe").exists() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// A program on the node's network.
    pub fn on_node(&self, program: &str) -> Command {
        Self::inside(&self.node_netns, program)
    }

    /// A program on a host beside the node.
    pub fn on_lan(&self, program: &str) -> Command {
        Self::inside(&self.lan_netns, program)
    }

    // `nsenter`, not `ip netns exec`: the latter hides the cgroup file systems.
    fn inside(netns: &std::path::Path, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", netns.display())).arg("--").arg(program).stdin(Stdio::null());
        command
    }

    /// Fetches a URL from the node with a new connection; the body, or why not.
    pub fn fetch(&self, url: &str) -> Result<String, String> {
        fetch(self.on_node("curl"), url)
    }

    /// Fetches a URL from a host beside the node.
    pub fn fetch_from_lan(&self, url: &str) -> Result<String, String> {
        fetch(self.on_lan("curl"), url)
    }

    /// A namespace for one test, removed when the test ends.
    pub fn namespace(&'static self, purpose: &str) -> Namespace {
        self.kubectl().namespace(purpose)
    }
}

fn fetch(mut curl: Command, url: &str) -> Result<String, String> {
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "5", "--noproxy", "*", url]);
    let output = curl.output().expect("curl starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(format!("{url}: {}", text(&output.stderr))) }
}

/// One official kubectl, perhaps bound to a namespace.
#[derive(Clone, Debug)]
pub struct Kubectl {
    pub cluster: &'static Cluster,
    pub program: PathBuf,
    namespace: Option<String>,
}

impl Kubectl {
    /// The same kubectl in a namespace.
    pub fn within(&self, namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..self.clone() }
    }

    /// A new namespace for one test, removed when the test ends.
    pub fn namespace(&self, purpose: &str) -> Namespace {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("e2e-{purpose}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        self.run(&["create", "namespace", &name]).ok();
        Namespace { kubectl: self.within(&name), name }
    }

    /// The command, ready to run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.cluster.on_node(&self.program.display().to_string());
        command.arg("--kubeconfig").arg(&self.cluster.kubeconfig);
        if let Some(namespace) = &self.namespace {
            command.args(["--namespace", namespace]);
        }
        // A home of its own: kubectl caches discovery there.
        command.env("HOME", &self.cluster.home).args(arguments);
        command
    }

    /// Runs to the end.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        let shown = format!("{} {}", self.program.display(), arguments.join(" "));
        Finished::new(shown, self.command(arguments).output().expect("kubectl starts"))
    }

    /// Runs to the end with this on its standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Finished {
        let shown = format!("{} {} <<EOF\n{input}\nEOF", self.program.display(), arguments.join(" "));
        let mut child = self.spawn_with_input(arguments);
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        let input = input.to_owned();
        let writing = std::thread::spawn(move || {
            // kubectl may end without reading it all.
            let _ = stdin.write_all(input.as_bytes());
        });
        let output = child.wait_with_output().expect("kubectl can be waited for");
        writing.join().expect("the writer does not panic");
        Finished::new(shown, output)
    }

    /// Starts with pipes on all three streams.
    pub fn spawn_with_input(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("kubectl starts")
    }

    /// `kubectl apply -f -`.
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        self.run_with_input(&["apply", "-f", "-"], manifest).ok()
    }

    /// `kubectl get … -o json`.
    #[track_caller]
    pub fn get(&self, what: &[&str]) -> Value {
        let arguments = [&["get"], what, &["-o", "json"]].concat();
        serde_json::from_str(&self.run(&arguments).ok()).expect("kubectl prints JSON")
    }

    /// `kubectl get … -o jsonpath=…`.
    #[track_caller]
    pub fn jsonpath(&self, what: &[&str], path: &str) -> String {
        let output = format!("jsonpath={path}");
        self.run(&[&["get"], what, &["-o", &output]].concat()).ok()
    }

    /// `kubectl wait` for a condition or a JSON path, for at most a minute.
    #[track_caller]
    pub fn wait(&self, what: &str, condition: &str) {
        self.run(&["wait", what, &format!("--for={condition}"), "--timeout=60s"]).ok();
    }
}

/// A test's own namespace.
#[derive(Debug)]
pub struct Namespace {
    pub kubectl: Kubectl,
    pub name: String,
}

impl std::ops::Deref for Namespace {
    type Target = Kubectl;

    fn deref(&self) -> &Kubectl {
        &self.kubectl
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The next test need not wait for this one's remains.
        let _ = self.kubectl.run(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}
