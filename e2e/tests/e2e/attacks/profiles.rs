//! `/debug/pprof/`: it shows the whole program at work, and costs time. Nobody but administrators gets it, one at a time.

use std::time::Duration;

use kybern_e2e::{Cluster, eventually};

use super::Server;
use super::caller::Caller;

const PROFILE: &str = "/debug/pprof/profile?seconds=1";

#[test]
fn only_administrators_see_profiles() {
    let server = Server::now();
    let namespace = Cluster::get().namespace("profiles");
    let admin = Caller::administrator();
    let others = [
        (Caller::nobody(), 403),
        (Caller::bearer("x"), 401),
        (Caller::with_role(&namespace, "eve", "admin"), 403),
        (Caller::certified("system:node:kybern-e2e", "system:nodes"), 403),
    ];
    for (other, code) in &others {
        for path in ["/debug/pprof", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/../pprof/cmdline", PROFILE]
        {
            let answer = other.get(path);
            assert_eq!(answer.code, *code, "{path}: {}", answer.body);
            let kubelets = other.ask_kubelet("GET", path).code;
            assert!([401, 403].contains(&kubelets), "{path}: {kubelets}");
        }
    }
    assert!(admin.get("/debug/pprof/").message().contains("<a href='profile'>"));
    assert_eq!(admin.get("/debug/pprof/heap").code, 404);
    assert_eq!(admin.get("/debug/pprof/profile?seconds=3600").code, 400);
    assert_eq!(admin.send("POST", PROFILE, "text/plain", "").code, 405);
    // They last, so that no deadline of theirs ends them, and are one at a time; who goes away gives it up.
    std::thread::scope(|scope| {
        let long = scope.spawn(|| admin.get("/debug/pprof/profile?seconds=300"));
        std::thread::sleep(Duration::from_secs(2));
        let busy = admin.get(PROFILE);
        assert_eq!(busy.code, 500, "{}", busy.body);
        assert_eq!(busy.message(), "Could not enable CPU profiling: cpu profiling already in use\n");
        assert_eq!(admin.ask_kubelet("GET", PROFILE).code, 500);
        // Others are served meanwhile.
        namespace.run(&["create", "configmap", "meanwhile"]).ok();
        assert_ne!(long.join().expect("curl gives up").code, 500);
    });
    for ask in [Caller::get, |admin: &Caller, path: &str| admin.ask_kubelet("GET", path)] {
        eventually("there is room for a profile", || match ask(admin, PROFILE) {
            answer if answer.code == 200 => Ok(()),
            answer => Err(answer.body.to_string()),
        });
    }
    server.lives();
}
