//! What a process is to the network: whether it lives, or stands still, and what its clock says.

use std::sync::Arc;

use kybern_apimachinery::time::Clock;
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Runs,
    /// As after SIGSTOP, or while memory is cleaned up: nothing leaves it, and nothing reaches it. Its timers go on, so that
    /// it has more planned for when it runs again than a process that does nothing at all.
    Stands,
    Dead,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Host {
    life: watch::Receiver<Life>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Host {
    pub(super) fn start(clock: Arc<dyn Clock>) -> (watch::Sender<Life>, Self) {
        let (sender, life) = watch::channel(Life::Runs);
        (sender, Self { life, clock })
    }

    pub(super) fn stands(&self) -> bool {
        *self.life.borrow() == Life::Stands
    }

    /// Ends once it does not stand still.
    pub(super) async fn runs(&self) {
        let _ = self.life.clone().wait_for(|life| *life != Life::Stands).await;
    }

    /// Ends once it is dead.
    pub(super) async fn dies(&self) {
        let _ = self.life.clone().wait_for(|life| *life == Life::Dead).await;
    }
}
