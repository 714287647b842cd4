//! `--leader-elect…`, the same for controller manager and scheduler.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use kybern_client::LeaseConfig;

use crate::flags::Gates;
use crate::node_address;
use crate::serving::seconds;
use crate::version;

#[derive(Clone, Debug, Args)]
pub(crate) struct LeaderElectionOptions {
    /// Work only while holding a lease [default: true].
    #[arg(long)]
    leader_elect: Option<bool>,
    /// How long others wait after the last renewal that they saw [default: 15s].
    #[arg(long, value_parser = seconds)]
    leader_elect_lease_duration: Option<Duration>,
    /// How long a leader that cannot renew goes on [default: 10s].
    #[arg(long, value_parser = seconds)]
    leader_elect_renew_deadline: Option<Duration>,
    /// The time between renewals [default: 2s].
    #[arg(long, value_parser = seconds)]
    leader_elect_retry_period: Option<Duration>,
    /// The lease's name [default: the component's].
    #[arg(long)]
    leader_elect_resource_name: Option<String>,
    /// The lease's namespace [default: kube-system].
    #[arg(long)]
    leader_elect_resource_namespace: Option<String>,
    /// Upstream's gates: with CoordinatedLeaderElection=true the API server elects.
    #[arg(long, value_delimiter = ',')]
    feature_gates: Vec<String>,
}

/// The lease that a component holds where nothing else is said.
pub(crate) fn usual(component: &str) -> Result<LeaseConfig> {
    Ok(LeaseConfig::new("kube-system", component, &node_address::process_identity()?))
}

impl LeaderElectionOptions {
    pub(crate) fn gates(&self) -> Result<Gates> {
        Gates::parse(self.feature_gates.iter().map(String::as_str)).map_err(anyhow::Error::msg)
    }

    /// The lease to hold, where a file or nobody says `otherwise`; none where nothing is to be elected.
    pub(crate) fn lease(&self, component: &str, otherwise: Option<LeaseConfig>) -> Result<Option<LeaseConfig>> {
        let lease = match (self.leader_elect, otherwise) {
            (Some(false), _) | (None, None) => None,
            (Some(true), None) => Some(usual(component)?),
            (_, Some(otherwise)) => Some(otherwise),
        };
        let Some(mut lease) = lease else { return Ok(None) };
        let text = |said: &Option<String>| said.clone().filter(|text| !text.is_empty());
        lease.name = text(&self.leader_elect_resource_name).unwrap_or(lease.name);
        lease.namespace = text(&self.leader_elect_resource_namespace).unwrap_or(lease.namespace);
        lease.lease_duration = self.leader_elect_lease_duration.unwrap_or(lease.lease_duration);
        lease.renew_deadline = self.leader_elect_renew_deadline.unwrap_or(lease.renew_deadline);
        lease.retry_period = self.leader_elect_retry_period.unwrap_or(lease.retry_period);
        if self.gates()?.enabled("CoordinatedLeaderElection") {
            // It names an object.
            lease.identity = lease.identity.replace('_', "-");
            lease.coordinated = Some(format!("{}.{}.0", version::KUBERNETES_MAJOR, version::KUBERNETES_MINOR));
        }
        if lease.lease_duration <= lease.renew_deadline {
            bail!("--leader-elect-lease-duration must be greater than --leader-elect-renew-deadline");
        }
        if lease.renew_deadline <= lease.retry_period.mul_f64(1.2) || lease.retry_period.is_zero() {
            bail!(
                "--leader-elect-renew-deadline must be greater than 1.2 times --leader-elect-retry-period, which is not 0"
            );
        }
        if lease.lease_duration < Duration::from_secs(1) {
            bail!("--leader-elect-lease-duration must be at least a second");
        }
        Ok(Some(lease))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: LeaderElectionOptions,
    }

    #[test]
    fn leases() {
        let usual = || usual("kube-scheduler").unwrap();
        let lease =
            |line: &[&str]| Line::parse_from([&["x"], line].concat()).options.lease("kube-scheduler", Some(usual()));
        let said = lease(&[]).unwrap().unwrap();
        assert_eq!((said.namespace.as_str(), said.name.as_str()), ("kube-system", "kube-scheduler"));
        assert_eq!((said.lease_duration, said.renew_deadline), (Duration::from_secs(15), Duration::from_secs(10)));
        assert!(lease(&["--leader-elect=false"]).unwrap().is_none());
        let other = lease(&["--leader-elect-resource-name=x", "--leader-elect-lease-duration=1m"]).unwrap().unwrap();
        assert_eq!((other.name.as_str(), other.lease_duration), ("x", Duration::from_secs(60)));
        assert_eq!(other.coordinated, None);
        let coordinated = lease(&["--feature-gates=CoordinatedLeaderElection=true"]).unwrap().unwrap();
        assert_eq!(coordinated.coordinated.as_deref(), Some("1.35.0"));
        assert!(lease(&["--leader-elect-lease-duration=10s"]).is_err());
        assert!(lease(&["--leader-elect-retry-period=9s"]).is_err());
    }
}
