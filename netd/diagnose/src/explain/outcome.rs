//! What the end of a path means, and what can be done about it.

use std::net::IpAddr;

use nix::errno::Errno;
use rnet_api::{Direction, Endpoint, Network, PathHop, PathOutcome, RuleRef, Transport};
use rnet_kernel::rules::{Hook, Policy};
use rnet_kernel::{KernelError, Netns, ProcSys, Sysctls as _, Way, WayKind, WayOf};

use super::probe::Answer;
use super::walk::{Walk, is_own, said};
use super::{End, Place, Scene, hop};
use crate::rules::{RuleBook, family};

/// Everything that is known when the packet has been sent.
pub(super) struct Look<'a> {
    pub(super) scene: &'a Scene,
    pub(super) inside: &'a mut Place,
    pub(super) host: &'a mut Place,
    pub(super) way: &'a Way,
    pub(super) walk: &'a Walk,
    /// The address that was sent to.
    pub(super) address: IpAddr,
}

/// The networks of the source.
fn networks(scene: &Scene) -> impl Iterator<Item = &Network> {
    let on = |n: &Network, e: &Endpoint| e.network.as_ref() == Some(&n.spec.name);
    scene.networks.iter().filter(move |n| scene.source.endpoints.iter().any(|e| on(n, e)))
}

/// No route inside the source.
pub(super) fn no_way(scene: &Scene, inside: &Place, address: IpAddr, error: &KernelError) -> End {
    let name = &scene.source.name;
    let down = scene.source.endpoints.iter().find_map(|e| {
        let link = inside.named(e.ifname.as_str());
        match link {
            None => Some((e, "is gone")),
            Some(link) if !link.up => Some((e, "is down")),
            Some(_) => None,
        }
    });
    if let Some((endpoint, how)) = down {
        let text = format!("{} of {name} {how}", endpoint.ifname);
        return End::new(PathOutcome::InterfaceDown, text)
            .hint(format!("inside {name}: ip link set {} up", endpoint.ifname));
    }
    let why = match Errno::from_raw(error.errno) {
        Errno::ENETUNREACH => "has no route to",
        Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL => "has a route that refuses",
        _ => return End::new(PathOutcome::NoRoute, format!("{name}: {error}")),
    };
    let end = End::new(PathOutcome::NoRoute, format!("{name} {why} {address}"));
    if let Some(internal) = networks(scene).find(|n| n.spec.internal) {
        let called = &internal.spec.name;
        return end.hint(format!(
            "network {called} is internal and has no way out; connect {name} to another network: rnet network connect \
             NETWORK {name}"
        ));
    }
    match scene.source.endpoints.iter().flat_map(|e| &e.gateways).find(|g| g.is_ipv4() == address.is_ipv4()) {
        Some(gateway) => end.hint(format!("its default route is gone; inside {name}: ip route add default via {gateway}")),
        None if scene.source.endpoints.is_empty() => end.hint(format!("see its routes: ip route get {address}")),
        None => end.hint(format!(
            "it has no gateway of that family; connect {name} to a network that has one, or attach it with ADDRESS@GATEWAY"
        )),
    }
}

/// A route, and no address to send from.
pub(super) fn no_source(scene: &Scene, inside: &Place, way: &Way, address: IpAddr) -> End {
    let (name, dev) = (&scene.source.name, inside.name(way.output));
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    End::new(PathOutcome::NoRoute, format!("{dev} of {name} has no {family} address to send from"))
        .hint(format!("inside {name}: ip address show {dev}"))
}

impl Look<'_> {
    /// Where it left the host's packet filter.
    pub(super) fn arrival(&mut self) -> Vec<PathHop> {
        if self.walk.stop.as_ref().is_some_and(|(direction, _)| *direction == Direction::Sent) {
            return Vec::new();
        }
        if self.walk.to_host {
            return vec![hop("destination", format!("{} is an address of the host", self.walk.destination.0))];
        }
        let Some(index) = self.walk.left_by else { return Vec::new() };
        let out = self.host.name(index);
        let to = self.walk.destination.0;
        let via = self.host_way().ok().and_then(|way| way.via).map(|via| format!(" via {via}")).unwrap_or_default();
        let owner = self.owner().map(|e| format!(", {} {}", e.container, e.ifname)).unwrap_or_default();
        vec![hop("route", format!("leaves by {out}{via} to {to}{owner}"))]
    }

    fn owner(&self) -> Option<&Endpoint> {
        let to = self.walk.destination.0;
        self.scene.endpoints.iter().find(|e| e.addresses.iter().any(|a| a.ip() == to))
    }

    /// The host's own way to the destination, as for a packet that came from the source.
    fn host_way(&mut self) -> Result<Way, KernelError> {
        let destination = self.walk.destination.0;
        self.host.route.way(&WayOf { destination, source: None, input: None })
    }

    fn destination(&self) -> String {
        let (ip, port) = self.walk.destination;
        let port = port.map(|port| format!(" port {port}")).unwrap_or_default();
        match self.owner() {
            Some(e) => format!("{} ({ip}){port}", e.container),
            None if self.walk.to_host => format!("the host ({ip}){port}"),
            None => format!("{ip}{port}"),
        }
    }

    /// The verdict.
    pub(super) fn end(&mut self, answer: Option<Answer>) -> End {
        if let (Some((direction, rule)), false) = (&self.walk.stop, answer == Some(Answer::Yes)) {
            return self.dropped(*direction, rule);
        }
        match answer {
            Some(Answer::Yes) => self.connected(),
            Some(Answer::Refused(errno)) => self.refused(Errno::from_raw(errno)),
            None => self.silent(),
        }
    }

    fn connected(&self) -> End {
        let word = match self.scene.transport {
            Transport::Tcp => "connected to",
            Transport::Udp => "answered by",
            Transport::Icmp => "echo answered by",
        };
        End::new(PathOutcome::Connected, format!("{word} {}", self.destination()))
    }

    fn dropped(&self, direction: Direction, rule: &RuleRef) -> End {
        let what = if direction == Direction::Sent { "the packet" } else { "the answer" };
        let end = End::new(PathOutcome::Dropped, format!("{what} stops at {}", said(rule)));
        let text = rule.text.as_deref().unwrap_or_default();
        let table = rnet_kernel::rules::Table::new(
            if rule.family == "bridge" { rnet_kernel::rules::Family::Bridge } else { rnet_kernel::rules::Family::Inet },
            rule.table.clone(),
        );
        if !is_own(&table) || (rule.family != "inet" && rule.family != "bridge") {
            let place = format!("{} {} {}", rule.family, rule.table, rule.chain);
            return match rule.handle {
                Some(handle) => {
                    end.hint(format!("the rule is not rnet's; see it: nft -a list chain {place} (handle {handle})"))
                }
                None => end.hint(format!(
                    "the chain is not rnet's; let the traffic through in it, or change its policy: nft chain {place} \
                     '{{ policy accept; }}'"
                )),
            };
        }
        end.hint(match (rule.chain.as_str(), text) {
            (_, text) if text.contains("internal") => {
                "the network is internal: nothing enters or leaves it; use a network without --internal".to_owned()
            }
            ("between" | "from_isolated", _) => self.isolated(),
            ("between_quiet", _) => format!(
                "icc is off on {}: its containers do not reach each other unless they are linked (--link), or: rnet network \
                 edit NETWORK --icc on",
                self.networks_of_source()
            ),
            (chain, _) if chain.starts_with("guard") => format!(
                "{} sends from an address that is not its own; routers and labs connect with --allow-spoof",
                self.scene.source.name
            ),
            (_, text) if text.contains("closed to everybody outside") => {
                "containers are closed to the outside until a port is published (-p)".to_owned()
            }
            _ => "the rule is one of rnet's: docs/ruleset.md says what it is for".to_owned(),
        })
    }

    fn networks_of_source(&self) -> String {
        let names: Vec<String> = networks(self.scene).map(|n| n.spec.name.to_string()).collect();
        match names.is_empty() {
            true => "no network".to_owned(),
            false => format!("network {}", names.join(", ")),
        }
    }

    fn isolated(&self) -> String {
        let to = self.owner().and_then(|e| e.network.as_ref()).map(ToString::to_string);
        let (name, to) = (&self.scene.source.name, to.unwrap_or_else(|| "NETWORK".to_owned()));
        format!(
            "{} and network {to} are isolated from each other; connect {name} to both: rnet network connect {to} {name}; \
             or make both with --isolate off",
            self.networks_of_source()
        )
    }

    fn refused(&mut self, errno: Errno) -> End {
        let to = self.destination();
        match errno {
            Errno::ECONNREFUSED if self.walk.to_host && self.owner().is_none() => self.not_published(),
            Errno::ECONNREFUSED => End::new(PathOutcome::Refused, format!("{to} refuses: nothing listens there"))
                .hint("start the program, and let it listen on the address of its interface, not only on 127.0.0.1"),
            Errno::ENETUNREACH | Errno::EHOSTUNREACH => match self.host_fault() {
                Some(end) => end,
                None => self.no_neighbour().unwrap_or_else(|| {
                    End::new(PathOutcome::NoRoute, format!("a router on the path says that {to} cannot be reached"))
                        .hint("see where it ends: traceroute")
                }),
            },
            Errno::EACCES | Errno::EPERM => {
                let name = &self.scene.source.name;
                let hint = self.firewall_of_source(Hook::Output);
                End::new(PathOutcome::Dropped, format!("the packet to {to} is refused ({})", errno.desc()))
                    .hint(hint.unwrap_or_else(|| format!("look for a firewall inside {name} and on the path")))
            }
            errno => End::new(PathOutcome::Unanswered, format!("{to}: {}", errno.desc())),
        }
    }

    /// A port of the host where nothing listens.
    fn not_published(&self) -> End {
        let to = self.destination();
        let end = End::new(
            PathOutcome::NotPublished,
            format!("{to} refuses: no program listens there and no container's port is published there"),
        );
        let others: Vec<String> = self
            .scene
            .publications
            .iter()
            .map(|p| {
                let host = p.host.map_or_else(String::new, |ip| format!("{ip}:"));
                format!("{host}{}/{} of {}", p.port, p.protocol, p.container)
            })
            .collect();
        match others.is_empty() {
            true => end.hint("no port of any container is published on this host"),
            false => end.hint(format!("published are: {}", others.join(", "))),
        }
    }

    /// What the host itself has against a packet that it should pass on.
    fn host_fault(&mut self) -> Option<End> {
        let to = self.walk.destination.0;
        match self.host_way() {
            Err(error) if matches!(Errno::from_raw(error.errno), Errno::ENETUNREACH | Errno::EHOSTUNREACH) => Some(
                End::new(PathOutcome::NoRoute, format!("the host has no route to {to}"))
                    .hint("see the host's routes: ip route; a default route may be missing"),
            ),
            Err(error) => Some(End::new(PathOutcome::NoRoute, format!("the host: {error}"))),
            Ok(way) if way.kind == WayKind::Local => None,
            Ok(_) => {
                let key = if to.is_ipv4() { "net/ipv4/ip_forward" } else { "net/ipv6/conf/all/forwarding" };
                let forwards = ProcSys::new(&self.scene.host).get(key).ok().flatten();
                (forwards.as_deref() == Some("0")).then(|| {
                    let key = key.replace('/', ".");
                    End::new(PathOutcome::NoRoute, format!("the host does not forward: {key} is 0"))
                        .hint(format!("sysctl -w {key}=1"))
                })
            }
        }
    }

    fn no_neighbour(&mut self) -> Option<End> {
        let hop = self.way.via.unwrap_or(self.address);
        if self.inside.is_silent(self.way.output, hop) {
            let dev = self.inside.name(self.way.output);
            return Some(self.silent_neighbour(hop, &format!("{dev} of {}", self.scene.source.name)));
        }
        if !self.walk.seen_by_host {
            return None;
        }
        let way = self.host_way().ok().filter(|way| way.kind == WayKind::Unicast)?;
        let hop = way.via.unwrap_or(self.walk.destination.0);
        if self.host.is_silent(way.output, hop) {
            let dev = self.host.name(way.output);
            return Some(self.silent_neighbour(hop, &dev));
        }
        None
    }

    fn silent_neighbour(&self, hop: IpAddr, dev: &str) -> End {
        let end = End::new(PathOutcome::NoNeighbour, format!("{hop} does not answer on the link of {dev}"));
        let pending = self.scene.endpoints.iter().find(|e| e.addresses.iter().any(|a| a.ip() == hop));
        match pending {
            Some(e) if e.status != rnet_api::Status::Ready => {
                end.hint(format!("it is the address of {}, which does not run", e.container))
            }
            Some(e) => end.hint(format!("it is the address of {}: look at its {} inside", e.container, e.ifname)),
            None => end.hint("no machine there has that address, or the link is broken"),
        }
    }

    /// A chain inside a namespace that may drop what passes a hook, in words. It is read, nothing is traced there.
    fn firewall_inside(&self, ns: &Netns, name: &str, hook: Hook) -> Option<String> {
        let mut book = RuleBook::open(ns).ok()?;
        for table in book.tables().ok()? {
            let mut chains: Vec<_> = book.chains(&table).iter().map(|(n, b)| (n.clone(), b.clone())).collect();
            chains.sort_by(|a, b| a.0.cmp(&b.0));
            for (chain, base) in chains {
                let Some(base) = base.filter(|base| base.hook == hook) else { continue };
                let called = format!("{} {} {chain}", family(table.family), table.name);
                let rules = book.rules(&table, &chain).values().filter_map(|rule| rule.words.as_deref());
                let discards = |rule: &&str| rule.split(' ').any(|word| word == "drop" || word == "reject");
                if base.policy == Policy::Drop {
                    return Some(format!("inside {name} chain {called} has policy drop: look at its rules there"));
                }
                if let Some(rule) = rules.filter(discards).min() {
                    return Some(format!("inside {name} chain {called} drops some packets: {rule}"));
                }
            }
        }
        None
    }

    fn firewall_of_source(&self, hook: Hook) -> Option<String> {
        let source = &self.scene.source;
        (source.netns != self.scene.host).then(|| self.firewall_inside(&source.netns, &source.name, hook)).flatten()
    }

    /// The packet came to the bridge and left it by no port.
    fn no_port(&self) -> End {
        let to = self.destination();
        let Some((owner, port)) = self.owner().and_then(|e| Some((e, e.host_ifname.as_ref()?))) else {
            return End::new(PathOutcome::NoNeighbour, format!("no port of the bridge leads to {to}"))
                .hint("no interface there has that address, or its port is down");
        };
        let (name, ifname) = (&owner.container, &owner.ifname);
        match self.host.named(port.as_str()) {
            None => {
                End::new(PathOutcome::InterfaceDown, format!("{port}, the host's end of {ifname} of {name}, is gone"))
                    .hint("netd repairs it when it runs: see rnet doctor and netd's log")
            }
            Some(link) if !link.up => {
                End::new(PathOutcome::InterfaceDown, format!("{port}, the port of {name}, is down"))
                    .hint(format!("ip link set {port} up"))
            }
            Some(link) if !link.carrier => End::new(PathOutcome::InterfaceDown, format!("{ifname} of {name} is down"))
                .hint(format!("inside {name}: ip link set {ifname} up")),
            Some(_) => {
                End::new(PathOutcome::Dropped, format!("the bridge does not pass the packet on to {port} of {name}"))
                    .hint("isolated ports, VLANs or a bridge port that does not forward yet: bridge -d link")
            }
        }
    }

    /// Nothing came back.
    fn silent(&mut self) -> End {
        if let Some(end) = self.no_neighbour() {
            return end;
        }
        let to = self.destination();
        let name = &self.scene.source.name;
        if !self.walk.seen_by_host && self.scene.source.netns != self.scene.host && self.way.kind != WayKind::Local {
            let unknown =
                format!("it was dropped inside {name}, or its interface does not lead through the host: capture it");
            return End::new(PathOutcome::Unanswered, "no answer; the host's packet filter has not seen the packet")
                .hint(self.firewall_of_source(Hook::Output).unwrap_or(unknown));
        }
        if self.walk.seen_by_host && !self.walk.decided {
            if self.way.via.is_none() && self.scene.source.netns != self.scene.host {
                return self.no_port();
            }
            return self.host_fault().unwrap_or_else(|| {
                End::new(PathOutcome::NoRoute, format!("the host drops the packet where it looks for a route to {to}"))
                    .hint("rp_filter or a source address that does not belong to the device: see rnet doctor")
            });
        }
        let inside = self.owner().and_then(|owner| {
            let ns = self.scene.namespaces.get(&owner.id)?;
            self.firewall_inside(ns, &owner.container, Hook::Input)
        });
        if self.scene.transport == Transport::Udp {
            return End::new(PathOutcome::Delivered, format!("delivered to {to}; nothing answered, as programs may"))
                .hint(inside.unwrap_or_else(|| "a closed port would have refused".to_owned()));
        }
        let end = End::new(PathOutcome::Unanswered, format!("sent to {to}, no answer within a second"));
        match (self.owner(), self.walk.answered) {
            (_, true) => {
                let unknown = format!("an answer came as far as the host: look for a firewall inside {name}");
                end.hint(self.firewall_of_source(Hook::Input).unwrap_or(unknown))
            }
            (Some(owner), _) => {
                let unknown = format!("look for a firewall inside {}, and at its routes", owner.container);
                end.hint(inside.unwrap_or(unknown))
            }
            (None, _) if self.walk.to_host => end.hint("the program on the host does not answer"),
            (None, _) => end.hint("it drops the packet, or it has no way back to the source address"),
        }
    }
}
