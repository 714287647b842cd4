//! Images: archives in and out, and the registry.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use kybern_e2e::{Cluster, Namespace, Table, eventually};

use crate::manifests::shell_pod;

fn image(cluster: &Cluster, arguments: &[&str]) -> std::process::Output {
    cluster.kybern("image").args(arguments).output().expect("kybern starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A pod that sleeps, of an image.
fn pod_of(name: &str, image: &str) -> String {
    shell_pod(name, "sleep 3600").replace("image: busybox", &format!("image: {image}"))
}

/// Waits until a pod's container waits for one of these reasons, with a message that holds this.
#[track_caller]
fn waits(namespace: &Namespace, pod: &str, reasons: &[&str], message: &str) {
    eventually(&format!("{pod} shows {reasons:?}: {message}"), || {
        let shown = namespace.jsonpath(&["pod", pod], "{.status.containerStatuses[0].state.waiting}");
        let seen: serde_json::Value = serde_json::from_str(&shown).unwrap_or_default();
        let (reason, text) =
            (seen["reason"].as_str().unwrap_or_default(), seen["message"].as_str().unwrap_or_default());
        if reasons.contains(&reason) && text.contains(message) { Ok(()) } else { Err(shown) }
    });
}

/// What a pod shows whose image cannot be pulled: the first for some seconds, then the other.
const NO_IMAGE: &[&str] = &["ErrImagePull", BACK_OFF];
const BACK_OFF: &str = "ImagePullBackOff";

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
    let pod = pod_of("p", "busybox:archive\n    imagePullPolicy: Never");
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
    fails(&["pull", "foreign:1"], "the image is for linux/s390x, linux/riscv64");
    let built_in = text(&image(cluster, &["list"]).stdout);
    let built_in =
        built_in.lines().find(|line| line.starts_with("kybern.local/kybern")).unwrap_or_else(|| panic!("{built_in}"));
    let tag = built_in.split_whitespace().nth(1).unwrap();
    fails(&["remove", &format!("kybern.local/kybern:{tag}")], "is built in and cannot be removed");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn every_kind_of_reference() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("reference");
    namespace.apply(&pod_of("first", "busybox:1"));
    namespace.wait("pod/first", "condition=Ready");
    let by_digest = namespace.jsonpath(&["pod", "first"], "{.status.containerStatuses[0].imageID}");
    let (name, digest) = by_digest.split_once('@').unwrap_or_else(|| panic!("no digest in {by_digest}"));
    assert!(name == "docker.io/library/busybox" && digest.starts_with("sha256:"), "{by_digest}");
    let references = [
        "busybox".to_owned(),
        format!("busybox@{digest}"),
        format!("busybox:1@{digest}"),
        "docker.io/busybox:1".to_owned(),
        "index.docker.io/library/busybox:latest".to_owned(),
        format!("127.0.0.1:5000/library/busybox@{digest}"),
    ];
    let mut pod =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: all}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n"
            .to_owned();
    for (number, reference) in references.iter().enumerate() {
        pod += &format!("  - {{name: c{number}, image: \"{reference}\", command: [sleep, \"3600\"]}}\n");
    }
    namespace.apply(&pod);
    namespace.wait("pod/all", "condition=Ready");
    let ids = namespace.jsonpath(&["pod", "all"], "{.status.containerStatuses[*].imageID}");
    assert_eq!(ids.split(' ').count(), references.len(), "{ids}");
    assert!(ids.split(' ').all(|id| id.contains("/library/busybox@sha256:")), "{ids}");
    eventually("the node lists the image", || {
        let names = cluster.kubectl().jsonpath(&["nodes"], "{.items[0].status.images[*].names}");
        if names.contains("docker.io/library/busybox:1") { Ok(()) } else { Err(names) }
    });
}

#[test]
fn images_that_cannot_be_had() {
    let namespace = Cluster::get().namespace("bad-image");
    for (pod, image) in [
        ("absent", "busybox:nonsense"),
        ("foreign", "foreign:1"),
        ("unreachable", "127.0.0.1:9/app:1"),
        ("wrong-digest", "busybox@sha256:0000000000000000000000000000000000000000000000000000000000000000"),
        ("misspelt", "Busybox"),
        ("never", "busybox:never\n    imagePullPolicy: Never"),
    ] {
        namespace.apply(&pod_of(pod, image));
    }
    waits(&namespace, "foreign", NO_IMAGE, "the image is for linux/s390x, linux/riscv64");
    waits(&namespace, "unreachable", NO_IMAGE, "connect to 127.0.0.1:9: Connection refused");
    waits(&namespace, "wrong-digest", NO_IMAGE, "404 Not Found");
    waits(&namespace, "misspelt", &["InvalidImageName"], "repository name (library/Busybox) must be lowercase");
    let never = "Container image \"busybox:never\" is not present with pull policy of Never";
    waits(&namespace, "never", &["ErrImageNeverPull"], never);
    let begin = "Back-off pulling image \"busybox:nonsense\": ErrImagePull: failed to pull and unpack image";
    waits(&namespace, "absent", &[BACK_OFF], begin);
    waits(&namespace, "absent", NO_IMAGE, "404 Not Found: manifest unknown");
    let table = Table::parse(&namespace.run(&["get", "pods"]).ok());
    for (pod, status) in [("misspelt", "InvalidImageName"), ("never", "ErrImageNeverPull")] {
        assert_eq!(table.cell(table.row(pod), "STATUS"), status);
    }
    let status = table.cell(table.row("absent"), "STATUS");
    assert!(NO_IMAGE.contains(&status.as_str()), "{status}");
    let described = namespace.run(&["describe", "pod", "absent"]).ok();
    for event in [
        "Normal   Pulling",
        "Failed to pull image \"busybox:nonsense\": failed to pull and unpack image",
        "Error: ErrImagePull",
        "Back-off pulling image \"busybox:nonsense\"",
        "Error: ImagePullBackOff",
    ] {
        let squeezed = described.split_whitespace().collect::<Vec<_>>().join(" ");
        let event = event.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeezed.contains(&event), "no {event:?} in:\n{described}");
    }
}

/// The largest blob of a repository as the open registry keeps it, and its digest.
fn layer_in_registry(cluster: &Cluster, repository: &str) -> (PathBuf, String) {
    let registry = cluster.data_dir.parent().unwrap().join("registry/open/docker/registry/v2");
    let linked = registry.join("repositories").join(repository).join("_layers/sha256");
    let digests = std::fs::read_dir(linked).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let blobs = digests.map(|hex| (registry.join("blobs/sha256").join(&hex[..2]).join(&hex).join("data"), hex));
    let (path, hex) = blobs.max_by_key(|(path, _)| std::fs::metadata(path).unwrap().len()).unwrap();
    (path, format!("sha256:{hex}"))
}

/// Flips the last bit of a file; twice is nothing.
fn flip(path: &std::path::Path) {
    let mut file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut last = [0];
    file.seek(SeekFrom::End(-1)).unwrap();
    file.read_exact(&mut last).unwrap();
    file.seek(SeekFrom::End(-1)).unwrap();
    file.write_all(&[last[0] ^ 1]).unwrap();
}

#[test]
fn a_registry_that_lies() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("liar");
    let (blob, layer) = layer_in_registry(cluster, "library/damaged");
    flip(&blob);
    namespace.apply(&pod_of("victim", "damaged:1"));
    waits(&namespace, "victim", NO_IMAGE, &format!("instead of {layer}: its data is damaged or was tampered with"));
    let images = cluster.data_dir.join("runtime/images");
    assert!(!images.join("blobs/sha256").join(layer.trim_start_matches("sha256:")).exists());
    let listed = text(&image(cluster, &["list"]).stdout);
    assert!(!listed.contains("damaged"), "{listed}");
    flip(&blob);
    namespace.wait("pod/victim", "condition=Ready");
}

/// The manifest of a pod of the private image, with a pull secret or none.
fn private(name: &str, secret: Option<&str>) -> String {
    let secrets = secret.map(|secret| format!("  imagePullSecrets: [{{name: {secret}}}]\n")).unwrap_or_default();
    pod_of(name, "127.0.0.1:5001/private:1").replace("spec:\n", &format!("spec:\n{secrets}"))
}

#[test]
fn private_images_need_credentials() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("private");
    let create = |name: &str, password: &str| {
        let password = format!("--docker-password={password}");
        let server = ["--docker-server=127.0.0.1:5001", "--docker-username=user", &password];
        namespace.run(&[&["create", "secret", "docker-registry", name], &server[..]].concat()).ok();
    };
    create("right", "word");
    create("wrong", "guess");
    let old = r#"{"127.0.0.1:5001":{"username":"user","password":"word","email":"a@b.c"}}"#;
    let data = format!("--from-literal=.dockercfg={old}");
    namespace.run(&["create", "secret", "generic", "old-form", "--type=kubernetes.io/dockercfg", &data]).ok();

    namespace.apply(&private("bad", Some("wrong")));
    waits(&namespace, "bad", NO_IMAGE, "401 Unauthorized: authentication required");
    namespace.apply(&private("good", Some("right")));
    namespace.wait("pod/good", "condition=Ready");
    // It is there now, but not for everybody.
    namespace.apply(&private("nobody", None));
    waits(&namespace, "nobody", NO_IMAGE, "401 Unauthorized: authentication required");
    namespace.apply(&private("forgetful", Some("none")));
    waits(&namespace, "forgetful", NO_IMAGE, "401 Unauthorized");
    let events = namespace.run(&["get", "events", "--field-selector", "reason=FailedToRetrieveImagePullSecret"]).ok();
    assert!(events.contains("Unable to retrieve some image pull secrets (none)"), "{events}");

    let removed = image(cluster, &["remove", "127.0.0.1:5001/private:1"]);
    assert!(removed.status.success(), "{}", text(&removed.stderr));
    namespace.apply(&private("old", Some("old-form")));
    namespace.wait("pod/old", "condition=Ready");
    // The account's secrets are its pods'.
    let account = r#"{"imagePullSecrets":[{"name":"right"}]}"#;
    namespace.run(&["patch", "serviceaccount", "default", "-p", account]).ok();
    namespace.apply(&private("of-account", None));
    assert_eq!(namespace.jsonpath(&["pod", "of-account"], "{.spec.imagePullSecrets[*].name}"), "right");
    namespace.wait("pod/of-account", "condition=Ready");
}
