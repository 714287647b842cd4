//! One profile: a thread that takes the samples until the time is over or nobody waits for it any more.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use kybern_linux::sampler::{Sampler, SamplerError};
use tokio::sync::oneshot;

use crate::profile::Seen;
use crate::program::Program;

/// As Go's: a hundred times a second of processor time.
const PERIOD: Duration = Duration::from_millis(10);
/// How often samples are taken out of where they are copied to; there is room for more than come meanwhile.
const TAKEN: Duration = Duration::from_millis(20);
/// The most different stacks; with the deepest that is shown, some 10 MB.
const STACKS: usize = 10_000;

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    #[error("the program cannot be read: {0}")]
    Program(io::Error),
    #[error("no thread could be started for it: {0}")]
    Thread(io::Error),
    #[error("the thread that took it ended early")]
    Ended,
}

/// Looks at the process for as long; dropping the future ends it.
pub(crate) async fn profile(lasts: Duration) -> Result<Vec<u8>, ProfileError> {
    // Held as long as somebody waits.
    let (_waiting, gone) = mpsc::channel::<()>();
    let (tell, told) = oneshot::channel();
    let work = move || {
        let _ = tell.send(run(lasts, &gone));
    };
    std::thread::Builder::new().name("profile".to_owned()).spawn(work).map_err(ProfileError::Thread)?;
    told.await.map_err(|_| ProfileError::Ended)?
}

fn run(lasts: Duration, gone: &Receiver<()>) -> Result<Vec<u8>, ProfileError> {
    let mut sampler = Sampler::start(PERIOD)?;
    let (began, start) = (SystemTime::now(), Instant::now());
    let mut program = Program::running().map_err(ProfileError::Program)?;
    let (mut stacks, mut crowded) = (HashMap::new(), 0);
    while start.elapsed() < lasts {
        match gone.recv_timeout(TAKEN.min(lasts.saturating_sub(start.elapsed()))) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return Err(ProfileError::Ended),
        }
        sampler.take(|sample| crowded += u64::from(!count(&mut stacks, program.unwind(&sample))));
    }
    let lost = sampler.lost() + crowded;
    drop(sampler);
    let seen = Seen { began, lasted: start.elapsed(), period: PERIOD, stacks, lost };
    seen.encode(&program.mappings).map_err(ProfileError::Program)
}

/// False where there are too many already.
fn count(stacks: &mut HashMap<Vec<u64>, u64>, stack: Vec<u64>) -> bool {
    if let Some(times) = stacks.get_mut(&stack) {
        *times += 1;
        return true;
    }
    let room = stacks.len() < STACKS && !stack.is_empty();
    if room {
        stacks.insert(stack, 1);
    }
    room
}
