//! `kybern explain-scheduling POD`: what the scheduler thought of every node.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use kybern_apimachinery::Value;
use kybern_client::Client;
use kybern_scheduler::explain;

#[derive(Debug, Args)]
pub(crate) struct ExplainScheduling {
    /// The pod's name; it may be gone.
    pod: String,
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Who asks, and of which cluster [default: $KUBECONFIG, or else ~/.kube/config].
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Every decision of the last hour, not only the last one.
    #[arg(long)]
    all: bool,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Table,
    Json,
}

pub(crate) async fn run(options: ExplainScheduling) -> Result<()> {
    let ExplainScheduling { pod, namespace, .. } = &options;
    let kubeconfig = options.kubeconfig.clone().map_or_else(usual_kubeconfig, Ok)?;
    let client =
        Client::from_kubeconfig(&kubeconfig).with_context(|| format!("cannot use {}", kubeconfig.display()))?;
    let answer = client.get_path(format!("{}/{namespace}/{pod}", explain::PREFIX)).await;
    let mut answer =
        answer.context("cannot ask the scheduler; it answers administrators, where it runs in `kybern server`")?;
    let Some(decisions) = answer["decisions"].as_array_mut().filter(|decisions| !decisions.is_empty()) else {
        bail!(
            "the scheduler remembers no decision about pod {pod} of namespace {namespace}: it keeps those of the last hour and of \
             its own run, and none of pods that came a hundred at a time"
        );
    };
    if !options.all {
        let last = decisions.pop();
        *decisions = last.into_iter().collect();
    }
    match options.output {
        Output::Json => println!("{answer:#}"),
        Output::Table => decisions.iter().for_each(|decision| print!("{}", table(decision))),
    }
    Ok(())
}

fn usual_kubeconfig() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let found = set("KUBECONFIG").or_else(|| set("HOME").map(|home| home.join(".kube/config")));
    found.context("there is neither --kubeconfig nor $KUBECONFIG nor $HOME")
}

/// The nodes that fit first, the best of them first.
fn table(decision: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (time, scheduler) = (text(&decision["time"]), text(&decision["scheduler"]));
    let outcome = match decision["node"].as_str() {
        Some(node) => format!("chose {node}"),
        None => format!("found no node: {}", text(&decision["message"])),
    };
    let mut out = format!("{time} {scheduler} {outcome}\n");
    let mut nodes: Vec<&Value> = decision["nodes"].as_array().into_iter().flatten().collect();
    nodes.sort_by_key(|node| (node["fits"] != true, std::cmp::Reverse(node["total"].as_i64())));
    let width = nodes.iter().filter_map(|node| node["name"].as_str()).map(str::len).max().unwrap_or(0).max(4);
    let _ = writeln!(out, "{:<width$}  {:>5}  WHY", "NODE", "SCORE");
    for node in nodes {
        let name = text(&node["name"]);
        if node["fits"] == true {
            let scores = node["scores"].as_array().into_iter().flatten();
            let parts = scores.map(|part| format!("{}={}×{}", text(&part["plugin"]), part["score"], part["weight"]));
            let why = parts.collect::<Vec<_>>().join(" ");
            let why = if why.is_empty() { "it is the only one that fits".to_owned() } else { why };
            let _ = writeln!(out, "{name:<width$}  {:>5}  {why}", node["total"].as_i64().unwrap_or(0));
        } else {
            let reasons = node["reasons"].as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", ");
            let _ = writeln!(out, "{name:<width$}  {:>5}  {}: {reasons}", "-", text(&node["plugin"]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn tables() {
        let scores = json!([{"plugin": "NodeResourcesFit", "score": 40, "weight": 1}, {"plugin": "NodeAffinity", "score": 50, "weight": 2}]);
        let decision = json!({"time": "2026-01-01T00:00:00Z", "scheduler": "default-scheduler", "node": "b", "nodes": [
            {"name": "full", "fits": false, "plugin": "NodeResourcesFit", "reasons": ["Insufficient cpu", "Too many pods"]},
            {"name": "a", "fits": true, "scores": [], "total": 0},
            {"name": "b", "fits": true, "scores": scores, "total": 140},
        ]});
        let expect = "\
2026-01-01T00:00:00Z default-scheduler chose b
NODE  SCORE  WHY
b       140  NodeResourcesFit=40×1 NodeAffinity=50×2
a         0  it is the only one that fits
full      -  NodeResourcesFit: Insufficient cpu, Too many pods
";
        assert_eq!(table(&decision), expect);
        let decision = json!({"time": "t", "scheduler": "s", "message": "no nodes available", "nodes": []});
        assert_eq!(table(&decision), "t s found no node: no nodes available\nNODE  SCORE  WHY\n");
    }
}
