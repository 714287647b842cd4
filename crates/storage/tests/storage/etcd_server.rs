//! Stores on an etcd of a test's own.

use std::time::Duration;

use kybern_storage::etcd::{Etcd, Options, TlsFiles};
pub(crate) use kybern_testbed::EtcdServer as Server;

pub(crate) trait Opens {
    fn options(&self) -> Options;
    async fn open(&self) -> Etcd;
}

impl Opens for Server {
    fn options(&self) -> Options {
        let mut options = Options::new(self.urls());
        options.compaction_interval = None;
        if self.is_tls() {
            options.tls = TlsFiles {
                ca: Some(self.file("ca.pem")),
                certificate: Some(self.file("client.pem")),
                key: Some(self.file("client.key")),
            };
        }
        options
    }

    async fn open(&self) -> Etcd {
        let etcd = Etcd::new(self.options()).unwrap();
        etcd.wait_until_ready(Duration::from_secs(60)).await.unwrap_or_else(|error| {
            let log = std::fs::read_to_string(self.file("m0.log")).unwrap_or_default();
            panic!("{error}\n{log}")
        });
        etcd
    }
}
