//! Each component alone: a cluster put together by hand from separate processes, with upstream's flags and files.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use kybern_e2e::{Cluster, Finished, Scratch, eventually};

const PORT: &str = "7443";

/// Processes that end with the test.
pub(super) struct Running(pub(super) Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A cluster's files, below the host's folder.
pub(super) struct Files<'a>(pub(super) &'a Scratch);

impl Files<'_> {
    pub(super) fn path(&self, name: &str) -> String {
        self.0.folder.join(name).display().to_string()
    }

    pub(super) fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        self.path(name)
    }

    pub(super) fn openssl(&self, line: &str) {
        let output = Command::new("openssl").args(line.split(' ')).current_dir(&self.0.folder).output().unwrap();
        assert!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A kubeconfig for the bearer of a token.
    fn kubeconfig(&self, token: &str) -> String {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{PORT}', certificate-authority: {}}}}}]\n\
             users: [{{name: u, user: {{token: {token}}}}}]\n",
            self.path("serving.crt")
        );
        self.write(&format!("{token}.kubeconfig"), &text)
    }
}

/// A component in the background; its log lies in the host's folder.
pub(super) fn start(host: &Scratch, component: &str, flags: &[&str]) -> Child {
    start_program(host, component, &Cluster::get().kybern, &[&[component], flags].concat())
}

/// Another program in the background; its log lies in the host's folder.
pub(super) fn start_program(host: &Scratch, name: &str, program: &Path, arguments: &[&str]) -> Child {
    let log = std::fs::File::create(host.folder.join(format!("{name}.log"))).unwrap();
    let mut command = host.on_host(program);
    command.args(arguments).stdout(Stdio::null()).stderr(log).spawn().unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub(super) fn log(host: &Scratch, component: &str) -> String {
    std::fs::read_to_string(host.folder.join(format!("{component}.log"))).unwrap_or_default()
}

pub(super) fn kubectl(host: &Scratch, kubeconfig: &str, arguments: &[&str]) -> Finished {
    let mut command = host.on_host(Cluster::get().kubectls.last().unwrap());
    command.args(["--kubeconfig", kubeconfig]).args(arguments).env("HOME", &host.folder);
    Finished::new(format!("kubectl {}", arguments.join(" ")), command.output().expect("kubectl starts"))
}

#[test]
fn a_cluster_of_separate_processes() {
    let host = Scratch::new("parts");
    let files = Files(&host);
    files.openssl("genrsa -out sa.key 2048");
    files.openssl("rsa -in sa.key -pubout -out sa.pub");
    files.openssl("ecparam -name prime256v1 -genkey -noout -out old.key");
    files.openssl("ec -in old.key -pubout -out old.pub");
    files.openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout serving.key -out serving.crt -days 2 \
         -subj /CN=by-hand -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE",
    );
    files.openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout clients.key -out clients.crt -days 2 \
         -subj /CN=clients",
    );
    let tokens = files.write(
        "tokens.csv",
        "admin,root,1,\"system:masters\"\nscheduler,system:kube-scheduler,2\nnode,system:node:alone,3,\"system:nodes\"\n\
         nobody,nobody,4\n",
    );
    let path = |name: &str| files.path(name);
    let mut running = Running(vec![start(
        &host,
        "kube-apiserver",
        &[
            &format!("--data-dir={}", path("data")),
            &format!("--cert-dir={}", path("certs")),
            &format!("--secure-port={PORT}"),
            "--bind-address=0.0.0.0",
            &format!("--tls-cert-file={}", path("serving.crt")),
            &format!("--tls-private-key-file={}", path("serving.key")),
            &format!("--client-ca-file={}", path("clients.crt")),
            &format!("--token-auth-file={tokens}"),
            "--service-cluster-ip-range=10.97.0.0/16",
            "--service-account-issuer=https://issuer.example",
            &format!("--service-account-signing-key-file={}", path("sa.key")),
            &format!("--service-account-key-file={}", path("sa.pub")),
            &format!("--service-account-key-file={}", path("old.pub")),
            "--authorization-mode=Node,RBAC",
            "-v=2",
        ],
    )]);
    let admin = files.kubeconfig("admin");
    eventually("the API server is ready", || {
        let ready = kubectl(&host, &admin, &["get", "--raw", "/readyz"]);
        if ready.code == Some(0) { Ok(()) } else { Err(format!("{ready}{}", log(&host, "kube-apiserver"))) }
    });
    // The kubeconfig that it has written trusts the certificate that it was given.
    kubectl(&host, &path("data/admin.kubeconfig"), &["get", "namespaces"]).ok();
    let refused = kubectl(&host, &files.kubeconfig("nobody"), &["get", "pods"]).fails();
    assert!(refused.contains("User \"nobody\" cannot list resource \"pods\""), "{refused}");

    // A certificate of the clients' authority.
    files.openssl(
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout c.key -out c.csr -subj /O=people/CN=carol",
    );
    files.write("usage", "extendedKeyUsage = clientAuth\n");
    files.openssl("x509 -req -in c.csr -CA clients.crt -CAkey clients.key -days 2 -extfile usage -out c.crt");
    let carol = ["--client-certificate", &path("c.crt"), "--client-key", &path("c.key"), "auth", "whoami"];
    let server = [
        &["--server", &format!("https://127.0.0.1:{PORT}"), "--certificate-authority", &path("serving.crt")],
        &carol[..],
    ];
    let whoami = kubectl(&host, "/dev/null", &server.concat()).ok();
    assert!(whoami.contains("carol") && whoami.contains("people"), "{whoami}");

    let node_config = files.write(
        "kubelet.yaml",
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nclusterDNS: [10.97.0.10]\nmaxPods: 17\n\
         podCIDR: 10.244.7.0/24\n",
    );
    running.0.push(start(&host, "kube-controller-manager", &["--kubeconfig", &admin]));
    let scheduler = files.kubeconfig("scheduler");
    running.0.push(start(&host, "kube-scheduler", &["--kubeconfig", &scheduler, "--leader-elect=false"]));
    let node = files.kubeconfig("node");
    let directories = host.directories();
    let mut flags = vec!["--kubeconfig", &node, "--config", &node_config, "--hostname-override", "alone"];
    flags.extend(directories.iter().map(String::as_str));
    running.0.push(start(&host, "kubelet", &flags));

    let logs = || {
        ["kube-controller-manager", "kube-scheduler", "kubelet"].map(|c| format!("{c}:\n{}", log(&host, c))).join("\n")
    };
    eventually("the node is Ready", || {
        let ready = kubectl(&host, &admin, &["wait", "node/alone", "--for=condition=Ready", "--timeout=10s"]);
        if ready.code == Some(0) { Ok(()) } else { Err(format!("{ready}{}", logs())) }
    });
    let capacity = kubectl(&host, &admin, &["get", "node", "alone", "-o", "jsonpath={.status.capacity.pods}"]).ok();
    assert_eq!(capacity, "17");
    let owner = "jsonpath={.metadata.ownerReferences[0].kind}/{.metadata.ownerReferences[0].name} {.spec.drivers}";
    assert_eq!(kubectl(&host, &admin, &["get", "csinode", "alone", "-o", owner]).ok(), "Node/alone null");

    let version = Command::new(&Cluster::get().kybern).arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let image = format!("--image=kybern.local/kybern:{}", version.trim().rsplit(' ').next().unwrap());
    let create = ["create", "deployment", "web", "--replicas=2", &image, "--", "/kybern", "testapp", "serve"];
    kubectl(&host, &admin, &create).ok();
    let rolled = kubectl(&host, &admin, &["rollout", "status", "deployment/web", "--timeout=90s"]);
    assert!(rolled.code == Some(0), "{rolled}{}", logs());
    kubectl(&host, &admin, &["expose", "deployment", "web", "--port=80", "--target-port=8080"]).ok();
    let address = kubectl(&host, &admin, &["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]).ok();
    assert!(address.starts_with("10.97."), "{address}");
    // The network is the one that the kubelet has configured, where there was none.
    let pod = kubectl(&host, &admin, &["get", "pods", "-o", "jsonpath={.items[0].status.podIP}"]).ok();
    assert!(pod.starts_with("10.244.7."), "{pod}");
    eventually("a pod answers", || {
        let page = host.on_host(Path::new("curl")).args(["-sf", &format!("http://{pod}:8080/")]).output().unwrap();
        if page.status.success() { Ok(()) } else { Err(pod.clone()) }
    });

    let class = files.write(
        "class.yaml",
        "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: sandboxed}\nhandler: gvisor\n---\napiVersion: v1\n\
         kind: Pod\nmetadata: {name: sandboxed}\nspec: {runtimeClassName: sandboxed, containers: [{name: c, image: none}]}\n",
    );
    kubectl(&host, &admin, &["apply", "-f", &class]).ok();
    eventually("the pod says why it does not start", || {
        let events = kubectl(&host, &admin, &["get", "events", "--field-selector=involvedObject.name=sandboxed"]).ok();
        let refused = "FailedCreatePodSandBox   pod/sandboxed   Failed to create pod sandbox: ";
        let why = "no runtime for \"gvisor\" is configured";
        if events.contains(refused) && events.contains(why) { Ok(()) } else { Err(events) }
    });

    let token = kubectl(&host, &admin, &["create", "token", "default"]).ok();
    let bearer = ["--server", &format!("https://127.0.0.1:{PORT}"), "--certificate-authority", &path("serving.crt")];
    let whoami =
        kubectl(&host, "/dev/null", &[&bearer[..], &["--token", token.trim(), "auth", "whoami"]].concat()).ok();
    assert!(whoami.contains("system:serviceaccount:default:default"), "{whoami}");
    let discovery = kubectl(&host, &admin, &["get", "--raw", "/.well-known/openid-configuration"]).ok();
    assert!(discovery.contains("\"issuer\":\"https://issuer.example\""), "{discovery}");
    let keys = kubectl(&host, &admin, &["get", "--raw", "/openid/v1/jwks"]).ok();
    assert!(keys.matches("\"kid\"").count() >= 2, "both keys are published: {keys}");
}

#[test]
fn versions_and_flags() {
    let kybern = |arguments: &[&str]| {
        let output = Command::new(&Cluster::get().kybern).args(arguments).output().unwrap();
        Finished::new(arguments.join(" "), output)
    };
    for component in ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"] {
        let version = kybern(&[component, "--version"]).ok();
        assert!(version.starts_with("Kubernetes v1.35."), "{component}: {version}");
        let text = kybern(&[component, "--nonsense=1"]).exits_with(1).fails();
        assert!(text.starts_with("Error: unknown flag: --nonsense\n"), "{component}: {text}");
        assert!(kybern(&[component, "--help"]).ok().contains("Usage:"));
    }
    assert!(kybern(&["coredns", "-version"]).ok().starts_with("CoreDNS"));
    for (flags, why) in [
        ("--etcd-servers-overrides=/events#http://etcd:2379", " cannot be honoured: all objects lie in one store"),
        ("--etcd-servers=https://127.0.0.1:1 --etcd-cafile=/none.crt", "--etcd-cafile is not usable: /none.crt: "),
        ("--audit-policy-file=/none.yaml", "failed to read file path /none.yaml: "),
    ] {
        let line: Vec<&str> = ["kube-apiserver"].into_iter().chain(flags.split(' ')).collect();
        let refused = kybern(&line).exits_with(1).fails();
        assert!(refused.contains(why) && refused.starts_with("Error: "), "{flags}: {refused}");
    }
    let help = kybern(&["kube-apiserver", "--help"]).ok();
    assert!(help.contains("--audit-policy-file") && help.contains("--profiling"), "{help}");
}
