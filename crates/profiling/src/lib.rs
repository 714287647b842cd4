//! Profiles of the running process, as Go programs serve them below `/debug/pprof/`, and in the format of `go tool pprof`.
//!
//! `linux::sampler` copies stacks; here they are unwound (by `.eh_frame`, which a stripped program still has), counted,
//! given names where the program has symbols, and written down with where the program's code lies and its build id, so that
//! whoever has the symbols can name them later.

mod collect;
mod elf;
mod pages;
mod profile;
mod program;

pub use pages::{PREFIX, is_below, serve};
