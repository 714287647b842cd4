//! Where objects lie: flags, upstream's for etcd.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use kybern_apimachinery::time;
use kybern_storage::etcd;

use crate::wiring::storage::{Schedule, StorageOptions};

/// Where the objects of a server lie, and in what form.
#[derive(Clone, Debug, Args)]
pub(crate) struct StorageFlags {
    #[command(flatten)]
    etcd: EtcdFlags,
    #[command(flatten)]
    events: EventFlags,
    #[command(flatten)]
    encryption: EncryptionFlags,
    #[command(flatten)]
    snapshots: SnapshotFlags,
    /// The form that objects have in etcd; a store of this server's own holds JSON. What is read may have either.
    #[arg(long, default_value = PROTOBUF, value_parser = [JSON, PROTOBUF])]
    storage_media_type: String,
}

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

impl StorageFlags {
    /// What is used: the etcd, or a store below the data directory.
    pub(crate) fn options(&self, data_dir: &Path) -> StorageOptions {
        StorageOptions {
            etcd: self.etcd.etcd().map(|etcd| etcd::Options { expiring: self.events.expiring(), ..etcd }),
            patience: self.etcd.storage_initialization_timeout,
            health_timeout: self.etcd.etcd_healthcheck_timeout,
            readiness_timeout: self.etcd.etcd_readycheck_timeout,
            encryption: self.encryption.file(),
            snapshots: self.snapshots.schedule(data_dir),
            protobuf: self.storage_media_type == PROTOBUF,
            ..StorageOptions::own(&data_dir.join("server/db"))
        }
    }

    /// The same as arguments of another `kybern`.
    pub(crate) fn to_arguments(&self) -> Vec<String> {
        let mut arguments = self.snapshots.to_arguments();
        if self.etcd.etcd().is_some() {
            arguments.extend(self.etcd.to_arguments());
            arguments.extend(self.events.to_arguments());
            arguments.push(format!("--storage-media-type={}", self.storage_media_type));
        }
        arguments.extend(self.encryption.to_arguments());
        arguments
    }
}

/// Upstream's flags of an etcd. Without --etcd-servers objects lie in a store of this server's own.
#[derive(Clone, Debug, Args)]
pub(crate) struct EtcdFlags {
    /// The members of the etcd that holds the objects, such as https://10.0.0.2:2379 [default: a store below the data
    /// directory].
    #[arg(long, value_delimiter = ',')]
    etcd_servers: Vec<String>,
    /// What every key in etcd begins with.
    #[arg(long, default_value = "/registry", requires = "etcd_servers")]
    etcd_prefix: String,
    /// PEM file of the authorities that certify the etcd.
    #[arg(long)]
    etcd_cafile: Option<PathBuf>,
    /// PEM file of the certificate that the etcd is shown.
    #[arg(long)]
    etcd_certfile: Option<PathBuf>,
    /// The key of --etcd-certfile (PEM).
    #[arg(long)]
    etcd_keyfile: Option<PathBuf>,
    /// How often what is older than this is compacted; 0: never.
    #[arg(long, default_value = "5m0s", value_parser = parse_period)]
    etcd_compaction_interval: Duration,
    /// How long the health check waits for the etcd.
    #[arg(long, default_value = "2s", value_parser = parse_period)]
    etcd_healthcheck_timeout: Duration,
    /// How long the readiness check waits for the etcd.
    #[arg(long, default_value = "2s", value_parser = parse_period)]
    etcd_readycheck_timeout: Duration,
    /// How long the server waits at its start for the etcd.
    #[arg(long, default_value = "1m0s", value_parser = parse_period)]
    storage_initialization_timeout: Duration,
}

impl EtcdFlags {
    /// The etcd, if there is to be one.
    pub(crate) fn etcd(&self) -> Option<etcd::Options> {
        let servers: Vec<String> = self.etcd_servers.iter().filter(|server| !server.is_empty()).cloned().collect();
        if servers.is_empty() {
            return None;
        }
        // An empty flag names no file.
        let file = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        let mut options = etcd::Options::new(servers);
        options.tls = etcd::TlsFiles {
            ca: file(&self.etcd_cafile),
            certificate: file(&self.etcd_certfile),
            key: file(&self.etcd_keyfile),
        };
        options.prefix.clone_from(&self.etcd_prefix);
        options.compaction_interval = Some(self.etcd_compaction_interval).filter(|interval| !interval.is_zero());
        Some(options)
    }

    fn to_arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--etcd-servers={}", self.etcd_servers.join(",")),
            format!("--etcd-prefix={}", self.etcd_prefix),
        ];
        for (flag, file) in
            [("cafile", &self.etcd_cafile), ("certfile", &self.etcd_certfile), ("keyfile", &self.etcd_keyfile)]
        {
            arguments.extend(file.iter().map(|path| format!("--etcd-{flag}={}", path.display())));
        }
        let periods = [
            ("etcd-compaction-interval", self.etcd_compaction_interval),
            ("etcd-healthcheck-timeout", self.etcd_healthcheck_timeout),
            ("etcd-readycheck-timeout", self.etcd_readycheck_timeout),
            ("storage-initialization-timeout", self.storage_initialization_timeout),
        ];
        arguments.extend(periods.map(|(flag, period)| format!("--{flag}={}ms", period.as_millis())));
        arguments
    }
}

/// Upstream's flags of events, which etcd ends by itself.
#[derive(Clone, Debug, Args)]
pub(crate) struct EventFlags {
    /// How long an event stays in etcd after it was last written; 0: until the controller manager removes it.
    #[arg(long, default_value = "1h0m0s", value_parser = parse_period)]
    event_ttl: Duration,
    /// For how many seconds events are given the same lease of etcd.
    #[arg(long, default_value_t = 60)]
    lease_reuse_duration_seconds: u64,
}

impl EventFlags {
    fn expiring(&self) -> Option<etcd::TimeToLive> {
        // Both APIs of events have one place.
        let prefix = "/registry/events/".to_owned();
        let reuse = Duration::from_secs(self.lease_reuse_duration_seconds);
        (!self.event_ttl.is_zero()).then_some(etcd::TimeToLive { prefix, ttl: self.event_ttl, reuse })
    }

    fn to_arguments(&self) -> [String; 2] {
        [
            format!("--event-ttl={}ms", self.event_ttl.as_millis()),
            format!("--lease-reuse-duration-seconds={}", self.lease_reuse_duration_seconds),
        ]
    }
}

/// Upstream's flags of encryption at rest.
#[derive(Clone, Debug, Args)]
pub(crate) struct EncryptionFlags {
    /// The file that says which stored objects are encrypted, and how (EncryptionConfiguration of
    /// apiserver.config.k8s.io/v1).
    #[arg(long)]
    encryption_provider_config: Option<PathBuf>,
    /// Reads the file anew when it changes.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    encryption_provider_config_automatic_reload: bool,
}

impl EncryptionFlags {
    /// The file, and whether it is read anew.
    fn file(&self) -> Option<(PathBuf, bool)> {
        let file = self.encryption_provider_config.clone().filter(|path| !path.as_os_str().is_empty())?;
        Some((file, self.encryption_provider_config_automatic_reload))
    }

    fn to_arguments(&self) -> Vec<String> {
        let Some((file, reload)) = self.file() else { return Vec::new() };
        vec![
            format!("--encryption-provider-config={}", file.display()),
            format!("--encryption-provider-config-automatic-reload={reload}"),
        ]
    }
}

/// Copies of the store that the server makes by the clock.
#[derive(Clone, Debug, Args)]
pub(crate) struct SnapshotFlags {
    /// How often the server copies its store, such as 6h; 0: never.
    #[arg(long, default_value = "0s", value_parser = parse_period)]
    snapshot_interval: Duration,
    /// How many of these copies stay.
    #[arg(long, default_value_t = 5)]
    snapshot_retention: usize,
    /// The folder that they lie in [default: <data-dir>/server/snapshots].
    #[arg(long)]
    snapshot_dir: Option<PathBuf>,
}

impl SnapshotFlags {
    /// What is copied when, if anything is.
    fn schedule(&self, data_dir: &Path) -> Option<Schedule> {
        let folder = self.snapshot_dir.clone().unwrap_or_else(|| data_dir.join("server/snapshots"));
        let (interval, retention) = (self.snapshot_interval, self.snapshot_retention);
        (!interval.is_zero()).then_some(Schedule { folder, interval, retention })
    }

    /// The same as arguments of another `kybern`.
    fn to_arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--snapshot-interval={}s", self.snapshot_interval.as_secs()),
            format!("--snapshot-retention={}", self.snapshot_retention),
        ];
        arguments.extend(self.snapshot_dir.iter().map(|folder| format!("--snapshot-dir={}", folder.display())));
        arguments
    }
}

fn parse_period(text: &str) -> Result<Duration, String> {
    time::parse_duration(text).ok_or_else(|| format!("{text:?} is not a duration of the form 5s"))
}
