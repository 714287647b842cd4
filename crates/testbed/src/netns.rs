//! Network namespaces that tests make, and that go with the value.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use kybern_linux::netns::NetNs;
use kybern_linux::rtnl::Rtnl;

use crate::not_run;

/// A network namespace of a test's own, its loopback up.
#[derive(Debug)]
pub struct TestNs {
    pub path: PathBuf,
    pub ns: NetNs,
}

impl TestNs {
    /// `None`, and said so, where namespaces cannot be made.
    pub fn new(folder: &Path, name: &str) -> Option<Self> {
        let path = folder.join(name);
        match NetNs::create(&path) {
            Ok(ns) => {
                let up = || Rtnl::open().and_then(|mut rtnl| rtnl.set_up(1)).map_err(io::Error::other);
                ns.run(up).expect("a new namespace has a loopback");
                Some(Self { path, ns })
            }
            Err(error) => {
                not_run(name, &format!("cannot make a network namespace (root needed): {error}"));
                None
            }
        }
    }

    /// Gives the loopback an address that counts as another machine's.
    pub fn add_address(&self, address: IpAddr) {
        let add = || Rtnl::open().and_then(|mut rtnl| rtnl.add_address(1, address.into())).map_err(io::Error::other);
        self.ns.run(add).expect("an address of the namespace's own");
    }

    /// One in the machine's folder for temporary files.
    pub fn temporary(name: &str) -> Option<Self> {
        Self::new(&std::env::temp_dir(), &format!("kybern-ns-{name}-{}", std::process::id()))
    }
}

impl Drop for TestNs {
    fn drop(&mut self) {
        let _ = NetNs::remove(&self.path);
    }
}
