//! Security contexts: the pod's and the container's merged (`pkg/securitycontext`), as the runtime takes them.

use kybern_api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile};
use kybern_cri::{
    Capabilities, Image, LinuxContainerSecurityContext, NamespaceMode, NamespaceOptions, SecurityProfile,
    SupplementalGroupsPolicy,
};

use super::spec;

fn pod_context(pod: &Pod) -> PodSecurityContext {
    spec::spec(pod).security_context.clone().unwrap_or_default()
}

/// Whether any container is privileged: the sandbox is, then.
pub fn is_privileged(pod: &Pod) -> bool {
    spec::containers(pod).iter().any(|(_, c)| c.security_context.as_ref().is_some_and(|s| s.privileged == Some(true)))
}

/// The namespaces of the pod's containers.
pub fn namespaces(pod: &Pod) -> NamespaceOptions {
    let spec = spec::spec(pod);
    let node = |host: Option<bool>, otherwise| if host == Some(true) { NamespaceMode::Node } else { otherwise };
    let pid = if spec.share_process_namespace == Some(true) { NamespaceMode::Pod } else { NamespaceMode::Container };
    NamespaceOptions {
        network: node(spec.host_network, NamespaceMode::Pod),
        pid: node(spec.host_pid, pid),
        ipc: node(spec.host_ipc, NamespaceMode::Pod),
        target_id: String::new(),
    }
}

/// The groups that every process of the pod has besides its own: `fsGroup` and `supplementalGroups`.
pub fn supplemental_groups(pod: &Pod) -> Vec<i64> {
    let context = pod_context(pod);
    let mut groups: Vec<i64> = context.fs_group.into_iter().collect();
    groups.extend(context.supplemental_groups.unwrap_or_default());
    groups
}

/// The groups that the status reports for a process of group `gid`.
pub fn reported_groups(pod: &Pod, gid: i64) -> Vec<i64> {
    let mut groups = vec![gid];
    for group in supplemental_groups(pod) {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups.sort_unstable();
    groups
}

fn profile(profile: Option<&SeccompProfile>, seccomp_root: &str) -> Option<SecurityProfile> {
    let profile = profile?;
    Some(match profile.type_.as_str() {
        "Unconfined" => SecurityProfile::Unconfined,
        "Localhost" => {
            let file = profile.localhost_profile.as_deref().unwrap_or("").trim_start_matches('/');
            SecurityProfile::Localhost(format!("{seccomp_root}/{file}"))
        }
        _ => SecurityProfile::RuntimeDefault,
    })
}

/// The sandbox's seccomp profile.
pub fn pod_seccomp(pod: &Pod, seccomp_root: &str) -> SecurityProfile {
    profile(pod_context(pod).seccomp_profile.as_ref(), seccomp_root).unwrap_or_default()
}

/// The user that every container of a pod is said to run as (`FsUserFrom`).
pub fn sole_user(pod: &Pod) -> Option<i64> {
    let of_pod = pod_context(pod).run_as_user;
    let all = spec::containers(pod);
    let mut users = all.iter().map(|(_, c)| c.security_context.as_ref().and_then(|own| own.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first)
}

/// The container's context over the pod's, or why it may not run. `image` tells the user it was built with.
pub fn container_context(
    pod: &Pod,
    container: &Container,
    image: &Image,
    seccomp_root: &str,
) -> Result<LinuxContainerSecurityContext, String> {
    let of_pod = pod_context(pod);
    let own = container.security_context.clone().unwrap_or_default();
    let privileged = own.privileged == Some(true);
    let run_as_user = own.run_as_user.or(of_pod.run_as_user);
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        verify_non_root(pod, container, run_as_user, image)?;
    }
    let (user, username) = match run_as_user {
        Some(uid) => (Some(uid), String::new()),
        None => (image.uid, if image.uid.is_some() { String::new() } else { image.username.clone() }),
    };
    let seccomp = if privileged {
        SecurityProfile::Unconfined
    } else {
        let chosen = own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref());
        profile(chosen, seccomp_root).unwrap_or_default()
    };
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked") || privileged;
    let capabilities = own.capabilities.unwrap_or_default();
    Ok(LinuxContainerSecurityContext {
        capabilities: Capabilities {
            add: capabilities.add.unwrap_or_default(),
            drop: capabilities.drop.unwrap_or_default(),
        },
        privileged,
        namespaces: namespaces(pod),
        run_as_user: user,
        run_as_username: username,
        run_as_group: own.run_as_group.or(of_pod.run_as_group),
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: match of_pod.supplemental_groups_policy.as_deref() {
            Some("Strict") => SupplementalGroupsPolicy::Strict,
            _ => SupplementalGroupsPolicy::Merge,
        },
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        seccomp,
        masked_paths: unmasked.then(Vec::new),
        readonly_paths: unmasked.then(Vec::new),
    })
}

/// `verifyRunAsNonRoot`.
fn verify_non_root(pod: &Pod, container: &Container, user: Option<i64>, image: &Image) -> Result<(), String> {
    let place = format!("(pod: {:?}, container: {})", spec::full_name(pod), container.name);
    match (user, image.uid, image.username.as_str()) {
        (Some(0), _, _) => Err(format!("container's runAsUser breaks non-root policy {place}")),
        (Some(_), _, _) => Ok(()),
        (None, Some(uid), _) if uid != 0 => Ok(()),
        (None, None, name) if !name.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {place}"
        )),
        (None, _, _) => Err(format!("container has runAsNonRoot and image will run as root {place}")),
    }
}

#[cfg(test)]
mod tests {
    use kybern_api::core::v1::SecurityContext;

    use super::*;
    use crate::pod::testing::{container, pod};

    fn image(uid: Option<i64>, username: &str) -> Image {
        Image { uid, username: username.into(), ..Default::default() }
    }

    #[test]
    fn containers_of_one_user_share_it() {
        let of = |of_pod: Option<i64>, users: [Option<i64>; 2]| {
            let containers = users.map(|user| {
                let own = SecurityContext { run_as_user: user, ..Default::default() };
                Container { security_context: Some(own), ..container("c") }
            });
            let mut pod = pod("p", containers.to_vec());
            pod.spec.as_mut().unwrap().security_context =
                Some(PodSecurityContext { run_as_user: of_pod, ..Default::default() });
            sole_user(&pod)
        };
        assert_eq!(of(None, [Some(7), Some(7)]), Some(7));
        assert_eq!(of(Some(7), [None, Some(7)]), Some(7));
        assert_eq!(of(Some(5), [None, Some(7)]), None);
        assert_eq!(of(None, [Some(7), None]), None);
    }

    #[test]
    fn the_container_overrides_the_pod() {
        let mut c = container("c");
        c.security_context = Some(SecurityContext { run_as_user: Some(7), ..Default::default() });
        let mut pod = pod("p", vec![c.clone()]);
        pod.spec.as_mut().unwrap().security_context = Some(PodSecurityContext {
            run_as_user: Some(5),
            run_as_group: Some(6),
            fs_group: Some(9),
            supplemental_groups: Some(vec![10]),
            supplemental_groups_policy: Some("Strict".into()),
            ..Default::default()
        });
        let got = container_context(&pod, &c, &image(Some(1), ""), "/s").unwrap();
        assert_eq!((got.run_as_user, got.run_as_group, got.supplemental_groups), (Some(7), Some(6), vec![9, 10]));
        assert_eq!(got.seccomp, SecurityProfile::RuntimeDefault);
        assert!(!got.no_new_privs);
        assert_eq!(got.supplemental_groups_policy, SupplementalGroupsPolicy::Strict);
        assert_eq!(reported_groups(&pod, 6), [6, 9, 10]);
    }

    #[test]
    fn non_root_is_verified() {
        let check = |user: Option<i64>, image: Image, expect: Option<&str>| {
            let mut c = container("c");
            c.security_context =
                Some(SecurityContext { run_as_user: user, run_as_non_root: Some(true), ..Default::default() });
            let pod = pod("p", vec![c.clone()]);
            let got = container_context(&pod, &c, &image, "/s").err();
            let expect = expect.map(|text| format!("{text} (pod: \"p_default(p-uid)\", container: c)"));
            assert_eq!(got, expect);
        };
        check(Some(1), image(None, ""), None);
        check(None, image(Some(1), ""), None);
        check(Some(0), image(Some(1), ""), Some("container's runAsUser breaks non-root policy"));
        check(None, image(None, ""), Some("container has runAsNonRoot and image will run as root"));
        check(None, image(Some(0), ""), Some("container has runAsNonRoot and image will run as root"));
        check(
            None,
            image(None, "www"),
            Some("container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root"),
        );
    }
}
