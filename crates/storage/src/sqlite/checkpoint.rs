//! Moves what commits left in the write-ahead log into the database, on a thread of its own, so that no commit waits for it.
//!
//! The log starts anew only at a commit that finds nothing in it left to move. Under load there is always something, so once
//! the log is long the writer moves the last few pages itself, right after this thread has moved the rest.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use super::schema;

/// Pages in the log, and pages since the last time, that are worth moving.
const WORTHWHILE: u32 = 2000;
/// Pages from which the writer helps to get the log to its end.
const LONG: u32 = 6000;

/// See the module.
pub(super) struct Checkpointer {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    path: PathBuf,
    asked: Mutex<Asked>,
    wake: Condvar,
    /// Pages in the log after the last commit.
    pages: AtomicU32,
    /// The length of the log from which this thread is woken.
    next: AtomicU32,
    /// Whether the writer is to move what is left.
    almost_done: AtomicBool,
}

#[derive(Default)]
struct Asked {
    move_pages: bool,
    stop: bool,
}

impl Checkpointer {
    pub(super) fn start(path: PathBuf) -> std::io::Result<Self> {
        let state = Arc::new(State {
            path,
            asked: Mutex::default(),
            wake: Condvar::new(),
            pages: 0.into(),
            next: WORTHWHILE.into(),
            almost_done: false.into(),
        });
        let own = state.clone();
        let thread = std::thread::Builder::new().name("store-checkpoint".to_owned()).spawn(move || own.run())?;
        Ok(Self { state, thread: Some(thread) })
    }

    /// Has a connection tell how long the log is, in place of moving pages when it commits.
    pub(super) fn attach(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let state = self.state.clone();
        connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages| {
            state.committed(u32::try_from(pages).unwrap_or(0));
            Ok(())
        }))
    }

    /// To be called between commits: moves what is left where that is little and the log is long.
    pub(super) fn finish(&self, connection: &Connection) {
        if self.state.almost_done.swap(false, Ordering::Relaxed)
            && let Err(error) = move_pages(connection)
        {
            tracing::warn!(%error, "cannot move pages of the log into the database; it is tried again");
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.state.asked.lock().stop = true;
        self.state.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    fn committed(&self, pages: u32) {
        if pages < self.pages.swap(pages, Ordering::Relaxed) {
            // The log began anew.
            self.next.store(WORTHWHILE, Ordering::Relaxed);
        }
        if pages >= self.next.load(Ordering::Relaxed) {
            // Asked for once, until it is done.
            self.next.store(u32::MAX, Ordering::Relaxed);
            self.asked.lock().move_pages = true;
            self.wake.notify_one();
        }
    }

    fn run(&self) {
        let mut connection = None;
        loop {
            {
                let mut asked = self.asked.lock();
                while !asked.move_pages && !asked.stop {
                    self.wake.wait(&mut asked);
                }
                if asked.stop {
                    return;
                }
                asked.move_pages = false;
            }
            if let Err(error) = self.move_all(&mut connection) {
                tracing::warn!(%error, "cannot move pages of the log into the database; it is tried again");
                connection = None;
                self.next.store(self.pages.load(Ordering::Relaxed).saturating_add(WORTHWHILE), Ordering::Relaxed);
            }
        }
    }

    fn move_all(&self, connection: &mut Option<Connection>) -> rusqlite::Result<()> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(schema::open_for_writing(&self.path)?),
        };
        // What was written during the first time is little by the second.
        let _ = move_pages(connection)?;
        let left = move_pages(connection)?;
        let pages = self.pages.load(Ordering::Relaxed);
        self.next.store(pages.saturating_add(WORTHWHILE), Ordering::Relaxed);
        if pages >= LONG && left < WORTHWHILE {
            self.almost_done.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Moves what can be moved without waiting for anybody, and answers how many pages are left.
fn move_pages(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        // -1 where somebody else moves pages.
        let (log, moved): (i64, i64) = (row.get(1)?, row.get(2)?);
        Ok(u32::try_from(log - moved).unwrap_or(0))
    })
}
