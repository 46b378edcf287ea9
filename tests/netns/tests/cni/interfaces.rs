//! macvlan, ipvlan, vlan, ptp, host-device and what else makes interfaces, beside the reference.

use serde_json::{Value, json};

use super::bridge::{host_local, there_and_back, with};
use super::differ::{Stage, differential, differential_or_skip, lacks_kind};
use super::driver::{Chain, Whose};

/// A plugin with addresses of host-local, and keys on top.
fn chain(stage: &Stage<'_>, kind: &str, subnets: &[&str], more: &Value) -> Chain {
    let base = json!({"type": kind, "ipam": host_local(stage, subnets)});
    Chain::new("1.0.0", "net1", json!([with(base, more)]))
}

const TWO: [&str; 2] = ["10.88.0.0/24", "fd88::/64"];

/// A device of the host that others are made on.
fn master(stage: &Stage<'_>) {
    stage.host.ip("link add up0 address c2:11:22:00:00:10 type veth peer name far0 address c2:11:22:00:00:11");
    stage.host.ip("link set up0 up mtu 1450");
    stage.host.ip("link set far0 up");
    stage.host.ip("address add 10.88.0.254/24 dev up0");
    stage.host.ip("route add default via 10.88.0.1");
}

#[test]
fn ptp() {
    for more in [json!({}), json!({"mtu": 1400}), json!({"dns": {"nameservers": ["9.9.9.9"]}})] {
        differential(|stage| there_and_back(stage, &chain(stage, "ptp", &["10.88.0.0/24"], &more)));
    }
}

#[test]
fn ptp_of_two_families_with_masquerade() {
    differential(|stage| {
        stage.world.plug(&stage.host, "up0", &["192.0.2.1/24", "2001:db8::1/64"]);
        stage.world.peer("out", &["192.0.2.2/24", "2001:db8::2/64"]);
        let chain = chain(stage, "ptp", &TWO, &json!({"ipMasq": true}));
        let (c1, c2) = (stage.container("c1"), stage.container("c2"));
        stage.add(&chain, &c1);
        stage.add(&chain, &c2);
        stage.record("after ADD");
        for address in ["10.88.0.1", "fd88::1", "10.88.0.3", "fd88::3", "192.0.2.2", "2001:db8::2"] {
            c1.ping(address);
        }
        stage.check(&chain, &c1);
        stage.del(&chain, &c1);
        stage.del(&chain, &c2);
        stage.record("after DEL");
    });
}

#[test]
fn macvlan() {
    for more in [
        json!({"master": "up0"}),
        json!({}),
        json!({"master": "up0", "mode": "private", "mtu": 1400}),
        json!({"master": "up0", "mode": "vepa", "runtimeConfig": {"mac": "c2:11:22:00:00:12"}}),
        json!({"master": "up0", "mode": "passthru"}),
    ] {
        differential_or_skip(
            || lacks_kind("macvlan"),
            |stage| {
                master(stage);
                there_and_back(stage, &chain(stage, "macvlan", &TWO, &more));
            },
        );
    }
}

#[test]
fn macvlan_that_cannot_be() {
    differential_or_skip(
        || lacks_kind("macvlan"),
        |stage| {
            master(stage);
            let c1 = stage.container("c1");
            for more in [
                json!({"master": "ghost0"}),
                json!({"master": "up0", "mode": "sideways"}),
                json!({"master": "up0", "mtu": 9000}),
            ] {
                let chain = chain(stage, "macvlan", &["10.88.0.0/24"], &more);
                stage.fails(&chain, &c1);
                stage.note(&format!("links with {more}"), c1.ip("-o link").lines().count());
            }
        },
    );
}

#[test]
fn ipvlan() {
    for more in [json!({"master": "up0"}), json!({"master": "up0", "mode": "l3", "mtu": 1400})] {
        differential_or_skip(
            || lacks_kind("ipvlan"),
            |stage| {
                master(stage);
                there_and_back(stage, &chain(stage, "ipvlan", &TWO, &more));
            },
        );
    }
}

#[test]
fn vlan() {
    for more in [json!({"master": "up0", "vlanId": 100}), json!({"master": "up0", "vlanId": 7, "mtu": 1400})] {
        differential_or_skip(
            || lacks_kind("vlan"),
            |stage| {
                master(stage);
                there_and_back(stage, &chain(stage, "vlan", &TWO, &more));
            },
        );
    }
}

#[test]
fn host_device() {
    for more in
        [json!({"device": "far0"}), json!({"hwaddr": "c2:11:22:00:00:11"}), json!({"device": "far0", "ipam": {}})]
    {
        differential(|stage| {
            master(stage);
            let chain = chain(stage, "host-device", &TWO, &more);
            let c1 = stage.container("c1");
            stage.add(&chain, &c1);
            stage.record("after ADD");
            stage.check(&chain, &c1);
            stage.del(&chain, &c1);
            stage.record("after DEL");
            // A second DEL of the reference fails.
            if stage.whose == Whose::Ours {
                stage.del(&chain, &c1);
            }
        });
    }
}
