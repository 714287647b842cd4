//! The flags that say what is recorded of requests, and where.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::{ArgAction, Args};
use kybern_apimachinery::time::parse_duration;
use kybern_apiserver::audit::{
    Audit, Backend, Batching, DEFAULT_MAX_SIZE, FileOptions, Format, Mode, Policy, Truncation, Webhook,
};

#[derive(Clone, Debug, Args)]
pub(crate) struct AuditFlags {
    /// The file that says which requests are recorded, and how much of them. Without it none are.
    #[arg(long)]
    audit_policy_file: Option<PathBuf>,
    /// The file that requests are recorded in; '-' is standard output.
    #[arg(long)]
    audit_log_path: Option<PathBuf>,
    /// Days that old files are kept. 0 sets no limit.
    #[arg(long, default_value_t = 0)]
    audit_log_maxage: u32,
    /// Old files that are kept. 0 sets no limit.
    #[arg(long, default_value_t = 0)]
    audit_log_maxbackup: usize,
    /// Megabytes of a file before it becomes an old one [default: 100].
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    audit_log_maxsize: u64,
    /// Compresses old files with gzip.
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    audit_log_compress: bool,
    /// The form of a line: json or legacy.
    #[arg(long, default_value = "json", value_parser = ["json", "legacy"])]
    audit_log_format: String,
    /// Whether requests wait for their events: batch, blocking or blocking-strict, which refuses them where that fails.
    #[arg(long, default_value = "blocking")]
    audit_log_mode: String,
    /// The API version of events.
    #[arg(long, default_value = "audit.k8s.io/v1", value_parser = ["audit.k8s.io/v1"])]
    audit_log_version: String,
    /// Events that wait to be written, in mode batch.
    #[arg(long, default_value_t = 10_000)]
    audit_log_batch_buffer_size: usize,
    /// Events that are written at once, in mode batch.
    #[arg(long, default_value_t = 1)]
    audit_log_batch_max_size: usize,
    /// How long a batch is waited for.
    #[arg(long, default_value = "0s", value_parser = duration)]
    audit_log_batch_max_wait: Duration,
    /// Whether the rate of batches is limited.
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    audit_log_batch_throttle_enable: bool,
    /// Batches a second.
    #[arg(long, default_value_t = 0.0)]
    audit_log_batch_throttle_qps: f32,
    /// Batches at once.
    #[arg(long, default_value_t = 0)]
    audit_log_batch_throttle_burst: u32,
    /// Whether large events are cut.
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    audit_log_truncate_enabled: bool,
    /// Bytes of a batch.
    #[arg(long, default_value_t = 10 << 20)]
    audit_log_truncate_max_batch_size: usize,
    /// Bytes of an event.
    #[arg(long, default_value_t = 100 << 10)]
    audit_log_truncate_max_event_size: usize,
    /// The kubeconfig of a webhook that is sent what is recorded.
    #[arg(long)]
    audit_webhook_config_file: Option<PathBuf>,
    /// The wait before a failed call is repeated.
    #[arg(long, default_value = "10s", value_parser = duration)]
    audit_webhook_initial_backoff: Duration,
    /// As --audit-log-mode, of the webhook.
    #[arg(long, default_value = "batch")]
    audit_webhook_mode: String,
    /// The API version of events.
    #[arg(long, default_value = "audit.k8s.io/v1", value_parser = ["audit.k8s.io/v1"])]
    audit_webhook_version: String,
    /// Events that wait to be sent, in mode batch.
    #[arg(long, default_value_t = 10_000)]
    audit_webhook_batch_buffer_size: usize,
    /// Events that are sent at once, in mode batch.
    #[arg(long, default_value_t = 400)]
    audit_webhook_batch_max_size: usize,
    /// How long a batch is waited for.
    #[arg(long, default_value = "30s", value_parser = duration)]
    audit_webhook_batch_max_wait: Duration,
    /// Whether the rate of batches is limited.
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    audit_webhook_batch_throttle_enable: bool,
    /// Batches a second.
    #[arg(long, default_value_t = 10.0)]
    audit_webhook_batch_throttle_qps: f32,
    /// Batches at once.
    #[arg(long, default_value_t = 15)]
    audit_webhook_batch_throttle_burst: u32,
    /// Whether large events are cut.
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    audit_webhook_truncate_enabled: bool,
    /// Bytes of a batch.
    #[arg(long, default_value_t = 10 << 20)]
    audit_webhook_truncate_max_batch_size: usize,
    /// Bytes of an event.
    #[arg(long, default_value_t = 100 << 10)]
    audit_webhook_truncate_max_event_size: usize,
}

/// How events of one backend are handled.
type Handling = (Mode, Option<Truncation>);

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| format!("{text:?} is not a duration of the form 5s"))
}

impl AuditFlags {
    /// The log; `None` where nothing is to be recorded. Must be called within a tokio runtime.
    pub(crate) fn audit(&self) -> Result<Option<Arc<Audit>>> {
        let log = self.log_options()?;
        let webhook = self.webhook_options()?;
        let Some(file) = &self.audit_policy_file else {
            if log.is_some() || webhook.is_some() {
                tracing::warn!("without --audit-policy-file nothing is recorded of requests");
            }
            return Ok(None);
        };
        let text = std::fs::read(file)
            .with_context(|| format!("loading audit policy file: failed to read file path {}", file.display()))?;
        let policy = Policy::parse(&text)
            .map_err(|e| anyhow!("loading audit policy file: {e}: from file {}", file.display()))?;
        let mut backends = Vec::new();
        if let Some((options, format, (mode, truncation))) = log {
            let path = options.path.display().to_string();
            let backend = Backend::file(options, format, mode, truncation);
            backends.push(backend.with_context(|| format!("--audit-log-path {path} cannot be written"))?);
        }
        if let Some((file, (mode, truncation))) = webhook {
            let webhook = Webhook::from_kubeconfig(&file, self.audit_webhook_initial_backoff)
                .map_err(|e| anyhow!("initializing audit webhook: {e}"))?;
            backends.push(Backend::new(Arc::new(webhook), mode, truncation)?);
        }
        Ok((!backends.is_empty()).then(|| Audit::new(policy, backends)))
    }

    fn log_options(&self) -> Result<Option<(FileOptions, Format, Handling)>> {
        let Some(path) = self.audit_log_path.clone().filter(|path| !path.as_os_str().is_empty()) else {
            return Ok(None);
        };
        let batching = Batching {
            buffer: self.audit_log_batch_buffer_size,
            max_size: self.audit_log_batch_max_size,
            max_wait: self.audit_log_batch_max_wait,
            throttle: self
                .audit_log_batch_throttle_enable
                .then_some((self.audit_log_batch_throttle_qps, self.audit_log_batch_throttle_burst)),
        };
        let mode = mode("log", &self.audit_log_mode, batching)?;
        let (event, batch) = (self.audit_log_truncate_max_event_size, self.audit_log_truncate_max_batch_size);
        let truncation = truncation("log", self.audit_log_truncate_enabled, event, batch)?;
        let format = if self.audit_log_format == "legacy" { Format::Legacy } else { Format::Json };
        let options = FileOptions {
            path,
            max_age: self.audit_log_maxage,
            max_backups: self.audit_log_maxbackup,
            max_size: if self.audit_log_maxsize == 0 { DEFAULT_MAX_SIZE } else { self.audit_log_maxsize << 20 },
            compress: self.audit_log_compress,
        };
        Ok(Some((options, format, (mode, truncation))))
    }

    fn webhook_options(&self) -> Result<Option<(PathBuf, Handling)>> {
        let Some(file) = self.audit_webhook_config_file.clone().filter(|file| !file.as_os_str().is_empty()) else {
            return Ok(None);
        };
        let batching = Batching {
            buffer: self.audit_webhook_batch_buffer_size,
            max_size: self.audit_webhook_batch_max_size,
            max_wait: self.audit_webhook_batch_max_wait,
            throttle: self
                .audit_webhook_batch_throttle_enable
                .then_some((self.audit_webhook_batch_throttle_qps, self.audit_webhook_batch_throttle_burst)),
        };
        let mode = mode("webhook", &self.audit_webhook_mode, batching)?;
        let (event, batch) = (self.audit_webhook_truncate_max_event_size, self.audit_webhook_truncate_max_batch_size);
        Ok(Some((file, (mode, truncation("webhook", self.audit_webhook_truncate_enabled, event, batch)?))))
    }
}

fn mode(plugin: &str, name: &str, batching: Batching) -> Result<Mode> {
    match name {
        "blocking" => Ok(Mode::Blocking),
        "blocking-strict" => Ok(Mode::BlockingStrict),
        "batch" => {
            let bad = |what: &str, value: &dyn std::fmt::Display| {
                Err(anyhow!("invalid audit batch {plugin} {what} {value}, must be a positive number"))
            };
            match batching.throttle {
                _ if batching.buffer == 0 => bad("buffer size", &0),
                _ if batching.max_size == 0 => bad("max batch size", &0),
                Some((rate, _)) if rate <= 0.0 => bad("throttle QPS", &rate),
                Some((_, 0)) => bad("throttle burst", &0),
                _ => Ok(Mode::Batch(batching)),
            }
        }
        other => {
            bail!("invalid audit {plugin} mode {other}, allowed modes are {:?}", "batch,blocking,blocking-strict")
        }
    }
}

fn truncation(plugin: &str, enabled: bool, event: usize, batch: usize) -> Result<Option<Truncation>> {
    if event == 0 {
        bail!("invalid audit truncate {plugin} max event size {event}, must be a positive number");
    }
    if batch < event {
        bail!("invalid audit truncate {plugin} max batch size {batch}, must be greater than max event size ({event})");
    }
    Ok(enabled.then_some(Truncation { max_event_size: event, max_batch_size: batch }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: AuditFlags,
    }

    fn audit(arguments: &[&str]) -> Result<Option<Arc<Audit>>, String> {
        let line = Line::try_parse_from([&["x"], arguments].concat()).map_err(|e| e.to_string())?;
        line.flags.audit().map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn flags_make_a_log() {
        let directory = tempfile::tempdir().unwrap();
        let policy = directory.path().join("policy.yaml");
        std::fs::write(&policy, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n").unwrap();
        let (policy, log) = (policy.to_str().unwrap(), directory.path().join("logs/audit.log"));
        let log = log.to_str().unwrap();
        assert!(audit(&[]).unwrap().is_none());
        assert!(audit(&["--audit-log-path", log]).unwrap().is_none());
        assert!(audit(&["--audit-policy-file", policy]).unwrap().is_none());
        let both = ["--audit-policy-file", policy, "--audit-log-path", log];
        assert!(audit(&both).unwrap().is_some() && std::path::Path::new(log).exists());
        assert!(
            audit(&[&both[..], &["--audit-log-mode", "batch", "--audit-log-compress"]].concat()).unwrap().is_some()
        );
        for (more, expect) in [
            (&["--audit-log-mode", "never"][..], "invalid audit log mode never"),
            (
                &["--audit-log-mode", "batch", "--audit-log-batch-buffer-size", "0"],
                "invalid audit batch log buffer size 0",
            ),
            (
                &["--audit-log-mode", "batch", "--audit-log-batch-throttle-enable"],
                "invalid audit batch log throttle QPS 0",
            ),
            (&["--audit-log-truncate-max-batch-size", "1"], "invalid audit truncate log max batch size 1"),
            (&["--audit-log-format", "xml"], "invalid value 'xml'"),
            (&["--audit-webhook-config-file", "/none"], "initializing audit webhook"),
        ] {
            let error = audit(&[&both[..], more].concat()).err().unwrap();
            assert!(error.contains(expect), "{error}");
        }
        let bad = audit(&["--audit-policy-file", log, "--audit-log-path", log]).err().unwrap();
        assert!(bad.starts_with("loading audit policy file: "), "{bad}");
    }
}
