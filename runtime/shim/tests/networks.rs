//! Containers on networks, with netd.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::path::Path;

use common::{Bed, has_cgroup, wait_for};

fn address(bed: &Bed, name: &str) -> String {
    let out = bed.ok(&["exec", name, "ip", "-o", "-4", "address", "show", "eth0"]);
    out.split_whitespace().nth(3).unwrap_or_default().to_owned()
}

/// Sandboxes that belong to a container.
fn sandboxes(bed: &Bed) -> String {
    bed.ok(&["attachments", "--json"])
}

#[test]
fn a_bridge_network() {
    let Some(mut bed) = Bed::new("a_bridge_network") else { return };
    bed.start_netd();
    let first = bed.run_container(&["--rm"], &["ip", "-o", "-4", "address", "show", "eth0"]);
    assert!(first.out.contains("172.17.0.2/16"), "{first:?}");
    bed.ok(&["network", "create", "blue", "--subnet", "10.20.0.0/24"]);
    let mac = "02:00:00:00:00:07";
    bed.start_container(
        &["--name", "web", "--net", "blue", "--ip", "10.20.0.7", "--mac-address", mac],
        &["httpd", "-f", "-p", "80", "-h", "/etc"],
    );
    assert_eq!(address(&bed, "web"), "10.20.0.7/24");
    let get = ["wget", "-q", "-O", "-", "http://10.20.0.7/group"];
    wait_for("an answer", || bed.run_container(&["--rm", "--net", "blue"], &get).out.contains("logs:x:50"));
    let hosts = bed.ok(&["exec", "web", "cat", "/etc/hosts"]);
    assert!(hosts.contains("10.20.0.7\t"), "{hosts}");
    let two = bed.run_container(&["--rm", "--net", "bridge,blue"], &["ip", "-o", "-4", "address"]);
    assert!(two.out.contains("172.17.0.") && two.out.contains("10.20.0."), "{two:?}");
    bed.ok(&["rm", "-f", "web"]);
    bed.assert_clean();
    assert_eq!(sandboxes(&bed).trim(), "[]");
    let held = bed.ok(&["network", "allocations"]);
    assert!(held.lines().filter(|l| l.contains("10.20.0.7")).all(|l| l.ends_with("resting")), "{held}");
}

#[test]
fn a_restart_keeps_addresses_and_attachments() {
    let Some(mut bed) = Bed::new("a_restart_keeps_addresses_and_attachments") else { return };
    bed.start_netd();
    bed.start_container(&["--name", "a"], &["sleep", "1000"]);
    bed.start_container(&["--name", "n", "--net", "none"], &["sleep", "1000"]);
    let before = address(&bed, "a");
    bed.ok(&["attach", "br9", "n", "10.9.9.2/24"]);
    bed.ok(&["stop", "-t", "0", "a", "n"]);
    let other = bed.start_container(&["--name", "b"], &["sleep", "1000"]);
    assert_ne!(address(&bed, "b"), before, "{other}");
    bed.ok(&["start", "a", "n"]);
    assert_eq!(address(&bed, "a"), before);
    assert_eq!(address(&bed, "n"), "10.9.9.2/24");
}

#[test]
fn another_containers_network_is_followed() {
    let Some(mut bed) = Bed::new("another_containers_network_is_followed") else { return };
    bed.start_netd();
    bed.start_container(&["--name", "a", "-h", "front"], &["sleep", "1000"]);
    bed.start_container(&["--name", "c", "--net", "container:a"], &["sleep", "1000"]);
    let namespace = |name: &str| bed.ok(&["exec", name, "readlink", "/proc/self/ns/net"]);
    assert_eq!(namespace("a"), namespace("c"));
    assert_eq!(bed.ok(&["exec", "c", "cat", "/proc/sys/kernel/hostname", "/etc/hosts"]).lines().next(), Some("front"));
    // One that joined can be joined.
    let third = bed.run_container(&["--rm", "--net", "container:c"], &["cat", "/proc/sys/kernel/hostname"]);
    assert_eq!((third.code, third.out.trim()), (0, "front"), "{}", third.err);
    bed.ok(&["stop", "-t", "0", "a", "c"]);
    let refused = bed.run(&["start", "c"]);
    assert_eq!(refused.code, 4, "{}", refused.err);
    bed.ok(&["start", "a", "c"]);
    assert_eq!(namespace("a"), namespace("c"));
    assert_eq!(address(&bed, "a"), address(&bed, "c"));
}

#[test]
fn a_failure_leaves_nothing() {
    let Some(mut bed) = Bed::new("a_failure_leaves_nothing") else { return };
    assert_eq!(bed.run_container(&["--name", "x"], &["true"]).code, 125, "netd does not run");
    bed.assert_clean();
    bed.start_netd();
    bed.ok(&["network", "create", "blue", "--subnet", "10.20.0.0/24"]);
    bed.start_container(&["--name", "held", "--net", "blue", "--ip", "10.20.0.7"], &["sleep", "1000"]);
    let namespaces = || std::fs::read_dir(bed.root().join("run/netns")).unwrap().count();
    // The pool of ready ones refills in its own time.
    let full = |count: usize| wait_for("the pool", || namespaces() >= count);
    let failing: [(&[&str], &str, i32); 4] = [
        (&["--net", "none-of-that-name"], "true", 125),
        (&["--net", "blue", "--ip", "10.20.0.7"], "true", 125),
        (&["--net", "bridge,blue", "--ip", "10.99.0.7"], "true", 125),
        (&["--net", "blue"], "no-such-program", 127),
    ];
    for (options, program, expected) in failing {
        let ran = bed.run_container(options, &[program]);
        assert_eq!(ran.code, expected, "{options:?}: {}", ran.err);
        assert_eq!(bed.names(), ["held"], "{options:?}");
        let attachments: serde_json::Value = serde_json::from_str(&sandboxes(&bed)).unwrap();
        assert_eq!(attachments.as_array().unwrap().len(), 1, "{options:?}");
    }
    full(1);
    bed.ok(&["rm", "-f", "held"]);
    bed.assert_clean();
    assert_eq!(sandboxes(&bed).trim(), "[]");
}

#[test]
fn an_end_without_netd_is_made_good() {
    let Some(mut bed) = Bed::new("an_end_without_netd_is_made_good") else { return };
    bed.start_netd();
    bed.ok(&["network", "create", "blue", "--subnet", "10.20.0.0/24"]);
    let kept = bed.start_container(&["--name", "kept", "--net", "blue"], &["sleep", "1000"]);
    let gone = bed.start_container(&["--name", "gone", "--net", "blue", "--rm"], &["sleep", "1000"]);
    let before = address(&bed, "kept");
    bed.stop_netd();
    assert_eq!(bed.run(&["exec", "kept", "true"]).code, 0, "netd is not needed for this");
    bed.ok(&["stop", "-t", "0", "kept", "gone"]);
    assert_eq!(bed.names(), ["kept"]);
    let notes = bed.root().join("lib/releases");
    assert!(notes.join(&kept).exists() && notes.join(&gone).exists());
    assert_eq!(bed.run(&["start", "kept"]).code, 7);
    bed.start_netd();
    bed.ok(&["start", "kept"]);
    assert_eq!(address(&bed, "kept"), before);
    assert!(!notes.join(&kept).exists() && !notes.join(&gone).exists());
    let held = bed.ok(&["network", "allocations"]);
    // Its address rests, as every one that was in use does.
    assert!(held.lines().filter(|l| l.contains(&gone)).all(|l| l.contains("resting")), "{held}");
    let attachments: serde_json::Value = serde_json::from_str(&sandboxes(&bed)).unwrap();
    assert_eq!(attachments.as_array().unwrap().len(), 1);
    assert!(!has_cgroup(&gone));
}

#[test]
fn without_netd_a_namespace_of_its_own() {
    let Some(mut bed) = Bed::new("without_netd_a_namespace_of_its_own") else { return };
    let id = bed.start_container(&["--name", "n", "--net", "none"], &["sleep", "1000"]);
    let file = bed.root().join("run/containers").join(&id).join("netns");
    assert!(file.exists());
    bed.start_netd();
    bed.ok(&["attach", "br9", &format!("netns:{}", file.display()), "10.9.9.2/24"]);
    assert_eq!(address(&bed, "n"), "10.9.9.2/24");
    bed.ok(&["rm", "-f", "n"]);
    assert!(!Path::new(&file).exists());
    bed.assert_clean();
    let host = bed.run_container(&["--rm", "--net", "host"], &["ip", "-o", "link", "show", "br9"]);
    assert!(host.out.contains("br9"), "{host:?}");
}

#[test]
fn names_of_nothing_and_of_what_is_stopped() {
    let Some(mut bed) = Bed::new("names_of_nothing_and_of_what_is_stopped") else { return };
    bed.start_netd();
    bed.start_container(&["--name", "n", "--net", "none"], &["sleep", "1000"]);
    bed.ok(&["attach", "br9", "n", "10.9.9.2/24"]);
    let begun = std::time::Instant::now();
    let unknown = bed.run(&["wait", "nosuch"]);
    assert_eq!(unknown.code, 3, "{}", unknown.err);
    assert!(unknown.err.starts_with("error: there is no container nosuch"), "{}", unknown.err);
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "it does not wait");
    let late = bed.run(&["wait", "--timeout", "0.1", "nosuch"]);
    assert_eq!(late.code, 5, "asked to, it waits: {}", late.err);
    bed.ok(&["stop", "-t", "0", "n"]);
    let stopped = bed.run(&["attach", "br9", "n", "10.9.9.3/24"]);
    assert_eq!(stopped.code, 3, "{}", stopped.err);
    assert!(stopped.err.ends_with("hint: n is stopped: rnet start n\n"), "{}", stopped.err);
}
