//! A container's mounts: its volume mounts, its hosts file, its termination log (`makeMounts`).

use std::path::{Path, PathBuf};

use kybern_api::core::v1::{Container, Pod};
use kybern_cri::{Mount, MountPropagation};
use kybern_linux::files;

use super::claims::Claims;
use super::{is_read_only, pod_dir, subpath, volume_path};
use crate::pod::{env, spec};

/// The file that a container writes its last words to, on the node.
pub fn termination_log(root: &Path, uid: &str, container: &str, attempt: u32) -> PathBuf {
    pod_dir(root, uid).join("containers").join(container).join(attempt.to_string())
}

/// The pod's hosts file on the node.
pub fn hosts_path(root: &Path, uid: &str) -> PathBuf {
    pod_dir(root, uid).join("etc-hosts")
}

/// The mounts of a container; `envs` is its environment, for `subPathExpr`, `claims` what the pod's claims
/// are bound to. Makes what they need on disk.
pub fn container_mounts(
    root: &Path,
    pod: &Pod,
    container: &Container,
    attempt: u32,
    envs: &[(String, String)],
    claims: &Claims,
) -> Result<Vec<Mount>, String> {
    let uid = spec::uid(pod);
    let mut mounts = Vec::new();
    let mut mounts_hosts = false;
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let volume = spec::spec(pod).volumes.iter().flatten().find(|v| v.name == mount.name);
        let bound = claims.get(&mount.name);
        let path = |volume| bound.map(|bound| bound.path.clone()).or_else(|| volume_path(root, uid, volume));
        let found = volume.and_then(|volume| Some((volume, path(volume)?)));
        let (volume, path) = found.ok_or_else(|| {
            format!("cannot find volume {:?} to mount into container {:?}", mount.name, container.name)
        })?;
        let sub_path = match mount.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
            Some(expression) => expand_strictly(expression, envs)?,
            None => mount.sub_path.clone().unwrap_or_default(),
        };
        let host_path = if sub_path.is_empty() {
            path
        } else {
            let place = pod_dir(root, uid).join("volume-subpaths");
            let target = place.join(&mount.name).join(&container.name).join(index.to_string());
            subpath::bind(&path, &sub_path, &target)?;
            target
        };
        mounts_hosts |= mount.mount_path.trim_end_matches('/') == "/etc/hosts";
        let container_path =
            if mount.mount_path.starts_with('/') { mount.mount_path.clone() } else { format!("/{}", mount.mount_path) };
        mounts.push(Mount {
            container_path,
            host_path: host_path.to_string_lossy().into_owned(),
            readonly: mount.read_only == Some(true)
                || is_read_only(volume)
                || bound.is_some_and(|bound| bound.read_only),
            recursive_read_only: matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => MountPropagation::HostToContainer,
                Some("Bidirectional") => MountPropagation::Bidirectional,
                _ => MountPropagation::Private,
            },
        });
    }
    let file = |container_path: &str, host: PathBuf| Mount {
        container_path: container_path.to_owned(),
        host_path: host.to_string_lossy().into_owned(),
        ..Default::default()
    };
    if !mounts_hosts {
        mounts.push(file("/etc/hosts", hosts_path(root, uid)));
    }
    let log_path = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    if !log_path.is_empty() {
        let log = termination_log(root, uid, &container.name, attempt);
        make_log(&log).map_err(|e| format!("cannot make {}: {e}", log.display()))?;
        mounts.push(file(log_path, log));
    }
    Ok(mounts)
}

/// Writable by whatever user the container runs as.
fn make_log(path: &Path) -> std::io::Result<()> {
    files::make_dirs(path.parent().unwrap_or(path), 0o750)?;
    files::create(path, 0o666).map(drop)
}

/// Expands `subPathExpr`, in which every variable must be known.
fn expand_strictly(expression: &str, envs: &[(String, String)]) -> Result<String, String> {
    let missing = std::cell::RefCell::new(None);
    let text = env::expand(expression, &|name| {
        let found = envs.iter().rev().find(|(have, _)| have == name).map(|(_, value)| value.clone());
        if found.is_none() {
            missing.borrow_mut().get_or_insert_with(|| name.to_owned());
        }
        found
    });
    match missing.into_inner() {
        Some(name) => Err(format!("missing value for {name:?} in subPathExpr {expression:?}")),
        None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use kybern_api::core::v1::{ConfigMapVolumeSource, HostPathVolumeSource, Volume, VolumeMount};

    use super::*;
    use crate::pod::testing::{container, pod};

    #[test]
    fn volumes_hosts_and_last_words() {
        let temp = tempfile::tempdir().unwrap();
        let mut c = container("c");
        let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
            name: name.into(),
            mount_path: path.into(),
            read_only: Some(read_only),
            ..Default::default()
        };
        c.volume_mounts =
            Some(vec![mount("cm", "/cfg", true), mount("host", "data", false), mount("disk", "/disk", false)]);
        let mut pod = pod("p", vec![c.clone()]);
        let host = HostPathVolumeSource { path: "/srv".into(), type_: None };
        pod.spec.as_mut().unwrap().volumes = Some(vec![
            Volume { name: "cm".into(), config_map: Some(ConfigMapVolumeSource::default()), ..Default::default() },
            Volume { name: "host".into(), host_path: Some(host), ..Default::default() },
            Volume { name: "disk".into(), ..Default::default() },
        ]);
        let disk = super::super::claims::Bound {
            volume: "pv".into(),
            path: "/mnt/pv".into(),
            host_path: None,
            read_only: true,
            alone: false,
        };
        let claims = Claims::from([("disk".to_owned(), disk)]);
        let got = container_mounts(temp.path(), &pod, &c, 3, &[], &claims).unwrap();
        let seen: Vec<(String, String, bool)> = got
            .into_iter()
            .map(|m| (m.container_path, m.host_path.replace(temp.path().to_str().unwrap(), "R"), m.readonly))
            .collect();
        let expect = [
            ("/cfg", "R/pods/p-uid/volumes/kubernetes.io~configmap/cm", true),
            ("/data", "/srv", false),
            ("/disk", "/mnt/pv", true),
            ("/etc/hosts", "R/pods/p-uid/etc-hosts", false),
            ("/dev/termination-log", "R/pods/p-uid/containers/c/3", false),
        ];
        assert_eq!(seen, expect.map(|(c, h, r)| (c.to_owned(), h.to_owned(), r)));
        assert!(temp.path().join("pods/p-uid/containers/c/3").exists());
    }

    #[test]
    fn sub_path_expressions_know_all_their_variables() {
        let envs = [("POD".to_owned(), "a".to_owned())];
        assert_eq!(expand_strictly("$(POD)/x", &envs).unwrap(), "a/x");
        assert!(expand_strictly("$(NO)/x", &envs).unwrap_err().contains("\"NO\""));
    }
}
