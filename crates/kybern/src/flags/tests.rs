use super::*;

fn read(line: &str) -> Result<Prepared, String> {
    prepare(line.split(' ').map(OsString::from).collect())
}

fn arguments(line: &str) -> String {
    let prepared = read(line).unwrap_or_else(|refusal| panic!("{line}: {refusal}"));
    let arguments: Vec<&str> = prepared.arguments.iter().map(|a| a.to_str().unwrap()).collect();
    arguments.join(" ")
}

#[test]
fn what_works_goes_on_to_clap() {
    for (line, expect) in [
        ("kybern coredns -conf /etc/Corefile", "kybern coredns --conf /etc/Corefile"),
        ("/usr/bin/kube-proxy --config=c -v=2", "/usr/bin/kube-proxy kube-proxy --config=c"),
        ("kybern kubelet --v 5 --port 1", "kybern kubelet --port=1"),
        ("kybern kubelet --port=1 --port=0x2", "kybern kubelet --port=2"),
        (
            "kybern kubelet --cluster_dns=1.1.1.1 --cluster-dns 2.2.2.2",
            "kybern kubelet --cluster-dns=1.1.1.1 --cluster-dns=2.2.2.2",
        ),
        ("kybern kube-apiserver --anonymous-auth", "kybern kube-apiserver --anonymous-auth=true"),
        ("kybern kube-apiserver --anonymous-auth=F", "kybern kube-apiserver --anonymous-auth=false"),
        (
            "kybern kube-apiserver --authorization-mode=Node --authorization-mode=RBAC",
            "kybern kube-apiserver --authorization-mode=Node,RBAC",
        ),
        ("kybern kube-apiserver --data-dir /d", "kybern kube-apiserver --data-dir=/d"),
        ("kybern kubelet --help --nodes", ""),
        // What is no component's is left as it is.
        ("kybern --version", "kybern --version"),
        ("kybern up -v", "kybern up -v"),
    ] {
        if expect.is_empty() {
            assert!(read(line).is_err(), "{line}");
            continue;
        }
        assert_eq!(arguments(line), expect, "{line}");
    }
    assert_eq!(arguments("kybern kubelet --port=1 -h"), "kybern kubelet --help");
}

#[test]
fn levels_and_versions() {
    for (line, level) in [
        ("kybern kubelet --v 5", Some(Level::DEBUG)),
        ("kybern kubelet --v=8", Some(Level::TRACE)),
        ("kybern kubelet -v2", Some(Level::INFO)),
        ("kybern kubelet", None),
    ] {
        assert_eq!(read(line).unwrap().level, level, "{line}");
    }
    let answer = |line| read(line).unwrap().answer;
    let version = format!("Kubernetes {}", version::KUBERNETES);
    assert_eq!(answer("kybern kubelet --version").as_ref(), Some(&version));
    assert_eq!(answer("kybern kubelet --version=false"), None);
    assert!(answer("kybern kube-apiserver --version=raw").unwrap().contains("Minor:\"35\""));
    assert!(answer("kybern coredns -version").unwrap().starts_with("CoreDNS"));
}

#[test]
fn refusals_say_why() {
    for (line, expect) in [
        ("kybern kubelet --nonsense=1", "unknown flag: --nonsense\n"),
        ("kybern kubelet --hostname-overide=a", "Did you mean --hostname-override?"),
        ("kybern kubelet -x", "unknown shorthand flag: 'x' in -x"),
        ("kybern kubelet --port", "flag needs an argument: --port"),
        ("kybern kubelet --port=http", "invalid argument \"http\" for \"--port\" flag: strconv.ParseInt"),
        ("kybern kubelet -v=x", "for \"-v, --v\" flag: strconv.ParseInt"),
        ("kybern kubelet --feature-gates=Nonsense=true", "unrecognized feature gate: Nonsense"),
        ("kybern kubelet run", "unknown command run"),
        ("kybern kube-proxy run", "\"kube-proxy\" does not take any arguments, got \"run\""),
        (
            "kybern kube-apiserver --egress-selector-config-file=/p",
            "--egress-selector-config-file=/p cannot be honoured: ",
        ),
        (
            "kybern kube-apiserver --etcd-servers-overrides=/events#https://10.0.0.9:2379",
            "all objects lie in one store",
        ),
    ] {
        let refusal = read(line).unwrap_err();
        assert!(refusal.contains(expect), "{line}: {refusal}");
    }
    let line = "kybern kube-apiserver --etcd-servers-overrides=y --egress-selector-config-file=x --profiling=true";
    let both = read(line).unwrap_err();
    assert_eq!(both.lines().count(), 2, "{both}");
}

#[test]
fn what_has_no_effect_is_said() {
    let notes = |line: &str| read(line).unwrap().notes;
    let said = notes(
        "kybern kube-apiserver --contention-profiling --storage-backend=etcd3 --audit-log-path= --goaway-chance=0.1",
    );
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said.iter().all(|note| note.contains(" has no effect: ")), "{said:?}");
    assert_eq!(notes("kybern kube-scheduler --leader-elect-resource-lock=leases"), Vec::<String>::new());
    let gate = notes("kybern kubelet --feature-gates=AllAlpha=true,AllBeta=false");
    assert!(gate.len() == 1 && gate[0].contains("AllAlpha"), "{gate:?}");
}

/// As kubeadm writes them for 1.35, with an etcd of its own.
#[test]
fn kubeadms_command_lines() {
    let apiserver = "kybern kube-apiserver --advertise-address=198.51.100.10 --allow-privileged=true \
        --authorization-mode=Node,RBAC --client-ca-file=/etc/kubernetes/pki/ca.crt \
        --enable-admission-plugins=NodeRestriction --enable-bootstrap-token-auth=true \
        --etcd-cafile=/etc/kubernetes/pki/etcd/ca.crt --etcd-certfile=/etc/kubernetes/pki/apiserver-etcd-client.crt \
        --etcd-keyfile=/etc/kubernetes/pki/apiserver-etcd-client.key --etcd-servers=https://127.0.0.1:2379 \
        --kubelet-client-certificate=/etc/kubernetes/pki/apiserver-kubelet-client.crt \
        --kubelet-client-key=/etc/kubernetes/pki/apiserver-kubelet-client.key \
        --kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname \
        --proxy-client-cert-file=/etc/kubernetes/pki/front-proxy-client.crt \
        --proxy-client-key-file=/etc/kubernetes/pki/front-proxy-client.key --requestheader-allowed-names=front-proxy-client \
        --requestheader-client-ca-file=/etc/kubernetes/pki/front-proxy-ca.crt \
        --requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group \
        --requestheader-username-headers=X-Remote-User --secure-port=6443 \
        --service-account-issuer=https://kubernetes.default.svc.cluster.local \
        --service-account-key-file=/etc/kubernetes/pki/sa.pub \
        --service-account-signing-key-file=/etc/kubernetes/pki/sa.key --service-cluster-ip-range=10.96.0.0/12 \
        --tls-cert-file=/etc/kubernetes/pki/apiserver.crt --tls-private-key-file=/etc/kubernetes/pki/apiserver.key";
    let manager = "kybern kube-controller-manager --allocate-node-cidrs=true \
        --authentication-kubeconfig=/etc/kubernetes/controller-manager.conf \
        --authorization-kubeconfig=/etc/kubernetes/controller-manager.conf --bind-address=127.0.0.1 \
        --client-ca-file=/etc/kubernetes/pki/ca.crt --cluster-cidr=10.244.0.0/16 --cluster-name=kubernetes \
        --cluster-signing-cert-file=/etc/kubernetes/pki/ca.crt --cluster-signing-key-file=/etc/kubernetes/pki/ca.key \
        --controllers=*,bootstrapsigner,tokencleaner --kubeconfig=/etc/kubernetes/controller-manager.conf \
        --leader-elect=true --requestheader-client-ca-file=/etc/kubernetes/pki/front-proxy-ca.crt \
        --root-ca-file=/etc/kubernetes/pki/ca.crt --service-account-private-key-file=/etc/kubernetes/pki/sa.key \
        --service-cluster-ip-range=10.96.0.0/12 --use-service-account-credentials=true";
    let scheduler = "kybern kube-scheduler --authentication-kubeconfig=/etc/kubernetes/scheduler.conf \
        --authorization-kubeconfig=/etc/kubernetes/scheduler.conf --bind-address=127.0.0.1 \
        --kubeconfig=/etc/kubernetes/scheduler.conf --leader-elect=true";
    let kubelet = "kybern kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
        --kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml \
        --container-runtime-endpoint=unix:///var/run/containerd/containerd.sock \
        --pod-infra-container-image=registry.k8s.io/pause:3.10.1 --hostname-override=a \
        --register-with-taints=node-role.kubernetes.io/control-plane:NoSchedule";
    let proxy = "kybern kube-proxy --config=/var/lib/kube-proxy/config.conf --hostname-override=a";
    for line in [apiserver, manager, scheduler, kubelet, proxy] {
        use clap::Parser;
        let prepared = read(line).unwrap_or_else(|refusal| panic!("{line}: {refusal}"));
        let read = crate::cli::Cli::try_parse_from(&prepared.arguments);
        assert!(read.is_ok(), "{line}: {}", read.unwrap_err());
    }
}
