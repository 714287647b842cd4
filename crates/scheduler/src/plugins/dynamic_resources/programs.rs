//! Compiled selectors of devices, kept for the next pod.

use std::collections::HashMap;
use std::sync::Arc;

use kybern_cel::devices::ENV;
use kybern_cel::{CompileError, Program};
use parking_lot::Mutex;

/// In practice there are few: those of the classes.
const KEPT: usize = 100;

#[derive(Default)]
pub(super) struct Programs(Mutex<HashMap<String, Arc<Program>>>);

impl Programs {
    /// An error says why an expression does not compile.
    pub(super) fn get(&self, expression: &str) -> Result<Arc<Program>, String> {
        let mut kept = self.0.lock();
        if let Some(program) = kept.get(expression) {
            return Ok(program.clone());
        }
        let program = ENV.compile(expression).map_err(|error| match error {
            CompileError::Issues(issues) => format!("compilation failed: {issues}"),
            CompileError::Instantiation(message) => format!("program instantiation failed: {message}"),
        })?;
        if kept.len() >= KEPT {
            kept.clear();
        }
        let program = Arc::new(program);
        kept.insert(expression.to_owned(), program.clone());
        Ok(program)
    }
}
