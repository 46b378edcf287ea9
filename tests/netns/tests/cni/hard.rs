//! ADD cut off by `kill -9` at every step, and many calls at the same time: DEL leaves nothing.

use std::collections::BTreeSet;

use rnet_netns_harness::{Container, Host, World, path_text, run};
use serde_json::{Value, json};

use super::driver::{Answer, Attachment, Chain, Node};

/// SIGKILL, as an exit code.
const KILLED: i32 = 128 + 9;

/// The usual list with something of everything.
fn chain(world: &World) -> Chain {
    let leases = world.dir().join("leases");
    let plugins = json!([
        {
            "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "macspoofchk": true,
            "ipam": {
                "type": "host-local", "dataDir": path_text(&leases), "ranges": [[{"subnet": "10.88.0.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "firewall", "ingressPolicy": "same-bridge"},
        {"type": "tuning", "dataDir": path_text(&world.dir().join("tuning")), "mtu": 1400,
            "sysctl": {"net.ipv4.conf.IFNAME.log_martians": "1"}},
        {"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000,
            "egressRate": 8_000_000, "egressBurst": 800_000},
    ]);
    Chain::new("1.0.0", "net1", plugins)
}

/// Published on a port of its own.
fn published(world: &World, port: usize) -> Chain {
    publish(chain(world), port)
}

fn publish(chain: Chain, port: usize) -> Chain {
    let udp = json!({"hostPort": port, "containerPort": 53, "protocol": "udp"});
    let tcp = json!({"hostPort": port, "containerPort": 80, "protocol": "tcp"});
    chain.capability("portMappings", json!([tcp, udp]))
}

fn node<'a>(host: &'a Host, plugins: &'a std::path::Path, container: &Container) -> Node<'a> {
    Node { host: &host.netns, plugins, attachment: Attachment::of(container) }
}

/// All reservations of addresses.
fn reserved(world: &World) -> BTreeSet<String> {
    let entries =
        std::fs::read_dir(world.dir().join("leases/net1")).map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    let names = entries.into_iter().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect()
}

/// What is left on the host but for the bridge, which every reference plugin leaves too.
fn left(world: &World, host: &Host) -> Vec<String> {
    let links: Value = serde_json::from_str(&host.ip("-j link show")).unwrap();
    let links = links.as_array().unwrap().iter().map(|l| l["ifname"].as_str().unwrap().to_owned());
    let mut left: Vec<String> = links.filter(|name| name != "lo" && name != "cni0").collect();
    left.extend(reserved(world));
    let tables = host.run("nft list tables").out;
    left.extend(tables.lines().filter(|t| t.contains("rnet_cni")).map(str::to_owned));
    let backups = std::fs::read_dir(world.dir().join("tuning")).map(Iterator::count).unwrap_or_default();
    left.extend((backups > 0).then(|| format!("{backups} files of tuning")));
    left
}

/// The steps an ADD of the list passes, in the order of its plugins.
const STEPS: &[&str] = &[
    "cni.bridge",
    "cni.bridge.sysctl",
    "cni.veth",
    "cni.port",
    "cni.gateway",
    "cni.forward",
    "cni.inside.sysctl",
    "cni.inside",
    "cni.masquerade",
    "cni.spoof",
    "cni.portmap.localnet",
    "cni.portmap",
    "cni.portmap.flows",
    "cni.firewall",
    "cni.tuning.backup",
    "cni.tuning.sysctl",
    "cni.tuning.link",
    "cni.bandwidth.ingress",
    "cni.bandwidth.ifb",
    "cni.bandwidth.egress",
];

#[test]
fn an_add_that_is_cut_off_leaves_nothing_behind_its_del() {
    run(|world| {
        let plugins = world.cni_plugins();
        let steps = STEPS.iter().flat_map(|step| [(*step).to_owned(), format!("{step}.done")]);
        for (number, step) in steps.enumerate() {
            // The bridge and forwarding are made once in the life of a host.
            let host = world.host(&format!("node{number}"));
            host.forwarding_may_stay();
            let container = host.container("c1");
            let on = node(&host, &plugins, &container);
            let chain = published(world, 8080);
            let cut = chain.clone().variable("RNET_FAIL_POINT", &step).add(&on);
            assert_eq!(cut.said.code, KILLED, "no ADD passes {step}: {}{}", cut.said.out, cut.said.err);
            chain.del(&on, None).ok();
            chain.del(&on, None).ok();
            assert_eq!(left(world, &host), Vec::<String>::new(), "after {step}");
            let result = chain.add(&on).ok();
            chain.check(&on, &result).ok();
            chain.del(&on, Some(&result)).ok();
            assert_eq!(left(world, &host), Vec::<String>::new(), "after {step} and another ADD");
            host.run("ip link del cni0").ok();
        }
    });
}

#[test]
fn many_at_once_get_different_addresses_and_leave_nothing() {
    const COUNT: usize = 48;
    const AT_ONCE: usize = 12;
    run(|world| {
        let (host, plugins) = (world.host("node"), world.cni_plugins());
        host.forwarding_may_stay();
        let containers: Vec<Container> = (0..COUNT).map(|n| host.container(&format!("c{n}"))).collect();
        let all = |call: &(dyn Fn(usize, &Container) -> Answer + Sync)| -> Vec<Value> {
            let parts = containers.chunks(COUNT / AT_ONCE).enumerate();
            std::thread::scope(|scope| {
                let threads: Vec<_> = parts
                    .map(|(part, containers)| {
                        let numbered =
                            move || containers.iter().enumerate().map(move |(n, c)| (part * COUNT / AT_ONCE + n, c));
                        scope.spawn(move || numbered().map(|(n, c)| call(n, c).ok()).collect::<Vec<_>>())
                    })
                    .collect();
                threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
            })
        };
        let (netns, list) = (&host.netns, chain(world));
        let of = |n: usize| publish(list.clone(), 20_000 + n);
        let on = |c: &Container| Node { host: netns, plugins: &plugins, attachment: Attachment::of(c) };
        let results = all(&|n, c| of(n).add(&on(c)));
        let addresses: BTreeSet<&str> = results.iter().map(|r| r["ips"][0]["address"].as_str().unwrap()).collect();
        assert_eq!((addresses.len(), reserved(world).len()), (COUNT, COUNT));
        let rules = host.run("nft list table inet rnet_cni").ok().out;
        assert_eq!(rules.matches("leaves with the host's address").count(), 2, "one rule for each family:\n{rules}");
        all(&|n, c| of(n).del(&on(c), Some(&results[n])));
        assert_eq!(left(world, &host), Vec::<String>::new());
        host.run("ip link del cni0").ok();
    });
}

#[test]
fn gc_removes_what_belongs_to_no_valid_attachment() {
    run(|world| {
        let (host, plugins) = (world.host("node"), world.cni_plugins());
        host.forwarding_may_stay();
        let (stays, goes) = (host.container("stays"), host.container("goes"));
        let chain = |n| published(world, n).version("1.1.0");
        let kept = chain(8081).add(&node(&host, &plugins, &stays)).ok();
        chain(8082).add(&node(&host, &plugins, &goes)).ok();
        let gone = Attachment::of(&goes);
        host.end_container(goes);
        let valid = json!({"cni.dev/valid-attachments": [{"containerID": "stays", "ifname": "eth0"}]});
        let anywhere = Node { host: &host.netns, plugins: &plugins, attachment: gone };
        chain(8081).maintain(&anywhere, "GC", &valid).ok();
        assert_eq!(reserved(world), BTreeSet::from(["10.88.0.2".to_owned()]));
        let table = host.run("nft list ruleset").ok().out;
        assert!(!table.contains("goes") && !table.contains("8082"), "{table}");
        chain(8081).check(&node(&host, &plugins, &stays), &kept).ok();
        chain(8081).maintain(&anywhere, "STATUS", &json!({})).ok();
        chain(8081).maintain(&anywhere, "GC", &json!({"cni.dev/valid-attachments": []})).ok();
        assert_eq!(reserved(world), BTreeSet::new());
        chain(8081).del(&node(&host, &plugins, &stays), Some(&kept)).ok();
        assert_eq!(left(world, &host), Vec::<String>::new());
        host.run("ip link del cni0").ok();
    });
}
