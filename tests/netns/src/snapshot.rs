//! What a host's network looks like, as text that can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use rnet_kernel::Netns;

use crate::run_in;

/// Links, addresses, routes, rules, packet filter, forwarding and named namespaces of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    parts: BTreeMap<&'static str, BTreeSet<String>>,
}

/// Words of `ip -o link` that follow traffic or neighbours, not anybody's wish.
const PASSING: [&str; 4] = ["LOWER_UP", "NO-CARRIER", "M-DOWN", "PROMISC"];

impl Snapshot {
    /// Of a namespace, and of the files netd keeps for namespaces below `root`.
    pub fn of(netns: &Netns, root: &Path) -> Self {
        let ip = |words: &str| run_in(netns, Command::new("ip").args(words.split_whitespace())).ok().out;
        let lines = |text: String| text.lines().map(|l| l.trim().to_owned()).collect::<BTreeSet<_>>();
        let mut parts = BTreeMap::new();
        parts.insert("link", ip("-o link").lines().map(settled).collect());
        let addresses = ip("-o address");
        parts.insert("address", addresses.lines().map(|l| l.replace(" tentative", "")).collect());
        // linkdown follows the carrier, and so does the kernel's own route to all multicast groups.
        let routes = ["-4 route show table all", "-6 route show table all"].map(|w| ip(w).replace(" linkdown", ""));
        let lasting = routes
            .concat()
            .lines()
            .filter(|l| !l.starts_with("multicast ff00::/8 "))
            .map(str::trim)
            .map(str::to_owned)
            .collect();
        parts.insert("route", lasting);
        parts.insert("rule", lines(ip("-4 rule") + &ip("-6 rule")));
        parts.insert("nft", nft(netns));
        parts.insert("sysctl", sysctls(netns));
        parts.insert("netns", files(&root.join("run/netns")));
        Snapshot { parts }
    }

    /// What differs, a line each: `-` was only in this one, `+` only in the other.
    pub fn differences(&self, other: &Snapshot) -> Vec<String> {
        let mut out = Vec::new();
        for (part, before) in &self.parts {
            let after = &other.parts[part];
            out.extend(before.difference(after).map(|l| format!("- {part}: {l}")));
            out.extend(after.difference(before).map(|l| format!("+ {part}: {l}")));
        }
        out
    }

    /// Asserts that nothing differs.
    ///
    /// # Panics
    /// With what differs.
    #[track_caller]
    pub fn same(&self, other: &Snapshot, when: &str) {
        let found = self.differences(other);
        assert!(found.is_empty(), "{when}:\n{}", found.join("\n"));
    }

    /// Without the forwarding switches, which a network turns on for good, and the anycast addresses of a router.
    #[must_use]
    pub fn but_forwarding(mut self) -> Self {
        self.parts.insert("sysctl", BTreeSet::new());
        if let Some(routes) = self.parts.get_mut("route") {
            routes.retain(|line| !line.starts_with("anycast "));
        }
        self
    }
}

/// A line of `ip -o link` without what comes and goes by itself.
fn settled(line: &str) -> String {
    let (flags, rest) = match (line.find('<'), line.find('>')) {
        (Some(from), Some(to)) => (&line[from + 1..to], &line[to + 1..]),
        _ => return line.to_owned(),
    };
    let flags: Vec<&str> = flags.split(',').filter(|f| !PASSING.contains(f)).collect();
    let mut words = rest.split_whitespace().peekable();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if word == "state" {
            words.next();
        } else {
            kept.push(word);
        }
    }
    let head = &line[..line.find('<').unwrap_or(0)];
    format!("{head}<{}> {}", flags.join(","), kept.join(" "))
}

/// The ruleset, each line with the table and chain it is in.
fn nft(netns: &Netns) -> BTreeSet<String> {
    let text = run_in(netns, Command::new("nft").args(["-s", "list", "ruleset"])).ok().out;
    let mut path: Vec<String> = Vec::new();
    let mut out = BTreeSet::new();
    // nft(8) names the owner of a table behind its name.
    let bare = |line: &str| line.split(" # progname").next().unwrap_or_default().trim().to_owned();
    for line in text.lines().map(bare).filter(|l| !l.is_empty() && !l.starts_with("flags owner")) {
        if line == "}" {
            path.pop();
            continue;
        }
        out.insert(format!("{} {line}", path.join(" ")));
        if let Some(name) = line.strip_suffix(" {") {
            path.push(name.to_owned());
        }
    }
    out
}

fn sysctls(netns: &Netns) -> BTreeSet<String> {
    // /proc/sys/net shows the namespace of the thread that opens it (net/sysctl_net.c).
    let read = |key: &str| {
        let path = format!("/proc/sys/net/{key}");
        let value = netns.run(|| std::fs::read_to_string(path)).expect("root may enter a namespace");
        format!("{key} = {}", value.unwrap_or_default().trim())
    };
    ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/all/route_localnet", "ipv4/conf/all/rp_filter"]
        .map(read)
        .into()
}

fn files(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut out: BTreeSet<String> = entries.map(|e| e.path().display().to_string()).collect();
    let mounts = std::fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default();
    let dir = dir.display().to_string();
    out.extend(mounts.lines().filter(|l| l.contains(&dir)).map(str::to_owned));
    out
}
