//! The right to read is not the right to act.

use kybern_e2e::Cluster;
use serde_json::json;

use super::caller::Caller;

#[test]
fn who_may_read_may_not_act() {
    let namespace = Cluster::get().namespace("reader");
    let name = &namespace.name;
    // More than `view`: everything there is, also subresources.
    namespace.apply(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{verbs: [get, list, watch], apiGroups: ['*'], resources: ['*']}]
",
    );
    let view = Caller::with_role(&namespace, "viewer", "view");
    let reader = Caller::account(&namespace, "reader");
    let of = format!("--serviceaccount={name}:reader");
    namespace.run(&["create", "rolebinding", "reader", "--role=reader", &of]).ok();
    namespace.apply(&crate::manifests::shell_pod("p", "sleep 3600"));
    namespace.wait("pod/p", "condition=Ready");
    let loose = json!({"metadata": {"name": "loose"}, "spec": {"schedulingGates": [{"name": "example.com/never"}],
        "containers": [{"name": "c", "image": "busybox"}]}});
    let path = |what: &str| format!("/api/v1/namespaces/{name}/{what}");
    let admin = Caller::administrator();
    admin.makes(&path("pods"), &loose);
    let uid = admin.reads(&path("pods/p"))["metadata"]["uid"].clone();

    let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}});
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "loose"},
        "target": {"kind": "Node", "name": "kybern-e2e"}});
    for (what, body) in
        [("serviceaccounts/default/token", &token), ("pods/p/eviction", &eviction), ("pods/loose/binding", &binding)]
    {
        for query in ["", "?dryRun=All", "?watch=true"] {
            let path = format!("{}{query}", path(what));
            reader.refused("GET", &path, body, &[405]);
            view.refused("GET", &path, body, &[403, 405]);
            for caller in [&reader, &view] {
                caller.refused("POST", &path, body, &[403]);
            }
        }
        for method in ["PUT", "PATCH", "DELETE"] {
            admin.refused(method, &path(what), body, &[405]);
        }
        // Whoever may act and asks for a rehearsal gets one.
        let (code, answer) = {
            let answer = admin.create(&format!("{}?dryRun=All", path(what)), body);
            (answer.code, answer.body)
        };
        assert!(code == 201 || (what == "pods/loose/binding" && code == 409), "{what}: {answer}");
    }
    // A WebSocket's handshake is a GET, too.
    let websocket = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Protocol: v5.channel.k8s.io",
    ];
    for what in ["pods/p/exec?command=id&stdout=true", "pods/p/attach?stdout=true", "pods/p/portforward?ports=80"] {
        for caller in [&reader, &view] {
            let answer =
                caller.send_with("GET", &path(what), "text/plain", "", &[&websocket[..], &["Expect:"]].concat());
            assert_eq!(answer.code, 403, "{what}: {answer:?}");
        }
    }
    // A header that renames the method is nothing to this server.
    let renamed = ["X-HTTP-Method-Override: POST", "X-Method-Override: DELETE"];
    assert_eq!(reader.get_with(&path("pods/p"), &renamed).code, 200);
    let pod = admin.reads(&path("pods/p"));
    assert_eq!((&pod["metadata"]["uid"], pod["metadata"].get("deletionTimestamp")), (&uid, None), "the pod lives");
    assert_eq!(admin.reads(&path("pods/loose"))["spec"].get("nodeName"), None, "and the other is bound to no node");
}
