#![allow(clippy::unwrap_used)]
use std::path::PathBuf;

use rnet_api::Severity;
use rnet_kernel::rules::{Base, ChainKind, Family, Hook, Policy};

use crate::doctor::*;
use crate::explain::Publication;

/// What one check must find: severity, and words of the text and the fix together.
type Wanted<'a> = (&'a str, Severity, &'a [&'a str]);

/// A host with a network, on which nothing is wrong.
fn healthy() -> Facts {
    let mut facts = Facts::default();
    for (key, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/bridge/bridge-nf-call-iptables", "1"),
        ("net/bridge/bridge-nf-call-ip6tables", "1"),
        ("net/ipv4/conf/all/route_localnet", "0"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv6/conf/rn-blue/accept_ra", "0"),
        ("net/netfilter/nf_conntrack_count", "10"),
        ("net/netfilter/nf_conntrack_max", "65536"),
        ("net/ipv4/neigh/default/gc_thresh3", "1024"),
        ("fs/inotify/max_user_instances", "128"),
    ] {
        facts.sysctls.insert(key.into(), value.into());
    }
    facts.links = vec![link("eth0", false, 1500), link("rn-blue", true, 1500)];
    facts.routes = vec![route("0.0.0.0/0", "eth0", 4), route("10.9.0.0/24", "rn-blue", 2)];
    facts.open_files = Some(65536);
    facts.daemon.networks = vec![NetworkFact {
        name: "blue".into(),
        subnets: vec!["10.9.0.0/24".parse().unwrap(), "fd00:9::/64".parse().unwrap()],
        bridge: Some("rn-blue".into()),
        mtu: Some(1500),
        ..NetworkFact::default()
    }];
    facts.daemon.endpoints = vec![endpoint("web", 1500)];
    facts.daemon.publications = vec![publication("web", 8080, None)];
    facts.files = vec![file("/run/rnet", 0o750, 0o027), file("/run/rnet/netd.sock", 0o660, 0o007)];
    facts
}

fn link(name: &str, bridge: bool, mtu: u32) -> Link {
    Link { name: name.into(), bridge, mtu, master: None, ours: bridge }
}

fn route(destination: &str, dev: &str, protocol: u8) -> Route {
    Route { destination: destination.parse().unwrap(), dev: dev.into(), protocol }
}

fn endpoint(container: &str, mtu: u32) -> EndpointFact {
    let (container, bridge) = (container.into(), Some("rn-blue".into()));
    EndpointFact { container, ifname: "eth0".into(), bridge, mtu, error: None }
}

fn publication(container: &str, port: u16, host: Option<&str>) -> Publication {
    let host = host.map(|h| h.parse().unwrap());
    Publication { container: container.into(), protocol: "tcp".into(), host, port }
}

fn listener(address: &str, port: u16, process: &str) -> Listener {
    Listener { protocol: "tcp", address: address.parse().unwrap(), port, process: Some(process.into()) }
}

fn file(path: &str, mode: u32, forbidden: u32) -> FileFact {
    FileFact { path: PathBuf::from(path), mode, owner: 0, forbidden }
}

fn chain(name: &str, hook: Hook, policy: Policy, rules: &[&str]) -> ChainFact {
    let base = Base { kind: ChainKind::Filter, hook, priority: 0, policy, device: None };
    ChainFact { name: name.into(), base: Some(base), rules: rules.iter().map(|r| (*r).to_owned()).collect() }
}

fn table(family: Family, name: &str, chains: Vec<ChainFact>) -> TableFact {
    TableFact { family, name: name.into(), chains }
}

#[track_caller]
fn finds(change: impl FnOnce(&mut Facts), wanted: &[Wanted<'_>]) {
    let mut facts = healthy();
    change(&mut facts);
    let mut found = examine(&facts).findings;
    for (check, severity, words) in wanted {
        let at = found.iter().position(|f| {
            let all = format!("{} | {}", f.text, f.fix);
            f.check == *check && f.severity == *severity && words.iter().all(|w| all.contains(w))
        });
        let at = at.unwrap_or_else(|| panic!("no {severity:?} of {check} with {words:?} in {found:#?}"));
        found.remove(at);
    }
    assert!(found.is_empty(), "besides: {found:#?}");
}

#[test]
fn nothing_is_wrong_with_a_healthy_host() {
    finds(|_| {}, &[]);
    finds(|f| *f = Facts::default(), &[]);
    let report = examine(&healthy());
    assert!(!report.is_wrong() && report.checks.len() >= 19);
}

#[test]
fn the_daemon() {
    use Severity::Error;
    let gone = |f: &mut Facts| {
        *f = Facts::default();
        f.daemon.unreachable = Some("no socket".into());
        f.daemon.start = "systemctl start netd".into();
    };
    finds(gone, &[("netd", Error, &["no socket", "systemctl start netd"])]);
    finds(|f| f.daemon.degraded = vec!["store: full".into()], &[("netd", Error, &["store: full", "log"])]);
    finds(
        |f| f.daemon.networks[0].problems = vec!["not filtered".into()],
        &[("netd", Error, &["blue", "not filtered"])],
    );
    finds(
        |f| f.daemon.endpoints[0].error = Some("no parent".into()),
        &[("netd", Error, &["web", "no parent", "detach"])],
    );
    finds(|f| f.files[1].mode = 0o666, &[("files", Error, &["netd.sock", "0666", "chmod 0660"])]);
    finds(|f| f.files[0].owner = 1000, &[("files", Error, &["/run/rnet", "1000", "chown"])]);
}

#[test]
fn the_kernel() {
    let feature = |need, missing: Option<&str>| Feature {
        name: "ipvlan",
        purpose: "plugins",
        need,
        missing: missing.map(str::to_owned),
    };
    finds(|f| f.features = vec![feature(Need::Always, None)], &[]);
    finds(
        |f| f.features = vec![feature(Need::Always, Some("EOPNOTSUPP"))],
        &[("kernel", Severity::Error, &["ipvlan", "EOPNOTSUPP"])],
    );
    finds(|f| f.features = vec![feature(Need::Sometimes, Some("no"))], &[("kernel", Severity::Note, &["ipvlan"])]);
    finds(|f| f.missing_programs = vec!["nft".into()], &[("programs", Severity::Note, &["nft"])]);
}

fn set(key: &'static str, value: &'static str) -> impl FnOnce(&mut Facts) {
    move |f| drop(f.sysctls.insert(key.into(), value.into()))
}

fn runs(service: Service) -> impl FnOnce(&mut Facts) {
    move |f| {
        f.services.insert(service);
    }
}

#[test]
fn settings() {
    use Severity::{Error, Note, Warning};
    finds(set("net/ipv4/ip_forward", "0"), &[("forwarding", Error, &["ip_forward", "blue", "sysctl -w"])]);
    finds(
        |f| {
            f.sysctls.insert("net/ipv4/ip_forward".into(), "0".into());
            f.daemon.networks[0].internal = true;
        },
        &[],
    );
    finds(set("net/ipv6/conf/all/forwarding", "0"), &[("forwarding", Error, &["net.ipv6.conf.all.forwarding=1"])]);
    finds(set("net/ipv4/conf/all/route_localnet", "1"), &[("route-localnet", Warning, &["127.0.0.1"])]);
    finds(set("net/ipv4/conf/rn-blue/route_localnet", "1"), &[("route-localnet", Warning, &["rn-blue"])]);
    finds(set("net/ipv4/conf/elsewhere/route_localnet", "1"), &[]);
    finds(set("net/ipv6/conf/rn-blue/accept_ra", "2"), &[("accept-ra", Warning, &["rn-blue", "accept_ra=0"])]);
    finds(set("net/ipv6/conf/rn-blue/accept_ra", "1"), &[]);
    finds(
        |f| {
            f.routes.push(route("::/0", "eth0", 9));
            f.sysctls.insert("net/ipv6/conf/eth0/accept_ra".into(), "1".into());
        },
        &[("accept-ra", Warning, &["eth0", "accept_ra=2"])],
    );
    finds(set("net/netfilter/nf_conntrack_count", "60000"), &[("conntrack", Warning, &["60000", "nf_conntrack_max"])]);
    finds(set("net/netfilter/nf_conntrack_count", "65000"), &[("conntrack", Error, &["65000"])]);
    finds(|f| f.neighbours = 1000, &[("neighbours", Warning, &["1000", "1024", "gc_thresh3=4096"])]);
    finds(set("fs/inotify/max_user_instances", "64"), &[("limits", Note, &["64"])]);
    finds(|f| f.open_files = Some(2), &[("limits", Warning, &["LimitNOFILE"])]);
}

#[test]
fn a_strict_reverse_path_with_two_ways_out() {
    let strict = |f: &mut Facts| {
        f.sysctls.insert("net/ipv4/conf/eth0/rp_filter".into(), "1".into());
    };
    finds(strict, &[]);
    let two = |f: &mut Facts| {
        f.sysctls.insert("net/ipv4/conf/eth0/rp_filter".into(), "1".into());
        f.routes.push(route("0.0.0.0/0", "eth1", 4));
        f.links.push(link("eth1", false, 1500));
    };
    finds(two, &[("rp-filter", Severity::Warning, &["eth0", "rp_filter=2"])]);
    let loose = |f: &mut Facts| {
        two(f);
        f.sysctls.insert("net/ipv4/conf/all/rp_filter".into(), "2".into());
    };
    finds(loose, &[]);
}

#[test]
fn firewalls() {
    use Severity::{Note, Warning};
    let with = |t: TableFact| move |f: &mut Facts| f.tables = vec![t];
    let quiet = |f: &mut Facts| f.sysctls.retain(|k, _| !k.starts_with("net/bridge"));
    let forward = || table(Family::Inet, "mine", vec![chain("fwd", Hook::Forward, Policy::Drop, &[])]);
    finds(
        |f| {
            quiet(f);
            f.tables = vec![forward()];
        },
        &[("firewall", Warning, &["inet mine fwd", "policy drop", "forward"])],
    );
    finds(
        with(forward()),
        &[
            ("firewall", Warning, &["inet mine fwd"]),
            ("bridge-nf", Warning, &["bridge-nf-call-iptables", "inet mine fwd", "rn-blue"]),
            ("bridge-nf", Warning, &["bridge-nf-call-ip6tables"]),
        ],
    );
    let input = table(Family::Ip, "filter", vec![chain("INPUT", Hook::Input, Policy::Drop, &[])]);
    finds(with(input), &[("firewall", Note, &["ip filter INPUT", "published ports are closed"])]);
    let rule = table(
        Family::Inet,
        "mine",
        vec![chain("fwd", Hook::Forward, Policy::Accept, &["counter", "tcp dport 25 drop"])],
    );
    finds(with(rule), &[("firewall", Note, &["tcp dport 25 drop", "1 rules"])]);
    let output = table(Family::Inet, "mine", vec![chain("out", Hook::Output, Policy::Drop, &[])]);
    finds(with(output), &[]);
    let docker = table(
        Family::Ip,
        "filter",
        vec![
            chain("FORWARD", Hook::Forward, Policy::Drop, &[]),
            ChainFact { name: "DOCKER-USER".into(), base: None, rules: Vec::new() },
        ],
    );
    finds(
        with(docker),
        &[
            ("firewall", Warning, &["Docker", "iptables -I DOCKER-USER"]),
            ("bridge-nf", Warning, &["ip filter FORWARD"]),
        ],
    );
    finds(|f| f.legacy_tables = vec!["filter".into()], &[("iptables-legacy", Note, &["filter"])]);
    finds(
        |f| {
            f.legacy_tables = vec!["filter".into()];
            f.legacy_forward = Some("DROP".into());
        },
        &[("iptables-legacy", Warning, &["FORWARD", "DROP"]), ("bridge-nf", Warning, &["iptables-legacy"])],
    );
    finds(runs(Service::Firewalld), &[("firewall-managers", Note, &["firewalld"])]);
    finds(runs(Service::Ufw), &[("firewall-managers", Note, &["ufw"])]);
}

#[test]
fn networks() {
    use Severity::Warning;
    finds(|f| f.links[0].mtu = 1400, &[("mtu", Warning, &["blue", "1500", "eth0", "--mtu 1400"])]);
    finds(|f| f.daemon.endpoints[0].mtu = 9000, &[("mtu", Warning, &["web", "9000", "rn-blue"])]);
    finds(
        |f| f.routes.push(route("10.9.0.128/25", "tun0", 4)),
        &[("overlap", Warning, &["10.9.0.128/25", "tun0", "blue"])],
    );
    finds(|f| f.routes.push(route("10.0.0.0/8", "tun0", 4)), &[]);
    finds(runs(Service::Networkd), &[("managers", Warning, &["systemd-networkd", "ManageForeignRoutes=no"])]);
    finds(
        |f| {
            runs(Service::Networkd)(f);
            f.networkd_spares_routes = true;
        },
        &[],
    );
    finds(runs(Service::NetworkManager), &[("managers", Warning, &["NetworkManager"])]);
    finds(runs(Service::Dhcpcd), &[("managers", Warning, &["dhcpcd", "denyinterfaces"])]);
}

#[test]
fn ports_that_two_listen_at() {
    let with = |l: Listener| move |f: &mut Facts| f.listeners = vec![l];
    finds(
        with(listener("0.0.0.0", 8080, "nginx (pid 7)")),
        &[("ports", Severity::Warning, &["8080", "nginx (pid 7)", "web"])],
    );
    finds(with(listener("0.0.0.0", 8081, "nginx (pid 7)")), &[]);
    finds(with(listener("127.0.0.1", 8080, "netd (pid 8)")), &[]);
    let elsewhere = |f: &mut Facts| {
        f.daemon.publications = vec![publication("web", 8080, Some("192.0.2.1"))];
        f.listeners = vec![listener("127.0.0.1", 8080, "nginx (pid 7)")];
    };
    finds(elsewhere, &[]);
}
