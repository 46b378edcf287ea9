//! The default filter of system calls: everything is allowed but what reaches beyond a container.
//!
//! Each entry names the capability that gives the calls back, if one does. Calls this list does not know are allowed:
//! the kernel checks capabilities as before, and a program for a newer kernel is not broken by an older list. The list
//! follows capabilities(7), syscalls(2) and the reasons in Docker's documentation of its own profile.

use std::collections::BTreeSet;

use nix::errno::Errno;
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSeccompOperator,
    LinuxSyscall, LinuxSyscallBuilder,
};

/// Calls that are refused with EPERM unless the container has the capability; `None`: always.
const REFUSED: [(Option<&str>, &[&str]); 14] = [
    // The mount tree, namespaces, quotas, hosts' names.
    (
        Some("SYS_ADMIN"),
        &[
            "mount",
            "umount",
            "umount2",
            "pivot_root",
            "move_mount",
            "open_tree",
            "fsopen",
            "fsconfig",
            "fsmount",
            "fspick",
            "mount_setattr",
            "setns",
            "unshare",
            "quotactl",
            "quotactl_fd",
            "lookup_dcookie",
            "setdomainname",
            "sethostname",
            "fanotify_init",
        ],
    ),
    // Programs in the kernel and a look at its counters.
    (Some("BPF"), &["bpf"]),
    (Some("PERFMON"), &["perf_event_open"]),
    // Another kernel, modules, swap, accounting, the clock, I/O ports, the log.
    (Some("SYS_BOOT"), &["reboot", "kexec_load", "kexec_file_load"]),
    (Some("SYS_MODULE"), &["init_module", "finit_module", "delete_module", "create_module", "query_module"]),
    (Some("SYS_PACCT"), &["acct"]),
    (Some("SYS_TIME"), &["settimeofday", "stime", "clock_settime", "clock_settime64", "clock_adjtime", "adjtimex"]),
    (Some("SYS_RAWIO"), &["iopl", "ioperm", "pciconfig_read", "pciconfig_write", "pciconfig_iobase"]),
    (Some("DAC_READ_SEARCH"), &["open_by_handle_at"]),
    (Some("SYSLOG"), &["syslog"]),
    (Some("SYS_TTY_CONFIG"), &["vhangup"]),
    (Some("SYS_NICE"), &["set_mempolicy", "mbind", "move_pages", "migrate_pages"]),
    (Some("SYS_PTRACE"), &["kcmp", "process_madvise"]),
    // Keys are not in any namespace; userfaultfd and the rest help exploits more than programs.
    (
        None,
        &[
            "add_key",
            "request_key",
            "keyctl",
            "userfaultfd",
            "swapon",
            "swapoff",
            "nfsservctl",
            "vm86",
            "vm86old",
            "uselib",
            "ustat",
            "sysfs",
            "_sysctl",
            "get_kernel_syms",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
        ],
    ),
];

/// Flags of clone(2) that make a namespace: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
/// (linux/sched.h). NEWTIME is among the bits of the exit signal and clone(2) ignores it.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// The filter for a container with these capabilities.
pub(crate) fn profile(caps: &BTreeSet<&'static str>) -> Result<LinuxSeccomp, OciSpecError> {
    let mut calls = Vec::new();
    for (capability, names) in REFUSED {
        if capability.is_none_or(|c| !caps.contains(c)) {
            calls.push(refuse(names, Errno::EPERM)?);
        }
    }
    if !caps.contains("SYS_ADMIN") {
        calls.push(no_new_namespaces()?);
        // Its flags are in memory, out of a filter's sight. ENOSYS makes C libraries fall back on clone(2).
        calls.push(refuse(&["clone3"], Errno::ENOSYS)?);
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActAllow)
        .architectures(architectures())
        .syscalls(calls)
        .build()
}

fn refuse(names: &[&str], errno: Errno) -> Result<LinuxSyscall, OciSpecError> {
    LinuxSyscallBuilder::default()
        .names(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
        .action(LinuxSeccompAction::ScmpActErrno)
        .errno_ret((errno as i32).unsigned_abs())
        .build()
}

/// Comparisons of the same argument are alternatives: one for each flag, and any that matches refuses. Mask and value
/// are equal in each, so that it does not matter which of `value` and `valueTwo` a runtime takes for the mask.
fn no_new_namespaces() -> Result<LinuxSyscall, OciSpecError> {
    let flags = (0..u64::BITS).map(|bit| 1u64 << bit).filter(|flag| CLONE_NAMESPACES & flag != 0);
    let with_flag = |flag| {
        LinuxSeccompArgBuilder::default()
            .index(0usize)
            .value(flag)
            .value_two(flag)
            .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
            .build()
    };
    LinuxSyscallBuilder::default()
        .names(vec!["clone".to_owned()])
        .action(LinuxSeccompAction::ScmpActErrno)
        .args(flags.map(with_flag).collect::<Result<Vec<_>, _>>()?)
        .build()
}

/// A program of another word size uses another table of calls; libseccomp kills what is in none of those it was given.
fn architectures() -> Vec<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        "aarch64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        _ => vec![Arch::ScmpArchNative],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(caps: &[&'static str]) -> BTreeSet<String> {
        let profile = profile(&caps.iter().copied().collect()).unwrap();
        profile.syscalls().iter().flatten().flat_map(|s| s.names().clone()).collect()
    }

    #[test]
    fn capabilities_give_calls_back() {
        let none = refused(&[]);
        for name in ["mount", "unshare", "clone", "clone3", "bpf", "keyctl", "reboot", "settimeofday", "io_uring_setup"]
        {
            assert!(none.contains(name), "{name}");
        }
        for name in ["execve", "socket", "ptrace", "chroot", "openat"] {
            assert!(!none.contains(name), "{name}");
        }
        let admin = refused(&["SYS_ADMIN"]);
        assert!(!admin.contains("mount") && !admin.contains("clone") && !admin.contains("clone3"));
        assert!(admin.contains("keyctl") && admin.contains("bpf"));
    }

    #[test]
    fn every_kind_of_namespace_has_its_comparison() {
        let clone = no_new_namespaces().unwrap();
        assert_eq!(clone.args().iter().flatten().count(), 7);
        assert!(clone.args().iter().flatten().all(|a| Some(a.value()) == a.value_two()));
    }
}
