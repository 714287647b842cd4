//! Makes a thread's randomness a function of a seed: hash maps' order, generated names, uids, jitter, tokio's choices.
//!
//! All of these come from the C library's `getrandom` in the end. This module defines a function of that name, which the
//! linker prefers to the C library's: on a thread that called [`seed`] it deals numbers from that seed, on all others it
//! asks the kernel, as the C library's does. Only programs that link `testkit` are concerned, and these are tests.

use std::cell::Cell;
#[cfg(target_feature = "crt-static")]
use std::ffi::{CStr, c_char, c_void};

use crate::sim::random::Random;

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on this thread's randomness follows from `seed`. To be called first on a fresh thread: what the thread drew
/// before stays.
pub fn seed(seed: u64) {
    STATE.set(Some(seed));
}

fn fill(buffer: &mut [u8]) -> isize {
    // Whoever asks for nothing asks whether there is such a function, once in a process: that must not count.
    if buffer.is_empty() {
        return 0;
    }
    match STATE.try_with(Cell::get).ok().flatten() {
        Some(state) => {
            let mut random = Random::new(state);
            for chunk in buffer.chunks_mut(8) {
                chunk.copy_from_slice(&random.next_u64().to_le_bytes()[..chunk.len()]);
            }
            STATE.set(Some(random.next_u64()));
            buffer.len() as isize
        }
        None => match rustix::rand::getrandom(buffer, rustix::rand::GetRandomFlags::empty()) {
            Ok(length) => length as isize,
            Err(_) => -1,
        },
    }
}

/// `getrandom(2)` as the C library declares it; the flags say how to wait for the kernel's pool, which at the time of
/// tests is full.
///
/// # Safety
/// `buffer` points to `length` writable bytes.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller promises it, as everyone who calls the C library's function does.
    fill(unsafe { std::slice::from_raw_parts_mut(buffer, length) })
}

/// In a static program the C library's `dlsym` finds nothing, and the crate `getrandom` would read `/dev/urandom`: this one
/// finds the function above, and nothing else.
///
/// # Safety
/// `name` points to a string that ends with a zero byte.
#[cfg(target_feature = "crt-static")]
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlsym(_handle: *mut c_void, name: *const c_char) -> *mut c_void {
    // SAFETY: the caller promises it.
    let name = unsafe { CStr::from_ptr(name) };
    if name == c"getrandom" { getrandom as *mut c_void } else { std::ptr::null_mut() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(with: Option<u64>) -> (String, Vec<i32>) {
        let thread = std::thread::spawn(move || {
            with.inspect(|s| seed(*s));
            let set: std::collections::HashSet<i32> = (0..50).collect();
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes).unwrap();
            (format!("{bytes:?}"), set.into_iter().collect())
        });
        thread.join().unwrap()
    }

    #[test]
    fn a_seed_decides_and_without_one_nothing_does() {
        assert_eq!(draws(Some(1)), draws(Some(1)));
        assert_ne!(draws(Some(1)), draws(Some(2)));
        assert_ne!(draws(None), draws(None));
    }
}
