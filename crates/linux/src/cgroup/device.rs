//! Which devices a group's processes may open or make: a list of rules in v1, a small BPF program in v2.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    All,
    Block,
    Char,
}

/// One allowed device; `None` stands for every number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    pub kind: DeviceKind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

impl DeviceRule {
    /// Every access to every device: what a privileged container has.
    pub const EVERYTHING: DeviceRule =
        DeviceRule { kind: DeviceKind::All, major: None, minor: None, read: true, write: true, mknod: true };

    /// Full access to one character device.
    pub const fn character(major: u32, minor: Option<u32>) -> DeviceRule {
        DeviceRule { kind: DeviceKind::Char, major: Some(major), minor, read: true, write: true, mknod: true }
    }

    /// What every container may do: make nodes, and use the standard devices (as runc has it).
    pub fn standard() -> Vec<DeviceRule> {
        let make = |kind| DeviceRule { kind, major: None, minor: None, read: false, write: false, mknod: true };
        vec![
            make(DeviceKind::Char),
            make(DeviceKind::Block),
            DeviceRule::character(1, Some(3)), // null
            DeviceRule::character(1, Some(5)), // zero
            DeviceRule::character(1, Some(7)), // full
            DeviceRule::character(1, Some(8)), // random
            DeviceRule::character(1, Some(9)), // urandom
            DeviceRule::character(5, Some(0)), // tty
            DeviceRule::character(5, Some(2)), // ptmx
            DeviceRule::character(136, None),  // pts
        ]
    }
}

/// The v1 form, `c 1:3 rwm`.
impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DeviceKind::All => 'a',
            DeviceKind::Block => 'b',
            DeviceKind::Char => 'c',
        };
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        write!(f, "{kind} {}:{} ", number(self.major), number(self.minor))?;
        for (on, letter) in [(self.read, 'r'), (self.write, 'w'), (self.mknod, 'm')] {
            if on {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// One eBPF instruction as the kernel takes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the low four bits, source in the high four.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;
const TYPE_BLOCK: i32 = 1;
const TYPE_CHAR: i32 = 2;

/// The program: r0 answers 1 when some rule covers the whole access asked for. Context (`bpf_cgroup_dev_ctx`):
/// `access_type` (type in the low 16 bits, access in the high ones), `major`, `minor`.
fn filter(rules: &[DeviceRule]) -> Vec<Instruction> {
    let op =
        |code, dst: u8, src: u8, offset, immediate| Instruction { code, registers: dst | src << 4, offset, immediate };
    let load = |dst, offset| op(0x61, dst, 1, offset, 0);
    let mut out = vec![
        load(2, 0),
        op(0xbc, 3, 2, 0, 0),      // w3 = w2
        op(0x54, 2, 0, 0, 0xffff), // w2 &= type
        op(0x74, 3, 0, 0, 16),     // w3 >>= 16: access
        load(4, 4),
        load(5, 8),
    ];
    for rule in rules {
        let mut tests = Vec::new();
        // Jumps when the rule does not apply, over `remaining` instructions; filled in below.
        let jump_if_not = |register, value: u32| op(0x56, register, 0, 0, value as i32);
        match rule.kind {
            DeviceKind::All => {}
            DeviceKind::Block => tests.push(jump_if_not(2, TYPE_BLOCK as u32)),
            DeviceKind::Char => tests.push(jump_if_not(2, TYPE_CHAR as u32)),
        }
        let mut denied = 0;
        for (on, flag) in [(rule.mknod, ACCESS_MKNOD), (rule.read, ACCESS_READ), (rule.write, ACCESS_WRITE)] {
            if !on {
                denied |= flag;
            }
        }
        if denied != 0 {
            tests.push(op(0xbc, 6, 3, 0, 0));
            tests.push(op(0x54, 6, 0, 0, denied));
            tests.push(jump_if_not(6, 0));
        }
        tests.extend(rule.major.map(|major| jump_if_not(4, major)));
        tests.extend(rule.minor.map(|minor| jump_if_not(5, minor)));
        tests.push(op(0xb4, 0, 0, 0, 1)); // w0 = 1
        tests.push(op(0x95, 0, 0, 0, 0)); // exit
        let count = tests.len();
        for (i, test) in tests.iter_mut().enumerate() {
            if test.code == 0x56 {
                test.offset = (count - i - 1) as i16;
            }
        }
        let unconditional = tests.iter().all(|test| test.code != 0x56);
        out.extend(tests);
        if unconditional {
            // The kernel takes no program with instructions that are never reached.
            return out;
        }
    }
    out.push(op(0xb4, 0, 0, 0, 0));
    out.push(op(0x95, 0, 0, 0, 0));
    out
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

#[repr(C, align(8))]
#[derive(Default)]
struct LoadAttributes {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C, align(8))]
struct AttachAttributes {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// Loads the filter and ties it to the v2 group behind `group` (an open directory).
pub(super) fn attach_filter(group: &File, rules: &[DeviceRule]) -> io::Result<()> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot limit the devices of a cgroup (a BPF program): {error}"))
    };
    let program = load(&filter(rules)).map_err(named)?;
    let attach = AttachAttributes {
        target_fd: group.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the attributes outlive the call, and both descriptors are open.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &attach as *const AttachAttributes, size_of::<AttachAttributes>())
    };
    if result < 0 { Err(named(io::Error::last_os_error())) } else { Ok(()) }
}

/// Has the kernel verify the program and keep it for as long as somebody holds it.
fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let load = LoadAttributes {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Default::default()
    };
    // SAFETY: the attributes point to memory that outlives the call, with true lengths; the answer is a new descriptor.
    unsafe {
        let fd =
            libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &load as *const LoadAttributes, size_of::<LoadAttributes>());
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as i32)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would, for the instructions it uses.
    fn run(program: &[Instruction], kind: i32, access: i32, major: u32, minor: u32) -> bool {
        let context = [(kind | access << 16) as u32, major, minor];
        let mut registers = [0u32; 10];
        let mut at = 0;
        loop {
            let i = program[at];
            let (dst, src) = ((i.registers & 15) as usize, (i.registers >> 4) as usize);
            at += 1;
            match i.code {
                0x61 => registers[dst] = context[i.offset as usize / 4],
                0xbc => registers[dst] = registers[src],
                0xb4 => registers[dst] = i.immediate as u32,
                0x54 => registers[dst] &= i.immediate as u32,
                0x74 => registers[dst] >>= i.immediate,
                0x56 if registers[dst] != i.immediate as u32 => at += i.offset as usize,
                0x56 => {}
                0x95 => return registers[0] == 1,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn the_filter_follows_the_rules() {
        let program = filter(&DeviceRule::standard());
        let all = ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE;
        assert!(run(&program, TYPE_CHAR, all, 1, 3), "null");
        assert!(run(&program, TYPE_CHAR, ACCESS_READ, 136, 7), "any pts");
        assert!(run(&program, TYPE_BLOCK, ACCESS_MKNOD, 8, 0), "making a node");
        assert!(!run(&program, TYPE_BLOCK, ACCESS_READ, 8, 0), "a disk");
        assert!(!run(&program, TYPE_CHAR, ACCESS_MKNOD | ACCESS_READ, 1, 1), "mem");
        assert!(!run(&program, TYPE_BLOCK, ACCESS_READ, 1, 3), "a block device with null's numbers");
        assert!(run(&filter(&[DeviceRule::EVERYTHING]), TYPE_BLOCK, all, 8, 0));
        assert!(!run(&filter(&[]), TYPE_CHAR, ACCESS_READ, 1, 3));
    }

    #[test]
    fn the_kernel_takes_the_filters() {
        for rules in [vec![], DeviceRule::standard(), vec![DeviceRule::EVERYTHING, DeviceRule::character(1, Some(3))]] {
            match load(&filter(&rules)) {
                Ok(_) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
                    kybern_testbed::not_run("the_kernel_takes_the_filters", &format!("bpf(2): {error}"));
                }
                Err(error) => panic!("{rules:?}: {error}"),
            }
        }
        assert!(load(&[]).is_err());
    }

    #[test]
    fn v1_text() {
        assert_eq!(DeviceRule::character(1, Some(3)).to_string(), "c 1:3 rwm");
        assert_eq!(DeviceRule::EVERYTHING.to_string(), "a *:* rwm");
        assert_eq!(
            DeviceRule { read: true, write: false, mknod: false, ..DeviceRule::character(136, None) }.to_string(),
            "c 136:* r"
        );
    }
}
