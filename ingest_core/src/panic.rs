//! What a panic does here. It is a bug of ours: while a message is judged it costs that message, while state changes it ends the
//! process, and sources send again what was not committed.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::panic::{catch_unwind, set_hook, take_hook, AssertUnwindSafe};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// EX_SOFTWARE, as the backend ends itself for a fault that nobody foresaw.
pub const EXIT_BROKEN: i32 = 70;

extern "C" {
    /// Ends the process at once: other threads are in the middle of something, and nothing of it may be tidied up.
    fn _exit(status: i32) -> !;
}

thread_local! {
    /// Some while this thread judges a message: what a panic said, for the one who caught it
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `judge`, which changes nothing that lasts. A panic in it is answered, with its place, and not printed: the log has a bound.
pub fn guarded<T>(judge: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let printed = take_hook();
        set_hook(Box::new(move |panic| match SAID.with_borrow_mut(|said| said.as_mut().map(|said| *said = panic.to_string())) {
            Some(()) => (),
            None => printed(panic),
        }));
    });
    SAID.set(Some(String::new()));
    let judged = catch_unwind(AssertUnwindSafe(judge));
    let said = SAID.take().unwrap_or_default();
    judged.map_err(|_| said)
}

/// State under its lock. A panic meanwhile leaves it half changed, which nobody may see.
pub struct Locked<'a, T>(MutexGuard<'a, T>);

pub fn lock<T>(mutex: &Mutex<T>) -> Locked<'_, T> {
    Locked(mutex.lock().unwrap_or_else(PoisonError::into_inner)) // whoever poisons it ends the process first
}

impl<T> Deref for Locked<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for Locked<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("ingest_core: a fault while state was changing; the process ends, sources send again what was not committed");
            // SAFETY: it takes a number and does not return.
            unsafe { _exit(EXIT_BROKEN) }
        }
    }
}

/// A place where the build for tests (feature `sabotage`) panics: with WEBMACS_TEST_SABOTAGE=taking:50 at each 50th passage of `taking`.
/// With `hoarding:50` it keeps 64 KiB instead, for ever, at each 50th passage of `decoding`.
#[cfg(feature = "sabotage")]
pub fn point(name: &str) {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::sync::OnceLock;
    static ASKED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let asked = ASKED.get_or_init(|| {
        let asked = std::env::var("WEBMACS_TEST_SABOTAGE").ok()?;
        asked.split_once(':').map(|(stage, every)| (stage.to_owned(), every.parse().expect("a number")))
    });
    let Some((stage, every)) = asked else { return };
    let hoards = stage == "hoarding" && name == "decoding";
    if (hoards || stage == name) && (PASSED.fetch_add(1, SeqCst) + 1) % every == 0 {
        match hoards {
            true => std::mem::forget(Vec::<u8>::with_capacity(1 << 16)),
            false => panic!("sabotage while {name}"),
        }
    }
}

#[cfg(not(feature = "sabotage"))]
#[inline(always)]
pub fn point(_: &str) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_while_judging_is_answered_with_its_place() {
        let said = guarded(|| -> u8 { panic!("a bug") }).unwrap_err();
        assert!(said.contains("panic.rs") && said.ends_with("a bug"), "{said}");
        assert_eq!(guarded(|| 1), Ok(1));
    }

    /// The test runs itself: only another process can be seen to end.
    #[test]
    fn a_panic_while_state_changes_ends_the_process() {
        const CHILD: &str = "WEBMACS_TEST_PANICS";
        if std::env::var_os(CHILD).is_some() {
            let state = Mutex::new(1);
            let mut state = lock(&state);
            assert!(guarded(|| -> u8 { panic!("judging, under the lock") }).is_err());
            *state += 1;
            panic!("half way");
        }
        let name = "panic::tests::a_panic_while_state_changes_ends_the_process";
        let child = std::process::Command::new(std::env::current_exe().unwrap()).args(["--exact", name]).env(CHILD, "1").output().unwrap();
        assert_eq!(child.status.code(), Some(EXIT_BROKEN), "{}", String::from_utf8_lossy(&child.stderr));
    }
}
