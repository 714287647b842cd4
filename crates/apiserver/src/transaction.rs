//! What a write commits besides its own object. All of it happens, or nothing does: an address is taken with the Service that
//! has it, and a quota charged with the object that uses it.

use std::any::Any;

use kybern_apimachinery::ApiError;
use kybern_storage::{Guard, Txn, Write};
use parking_lot::Mutex;

use crate::BoxFuture;

/// Why a step did not add what it was to add.
#[derive(Debug)]
pub enum StepError {
    /// Somebody else was quicker: what was claimed has to be chosen again.
    Contended,
    Refused(ApiError),
}

impl From<ApiError> for StepError {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

/// Adds to a transaction when everything else is decided, immediately before it is committed. For what many writes have in
/// common, and only one at a time may change: it is locked in the step and stays so until the commit has ended, for as long
/// as the step lives.
pub trait CommitStep: Send {
    fn run<'a>(&'a mut self, txn: &'a mut Txn) -> BoxFuture<'a, Result<(), StepError>>;
}

#[derive(Default)]
struct Additions {
    txn: Txn,
    steps: Vec<Box<dyn CommitStep>>,
    held: Vec<Box<dyn Any + Send>>,
}

/// See the module. Where a guard fails that was added here, the claims and the validating admission of the write are made
/// again, with a new transaction.
#[derive(Default)]
pub struct Transaction(Mutex<Additions>);

impl Transaction {
    /// What must hold.
    pub fn guard(&self, guard: Guard) {
        self.0.lock().txn.guards.push(guard);
    }

    /// What is written. At most one write of a key.
    pub fn write(&self, write: Write) {
        self.0.lock().txn.writes.push(write);
    }

    pub fn at_commit(&self, step: impl CommitStep + 'static) {
        self.0.lock().steps.push(Box::new(step));
    }

    /// Keeps something until the write has ended and the watch cache has it, or it failed: a lock, a hint that something is
    /// about to be taken.
    pub fn hold(&self, held: impl Any + Send) {
        self.0.lock().held.push(Box::new(held));
    }

    /// How many writes there are besides the object's own.
    pub(crate) fn is_empty(&self) -> bool {
        let additions = self.0.lock();
        additions.txn.guards.is_empty() && additions.txn.writes.is_empty() && additions.steps.is_empty()
    }

    /// The whole transaction, with the object's own guard and write first.
    pub(crate) async fn complete(&self, mut own: Txn) -> Result<Txn, StepError> {
        let mut steps = {
            let mut additions = self.0.lock();
            own.guards.append(&mut additions.txn.guards);
            own.writes.append(&mut additions.txn.writes);
            std::mem::take(&mut additions.steps)
        };
        let mut result = Ok(());
        for step in &mut steps {
            result = step.run(&mut own).await;
            if result.is_err() {
                break;
            }
        }
        // They hold their locks until this is dropped.
        self.0.lock().held.extend(steps.into_iter().map(|step| Box::new(step) as Box<dyn Any + Send>));
        result.map(|()| own)
    }
}
