//! Room on the stack for what recurses: trees are at most a few hundred levels deep, but callers' stacks are small.

/// What a few levels of any recursion take.
const RED_ZONE: usize = 256 << 10;
const MORE: usize = 2 << 20;

/// Runs it, on a new piece of stack where little is left.
pub(crate) fn with_room<T>(run: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(RED_ZONE, MORE, run)
}
