//! The `RuntimeDefault` profile: what Docker and containerd allow by default.

use super::{Action, Comparison, Condition, Profile, Rule, number};
use crate::capability::{self, Mask};

/// Allowed to everyone.
const ALLOWED: &str = "accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown \
    clock_adjtime clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 \
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 \
    execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 \
    fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate \
    futex futex_requeue futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid geteuid getgid \
    getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit \
    get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday getuid getxattr getxattrat \
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents \
    ioprio_get ioprio_set io_setup io_submit kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown \
    lgetxattr link linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat madvise \
    map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap \
    mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd \
    msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open \
    pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 \
    process_mrelease pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg \
    remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction \
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo \
    sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler \
    sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select \
    semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto setfsgid setfsuid setgid setgroups setitimer setpgid \
    setpriority setregid setresgid setresuid setreuid setrlimit set_robust_list setsid setsockopt set_thread_area \
    set_tid_address setuid setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socketpair \
    splice stat statfs statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create \
    timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill \
    truncate umask uname unlink unlinkat uretprobe utime utimensat utimes vfork vmsplice wait4 waitid write writev \
    arch_prctl modify_ldt process_vm_readv process_vm_writev ptrace";

/// Allowed with a capability.
const WITH_CAPABILITY: [(&str, &str); 12] = [
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules \
         lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname \
         sethostname setns syslog umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module finit_module init_module"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("SYS_RAWIO", "ioperm iopl"),
    ("SYS_TIME", "clock_settime settimeofday"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("SYSLOG", "syslog"),
];

/// `CLONE_NEW*` of namespaces, which only `SYS_ADMIN` may make.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// `personality` values in use: Linux, Linux 2.6 numbers, 32-bit numbers, both, and "ask only".
const PERSONALITIES: [u64; 5] = [0, 0x0002_0000, 8, 0x0002_0008, 0xffff_ffff];

/// The profile for a process that has these capabilities.
pub fn runtime_default(capabilities: Mask) -> Profile {
    let mut rules: Vec<Rule> = Vec::new();
    let mut allow = |name: &str, conditions: Vec<Condition>| {
        // A call that this architecture lacks needs no rule.
        if let Some(syscall) = number(name) {
            rules.push(Rule { syscall, action: Action::Allow, conditions });
        }
    };
    let test = |argument, comparison, value| vec![Condition { argument, comparison, value }];
    for name in ALLOWED.split_whitespace() {
        allow(name, vec![]);
    }
    let has = |name: &str| capability::bit(name).is_some_and(|bit| capabilities & bit != 0);
    for (name, calls) in WITH_CAPABILITY {
        if has(name) {
            for call in calls.split_whitespace() {
                allow(call, vec![]);
            }
        }
    }
    for value in PERSONALITIES {
        allow("personality", test(0, Comparison::Equal, value));
    }
    // Every family but AF_ALG and AF_VSOCK, which reach past the container's namespaces.
    allow("socket", test(0, Comparison::Less, libc::AF_ALG as u64));
    allow("socket", test(0, Comparison::Equal, libc::AF_ALG as u64 + 1));
    allow("socket", test(0, Comparison::Greater, libc::AF_VSOCK as u64));
    if !has("SYS_ADMIN") {
        allow("clone", test(0, Comparison::MaskedEqual(CLONE_NAMESPACES), 0));
        if let Some(syscall) = number("clone3") {
            // Its flags lie in memory that a filter cannot see; ENOSYS makes the C library fall back to clone.
            rules.push(Rule { syscall, action: Action::Errno(libc::ENOSYS as u16), conditions: vec![] });
        }
    }
    Profile { default: Action::Errno(libc::EPERM as u16), rules }
}
