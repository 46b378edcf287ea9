//! The daemon and its files.

use rnet_api::{Finding, Severity};

use crate::doctor::{Facts, finding};

/// netd answers, and nothing of it is degraded.
pub(in crate::doctor) fn state(facts: &Facts) -> Vec<Finding> {
    let daemon = &facts.daemon;
    if let Some(why) = &daemon.unreachable {
        return vec![finding(
            Severity::Error,
            format!("netd is not reached: {why}; networks and containers were not looked at"),
            format!("start it: {}", daemon.start),
        )];
    }
    let degraded = daemon.degraded.iter().map(|what| {
        finding(Severity::Error, format!("netd is degraded: {what}"), "see netd's log: journalctl -u netd")
    });
    let problems = daemon.networks.iter().flat_map(|n| {
        let text = move |p: &String| format!("network {}: {p}", n.name);
        n.problems.iter().map(move |p| finding(Severity::Error, text(p), "see netd's log; netd repairs what it can"))
    });
    let failed = daemon.endpoints.iter().filter_map(|e| {
        let error = e.error.as_ref()?;
        let text = format!("{} of {} is not there: {error}", e.ifname, e.container);
        Some(finding(Severity::Error, text, format!("remove the cause, or give it up: rnet detach {}", e.container)))
    });
    degraded.chain(problems).chain(failed).collect()
}

/// Nobody but root and the group may use the socket; nobody but root may change the rest.
pub(in crate::doctor) fn files(facts: &Facts) -> Vec<Finding> {
    let mut out = Vec::new();
    for file in &facts.files {
        let path = file.path.display();
        if file.owner != 0 {
            let text = format!("{path} belongs to user {}: who owns it can become root by it", file.owner);
            out.push(finding(Severity::Error, text, format!("chown root {path}")));
        }
        let open = file.mode & file.forbidden;
        if open != 0 {
            let text = format!("{path} has mode {:04o}: users who may not can use netd, which runs as root", file.mode);
            out.push(finding(Severity::Error, text, format!("chmod {:04o} {path}", file.mode & !file.forbidden)));
        }
    }
    out
}
