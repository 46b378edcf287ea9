//! What netd may do beyond an ordinary process, and who can reach it.

use rnet_netns_harness::{Host, run};

/// A set of /proc/PID/status as a number (proc_pid_status(5)).
fn set(host: &Host, task: &str, name: &str) -> u64 {
    let pid = host.netd_pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/task/{task}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

/// Numbers of linux/capability.h: CHOWN, DAC_OVERRIDE, FOWNER, NET_BIND_SERVICE, NET_ADMIN, NET_RAW, SYS_PTRACE,
/// SYS_ADMIN.
const KEPT: [u32; 8] = [0, 1, 3, 10, 12, 13, 19, 21];

#[test]
fn netd_keeps_the_capabilities_it_needs_and_no_others() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        let most = KEPT.iter().fold(0, |all, n| all | 1_u64 << n);
        let tasks: Vec<_> = std::fs::read_dir(format!("/proc/{}/task", host.netd_pid())).unwrap().collect();
        assert!(tasks.len() > 1, "the engine has a thread of its own");
        for task in tasks {
            let task = task.unwrap().file_name().into_string().unwrap();
            for name in ["CapEff", "CapPrm", "CapInh", "CapBnd"] {
                let held = set(&host, &task, name);
                assert_eq!(held & !most, 0, "{name} of thread {task}: {held:#x}");
            }
            assert_ne!(set(&host, &task, "CapEff") & (1 << 12), 0, "NET_ADMIN is needed");
        }
    });
}

#[test]
fn the_socket_is_a_file_and_no_name_that_every_namespace_sees() {
    run(|world| {
        let host = world.host("h1");
        host.start();
        // An abstract name would be seen by every container that shares the host's network.
        let sockets = host.run("cat /proc/net/unix").ok().out;
        let named: Vec<&str> = sockets.lines().filter_map(|l| l.split_ascii_whitespace().nth(7)).collect();
        assert!(named.iter().any(|n| n.ends_with("/run/netd.sock")), "{sockets}");
        assert!(!named.iter().any(|n| n.starts_with('@')), "{sockets}");
    });
}
