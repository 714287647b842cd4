//! What a real registry does not do on demand: token services, refusals, broken connections. A scripted one on loopback.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use kybern_cri::*;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::fixture::Node;

/// How the registry wants to be asked.
#[derive(Clone, Copy, PartialEq)]
enum Wants {
    Basic,
    Token,
}

struct Script {
    wants: Wants,
    address: String,
    /// Path to contents.
    files: BTreeMap<String, Vec<u8>>,
    /// Requests as `METHOD path [range]`.
    seen: Mutex<Vec<String>>,
}

fn sha256(bytes: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    "sha256:".to_owned() + &hash.as_ref().iter().map(|b| format!("{b:02x}")).collect::<String>()
}

/// An image of one layer that is large enough to break off in.
fn image() -> (BTreeMap<String, Vec<u8>>, String) {
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(300_000);
    header.set_mode(0o644);
    header.set_cksum();
    let content: Vec<u8> = (0..300_000u32).map(|i| (i * 7 % 251) as u8).collect();
    layer.append_data(&mut header, "data", content.as_slice()).unwrap();
    let layer = layer.into_inner().unwrap();
    let config =
        serde_json::json!({"rootfs": {"diff_ids": [sha256(&layer)]}, "config": {"User": "0"}}).to_string().into_bytes();
    let descriptor = |bytes: &[u8]| serde_json::json!({"mediaType": "x", "digest": sha256(bytes), "size": bytes.len()});
    let manifest =
        serde_json::json!({"schemaVersion": 2, "config": descriptor(&config), "layers": [descriptor(&layer)]});
    let manifest = manifest.to_string().into_bytes();
    let platform = serde_json::json!({"os": "linux", "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }});
    let mut listed = descriptor(&manifest);
    listed["platform"] = platform;
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [listed]}).to_string().into_bytes();
    let layer_path = format!("/v2/secret/app/blobs/{}", sha256(&layer));
    let files = BTreeMap::from([
        ("/v2/secret/app/manifests/v1".to_owned(), index),
        (format!("/v2/secret/app/manifests/{}", sha256(&manifest)), manifest),
        (format!("/v2/secret/app/blobs/{}", sha256(&config)), config),
        (layer_path.clone(), layer),
    ]);
    (files, layer_path)
}

async fn serve(wants: Wants) -> (Arc<Script>, String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (files, layer) = image();
    let script = Arc::new(Script { wants, address, files, seen: Mutex::default() });
    let serving = script.clone();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let script = serving.clone();
            tokio::spawn(async move { answer(&script, stream).await });
        }
    });
    (script, layer, task)
}

async fn answer(script: &Script, stream: TcpStream) {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).await.unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let header = |name: &str| {
        head.iter()
            .skip(1)
            .find_map(|l| l.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned()))
    };
    let target = head[0].split(' ').nth(1).unwrap().to_owned();
    let (range, authorization) = (header("range"), header("authorization").unwrap_or_default());
    script.seen.lock().unwrap().push(format!("{target} {}", range.clone().unwrap_or_default()).trim().to_owned());
    let (mut status, mut extra, mut body) = ("200 OK", String::new(), Vec::new());
    let mut cut = None;
    if target.starts_with("/token") {
        if authorization == "Basic dXNlcjpzZWNyZXQ=" && target.contains("scope=repository:secret/app:pull") {
            body = br#"{"access_token":"let-me-in"}"#.to_vec();
        } else {
            (status, body) = ("401 Unauthorized", br#"{"details":"incorrect username or password"}"#.to_vec());
        }
    } else if authorization
        != (if script.wants == Wants::Basic { "Basic dXNlcjpzZWNyZXQ=" } else { "Bearer let-me-in" })
    {
        let challenge = match script.wants {
            Wants::Basic => "Basic realm=\"x\"".to_owned(),
            Wants::Token => format!(
                "Bearer realm=\"http://{}/token\",service=\"svc\",scope=\"repository:secret/app:pull\"",
                script.address
            ),
        };
        status = "401 Unauthorized";
        extra = format!("WWW-Authenticate: {challenge}\r\n");
        body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#.to_vec();
    } else if let Some(file) = script.files.get(&target) {
        let from: usize =
            range.as_deref().and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0);
        body = file[from..].to_vec();
        if from > 0 {
            status = "206 Partial Content";
        } else if file.len() > 100_000 {
            // Breaks off half-way, the first time.
            cut = Some(100_000);
        }
    } else {
        status = "404 Not Found";
    }
    let length = body.len();
    body.truncate(cut.unwrap_or(length));
    let head = format!("HTTP/1.1 {status}\r\n{extra}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    let _ = reader.write_all(head.as_bytes()).await;
    let _ = reader.write_all(&body).await;
    let _ = reader.shutdown().await;
}

pub(crate) async fn credentials_and_broken_connections() {
    for wants in [Wants::Basic, Wants::Token] {
        let node = Node::new().await;
        let (script, layer, task) = serve(wants).await;
        let image = ImageSpec { image: format!("{}/secret/app:v1", script.address), ..Default::default() };
        let error = node.service().pull_image(&image, vec![]).await.unwrap_err().to_string();
        let expect = if wants == Wants::Basic {
            "401 Unauthorized: authentication required"
        } else {
            "incorrect username or password"
        };
        assert!(error.contains(expect), "{error}");
        let auth =
            |password: &str| AuthConfig { username: "user".into(), password: password.into(), ..Default::default() };
        let error = node.service().pull_image(&image, vec![auth("wrong")]).await.unwrap_err().to_string();
        assert!(error.contains("401 Unauthorized") && !error.contains("wrong"), "{error}");
        script.seen.lock().unwrap().clear();
        node.service().pull_image(&image, vec![auth("wrong"), auth("secret")]).await.unwrap();
        let layers: Vec<String> =
            script.seen.lock().unwrap().iter().filter(|r| r.starts_with(&layer)).cloned().collect();
        assert_eq!(layers, [layer.clone(), format!("{layer} bytes=100000-")], "taken up where it broke");
        let found = node.service().image_status(&image).await.unwrap().unwrap();
        assert_eq!(found.uid, Some(0));
        // The same from the node's own file.
        node.service().remove_image(&ImageSpec { image: found.id, ..Default::default() }).await.unwrap();
        let text = format!("configs:\n  \"{}\":\n    auth: {{username: user, password: secret}}\n", script.address);
        std::fs::write(&node.config.registries_file, text).unwrap();
        node.service().pull_image(&image, vec![]).await.unwrap();
        task.abort();
        node.finish().await;
    }
}
