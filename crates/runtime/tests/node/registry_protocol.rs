//! What a real registry does not do on demand: token services, refusals, lies, broken connections, redirects.

use std::sync::Arc;
use std::time::Duration;

use kybern_cri::*;
use kybern_runtime::ImageArchives;
use serde_json::json;
use tokio_rustls::TlsAcceptor;

use crate::fake_registry::{FakeRegistry, Image, Packing, Reply, Request, sha256};
use crate::fixture::Node;

const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

fn spec(image: &str) -> ImageSpec {
    ImageSpec { image: image.into(), ..Default::default() }
}

fn auth(password: &str) -> Option<AuthConfig> {
    Some(AuthConfig { username: "user".into(), password: password.into(), ..Default::default() })
}

impl Node {
    async fn pull(&self, image: &str, auth: Option<AuthConfig>) -> Result<String, String> {
        self.service().pull_image(&spec(image), auth).await.map_err(|error| error.to_string())
    }

    /// Fails when anything of a pull is in the store.
    #[track_caller]
    fn is_clean(&self, after: &str) {
        let images = self.config.root_dir.join("images");
        for dir in ["blobs/sha256", "ingest.d", "snapshots"] {
            let names = std::fs::read_dir(images.join(dir)).unwrap().map(|e| e.unwrap().file_name());
            let left: Vec<_> = names.filter(|name| !name.to_string_lossy().starts_with("builtin-")).collect();
            assert!(left.is_empty(), "{after}: {dir} holds {left:?}");
        }
    }

    /// Pulls, checks that all is there, and removes the image.
    async fn pulls(&self, image: &str) {
        let id = self.pull(image, None).await.unwrap();
        assert_eq!(self.service().image_status(&spec(image)).await.unwrap().unwrap().id, id);
        self.service().remove_image(&spec(&id)).await.unwrap();
        self.is_clean("removal");
    }
}

/// Lets nobody in without a header, and says how to get one.
fn guard(wanted: &str, challenge: &str) -> impl Fn(&Request) -> Option<Reply> + use<> {
    let (wanted, challenge) = (wanted.to_owned(), challenge.to_owned());
    move |request| {
        let refusal = || Reply::refusal(401, "authentication required").with("WWW-Authenticate", challenge.clone());
        (request.authorization != wanted).then(refusal)
    }
}

pub(crate) async fn credentials() {
    let node = Node::new().await;
    let registry = FakeRegistry::start(&Image::new(&[Packing::Plain])).await;
    let name = registry.image();
    let realm = format!("http://{}/token", registry.address);
    let bearer = format!("Bearer realm=\"{realm}\",service=\"svc\",scope=\"repository:team/app:pull\"");
    for with_token in [false, true] {
        let guarded = if with_token { guard("Bearer let-me-in", &bearer) } else { guard(BASIC, "Basic realm=\"x\"") };
        registry.rule(move |request| {
            if !request.target.starts_with("/token") {
                return guarded(request);
            }
            let right = request.authorization == BASIC && request.target.contains("scope=repository:team/app:pull");
            Some(match right {
                true => Reply::new(200, r#"{"access_token":"let-me-in"}"#),
                false => Reply::new(401, r#"{"details":"incorrect username or password"}"#),
            })
        });
        let expect = if with_token { "incorrect username or password" } else { "authentication required" };
        for credential in [None, auth("wrong")] {
            let error = node.pull(&name, credential).await.unwrap_err();
            let clear = error.contains("401 Unauthorized") && error.contains(expect) && !error.contains("wrong");
            assert!(clear, "{error}");
            node.is_clean("a refusal");
        }
        node.pull(&name, auth("secret")).await.unwrap();
        let found = node.service().image_status(&spec(&name)).await.unwrap().unwrap();
        assert_eq!(found.uid, Some(0));
        // The same from the node's own file.
        node.service().remove_image(&spec(&found.id)).await.unwrap();
        let text = format!("configs:\n  \"{}\":\n    auth: {{username: user, password: secret}}\n", registry.address);
        std::fs::write(&node.config.registries_file, text).unwrap();
        node.pulls(&name).await;
        std::fs::remove_file(&node.config.registries_file).unwrap();
    }

    // A refresh token goes to the token service in a body, and a token as it is.
    let guarded = guard("Bearer let-me-in", &bearer);
    registry.rule(move |request| match request.target.as_str() {
        "/token" => {
            let right = request.method == "POST" && request.body.contains("refresh_token=refresh%2B1");
            Some(if right { Reply::new(200, r#"{"token":"let-me-in"}"#) } else { Reply::refusal(403, "no") })
        }
        _ => guarded(request),
    });
    let identity = AuthConfig { identity_token: "refresh+1".into(), ..Default::default() };
    node.pull(&name, Some(identity.clone())).await.unwrap();
    let direct = AuthConfig { registry_token: "let-me-in".into(), ..Default::default() };
    node.pull(&name, Some(direct)).await.unwrap();

    // A registry that never has enough is not asked for ever.
    registry.rule(guard("-", "Basic realm=\"x\""));
    let error = node.pull(&name, auth("secret")).await.unwrap_err();
    assert!(error.contains("401 Unauthorized"), "{error}");
    assert_eq!(registry.seen().len(), 2, "once without, once with the credential");

    // A token service that passes a secret on to another host.
    let other = FakeRegistry::start(&Image::default()).await;
    let elsewhere = format!("http://{}/token", other.address);
    let guarded = guard("-", &bearer);
    registry.rule(move |request| match request.target.as_str() {
        "/token" => Some(Reply::new(307, "").with("Location", elsewhere.clone())),
        _ => guarded(request),
    });
    let error = node.pull(&name, Some(identity)).await.unwrap_err();
    assert!(error.contains("to another host") && other.seen().is_empty(), "{error}");
    node.finish().await;
}

pub(crate) async fn broken_connections() {
    let node = Node::new().await;
    let image = Image::new(&[Packing::Plain, Packing::Gzip, Packing::Zstd]);
    let registry = FakeRegistry::start(&image).await;
    let (name, layer) = (registry.image(), image.layers[1].clone());
    let content = image.files[&layer].clone();
    let ranges = |registry: &FakeRegistry, layer: &str| {
        let of_layer = registry.seen().into_iter().filter(|request| request.target == layer);
        of_layer.map(|request| request.range).collect::<Vec<_>>()
    };
    let (target, bytes) = (layer.clone(), content.clone());
    registry.rule(move |request| {
        (request.target == target && request.before == 0).then(|| Reply::new(200, bytes.clone()).cut(100_000))
    });
    node.pulls(&name).await;
    assert_eq!(ranges(&registry, &layer), ["", "bytes=100000-"], "taken up where it broke");

    // A registry that knows no ranges sends all of it again.
    let (target, bytes) = (layer.clone(), content.clone());
    registry.rule(move |request| {
        let whole = || Reply::new(200, bytes.clone());
        let cut = if request.before == 0 { whole().cut(100_000) } else { whole() };
        (request.target == target).then_some(cut)
    });
    node.pulls(&name).await;
    assert_eq!(ranges(&registry, &layer).len(), 2);

    // One that sends another range than was asked for.
    let (target, bytes) = (layer.clone(), content.clone());
    registry.rule(move |request| {
        let wrong = Reply::new(206, &bytes[5..]).with("Content-Range", "bytes 5-9/10");
        let cut = if request.before == 0 { Reply::new(200, bytes.clone()).cut(100_000) } else { wrong };
        (request.target == target).then_some(cut)
    });
    let error = node.pull(&name, None).await.unwrap_err();
    assert!(error.contains("from 5 on, not from 100000"), "{error}");

    // One that always breaks off: what did come whole is kept for the next attempt.
    let (target, bytes) = (layer.clone(), content.clone());
    registry.rule(move |request| {
        (request.target == target && request.range.is_empty())
            .then(|| Reply::new(200, bytes.clone()).cut(100_000))
            .or_else(|| (request.target == target).then(|| Reply::new(206, "")))
    });
    let error = node.pull(&name, None).await.unwrap_err();
    assert!(error.contains(&format!("broke off after 100000 of {} bytes", content.len())), "{error}");
    registry.rule(|_| None);
    node.pull(&name, None).await.unwrap();
    let asked: Vec<String> = registry.seen().into_iter().map(|request| request.target).collect();
    assert!(asked.contains(&layer) && !asked.contains(&image.layers[0]), "{asked:?}");
    node.finish().await;
}

/// A pull whose pod goes away ends, and what it has begun goes with it.
pub(crate) async fn a_pull_that_nobody_waits_for() {
    let node = Node::new().await;
    let image = Image::new(&[Packing::Plain]);
    let registry = FakeRegistry::start(&image).await;
    let (name, layer) = (registry.image(), image.layers[0].clone());
    let (target, bytes) = (layer.clone(), image.files[&layer].clone());
    registry.rule(move |request| (request.target == target).then(|| Reply::new(200, bytes.clone()).stalled(1000)));
    let unfinished = || std::fs::read_dir(node.config.root_dir.join("images/ingest.d")).unwrap().count();
    let begun = async {
        while !registry.seen().iter().any(|request| request.target == layer) || unfinished() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        pulled = node.pull(&name, None) => panic!("{pulled:?}"),
        () = begun => {}
    }
    while unfinished() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    registry.rule(|_| None);
    node.pulls(&name).await;
    node.finish().await;
}

/// A registry that lies gets nothing into the store, and one that has mended its ways is believed.
pub(crate) async fn lies() {
    let node = Node::new().await;
    let packings = [Packing::Plain, Packing::Gzip];
    let image = Image::new(&packings);
    let registry = FakeRegistry::start(&image).await;
    let by_digest = format!("{}/team/app@{}", registry.address, image.digest());
    let altered = |target: &str| {
        let mut bytes = image.files[target].clone();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        bytes
    };
    let spaced = |target: &str| [image.files[target].as_slice(), b" "].concat();
    let layer = &image.layers[1];
    let whole = &image.files[layer];
    let digest = image.digest();
    let index = |text: &str| (&image.index, Reply::new(200, text));
    let html = "<html>Please log in</html>";
    let both = format!(r#"{{"config":{{"digest":"{digest}"}},"layers":[],"manifests":[{{"digest":"{digest}"}}]}}"#);
    let huge = format!(r#"{{"config":{{"digest":"{digest}","size":9999999999}},"layers":[]}}"#);
    let other_digest = Reply::new(200, image.files[&image.index].clone()).with("Docker-Content-Digest", sha256(b"x"));
    let cases: Vec<((&String, Reply), &str)> = vec![
        ((&image.index, other_digest), "sent a manifest with the digest"),
        ((&image.manifest, Reply::new(200, spaced(&image.manifest))), "sent a manifest with the digest"),
        ((&image.config, Reply::new(200, altered(&image.config))), "sent a blob with the digest"),
        ((layer, Reply::new(200, altered(layer))), "sent a blob with the digest"),
        ((layer, Reply::new(200, [whole.as_slice(), b"x"].concat())), "sent more for"),
        ((layer, Reply::new(200, whole.clone()).endless()), "sent more for"),
        ((layer, Reply::new(200, "")), "broke off after 0 of"),
        ((&image.index, Reply::new(200, "{").endless()), "the answer is longer than 4194304 bytes"),
        (index(html), "is not a manifest or config"),
        (index(r#"{"schemaVersion":1,"fsLayers":[]}"#), "schema 1"),
        (index(&both), "is both a manifest and an index"),
        (
            index(r#"{"manifests":[{"digest":"sha256:00","platform":{"os":"plan9","architecture":"mips"}}]}"#),
            "no match for platform in manifest: this machine is linux/",
        ),
        (index(r#"{"manifests":[{"digest":"../../etc/passwd"}]}"#), "unsupported digest"),
        (index(r#"{"config":{"digest":"sha512:00"},"layers":[]}"#), "unsupported digest"),
        (index(&huge), "9999999999 bytes"),
    ];
    for ((target, reply), expect) in cases {
        let lie = target.clone();
        registry.rule(move |request| (request.target == lie).then(|| reply.clone()));
        let error = node.pull(&registry.image(), None).await.unwrap_err();
        assert!(error.contains(expect), "{expect}: {error}");
        // What came whole over a connection that broke is kept for the next attempt.
        if !error.contains("broke off") {
            node.is_clean(expect);
        }
    }
    let wrong = Reply::new(200, spaced(&image.index));
    registry.rule(move |request| request.target.contains("/manifests/sha256:").then(|| wrong.clone()));
    let error = node.pull(&by_digest, None).await.unwrap_err();
    assert!(error.contains(&format!("instead of {}", image.digest())), "{error}");
    node.is_clean("a wrong digest");
    registry.rule(|_| None);
    node.pulls(&registry.image()).await;
    node.pulls(&by_digest).await;

    // Well-hashed images that contradict themselves.
    let of = |change| Image::changed(&packings, change);
    for (image, expect) in [
        (of(|config, _, _| config["rootfs"]["diff_ids"][1] = json!(sha256(b"x"))), "layer has the digest"),
        (of(|config, _, _| config["rootfs"]["diff_ids"] = json!([])), "image has 2 layers, but its config names 0"),
        (of(|_, manifest, _| manifest["layers"] = json!([])), "image has 0 layers"),
        (
            of(|_, manifest, _| manifest["layers"] = json!([{"digest": "sha256:x"}, {"digest": "y"}])),
            "unsupported digest",
        ),
        (
            of(|_, manifest, _| manifest["layers"] = json!([{"digest": sha256(b"x")}, {"digest": sha256(b"y")}])),
            "404 Not Found: unknown",
        ),
    ] {
        let registry = FakeRegistry::start(&image).await;
        let error = node.pull(&registry.image(), None).await.unwrap_err();
        assert!(error.contains(expect), "{expect}: {error}");
        if !error.contains("404") {
            node.is_clean(expect);
        }
    }
    node.finish().await;
}

pub(crate) async fn busy_registries_and_other_endpoints() {
    let node = Node::new().await;
    let image = Image::new(&[Packing::Zstd]);
    let registry = FakeRegistry::start(&image).await;
    let name = registry.image();
    let layer = image.layers[0].clone();
    registry.rule(move |request| match request.before {
        0 if request.target.contains("/manifests/v1") => {
            Some(Reply::refusal(429, "slow down").with("Retry-After", "0"))
        }
        0 | 1 if request.target == layer => Some(Reply::new(503, "")),
        _ => None,
    });
    node.pulls(&name).await;
    registry.rule(|_| Some(Reply::refusal(429, "slow down").with("Retry-After", "900")));
    let error = node.pull(&name, None).await.unwrap_err();
    assert!(error.contains("429 Too Many Requests: slow down (try again after 900 s)"), "{error}");
    assert_eq!(registry.seen().len(), 1, "such a pause is the kubelet's to make");
    registry.rule(|_| Some(Reply::refusal(500, "disk on fire")));
    let error = node.pull(&name, None).await.unwrap_err();
    assert!(error.contains("500 Internal Server Error: disk on fire"), "{error}");

    // Blobs from elsewhere: the credential stays where it belongs.
    let store = FakeRegistry::start(&image).await;
    let (elsewhere, guarded) = (store.address.clone(), guard(BASIC, "Basic realm=\"x\""));
    registry.rule(move |request| {
        let redirect = || Reply::new(307, "").with("Location", format!("http://{elsewhere}{}", request.target));
        guarded(request).or_else(|| request.target.contains("/blobs/").then(redirect))
    });
    node.pull(&name, auth("secret")).await.unwrap();
    let asked = store.seen();
    assert!(asked.len() == 2 && asked.iter().all(|request| request.authorization.is_empty()), "{asked:?}");
    node.service().remove_image(&spec(&name)).await.unwrap();
    let itself = format!("http://{}/again", registry.address);
    registry.rule(move |_| Some(Reply::new(302, "").with("Location", itself.clone())));
    let error = node.pull(&name, None).await.unwrap_err();
    assert!(error.contains("more than 10 redirects"), "{error}");

    // A mirror that has only the manifest, and one that lies: the registry behind them has the rest.
    for reply in [Reply::refusal(404, "gone"), Reply::new(200, vec![b'x'; 400_000])] {
        registry.rule(move |request| request.target.contains("/blobs/").then(|| reply.clone()));
        store.rule(|_| None);
        let text = format!("mirrors: {{\"{}\": {{endpoint: [\"http://{}\"]}}}}\n", store.address, registry.address);
        std::fs::write(&node.config.registries_file, text).unwrap();
        node.pulls(&store.image()).await;
        assert!(registry.seen().iter().all(|request| request.target.ends_with(&format!("?ns={}", store.address))));
        assert!(store.seen().iter().all(|request| request.target.contains("/blobs/")), "{:?}", store.seen());
    }
    node.finish().await;
}

/// A server's and a client's identity below one authority, as files, and the acceptor that wants the client's.
fn authority(node: &Node) -> TlsAcceptor {
    use rustls::pki_types::PrivateKeyDer;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let identity = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let signed = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        (signed, key)
    };
    let (client, client_key) = identity("client");
    for (file, text) in
        [("ca.pem", certificate.pem()), ("client.pem", client.pem()), ("client.key", client_key.serialize_pem())]
    {
        std::fs::write(node.dir.join(file), text).unwrap();
    }
    let (server, server_key) = identity("127.0.0.1");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![server.der().clone()], PrivateKeyDer::try_from(server_key.serialize_der()).unwrap());
    TlsAcceptor::from(Arc::new(config.unwrap()))
}

pub(crate) async fn encrypted_registries() {
    let node = Node::new().await;
    let registry = FakeRegistry::start_with(&Image::new(&[Packing::Gzip]), Some(authority(&node))).await;
    let with = |settings: &str| {
        let settings = settings.replace("DIR", &node.dir.display().to_string());
        let text = format!("configs:\n  \"{}\":\n    tls: {{{settings}}}\n", registry.address);
        std::fs::write(&node.config.registries_file, text).unwrap();
    };
    let client = "cert_file: DIR/client.pem, key_file: DIR/client.key";
    for (settings, expect) in [
        (client.to_owned(), "invalid peer certificate: UnknownIssuer"),
        ("ca_file: DIR/ca.pem".to_owned(), "CertificateRequired"),
        (format!("ca_file: DIR/none.pem, {client}"), "none.pem"),
        ("ca_file: DIR/ca.pem, cert_file: DIR/client.pem, key_file: DIR/ca.pem".to_owned(), "ca.pem"),
    ] {
        with(&settings);
        let error = node.pull(&registry.image(), None).await.unwrap_err();
        // The alert may be overtaken by the connection's end.
        let ended = expect == "CertificateRequired" && (error.contains("reset") || error.contains("Broken pipe"));
        assert!(error.contains(expect) || ended, "{settings}: {error}");
    }
    for settings in [format!("ca_file: DIR/ca.pem, {client}"), format!("insecure_skip_verify: true, {client}")] {
        with(&settings);
        node.pulls(&registry.image()).await;
    }
    std::fs::write(&node.config.registries_file, "mirrors: [what]\n").unwrap();
    let error = node.pull(&registry.image(), None).await.unwrap_err();
    assert!(error.contains("registries.yaml"), "{error}");
    node.finish().await;
}

/// The images' disk is full while a layer is downloaded, while one is unpacked, and while an archive is imported.
pub(crate) async fn a_full_disk() {
    let node = Node::on_a_small_disk().await;
    let registry = FakeRegistry::start(&Image::new(&[Packing::Plain, Packing::Plain])).await;
    let name = registry.image();
    for free in [200 << 10, 700 << 10] {
        node.fill_disk(free);
        let error = node.pull(&name, None).await.unwrap_err();
        assert!(error.contains("No space left") && error.contains("free some space"), "{error}");
        node.is_clean("a full disk");
    }
    node.empty_disk();
    let archives = ImageArchives::open(&node.config).unwrap();
    node.pull(&name, None).await.unwrap();
    let archive = node.dir.with_extension("tar");
    archives.export(std::slice::from_ref(&name), &mut std::fs::File::create(&archive).unwrap()).unwrap();
    archives.remove(&name).unwrap();
    node.is_clean("removal");
    node.fill_disk(200 << 10);
    let imported = archives.import(&archive);
    node.empty_disk();
    let error = imported.unwrap_err().to_string();
    assert!(error.contains("free some space"), "{error}");
    node.is_clean("a failed import");
    let imported = archives.import(&archive);
    std::fs::remove_file(&archive).unwrap();
    assert!(imported.unwrap()[0].tags.contains(&name));
    node.finish().await;
}
