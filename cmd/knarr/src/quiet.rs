//! Memory is given back when work is over.
//!
//! A burst of work leaves free pages in the heap, and maps code that is not run again for long. Both
//! are given back once the workers are quiet. What tells is how often a worker of the async runtime
//! is woken, so that nothing is looked at while nothing happens.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tokio::sync::Notify;

/// Wakeups since memory was given back last.
static WAKEUPS: AtomicU32 = AtomicU32::new(0);
static WORKED: Notify = Notify::const_new();

/// So many wakeups are work: an idle node has a few each second.
const WORK: u32 = 256;
/// How long it must be quiet.
const PAUSE: Duration = Duration::from_secs(2);
/// Fewer wakeups than this in a pause are quiet.
const QUIET: u32 = 64;

/// Called when a worker is woken.
pub fn woken() {
    // Exactly one of the wakeups tells.
    if WAKEUPS.fetch_add(1, Ordering::Relaxed) == WORK {
        WORKED.notify_one();
    }
}

/// Gives memory back whenever work is over, for ever; the start is work, too.
pub async fn give_back() {
    loop {
        loop {
            let before = WAKEUPS.load(Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
            if WAKEUPS.load(Ordering::Relaxed).wrapping_sub(before) < QUIET {
                break;
            }
        }
        // Locks one part of the heap after the other, for up to some milliseconds.
        let given = tokio::task::spawn_blocking(|| {
            knarr_sys::memory::trim_heap();
            knarr_sys::memory::release_code();
        });
        let _ = given.await;
        WAKEUPS.store(0, Ordering::Relaxed);
        WORKED.notified().await;
    }
}
