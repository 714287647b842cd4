//! kubeadm's command lines: every component as a process of its own, with the flags, files and certificates that kubeadm
//! gives upstream's, above the etcd that kubeadm runs. Only places are moved.

use kybern_e2e::{Cluster, Finished, Scratch, eventually};

use super::components::{Files, Running, kubectl, log, start, start_program};

const NODE_IP: &str = "198.51.100.10";
const PORT: &str = "7446";
const EC: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// What `kubeadm init phase certs all` makes.
fn certificates(files: &Files<'_>) {
    files.openssl("genrsa -out sa.key 2048");
    files.openssl("rsa -in sa.key -pubout -out sa.pub");
    let authorities = [("ca", "kubernetes"), ("front-proxy-ca", "front-proxy-ca"), ("etcd-ca", "etcd-ca")];
    for (authority, name) in authorities {
        files.openssl(&format!("req -x509 {EC} -keyout {authority}.key -out {authority}.crt -days 2 -subj /CN={name}"));
    }
    files.write("client.ext", "extendedKeyUsage = clientAuth\n");
    let names = format!("DNS:kubernetes.default.svc,IP:127.0.0.1,IP:10.97.0.1,IP:{NODE_IP}");
    files.write("server.ext", &format!("extendedKeyUsage = serverAuth\nsubjectAltName = {names}\n"));
    files.write("both.ext", &format!("extendedKeyUsage = serverAuth, clientAuth\nsubjectAltName = {names}\n"));
    for (name, authority, subject, usage) in [
        ("apiserver", "ca", "/CN=kube-apiserver", "server"),
        ("apiserver-kubelet-client", "ca", "/O=kubeadm:cluster-admins/CN=kube-apiserver-kubelet-client", "client"),
        ("front-proxy-client", "front-proxy-ca", "/CN=front-proxy-client", "client"),
        ("etcd-server", "etcd-ca", "/CN=alone", "both"),
        ("apiserver-etcd-client", "etcd-ca", "/CN=kube-apiserver-etcd-client", "client"),
        ("super-admin", "ca", "/O=system:masters/CN=kubernetes-super-admin", "client"),
        ("controller-manager", "ca", "/CN=system:kube-controller-manager", "client"),
        ("scheduler", "ca", "/CN=system:kube-scheduler", "client"),
        ("kubelet", "ca", "/O=system:nodes/CN=system:node:alone", "client"),
    ] {
        files.openssl(&format!("req {EC} -keyout {name}.key -out {name}.csr -subj {subject}"));
        files.openssl(&format!(
            "x509 -req -in {name}.csr -CA {authority}.crt -CAkey {authority}.key -CAcreateserial -days 2 -extfile \
             {usage}.ext -out {name}.crt"
        ));
    }
}

/// A kubeconfig as kubeadm's, but that it names files.
fn kubeconfig(files: &Files<'_>, user: &str) -> String {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'https://{NODE_IP}:{PORT}', certificate-authority: {}}}}}]\n\
         users: [{{name: u, user: {{client-certificate: {}, client-key: {}}}}}]\n",
        files.path("ca.crt"),
        files.path(&format!("{user}.crt")),
        files.path(&format!("{user}.key")),
    );
    files.write(&format!("{user}.conf"), &text)
}

fn etcd(files: &Files<'_>) -> Vec<String> {
    let mut line: Vec<String> = [
        &format!("--advertise-client-urls=https://{NODE_IP}:2379"),
        "--client-cert-auth=true",
        &format!("--initial-advertise-peer-urls=https://{NODE_IP}:2380"),
        &format!("--initial-cluster=alone=https://{NODE_IP}:2380"),
        &format!("--listen-client-urls=https://127.0.0.1:2379,https://{NODE_IP}:2379"),
        "--listen-metrics-urls=http://127.0.0.1:2381",
        &format!("--listen-peer-urls=https://{NODE_IP}:2380"),
        "--name=alone",
        "--peer-client-cert-auth=true",
        "--snapshot-count=10000",
    ]
    .map(str::to_owned)
    .to_vec();
    line.extend(
        [
            ("cert-file", "etcd-server.crt"),
            ("data-dir", "etcd"),
            ("key-file", "etcd-server.key"),
            ("peer-cert-file", "etcd-server.crt"),
            ("peer-key-file", "etcd-server.key"),
            ("peer-trusted-ca-file", "etcd-ca.crt"),
            ("trusted-ca-file", "etcd-ca.crt"),
        ]
        .map(|(flag, name)| format!("--{flag}={}", files.path(name))),
    );
    line
}

/// The keys below a prefix, as etcd's own client reads them.
fn keys(host: &Scratch, files: &Files<'_>, prefix: &str) -> String {
    let mut etcdctl = host.on_host(std::path::Path::new("etcdctl"));
    etcdctl.env("ETCDCTL_API", "3").arg(format!("--cacert={}", files.path("etcd-ca.crt"))).args([
        &format!("--cert={}", files.path("apiserver-etcd-client.crt")),
        &format!("--key={}", files.path("apiserver-etcd-client.key")),
        "--endpoints=https://127.0.0.1:2379",
        "get",
        "--prefix",
        "--keys-only",
        prefix,
    ]);
    Finished::new(format!("etcdctl get {prefix}"), etcdctl.output().expect("etcdctl starts")).ok()
}

fn api_server(files: &Files<'_>) -> Vec<String> {
    let path = |name: &str| files.path(name);
    let mut line: Vec<String> = [
        &format!("--advertise-address={NODE_IP}"),
        "--allow-privileged=true",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--enable-bootstrap-token-auth=true",
        "--etcd-servers=https://127.0.0.1:2379",
        "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        &format!("--secure-port={PORT}"),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--service-cluster-ip-range=10.97.0.0/16",
    ]
    .map(str::to_owned)
    .to_vec();
    line.extend(
        [
            ("client-ca-file", "ca.crt"),
            ("etcd-cafile", "etcd-ca.crt"),
            ("etcd-certfile", "apiserver-etcd-client.crt"),
            ("etcd-keyfile", "apiserver-etcd-client.key"),
            ("kubelet-client-certificate", "apiserver-kubelet-client.crt"),
            ("kubelet-client-key", "apiserver-kubelet-client.key"),
            ("proxy-client-cert-file", "front-proxy-client.crt"),
            ("proxy-client-key-file", "front-proxy-client.key"),
            ("requestheader-client-ca-file", "front-proxy-ca.crt"),
            ("service-account-key-file", "sa.pub"),
            ("service-account-signing-key-file", "sa.key"),
            ("tls-cert-file", "apiserver.crt"),
            ("tls-private-key-file", "apiserver.key"),
        ]
        .map(|(flag, name)| format!("--{flag}={}", path(name))),
    );
    line
}

fn controller_manager(files: &Files<'_>, kubeconfig: &str) -> Vec<String> {
    let path = |name: &str| files.path(name);
    vec![
        "--allocate-node-cidrs=true".to_owned(),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--client-ca-file={}", path("ca.crt")),
        "--cluster-cidr=10.244.0.0/16".to_owned(),
        "--cluster-name=kubernetes".to_owned(),
        format!("--cluster-signing-cert-file={}", path("ca.crt")),
        format!("--cluster-signing-key-file={}", path("ca.key")),
        "--controllers=*,bootstrapsigner,tokencleaner".to_owned(),
        format!("--kubeconfig={kubeconfig}"),
        "--leader-elect=true".to_owned(),
        format!("--requestheader-client-ca-file={}", path("front-proxy-ca.crt")),
        format!("--root-ca-file={}", path("ca.crt")),
        format!("--service-account-private-key-file={}", path("sa.key")),
        "--service-cluster-ip-range=10.97.0.0/16".to_owned(),
        "--use-service-account-credentials=true".to_owned(),
    ]
}

/// The answer's code to a request to a component, without a certificate's verification.
fn code(host: &Scratch, url: &str, more: &[&str]) -> String {
    let mut curl = host.on_host(std::path::Path::new("curl"));
    curl.args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", url]).args(more);
    String::from_utf8(curl.output().expect("curl starts").stdout).unwrap()
}

/// The network add-on that every cluster of kubeadm's needs.
const NETWORK: &str = r#"{"cniVersion": "1.0.0", "name": "byhand", "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "ipam": {"type": "host-local",
     "dataDir": "FOLDER/networks", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}"#;

const KUBELET: &str = "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {cacheTTL: 0s, enabled: true}
  x509: {clientCAFile: AUTHORITY}
authorization: {mode: Webhook, webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s}}
cgroupDriver: systemd
clusterDNS: [10.97.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///var/run/containerd/containerd.sock
healthzBindAddress: 127.0.0.1
healthzPort: 10248
rotateCertificates: true
staticPodPath: /etc/kubernetes/manifests
";

#[test]
fn kubeadms_command_lines_make_a_cluster() {
    let host = Scratch::new("kubeadm");
    let files = Files(&host);
    certificates(&files);
    let [admin, manager, scheduler, kubelet] =
        ["super-admin", "controller-manager", "scheduler", "kubelet"].map(|user| kubeconfig(&files, user));
    let run = |component: &str, line: &[String]| {
        let flags: Vec<&str> = line.iter().map(String::as_str).collect();
        start(&host, component, &flags)
    };
    let line = etcd(&files);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let etcd = start_program(&host, "etcd", std::path::Path::new("etcd"), &line);
    let mut running = Running(vec![etcd, run("kube-apiserver", &api_server(&files))]);
    eventually("the API server is ready", || {
        let ready = kubectl(&host, &admin, &["get", "--raw", "/readyz"]);
        if ready.code == Some(0) { Ok(()) } else { Err(format!("{ready}{}", log(&host, "kube-apiserver"))) }
    });

    // As `kubeadm init` does: the API server's client of kubelets is in this group.
    let group = "--group=kubeadm:cluster-admins";
    let bind = ["create", "clusterrolebinding", "kubeadm:cluster-admins", "--clusterrole=cluster-admin", group];
    kubectl(&host, &admin, &bind).ok();
    running.0.push(run("kube-controller-manager", &controller_manager(&files, &manager)));
    let line = [
        format!("--authentication-kubeconfig={scheduler}"),
        format!("--authorization-kubeconfig={scheduler}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--kubeconfig={scheduler}"),
        "--leader-elect=true".to_owned(),
    ];
    running.0.push(run("kube-scheduler", &line));
    files.write("cni/net.d/10-byhand.conflist", &NETWORK.replace("FOLDER", &host.folder.display().to_string()));
    let mut line = vec![
        format!("--bootstrap-kubeconfig={}", files.path("bootstrap-kubelet.conf")),
        format!("--kubeconfig={kubelet}"),
        format!("--config={}", files.write("kubelet.yaml", &KUBELET.replace("AUTHORITY", &files.path("ca.crt")))),
        "--container-runtime-endpoint=unix:///var/run/containerd/containerd.sock".to_owned(),
        "--pod-infra-container-image=registry.k8s.io/pause:3.10.1".to_owned(),
        "--hostname-override=alone".to_owned(),
        "--node-labels=tier=edge".to_owned(),
    ];
    line.extend(host.directories());
    running.0.push(run("kubelet", &line));

    let logs = || {
        let components = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"];
        components.map(|component| format!("{component}:\n{}", log(&host, component))).join("\n")
    };
    eventually("the node is Ready", || {
        let ready = kubectl(&host, &admin, &["wait", "node/alone", "--for=condition=Ready", "--timeout=10s"]);
        if ready.code == Some(0) { Ok(()) } else { Err(format!("{ready}{}", logs())) }
    });
    let label = ["get", "node", "alone", "-o", "jsonpath={.metadata.labels.tier}"];
    assert_eq!(kubectl(&host, &admin, &label).ok(), "edge");
    let version = std::process::Command::new(&Cluster::get().kybern).arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let image = format!("--image=kybern.local/kybern:{}", version.trim().rsplit(' ').next().unwrap());
    let create = ["create", "deployment", "web", &image, "--", "/kybern", "testapp", "serve"];
    kubectl(&host, &admin, &create).ok();
    let rolled = kubectl(&host, &admin, &["rollout", "status", "deployment/web", "--timeout=90s"]);
    assert!(rolled.code == Some(0), "{rolled}{}", logs());
    // By the API server's certificate for kubelets.
    let read = kubectl(&host, &admin, &["logs", "deployment/web"]);
    assert!(read.code == Some(0), "{read}{}", logs());

    assert_eq!(code(&host, "http://127.0.0.1:10248/healthz", &[]), "200", "the kubelet is alive");
    delegated(&host, &files, &admin);
    assert_eq!(keys(&host, &files, "/registry/minions/").trim(), "/registry/minions/alone");
    let pods = keys(&host, &files, "/registry/pods/default/web-");
    assert_eq!(pods.split_whitespace().count(), 1, "the pod lies in etcd: {pods}");
}

/// Who gets what of components is the API server's word.
fn delegated(host: &Scratch, files: &Files<'_>, admin: &str) {
    let kubectl = |arguments: &[&str]| kubectl(host, admin, arguments).ok();
    kubectl(&["create", "serviceaccount", "scraper"]);
    kubectl(&["create", "serviceaccount", "nobody"]);
    kubectl(&["create", "clusterrole", "scrape", "--verb=get", "--non-resource-url=/metrics"]);
    kubectl(&["create", "clusterrolebinding", "scrape", "--clusterrole=scrape", "--serviceaccount=default:scraper"]);
    kubectl(&["create", "clusterrole", "scrape-nodes", "--verb=get", "--resource=nodes/metrics"]);
    kubectl(&[
        "create",
        "clusterrolebinding",
        "scrape-nodes",
        "--clusterrole=scrape-nodes",
        "--serviceaccount=default:scraper",
    ]);
    let bearer = |account: &str| format!("Authorization: Bearer {}", kubectl(&["create", "token", account]).trim());
    let (scraper, nobody) = (bearer("scraper"), bearer("nobody"));
    for (component, port) in [("kube-controller-manager", 10257), ("kube-scheduler", 10259), ("kubelet", 10250)] {
        let metrics = format!("https://127.0.0.1:{port}/metrics");
        let unknown = if component == "kubelet" { "401" } else { "403" };
        assert_eq!(code(host, &metrics, &[]), unknown, "{component}: without a credential");
        assert_eq!(code(host, &metrics, &["-H", "Authorization: Bearer x"]), "401", "{component}: a bad token");
        assert_eq!(code(host, &metrics, &["-H", &nobody]), "403", "{component}: a token without the right");
        assert_eq!(code(host, &metrics, &["-H", &scraper]), "200", "{component}: a token with the right");
        let (certificate, key) = (files.path("super-admin.crt"), files.path("super-admin.key"));
        // The scheduler has the authority from the cluster's ConfigMap.
        let certified = code(host, &metrics, &["--cert", &certificate, "--key", &key]);
        assert_eq!(certified, "200", "{component}: a master's certificate");
        if component != "kubelet" {
            assert_eq!(code(host, &format!("https://127.0.0.1:{port}/healthz"), &[]), "200", "{component}: health");
        }
    }
}
