//! The API server's proxy and its certificate: nobody is taken for the server, nothing of its machine is reached, and no
//! credential leaves it.

use kybern_e2e::{Cluster, eventually};
use serde_json::json;

use super::Server;
use super::caller::{Caller, pki};

#[test]
fn nobody_is_taken_for_the_server() {
    let server = Server::now();
    let namespace = Cluster::get().namespace("proxied");
    let name = &namespace.name;
    let eve = Caller::with_role(&namespace, "eve", "edit");
    // The Service that stands for the API server, by somebody who may edit in its namespace.
    let default = namespace.within("default");
    let of = format!("--serviceaccount={name}:eve");
    default.run(&["create", "rolebinding", name, "--clusterrole=edit", &of]).ok();
    let answers: Vec<_> = ["https:kubernetes:https", "https:kubernetes:443", "kubernetes:https", "https:kubernetes:"]
        .iter()
        .flat_map(|id| ["/version", "/api/v1/namespaces/kube-system/secrets", "/apis/"].map(|path| (*id, path)))
        .map(|(id, path)| (id, path, eve.get(&format!("/api/v1/namespaces/default/services/{id}/proxy{path}"))))
        .collect();
    default.run(&["delete", "rolebinding", name]).ok();
    for (id, path, answer) in answers {
        assert_eq!(answer.code, 503, "{id} {path}: {}", answer.body);
        assert!(answer.message().starts_with("no endpoints available for service"), "{}", answer.body);
    }

    // A pod on the host's network has the node's address, where the API server and the kubelet listen.
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: front}
spec:
  terminationGracePeriodSeconds: 0
  hostNetwork: true
  containers: [{name: main, image: busybox, command: [sleep, '3600']}]
",
    );
    namespace.wait("pod/front", "condition=Ready");
    let through = |id: &str, path: &str| eve.get(&format!("/api/v1/namespaces/{name}/pods/{id}/proxy{path}"));
    let seen = through("https:front:6443", "/api/v1/namespaces/kube-system/secrets");
    assert_eq!(seen.code, 403, "{}", seen.body);
    assert!(seen.message().contains("User \"system:anonymous\""), "{}", seen.body);
    for path in ["/pods", "/containerLogs/kube-system/x/y", "/metrics"] {
        assert_eq!(through("https:front:10250", path).code, 401, "{path}");
    }
    for id in ["kybern-e2e", "https:kybern-e2e:10250", "kybern-e2e:6443"] {
        assert_eq!(eve.get(&format!("/api/v1/nodes/{id}/proxy/pods")).code, 403, "{id}");
    }
    server.lives();
}

#[test]
fn credentials_do_not_leave_the_server() {
    let namespace = Cluster::get().namespace("echoed");
    let name = &namespace.name;
    let eve = Caller::with_role(&namespace, "eve", "edit");
    let image = namespace
        .within("default")
        .jsonpath(&["deployment", "kybern-demo"], "{.spec.template.spec.containers[0].image}");
    namespace.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: echo, labels: {{app: echo}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: {image}
    command: [/kybern, testapp, serve]
    ports: [{{containerPort: 8080, name: http}}]
    readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: echo}}
spec:
  selector: {{app: echo}}
  ports: [{{name: web, port: 80, targetPort: http}}]
"
    ));
    namespace.wait("pod/echo", "condition=Ready");
    let bearer = "Sec-WebSocket-Protocol: chat, base64url.bearer.authorization.k8s.io.c2VjcmV0";
    let smuggled = [
        "Cookie: session=secret",
        "Proxy-Authorization: Basic secret",
        "X-Remote-User: secret",
        "X-Remote-Group: system:masters",
        "X-Remote-Extra-Scopes: secret",
        "X_Remote_User: secret",
        bearer,
        "X-Mine: kept",
    ];
    let voice =
        [&smuggled[..], &["Impersonate-User: system:admin-of-tests", "Impersonate-Group: system:masters"]].concat();
    for id in ["pods/echo:8080", "pods/http:echo:http", "services/echo:web", "services/http:echo:80"] {
        let path = format!("/api/v1/namespaces/{name}/{id}/proxy/info");
        for (caller, headers) in [(&eve, &smuggled[..]), (Caller::administrator(), &voice)] {
            let seen = eventually("the endpoint is there", || {
                let seen = caller.get_with(&path, headers);
                if seen.code == 503 { Err(seen.body.to_string()) } else { Ok(seen) }
            });
            assert_eq!(seen.code, 200, "{id}: {}", seen.body);
            let told = seen.body["headers"].as_object().expect("the echo's headers");
            assert_eq!((&told["x-mine"], &told["sec-websocket-protocol"]), (&json!("kept"), &json!("chat")), "{id}");
            let text = seen.body["headers"].to_string().to_lowercase();
            for word in ["secret", "authorization", "x-remote", "x_remote", "impersonate", "cookie", "masters"] {
                assert!(!text.contains(word), "{id}: {word} in {text}");
            }
        }
    }
}

#[test]
fn nothing_of_the_servers_machine_is_reached() {
    let namespace = Cluster::get().namespace("liar");
    let name = &namespace.name;
    let eve = Caller::with_role(&namespace, "eve", "edit");
    let pods = format!("/api/v1/namespaces/{name}/pods");
    // It never runs, so that no kubelet mends what is said of it.
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "liar"},
        "spec": {"schedulingGates": [{"name": "example.com/never"}], "containers": [{"name": "c", "image": "busybox"}]}});
    eve.makes(&pods, &pod);
    let admin = Caller::administrator();
    eve.refused("PATCH", &format!("{pods}/liar/status"), &json!({"status": {"podIP": "127.0.0.1"}}), &[403]);
    for ip in
        ["127.0.0.1", "127.8.8.8", "169.254.169.254", "0.0.0.0", "::1", "fe80::1", "::ffff:127.0.0.1", "224.0.0.1"]
    {
        // Where the API refuses to store it, nothing is left of it to dial.
        let status = json!({"status": {"podIP": ip, "podIPs": [{"ip": ip}]}});
        admin.send("PATCH", &format!("{pods}/liar/status"), super::caller::MERGE, &status.to_string());
        for id in ["liar:6443", "https:liar:6443", "https:liar:10250"] {
            let answer = eve.get(&format!("{pods}/{id}/proxy/version"));
            assert_eq!((answer.code, answer.message()), (400, "address not allowed"), "{ip} {id}");
        }
    }
    // Endpoints that name the liar, or nobody.
    admin.patches(
        &format!("{pods}/liar/status"),
        &json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}}),
    );
    let node = Cluster::get().node_ip.as_str();
    let target = json!({"kind": "Pod", "namespace": name, "name": "liar"});
    for (service, address) in [("named", json!({"ip": node, "targetRef": target})), ("bare", json!({"ip": node}))] {
        let object = json!({"metadata": {"name": service}, "spec": {"ports": [{"name": "web", "port": 443}]}});
        eve.makes(&format!("/api/v1/namespaces/{name}/services"), &object);
        let object = json!({"metadata": {"name": service},
            "subsets": [{"addresses": [address], "ports": [{"name": "web", "port": 6443}]}]});
        eve.refused("POST", &format!("/api/v1/namespaces/{name}/endpoints"), &object, &[403]);
        admin.makes(&format!("/api/v1/namespaces/{name}/endpoints"), &object);
        let answer = eve.get(&format!("/api/v1/namespaces/{name}/services/https:{service}:web/proxy/version"));
        assert_eq!(answer.code, 503, "{service}: {}", answer.body);
    }
}

#[test]
fn the_certificate_for_kubelets_is_worth_nothing_elsewhere() {
    let stolen = Caller::with_certificate(pki("apiserver-kubelet-client.crt"), pki("apiserver-kubelet-client.key"));
    let used = stolen.ask_kubelet("GET", "/pods");
    assert_eq!((used.code, &used.body["kind"]), (200, &json!("PodList")), "it is the one that kubelets believe");
    for path in [
        "/api/v1/namespaces/kube-system/secrets",
        "/api/v1/namespaces/default/pods",
        "/api/v1/namespaces/default/serviceaccounts",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    ] {
        assert_eq!(stolen.get(path).code, 403, "{path}");
    }
    let binding = json!({"metadata": {"name": "stolen"}, "subjects": [{"kind": "User", "name": "kube-apiserver-kubelet-client",
        "apiGroup": "rbac.authorization.k8s.io"}], "roleRef": {"kind": "ClusterRole", "name": "cluster-admin",
        "apiGroup": "rbac.authorization.k8s.io"}});
    stolen.refused("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding, &[403]);
    stolen.refused("POST", "/api/v1/namespaces/default/pods", &json!({"metadata": {"name": "x"}}), &[403]);

    // A serving certificate of the same authority is no client's.
    let kubelet = Cluster::get().data_dir.join("kubelet/pki");
    let serving = Caller::with_certificate(kubelet.join("kubelet.crt"), kubelet.join("kubelet.key"));
    for code in [serving.get("/api/v1/nodes").code, serving.ask_kubelet("GET", "/pods").code] {
        assert!(matches!(code, 0 | 401), "{code}");
    }
    // A kubelet lets in whom the API server allows, and nobody else.
    assert_eq!(Caller::nobody().ask_kubelet("GET", "/pods").code, 401);
    assert_eq!(Caller::bearer("nonsense").ask_kubelet("GET", "/pods").code, 401);
    let namespace = Cluster::get().namespace("kubelet");
    let eve = Caller::with_role(&namespace, "eve", "admin");
    for (method, path) in
        [("GET", "/pods"), ("GET", "/metrics"), ("POST", "/run/default/x/y?cmd=id"), ("GET", "/logs/")]
    {
        let answer = eve.ask_kubelet(method, path);
        assert_eq!(answer.code, 403, "{method} {path}: {}", answer.body);
    }
}
