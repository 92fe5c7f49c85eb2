//! kube-apiserver's flags of audit.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, anyhow, bail};
use clap::{ArgAction, Args};
use knarr_apiserver::{AuditBatch, AuditConfig, AuditDelivery, AuditMode, AuditPolicy, LogFile, duration};

use super::setup::text;
use crate::node;

/// What is recorded of requests, where, and how it comes there.
#[derive(Args, Clone, Debug)]
pub struct AuditOptions {
    /// File with an audit policy; without one nothing is recorded
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// File that audit events are appended to; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// Megabytes from which on that file is set aside; 0: never
    #[arg(long, default_value_t = 100, allow_negative_numbers = true)]
    pub audit_log_maxsize: i64,
    /// How many files that were set aside are kept; 0: all
    #[arg(long, default_value_t = 100, allow_negative_numbers = true)]
    pub audit_log_maxbackup: i64,
    /// How many days files that were set aside are kept; 0: for ever
    #[arg(long, default_value_t = 366, allow_negative_numbers = true)]
    pub audit_log_maxage: i64,
    /// Whether files that are set aside are compressed
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub audit_log_compress: bool,
    /// What a line of the log is: `json`, or `legacy` for a text
    #[arg(long, default_value = "json")]
    pub audit_log_format: String,
    /// Whether requests wait for the log: batch, blocking or blocking-strict
    #[arg(long, default_value = "blocking", value_name = "MODE")]
    pub audit_log_mode: String,
    /// How many events may wait for the log
    #[arg(long, default_value_t = 10_000, allow_negative_numbers = true)]
    pub audit_log_batch_buffer_size: i64,
    /// The most events of one batch
    #[arg(long, default_value_t = 1, allow_negative_numbers = true)]
    pub audit_log_batch_max_size: i64,
    /// How long an event waits for others
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub audit_log_batch_max_wait: Duration,
    /// Whether so many batches a second are the most
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub audit_log_batch_throttle_enable: bool,
    /// The most batches a second in the long run
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub audit_log_batch_throttle_qps: f64,
    /// The most batches at once
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub audit_log_batch_throttle_burst: i64,
    /// Whether events that are too large go without the objects in them
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub audit_log_truncate_enabled: bool,
    /// Bytes of a batch; events come alone, so that only an event's own limit counts
    #[arg(long, default_value_t = 10 << 20, allow_negative_numbers = true)]
    pub audit_log_truncate_max_batch_size: i64,
    /// Bytes from which on an event is too large
    #[arg(long, default_value_t = 100 << 10, allow_negative_numbers = true)]
    pub audit_log_truncate_max_event_size: i64,
    /// The version of events
    #[arg(long, default_value = "audit.k8s.io/v1")]
    pub audit_log_version: String,
    /// Kubeconfig of a service that takes audit events
    #[arg(long, value_name = "FILE")]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// How long the service is left alone after its first failure
    #[arg(long, default_value = "10s", alias = "audit-webhook-batch-initial-backoff", value_parser = duration)]
    pub audit_webhook_initial_backoff: Duration,
    /// Whether requests wait for the service: batch, blocking or blocking-strict
    #[arg(long, default_value = "batch", value_name = "MODE")]
    pub audit_webhook_mode: String,
    /// How many events may wait for the service
    #[arg(long, default_value_t = 10_000, allow_negative_numbers = true)]
    pub audit_webhook_batch_buffer_size: i64,
    /// The most events of one batch
    #[arg(long, default_value_t = 400, allow_negative_numbers = true)]
    pub audit_webhook_batch_max_size: i64,
    /// How long an event waits for others
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub audit_webhook_batch_max_wait: Duration,
    /// Whether so many batches a second are the most
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub audit_webhook_batch_throttle_enable: bool,
    /// The most batches a second in the long run
    #[arg(long, default_value_t = 10.0, allow_negative_numbers = true)]
    pub audit_webhook_batch_throttle_qps: f64,
    /// The most batches at once
    #[arg(long, default_value_t = 15, allow_negative_numbers = true)]
    pub audit_webhook_batch_throttle_burst: i64,
    /// Whether events that are too large go without the objects in them
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub audit_webhook_truncate_enabled: bool,
    /// Bytes of a batch; events come alone, so that only an event's own limit counts
    #[arg(long, default_value_t = 10 << 20, allow_negative_numbers = true)]
    pub audit_webhook_truncate_max_batch_size: i64,
    /// Bytes from which on an event is too large
    #[arg(long, default_value_t = 100 << 10, allow_negative_numbers = true)]
    pub audit_webhook_truncate_max_event_size: i64,
    /// The version of events
    #[arg(long, default_value = "audit.k8s.io/v1")]
    pub audit_webhook_version: String,
}

/// The flags of one backend.
struct Flags<'a> {
    backend: &'static str,
    mode: &'a str,
    buffer: i64,
    max_size: i64,
    max_wait: Duration,
    throttle: Option<(f64, i64)>,
    truncate: bool,
    max_batch_bytes: i64,
    max_event_bytes: i64,
    version: &'a str,
}

fn positive(what: &str, n: i64) -> Result<usize> {
    match usize::try_from(n) {
        Ok(n) if n > 0 => Ok(n),
        _ => bail!("invalid audit {what} {n}, must be a positive number"),
    }
}

impl Flags<'_> {
    fn delivery(&self, initial_backoff: Duration) -> Result<AuditDelivery> {
        let name = self.backend;
        let mode = match self.mode {
            "batch" => AuditMode::Batch,
            "blocking" => AuditMode::Blocking,
            "blocking-strict" => AuditMode::BlockingStrict,
            other => bail!("invalid audit {name} mode {other}, allowed modes are \"batch,blocking,blocking-strict\""),
        };
        let mut batch = AuditBatch { buffer: 1, max_size: 1, max_wait: self.max_wait, throttle: None };
        if mode == AuditMode::Batch {
            batch.buffer = positive(&format!("batch {name} buffer size"), self.buffer)?;
            batch.max_size = positive(&format!("batch {name} max batch size"), self.max_size)?;
            if let Some((rate, most)) = self.throttle {
                if rate <= 0.0 {
                    bail!("invalid audit batch {name} throttle QPS {rate}, must be a positive number");
                }
                let most = positive(&format!("batch {name} throttle burst"), most)?;
                batch.throttle = Some((rate, u32::try_from(most).unwrap_or(u32::MAX)));
            }
        }
        let event = positive(&format!("truncate {name} max event size"), self.max_event_bytes)?;
        if self.max_batch_bytes < self.max_event_bytes {
            bail!("invalid audit truncate {name} max batch size {}, must be greater than max event size ({event})", self.max_batch_bytes);
        }
        if self.version != "audit.k8s.io/v1" {
            bail!("invalid group version, allowed versions are [\"audit.k8s.io/v1\"]");
        }
        Ok(AuditDelivery { mode, batch, max_event_bytes: self.truncate.then_some(event), initial_backoff })
    }
}

fn at_least_nothing(flag: &str, n: i64) -> Result<u64> {
    u64::try_from(n).map_err(|_| anyhow!("--{flag} {n} can't be a negative number"))
}

impl AuditOptions {
    /// The configuration that the flags describe; none without a policy.
    ///
    /// # Errors
    /// Names the flag or the file.
    pub fn config(&self) -> Result<Option<AuditConfig>> {
        let log = self.audit_log_path.as_ref().map(|path| self.log(path.clone())).transpose()?;
        let webhook = match &self.audit_webhook_config_file {
            Some(path) => Some((node::service(path)?, self.flags_of_webhook().delivery(self.audit_webhook_initial_backoff)?)),
            None => None,
        };
        let Some(path) = &self.audit_policy_file else {
            if log.is_some() || webhook.is_some() {
                tracing::warn!("without --audit-policy-file no audit events are recorded");
            }
            return Ok(None);
        };
        let policy = AuditPolicy::parse(&text(path)?).map_err(|why| anyhow!("{}: {why}", path.display()))?;
        Ok(Some(AuditConfig { policy, log, webhook }))
    }

    fn log(&self, path: PathBuf) -> Result<(LogFile, AuditDelivery)> {
        let delivery = self.flags_of_log().delivery(Duration::ZERO)?;
        if !matches!(self.audit_log_format.as_str(), "legacy" | "json") {
            bail!("invalid audit log format {}, allowed formats are \"legacy,json\"", self.audit_log_format);
        }
        let file = LogFile {
            path,
            max_age_days: u32::try_from(at_least_nothing("audit-log-maxage", self.audit_log_maxage)?).unwrap_or(u32::MAX),
            max_backups: usize::try_from(at_least_nothing("audit-log-maxbackup", self.audit_log_maxbackup)?)?,
            max_bytes: at_least_nothing("audit-log-maxsize", self.audit_log_maxsize)?.saturating_mul(1 << 20),
            compress: self.audit_log_compress,
            legacy: self.audit_log_format == "legacy",
        };
        Ok((file, delivery))
    }

    fn flags_of_log(&self) -> Flags<'_> {
        Flags {
            backend: "log",
            mode: &self.audit_log_mode,
            buffer: self.audit_log_batch_buffer_size,
            max_size: self.audit_log_batch_max_size,
            max_wait: self.audit_log_batch_max_wait,
            throttle: self.audit_log_batch_throttle_enable.then_some((self.audit_log_batch_throttle_qps, self.audit_log_batch_throttle_burst)),
            truncate: self.audit_log_truncate_enabled,
            max_batch_bytes: self.audit_log_truncate_max_batch_size,
            max_event_bytes: self.audit_log_truncate_max_event_size,
            version: &self.audit_log_version,
        }
    }

    fn flags_of_webhook(&self) -> Flags<'_> {
        Flags {
            backend: "webhook",
            mode: &self.audit_webhook_mode,
            buffer: self.audit_webhook_batch_buffer_size,
            max_size: self.audit_webhook_batch_max_size,
            max_wait: self.audit_webhook_batch_max_wait,
            throttle: self.audit_webhook_batch_throttle_enable.then_some((self.audit_webhook_batch_throttle_qps, self.audit_webhook_batch_throttle_burst)),
            truncate: self.audit_webhook_truncate_enabled,
            max_batch_bytes: self.audit_webhook_truncate_max_batch_size,
            max_event_bytes: self.audit_webhook_truncate_max_event_size,
            version: &self.audit_webhook_version,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        audit: AuditOptions,
    }

    fn delivery(flags: &[&str]) -> Result<AuditDelivery> {
        let line = Line::try_parse_from([&["x"], flags].concat()).expect("flags");
        line.audit.flags_of_webhook().delivery(Duration::ZERO)
    }

    #[test]
    fn flags_become_a_way_of_delivery() {
        let usual = delivery(&[]).expect("defaults");
        assert_eq!((usual.mode, usual.batch.max_size, usual.batch.throttle, usual.max_event_bytes), (AuditMode::Batch, 400, Some((10.0, 15)), None));
        let line = Line::try_parse_from(["x"]).expect("flags");
        assert_eq!(line.audit.flags_of_log().delivery(Duration::ZERO).expect("defaults").mode, AuditMode::Blocking);
        let other = delivery(&["--audit-webhook-mode=blocking", "--audit-webhook-truncate-enabled", "--audit-webhook-truncate-max-event-size=20"]).expect("flags");
        assert_eq!((other.mode, other.max_event_bytes), (AuditMode::Blocking, Some(20)));
        let why = |flags: &[&str]| delivery(flags).expect_err("refused").to_string();
        assert_eq!(why(&["--audit-webhook-mode=now"]), "invalid audit webhook mode now, allowed modes are \"batch,blocking,blocking-strict\"");
        assert_eq!(why(&["--audit-webhook-batch-buffer-size=-1"]), "invalid audit batch webhook buffer size -1, must be a positive number");
        assert_eq!(why(&["--audit-webhook-batch-throttle-qps=0"]), "invalid audit batch webhook throttle QPS 0, must be a positive number");
        assert_eq!(why(&["--audit-webhook-truncate-max-batch-size=1"]), "invalid audit truncate webhook max batch size 1, must be greater than max event size (102400)");
        // What is not used is not looked at.
        assert!(delivery(&["--audit-webhook-mode=blocking", "--audit-webhook-batch-buffer-size=-1"]).is_ok());
    }
}
