//! `kubectl proxy` on a socket: many requests without a kubectl for each.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::cluster::Kubectl;

/// A proxy that ends when it is dropped. Any number of threads may ask through it.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    socket: PathBuf,
}

impl Proxy {
    #[must_use]
    pub fn start(kubectl: &Kubectl) -> Self {
        let socket = std::env::temp_dir().join(format!("kybern-proxy-{}-{}", std::process::id(), crate::run::unique()));
        let _ = std::fs::remove_file(&socket);
        let flag = format!("--unix-socket={}", socket.display());
        let child = kubectl.command(&["proxy", &flag]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let proxy = Self { child: child.expect("kubectl starts"), socket };
        crate::run::eventually("kubectl proxy listens", || {
            UnixStream::connect(&proxy.socket).map(drop).map_err(|error| error.to_string())
        });
        proxy
    }

    /// Asks, and answers the code and the body; an error is a connection that broke.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<(u16, Vec<u8>)> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let invalid = || std::io::Error::other(String::from_utf8_lossy(&answer).into_owned());
        let code = std::str::from_utf8(answer.get(9..12).ok_or_else(invalid)?).ok().and_then(|code| code.parse().ok());
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(invalid)?;
        Ok((code.ok_or_else(invalid)?, answer[end + 4..].to_vec()))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}
