//! Where the threads of this process spend their time: at every tick of the processor time that they use, the stack of
//! whoever uses it is copied (`setitimer(2)`, `SIGPROF`).
//!
//! The signal's handler copies and does no more; who called whom is found out elsewhere. A timer is not inherited by
//! children, and a handler ends with `exec`: neither a child nor a container is ever signalled, and what they do with
//! `SIGPROF` themselves is as ever. The handler stays once it is set, since a tick may be on its way when the timer ends.

use std::cell::UnsafeCell;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How much of a stack is copied, from its innermost end.
pub const STACK: usize = 64 << 10;
/// How many ticks may wait to be taken.
const SLOTS: usize = 64;
/// The copy goes by pages, of which the last ones may be missing.
const PAGE: usize = 4096;

const FREE: u8 = 0;
const BUSY: u8 = 1;
const READY: u8 = 2;

/// What a thread was at.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// The instruction, the top of the stack, the frame pointer, and on aarch64 the link register.
    pub pc: u64,
    pub sp: u64,
    pub fp: u64,
    pub lr: u64,
    /// What lies at and above `sp`.
    pub stack: &'a [u8],
}

/// Why there can be no samples.
#[derive(Debug, thiserror::Error)]
pub enum SamplerError {
    #[error("cpu profiling already in use")]
    Busy,
    #[error("there is no memory for samples: {0}")]
    Memory(io::Error),
    #[error("the kernel does not let a process copy its own stack (process_vm_readv): {0}")]
    Copy(io::Error),
    #[error("the kernel gives no profiling timer: {0}")]
    Timer(io::Error),
}

struct Slot {
    state: AtomicU8,
    sample: UnsafeCell<Copied>,
}

struct Copied {
    registers: [u64; 4],
    filled: usize,
    stack: [u8; STACK],
}

// SAFETY: whoever moved the state from FREE to BUSY, or found READY as the only reader, has the sample alone.
unsafe impl Sync for Slot {}

struct Ring {
    slots: [Slot; SLOTS],
    next: AtomicUsize,
    lost: AtomicU64,
    /// Whether ticks are wanted.
    open: AtomicBool,
    process: libc::pid_t,
}

/// Made at the first profile, and kept: a handler may be at work with it at any time.
static RING: OnceLock<&'static Ring> = OnceLock::new();
static IN_USE: AtomicBool = AtomicBool::new(false);

/// Takes samples until it is dropped; a process has one at a time.
pub struct Sampler {
    ring: &'static Ring,
}

impl Sampler {
    /// From now on each `period` of processor time, of all threads together, is a sample.
    pub fn start(period: Duration) -> Result<Self, SamplerError> {
        if IN_USE.swap(true, Ordering::AcqRel) {
            return Err(SamplerError::Busy);
        }
        let ring = match RING.get() {
            Some(ring) => ring,
            None => match Ring::map() {
                Ok(ring) => RING.get_or_init(|| ring),
                Err(error) => {
                    IN_USE.store(false, Ordering::Release);
                    return Err(SamplerError::Memory(error));
                }
            },
        };
        // From here on dropping it gives the place back.
        let sampler = Self { ring };
        let mut word = [0u8; 8];
        let here = [0u8; 8];
        if copy(sampler.ring.process, here.as_ptr() as usize, &mut word) != word.len() {
            return Err(SamplerError::Copy(io::Error::last_os_error()));
        }
        sampler.forget_old();
        handle().map_err(SamplerError::Timer)?;
        sampler.ring.open.store(true, Ordering::Release);
        tick(period).map_err(SamplerError::Timer)?;
        Ok(sampler)
    }

    /// Hands over what was sampled since the last time.
    pub fn take(&mut self, mut each: impl FnMut(Sample<'_>)) {
        for slot in &self.ring.slots {
            if slot.state.load(Ordering::Acquire) != READY {
                continue;
            }
            {
                // SAFETY: no handler touches a slot that is READY, and there is one sampler.
                let copied = unsafe { &*slot.sample.get() };
                let [pc, sp, fp, lr] = copied.registers;
                each(Sample { pc, sp, fp, lr, stack: &copied.stack[..copied.filled] });
            }
            slot.state.store(FREE, Ordering::Release);
        }
    }

    /// How many ticks found no room since the start.
    pub fn lost(&self) -> u64 {
        self.ring.lost.load(Ordering::Relaxed)
    }

    fn forget_old(&self) {
        self.ring.lost.store(0, Ordering::Relaxed);
        for slot in &self.ring.slots {
            // One that is BUSY becomes READY, and is a sample more.
            let _ = slot.state.compare_exchange(READY, FREE, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.ring.open.store(false, Ordering::Release);
        let _ = tick(Duration::ZERO);
        self.ring.give_back();
        IN_USE.store(false, Ordering::Release);
    }
}

impl Ring {
    /// Zeroed pages: they are there once they are written to.
    fn map() -> io::Result<&'static Self> {
        let size = size_of::<Self>().next_multiple_of(PAGE);
        // SAFETY: a new private mapping is nobody else's, aligned to a page, and all zeroes, which is a valid Ring: states
        // are FREE and flags false. It is never unmapped.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let at = libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            if at == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let ring = at.cast::<Self>();
            (*ring).process = libc::getpid();
            Ok(&*ring)
        }
    }

    /// The stacks' pages go back to the kernel; states and registers of a handler that is still at work stay right, as its
    /// slot is left alone.
    fn give_back(&self) {
        for slot in &self.slots {
            if slot.state.compare_exchange(READY, FREE, Ordering::AcqRel, Ordering::Relaxed) == Err(BUSY) {
                continue;
            }
            let stack = slot.sample.get() as usize + std::mem::offset_of!(Copied, stack);
            let (from, to) = (stack.next_multiple_of(PAGE), (stack + STACK) / PAGE * PAGE);
            // SAFETY: whole pages within the bytes of one slot's stack, which then read as zeroes: valid, and not awaited.
            unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_DONTNEED) };
        }
    }

    /// Called by the handler: no locks, no allocation.
    fn record(&self, registers: [u64; 4]) {
        if !self.open.load(Ordering::Acquire) {
            return;
        }
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        for step in 0..SLOTS {
            let slot = &self.slots[first.wrapping_add(step) % SLOTS];
            if slot.state.compare_exchange(FREE, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            // SAFETY: the slot is BUSY by this handler.
            let copied = unsafe { &mut *slot.sample.get() };
            copied.registers = registers;
            copied.filled = copy(self.process, registers[1] as usize, &mut copied.stack);
            slot.state.store(READY, Ordering::Release);
            return;
        }
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
}

/// Copies from an address on, up to where there is no memory. Async-signal-safe; changes `errno`.
fn copy(process: libc::pid_t, from: usize, to: &mut [u8]) -> usize {
    let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    // One piece for each page: a piece is copied as a whole or not at all.
    let mut pieces = [none; STACK / PAGE + 1];
    let (mut at, mut left, mut count) = (from, to.len(), 0);
    while left > 0 && count < pieces.len() {
        let length = (PAGE - at % PAGE).min(left);
        pieces[count] = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: length };
        (at, left, count) = (at.wrapping_add(length), left - length, count + 1);
    }
    let into = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    // SAFETY: the kernel writes at most `to.len()` bytes to `to`, and itself checks what it reads from.
    let copied =
        unsafe { libc::syscall(libc::SYS_process_vm_readv, process, &into, 1usize, pieces.as_ptr(), count, 0usize) };
    usize::try_from(copied).unwrap_or(0)
}

extern "C" fn on_tick(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(ring) = RING.get() else { return };
    // SAFETY: `errno` is this thread's own; with SA_SIGINFO the context is a ucontext_t.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        ring.record(registers(&*context.cast::<libc::ucontext_t>()));
        *errno = before;
    }
}

#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> [u64; 4] {
    let of = |register: libc::c_int| context.uc_mcontext.gregs[register as usize] as u64;
    [of(libc::REG_RIP), of(libc::REG_RSP), of(libc::REG_RBP), 0]
}

#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> [u64; 4] {
    let machine = &context.uc_mcontext;
    [machine.pc, machine.sp, machine.regs[29], machine.regs[30]]
}

fn handle() -> io::Result<()> {
    // SAFETY: an all-zero sigaction is valid, with an empty mask; the handler is async-signal-safe. SA_RESTART: whoever is
    // interrupted does not notice, where the kernel can help it.
    let failed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_tick;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGPROF, &action, std::ptr::null_mut())
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Zero ends the ticks.
fn tick(period: Duration) -> io::Result<()> {
    let tv_usec = libc::suseconds_t::from(period.subsec_micros());
    let interval = libc::timeval { tv_sec: period.as_secs() as libc::time_t, tv_usec };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    // SAFETY: reads the timer, writes nothing.
    let failed = unsafe { libc::setitimer(libc::ITIMER_PROF, &timer, std::ptr::null_mut()) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    /// One test: a process has one sampler.
    #[test]
    fn samples_are_of_this_process_and_of_nobody_else() {
        let mut sampler = Sampler::start(Duration::from_millis(2)).unwrap();
        assert!(matches!(Sampler::start(Duration::from_millis(2)), Err(SamplerError::Busy)));
        // A child uses processor time, is not signalled, and finds the signal as it always was.
        let child =
            "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; exec grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status";
        let child = Command::new("sh").args(["-c", child]).output().unwrap();
        assert!(child.status.success(), "{child:?}");
        for line in String::from_utf8(child.stdout).unwrap().lines() {
            let mask = u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap();
            assert_eq!(mask >> (libc::SIGPROF - 1) & 1, 0, "{line}");
        }
        let here = samples_are_of_this_process_and_of_nobody_else as *const () as u64;
        let (mut taken, mut near, until) = (0, 0, Instant::now() + Duration::from_secs(5));
        while taken < 20 && Instant::now() < until {
            std::hint::black_box((0..200_000u64).sum::<u64>());
            sampler.take(|sample| {
                taken += 1;
                near += u64::from(sample.pc.abs_diff(here) < 1 << 30);
                assert!(sample.stack.len() >= 256, "{}", sample.stack.len());
            });
        }
        assert!(taken >= 20 && near > 0, "{taken} samples, {near} in this program");
        // What nobody takes is counted.
        let until = Instant::now() + Duration::from_secs(10);
        while sampler.lost() == 0 && Instant::now() < until {
            std::hint::black_box((0..200_000u64).sum::<u64>());
        }
        assert!(sampler.lost() > 0);
        drop(sampler);
        let mut again = Sampler::start(Duration::from_secs(3600)).unwrap();
        assert_eq!(again.lost(), 0);
        std::hint::black_box((0..10_000_000u64).sum::<u64>());
        let mut taken = 0;
        again.take(|_| taken += 1);
        assert_eq!(taken, 0, "the first timer goes on");
    }

    #[test]
    fn a_copy_ends_where_memory_does() {
        // SAFETY: two pages of our own, of which the second is then taken away and never touched.
        let at = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let at = libc::mmap(std::ptr::null_mut(), 2 * PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(at, libc::MAP_FAILED);
            assert_eq!(libc::mprotect(at.add(PAGE), PAGE, libc::PROT_NONE), 0);
            at as usize
        };
        let mut to = vec![1u8; STACK];
        // SAFETY: cannot fail.
        let process = unsafe { libc::getpid() };
        assert_eq!(copy(process, at + PAGE - 100, &mut to), 100);
        assert!(to[..100].iter().all(|byte| *byte == 0) && to[100] == 1);
        assert_eq!(copy(process, 8, &mut to), 0);
    }
}
