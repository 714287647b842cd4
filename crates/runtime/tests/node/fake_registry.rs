//! A registry on loopback that does what a test wants: an honest one, unless a rule says otherwise.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// The repository that every fake registry has.
pub(crate) const REPOSITORY: &str = "team/app";

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    "sha256:".to_owned() + &hash.as_ref().iter().map(|b| format!("{b:02x}")).collect::<String>()
}

/// What is asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) range: String,
    pub(crate) authorization: String,
    pub(crate) body: String,
    /// How often this target was asked for before.
    pub(crate) before: usize,
}

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Breaks off after so many bytes.
    cut: Option<usize>,
    /// Goes on for ever.
    endless: bool,
    /// Says no more, and does not end either.
    stalled: bool,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, headers: Vec::new(), body: body.into(), cut: None, endless: false, stalled: false }
    }

    /// A refusal in the registries' own form.
    pub(crate) fn refusal(status: u16, message: &str) -> Reply {
        Reply::new(status, json!({"errors": [{"code": "X", "message": message}]}).to_string())
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn cut(self, after: usize) -> Reply {
        Reply { cut: Some(after), ..self }
    }

    pub(crate) fn stalled(self, after: usize) -> Reply {
        Reply { cut: Some(after), stalled: true, ..self }
    }

    pub(crate) fn endless(self) -> Reply {
        Reply { endless: true, ..self }
    }
}

/// How a layer's archive is stored.
#[derive(Clone, Copy)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// An image of one layer for each packing, each with one large file, below an index.
#[derive(Clone, Default)]
pub(crate) struct Image {
    /// By target.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) index: String,
    pub(crate) manifest: String,
    pub(crate) config: String,
    pub(crate) layers: Vec<String>,
}

fn descriptor(bytes: &[u8]) -> Value {
    json!({"mediaType": "x", "digest": sha256(bytes), "size": bytes.len()})
}

impl Image {
    pub(crate) fn new(packings: &[Packing]) -> Image {
        Image::changed(packings, |_, _, _| ())
    }

    /// With a chance to falsify config, manifest and index before they are hashed.
    pub(crate) fn changed(packings: &[Packing], change: fn(&mut Value, &mut Value, &mut Value)) -> Image {
        let archives: Vec<Vec<u8>> = (0..packings.len()).map(archive).collect();
        let diff_ids: Vec<String> = archives.iter().map(|archive| sha256(archive)).collect();
        let blobs: Vec<Vec<u8>> =
            archives.into_iter().zip(packings).map(|(bytes, packing)| pack(bytes, *packing)).collect();
        let layers: Vec<Value> = blobs.iter().map(|blob| descriptor(blob)).collect();
        let mut config = json!({"rootfs": {"diff_ids": diff_ids}, "config": {"User": "0"}});
        let (mut manifest, mut index) = (json!({}), json!({}));
        change(&mut config, &mut manifest, &mut index);
        let config = config.to_string().into_bytes();
        for (key, value) in [("schemaVersion", json!(2)), ("config", descriptor(&config)), ("layers", json!(layers))] {
            if manifest.get(key).is_none() {
                manifest[key] = value;
            }
        }
        let manifest = manifest.to_string().into_bytes();
        if index.get("manifests").is_none() {
            let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
            let mut listed = descriptor(&manifest);
            listed["platform"] = json!({"os": "linux", "architecture": architecture});
            let mut other = descriptor(b"elsewhere");
            other["platform"] = json!({"os": "linux", "architecture": "s390x"});
            index["manifests"] = json!([other, listed]);
        }
        let index = index.to_string().into_bytes();
        let target = |kind: &str, name: &str| format!("/v2/{REPOSITORY}/{kind}/{name}");
        let mut image = Image {
            index: target("manifests", "v1"),
            manifest: target("manifests", &sha256(&manifest)),
            config: target("blobs", &sha256(&config)),
            layers: blobs.iter().map(|blob| target("blobs", &sha256(blob))).collect(),
            files: BTreeMap::new(),
        };
        image.files.insert(target("manifests", &sha256(&index)), index.clone());
        image.files.insert(image.index.clone(), index);
        image.files.insert(image.manifest.clone(), manifest);
        image.files.insert(image.config.clone(), config);
        image.files.extend(image.layers.clone().into_iter().zip(blobs));
        image
    }

    /// The digest that the tag stands for.
    pub(crate) fn digest(&self) -> String {
        sha256(&self.files[&self.index])
    }
}

/// A layer with one file that is large enough to break off in, and that does not shrink.
fn archive(number: usize) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(300_000);
    header.set_mode(0o644);
    header.set_cksum();
    let mut state = number as u32 + 1;
    let content: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(300_000)
    .collect();
    layer.append_data(&mut header, format!("data{number}"), content.as_slice()).unwrap();
    layer.into_inner().unwrap()
}

fn pack(bytes: Vec<u8>, packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Plain => bytes,
        Packing::Gzip => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(&bytes).unwrap();
            out.finish().unwrap()
        }
        Packing::Zstd => zstd::encode_all(bytes.as_slice(), 1).unwrap(),
    }
}

type Rule = Box<dyn Fn(&Request) -> Option<Reply> + Send + Sync>;

pub(crate) struct FakeRegistry {
    pub(crate) address: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    files: BTreeMap<String, Vec<u8>>,
    rule: Mutex<Rule>,
    seen: Mutex<Vec<Request>>,
}

impl FakeRegistry {
    pub(crate) async fn start(image: &Image) -> FakeRegistry {
        FakeRegistry::start_with(image, None).await
    }

    pub(crate) async fn start_with(image: &Image, tls: Option<TlsAcceptor>) -> FakeRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let honest: Rule = Box::new(|_| None);
        let shared = Arc::new(Shared { files: image.files.clone(), rule: Mutex::new(honest), seen: Mutex::default() });
        let serving = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, tls) = (serving.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => answer(&shared, stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                answer(&shared, stream).await;
                            }
                        }
                    }
                });
            }
        });
        FakeRegistry { address, shared, task }
    }

    /// What to answer instead of the honest reply, which `None` stands for. Forgets what was asked so far.
    pub(crate) fn rule(&self, rule: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) {
        *self.shared.rule.lock().unwrap() = Box::new(rule);
        self.shared.seen.lock().unwrap().clear();
    }

    pub(crate) fn seen(&self) -> Vec<Request> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The image's name by its tag.
    pub(crate) fn image(&self) -> String {
        format!("{}/{REPOSITORY}:v1", self.address)
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(shared: &Shared, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).await.unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let Some(first) = head.first() else { return };
    let header = |name: &str| {
        let lines = head.iter().skip(1).filter_map(|line| line.split_once(": "));
        let mut values = lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned());
        values.next().unwrap_or_default()
    };
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    let _ = tokio::io::AsyncReadExt::read_exact(&mut reader, &mut body).await;
    let reply = {
        let mut seen = shared.seen.lock().unwrap();
        let before = seen.iter().filter(|request| request.target == target).count();
        let body = String::from_utf8(body).unwrap();
        let request =
            Request { method, target, range: header("range"), authorization: header("authorization"), body, before };
        seen.push(request.clone());
        shared.rule.lock().unwrap()(&request).unwrap_or_else(|| honest(&shared.files, &request))
    };
    let length = reply.body.len();
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    if !reply.endless {
        head += &format!("Content-Length: {length}\r\n");
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let _ = reader.write_all(format!("{head}\r\n").as_bytes()).await;
    let _ = reader.write_all(&reply.body[..reply.cut.unwrap_or(length)]).await;
    while reply.endless && reader.write_all(&[b' '; 4096]).await.is_ok() {}
    if reply.stalled {
        let _ = reader.flush().await;
        std::future::pending::<()>().await;
    }
    let _ = reader.shutdown().await;
}

/// What a registry that works answers.
fn honest(files: &BTreeMap<String, Vec<u8>>, request: &Request) -> Reply {
    let path = request.target.split('?').next().unwrap();
    let Some(file) = files.get(path) else { return Reply::refusal(404, "unknown") };
    match request.range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok()) {
        None => Reply::new(200, file.clone()),
        Some(from) => Reply::new(206, &file[from..])
            .with("Content-Range", format!("bytes {from}-{}/{}", file.len() - 1, file.len())),
    }
}
