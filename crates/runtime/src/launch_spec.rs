//! From CRI's container config and the image's to what the shim launches. Pure: everything read from the machine comes in
//! as an argument.

use std::path::PathBuf;

use kybern_cri::{ContainerConfig, Mount, NamespaceMode, SecurityProfile, SupplementalGroupsPolicy};
use kybern_linux::cgroup::{DeviceKind, DeviceRule, Resources};
use kybern_linux::{capability, seccomp};

use crate::image::ImageConfig;
use crate::spec::{BindMount, DeviceNode, LaunchSpec, PidNamespace, ProcessSpec, Rootfs, UserSpec};

/// What the sandbox and the machine contribute.
pub(crate) struct Surroundings {
    pub(crate) rootfs: Rootfs,
    pub(crate) cgroup: String,
    /// The sandbox's host name, or the machine's.
    pub(crate) hostname: String,
    /// The sandbox's own files and `/dev/shm`, used where the config has no mount of its own there.
    pub(crate) default_mounts: Vec<Mount>,
    /// The devices asked for, or all of the machine's for a privileged container.
    pub(crate) devices: Vec<(DeviceNode, DeviceRule)>,
    pub(crate) log_path: Option<PathBuf>,
    /// A profile of the node, when the config names one.
    pub(crate) localhost_seccomp: Option<seccomp::Profile>,
}

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What upstream hides in `/proc` and `/sys` unless told otherwise.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Answers the launch spec, or what is wrong with the config.
pub(crate) fn build(config: &ContainerConfig, image: &ImageConfig, around: Surroundings) -> Result<LaunchSpec, String> {
    let security = &config.security;
    let privileged = security.privileged;
    let capabilities = if privileged {
        capability::ALL
    } else {
        let wanted = &security.capabilities;
        capability::resolve(capability::default_mask(), &wanted.add, &wanted.drop)
            .map_err(|name| format!("unknown capability {name:?}"))?
    };
    let profile = match &security.seccomp {
        _ if privileged => None,
        SecurityProfile::Unconfined => None,
        SecurityProfile::RuntimeDefault => Some(seccomp::runtime_default(capabilities)),
        SecurityProfile::Localhost(path) => {
            Some(around.localhost_seccomp.ok_or_else(|| format!("seccomp profile {path:?} was not read"))?)
        }
    };
    let seccomp =
        profile.iter().flat_map(seccomp::compile).map(|i| (i.code, i.jump_true, i.jump_false, i.value)).collect();
    let paths = |given: &Option<Vec<String>>, default: &[&str]| match given {
        _ if privileged => Vec::new(),
        Some(paths) => paths.clone(),
        None => default.iter().map(|p| p.to_string()).collect(),
    };
    Ok(LaunchSpec {
        rootfs: around.rootfs,
        process: ProcessSpec {
            args: arguments(config, image)?,
            env: environment(config, image, &around.hostname),
            cwd: [&config.working_dir, &image.working_dir]
                .into_iter()
                .find(|d| !d.is_empty())
                .cloned()
                .unwrap_or_else(|| "/".into()),
            user: user(config, image)?,
            capabilities,
            no_new_privs: security.no_new_privs,
            seccomp,
            rlimits: Vec::new(),
            terminal_size: None,
        },
        mounts: mounts(config, around.default_mounts),
        devices: around.devices.into_iter().map(|(node, _)| node).collect(),
        masked_paths: paths(&security.masked_paths, &MASKED_PATHS),
        readonly_paths: paths(&security.readonly_paths, &READONLY_PATHS),
        readonly_root: security.readonly_rootfs,
        // On a writable root the image's volumes need nothing: the container's own layer holds them.
        writable_paths: image.volumes.keys().filter(|_| security.readonly_rootfs).cloned().collect(),
        privileged,
        pid: match security.namespaces.pid {
            NamespaceMode::Pod => PidNamespace::Pod,
            NamespaceMode::Container => PidNamespace::Private,
            NamespaceMode::Node => PidNamespace::Host,
            NamespaceMode::Target => PidNamespace::Target,
        },
        pid_target: security.namespaces.target_id.clone(),
        cgroup: around.cgroup,
        oom_score_adj: Some(config.resources.oom_score_adj),
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        log_path: around.log_path,
        log_rotation: config.log_rotation,
    })
}

/// The pod's command replaces the image's entrypoint and with it the image's arguments.
fn arguments(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, String> {
    let (command, args) = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => (&config.command, &config.args),
        (true, false) => (&image.entrypoint, &config.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    let all: Vec<String> = command.iter().chain(args).cloned().collect();
    if all.is_empty() { Err("no command specified".into()) } else { Ok(all) }
}

/// Later settings of a name win, at the place of the first.
fn environment(config: &ContainerConfig, image: &ImageConfig, hostname: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut set = |entry: String| {
        let name = entry.split('=').next().unwrap_or_default();
        match out.iter_mut().find(|e| e.split('=').next() == Some(name)) {
            Some(known) => *known = entry,
            None => out.push(entry),
        }
    };
    set(DEFAULT_PATH.to_owned());
    set(format!("HOSTNAME={hostname}"));
    if config.tty {
        set("TERM=xterm".to_owned());
    }
    image.env.iter().for_each(|entry| set(entry.clone()));
    config.envs.iter().for_each(|(name, value)| set(format!("{name}={value}")));
    out
}

fn user(config: &ContainerConfig, image: &ImageConfig) -> Result<UserSpec, String> {
    let security = &config.security;
    let id = |value: i64| u32::try_from(value).map_err(|_| format!("user or group id {value} is out of range"));
    let user = match security.run_as_user {
        Some(uid) => id(uid)?.to_string(),
        None if !security.run_as_username.is_empty() => security.run_as_username.clone(),
        None => image.user.clone(),
    };
    Ok(UserSpec {
        user,
        group: security.run_as_group.map(id).transpose()?,
        supplemental_groups: security.supplemental_groups.iter().map(|g| id(*g)).collect::<Result<_, _>>()?,
        strict: security.supplemental_groups_policy == SupplementalGroupsPolicy::Strict,
    })
}

/// Outer mounts before the ones inside them.
fn mounts(config: &ContainerConfig, defaults: Vec<Mount>) -> Vec<BindMount> {
    let given = |path: &str| config.mounts.iter().any(|m| m.container_path.trim_end_matches('/') == path);
    let mut all: Vec<Mount> = defaults.into_iter().filter(|m| !given(&m.container_path)).collect();
    all.extend(config.mounts.iter().cloned());
    all.sort_by_key(|m| m.container_path.split('/').filter(|part| !part.is_empty()).count());
    all.into_iter()
        .map(|m| BindMount {
            source: m.host_path.into(),
            destination: m.container_path.into(),
            read_only: m.readonly,
            recursive_read_only: m.recursive_read_only,
            propagation: m.propagation,
        })
        .collect()
}

/// The limits of the container's group.
pub(crate) fn resources(resources: &kybern_cri::LinuxContainerResources) -> Resources {
    let set = |value: i64| (value != 0).then_some(value);
    let positive = |value: i64| u64::try_from(value).ok().filter(|v| *v > 0);
    let text = |value: &String| (!value.is_empty()).then(|| value.clone());
    Resources {
        cpu_shares: positive(resources.cpu_shares),
        cpu_quota: set(resources.cpu_quota),
        cpu_period: positive(resources.cpu_period),
        memory_limit: set(resources.memory_limit_in_bytes),
        pids_limit: set(resources.pids_limit),
        cpuset_cpus: text(&resources.cpuset_cpus),
        cpuset_mems: text(&resources.cpuset_mems),
        devices: None,
    }
}

/// The devices a container may use.
pub(crate) fn device_rules(privileged: bool, devices: &[(DeviceNode, DeviceRule)]) -> Vec<DeviceRule> {
    if privileged {
        return vec![DeviceRule::EVERYTHING];
    }
    DeviceRule::standard().into_iter().chain(devices.iter().map(|(_, rule)| *rule)).collect()
}

/// The rule that lets a container use a device with CRI's permissions (of `r`, `w`, `m`).
pub(crate) fn device_rule(node: &DeviceNode, permissions: &str) -> DeviceRule {
    DeviceRule {
        kind: if node.block { DeviceKind::Block } else { DeviceKind::Char },
        major: Some(node.major),
        minor: Some(node.minor),
        read: permissions.contains('r'),
        write: permissions.contains('w'),
        mknod: permissions.contains('m'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn command_and_args() {
        let image = ImageConfig { entrypoint: strings(&["/e"]), cmd: strings(&["c"]), ..Default::default() };
        for (command, args, expect) in [
            (&[][..], &[][..], &["/e", "c"][..]),
            (&[], &["a"], &["/e", "a"]),
            (&["/x"], &[], &["/x"]),
            (&["/x"], &["a"], &["/x", "a"]),
        ] {
            let config = ContainerConfig { command: strings(command), args: strings(args), ..Default::default() };
            assert_eq!(arguments(&config, &image).unwrap(), strings(expect));
        }
        assert_eq!(arguments(&ContainerConfig::default(), &ImageConfig::default()), Err("no command specified".into()));
    }

    #[test]
    fn the_pods_variables_win() {
        let image = ImageConfig { env: strings(&["PATH=/bin", "A=1", "B=2"]), ..Default::default() };
        let config =
            ContainerConfig { envs: vec![("B".into(), "3".into()), ("C".into(), "x=y".into())], ..Default::default() };
        assert_eq!(environment(&config, &image, "h"), strings(&["PATH=/bin", "HOSTNAME=h", "A=1", "B=3", "C=x=y"]));
    }

    #[test]
    fn mounts_are_ordered_and_defaults_give_way() {
        let mount = |path: &str, host: &str| Mount {
            container_path: path.into(),
            host_path: host.into(),
            ..Default::default()
        };
        let config = ContainerConfig {
            mounts: vec![mount("/a/b/", "1"), mount("/a", "2"), mount("/etc/hostname", "3")],
            ..Default::default()
        };
        let made = mounts(&config, vec![mount("/etc/hostname", "default"), mount("/dev/shm", "shm")]);
        let pairs: Vec<_> =
            made.iter().map(|m| (m.destination.to_str().unwrap(), m.source.to_str().unwrap())).collect();
        assert_eq!(pairs, [("/a", "2"), ("/dev/shm", "shm"), ("/a/b/", "1"), ("/etc/hostname", "3")]);
    }

    #[test]
    fn privileged_lifts_the_confinement() {
        let around = || Surroundings {
            rootfs: Rootfs::default(),
            cgroup: "/c".into(),
            hostname: "h".into(),
            default_mounts: vec![],
            devices: vec![],
            log_path: None,
            localhost_seccomp: None,
        };
        let mut config = ContainerConfig { command: strings(&["x"]), ..Default::default() };
        let plain = build(&config, &ImageConfig::default(), around()).unwrap();
        assert_eq!(plain.process.capabilities, capability::default_mask());
        assert!(!plain.process.seccomp.is_empty() && plain.masked_paths.contains(&"/proc/kcore".to_owned()));
        config.security.privileged = true;
        let free = build(&config, &ImageConfig::default(), around()).unwrap();
        assert_eq!(free.process.capabilities, capability::ALL);
        assert!(free.process.seccomp.is_empty() && free.masked_paths.is_empty() && free.readonly_paths.is_empty());
        config.security.privileged = false;
        config.security.run_as_user = Some(-1);
        assert!(build(&config, &ImageConfig::default(), around()).unwrap_err().contains("out of range"));
    }
}
