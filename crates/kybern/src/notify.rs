//! Telling the starter how far the start has come: the datagrams of sd_notify(3). systemd understands `READY=1` and
//! `STATUS=…`; `kybern up` listens to the same.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// Sends states to the socket that `NOTIFY_SOCKET` names, if any.
#[derive(Debug)]
pub(crate) struct Notifier(Option<UnixDatagram>);

impl Notifier {
    pub(crate) fn from_env() -> Self {
        Self(std::env::var_os("NOTIFY_SOCKET").and_then(|path| connect(path.as_bytes())))
    }

    /// One step is done; the text is shown to people.
    pub(crate) fn status(&self, text: &str) {
        self.send(&format!("STATUS={text}"));
    }

    /// The server serves.
    pub(crate) fn ready(&self) {
        self.send("READY=1");
    }

    fn send(&self, state: &str) {
        if let Some(socket) = &self.0 {
            // Nobody listening is not our failure.
            let _ = socket.send(state.as_bytes());
        }
    }
}

/// A leading `@` names an abstract socket, as sd_notify(3) has it.
fn connect(path: &[u8]) -> Option<UnixDatagram> {
    use std::os::linux::net::SocketAddrExt;
    let address = match path {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok()?,
        path => SocketAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(path))).ok()?,
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect_addr(&address).ok()?;
    Some(socket)
}

/// One datagram's news.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    Status(String),
    Ready,
}

/// Reads one datagram; unknown assignments are skipped, as sd_notify(3) asks.
pub(crate) fn parse(datagram: &str) -> Vec<News> {
    let news = |line: &str| match line.split_once('=') {
        Some(("STATUS", text)) => Some(News::Status(text.to_owned())),
        Some(("READY", "1")) => Some(News::Ready),
        _ => None,
    };
    datagram.lines().filter_map(news).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams() {
        assert_eq!(
            parse("STATUS=store open\nMAINPID=1\nREADY=1"),
            [News::Status("store open".to_owned()), News::Ready]
        );
        assert_eq!(parse("nonsense"), []);
    }
}
