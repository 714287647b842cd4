//! Values that are encrypted, by which keys they open, and what becomes of those that do not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kybern_storage::encryption::{Encrypted, Kinds};
use kybern_storage::memory::Memory;
use kybern_storage::{Storage, StorageError, Txn};
use parking_lot::Mutex;

use crate::{range, value};

const KEY_A: &str = "c2VjcmV0IGlzIHNlY3VyZQ==";
const KEY_B: &str = "dGhpcyBpcyBwYXNzd29yZA==";
const SECRET: &str = "/registry/secrets/ns/a";

fn kinds() -> Kinds {
    let kind = |prefix: &str, group: &str, resource: &str| (prefix.into(), (group.into(), resource.into()));
    [kind("secrets", "", "secrets"), kind("configmaps", "", "configmaps"), kind("services/specs", "", "services")]
        .into()
}

/// A configuration file, and stores that read it.
struct Setup {
    folder: tempfile::TempDir,
    below: Arc<Memory>,
}

impl Setup {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), below: Arc::new(Memory::default()) }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("encryption.yaml")
    }

    fn write(&self, resources: &str, providers: &str) {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
             - resources: [{resources}]\n  providers: [{providers}]\n"
        );
        std::fs::write(self.file(), text).unwrap();
    }

    async fn open(&self, providers: &str) -> Encrypted {
        self.write("secrets", providers);
        Encrypted::open(self.below.clone(), &self.file(), kinds(), "/registry").await.unwrap()
    }

    async fn stored(&self, key: &str) -> Bytes {
        range(&*self.below, key, None).await.unwrap().items[0].value.clone()
    }
}

fn keyed(kind: &str, keys: &[(&str, &str)]) -> String {
    let keys: Vec<String> = keys.iter().map(|(name, secret)| format!("{{name: {name}, secret: {secret}}}")).collect();
    format!("{{{kind}: {{keys: [{}]}}}}", keys.join(", "))
}

async fn read(storage: &dyn Storage, key: &str) -> Bytes {
    range(storage, key, None).await.unwrap().items[0].value.clone()
}

#[tokio::test]
async fn each_provider_writes_what_upstream_reads_and_reads_it_back() {
    let long = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    for (kind, secret) in
        [("aescbc", KEY_A), ("aesgcm", KEY_A), ("aescbc", long), ("aesgcm", long), ("secretbox", long)]
    {
        let setup = Setup::new();
        let storage = setup.open(&keyed(kind, &[("key1", secret)])).await;
        let from = storage.revision().await.unwrap();
        let mut watch = storage.watch("/registry/", from).await.unwrap();
        storage.txn(Txn::create(SECRET.into(), value("password"))).await.unwrap();
        storage.txn(Txn::create("/registry/configmaps/ns/a".into(), value("plain"))).await.unwrap();
        let stored = setup.stored(SECRET).await;
        assert!(stored.starts_with(format!("k8s:enc:{kind}:v1:key1:").as_bytes()), "{stored:?}");
        assert!(!stored.windows(8).any(|w| w == b"password"));
        assert_eq!(setup.stored("/registry/configmaps/ns/a").await, "plain");
        assert_eq!(read(&storage, SECRET).await, "password");
        let mut seen = Vec::new();
        while seen.len() < 2 {
            seen.extend(watch.next().await.unwrap().events.into_iter().map(|e| e.value.unwrap()));
        }
        assert_eq!(seen, ["password", "plain"]);
        let mut scan = storage.scan("/registry/secrets/", storage.revision().await.unwrap()).await.unwrap();
        assert_eq!(scan.recv().await.unwrap().unwrap()[0].value, "password");
        let renamed = Encrypted::open(setup.below.clone(), &setup.file(), kinds(), "/other").await.unwrap();
        let held = kind == "aesgcm";
        assert_eq!(read(&renamed, SECRET).await != "password", held, "{kind} binds a value to its key");
    }
}

#[tokio::test]
async fn keys_rotate_by_their_order() {
    let setup = Setup::new();
    let plain = setup.open("{identity: {}}").await;
    plain.txn(Txn::create(SECRET.into(), value("one"))).await.unwrap();
    assert!(!plain.wants_rewrite(SECRET));
    drop(plain);

    let both = [("key1", KEY_A), ("key2", KEY_B)];
    let first = setup.open(&format!("{}, {{identity: {{}}}}", keyed("aesgcm", &both[..1]))).await;
    assert_eq!(read(&first, SECRET).await, "one");
    assert!(first.wants_rewrite(SECRET), "it lies there in plain text");
    let mut watch = first.watch("/registry/", 2).await.unwrap();
    let at = first.txn(Txn::update(SECRET.into(), 2, value("one"))).await.unwrap();
    watch.next().await.unwrap();
    assert!(!first.wants_rewrite(SECRET));
    drop(first);

    let turned: Vec<_> = both.iter().rev().copied().collect();
    let second = setup.open(&keyed("aesgcm", &turned)).await;
    assert_eq!(read(&second, SECRET).await, "one");
    assert!(second.wants_rewrite(SECRET));
    second.txn(Txn::update(SECRET.into(), at, value("one"))).await.unwrap();
    assert!(setup.stored(SECRET).await.starts_with(b"k8s:enc:aesgcm:v1:key2:"));
    drop(second);

    // Another key, and then a file that is wrong, while the store is open.
    let again = setup.open(&keyed("aesgcm", &turned)).await;
    assert_eq!(read(&again, SECRET).await, "one");
    assert!(!again.reload().await.unwrap() && !again.wants_rewrite(SECRET), "it is the same");
    setup.write("secrets", &keyed("aesgcm", &both));
    assert!(again.reload().await.unwrap());
    assert!(again.wants_rewrite(SECRET), "another key is the first one now");
    setup.write("secrets", "{nonsense: {}}");
    again.reload().await.unwrap_err();
    assert_eq!(read(&again, SECRET).await, "one");
    drop(again);

    // The old key is gone, and identity before the key decrypts all the same.
    let away = setup.open(&format!("{{identity: {{}}}}, {}", keyed("aesgcm", &both[1..]))).await;
    assert_eq!(read(&away, SECRET).await, "one");
    assert!(away.wants_rewrite(SECRET));
}

#[tokio::test]
async fn what_does_not_open_comes_sealed_and_holds_up_no_other() {
    let setup = Setup::new();
    let storage = setup.open(&keyed("aesgcm", &[("key1", KEY_A)])).await;
    for name in ["a", "b", "c"] {
        storage.txn(Txn::create(format!("/registry/secrets/ns/{name}").into(), value(name))).await.unwrap();
    }
    // One value is touched, and another put in the place of a third.
    let sealed = setup.stored("/registry/secrets/ns/a").await;
    let mut touched = sealed.to_vec();
    *touched.last_mut().unwrap() ^= 1;
    setup.below.txn(Txn::update("/registry/secrets/ns/a".into(), 2, touched.into())).await.unwrap();
    setup.below.txn(Txn::update("/registry/secrets/ns/b".into(), 3, sealed)).await.unwrap();
    let values: Vec<Bytes> =
        range(&storage, "/registry/secrets/", None).await.unwrap().items.into_iter().map(|kv| kv.value).collect();
    assert!(values[0].starts_with(b"k8s:enc:aesgcm:") && values[1].starts_with(b"k8s:enc:aesgcm:"), "{values:?}");
    assert_eq!(values[2], "c");
    // A key of the same name and another value, a missing key, and no identity for plain text.
    let wrong = setup.open(&keyed("aesgcm", &[("key1", KEY_B)])).await;
    assert!(read(&wrong, "/registry/secrets/ns/c").await.starts_with(b"k8s:enc:"));
    let missing = setup.open("{identity: {}}").await;
    assert!(read(&missing, "/registry/secrets/ns/c").await.starts_with(b"k8s:enc:aesgcm:v1:key1:"));
    missing.txn(Txn::create("/registry/secrets/ns/plain".into(), value("x"))).await.unwrap();
    let strict = setup.open(&keyed("aesgcm", &[("key1", KEY_A)])).await;
    assert!(read(&strict, "/registry/secrets/ns/plain").await.starts_with(b"k8s:enc:"), "plain text is not believed");
}

#[tokio::test]
async fn a_rule_of_all_reaches_custom_resources_and_services() {
    let setup = Setup::new();
    setup.write("'*.*'", &keyed("aescbc", &[("key1", KEY_A)]));
    let storage = Encrypted::open(setup.below.clone(), &setup.file(), kinds(), "/registry").await.unwrap();
    for key in ["/registry/example.com/widgets/ns/a", "/registry/services/specs/ns/a", "/registry/configmaps/ns/a"] {
        storage.txn(Txn::create(key.into(), value("x"))).await.unwrap();
        assert!(setup.stored(key).await.starts_with(b"k8s:enc:aescbc:v1:key1:"), "{key}");
        assert_eq!(read(&storage, key).await, "x");
    }
}

#[tokio::test]
async fn a_file_that_is_wrong_is_refused_by_name() {
    let setup = Setup::new();
    let open = || Encrypted::open(setup.below.clone(), Path::new("/nonexistent/e.yaml"), kinds(), "/registry");
    let text = open().await.err().unwrap().to_string();
    assert!(text.contains("--encryption-provider-config") && text.contains("/nonexistent/e.yaml"), "{text}");
    setup.write("secrets", "{aesgcm: {keys: [{name: k, secret: '!'}]}}");
    let file = setup.file();
    let open = Encrypted::open(setup.below.clone(), &file, kinds(), "/registry");
    let text = open.await.err().unwrap().to_string();
    assert!(text.contains("encryption.yaml") && text.contains("base64"), "{text}");
}

/// A KMS plugin that turns bytes around. It can be away, sick, or wrong.
struct Plugin {
    key: Mutex<String>,
    sick: AtomicBool,
    opened: AtomicUsize,
}

impl Plugin {
    fn start(socket: &Path) -> (Arc<Self>, tokio::task::JoinHandle<()>) {
        let plugin = Arc::new(Self { key: Mutex::new("kek-1".to_owned()), sick: false.into(), opened: 0.into() });
        let own = plugin.clone();
        (plugin, kybern_testbed::serve_grpc(socket, move |path, body| own.answer(path, &body)))
    }

    fn answer(&self, path: &str, body: &[u8]) -> kybern_testbed::GrpcAnswer {
        let (fields, key) = (fields(body), self.key.lock().clone());
        let turned =
            || fields.get(&1).map(|bytes| bytes.iter().map(|b| b ^ 0x5a).collect::<Vec<u8>>()).unwrap_or_default();
        match path {
            _ if self.sick.load(Ordering::Relaxed) => Err((14, "out of order")),
            "/v2.KeyManagementService/Status" => Ok(message(&[(1, b"v2"), (2, b"ok"), (3, key.as_bytes())])),
            "/v2.KeyManagementService/Encrypt" => Ok(message(&[(1, &turned()), (2, key.as_bytes())])),
            _ => {
                self.opened.fetch_add(1, Ordering::Relaxed);
                assert!(fields[&3].starts_with(b"kek-"), "it is told by which key");
                Ok(message(&[(1, &turned())]))
            }
        }
    }
}

/// The length-delimited fields of a short message.
fn fields(mut bytes: &[u8]) -> BTreeMap<u8, Vec<u8>> {
    let mut fields = BTreeMap::new();
    while let [tag, length, rest @ ..] = bytes {
        let (value, rest) = rest.split_at(usize::from(*length));
        fields.insert(tag >> 3, value.to_vec());
        bytes = rest;
    }
    fields
}

fn message(fields: &[(u8, &[u8])]) -> Vec<u8> {
    fields.iter().flat_map(|(number, value)| [&[number << 3 | 2, value.len() as u8], *value].concat()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_holds_the_keys() {
    let setup = Setup::new();
    let socket = setup.folder.path().join("kms.sock");
    let kms = format!(
        "{{kms: {{apiVersion: v2, name: test, endpoint: 'unix://{}', timeout: 1s}}}}, {{identity: {{}}}}",
        socket.display()
    );
    // It is away at first: reads of what is not encrypted work, writes are refused with the reason.
    let away = setup.open(&kms).await;
    let refused = away.txn(Txn::create(SECRET.into(), value("x"))).await.unwrap_err();
    assert!(
        matches!(&refused, StorageError::Refused(text) if text.contains(SECRET) && text.contains("kms.sock")),
        "{refused}"
    );
    away.txn(Txn::create("/registry/configmaps/ns/a".into(), value("x"))).await.unwrap();
    assert!(away.health().borrow().clone().unwrap().unwrap_err().contains("kms.sock"));
    drop(away);

    let (plugin, task) = Plugin::start(&socket);
    let storage = setup.open(&kms).await;
    assert_eq!(*storage.health().borrow(), Some(Ok(())));
    for name in ["a", "b"] {
        storage.txn(Txn::create(format!("/registry/secrets/ns/{name}").into(), value("password"))).await.unwrap();
    }
    let stored = setup.stored(SECRET).await;
    assert!(stored.starts_with(b"k8s:enc:kms:v2:test:"), "{stored:?}");
    assert!(!stored.windows(8).any(|w| w == b"password") && stored.windows(5).any(|w| w == b"kek-1"));
    assert_eq!(read(&storage, SECRET).await, "password");
    assert_eq!(plugin.opened.load(Ordering::Relaxed), 0, "the seed is known here");
    assert!(!storage.wants_rewrite(SECRET));

    // Another server, another seed: the plugin is asked once for all values of a seed.
    let other = setup.open(&kms).await;
    assert_eq!(range(&other, "/registry/secrets/", None).await.unwrap().items[1].value, "password");
    assert_eq!(plugin.opened.load(Ordering::Relaxed), 1);
    assert!(!other.wants_rewrite(SECRET));

    // The plugin's key changes.
    *plugin.key.lock() = "kek-2".to_owned();
    let later = setup.open(&kms).await;
    assert_eq!(read(&later, SECRET).await, "password");
    assert!(later.wants_rewrite(SECRET));

    // It is sick, then away: what is open stays open, what is not does not, and nobody waits for long.
    plugin.sick.store(true, Ordering::Relaxed);
    let late = setup.open(&kms).await;
    assert!(late.health().borrow().clone().unwrap().unwrap_err().contains("out of order"));
    assert_eq!(read(&storage, SECRET).await, "password");
    storage.txn(Txn::create("/registry/secrets/ns/c".into(), value("password"))).await.unwrap();
    task.abort();
    let _ = task.await;
    let began = std::time::Instant::now();
    assert!(read(&late, SECRET).await.starts_with(b"k8s:enc:kms:v2:test:"));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}
