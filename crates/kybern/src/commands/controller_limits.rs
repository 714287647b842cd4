//! How patient kube-controller-manager's controllers are, by upstream's flags.

use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;
use kybern_apimachinery::time::parse_duration;
use kybern_controller_manager::controllers::{horizontal, node_lifecycle};

use super::controller_settings::positive;

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct AutoscalingOptions {
    /// How often an autoscaler is looked at [default: 15s].
    #[arg(long, value_parser = positive)]
    horizontal_pod_autoscaler_sync_period: Option<Duration>,
    /// How long the highest recommendation counts before an autoscaler scales down [default: 5m].
    #[arg(long, value_parser = duration)]
    horizontal_pod_autoscaler_downscale_stabilization: Option<Duration>,
    /// How far usage may be from its target, as a part of it, before an autoscaler does something [default: 0.1].
    #[arg(long, value_parser = zero_or_more)]
    horizontal_pod_autoscaler_tolerance: Option<f64>,
    /// How long after a pod's start its CPU usage counts only while it is ready [default: 5m].
    #[arg(long, value_parser = duration)]
    horizontal_pod_autoscaler_cpu_initialization_period: Option<Duration>,
    /// How long after a pod's start its unreadiness says that it was never ready [default: 30s].
    #[arg(long, value_parser = duration)]
    horizontal_pod_autoscaler_initial_readiness_delay: Option<Duration>,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| format!("{text:?} is not a duration of the form 5m30s"))
}

fn zero_or_more(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| format!("{text:?} is not a number of zero or more"))
}

impl AutoscalingOptions {
    pub(crate) fn settings(&self) -> horizontal::Settings {
        let usual = horizontal::Settings::default();
        let or = |told: Option<Duration>, usual| told.and_then(|d| SignedDuration::try_from(d).ok()).unwrap_or(usual);
        horizontal::Settings {
            sync_period: self.horizontal_pod_autoscaler_sync_period.unwrap_or(usual.sync_period),
            downscale_stabilization: or(
                self.horizontal_pod_autoscaler_downscale_stabilization,
                usual.downscale_stabilization,
            ),
            tolerance: self.horizontal_pod_autoscaler_tolerance.unwrap_or(usual.tolerance),
            cpu_initialization_period: or(
                self.horizontal_pod_autoscaler_cpu_initialization_period,
                usual.cpu_initialization_period,
            ),
            initial_readiness_delay: or(
                self.horizontal_pod_autoscaler_initial_readiness_delay,
                usual.initial_readiness_delay,
            ),
        }
    }
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct NodeOptions {
    /// How long a kubelet may be silent [default: 50s].
    #[arg(long, value_parser = positive)]
    node_monitor_grace_period: Option<Duration>,
    /// How long a kubelet may be silent that has never said how it is [default: 1m].
    #[arg(long, value_parser = positive)]
    node_startup_grace_period: Option<Duration>,
    /// How many nodes of a zone that are not ready begin to lose their pods in a second [default: 0.1].
    #[arg(long, value_parser = zero_or_more)]
    node_eviction_rate: Option<f64>,
    /// The same in an unhealthy zone, if it is large; in one that is not, no node does [default: 0.01].
    #[arg(long, value_parser = zero_or_more)]
    secondary_node_eviction_rate: Option<f64>,
    /// A zone of more nodes than these is large [default: 50].
    #[arg(long)]
    large_cluster_size_threshold: Option<usize>,
    /// The part of a zone's nodes that are not ready from which on it is unhealthy; three at least [default: 0.55].
    #[arg(long, value_parser = zero_or_more)]
    unhealthy_zone_threshold: Option<f64>,
    /// How many finished pods may stay; none is removed if this is 0 or less [default: 12500].
    #[arg(long, allow_hyphen_values = true)]
    terminated_pod_gc_threshold: Option<i32>,
}

impl NodeOptions {
    pub(crate) fn lifecycle(&self) -> node_lifecycle::Settings {
        let usual = node_lifecycle::Settings::default();
        node_lifecycle::Settings {
            grace_period: self.node_monitor_grace_period.unwrap_or(usual.grace_period),
            startup_grace_period: self.node_startup_grace_period.unwrap_or(usual.startup_grace_period),
            eviction_rate: self.node_eviction_rate.unwrap_or(usual.eviction_rate),
            secondary_eviction_rate: self.secondary_node_eviction_rate.unwrap_or(usual.secondary_eviction_rate),
            large_cluster_size_threshold: self
                .large_cluster_size_threshold
                .unwrap_or(usual.large_cluster_size_threshold),
            unhealthy_zone_threshold: self.unhealthy_zone_threshold.unwrap_or(usual.unhealthy_zone_threshold),
        }
    }

    pub(crate) fn terminated_pods_kept(&self) -> usize {
        usize::try_from(self.terminated_pod_gc_threshold.unwrap_or(12_500)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        autoscaling: AutoscalingOptions,
        #[command(flatten)]
        nodes: NodeOptions,
    }

    fn parse(arguments: &[&str]) -> Line {
        Line::parse_from(["x"].iter().chain(arguments))
    }

    #[test]
    fn autoscalers_are_as_told() {
        let of = |arguments: &[&str]| parse(arguments).autoscaling.settings();
        assert_eq!(of(&[]).downscale_stabilization, SignedDuration::from_mins(5));
        let told = of(&[
            "--horizontal-pod-autoscaler-sync-period=1s",
            "--horizontal-pod-autoscaler-downscale-stabilization=0s",
            "--horizontal-pod-autoscaler-tolerance=0.25",
            "--horizontal-pod-autoscaler-cpu-initialization-period=2m",
            "--horizontal-pod-autoscaler-initial-readiness-delay=10s",
        ]);
        assert_eq!((told.sync_period.as_secs(), told.downscale_stabilization.as_secs(), told.tolerance), (1, 0, 0.25));
        assert_eq!((told.cpu_initialization_period.as_secs(), told.initial_readiness_delay.as_secs()), (120, 10));
        for bad in ["sync-period=0s", "tolerance=-1", "tolerance=NaN", "initial-readiness-delay=x"] {
            assert!(Line::try_parse_from(["x", &format!("--horizontal-pod-autoscaler-{bad}")]).is_err(), "{bad}");
        }
    }

    #[test]
    fn nodes_lose_their_pods_as_told() {
        assert_eq!(parse(&[]).nodes.lifecycle(), node_lifecycle::Settings::default());
        assert_eq!(parse(&[]).nodes.terminated_pods_kept(), 12_500);
        let told = parse(&[
            "--node-monitor-grace-period=1m",
            "--node-startup-grace-period=2m",
            "--node-eviction-rate=0",
            "--secondary-node-eviction-rate=2.5",
            "--large-cluster-size-threshold=3",
            "--unhealthy-zone-threshold=0.9",
            "--terminated-pod-gc-threshold=-1",
        ]);
        let expect = node_lifecycle::Settings {
            grace_period: Duration::from_secs(60),
            startup_grace_period: Duration::from_secs(120),
            eviction_rate: 0.0,
            secondary_eviction_rate: 2.5,
            large_cluster_size_threshold: 3,
            unhealthy_zone_threshold: 0.9,
        };
        assert_eq!((told.nodes.lifecycle(), told.nodes.terminated_pods_kept()), (expect, 0));
        for bad in ["node-eviction-rate=-1", "unhealthy-zone-threshold=NaN", "node-monitor-grace-period=0s"] {
            assert!(Line::try_parse_from(["x", &format!("--{bad}")]).is_err(), "{bad}");
        }
    }
}
