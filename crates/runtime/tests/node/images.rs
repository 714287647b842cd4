//! Images: archives, layers on top of each other, and a registry on loopback.

use std::io::Write;
use std::path::{Path, PathBuf};

use kybern_cri::*;
use kybern_runtime::ImageArchives;
use kybern_testbed::harness::BUSYBOX;
use kybern_testbed::not_run;

use crate::fixture::Node;

/// One layer's archive, built entry by entry.
struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    fn new() -> Layer {
        Layer(tar::Builder::new(Vec::new()))
    }

    fn entry(mut self, kind: tar::EntryType, path: &str, mode: u32, owner: u64, content: &[u8], link: &str) -> Layer {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        if kind == tar::EntryType::Char {
            header.set_device_major(1).unwrap();
            header.set_device_minor(5).unwrap();
        }
        // Written raw, so that a name may be as bad as an attacker likes.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn dir(self, path: &str, mode: u32, owner: u64) -> Layer {
        self.entry(tar::EntryType::Directory, path, mode, owner, b"", "")
    }

    fn file(self, path: &str, mode: u32, content: &str) -> Layer {
        self.entry(tar::EntryType::Regular, path, mode, 0, content.as_bytes(), "")
    }

    fn link(self, kind: tar::EntryType, path: &str, target: &str) -> Layer {
        self.entry(kind, path, 0o777, 0, b"", target)
    }

    /// A file whose name does not fit its header.
    fn long_name(mut self, name: &str) -> Layer {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(0);
        self.0.append_data(&mut header, name, &b""[..]).unwrap();
        self
    }

    /// The next entry has these extended attributes.
    fn attributes(mut self, attributes: [(&str, &str); 2]) -> Layer {
        let named = attributes.map(|(name, value)| (format!("SCHILY.xattr.{name}"), value));
        let entries = named.iter().map(|(key, value)| (key.as_str(), value.as_bytes()));
        self.0.append_pax_extensions(entries).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn base() -> Layer {
    Layer::new()
        .dir("bin/", 0o755, 0)
        .entry(tar::EntryType::Regular, "bin/busybox", 0o755, 0, &std::fs::read(BUSYBOX).unwrap(), "")
        .link(tar::EntryType::Symlink, "bin/sh", "busybox")
        .link(tar::EntryType::Link, "bin/ls", "bin/busybox")
        .dir("etc/", 0o755, 0)
        .file("etc/passwd", 0o644, "root:x:0:0::/root:/bin/sh\napp:x:500:501::/home/app:/bin/sh\n")
        .file("etc/group", 0o644, "root:x:0:\nextra:x:77:app\n")
        .dir("usr/lib/", 0o755, 0)
        .link(tar::EntryType::Symlink, "lib", "usr/lib")
        .dir("private/", 0o2750, 500)
        .file("private/old", 0o640, "old\n")
        .dir("gone/", 0o755, 0)
        .file("gone/file", 0o644, "x")
        .dir("opaque/", 0o755, 0)
        .file("opaque/below", 0o644, "x")
        .file("setuid", 0o4755, "s")
        .entry(tar::EntryType::Char, "zero", 0o666, 0, b"", "")
}

fn upper() -> Layer {
    Layer::new()
        // Parents that only the layer below has, one of them a link.
        .file("private/new", 0o640, "new\n")
        .file("lib/through-link", 0o644, "linked\n")
        .file("gone/.wh.file", 0, "")
        .file(".wh.gone", 0, "")
        .attributes([("user.origin", "layer"), ("trusted.overlay.opaque", "y")])
        .file("attributes", 0o644, "x")
        .file("opaque/above", 0o644, "above\n")
        .file("opaque/.wh..wh..opq", 0, "")
        .link(tar::EntryType::Link, "etc/passwd-link", "etc/passwd")
}

/// Writes what `docker save` would.
fn archive(dir: &Path, tag: &str, layers: &[Vec<u8>], gzip: bool) -> PathBuf {
    let digest = |bytes: &[u8]| {
        let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
        hash.as_ref().iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let diff_ids: Vec<String> = layers.iter().map(|l| format!("sha256:{}", digest(l))).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "config": {"User": "app", "Env": ["PATH=/bin", "FROM=image"], "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo default"], "WorkingDir": "/tmp", "Volumes": {"/private": {}}},
    });
    let names: Vec<String> = (0..layers.len()).map(|i| format!("layer{i}/layer.tar")).collect();
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [tag], "Layers": names}]);
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, bytes).unwrap();
    };
    for (name, layer) in names.iter().zip(layers) {
        add(name, layer);
    }
    add("config.json", config.to_string().as_bytes());
    add("manifest.json", manifest.to_string().as_bytes());
    let bytes = builder.into_inner().unwrap();
    let path = dir.join("image.tar");
    if gzip {
        let mut out = flate2::write::GzEncoder::new(std::fs::File::create(&path).unwrap(), flate2::Compression::fast());
        out.write_all(&bytes).unwrap();
        out.finish().unwrap();
    } else {
        std::fs::write(&path, bytes).unwrap();
    }
    path
}

fn uses(tag: &str) -> impl FnOnce(&mut PodSandboxConfig, &mut ContainerConfig) {
    let tag = tag.to_owned();
    move |_, container| {
        container.image.image = tag;
        container.mounts.clear();
        container.envs.clear();
    }
}

pub(crate) async fn layers_and_archives() {
    let node = Node::new().await;
    let archives = ImageArchives::open(&node.config).unwrap();
    let path = archive(&node.dir, "example.com/app:1", &[base().bytes(), upper().bytes()], true);
    let imported = archives.import(&path).unwrap();
    assert_eq!(imported[0].tags.iter().collect::<Vec<_>>(), ["example.com/app:1"]);
    let spec = ImageSpec { image: "example.com/app:1".into(), ..Default::default() };
    let image = node.service().image_status(&spec).await.unwrap().expect("the running daemon sees it");
    assert_eq!((image.username.as_str(), image.uid), ("app", None));
    let script = "busybox id; pwd; echo $FROM; busybox stat -c '%a %u %g' /private /private/old /setuid; ls /private; busybox cat \
                  /lib/through-link /usr/lib/through-link; busybox readlink /lib; ls /opaque; ls -d /gone 2>&1; \
                  busybox stat -c %h /etc/passwd-link; busybox head -c 3 /zero | busybox wc -c; busybox date -r /setuid +%s";
    let (status, output) = node.run(uses("example.com/app:1"), script).await;
    let expect = "uid=500(app) gid=501 groups=77(extra),501\n/tmp\nimage\n2750 500 500\n640 0 0\n4755 0 0\n";
    assert!(output.starts_with(expect), "{output}");
    assert_eq!((status.uid, status.gid), (500, 501));
    assert!(
        output.contains("new\nold\nlinked\nlinked\nusr/lib\nabove\n") && output.contains("/gone: No such file"),
        "{output}"
    );
    assert!(output.ends_with("\n2\n3\n1000000000\n"), "{output}");
    let (_, output) = node
        .run(
            |pod, container| {
                uses("example.com/app:1")(pod, container);
                container.command.clear();
            },
            "",
        )
        .await;
    assert_eq!(output, "default\n");

    let (_, output) = node
        .run(
            |pod, container| {
                uses("example.com/app:1")(pod, container);
                container.security.readonly_rootfs = true;
                container.security.run_as_user = Some(0);
            },
            "(echo x > /file) 2>&1; echo x > /private/written && busybox cat /private/old",
        )
        .await;
    assert!(output.contains("Read-only file system") && output.ends_with("old\n"), "a volume stays writable: {output}");

    let snapshots = node.config.root_dir.join("images/snapshots");
    let files = std::fs::read_dir(snapshots).unwrap().map(|e| e.unwrap().path().join("fs/attributes"));
    let file = files.into_iter().find(|file| file.exists()).unwrap();
    let mut value = [0; 16];
    assert_eq!(rustix::fs::getxattr(&file, "user.origin", &mut value).map(|n| value[..n].to_vec()).unwrap(), b"layer");
    assert!(rustix::fs::getxattr(&file, "trusted.overlay.opaque", &mut value).is_err(), "the overlay's own");

    let exported = node.dir.join("exported.tar");
    archives.export(&["example.com/app:1".into()], &mut std::fs::File::create(&exported).unwrap()).unwrap();
    node.service().remove_image(&spec).await.unwrap();
    assert!(node.service().image_status(&spec).await.unwrap().is_none());
    assert_eq!(std::fs::read_dir(node.config.root_dir.join("images/blobs/sha256")).unwrap().count(), 0);
    let again = archives.import(&exported).unwrap();
    assert_eq!((&again[0].id, &again[0].tags), (&image.id, &imported[0].tags));
    let (_, output) = node.run(uses("example.com/app:1"), "busybox echo works").await;
    assert_eq!(output, "works\n");
    let pinned = ImageSpec { image: node.config.builtin_image(), ..Default::default() };
    assert!(node.service().remove_image(&pinned).await.is_err());
    node.finish().await;
}

pub(crate) async fn hostile_layers() {
    let node = Node::new().await;
    let archives = ImageArchives::open(&node.config).unwrap();
    let victim = node.dir.join("victim");
    let outside = victim.to_str().unwrap();
    let climbing = Layer::new().file("a/../../../../../../../../../tmp/kybern-climbed", 0o644, "x");
    let error = archives.import(&archive(&node.dir, "bad:1", &[climbing.bytes()], false)).unwrap_err().to_string();
    assert!(error.contains("path with \"..\""), "{error}");
    // Through a link that leads out of the root, absolute or relative.
    let linked = Layer::new()
        .link(tar::EntryType::Symlink, "out", outside)
        .file("out/file", 0o644, "x")
        .link(tar::EntryType::Symlink, "up", "../../../../../../../../../../tmp")
        .file("up/kybern-climbed", 0o644, "x");
    let _ = archives.import(&archive(&node.dir, "bad:2", &[linked.bytes()], false));
    assert!(!victim.exists() && !Path::new("/tmp/kybern-climbed").exists());
    for bad in [
        Layer::new().link(tar::EntryType::Link, "passwd", "../../../../../../etc/passwd"),
        Layer::new().link(tar::EntryType::Symlink, "etc", "/etc").link(tar::EntryType::Link, "mine", "etc/passwd"),
        Layer::new().dir("a/", 0o755, 0).file("a/.wh...", 0, ""),
        Layer::new().dir("a/", 0o755, 0).file("a/.wh.", 0, ""),
        Layer::new().entry(tar::EntryType::Regular, "owner", 0o644, u64::from(u32::MAX) + 1, b"", ""),
    ] {
        let path = archive(&node.dir, "bad:4", &[bad.bytes()], false);
        assert!(archives.import(&path).is_err());
    }
    // Small archives that would cost much.
    let long = "n".repeat(2 << 20);
    let deep = "d/".repeat(300);
    let mut sparse = tar::Header::new_gnu();
    sparse.set_entry_type(tar::EntryType::GNUSparse);
    let exbibyte = |field: &mut [u8; 12]| {
        field[0] = 0x80;
        field[4..].copy_from_slice(&(1_u64 << 60).to_be_bytes());
    };
    let gnu = sparse.as_gnu_mut().unwrap();
    exbibyte(&mut gnu.realsize);
    exbibyte(&mut gnu.sparse[0].offset);
    gnu.sparse[0].numbytes.fill(b'0');
    let mut vast = Layer::new();
    sparse.set_path("vast").unwrap();
    sparse.set_mode(0o644);
    sparse.set_size(0);
    sparse.set_cksum();
    vast.0.append(&sparse, &b""[..]).unwrap();
    for (bomb, why) in [
        (Layer::new().long_name(&long), "names and attributes"),
        (
            Layer::new().attributes([("user.a", long.as_str()), ("user.b", "")]).file("f", 0o644, ""),
            "names and attributes",
        ),
        (Layer::new().long_name(&deep), "directories deep"),
        (vast, "files have more than"),
    ] {
        let error = archives.import(&archive(&node.dir, "bad:5", &[bomb.bytes()], true)).unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
    }
    let broken = base().bytes();
    let path = archive(&node.dir, "bad:3", &[broken], false);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(archives.import(&path).is_err());
    assert!(
        node.service().list_images().await.unwrap().iter().all(|i| !i.repo_tags.iter().any(|t| t.contains("bad:3")))
    );
    assert_eq!(
        std::fs::read_dir(node.config.root_dir.join("images/ingest.d")).unwrap().count(),
        0,
        "nothing half-made"
    );
    node.finish().await;
}

/// An OCI archive of files by name.
fn layout(dir: &Path, files: &[(&str, &[u8])]) -> PathBuf {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    let path = dir.join("layout.tar");
    std::fs::write(&path, builder.into_inner().unwrap()).unwrap();
    path
}

/// What is in the store stays, whatever an archive says of it, and the digests that an image was pushed with do, too.
pub(crate) async fn archives_that_lie() {
    let node = Node::new().await;
    let archives = ImageArchives::open(&node.config).unwrap();
    archives.import(&archive(&node.dir, "example.com/app:1", &[base().bytes()], true)).unwrap();
    let exported = node.dir.join("exported.tar");
    archives.export(&["example.com/app:1".into()], &mut std::fs::File::create(&exported).unwrap()).unwrap();
    let blobs = node.config.root_dir.join("images/blobs/sha256");
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(&blobs).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    for name in &before {
        // The content of a blob that is in use, under another's name.
        let content = std::fs::read(blobs.join(name)).unwrap();
        let wrong = format!("blobs/sha256/{}", "0".repeat(64));
        let index = br#"{"schemaVersion":2,"manifests":[]}"#;
        let path = layout(&node.dir, &[(wrong.as_str(), content.as_slice()), ("index.json", index)]);
        let error = archives.import(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("has the digest sha256:{} instead of", name.display())), "{error}");
        assert_eq!(names(), before);
    }
    let (_, output) = node.run(uses("example.com/app:1"), "busybox echo still works").await;
    assert_eq!(output, "still works\n");

    let listed = |tag: &str| {
        let list = archives.list().unwrap();
        list.into_iter().find(|image| image.tags.contains(tag)).unwrap()
    };
    let original = listed("example.com/app:1");
    archives.remove("example.com/app:1").unwrap();
    archives.import(&exported).unwrap();
    assert_eq!(listed("example.com/app:1").digests, original.digests);
    let by_digest = original.digests.first().unwrap();
    assert!(
        node.service()
            .image_status(&ImageSpec { image: by_digest.clone(), ..Default::default() })
            .await
            .unwrap()
            .is_some()
    );

    // One image for several machines side by side: the one for this machine is taken.
    let read = |digest: &str| std::fs::read(blobs.join(digest.trim_start_matches("sha256:"))).unwrap();
    let manifest = read(&original.manifest);
    let parsed: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let own = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let entry = |digest: &str, architecture: &str| {
        serde_json::json!({"mediaType": "x", "digest": digest, "size": 1, "platform": {"os": "linux", "architecture": architecture},
            "annotations": {"org.opencontainers.image.ref.name": "example.com/app:2"}})
    };
    let nobody = format!("sha256:{}", "0".repeat(64));
    let file = |digest: &str| (format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")), read(digest));
    let mut files: Vec<(String, Vec<u8>)> = vec![file(&original.manifest)];
    files.push(file(parsed["config"]["digest"].as_str().unwrap()));
    files.push(file(parsed["layers"][0]["digest"].as_str().unwrap()));
    for (manifests, expect) in [
        (vec![entry(&nobody, "s390x"), entry(&original.manifest, own)], None),
        (vec![entry(&nobody, "s390x")], Some("no match for platform")),
        (vec![entry(&nobody, own)], Some("is missing")),
    ] {
        let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests}).to_string();
        let mut all: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        all.push(("index.json", index.as_bytes()));
        let imported = archives.import(&layout(&node.dir, &all)).map_err(|error| error.to_string());
        match expect {
            None => assert!(imported.unwrap()[0].tags.contains("example.com/app:2")),
            Some(text) => assert!(imported.as_ref().is_err_and(|error| error.contains(text)), "{imported:?}"),
        }
    }
    node.finish().await;
}

/// Debian's registry on a loopback port, filled from an archive over its own API.
struct Registry {
    process: std::process::Child,
    address: String,
}

impl Registry {
    async fn start(dir: &Path, extra: &str) -> Registry {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let config = dir.join("registry.yml");
        let root = dir.join("registry");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n{extra}",
            root.display()
        );
        std::fs::write(&config, text).unwrap();
        let process = std::process::Command::new("/usr/bin/docker-registry")
            .args(["serve", config.to_str().unwrap()])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(&address).await.is_ok() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Registry { process, address }
    }

    /// Sends a request over a connection of its own; answers status and location.
    fn request(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
        use std::io::Read;
        let mut stream = std::net::TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {kind}\r\nAuthorization: Basic dTpw\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split_whitespace().nth(1).unwrap().parse().unwrap();
        let location = answer.lines().find_map(|l| l.strip_prefix("Location: ")).unwrap_or_default();
        (status, location.trim().to_owned())
    }

    fn push(&self, repository: &str, tag: &str, layout: &Path) {
        let mut archive = tar::Archive::new(std::fs::File::open(layout).unwrap());
        let mut index = serde_json::Value::Null;
        let mut blobs = std::collections::BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            if let Some(hex) = name.strip_prefix("blobs/sha256/") {
                blobs.insert(format!("sha256:{hex}"), bytes);
            } else if name == "index.json" {
                index = serde_json::from_slice(&bytes).unwrap();
            }
        }
        let manifest = index["manifests"][0]["digest"].as_str().unwrap();
        for (digest, bytes) in blobs.iter().filter(|(d, _)| *d != manifest) {
            let (status, location) =
                self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), "text/plain", b"");
            assert_eq!(status, 202);
            let path = location.split_once(&self.address).unwrap().1;
            let joint = if path.contains('?') { '&' } else { '?' };
            let (status, _) =
                self.request("PUT", &format!("{path}{joint}digest={digest}"), "application/octet-stream", bytes);
            assert_eq!(status, 201);
        }
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let (status, _) = self.request("PUT", &format!("/v2/{repository}/manifests/{tag}"), kind, &blobs[manifest]);
        assert_eq!(status, 201);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) async fn pull_from_a_registry() {
    if !Path::new("/usr/bin/docker-registry").exists() {
        return not_run("images::pull_from_a_registry", "no /usr/bin/docker-registry (Debian: docker-registry)");
    }
    let node = Node::new().await;
    let archives = ImageArchives::open(&node.config).unwrap();
    archives.import(&archive(&node.dir, "example.com/app:1", &[base().bytes(), upper().bytes()], false)).unwrap();
    let layout = node.dir.join("layout.tar");
    archives.export(&["example.com/app:1".into()], &mut std::fs::File::create(&layout).unwrap()).unwrap();
    archives.remove("example.com/app:1").unwrap();
    let registry = Registry::start(&node.dir, "").await;
    registry.push("team/app", "v1", &layout);

    let name = format!("{}/team/app:v1", registry.address);
    let spec = |image: &str| ImageSpec { image: image.into(), ..Default::default() };
    let (one, two) = (spec(&name), spec(&name));
    let (a, b) = tokio::join!(node.service().pull_image(&one, None), node.service().pull_image(&two, None));
    let id = a.unwrap();
    assert_eq!(id, b.unwrap());
    let (_, output) = node.run(uses(&name), "busybox echo pulled").await;
    assert_eq!(output, "pulled\n");
    let image = node.service().image_status(&spec(&name)).await.unwrap().unwrap();
    assert_eq!(image.repo_tags, [name.as_str()]);
    let by_digest = spec(&image.repo_digests[0]);
    assert_eq!(node.service().pull_image(&by_digest, None).await.unwrap(), id);

    let absent = spec(&format!("{}/team/app:none", registry.address));
    let error = node.service().pull_image(&absent, None).await.unwrap_err();
    assert!(matches!(error, CriError::NotFound(_)), "{error:?}");
    let text = error.to_string();
    assert!(
        text.starts_with("failed to pull and unpack image") && text.contains("404 Not Found: manifest unknown"),
        "{text}"
    );

    // A mirror with a rewrite stands in for a registry that cannot be reached.
    let mirrors = format!(
        "mirrors:\n  unreachable.invalid:\n    endpoint: [\"http://{}\"]\n    rewrite:\n      \"^original/(.*)\": \"team/$1\"\n",
        registry.address
    );
    std::fs::write(&node.config.registries_file, mirrors).unwrap();
    let mirrored = "unreachable.invalid/original/app:v1";
    assert_eq!(node.service().pull_image(&spec(mirrored), None).await.unwrap(), id);
    assert!(node.service().image_status(&spec(mirrored)).await.unwrap().is_some());
    node.service().remove_image(&spec(&id)).await.unwrap();
    assert_eq!(node.service().list_images().await.unwrap().len(), 2, "the built-in ones");
    drop(registry);
    let error = node.service().pull_image(&spec(&name), None).await.unwrap_err().to_string();
    assert!(error.contains("failed to do request") && error.contains("refused"), "{error}");
    node.finish().await;
}
