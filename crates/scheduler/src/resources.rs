//! Amounts of resources, as the scheduler adds and compares them.

use std::collections::BTreeMap;
use std::sync::Arc;

use kybern_api::Quantity as ApiQuantity;
use kybern_apimachinery::quantity::Quantity;

/// What a pod requests, what a node has, or what is taken of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    pub pods: i64,
    /// Huge pages and extended resources, by name.
    pub scalar: Vec<(Arc<str>, i64)>,
}

/// Which of [`Resources`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Cpu,
    Memory,
    EphemeralStorage,
    Scalar(Box<str>),
}

impl Kind {
    pub fn of(name: &str) -> Self {
        match name {
            "cpu" => Self::Cpu,
            "memory" => Self::Memory,
            "ephemeral-storage" => Self::EphemeralStorage,
            other => Self::Scalar(other.into()),
        }
    }
}

/// Processor and memory that a container without requests is scored with: upstream's guess.
pub const DEFAULT_MILLI_CPU: i64 = 100;
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

impl Resources {
    /// Reads a `ResourceList`. A malformed quantity, which the server does not let pass, counts as none.
    pub fn parse(list: Option<&BTreeMap<String, ApiQuantity>>) -> Self {
        let mut found = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            let Ok(quantity) = Quantity::parse(&quantity.0) else { continue };
            match name.as_str() {
                "cpu" => found.milli_cpu = quantity.milli_value(),
                "memory" => found.memory = quantity.value(),
                "ephemeral-storage" => found.ephemeral_storage = quantity.value(),
                "pods" => found.pods = quantity.value(),
                other => found.scalar.push((Arc::from(other), quantity.value())),
            }
        }
        found
    }

    pub fn add(&mut self, other: &Self) {
        self.combine(other, |a, b| a.saturating_add(b));
    }

    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, |a, b| a.saturating_sub(b));
    }

    /// The larger of the two, resource by resource.
    pub fn raise_to(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        self.pods = with(self.pods, other.pods);
        for (name, amount) in &other.scalar {
            match self.scalar.binary_search_by(|(have, _)| have.cmp(name)) {
                Ok(at) => self.scalar[at].1 = with(self.scalar[at].1, *amount),
                Err(at) => self.scalar.insert(at, (name.clone(), with(0, *amount))),
            }
        }
    }

    pub fn amount(&self, kind: &Kind) -> i64 {
        match kind {
            Kind::Cpu => self.milli_cpu,
            Kind::Memory => self.memory,
            Kind::EphemeralStorage => self.ephemeral_storage,
            Kind::Scalar(name) => self.scalar(name),
        }
    }

    pub fn scalar(&self, name: &str) -> i64 {
        self.scalar.binary_search_by(|(have, _)| have.as_ref().cmp(name)).map_or(0, |at| self.scalar[at].1)
    }

    /// Whether nothing but a place for the pod is requested.
    pub fn is_best_effort(&self) -> bool {
        self.milli_cpu == 0
            && self.memory == 0
            && self.ephemeral_storage == 0
            && self.scalar.iter().all(|(_, a)| *a == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic() {
        let list = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), ApiQuantity((*v).to_owned())));
            Resources::parse(Some(&pairs.collect()))
        };
        let mut a = list(&[("cpu", "1500m"), ("memory", "1Gi"), ("example.com/gpu", "2"), ("pods", "110")]);
        assert_eq!((a.milli_cpu, a.memory, a.pods, a.scalar("example.com/gpu")), (1500, 1 << 30, 110, 2));
        let b = list(&[("cpu", "1"), ("hugepages-2Mi", "4Mi"), ("example.com/gpu", "1")]);
        let before = a.clone();
        a.add(&b);
        assert_eq!((a.milli_cpu, a.scalar("hugepages-2Mi"), a.scalar("example.com/gpu")), (2500, 4 << 20, 3));
        a.subtract(&b);
        assert_eq!((a.milli_cpu, a.scalar("hugepages-2Mi"), a.scalar("example.com/gpu")), (before.milli_cpu, 0, 2));
        a.raise_to(&list(&[("cpu", "2"), ("memory", "1")]));
        assert_eq!((a.milli_cpu, a.memory), (2000, 1 << 30));
        assert!(list(&[("pods", "1")]).is_best_effort() && !b.is_best_effort());
    }
}
