//! What a mutating plugin remembers from the first run of the chain to the second: whom to ask again.

use std::collections::BTreeSet;

use kybern_apimachinery::Value;
use kybern_apiserver::admission::AdmissionRequest;

#[derive(Clone, Default)]
pub(super) struct Memory {
    /// Those that want to be asked again, and have been since the object changed last.
    asked: BTreeSet<String>,
    /// Those that are to be asked again.
    again: BTreeSet<String>,
    /// The object as the last of them left it.
    left: Value,
}

impl Memory {
    /// Of the first run, in the second.
    pub(super) fn recall(request: &AdmissionRequest<'_>, plugin: &'static str, object: Option<&Value>) -> Self {
        let mut memory = request.reinvocation.recall::<Self>(plugin).map(|m| (*m).clone()).unwrap_or_default();
        if request.reinvocation.is_again() && object.is_some_and(|object| *object != memory.left) {
            // Another plugin has changed it meanwhile.
            memory.changed();
        }
        memory
    }

    /// Who was not asked in the first run is not asked in the second.
    pub(super) fn is_wanted(&self, request: &AdmissionRequest<'_>, who: &str) -> bool {
        !request.reinvocation.is_again() || self.again.contains(who)
    }

    /// The object has changed: who was asked before wants to see it.
    pub(super) fn changed(&mut self) {
        self.again.append(&mut self.asked);
    }

    pub(super) fn has_asked(&mut self, who: String) {
        self.asked.insert(who);
    }

    pub(super) fn keep(mut self, request: &AdmissionRequest<'_>, plugin: &'static str, object: Option<&Value>) {
        if !self.asked.is_empty() || !self.again.is_empty() {
            self.left = object.cloned().unwrap_or_default();
            request.reinvocation.remember(plugin, self);
        }
    }
}
