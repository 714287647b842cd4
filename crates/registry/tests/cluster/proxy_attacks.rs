//! What somebody who may edit one namespace tries with the API server's proxy: to be taken for the server itself, and to
//! reach what only the server reaches.

use http::Method;
use kybern_apimachinery::{Value, json};

use crate::harness::{Cluster, admin, pod};
use crate::proxied::{BACKEND, OTHER, eve, in_network, plain, secure, with_editor};

async fn node_at(cluster: &Cluster, name: &str, address: &str, port: u16) {
    let node = json!({"metadata": {"name": name}, "status": {"addresses": [{"type": "InternalIP", "address": address}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    cluster.create("/api/v1/nodes", node).await;
}

/// Endpoints by somebody who may write them.
async fn endpoints(cluster: &Cluster, namespace: &str, name: &str, ip: &str, port: u16, target: Option<Value>) {
    let service = json!({"metadata": {"name": name}, "spec": {"ports": [{"name": "web", "port": 443}]}});
    cluster.create(&format!("/api/v1/namespaces/{namespace}/services"), service).await;
    let mut address = json!({"ip": ip});
    if let Some(target) = target {
        address["targetRef"] = target;
    }
    let object = json!({"metadata": {"name": name},
        "subsets": [{"addresses": [address], "ports": [{"name": "web", "port": port}]}]});
    cluster.create(&format!("/api/v1/namespaces/{namespace}/endpoints"), object).await;
}

fn pod_reference(namespace: &str, name: &str) -> Option<Value> {
    Some(json!({"kind": "Pod", "namespace": namespace, "name": name}))
}

#[test]
fn nobody_is_taken_for_the_server() {
    in_network("credentials", || async {
        let cluster = with_editor().await;
        // As a pod on the host's network sees the API server and the kubelet.
        let port = secure("kube-apiserver", &cluster, BACKEND).await;
        cluster.pod_at("team", "front", BACKEND).await;
        endpoints(&cluster, "team", "front", BACKEND, port, pod_reference("team", "front")).await;
        for uri in [
            format!("/api/v1/namespaces/team/pods/https:front:{port}/proxy/api/v1/secrets"),
            "/api/v1/namespaces/team/services/https:front:443/proxy/api/v1/secrets".to_owned(),
            "/api/v1/namespaces/team/services/https:front:web/proxy/api/v1/secrets".to_owned(),
        ] {
            let seen = cluster.request(eve(), Method::GET, &uri, &[]).await;
            assert_eq!((seen.code, &seen.body["uri"]), (200, &json!("/api/v1/secrets")), "{uri}: {}", seen.body);
            assert_eq!(seen.body["certificate"], false, "{uri}");
        }

        // The kubelet alone is shown who asks, and only at its recorded port; whoever may ask it is an administrator.
        node_at(&cluster, "n", BACKEND, port).await;
        let other = secure("other", &cluster, BACKEND).await;
        let of_node = |id: String, path: &str| format!("/api/v1/nodes/{id}/proxy/{path}");
        for (id, shown) in [("n".to_owned(), true), (format!("n:{port}"), true), (format!("https:n:{other}"), false)] {
            let refused = cluster.request(eve(), Method::GET, &of_node(id.clone(), "pods"), &[]).await;
            assert_eq!(refused.code, 403, "{id}");
            let seen = cluster.request(admin(), Method::GET, &of_node(id.clone(), "pods?x=y"), &[]).await;
            assert_eq!((&seen.body["certificate"], &seen.body["uri"]), (&json!(shown), &json!("/pods?x=y")), "{id}");
        }
        // One with a certificate of somebody else's is no kubelet.
        let stranger = secure("stranger", &Cluster::start().await, BACKEND).await;
        node_at(&cluster, "false", BACKEND, stranger).await;
        let refused = cluster.request(admin(), Method::GET, &of_node("false".to_owned(), "pods"), &[]).await;
        assert_eq!(refused.code, 503);
        assert!(refused.message().contains("certificate"), "{}", refused.message());
    });
}

#[test]
fn credentials_do_not_leave_the_server() {
    in_network("headers", || async {
        let cluster = with_editor().await;
        let port = plain("echo", BACKEND).await;
        cluster.pod_at("team", "echo", BACKEND).await;
        endpoints(&cluster, "team", "echo", BACKEND, port, pod_reference("team", "echo")).await;
        let kubelet = secure("kubelet", &cluster, BACKEND).await;
        node_at(&cluster, "n", BACKEND, kubelet).await;
        let sent = [
            ("authorization", "Bearer secret"),
            ("proxy-authorization", "Basic secret"),
            ("cookie", "a=secret"),
            ("x-remote-user", "secret"),
            ("x-remote-group", "system:masters"),
            ("x-remote-uid", "secret"),
            ("x-remote-extra-scopes", "secret"),
            ("x_remote_user", "secret"),
            ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.secret"),
            ("connection", "x-hop"),
            ("x-hop", "secret"),
            ("keep-alive", "secret"),
            ("te", "secret"),
            ("accept", "text/html"),
            ("x-mine", "kept"),
            ("content-type", "text/x-mine"),
        ];
        for uri in [
            format!("/api/v1/namespaces/team/pods/echo:{port}/proxy/"),
            "/api/v1/namespaces/team/services/echo:web/proxy/".to_owned(),
            "/api/v1/nodes/n/proxy/".to_owned(),
        ] {
            let seen = cluster.request(admin(), Method::GET, &uri, &sent).await;
            assert_eq!(seen.code, 200, "{uri}: {}", seen.body);
            let mut names: Vec<&str> = seen.body["headers"].as_object().unwrap().keys().map(String::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, ["accept", "content-type", "host", "x-forwarded-uri", "x-mine"], "{uri}");
            assert!(!seen.body.to_string().contains("secret"), "{uri}: {}", seen.body);
        }
        // Also where the caller is somebody else's voice.
        let voice = [("impersonate-user", "eve"), ("impersonate-group", "system:authenticated")];
        let uri = format!("/api/v1/namespaces/team/pods/echo:{port}/proxy/");
        let seen = cluster.request(admin(), Method::GET, &uri, &voice).await;
        assert_eq!(
            (seen.code, seen.body["headers"].to_string().contains("impersonate")),
            (200, false),
            "{}",
            seen.body
        );
    });
}

#[test]
fn nothing_of_the_servers_own_machine_is_reached() {
    in_network("reach", || async {
        let cluster = with_editor().await;
        let port = plain("loopback", "127.0.0.1").await;
        let forms = [
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "0.0.0.0",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:7f00:1",
            "::ffff:169.254.169.254",
            "::ffff:0.0.0.0",
            "fe80::1",
            "224.0.0.1",
            "255.255.255.255",
            "localhost",
            "",
        ];
        let pods = "/api/v1/namespaces/team/pods";
        cluster.create(pods, pod("liar")).await;
        for ip in forms {
            // What the API refuses to store is not reached either; what it stores is not dialled.
            for status in [json!({"podIP": ip, "podIPs": [{"ip": ip}]}), json!({"podIP": ip, "podIPs": null})] {
                let _ = cluster.patch(&format!("{pods}/liar/status"), json!({"status": status})).await;
                for scheme in ["", "http:", "https:"] {
                    let uri = format!("{pods}/{scheme}liar:{port}/proxy/");
                    let refused = cluster.request(eve(), Method::GET, &uri, &[]).await;
                    assert_eq!(
                        (refused.code, refused.message()),
                        (400, "address not allowed"),
                        "{ip}: {}",
                        refused.body
                    );
                }
            }
        }
        for (number, ip) in
            ["127.0.0.1", "169.254.169.254", "::1", "0.0.0.0", "::ffff:127.0.0.1", "localhost"].iter().enumerate()
        {
            let name = format!("n{number}");
            node_at(&cluster, &name, ip, port).await;
            for id in [name.clone(), format!("{name}:{port}"), format!("http:{name}:80")] {
                let uri = format!("/api/v1/nodes/{id}/proxy/");
                let refused = cluster.request(admin(), Method::GET, &uri, &[]).await;
                assert_eq!((refused.code, refused.message()), (400, "address not allowed"), "{ip}: {}", refused.body);
            }
        }
    });
}

#[test]
fn an_endpoint_is_not_taken_at_its_word() {
    in_network("endpoints", || async {
        let cluster = with_editor().await;
        let (port, other) = (plain("own", BACKEND).await, plain("other", OTHER).await);
        cluster.pod_at("team", "own", BACKEND).await;
        cluster.create("/api/v1/namespaces", json!({"metadata": {"name": "other"}})).await;
        cluster.create("/api/v1/namespaces/other/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
        cluster.pod_at("other", "own", OTHER).await;
        let ask = async |namespace: &str, id: &str| {
            let uri = format!("/api/v1/namespaces/{namespace}/services/{id}/proxy/");
            cluster.request(if namespace == "team" { eve() } else { admin() }, Method::GET, &uri, &[]).await
        };
        let refused = |name: &str| (503, format!("no endpoints available for service {name:?}"));
        // Of nobody, of a pod with another address, of another namespace's pod, of none that there is.
        endpoints(&cluster, "team", "bare", BACKEND, port, None).await;
        endpoints(&cluster, "team", "lie", OTHER, other, pod_reference("team", "own")).await;
        endpoints(&cluster, "team", "foreign", OTHER, other, pod_reference("other", "own")).await;
        endpoints(&cluster, "team", "gone", BACKEND, port, pod_reference("team", "gone")).await;
        for name in ["bare", "lie", "foreign", "gone"] {
            let answer = ask("team", &format!("{name}:web")).await;
            assert_eq!((answer.code, answer.message().to_owned()), refused(&format!("{name}:web")));
        }
        endpoints(&cluster, "team", "true", BACKEND, port, pod_reference("team", "own")).await;
        for id in ["true:web", "true:443", "http:true:web"] {
            let answer = ask("team", id).await;
            assert_eq!((answer.code, &answer.body["backend"]), (200, &json!("own")), "{id}: {}", answer.body);
        }
        // The Service that stands for this server, whose endpoint is no pod.
        let answer = ask("default", "https:kubernetes:https").await;
        assert_eq!((answer.code, answer.message().to_owned()), refused("https:kubernetes:https"));
        let answer = ask("team", "true:444").await;
        assert_eq!((answer.code, answer.message()), (503, "no service port 444 found for service \"true\""));
        let answer = ask("team", "ftp:true:web").await;
        assert_eq!((answer.code, answer.message()), (400, "invalid service request \"ftp:true:web\""));
        // A slice of one's own making sends nobody anywhere.
        let slice = json!({"metadata": {"name": "true-x", "labels": {"kubernetes.io/service-name": "bare"}},
            "addressType": "IPv4", "ports": [{"name": "web", "port": other}], "endpoints": [{"addresses": [OTHER]}]});
        cluster.create("/apis/discovery.k8s.io/v1/namespaces/team/endpointslices", slice).await;
        assert_eq!(ask("team", "bare:web").await.code, 503);
    });
}
