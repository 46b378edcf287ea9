//! Published ports as values: who holds which port of the host, and what the packet filter is told about it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use rnet_kernel::{FilterChange, Opened, Published, Redirected};
use rnet_model::{Engine as ContainerEngine, GatewayMode, PortSpec, Protocol, PublishedPort};
use serde::{Deserialize, Serialize};

/// Engine and full id of a container.
pub(super) type Owner = (ContainerEngine, String);

/// Ports that are chosen when none is asked for: nearly the dynamic ones of RFC 6335 section 6, as Docker has them.
pub(super) const CHOSEN: std::ops::RangeInclusive<u16> = 49153..=65535;

/// A published port or range as it is written to the run log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PortRecord {
    pub(super) engine: ContainerEngine,
    pub(super) container_id: String,
    pub(super) container: String,
    pub(super) spec: PortSpec,
    pub(super) port: PublishedPort,
}

/// Key of a published port in the run log.
pub(super) fn port_key(owner: &Owner, spec: &PortSpec) -> String {
    format!("port/{}:{}/{spec}", owner.0, owner.1)
}

/// Where the published ports of a container lead: at most one address per family, and how its network is joined to the
/// outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Targets {
    pub(super) v4: Option<(Ipv4Addr, GatewayMode)>,
    pub(super) v6: Option<(Ipv6Addr, GatewayMode)>,
}

impl Targets {
    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpAddr, GatewayMode)> {
        let v4 = self.v4.map(|(ip, mode)| (IpAddr::V4(ip), mode));
        v4.into_iter().chain(self.v6.map(|(ip, mode)| (IpAddr::V6(ip), mode)))
    }

    /// Those that ports of the host lead to.
    pub(super) fn behind_nat(&self) -> impl Iterator<Item = IpAddr> {
        self.iter().filter(|(_, mode)| *mode == GatewayMode::Nat).map(|(ip, _)| ip)
    }

    /// Where a connection to this loopback address goes: to the container's address of the same family, or the other.
    pub(super) fn for_loopback(&self, loopback: IpAddr) -> Option<IpAddr> {
        let same = |ip: &IpAddr| ip.is_ipv4() == loopback.is_ipv4();
        self.behind_nat().find(same).or_else(|| self.behind_nat().next())
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }
}

/// One publication of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) spec: PortSpec,
    pub(super) port: PublishedPort,
    /// Whether the ports of the host are held for it: not while its network is routed, which needs none.
    pub(super) held: bool,
}

/// The publications of one container, all of which lead to the same addresses.
#[derive(Debug, Clone)]
pub(super) struct ContainerPorts {
    pub(super) owner: Arc<Owner>,
    pub(super) container: String,
    pub(super) entries: Vec<Entry>,
    pub(super) targets: Targets,
}

/// A held port.
#[derive(Debug, Clone)]
struct Held {
    host: Option<IpAddr>,
    owner: Arc<Owner>,
}

/// All publications, by container and by port.
#[derive(Debug, Default)]
pub(super) struct Ports {
    pub(super) containers: BTreeMap<Owner, ContainerPorts>,
    by_port: HashMap<(Protocol, u16), Vec<Held>>,
    /// The last port that was chosen.
    last: HashMap<Protocol, u16>,
    /// Containers whose endpoints have changed.
    pub(super) touched: BTreeSet<Owner>,
}

/// Ports of the proxy for loopback; absent where the host has no such address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct ProxyPorts {
    pub(super) v4: Option<u16>,
    pub(super) v6: Option<u16>,
}

impl ProxyPorts {
    fn of(self, address: IpAddr) -> Option<u16> {
        if address.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// Whether the same port on two addresses is one port: a wildcard holds it on every address of its families.
fn overlap(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return true };
    a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
}

/// The loopback addresses a publication is served on.
pub(super) fn loopbacks(host: Option<IpAddr>) -> Vec<IpAddr> {
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    match host {
        None => vec![v4, v6],
        Some(ip) if ip.is_unspecified() => vec![if ip.is_ipv4() { v4 } else { v6 }],
        Some(ip) if ip.is_loopback() => vec![ip],
        Some(_) => Vec::new(),
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// What the packet filter is told about one publication.
pub(super) fn elements(entry: &Entry, targets: &Targets, proxy: ProxyPorts) -> Vec<FilterChange> {
    let PublishedPort { host, protocol, .. } = entry.port;
    let mut out = Vec::new();
    for (port, inside) in entry.port.pairs() {
        for (ip, mode) in targets.iter() {
            let target = SocketAddr::new(ip, inside);
            let on = host.unwrap_or_else(|| unspecified(ip));
            match mode {
                GatewayMode::Routed => out.push(FilterChange::Opened(Opened { protocol, target })),
                GatewayMode::Nat if !entry.held || on.is_loopback() || on.is_ipv4() != ip.is_ipv4() => {}
                GatewayMode::Nat => out.push(FilterChange::Published(Published { protocol, host: on, port, target })),
            }
        }
        // UDP has sockets of its own there, and SCTP is not served.
        if protocol != Protocol::Tcp || !entry.held || targets.behind_nat().next().is_none() {
            continue;
        }
        for host in loopbacks(host) {
            if let Some(proxy) = proxy.of(host) {
                out.push(FilterChange::Redirected(Redirected { protocol, host, port, proxy }));
            }
        }
    }
    out
}

impl ContainerPorts {
    /// Addresses under which it can reach its own published ports.
    pub(super) fn itself(&self) -> impl Iterator<Item = IpAddr> {
        let published = self.entries.iter().any(|e| e.held);
        self.targets.behind_nat().filter(move |_| published)
    }

    /// What the packet filter is told about all of them.
    pub(super) fn elements(&self, proxy: ProxyPorts) -> impl Iterator<Item = FilterChange> {
        let ports = self.entries.iter().flat_map(move |entry| elements(entry, &self.targets, proxy));
        ports.chain(self.itself().map(FilterChange::Itself))
    }
}

impl Ports {
    /// Notes that an endpoint of a container has changed.
    pub(super) fn touch(&mut self, engine: ContainerEngine, id: &str) {
        if !self.containers.is_empty() {
            let owner = (engine, id.to_owned());
            if self.containers.contains_key(&owner) {
                self.touched.insert(owner);
            }
        }
    }

    /// Who holds a port on an address, if somebody does.
    pub(super) fn holder(&self, protocol: Protocol, host: Option<IpAddr>, port: u16) -> Option<&Owner> {
        let held = self.by_port.get(&(protocol, port))?;
        held.iter().find(|h| overlap(h.host, host)).map(|h| &*h.owner)
    }

    /// Holds the ports of a publication. The caller has looked that they are free.
    pub(super) fn hold(&mut self, owner: &Arc<Owner>, port: PublishedPort) {
        for number in port.host_ports().ports() {
            let held = Held { host: port.host, owner: owner.clone() };
            self.by_port.entry((port.protocol, number)).or_default().push(held);
        }
    }

    /// Lets go of the ports of a publication.
    pub(super) fn release(&mut self, owner: &Owner, port: PublishedPort) {
        for number in port.host_ports().ports() {
            let key = (port.protocol, number);
            let Some(held) = self.by_port.get_mut(&key) else { continue };
            held.retain(|h| h.host != port.host || *h.owner != *owner);
            if held.is_empty() {
                self.by_port.remove(&key);
            }
        }
    }

    /// The first run of `count` ports of a range for which `free` says yes, from after the last one that was chosen and
    /// around. `free` is asked only about ports that no container holds.
    pub(super) fn choose(
        &mut self,
        protocol: Protocol,
        host: Option<IpAddr>,
        count: u16,
        mut free: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        let (first, last) = CHOSEN.into_inner();
        let after = self.last.get(&protocol).map_or(first, |port| port.checked_add(1).unwrap_or(first));
        let begin = if after > last - (count - 1).min(last - first) { first } else { after };
        // Once around, and over the beginning again for a run that the begin has cut.
        let mut candidates = (begin..=last).chain(std::iter::once(0)).chain(first..=last);
        let mut run = 0;
        let found = candidates.find(|port| {
            let usable = *port != 0 && self.holder(protocol, host, *port).is_none() && free(*port);
            run = if usable { run + 1 } else { 0 };
            run == count
        })?;
        self.last.insert(protocol, found);
        Some(found - (count - 1))
    }

    /// Everything the packet filter is told.
    pub(super) fn elements(&self, proxy: ProxyPorts) -> impl Iterator<Item = FilterChange> {
        self.containers.values().flat_map(move |c| c.elements(proxy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Entry {
        let spec: PortSpec = text.parse().expect("a spec");
        let inside = spec.container_ports;
        let port = PublishedPort {
            host: spec.host,
            host_port: spec.host_ports.unwrap_or(inside).first(),
            container_port: inside.first(),
            count: inside.count(),
            protocol: spec.protocol,
        };
        Entry { spec, port, held: true }
    }

    fn said(text: &str, targets: Targets) -> Vec<String> {
        let proxy = ProxyPorts { v4: Some(4), v6: Some(6) };
        elements(&entry(text), &targets, proxy).iter().map(ToString::to_string).collect()
    }

    const V4: Targets = Targets { v4: Some((Ipv4Addr::new(10, 0, 0, 2), GatewayMode::Nat)), v6: None };

    #[test]
    fn a_wildcard_is_for_the_families_of_the_container_and_both_loopbacks() {
        assert_eq!(
            said("8080:80", V4),
            [
                "publish 0.0.0.0:8080 to tcp 10.0.0.2:80",
                "redirect 127.0.0.1:8080 to tcp port 4",
                "redirect [::1]:8080 to tcp port 6"
            ]
        );
        let both = Targets { v6: Some(("fd00::2".parse().expect("v6"), GatewayMode::Nat)), ..V4 };
        assert_eq!(
            said("53:53/udp", both),
            ["publish 0.0.0.0:53 to udp 10.0.0.2:53", "publish [::]:53 to udp [fd00::2]:53"]
        );
        assert!(said("8080:80", Targets::default()).is_empty());
    }

    #[test]
    fn an_address_is_one_address() {
        assert_eq!(said("[::1]:80:80", V4), ["redirect [::1]:80 to tcp port 6"]);
        assert_eq!(said("127.0.0.1:80:80", V4), ["redirect 127.0.0.1:80 to tcp port 4"]);
        assert_eq!(said("192.0.2.1:80:80", V4), ["publish 192.0.2.1:80 to tcp 10.0.0.2:80"]);
        assert_eq!(
            said("0.0.0.0:80:80", V4),
            ["publish 0.0.0.0:80 to tcp 10.0.0.2:80", "redirect 127.0.0.1:80 to tcp port 4"]
        );
        assert_eq!(said("127.0.0.1:53:53/udp", V4), [""; 0]);
    }

    #[test]
    fn a_routed_network_only_opens() {
        let routed = Targets { v4: Some((Ipv4Addr::new(10, 0, 0, 2), GatewayMode::Routed)), v6: None };
        assert_eq!(said("127.0.0.1:8080-8081:80-81", routed), ["open tcp 10.0.0.2:80", "open tcp 10.0.0.2:81"]);
    }

    #[test]
    fn ports_are_held_by_address() {
        let (tcp, owner) = (Protocol::Tcp, Arc::new((ContainerEngine::Rnet, "a".to_owned())));
        let ip = |text: &str| Some(text.parse::<IpAddr>().expect("an address"));
        let mut ports = Ports::default();
        ports.hold(&owner, entry("192.0.2.1:80-81:80-81").port);
        for (host, taken) in [
            (ip("192.0.2.1"), true),
            (ip("192.0.2.2"), false),
            (ip("0.0.0.0"), true),
            (ip("::"), false),
            (None, true),
            (ip("127.0.0.1"), false),
        ] {
            assert_eq!(ports.holder(tcp, host, 81).is_some(), taken, "{host:?}");
        }
        assert!(ports.holder(Protocol::Udp, None, 80).is_none() && ports.holder(tcp, None, 82).is_none());
        ports.release(&owner, entry("192.0.2.1:80-81:80-81").port);
        assert!(ports.by_port.is_empty());
    }

    #[test]
    fn chosen_ports_go_round() {
        let (tcp, owner) = (Protocol::Tcp, Arc::new((ContainerEngine::Rnet, "a".to_owned())));
        let mut ports = Ports::default();
        assert_eq!(ports.choose(tcp, None, 1, |_| true), Some(49153));
        assert_eq!(ports.choose(tcp, None, 1, |_| true), Some(49154), "not the same again, though it is free");
        assert_eq!(ports.choose(tcp, None, 3, |port| port != 49156), Some(49157), "in a row");
        ports.hold(&owner, entry("49160-65535:49160-65535").port);
        assert_eq!(ports.choose(tcp, None, 2, |_| true), Some(49153), "around, and never over the end");
        assert_eq!(ports.choose(tcp, None, 8, |_| true), None);
        assert_eq!(ports.choose(Protocol::Udp, None, 1, |_| true), Some(49153));
    }
}
