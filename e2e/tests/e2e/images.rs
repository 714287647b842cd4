//! Images: archives in and out, and the registry.

use kybern_e2e::{Cluster, eventually};

fn image(cluster: &Cluster, arguments: &[&str]) -> std::process::Output {
    cluster.kybern("image").args(arguments).output().expect("kybern starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn export_remove_import_run() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("archive");
    let archive = std::env::temp_dir().join(format!("{}.tar", namespace.name));
    let pulled = image(cluster, &["pull", "busybox:archive"]);
    assert!(pulled.status.success(), "{}", text(&pulled.stderr));
    let listed = text(&image(cluster, &["list"]).stdout);
    assert!(listed.contains("docker.io/library/busybox") && listed.contains("archive"), "{listed}");
    let exported = image(cluster, &["export", "busybox:archive", &archive.display().to_string()]);
    assert!(exported.status.success(), "{}", text(&exported.stderr));
    assert!(image(cluster, &["remove", "busybox:archive"]).status.success());
    assert!(!text(&image(cluster, &["list"]).stdout).contains("archive"));
    let imported = image(cluster, &["import", &archive.display().to_string()]);
    assert!(imported.status.success(), "{}", text(&imported.stderr));
    let pod = crate::manifests::shell_pod("p", "sleep 3600")
        .replace("image: busybox", "image: busybox:archive\n    imagePullPolicy: Never");
    namespace.apply(&pod);
    namespace.wait("pod/p", "condition=Ready");
    std::fs::remove_file(&archive).unwrap();
}

#[test]
fn what_cannot_be_done_is_said() {
    let cluster = Cluster::get();
    let folder = std::env::temp_dir().join(format!("kybern-archives-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    std::fs::write(path("text"), "no archive\n".repeat(200)).unwrap();
    let fails = |arguments: &[&str], message: &str| {
        let output = image(cluster, arguments);
        let seen = text(&output.stderr);
        assert!(!output.status.success() && seen.contains(message), "{arguments:?}: {seen}");
    };
    fails(&["remove", "busybox:nonsense"], "\"busybox:nonsense\" not found");
    fails(&["export", "busybox:nonsense", &path("new")], "\"busybox:nonsense\" not found");
    assert!(!folder.join("new").exists(), "a failed export leaves no archive");
    fails(&["import", &path("text")], "is not a tar archive");
    fails(&["import", &path("missing")], "No such file or directory");
    fails(&["pull", "busybox:nonsense"], "busybox:nonsense");
    fails(&["pull", "Busybox"], "must be lowercase");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn private_images_need_credentials() {
    let namespace = Cluster::get().namespace("private");
    let pod = |name: &str, secret: &str| {
        crate::manifests::shell_pod(name, "sleep 3600")
            .replace("image: busybox", "image: 127.0.0.1:5001/private:1")
            .replace("spec:\n", &format!("spec:\n  imagePullSecrets: [{{name: {secret}}}]\n"))
    };
    let create = |name: &str, password: &str| {
        namespace
            .run(&[
                "create",
                "secret",
                "docker-registry",
                name,
                "--docker-server=127.0.0.1:5001",
                "--docker-username=user",
                &format!("--docker-password={password}"),
            ])
            .ok();
    };
    create("right", "word");
    create("wrong", "guess");
    namespace.apply(&pod("good", "right"));
    namespace.wait("pod/good", "condition=Ready");
    namespace.run(&["delete", "pod", "good", "--timeout=60s"]).ok();
    let removed = image(Cluster::get(), &["remove", "127.0.0.1:5001/private:1"]);
    assert!(removed.status.success(), "{}", text(&removed.stderr));
    namespace.apply(&pod("bad", "wrong"));
    eventually("the registry's refusal shows", || {
        let message = namespace.jsonpath(&["pod", "bad"], "{.status.containerStatuses[0].state.waiting}");
        let shown = message.contains("401") || message.to_lowercase().contains("unauthorized");
        if shown { Ok(()) } else { Err(message) }
    });
}
