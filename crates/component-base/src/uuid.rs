//! Random UUIDs (RFC 9562, version 4): of objects, requests and tokens.

use std::cell::RefCell;

/// Random bytes that a thread asks the kernel for at once: a call for each request would be a good part of a small one.
const POOL: usize = 32 * 16;

thread_local! {
    /// What is left of them, at the end.
    static POOLED: RefCell<([u8; POOL], usize)> = const { RefCell::new(([0; POOL], POOL)) };
}

/// A few random bytes. Ends the program where the kernel gives none.
pub fn random<const N: usize>() -> [u8; N] {
    POOLED.with_borrow_mut(|(pool, used)| {
        if POOL - *used < N {
            getrandom::fill(pool).unwrap_or_else(|error| panic!("the kernel gives no random numbers: {error}"));
            *used = 0;
        }
        let mut bytes = [0u8; N];
        // Taken out: nobody finds them there again.
        bytes.swap_with_slice(&mut pool[*used..*used + N]);
        *used += N;
        bytes
    })
}

/// A new one.
pub fn v4() -> String {
    let mut bytes = random::<16>();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.extend([byte >> 4, byte & 15].map(|digit| char::from(DIGITS[usize::from(digit)])));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::v4;

    #[test]
    fn they_are_of_version_4() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..100 {
            let uuid = v4();
            assert!(seen.insert(uuid.clone()), "{uuid} twice");
            let at = |i: usize| uuid.as_bytes()[i];
            assert_eq!((uuid.len(), [8, 13, 18, 23].map(at), at(14)), (36, *b"----", b'4'));
            assert!(b"89ab".contains(&at(19)), "{uuid}");
        }
    }
}
