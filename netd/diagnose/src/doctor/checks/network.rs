//! Networks against the host: MTU, addresses, ports, and those who manage links as well.

use std::net::IpAddr;

use rnet_api::{Finding, Severity};

use crate::doctor::{Facts, Listener, Service, finding};
use crate::explain::Publication;

/// Larger packets than the way out takes are lost where path MTU discovery is.
pub(in crate::doctor) fn mtu(facts: &Facts) -> Vec<Finding> {
    let mut out = Vec::new();
    let of = |name: &str| facts.links.iter().find(|l| l.name == name).map(|l| l.mtu);
    let ways = facts.routes.iter().filter(|r| r.is_default());
    let way = ways.filter_map(|r| Some((of(&r.dev)?, r.dev.as_str()))).min();
    for network in facts.daemon.networks.iter().filter(|n| !n.internal) {
        let own = network.mtu.or_else(|| of(network.bridge.as_deref()?));
        if let (Some((way, dev)), Some(own)) = (way, own)
            && own > way
        {
            let name = &network.name;
            let text = format!(
                "network {name} has MTU {own}, the default route's {dev} {way}: large packets to the outside may be lost"
            );
            out.push(finding(Severity::Warning, text, format!("make the network with --mtu {way}")));
        }
    }
    for e in &facts.daemon.endpoints {
        let Some((bridge, most)) = e.bridge.as_deref().and_then(|b| Some((b, of(b)?))) else { continue };
        if e.mtu > most {
            let text = format!(
                "{} of {} has MTU {}, its bridge {bridge} {most}: larger packets are lost",
                e.ifname, e.container, e.mtu
            );
            out.push(finding(Severity::Warning, text, format!("ip link set {bridge} mtu {}, or attach again", e.mtu)));
        }
    }
    out
}

/// Routes of the host that came after the networks and lead their addresses elsewhere.
pub(in crate::doctor) fn overlap(facts: &Facts) -> Vec<Finding> {
    let mut out = Vec::new();
    for network in &facts.daemon.networks {
        for subnet in &network.subnets {
            let others = facts.routes.iter().filter(|r| {
                !r.is_default()
                    && r.destination.is_ipv4() == subnet.is_ipv4()
                    && r.destination.overlaps(subnet)
                    && network.bridge.as_deref() != Some(r.dev.as_str())
                    // A shorter prefix loses against the network's own route.
                    && r.destination.prefix() >= subnet.prefix()
            });
            out.extend(others.map(|r| {
                let (name, to, dev) = (&network.name, r.destination, &r.dev);
                let text = format!("the host has a route to {to} by {dev} inside {subnet} of network {name}: containers there are not reached");
                finding(Severity::Warning, text, format!("remove it (ip route del {to} dev {dev}), or make the network with another --subnet"))
            }));
        }
    }
    out
}

fn same_address(host: Option<IpAddr>, listener: &Listener) -> bool {
    match host {
        Some(ip) => listener.address == ip || listener.address.is_unspecified(),
        None => true,
    }
}

/// A published port that a program of the host listens at too.
pub(in crate::doctor) fn ports(facts: &Facts) -> Vec<Finding> {
    let twice = |p: &Publication, l: &Listener| {
        l.protocol == p.protocol && l.port == p.port && same_address(p.host, l) && !is_netd(l)
    };
    let found =
        facts.daemon.publications.iter().filter_map(|p| Some((p, facts.listeners.iter().find(|l| twice(p, l))?)));
    found
        .map(|(p, l)| {
            let who = l.process.clone().unwrap_or_else(|| "a program of the host".to_owned());
            let text = format!(
                "port {}/{} is published for {} and {who} listens there too: from outside it is not reached",
                p.port, p.protocol, p.container
            );
            finding(
                Severity::Warning,
                text,
                format!(
                    "stop {who}, or publish another port: rnet unpublish {} {}/{}",
                    p.container, p.port, p.protocol
                ),
            )
        })
        .collect()
}

fn is_netd(listener: &Listener) -> bool {
    listener.process.as_deref().is_some_and(|p| p.starts_with("netd "))
}

/// Those who take links and routes that they did not make for their own.
pub(in crate::doctor) fn managers(facts: &Facts) -> Vec<Finding> {
    let mut out = Vec::new();
    if facts.services.contains(&Service::Networkd) && !facts.networkd_spares_routes {
        out.push(finding(
            Severity::Warning,
            "systemd-networkd runs with ManageForeignRoutes=yes, its default: it removes routes of others when a link comes back",
            "in /etc/systemd/networkd.conf.d/rnet.conf: [Network] ManageForeignRoutes=no, ManageForeignRoutingPolicyRules=no",
        ));
    }
    if facts.services.contains(&Service::NetworkManager) && !facts.nm_spares_devices {
        out.push(finding(
            Severity::Warning,
            "NetworkManager runs and is not told to leave rnet's devices alone",
            "in /etc/NetworkManager/conf.d/rnet.conf: [keyfile] unmanaged-devices=interface-name:rn*",
        ));
    }
    if facts.services.contains(&Service::Dhcpcd) && !facts.dhcpcd_spares_devices {
        out.push(finding(
            Severity::Warning,
            "dhcpcd runs and asks for addresses on every device it sees, rnet's too",
            "in /etc/dhcpcd.conf: denyinterfaces rn*",
        ));
    }
    out
}
