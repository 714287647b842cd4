//! A disk that runs full: what does not fit is refused with the cause and the cure, nothing that was acknowledged is lost,
//! and all goes on once there is room.

use std::path::PathBuf;
use std::process::Command;

use kybern_e2e::{Cluster, eventually};

/// A file system of its own that is small.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, megabytes: u64) -> SmallDisk {
        std::fs::create_dir_all(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]).arg(&path);
        assert!(mount.status().expect("mount starts").success());
        SmallDisk(path)
    }

    /// Leaves so many bytes free.
    fn fill(&self, free: u64) {
        self.empty();
        let df = Command::new("df").args(["--output=avail", "--block-size=1"]).arg(&self.0).output().unwrap();
        let available: u64 = String::from_utf8(df.stdout).unwrap().lines().last().unwrap().trim().parse().unwrap();
        let length = available.saturating_sub(free).to_string();
        let filled = Command::new("fallocate").args(["--length", &length]).arg(self.0.join("filler")).status();
        assert!(filled.expect("fallocate starts").success());
    }

    fn empty(&self) {
        let _ = std::fs::remove_file(self.0.join("filler"));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A cluster on the small disk, in place of the one that all tests share.
struct Tenant {
    main: &'static Cluster,
    cluster: &'static Cluster,
    disk: SmallDisk,
}

impl Tenant {
    fn new() -> Tenant {
        let main = Cluster::get();
        assert!(main.kybern("down").arg("--keep-data").status().unwrap().success());
        let disk = SmallDisk::mount(main.data_dir.parent().unwrap().join("small"), 192);
        let cluster = main.with_data_in(disk.0.join("data"));
        let tenant = Tenant { main, cluster, disk };
        std::fs::create_dir_all(&cluster.data_dir).unwrap();
        let registries = "registries.yaml";
        std::fs::copy(main.data_dir.join(registries), cluster.data_dir.join(registries)).unwrap();
        cluster.up();
        tenant
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        self.disk.empty();
        let _ = self.cluster.kybern("down").status();
        self.main.up();
    }
}

const LARGE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: large}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: 'large:1', command: [sleep, '3600']}]
";

fn has_no_room_for_an_image(tenant: &Tenant) {
    let kubectl = tenant.cluster.kubectl();
    // Less than the image's layer, and enough for everything else.
    tenant.disk.fill(32 << 20);
    kubectl.apply(LARGE);
    eventually("the cause and the cure are shown", || {
        let shown = kubectl.jsonpath(&["pod", "large"], "{.status.containerStatuses[0].state.waiting}");
        let all = ["ImagePull", "No space left on device", "free some space, or remove images"];
        if all.iter().all(|text| shown.contains(text)) { Ok(()) } else { Err(shown) }
    });
    let images = tenant.cluster.data_dir.join("runtime/images");
    let unfinished: Vec<_> = std::fs::read_dir(images.join("ingest.d")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(unfinished.is_empty(), "{unfinished:?}");
    let blobs = std::fs::read_dir(images.join("blobs/sha256")).unwrap().map(|e| e.unwrap().metadata().unwrap().len());
    assert!(blobs.sum::<u64>() < 8 << 20, "half an image is left");
    tenant.disk.empty();
    kubectl.wait("pod/large", "condition=Ready");
    kubectl.run(&["delete", "pod", "large"]).ok();
}

fn has_no_room_for_objects(tenant: &Tenant) {
    let kubectl = tenant.cluster.kubectl();
    let content = std::env::temp_dir().join(format!("kybern-content-{}", std::process::id()));
    std::fs::write(&content, "x".repeat(900_000)).unwrap();
    let from = format!("--from-file={}", content.display());
    let (mut acknowledged, mut refusal) = (Vec::new(), None);
    tenant.disk.fill(0);
    for number in 0..200 {
        let name = format!("item-{number}");
        let created = kubectl.run(&["create", "configmap", &name, &from]);
        if created.code != Some(0) {
            refusal = Some(created.stderr);
            break;
        }
        acknowledged.push(name);
    }
    let refusal = refusal.expect("180 MB do not fit");
    assert!(refusal.contains("Internal error occurred: no space left for the store"), "{refusal}");
    assert!(refusal.contains("free some disk space; nothing was written"), "{refusal}");
    let all_there = || {
        let kept = kubectl.run(&["get", "configmaps", "-o", "name"]).ok();
        for name in &acknowledged {
            assert!(
                kept.lines().any(|line| line == format!("configmap/{name}")),
                "{name} was acknowledged and is lost"
            );
        }
        let refused = format!("configmap/item-{}", acknowledged.len());
        assert!(!kept.lines().any(|line| line == refused), "{refused} was refused");
    };
    all_there();
    // Nothing that a start needs is to be written anew.
    tenant.cluster.crash_server();
    tenant.cluster.up();
    all_there();
    tenant.disk.empty();
    eventually("writing works again", || {
        let created = kubectl.run(&["create", "configmap", "afterwards", "--from-literal=a=b"]);
        if created.code == Some(0) { Ok(()) } else { Err(created.stderr) }
    });
    tenant.cluster.crash_server();
    tenant.cluster.up();
    all_there();
    kubectl.run(&["get", "configmap", "afterwards"]).ok();
    let _ = std::fs::remove_file(content);
}

#[test]
fn a_full_disk() {
    let tenant = Tenant::new();
    eventually("the default account is there", || {
        let found = tenant.cluster.kubectl().run(&["get", "serviceaccount", "default"]);
        if found.code == Some(0) { Ok(()) } else { Err(found.stderr) }
    });
    has_no_room_for_an_image(&tenant);
    has_no_room_for_objects(&tenant);
}
