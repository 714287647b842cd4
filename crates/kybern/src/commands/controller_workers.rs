//! How much kube-controller-manager's controllers do at once, by upstream's flags.

use std::collections::BTreeMap;

use clap::Args;

/// More would be tasks that wait for one another.
const MOST: u64 = 10_000;
/// A slice holds no more (`validation.ValidateEndpointSlice`).
const MOST_ENDPOINTS: u64 = 1000;

fn count(text: &str) -> Result<usize, String> {
    within(text, MOST)
}

fn endpoints(text: &str) -> Result<usize, String> {
    within(text, MOST_ENDPOINTS)
}

fn within(text: &str, most: u64) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number: &u64| (1..=most).contains(number));
    let number = number.and_then(|number| usize::try_from(number).ok());
    number.ok_or_else(|| format!("{text:?} is not a number from 1 to {most}"))
}

macro_rules! workers {
    ($($flag:ident: $controller:literal, $usual:literal;)*) => {
        #[derive(Clone, Debug, Default, Args)]
        pub(crate) struct WorkerOptions {
            $(
                #[arg(
                    long,
                    value_name = "COUNT",
                    value_parser = count,
                    help = concat!("Objects that ", $controller, " works on at once [default: ", $usual, "]")
                )]
                $flag: Option<usize>,
            )*
            /// Endpoints of one EndpointSlice, at most [default: 100].
            #[arg(long, value_name = "COUNT", value_parser = endpoints)]
            max_endpoints_per_slice: Option<usize>,
            /// Addresses of one subset of Endpoints that are mirrored, at most [default: 1000].
            #[arg(long, value_name = "COUNT", value_parser = endpoints)]
            mirroring_max_endpoints_per_subset: Option<usize>,
        }

        impl WorkerOptions {
            fn by_controller(&self) -> BTreeMap<&'static str, usize> {
                [$(($controller, self.$flag)),*].into_iter().filter_map(|(name, count)| Some((name, count?))).collect()
            }
        }
    };
}

workers! {
    concurrent_cron_job_syncs: "cronjob-controller", 5;
    concurrent_daemonset_syncs: "daemonset-controller", 5;
    concurrent_deployment_syncs: "deployment-controller", 5;
    concurrent_endpoint_syncs: "endpoints-controller", 5;
    concurrent_ephemeralvolume_syncs: "ephemeral-volume-controller", 5;
    concurrent_gc_syncs: "garbage-collector-controller", 20;
    concurrent_horizontal_pod_autoscaler_syncs: "horizontal-pod-autoscaler-controller", 5;
    concurrent_job_syncs: "job-controller", 5;
    concurrent_namespace_syncs: "namespace-controller", 10;
    concurrent_rc_syncs: "replicationcontroller-controller", 5;
    concurrent_replicaset_syncs: "replicaset-controller", 5;
    concurrent_resource_quota_syncs: "resourcequota-controller", 5;
    concurrent_service_endpoint_syncs: "endpointslice-controller", 5;
    concurrent_serviceaccount_token_syncs: "serviceaccount-token-controller", 5;
    concurrent_statefulset_syncs: "statefulset-controller", 5;
    concurrent_ttl_after_finished_syncs: "ttl-after-finished-controller", 5;
    concurrent_validating_admission_policy_status_syncs: "validatingadmissionpolicy-status-controller", 5;
    mirroring_concurrent_service_endpoint_syncs: "endpointslice-mirroring-controller", 5;
}

impl WorkerOptions {
    pub(crate) fn put_into(&self, config: &mut kybern_controller_manager::Config) {
        config.workers = self.by_controller();
        config.max_endpoints_per_slice = self.max_endpoints_per_slice.unwrap_or(config.max_endpoints_per_slice);
        config.max_mirrored_per_subset =
            self.mirroring_max_endpoints_per_subset.unwrap_or(config.max_mirrored_per_subset);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use kybern_controller_manager::Config;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        workers: WorkerOptions,
    }

    #[test]
    fn flags_are_those_of_controllers_that_there_are() {
        let line = Line::try_parse_from(["x", "--concurrent-gc-syncs=7", "--max-endpoints-per-slice=1000"]).unwrap();
        let mut config = Config::default();
        line.workers.put_into(&mut config);
        assert_eq!(config.workers, BTreeMap::from([("garbage-collector-controller", 7)]));
        assert_eq!((config.max_endpoints_per_slice, config.max_mirrored_per_subset), (1000, 1000));
        for bad in ["--concurrent-job-syncs=0", "--max-endpoints-per-slice=1001", "--concurrent-rc-syncs=-1"] {
            assert!(Line::try_parse_from(["x", bad]).is_err(), "{bad}");
        }
        // Each flag is of one controller, and none of two.
        let all = <Line as clap::CommandFactory>::command();
        let flags = all.get_arguments().filter_map(|flag| flag.get_long()).filter(|flag| flag.contains("concurrent"));
        let mut controllers = std::collections::BTreeSet::new();
        for flag in flags {
            let line = Line::try_parse_from(["x".to_owned(), format!("--{flag}=9")]).unwrap();
            let named = line.workers.by_controller();
            assert_eq!(named.len(), 1, "{flag}");
            controllers.extend(named.into_keys());
        }
        assert_eq!(controllers.len(), 18);
    }
}
