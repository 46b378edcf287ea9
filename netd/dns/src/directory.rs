//! What is known: networks, and on each the containers with their names and addresses.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rnet_model::{EndpointId, NetworkId, Protocol};

/// A network as names see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zone {
    /// Its name: `web.NAME` is `web` on this network.
    pub name: String,
    /// A domain whose names are those of its containers: `web.DOMAIN`.
    pub domain: Option<String>,
    /// Who is asked for everything else by containers of this network, instead of the servers of the host.
    pub forwards: Vec<SocketAddr>,
    /// Nothing leaves it: it is no reason to ask anybody outside.
    pub internal: bool,
}

/// An interface of a container on a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// Its names, the one that an address is answered with first; those that can be no DNS name are left out.
    pub names: Vec<String>,
    /// Further names, which others may have too.
    pub aliases: Vec<String>,
    /// Its addresses on this network.
    pub addresses: Vec<IpAddr>,
    /// Ports of the container that are published or exposed.
    pub ports: Vec<(Protocol, u16)>,
}

/// Who asks: what is visible to a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asker {
    /// The networks it is on, first those that are looked through first. Nothing of any other is visible.
    pub networks: Vec<NetworkId>,
    /// Whom to ask for everything else, before what networks and the host say.
    pub upstreams: Vec<SocketAddr>,
}

#[derive(Debug, Default)]
struct Entry {
    zone: Zone,
    members: HashMap<EndpointId, Member>,
    /// Sorted by endpoint: the order in which they came.
    by_name: HashMap<String, Vec<EndpointId>>,
    by_address: HashMap<IpAddr, EndpointId>,
}

/// All networks. Writers change one member at a time; readers look while they build one answer.
#[derive(Debug, Default)]
pub struct Directory {
    networks: RwLock<HashMap<NetworkId, Entry>>,
}

/// Most labels and bytes of a name as text (RFC 1035 section 2.3.4: 255 bytes with length bytes and root).
const LONGEST: usize = 253;
const LONGEST_LABEL: usize = 63;

/// A name in lower case without a dot at the end, if it can be one of a container.
pub(crate) fn canonical(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let right = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    (name.len() <= LONGEST && name.split('.').all(right)).then(|| name.to_ascii_lowercase())
}

impl Directory {
    /// Nothing is known.
    pub fn new() -> Self {
        Directory::default()
    }

    // A panic in between leaves at worst one member half indexed; every access bears that.
    fn read(&self) -> RwLockReadGuard<'_, HashMap<NetworkId, Entry>> {
        self.networks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<NetworkId, Entry>> {
        self.networks.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a network, or changes what it is; its members stay.
    pub fn set_zone(&self, network: NetworkId, zone: Zone) {
        let lower = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
        let zone = Zone { name: lower(&zone.name), domain: zone.domain.as_deref().map(lower), ..zone };
        self.write().entry(network).or_default().zone = zone;
    }

    /// Forgets a network and its members.
    pub fn remove_zone(&self, network: NetworkId) {
        self.write().remove(&network);
    }

    /// Adds a member to a network that is known, or replaces it; nobody sees it missing meanwhile.
    pub fn set_member(&self, network: NetworkId, id: EndpointId, member: Member) {
        if let Some(entry) = self.write().get_mut(&network) {
            entry.remove(id);
            entry.insert(id, member);
        }
    }

    /// Forgets a member. Absent is success.
    pub fn remove_member(&self, network: NetworkId, id: EndpointId) {
        if let Some(entry) = self.write().get_mut(&network) {
            entry.remove(id);
        }
    }

    /// Number of members of all networks.
    pub fn len(&self) -> usize {
        self.read().values().map(|entry| entry.members.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whom to ask for what is not here: `None` when nobody may be asked, empty for the servers of the host.
    pub(crate) fn upstreams(&self, asker: &Asker) -> Option<Vec<SocketAddr>> {
        let networks = self.read();
        let mut outward =
            asker.networks.iter().filter_map(|id| networks.get(id)).filter(|e| !e.zone.internal).peekable();
        outward.peek()?;
        if !asker.upstreams.is_empty() {
            return Some(asker.upstreams.clone());
        }
        let mut all: Vec<SocketAddr> = Vec::new();
        for server in outward.flat_map(|entry| &entry.zone.forwards) {
            if !all.contains(server) {
                all.push(*server);
            }
        }
        Some(all)
    }

    /// Looks for a name, in lower case without a dot at the end. For every network on which it is known, in order, its
    /// members there are shown with the network's suffix, until `see` has seen enough.
    pub(crate) fn find(&self, asker: &Asker, name: &str, mut see: impl FnMut(Found<'_>) -> Enough) {
        let networks = self.read();
        for entry in asker.networks.iter().filter_map(|id| networks.get(id)) {
            let zone = &entry.zone;
            let below = |suffix: &str| name.strip_suffix(suffix)?.strip_suffix('.').filter(|_| !suffix.is_empty());
            // Of the names with dots only those below network and domain are ours: no container hides a host outside.
            let label = match name.contains('.') {
                false => Some(name),
                true => below(&zone.name).or_else(|| zone.domain.as_deref().and_then(below)),
            };
            let Some(ids) = label.and_then(|label| entry.by_name.get(label)) else { continue };
            let members = ids.iter().filter_map(|id| entry.members.get(id)).collect();
            if see(Found { members, suffix: zone.suffix() }) == Enough::Yes {
                return;
            }
        }
    }

    /// The full name behind an address of a network of the asker.
    pub(crate) fn name_of(&self, asker: &Asker, address: IpAddr) -> Option<String> {
        let networks = self.read();
        let mut found = asker.networks.iter().filter_map(|id| networks.get(id)).filter_map(|entry| {
            let member = entry.members.get(entry.by_address.get(&address)?)?;
            Some(full_name(member.names.iter().find_map(|n| canonical(n))?, entry.zone.suffix()))
        });
        found.next()
    }
}

/// Whether a search may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Enough {
    Yes,
    No,
}

/// A name on one network.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) members: Vec<&'a Member>,
    suffix: &'a str,
}

impl Found<'_> {
    /// The name of a member that nobody else has.
    pub(crate) fn full_name(&self, member: &Member) -> Option<String> {
        Some(full_name(member.names.iter().find_map(|n| canonical(n))?, self.suffix))
    }
}

fn full_name(name: String, suffix: &str) -> String {
    if suffix.is_empty() { name } else { format!("{name}.{suffix}") }
}

impl Zone {
    /// What follows the name of a container.
    fn suffix(&self) -> &str {
        self.domain.as_deref().unwrap_or(&self.name)
    }
}

impl Entry {
    fn insert(&mut self, id: EndpointId, member: Member) {
        for name in member.names.iter().chain(&member.aliases).filter_map(|n| canonical(n)) {
            let ids = self.by_name.entry(name).or_default();
            if let Err(at) = ids.binary_search(&id) {
                ids.insert(at, id);
            }
        }
        for address in &member.addresses {
            self.by_address.insert(*address, id);
        }
        self.members.insert(id, member);
    }

    fn remove(&mut self, id: EndpointId) {
        let Some(member) = self.members.remove(&id) else { return };
        for name in member.names.iter().chain(&member.aliases).filter_map(|n| canonical(n)) {
            if let Some(ids) = self.by_name.get_mut(&name) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.by_name.remove(&name);
                }
            }
        }
        for address in &member.addresses {
            if self.by_address.get(address) == Some(&id) {
                self.by_address.remove(address);
            }
        }
    }
}
