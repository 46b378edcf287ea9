//! bridge, host-local, static and loopback beside the reference.

use rnet_netns_harness::{SOON, path_text, wait_for};
use serde_json::{Value, json};

use super::differ::{Stage, differential, differential_or_skip, files, lacks_vlan_filtering};
use super::driver::{Attachment, Chain, Whose};

/// `ipam` of host-local with a range for each subnet and a default route for each family.
pub(super) fn host_local(stage: &Stage<'_>, subnets: &[&str]) -> Value {
    let default = |subnet: &str| if subnet.contains(':') { "::/0" } else { "0.0.0.0/0" };
    json!({
        "type": "host-local",
        "dataDir": path_text(&stage.folder("leases")),
        "ranges": subnets.iter().map(|s| json!([{"subnet": s}])).collect::<Vec<_>>(),
        "routes": subnets.iter().map(|s| json!({"dst": default(s)})).collect::<Vec<_>>(),
    })
}

/// An object with the keys of another on top.
pub(super) fn with(mut base: Value, more: &Value) -> Value {
    base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    base
}

/// A bridge with addresses of host-local, and keys on top.
pub(super) fn bridge(stage: &Stage<'_>, version: &str, more: &Value) -> Chain {
    Chain::new(version, "net1", json!([bridge_plugin(stage, &["10.88.0.0/24"], more)]))
}

pub(super) fn bridge_plugin(stage: &Stage<'_>, subnets: &[&str], more: &Value) -> Value {
    let base = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": host_local(stage, subnets)});
    with(base, more)
}

/// ADD, CHECK, DEL and DEL again of one container, everything noted.
pub(super) fn there_and_back(stage: &Stage<'_>, chain: &Chain) {
    round(stage, chain, &[Whose::Reference, Whose::Ours]);
}

/// The same where CHECK and a second DEL of the reference do not survive the chain: its bridge asks a delegate it does not have, or
/// misses the route that a plugin behind has moved.
pub(super) fn there_and_back_unchecked(stage: &Stage<'_>, chain: &Chain) {
    round(stage, chain, &[Whose::Ours]);
}

fn round(stage: &Stage<'_>, chain: &Chain, checked: &[Whose]) {
    // A process costs much in the second kernel.
    let brief = std::env::var_os("RNET_VM").is_some();
    let c1 = stage.container("c1");
    stage.add(chain, &c1);
    stage.record("after ADD");
    if checked.contains(&stage.whose) {
        stage.check(chain, &c1);
    }
    if !brief {
        stage.record("after CHECK");
    }
    stage.del(chain, &c1);
    if !brief {
        stage.record("after DEL");
    }
    if checked.contains(&stage.whose) {
        stage.del(chain, &c1);
    }
    stage.record("after the second DEL");
}

#[test]
fn the_usual_bridge() {
    differential(|stage| {
        let chain = bridge(stage, "1.0.0", &json!({}));
        let (c1, c2) = (stage.container("c1"), stage.container("c2"));
        stage.add(&chain, &c1);
        stage.record("after the first ADD");
        stage.add(&chain, &c2);
        stage.record("after the second ADD");
        stage.check(&chain, &c1);
        stage.check(&chain, &c2);
        stage.record("after CHECK");
        c1.ping("10.88.0.1");
        c1.ping("10.88.0.3");
        for (name, text) in files(&stage.folder("leases/net1")) {
            stage.note(&format!("file {name}"), text);
        }
        stage.del(&chain, &c1);
        stage.record("after the first DEL");
        stage.del(&chain, &c2);
        stage.del(&chain, &c2);
        stage.record("after DEL");
        // The next address, not the one that was freed.
        stage.add(&chain, &c1);
        stage.record("after ADD again");
    });
}

#[test]
fn results_in_every_version() {
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
        differential(|stage| {
            let chain =
                Chain::new(version, "net1", json!([bridge_plugin(stage, &["10.88.0.0/24", "fd88::/64"], &json!({}))]));
            let c1 = stage.container("c1");
            stage.note("version", stage.add(&chain, &c1)["cniVersion"].clone());
            stage.record(version);
            stage.check(&chain, &c1);
            stage.del(&chain, &c1);
            stage.record("after DEL");
        });
    }
}

#[test]
fn two_families() {
    differential(|stage| {
        let mut plugin = bridge_plugin(stage, &["10.88.0.0/24", "fd88::/64"], &json!({"isDefaultGateway": true}));
        // The reference fails where both ask for the same route.
        plugin["ipam"].as_object_mut().unwrap().remove("routes");
        let chain = Chain::new("1.0.0", "net1", json!([plugin]));
        let (c1, c2) = (stage.container("c1"), stage.container("c2"));
        stage.add(&chain, &c1);
        stage.add(&chain, &c2);
        stage.record("after ADD");
        for address in ["10.88.0.1", "fd88::1", "10.88.0.3", "fd88::3"] {
            c1.ping(address);
        }
        stage.check(&chain, &c1);
        stage.del(&chain, &c1);
        stage.del(&chain, &c2);
        stage.record("after DEL");
    });
}

#[test]
fn keys_of_bridge() {
    for more in [
        json!({"isGateway": false}),
        json!({"mtu": 1400}),
        json!({"hairpinMode": true}),
        json!({"promiscMode": true, "bridge": "other0"}),
        json!({"enabledad": true}),
        json!({"args": {"cni": {"mac": "c2:11:22:00:00:02", "ips": ["10.88.0.77"]}}}),
        json!({"runtimeConfig": {"mac": "c2:11:22:00:00:03", "ips": ["10.88.0.78/24"]}}),
        json!({"dns": {"nameservers": ["10.88.0.53"], "search": ["lan"], "domain": "x.lan", "options": ["ndots:2"]}}),
        json!({"isGateway": false, "ipam": {"type": "static", "addresses": [
            {"address": "10.9.0.5/24", "gateway": "10.9.0.254"}, {"address": "fd09::5/64"},
        ], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.50.0.0/16", "gw": "10.9.0.77"}],
        "dns": {"nameservers": ["9.9.9.9"]}}}),
    ] {
        differential(|stage| there_and_back(stage, &bridge(stage, "1.0.0", &more)));
    }
}

#[test]
fn a_bridge_without_addresses() {
    differential(|stage| there_and_back_unchecked(stage, &bridge(stage, "1.0.0", &json!({"ipam": {}}))));
}

#[test]
fn addresses_by_arguments_and_capabilities() {
    differential(|stage| {
        let plugin = bridge_plugin(
            stage,
            &["10.88.0.0/24"],
            &json!({"isGateway": false, "capabilities": {"ips": true, "mac": true, "ipRanges": true}}),
        );
        let chain = Chain::new("1.0.0", "net1", json!([plugin]));
        let (c1, c2) = (stage.container("c1"), stage.container("c2"));
        stage.add(&chain.clone().args("IP=10.88.0.9;MAC=c2:11:22:00:00:04;IgnoreUnknown=1;K8S_POD_NAME=x"), &c1);
        let given = chain
            .clone()
            .capability("mac", json!("c2:11:22:00:00:05"))
            .capability("ipRanges", json!([[{"subnet": "10.89.0.0/24", "rangeStart": "10.89.0.7"}]]));
        stage.add(&given, &c2);
        stage.record("after ADD");
        stage.del(&given, &c2);
        stage.del(&chain, &c1);
        stage.record("after DEL");
        stage.add_fails("a key nobody knows", &chain.clone().args("COLOUR=red"), &c1);
        stage.add_fails("the gateway's address", &chain.clone().args("IP=10.88.0.1"), &c1);
        stage.add_fails("outside of the ranges", &chain.args("IP=10.99.0.1"), &c1);
        stage.record("after failures");
    });
}

#[test]
fn masquerade() {
    differential(|stage| {
        let plugin = bridge_plugin(stage, &["10.88.0.0/24", "fd88::/64"], &json!({"ipMasq": true}));
        let chain = Chain::new("1.0.0", "net1", json!([plugin]));
        stage.world.plug(&stage.host, "up0", &["192.0.2.1/24", "2001:db8::1/64"]);
        let peer = stage.world.peer("out", &["192.0.2.2/24", "2001:db8::2/64"]);
        let c1 = stage.container("c1");
        stage.add(&chain, &c1);
        stage.record("after ADD");
        // The peer has no route back: only a masqueraded packet is answered.
        c1.ping("192.0.2.2");
        c1.ping("2001:db8::2");
        stage.check(&chain, &c1);
        stage.del(&chain, &c1);
        stage.record("after DEL");
        assert!(!peer.reaches("10.88.0.2"), "nothing leads there");
        if stage.whose == Whose::Ours {
            assert_eq!(stage.host.run("nft list ruleset").ok().out, "", "nothing of ours is left");
        }
    });
}

#[test]
fn another_address_on_the_bridge() {
    for force in [false, true] {
        differential(|stage| {
            stage.host.ip("link add cni0 type bridge");
            stage.host.ip("address add 10.77.0.1/24 dev cni0");
            let chain = bridge(stage, "1.0.0", &json!({"forceAddress": force}));
            let c1 = stage.container("c1");
            if force {
                stage.add(&chain, &c1);
                stage.record("at the end");
                stage.del(&chain, &c1);
            } else {
                stage.add_fails("another address", &chain, &c1);
                // Either has freed the address again.
                stage.note("leases", files(&stage.folder("leases/net1")).contains_key("10.88.0.2"));
                // The reference leaves the pair behind on the host.
                stage.note("addresses", stage.host.ip("-4 -o address show dev cni0"));
            }
        });
    }
}

#[test]
fn a_bridge_without_an_address_of_its_own() {
    differential(|stage| {
        stage.host.ip("link add cni0 type bridge");
        let chain = bridge(stage, "1.0.0", &json!({"isGateway": false}));
        let c1 = stage.container("c1");
        stage.add(&chain, &c1);
        stage.check(&chain, &c1);
        stage.del(&chain, &c1);
        // What the kernel leaves of such a bridge when its last port is gone.
        stage.host.ip("link del cni0");
        stage.host.ip("link add cni0 type bridge");
        stage.host.ip("link add port0 type veth peer name port1");
        stage.host.ip("link set port0 master cni0");
        stage.host.ip("link del port0");
        stage.add(&chain, &c1);
        stage.check(&chain, &c1);
        stage.note("addresses", c1.ip("-4 -o address show dev eth0"));
    });
}

#[test]
fn check_finds_what_is_gone() {
    for harm in [
        "ip address del 10.88.0.2/24 dev eth0",
        "ip route del default",
        "ip link set eth0 down",
        "ip link set eth0 address c2:11:22:00:00:09",
        "ip link set eth0 name eth9",
    ] {
        differential(|stage| {
            let chain = bridge(stage, "1.0.0", &json!({}));
            let c1 = stage.container("c1");
            stage.add(&chain, &c1);
            stage.check(&chain, &c1);
            if harm.contains("name") {
                c1.ip("link set eth0 down");
            }
            c1.run(harm).ok();
            stage.check_fails(&chain, &c1);
            stage.del(&chain, &c1);
            stage.note("leases", files(&stage.folder("leases/net1")).len());
        });
    }
}

#[test]
fn the_container_is_gone_first() {
    differential(|stage| {
        let chain = bridge(stage, "1.0.0", &json!({}));
        let c1 = stage.host.container("c1");
        let attachment = Attachment::of(&c1);
        let result = chain.add(&stage.node(attachment.clone())).ok();
        stage.host.end_container(c1);
        wait_for("the pair to be gone", SOON, || !stage.host.ip("link").contains("veth"));
        chain.del(&stage.node(attachment.clone()), Some(&result)).ok();
        chain.del(&stage.node(Attachment { netns: String::new(), ..attachment }), None).ok();
        stage.record("after DEL");
        stage.note("leases", files(&stage.folder("leases/net1")).contains_key("10.88.0.2"));
    });
}

#[test]
fn loopback() {
    differential(|stage| {
        let chain = Chain::new("1.0.0", "lo", json!([{"type": "loopback"}]));
        let c1 = stage.host.container("c1");
        let node = || stage.node(Attachment { ifname: "lo".into(), ..Attachment::of(&c1) });
        let result = chain.add(&node()).ok();
        stage.note("result", &result);
        stage.note("up", c1.ip("link show lo").contains("UP"));
        chain.check(&node(), &result).ok();
        chain.del(&node(), Some(&result)).ok();
        stage.note("down", !c1.ip("link show lo").contains("UP"));
    });
}

#[test]
fn vlans_of_bridge() {
    for more in [json!({"vlan": 100}), json!({"isGateway": false, "vlan": 100, "ipam": {}})] {
        let round = if more["ipam"].is_object() { there_and_back_unchecked } else { there_and_back };
        differential_or_skip(lacks_vlan_filtering, |stage| round(stage, &bridge(stage, "1.0.0", &more)));
    }
}
