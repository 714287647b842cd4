//! `--feature-gates`. Gates are upstream's; what a gate switches is here as it is in a cluster that sets none, but for those
//! that [`switched`] names.

use kybern_apiserver::strategy::Features;

use super::values;

/// A gate a line: name, default, stage, and `locked` where it cannot be set otherwise.
const GATES: &str = include_str!("data/feature.gates");

/// What a component switches by its gates.
fn switched(component: &str) -> &'static [&'static str] {
    match component {
        "kube-apiserver" => &[
            "CoordinatedLeaderElection",
            "DRADeviceTaints",
            "GenericWorkload",
            "MutatingAdmissionPolicy",
            "PodTopologyLabelsAdmission",
        ],
        "kube-controller-manager" => &["CoordinatedLeaderElection", "DRADeviceTaintRules", "DRADeviceTaints"],
        "kube-scheduler" => &["CoordinatedLeaderElection", "DRADeviceTaintRules", "DRADeviceTaints", "GangScheduling"],
        _ => &[],
    }
}

/// What was set, in its order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gates(Vec<(String, bool)>);

impl Gates {
    /// An error in upstream's words for what is no gate.
    pub(crate) fn parse<'a>(flags: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut gates = Vec::new();
        for item in flags.into_iter().flat_map(values::items).filter(|item| !item.is_empty()) {
            // `kube:` names the component whose gate it is.
            let item = item.strip_prefix("kube:").unwrap_or(item);
            let (name, value) = item.split_once('=').ok_or_else(|| format!("missing bool value for {item}"))?;
            let (name, value) = (name.trim(), value.trim());
            let wanted =
                values::parse_bool(value).map_err(|why| format!("invalid value of {name}={value}, err: {why}"))?;
            let Gate { default, locked, .. } =
                gate(name).ok_or_else(|| format!("unrecognized feature gate: {name}"))?;
            if wanted != default && locked {
                return Err(format!("cannot set feature gate {name} to {wanted}, feature is locked to {default}"));
            }
            gates.push((name.to_owned(), wanted));
        }
        Ok(Self(gates))
    }

    /// Whether a gate is open: as it was set, else as all of its stage were, else by default.
    pub(crate) fn enabled(&self, name: &str) -> bool {
        let set = |name: &str| self.0.iter().rev().find(|(known, _)| known == name).map(|(_, on)| *on);
        let Some(Gate { default, stage, .. }) = gate(name) else { return false };
        let all = match stage {
            "ALPHA" => set("AllAlpha"),
            "BETA" => set("AllBeta"),
            _ => None,
        };
        set(name).or(all).unwrap_or(default)
    }

    /// Those of the API server's that are open.
    pub(crate) fn features(&self) -> Features {
        switched("kube-apiserver").iter().copied().filter(|name| self.enabled(name)).collect()
    }

    pub(crate) fn of_scheduler(&self) -> kybern_scheduler::Features {
        kybern_scheduler::Features {
            device_taints: self.enabled("DRADeviceTaints"),
            device_taint_rules: self.enabled("DRADeviceTaintRules"),
            gangs: self.enabled("GangScheduling"),
        }
    }

    pub(crate) fn put_into(&self, controllers: &mut kybern_controller_manager::Config) {
        controllers.device_taints = self.enabled("DRADeviceTaints");
        controllers.device_taint_rules = self.enabled("DRADeviceTaintRules");
    }

    /// Says which settings have no effect.
    pub(super) fn notes(&self, component: &str) -> Vec<String> {
        let switched = switched(component);
        let idle = |(name, wanted): &&(String, bool)| {
            *wanted != gate(name).is_some_and(|gate| gate.default) && !switched.contains(&name.as_str())
        };
        let note = |(name, wanted): &(String, bool)| {
            let default = !wanted;
            format!(
                "--feature-gates: {name}={wanted} has no effect: what the gate switches is as with {name}={default}"
            )
        };
        self.0.iter().filter(idle).map(note).collect()
    }
}

struct Gate {
    default: bool,
    stage: &'static str,
    locked: bool,
}

fn gate(name: &str) -> Option<Gate> {
    let mut words = GATES.lines().map(str::split_whitespace);
    let mut gate = words.find_map(|mut words| (words.next() == Some(name)).then_some(words))?;
    let default = gate.next() == Some("true");
    Some(Gate { default, stage: gate.next().unwrap_or(""), locked: gate.any(|word| word == "locked") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_known_by_name() {
        let check = |text: &str| Gates::parse([text]).map(|gates| gates.notes("kubelet"));
        assert_eq!(check(""), Ok(Vec::new()));
        assert_eq!(check("AllAlpha=false,kube:AllBeta=false"), Ok(Vec::new()));
        let notes = check("AllAlpha=true").unwrap();
        assert!(notes.len() == 1 && notes[0].contains("AllAlpha=true has no effect"), "{notes:?}");
        for (text, expect) in [
            ("Nonsense=true", "unrecognized feature gate: Nonsense"),
            ("AllAlpha", "missing bool value for AllAlpha"),
            ("AllAlpha=x", "invalid value of AllAlpha=x, err: strconv.ParseBool: parsing \"x\": invalid syntax"),
        ] {
            assert_eq!(check(text), Err(expect.to_owned()));
        }
        let locked = GATES.lines().find(|line| line.ends_with("locked")).unwrap();
        let (name, rest) = locked.split_once(' ').unwrap();
        let other = !rest.starts_with("true");
        assert!(check(&format!("{name}={other}")).unwrap_err().contains("feature is locked to"), "{locked}");
    }

    #[test]
    fn components_are_told_which_gates_are_open() {
        let gates = Gates::parse(["AllAlpha=true,GangScheduling=false"]).unwrap();
        let (features, scheduler) = (gates.features(), gates.of_scheduler());
        assert!(features.has("DRADeviceTaints") && features.has("GenericWorkload"));
        assert!(!features.has("DRAPartitionableDevices"), "it switches nothing");
        assert!(scheduler.device_taints && scheduler.device_taint_rules && !scheduler.gangs);
        let mut controllers = kybern_controller_manager::Config::default();
        gates.put_into(&mut controllers);
        assert!(controllers.device_taints && controllers.device_taint_rules);
        Gates::default().put_into(&mut controllers);
        assert!(!controllers.device_taints && Gates::default().of_scheduler() == kybern_scheduler::Features::default());
    }

    #[test]
    fn a_gate_is_as_it_was_set_or_as_its_stage() {
        let name = "MutatingAdmissionPolicy";
        let enabled = |text: &str| Gates::parse([text]).unwrap().enabled(name);
        for (text, expect) in [
            ("", false),
            ("MutatingAdmissionPolicy=true", true),
            ("AllBeta=true", true),
            ("AllAlpha=true", false),
            ("MutatingAdmissionPolicy=false,AllBeta=true", false),
            ("MutatingAdmissionPolicy=true,MutatingAdmissionPolicy=false", false),
        ] {
            assert_eq!(enabled(text), expect, "{text}");
        }
        let notes = |component| Gates::parse(["MutatingAdmissionPolicy=true"]).unwrap().notes(component).len();
        assert_eq!((notes("kube-apiserver"), notes("kube-scheduler")), (0, 1));
    }
}
