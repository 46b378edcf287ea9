//! Looks at the host. Changes nothing on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rnet_api::Root;
use rnet_kernel::{
    KernelError, LinkKind, Links as _, Netns, ProcSys, Route as RouteSocket, Sysctls as _, TRACE_TABLES,
};

use super::facts::*;
use super::kernel;
use crate::explain::is_own;
use crate::program;
use crate::rules::RuleBook;

/// What is to be looked at.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The host's namespace.
    pub host: Netns,
    /// The instance.
    pub root: Root,
    /// What the daemon says of itself.
    pub daemon: Daemon,
}

/// Settings that do not depend on a device.
const KEYS: [&str; 10] = [
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/conf/all/rp_filter",
    "net/netfilter/nf_conntrack_count",
    "net/netfilter/nf_conntrack_max",
    "net/ipv4/neigh/default/gc_thresh3",
    "net/ipv6/neigh/default/gc_thresh3",
];

/// Collects the facts. What cannot be looked at is listed in [`Facts::skipped`].
pub fn collect(ask: &Ask) -> Facts {
    let mut facts = Facts { daemon: ask.daemon.clone(), ..Facts::default() };
    let mut skipped = Vec::new();
    let mut note = |what: &str, error: &KernelError| skipped.push(format!("{what}: {error}"));
    match kernel::features() {
        Ok(features) => facts.features = features,
        Err(error) => note("features of the kernel", &error),
    }
    if let Err(error) = links(&ask.host, &mut facts) {
        note("links and routes", &error);
    }
    settings(&ask.host, &mut facts);
    if let Err(error) = tables(&ask.host, &mut facts) {
        note("the packet filter", &error);
    }
    if let Err(error) = ask.host.run(|| legacy(&mut facts)) {
        note("iptables-legacy", &error);
    }
    services(&ask.host, &mut facts);
    if let Err(error) = ask.host.run(|| listeners(&mut facts)) {
        note("listening sockets", &error);
    }
    files(&ask.root, &mut facts);
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    facts.open_files = limits.current;
    facts.skipped = skipped;
    facts
}

fn links(ns: &Netns, facts: &mut Facts) -> Result<(), KernelError> {
    let mut socket = RouteSocket::open(ns)?;
    let links = socket.links()?;
    let name = |index: u32| links.iter().find(|l| l.index == index).map(|l| l.name.to_string());
    facts.links = links
        .iter()
        .map(|l| Link {
            name: l.name.to_string(),
            bridge: matches!(l.kind, LinkKind::Bridge { .. }),
            mtu: l.mtu,
            master: l.master.and_then(name),
            ours: l.alias.as_deref().is_some_and(|a| a.starts_with("rnet:") || a.starts_with("rnet-")),
        })
        .collect();
    let routes = socket.routes()?;
    let route = |r: &rnet_kernel::RouteEntry| Route {
        destination: r.destination,
        dev: r.dev.to_string(),
        protocol: r.protocol,
    };
    facts.routes = routes.iter().map(route).collect();
    facts.neighbours = socket.neighbours()?.len();
    Ok(())
}

fn settings(ns: &Netns, facts: &mut Facts) {
    let mut proc = ProcSys::new(ns);
    let mut keys: Vec<String> = KEYS.iter().map(|key| (*key).to_owned()).collect();
    let ways = facts.routes.iter().filter(|r| r.is_default()).map(|r| r.dev.as_str());
    let devices: BTreeSet<&str> = facts.our_bridges().into_iter().chain(ways).collect();
    for dev in devices {
        keys.push(format!("net/ipv4/conf/{dev}/route_localnet"));
        keys.push(format!("net/ipv4/conf/{dev}/rp_filter"));
        keys.push(format!("net/ipv6/conf/{dev}/accept_ra"));
    }
    let found = keys.into_iter().filter_map(|key| {
        let value = proc.get(&key).ok().flatten()?;
        Some((key, value))
    });
    let mut settings: BTreeMap<String, String> = found.collect();
    let key = "fs/inotify/max_user_instances";
    if let Ok(value) = fs::read_to_string(Path::new("/proc/sys").join(key)) {
        settings.insert(key.to_owned(), value.trim().to_owned());
    }
    facts.sysctls = settings;
}

fn tables(ns: &Netns, facts: &mut Facts) -> Result<(), KernelError> {
    let mut book = RuleBook::open(ns)?;
    if book.nft().is_none() {
        facts.missing_programs.push("nft".to_owned());
    }
    for table in book.tables()? {
        if is_own(&table) || table.name.starts_with(TRACE_TABLES) {
            continue;
        }
        let mut chains: Vec<(String, _)> = book.chains(&table).iter().map(|(n, b)| (n.clone(), b.clone())).collect();
        chains.sort_by(|a, b| a.0.cmp(&b.0));
        let chains = chains
            .into_iter()
            .map(|(name, base)| {
                let mut rules: Vec<_> = match base {
                    Some(_) => book.rules(&table, &name).iter().collect(),
                    // What is not called by a hook is shown by those that call it.
                    None => Vec::new(),
                };
                rules.sort_by_key(|(handle, _)| **handle);
                let rules = rules.into_iter().filter_map(|(_, rule)| rule.words.clone()).collect();
                ChainFact { name, base, rules }
            })
            .collect();
        facts.tables.push(TableFact { family: table.family, name: table.name.clone(), chains });
    }
    Ok(())
}

/// In the host's namespace.
fn legacy(facts: &mut Facts) {
    for file in ["ip_tables_names", "ip6_tables_names"] {
        let text = fs::read_to_string(Path::new("/proc/thread-self/net").join(file)).unwrap_or_default();
        facts.legacy_tables.extend(text.lines().map(str::to_owned));
    }
    facts.legacy_tables.sort();
    facts.legacy_tables.dedup();
    if facts.legacy_tables.iter().any(|t| t == "filter") {
        let program = program::find("iptables-legacy");
        let said = program.and_then(|p| program::output(&p, ["-w", "1", "-S", "FORWARD"]));
        let policy = said.as_deref().and_then(|s| s.lines().next()?.strip_prefix("-P FORWARD "));
        facts.legacy_forward = policy.map(str::to_owned);
    }
}

/// Processes by name, of this network namespace only.
fn processes(ns: &Netns) -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let here = |pid: &u32| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| m.ino() == ns.id().ino);
    pids.filter(here)
        .filter_map(|pid| Some((pid, fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned())))
        .collect()
}

fn services(ns: &Netns, facts: &mut Facts) {
    for (_, name) in processes(ns) {
        // comm has 15 bytes (TASK_COMM_LEN).
        let service = match name.as_str() {
            "firewalld" => Service::Firewalld,
            "systemd-network" => Service::Networkd,
            "NetworkManager" => Service::NetworkManager,
            "dhcpcd" => Service::Dhcpcd,
            _ => continue,
        };
        facts.services.insert(service);
    }
    let says = |paths: &[PathBuf], wanted: &dyn Fn(&str) -> bool| {
        paths
            .iter()
            .filter_map(|p| fs::read_to_string(p).ok())
            .any(|text| text.lines().map(str::trim).filter(|l| !l.starts_with('#')).any(wanted))
    };
    // What ufw has set up shows by its chains; its own file also holds for other namespaces.
    if facts.tables.iter().any(|t| t.chains.iter().any(|c| c.name.starts_with("ufw-"))) {
        facts.services.insert(Service::Ufw);
    }
    let networkd = configs("systemd/networkd.conf", "systemd/networkd.conf.d", "conf");
    facts.networkd_spares_routes = says(&networkd, &|line| {
        let mut parts = line.splitn(2, '=').map(str::trim);
        parts.next() == Some("ManageForeignRoutes") && matches!(parts.next(), Some("no" | "false" | "0" | "off"))
    });
    let manager = configs("NetworkManager/NetworkManager.conf", "NetworkManager/conf.d", "conf");
    let named = |line: &str| line.contains("interface-name:rn");
    facts.nm_spares_devices = says(&manager, &|line| line.starts_with("unmanaged-devices") && named(line));
    let dhcpcd = [PathBuf::from("/etc/dhcpcd.conf")];
    facts.dhcpcd_spares_devices = says(&dhcpcd, &|line| {
        (line.starts_with("denyinterfaces") && line.contains("rn")) || line.starts_with("allowinterfaces")
    });
}

/// A configuration file and those in a folder, of all places that systemd.syntax(7) names.
fn configs(file: &str, folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for base in ["/etc", "/run", "/usr/lib", "/usr/local/lib"] {
        out.push(Path::new(base).join(file));
        let entries = fs::read_dir(Path::new(base).join(folder)).into_iter().flatten().flatten();
        out.extend(entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == extension)));
    }
    out
}

/// In the host's namespace: sockets that listen, of those ports that are published.
fn listeners(facts: &mut Facts) {
    let wanted: BTreeSet<u16> = facts.daemon.publications.iter().map(|p| p.port).collect();
    if wanted.is_empty() {
        return;
    }
    let mut found = Vec::new();
    for (protocol, file, state) in
        [("tcp", "tcp", "0A"), ("tcp", "tcp6", "0A"), ("udp", "udp", "07"), ("udp", "udp6", "07")]
    {
        let text = fs::read_to_string(Path::new("/proc/thread-self/net").join(file)).unwrap_or_default();
        found.extend(
            text.lines().skip(1).filter_map(|l| socket(l, protocol, state)).filter(|(l, _)| wanted.contains(&l.port)),
        );
    }
    let owners =
        if found.is_empty() { BTreeMap::new() } else { owners(&found.iter().map(|(_, inode)| *inode).collect()) };
    facts.listeners = found
        .into_iter()
        .map(|(listener, inode)| Listener { process: owners.get(&inode).cloned(), ..listener })
        .collect();
}

/// A line of /proc/net/tcp (proc_net_tcp.rst): `sl local_address rem_address st ... inode`. Addresses are 32 bit words
/// in host order.
fn socket(line: &str, protocol: &'static str, wanted: &str) -> Option<(Listener, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    if *fields.get(3)? != wanted {
        return None;
    }
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((Listener { protocol, address, port, process: None }, fields.get(9)?.parse().ok()?))
}

/// Whose sockets these are, by inode.
fn owners(inodes: &BTreeSet<u64>) -> BTreeMap<u64, String> {
    let mut out = BTreeMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()) {
        for fd in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(fd.path()) else { continue };
            let inode =
                target.to_str().and_then(|t| t.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok());
            if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                out.insert(inode, format!("{} (pid {pid})", name.trim()));
            }
        }
    }
    out
}

fn files(root: &Root, facts: &mut Facts) {
    // The socket and its folder are for the group too, the state for root alone.
    for (path, forbidden) in
        [(root.run.clone(), 0o027), (root.socket(), 0o007), (root.lib.clone(), 0o077), (root.config(), 0o022)]
    {
        if let Ok(meta) = fs::metadata(&path) {
            let (mode, owner) = (meta.mode() & 0o7777, meta.uid());
            facts.files.push(FileFact { path, mode, owner, forbidden });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sockets_are_read() {
        let v4 = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 42 1 0";
        let (found, inode) = socket(v4, "tcp", "0A").unwrap();
        assert_eq!((found.address.to_string(), found.port, inode), ("127.0.0.1".to_owned(), 8080, 42));
        assert_eq!(socket(v4, "udp", "07"), None);
        let v6 =
            "   0: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 0:0 0:0 0 0 0 43 1";
        assert_eq!(socket(v6, "udp", "07").unwrap().0.address, IpAddr::V6(Ipv6Addr::LOCALHOST));
        assert_eq!(socket("sl local", "udp", "07"), None);
    }
}
