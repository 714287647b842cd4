//! Who is asked again when a later plugin has changed the object.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

#[derive(Default)]
struct State {
    again: bool,
    requested: bool,
    values: HashMap<&'static str, Arc<dyn Any + Send + Sync>>,
}

/// Of one request. The chain of mutating plugins runs a second time, once, where a plugin asks for it; plugins that do not
/// want to be asked twice look at [`Reinvocation::is_again`].
#[derive(Default)]
pub struct Reinvocation(Mutex<State>);

impl Reinvocation {
    /// Whether this is the second run.
    pub fn is_again(&self) -> bool {
        self.0.lock().again
    }

    /// Asks for a second run; within it, this changes nothing.
    pub fn request(&self) {
        self.0.lock().requested = true;
    }

    /// What a plugin remembers from one run to the next, by its name.
    pub fn remember<T: Any + Send + Sync>(&self, plugin: &'static str, value: T) {
        self.0.lock().values.insert(plugin, Arc::new(value));
    }

    pub fn recall<T: Any + Send + Sync>(&self, plugin: &'static str) -> Option<Arc<T>> {
        self.0.lock().values.get(plugin)?.clone().downcast().ok()
    }

    /// Begins the second run, if one was asked for and has not been.
    pub(super) fn begin_again(&self) -> bool {
        let mut state = self.0.lock();
        let begins = state.requested && !state.again;
        state.again |= begins;
        begins
    }
}
