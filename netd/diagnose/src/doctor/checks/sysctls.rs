//! Settings of the kernel that break networks, or open them.

use rnet_api::{Finding, Severity};
use rnet_kernel::rules::{Hook, Policy};

use super::firewall::forward_drops;
use crate::doctor::{Facts, finding};

/// Networks with a way out need a host that forwards.
pub(in crate::doctor) fn forwarding(facts: &Facts) -> Vec<Finding> {
    let routed =
        |v4: bool| facts.daemon.networks.iter().find(|n| !n.internal && n.subnets.iter().any(|s| s.is_ipv4() == v4));
    let families = [
        (true, "net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        (false, "net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
    ];
    families
        .into_iter()
        .filter(|(_, key, _)| facts.number(key) == Some(0))
        .filter_map(|(v4, _, name)| {
            let network = routed(v4)?;
            let text = format!("{name} is 0: nothing of network {} reaches the outside", network.name);
            Some(finding(
                Severity::Error,
                text,
                format!("sysctl -w {name}=1, and look for what turns it off in /etc/sysctl.d"),
            ))
        })
        .collect()
}

/// With bridge-nf-call-iptables frames inside one bridge pass the FORWARD chains of others.
pub(in crate::doctor) fn bridge_nf(facts: &Facts) -> Vec<Finding> {
    let mut out = Vec::new();
    let lan: Vec<&str> = facts.our_bridges().into_iter().collect();
    if lan.is_empty() {
        return out;
    }
    for (key, family) in
        [("net/bridge/bridge-nf-call-iptables", "IPv4"), ("net/bridge/bridge-nf-call-ip6tables", "IPv6")]
    {
        if !facts.is_on(key) {
            continue;
        }
        let drops = forward_drops(facts, family == "IPv4");
        let Some(chain) = drops.first() else { continue };
        let name = key.replace('/', ".");
        let text = format!(
            "{name} is 1 and {chain} drops: {family} frames between containers on one bridge ({}) pass that chain too",
            lan.join(", ")
        );
        let first = lan.first().copied().unwrap_or_default();
        out.push(finding(
            Severity::Warning,
            text,
            format!("sysctl -w {name}=0, or accept iifname {first} oifname {first} in that chain"),
        ));
    }
    out
}

/// route_localnet lets others reach what listens on 127.0.0.1.
pub(in crate::doctor) fn route_localnet(facts: &Facts) -> Vec<Finding> {
    let ours = facts.our_bridges();
    let on = facts.sysctls.iter().filter_map(|(key, value)| {
        let dev = key.strip_prefix("net/ipv4/conf/")?.strip_suffix("/route_localnet")?;
        (value != "0" && (dev == "all" || ours.contains(dev))).then_some(dev)
    });
    on.map(|dev| {
        let name = format!("net.ipv4.conf.{}.route_localnet", dev.replace('.', "/"));
        let text =
            format!("{name} is on: neighbours on {dev} can reach programs that listen on 127.0.0.1 of the host only");
        finding(Severity::Warning, text, format!("sysctl -w {name}=0; rnet does not need it"))
    })
    .collect()
}

/// A strict reverse path filter drops answers of hosts with two ways out.
pub(in crate::doctor) fn rp_filter(facts: &Facts) -> Vec<Finding> {
    let ways: std::collections::BTreeSet<&str> =
        facts.routes.iter().filter(|r| r.is_default() && r.destination.is_ipv4()).map(|r| r.dev.as_str()).collect();
    if ways.len() < 2 {
        return Vec::new();
    }
    // The larger of both counts (Documentation/networking/ip-sysctl.rst).
    let of = |dev: &str| facts.number(&format!("net/ipv4/conf/{dev}/rp_filter")).unwrap_or(0);
    let strict = ways.iter().filter(|dev| of(dev).max(of("all")) == 1);
    strict
        .map(|dev| {
            let text = format!(
                "rp_filter of {dev} is strict and the host has several default routes: what comes in by {dev} and would be \
                 answered by another device is dropped"
            );
            finding(Severity::Warning, text, format!("sysctl -w net.ipv4.conf.{}.rp_filter=2 and net.ipv4.conf.all.rp_filter=2", dev.replace('.', "/")))
        })
        .collect()
}

/// Router advertisements: not taken on our bridges, still taken on uplinks that need them.
pub(in crate::doctor) fn accept_ra(facts: &Facts) -> Vec<Finding> {
    let forwarding = facts.is_on("net/ipv6/conf/all/forwarding");
    let accepts = |dev: &str| facts.number(&format!("net/ipv6/conf/{dev}/accept_ra")).unwrap_or(0);
    let networks = facts.daemon.networks.iter().filter_map(|n| Some((n, n.bridge.as_deref()?)));
    // 1 counts only while the host does not forward (ip-sysctl.rst).
    let open = networks.filter(|(_, bridge)| accepts(bridge) == 2 || (accepts(bridge) == 1 && !forwarding));
    let mut out: Vec<Finding> = open
        .map(|(network, bridge)| {
            let text = format!(
                "the host takes router advertisements on {bridge}: a container of network {} can become its router",
                network.name
            );
            finding(Severity::Warning, text, format!("sysctl -w net.ipv6.conf.{bridge}.accept_ra=0"))
        })
        .collect();
    let learned = facts.routes.iter().filter(|r| r.is_default() && !r.destination.is_ipv4() && r.protocol == 9);
    out.extend(learned.filter(|r| forwarding && accepts(&r.dev) == 1).map(|r| {
        let text = format!(
            "IPv6 forwarding is on, so {} takes no router advertisements any more: its default route will expire",
            r.dev
        );
        finding(Severity::Warning, text, format!("sysctl -w net.ipv6.conf.{}.accept_ra=2", r.dev.replace('.', "/")))
    }));
    out
}

/// A full table of connections drops new ones.
pub(in crate::doctor) fn conntrack(facts: &Facts) -> Vec<Finding> {
    let count = facts.number("net/netfilter/nf_conntrack_count");
    let max = facts.number("net/netfilter/nf_conntrack_max");
    let Some((count, max)) = count.zip(max).filter(|(_, max)| *max > 0) else { return Vec::new() };
    if count < max / 10 * 8 {
        return Vec::new();
    }
    let severity = if count >= max / 100 * 95 { Severity::Error } else { Severity::Warning };
    let text = format!("{count} of {max} tracked connections are used: new ones are dropped when it is full");
    vec![finding(severity, text, format!("sysctl -w net.netfilter.nf_conntrack_max={}", max.saturating_mul(2)))]
}

/// A full neighbour table makes addresses unreachable at random.
pub(in crate::doctor) fn neighbours(facts: &Facts) -> Vec<Finding> {
    let used = u64::try_from(facts.neighbours.max(facts.daemon.endpoints.len())).unwrap_or(u64::MAX);
    ["ipv4", "ipv6"]
        .into_iter()
        .filter_map(|family| {
            let max = facts.number(&format!("net/{family}/neigh/default/gc_thresh3"))?;
            (used >= max / 10 * 8).then(|| {
                let text = format!(
                    "{used} neighbours of at most {max} ({family} gc_thresh3): packets to further ones are dropped"
                );
                let more = max.saturating_mul(4);
                finding(
                    Severity::Warning,
                    text,
                    format!("sysctl -w net.{family}.neigh.default.gc_thresh3={more}, gc_thresh2={}", more / 2),
                )
            })
        })
        .collect()
}

/// Files: every running container takes some of netd's.
pub(in crate::doctor) fn limits(facts: &Facts) -> Vec<Finding> {
    let mut out = Vec::new();
    let endpoints = u64::try_from(facts.daemon.endpoints.len()).unwrap_or(u64::MAX);
    if let Some(limit) = facts.open_files.filter(|limit| endpoints.saturating_mul(4) > *limit) {
        let text = format!("{endpoints} interfaces and at most {limit} open files: netd may run out of them");
        out.push(finding(Severity::Warning, text, "LimitNOFILE=65536 in netd's unit (systemctl edit netd)"));
    }
    if let Some(instances) = facts.number("fs/inotify/max_user_instances").filter(|n| *n < 128) {
        let text =
            format!("fs.inotify.max_user_instances is {instances}: programs in containers share it and may not start");
        out.push(finding(Severity::Note, text, "sysctl -w fs.inotify.max_user_instances=512"));
    }
    out
}

/// Whether a chain is a forward chain whose policy drops.
pub(super) fn is_dropping(base: &rnet_kernel::rules::Base, hook: Hook) -> bool {
    base.hook == hook && base.policy == Policy::Drop
}
